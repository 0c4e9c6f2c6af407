"""``lesioncam demo``: the whole road on the built-in phantom."""

from __future__ import annotations

import shutil
from pathlib import Path

from lesioncam.data.phantom import Phantom, write_phantom
from lesioncam.options.run import RunConfig, make_config
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.begin import refuse_existing, set_state
from lesioncam.verbs.evaluate import evaluate
from lesioncam.verbs.result import Run
from lesioncam.verbs.run import run


def demo(out: str | Path, *, seed: int = 0, overwrite: bool = False, progress: bool = False) -> Run:
    """The whole road on the built-in phantom: make it, train, evaluate on val and test, report.

    Args:
        out: the run folder; the phantom's images lie in its ``data`` folder.
        seed: of phantom and training.
        overwrite: replace an earlier demo in ``out``.
        progress: show bars.
    """
    folder = RunFolder(Path(out))
    refuse_existing(folder, overwrite=overwrite)
    if folder.root.exists():
        shutil.rmtree(folder.root)
    set_state(folder, "running", "phantom")
    labels = write_phantom(folder.root / "data", Phantom(seed=seed))
    done = run(labels, folder.root, config=demo_config(seed), overwrite=True, progress=progress)
    evaluate(done, "test", progress=progress)
    return done


def demo_config(seed: int = 0) -> RunConfig:
    """What the demo trains with: chosen on the phantom's validation split, for two cores and three minutes."""
    return make_config(seed=seed, pooling="topq,fraction=0.05", epochs=45, patience=15, rotation=15.0, scale=0.12)
