"""`make bench`: run every benchmark, print and write docs/benchmarks.md; `python -m benchmarks NAME ...` runs some."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import psutil
import torch

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
SECTIONS = (
    *("start_up", "tables", "training_loop", "inference", "sweeps", "duplicates", "evaluation"),
    *("robustness", "explain", "mnist", "pooling"),
)
HEAD = (
    "# Benchmarks\n\n"
    "Written by `make bench`; each figure is a limit or a ratio taken within one run. A section says when and where it "
    "was run; `python -m benchmarks NAME` runs one again and leaves the others.\n"
)
MARK = "<!-- {name} -->\n"


def main(words: Sequence[str]) -> int:
    if unknown := [word for word in words if word not in SECTIONS]:
        print(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}.")
        return 2
    sections = read(PAGE)
    for name in words or SECTIONS:
        sections[name] = f"{import_module(f'benchmarks.{name}').run().rstrip()}\n\n{where()}\n"
        PAGE.write_text(HEAD + "".join(f"\n{MARK.format(name=n)}{sections[n]}" for n in SECTIONS if n in sections))
        print(sections[name])
    return 1 if any("**missed**" in text for text in sections.values()) else 0


def read(page: Path) -> dict[str, str]:
    """The sections of the page by name."""
    parts = re.split(r"<!-- (\w+) -->\n", page.read_text()) if page.is_file() else [""]
    return {name: text.strip("\n") + "\n" for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def where() -> str:
    memory = round(psutil.virtual_memory().total / 2**30)
    return (
        f"*{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} CPU cores ({platform.machine()}), {memory} GiB, "
        f"Python {platform.python_version()}, torch {torch.__version__}.*"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
