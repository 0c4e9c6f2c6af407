"""A table as large as ChestX-ray14's, made up: read, check (files aside), split."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.table.check import check_table
from lesioncam.data.table.split import split_table
from lesioncam.data.table.table import read_table

ROWS, PATIENTS, LIMIT = 112_120, 30_805, 5.0
FINDINGS = [f"Finding {i}" for i in range(14)]


def make(path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.choice([0, 1, 2, 3], ROWS, p=[0.54, 0.3, 0.11, 0.05])
    labels = ["|".join(rng.choice(FINDINGS, n, replace=False)) if n else "No Finding" for n in counts]
    patients = rng.integers(PATIENTS, size=ROWS)
    names = [f"{i:08d}.png" for i in range(ROWS)]
    pd.DataFrame({"image": names, "label": labels, "patient": patients}).to_csv(path, index=False)


def run() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        make(path)
        times = [time.perf_counter()]
        table = read_table(path, negative=("No Finding",))
        times.append(time.perf_counter())
        check_table(table, files=False)
        times.append(time.perf_counter())
        split_table(table, seed=0)
        times.append(time.perf_counter())
    read, check, split = np.diff(times)
    verdict = "kept" if read + check + split < LIMIT else "**missed**"
    return (
        f"## A table of {ROWS:,} rows, {len(FINDINGS)} findings, {PATIENTS:,} patients (made up, seed 0)\n\n"
        "| read | check | split | together | limit | |\n|---|---|---|---|---|---|\n"
        f"| {read:.2f} s | {check:.2f} s | {split:.2f} s | {read + check + split:.2f} s | under {LIMIT:g} s "
        f"| {verdict} |\n"
    )
