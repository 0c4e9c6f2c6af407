"""The one place that knows where things lie in a run folder."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from lesioncam.errors import RunError
from lesioncam.files import write_with

__all__ = ["RunFolder", "run_key"]


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


def run_key(folder: RunFolder) -> bytes:
    """The run's secret for patient digests, made on first use.

    Raises:
        RunError: if it is empty.
    """
    if not folder.key.is_file():
        write_with(folder.key, lambda p: p.write_text(secrets.token_hex(16)))
    key = folder.key.read_text().strip().encode()
    if not key:
        raise RunError(f"{folder.key} is empty; restore it: without it nobody can tell whom the model has seen.")
    return key
