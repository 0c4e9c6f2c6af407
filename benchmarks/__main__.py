"""`make bench`: run every benchmark, print and write docs/benchmarks.md."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from benchmarks import duplicates, evaluation, start_up, sweeps, tables, training_loop

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> int:
    sections = [module.run() for module in (start_up, tables, training_loop, sweeps, duplicates, evaluation)]
    memory = round(psutil.virtual_memory().total / 2**30)
    head = (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {psutil.cpu_count()} CPU cores "
        f"({platform.machine()}), {memory} GiB, Python {platform.python_version()}, torch {torch.__version__}. "
        "Each figure is a limit or a ratio taken within one run.\n"
    )
    text = head + "".join(f"\n{section}" for section in sections)
    PAGE.write_text(text)
    print(text)
    return 1 if "**missed**" in text else 0


if __name__ == "__main__":
    sys.exit(main())
