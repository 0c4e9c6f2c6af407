"""Files written whole or not at all, and the one place that knows where things lie in a run folder."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesioncam.errors import RunError

__all__ = ["RunFolder", "read_json", "write_bytes", "write_json", "write_text", "write_with"]


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary neighbour of ``path``, then move it into place in one step.

    Args:
        path: final place; its folder is made if need be.
        write: called with the temporary path (same suffix), must create that file.

    Raises:
        OSError: whatever ``write`` raises, for instance on a full disk; nothing is left behind then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_with(Path(folder) / "a.txt", lambda p: p.write_text("x")).read_text()
        'x'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes whole or not at all."""
    return write_with(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, content: str) -> Path:
    """Write UTF-8 text whole or not at all."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> Path:
    """Write JSON (no NaN: readers of other languages refuse it) whole or not at all."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: if it is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; is {path.parent} a finished run folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not readable as JSON ({error}); restore it or run again with --overwrite."
        ) from error


@dataclass(frozen=True)
class RunFolder:
    """Where everything lies in a run folder.

    Example:
        >>> RunFolder(Path("runs/x")).evaluation("val").as_posix()
        'runs/x/evaluate/val'
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved options, YAML."""
        return self.root / "config.yaml"

    @property
    def table(self) -> Path:
        """The run's own copy of the table, with the split."""
        return self.root / "table.csv"

    @property
    def state(self) -> Path:
        """``{"state": "running" | "interrupted" | "done", "step": ...}``."""
        return self.root / "state.json"

    @property
    def provenance(self) -> Path:
        """What made the run: versions, command, seed, hardware."""
        return self.root / "provenance.json"

    @property
    def weights(self) -> Path:
        """The classifier's weights, safetensors."""
        return self.root / "model" / "weights.safetensors"

    @property
    def model(self) -> Path:
        """Everything beside the weights that a classifier needs, one JSON."""
        return self.root / "model" / "model.json"

    @property
    def maps(self) -> Path:
        """Of a folder that measures another tool's maps: their scale, thresholds and what was chosen, one JSON."""
        return self.root / "maps.json"

    @property
    def source(self) -> Path:
        """Where the table and the maps came from, relative to the folder; private, like the rest of ``log``."""
        return self.log / "source.json"

    @property
    def prints(self) -> Path:
        """Perceptual prints of the images the model was trained and tuned on; private."""
        return self.log / "prints.npz"

    @property
    def log(self) -> Path:
        """Learning curves and resume checkpoints."""
        return self.root / "log"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.log / "history.csv"

    @property
    def key(self) -> Path:
        """The run's secret for keyed digests of patients; it never leaves the folder."""
        return self.root / "log" / "key"

    @property
    def ledger(self) -> Path:
        """How often, and by which configurations, the test labels were opened."""
        return self.root / "ledger.json"

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return self.root / "report.html"

    def evaluation(self, split: str) -> Path:
        """The folder of one split's evaluation: cases.csv, metrics.csv, curves.npz, summary.json, arrays/, figures/."""
        return self.root / "evaluate" / split

    def is_run(self) -> bool:
        """Whether the folder is a run at all."""
        return self.state.is_file()
