"""How long a user waits for help and for the import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 9


def seconds(words: list[str]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def line(what: str, value: float, limit: float) -> str:
    verdict = "kept" if value < limit else "**missed**"
    return f"| {what} | {value:.3f} s | under {limit:g} s | {verdict} |\n"


def run() -> str:
    bare = seconds([sys.executable, "-c", "pass"])
    imported = seconds([sys.executable, "-c", "import lesioncam"])
    script = str(Path(sys.executable).with_name("lesioncam"))
    return (
        f"## Start-up (medians of {REPEATS})\n\n| what | seen | limit | |\n|---|---|---|---|\n"
        + line("`import lesioncam` beyond the interpreter's start", imported - bare, 0.2)
        + line("`lesioncam --help`", seconds([script, "--help"]), 0.5)
    )
