"""The life of a run folder: refused where one lies, begun, its state and where its table came from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from lesioncam.data.table.check import CheckReport
from lesioncam.data.table.table import Table, digest, write_table
from lesioncam.errors import RunError
from lesioncam.files import write_text
from lesioncam.measurement.leaks import keep_prints
from lesioncam.options.recipes import load_run_config
from lesioncam.options.run import RunConfig, make_config
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.provenance import collect
from lesioncam.runs.source import Source
from lesioncam.runs.state import RunState
from lesioncam.runs.table import run_table


def refuse_existing(folder: RunFolder, *, overwrite: bool) -> None:
    """Nothing is written over what is no run, nor over a run without being told.

    Raises:
        RunError: if the place is taken.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise RunError(f"{folder.root} is a file; choose a folder with -o.")
    if folder.root.is_dir() and any(folder.root.iterdir()):
        if not overwrite:
            raise RunError(
                f"{folder.root} exists; go on with it (--resume), replace it (--overwrite), or choose another -o."
            )
        if not folder.is_run():
            raise RunError(f"{folder.root} is not a run of lesioncam, so it is not overwritten; choose another -o.")


def start(folder: RunFolder, config: RunConfig, table: Table, *, overwrite: bool, found: CheckReport) -> None:
    """A fresh folder; the ledger stays, since the test labels were seen whatever is overwritten."""
    if overwrite:
        for stale in ("model", "log", "evaluate", "report.html", "maps.json"):
            place = folder.root / stale
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    set_state(folder, "running", "start")
    write_text(folder.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_table(table, folder.table)
    collect(config.seed, digest(table)).write(folder.provenance)
    keep_prints(folder, table, found)


def path_of(table: Table | str | Path | None) -> Path | None:
    """The user's own file, where there is one."""
    return Path(table) if isinstance(table, str | Path) else None


def remember_source(folder: RunFolder, **places: Path | None) -> None:
    """Where table and maps lie, as seen from the folder: the ledger is kept beside the table."""
    known = {
        name: Path(os.path.relpath(place.resolve(), folder.root.resolve())).as_posix()
        for name, place in places.items()
        if place is not None
    }
    Source(**known).write(folder.source)


def set_state(folder: RunFolder, state: Literal["running", "interrupted", "done"], step: str) -> None:
    """Write how far the run is."""
    RunState(state=state, step=step).write(folder.state)


def resumed(folder: RunFolder, config: RunConfig | None, options: Mapping[str, object]) -> tuple[RunConfig, Table]:
    """Options and table of a run that is to be gone on with.

    Args:
        folder: of the run.
        config: None, or the options it was begun with.
        options: none, or single ones it was begun with.

    Raises:
        RunError: if there is no run, it was begun with other options, or with some that this version no longer has.
    """
    if not folder.is_run():
        raise RunError(f"{folder.root} is no run folder, so there is nothing to resume; start it without --resume.")
    kept, removed = load_run_config(folder.config)
    if removed and not is_trained(folder):
        raise RunError(
            f"{folder.root} was begun with {' and '.join(removed)}, which this version no longer has, so its training "
            "cannot go on as it began; start it anew with --overwrite, or finish it with the version that began it."
        )
    asked = make_config(config or kept, **options) if options or config else kept
    if asked != kept:
        raise RunError(f"{folder.root} was started with other options; resume it without options, or use --overwrite.")
    return kept, run_table(folder)


def is_trained(folder: RunFolder) -> bool:
    """Whether training came to its own end."""
    return folder.read_state().done or (folder.model.is_file() and not folder.read_training().interrupted)


def can_resume(folder: RunFolder) -> bool:
    """Whether training left something to go on from."""
    needed = (folder.state, folder.config, folder.table, folder.log / "last.ckpt")
    return all(path.is_file() for path in needed)


def is_finished(folder: RunFolder) -> bool:
    """Whether the run was trained, measured on validation and reported."""
    measured = (folder.evaluation("val") / "metrics.csv").is_file()
    return folder.is_run() and measured and folder.read_state().done
