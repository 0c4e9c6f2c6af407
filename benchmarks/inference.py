"""Predicting and evaluating, before batches and now: alternating processes on one run folder, seconds per image.

The code of before is a commit of this repository (`BEFORE`), checked out beside: it takes the history.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEFORE = "66e4bff"
ROUNDS, FLOOR = 5, 1.3

TRAIN = """
import sys
import lesioncam as lc
from pathlib import Path
from lesioncam.data.phantom import Phantom, write_phantom
table = write_phantom(Path(sys.argv[1]) / "data", Phantom())
lc.run(table, sys.argv[1] + "/run", epochs=2, draws=50, seed=0)
"""

TIMED = """
import logging, sys, time
import pandas as pd
import lesioncam as lc
logging.disable()
place, work = sys.argv[1], sys.argv[2]
frame = pd.read_csv(place + "/run/table.csv")
images = [f"{place}/data/images/{name.rsplit('/', 1)[-1]}" for name in frame["image"]][:128]
lc.predict(place + "/run", images[:4])
begun = time.perf_counter()
if work == "predict":
    lc.predict(place + "/run", images, place + "/out", overwrite=True)
    count = len(images)
elif work == "predict, nothing written":
    lc.predict(place + "/run", images)
    count = len(images)
else:
    lc.evaluate(place + "/run")
    count = int((frame["split"] == "val").sum())
print((time.perf_counter() - begun) / count)
"""

WORKS = ("predict", "predict, nothing written", "evaluate")


def run() -> str:
    """A table of ratios; a ratio under the limit is marked as missed."""
    about = (
        "`predict` (maps, boxes, masks, overlays of 128 slices) and `evaluate` (validation, with report) of one run on "
        f"the phantom, seed 0, CPU: medians of {ROUNDS} alternating processes, before (`{BEFORE}`, one image at a "
        "time) and now."
    )
    head = ["| work | before, ms per image | now | ratio | limit |", "|---|---|---|---|---|"]
    lines = ["## One way of an image", "", about, "", *head]
    with before() as old, tempfile.TemporaryDirectory() as place:
        python(old, TRAIN, place)
        for work in WORKS:
            seconds: dict[Path, list[float]] = {old: [], ROOT: []}
            for _ in range(ROUNDS):
                for tree, each in seconds.items():
                    each.append(float(python(tree, TIMED, place, work).splitlines()[-1]))
            then, now = (1000 * statistics.median(each) for each in seconds.values())
            limit = "" if "nothing" in work else f"{FLOOR}"
            missed = " **missed**" if limit and then / now < FLOOR else ""
            lines.append(f"| {work} | {then:.1f} | {now:.1f} | {then / now:.2f}{missed} | {limit} |")
    return "\n".join(lines)


@contextmanager
def before() -> Iterator[Path]:
    """The tree of before."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(place), BEFORE], cwd=ROOT, check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


def python(tree: Path, code: str, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    print(run())
