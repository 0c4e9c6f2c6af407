"""Deliberate mistakes that tests must see: ``python -m benchmarks.mutants [WORD]``.

Each mutant is one small change of the code that once passed every test. It is made in a copy of ``src`` in a temporary
folder, and the tests that should fail are run against it; the code itself is left as it is. Of each is said whether
it was caught; the exit code is 1 if one was not. A WORD runs only the mutants whose name holds it.

A mutant whose code has changed is reported as stale: give it its new text here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """A mistake: what stands in one file of the package, what would stand there, and the tests that see it."""

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "a test image is compared with train only, not with val",
        '"test": ("train", "val")',
        '"test": ("train",)',
        ("tests/measurement/test_leak_routes.py",),
    ),
    Mutant(
        "the n of a mean counts images of undefined classes",
        "np.any(measure.used[:, defined], axis=1, keepdims=True)",
        "np.any(measure.used, axis=1, keepdims=True)",
        ("tests/laws/test_metrics.py", "tests/evaluation/test_summary.py"),
    ),
    Mutant(
        "the headline's verdict is taken from the value, not from the lower end of its interval",
        "own.low > high",
        "own.value > high",
        ("tests/reporting/test_tables.py",),
    ),
    Mutant(
        "soft labels count as negative in the loss of negative maps",
        "return _mean(cold, labels == 0)",
        "return _mean(cold, labels < 1)",
        ("tests/functional/test_losses.py",),
    ),
    Mutant(
        "two percent at each end of an image are cut",
        "_DARK, _BRIGHT = 0.5, 99.5",
        "_DARK, _BRIGHT = 2, 98",
        ("tests/data/test_preprocess.py",),
    ),
    Mutant(
        "biases and norms decay",
        'loss.parameters()], "weight_decay": 0.0}',
        'loss.parameters()], "weight_decay": self.options.weight_decay}',
        ("tests/training/test_modules.py",),
    ),
    Mutant(
        "of epochs with the same score the one with the higher loss is kept",
        "- TIE * loss",
        "+ TIE * loss",
        ("tests/training/test_modules.py",),
    ),
    Mutant(
        "a cached image is not told by the time of its file",
        "|{stat.st_mtime_ns}|",
        "|",
        ("tests/data/test_cache.py",),
    ),
    Mutant(
        "a cached image is not told by the size of its file",
        "|{stat.st_size}|",
        "|",
        ("tests/data/test_cache.py",),
    ),
)


def mutated(mutant: Mutant, source: Path) -> bool:
    """Make the mistake in a copy of the code; False where its text is not found exactly once."""
    homes = [path for path in sorted(source.rglob("*.py")) if mutant.old in path.read_text()]
    if len(homes) != 1 or homes[0].read_text().count(mutant.old) != 1:
        return False
    homes[0].write_text(homes[0].read_text().replace(mutant.old, mutant.new))
    return True


def caught(mutant: Mutant) -> str:
    """``caught``, ``NOT CAUGHT`` or ``stale``."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(ROOT / "src", Path(folder) / "src"))
        if not mutated(mutant, source):
            return "stale"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests]
        environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True)
        return {0: "NOT CAUGHT", 1: "caught"}.get(done.returncode, f"pytest ended with {done.returncode}")


def main() -> int:
    """Try every mutant."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    results = {}
    for mutant in MUTANTS:
        if word in mutant.name:
            results[mutant.name] = caught(mutant)
            print(f"{results[mutant.name]:<12} {mutant.name}", flush=True)
    return int(any(result != "caught" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
