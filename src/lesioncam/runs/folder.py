"""The one place that knows where things lie in a run folder."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from lesioncam.errors import RunError
from lesioncam.files import write_with
from lesioncam.runs.card import Card, TrainingRecord, read_card, read_training, write_card
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.source import Source
from lesioncam.runs.state import RunState
from lesioncam.runs.summary import Summary


@dataclass(frozen=True)
class RunFolder:
    """Where everything lies in a run folder, and what its files hold; a damaged one is a `RunError` that names it.

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

    @property
    def controls(self) -> Path:
        """The thresholds of the controls, JSON."""
        return self.root / "evaluate" / "controls.json"

    @property
    def mean_masks(self) -> Path:
        """Where lesions lie on average, for the controls."""
        return self.root / "evaluate" / "controls.npz"

    @property
    def few_shot(self) -> Path:
        """The head of the few-shot baseline; there is none without masks or features."""
        return self.root / "evaluate" / "few_shot.npz"

    def evaluation(self, split: str) -> Path:
        """The folder of one split's evaluation: cases.csv, metrics.csv, curves.npz, summary.json, arrays/, figures/."""
        return self.root / "evaluate" / split

    def summary(self, split: str) -> Path:
        """What was measured of one split, and how honestly, JSON."""
        return self.evaluation(split) / "summary.json"

    def arrays(self, split: str, image: str) -> Path:
        """Raw maps of one image, and of the gallery's images pictures: a readable name, unique by a digest.

        Example:
            >>> RunFolder(Path("x")).arrays("val", "P0031/slice 12.png").name
            'P0031_slice_12.png-ae3e52e7.npz'
        """
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", image).strip("._")[:60]
        return self.evaluation(split) / "arrays" / f"{safe}-{sha256(image.encode()).hexdigest()[:8]}.npz"

    def is_run(self) -> bool:
        """Whether the folder is a run at all."""
        return self.state.is_file()

    def read_state(self) -> RunState:
        """How far it is."""
        return RunState.read(self.state)

    def read_provenance(self) -> Provenance:
        """What made it; empty where nobody wrote it down."""
        return Provenance.read(self.provenance) if self.provenance.is_file() else Provenance()

    def read_source(self) -> Source:
        """Where table and maps came from; empty where nobody wrote it down."""
        return Source.read(self.source) if self.source.is_file() else Source()

    def read_summary(self, split: str) -> Summary:
        """What was measured of one split."""
        return Summary.read(self.summary(split))

    def read_card(self) -> Card:
        """What the model is, or what was chosen for another tool's maps."""
        return read_card(self.maps if self.maps.is_file() else self.model)

    def read_training(self) -> TrainingRecord:
        """How training went; empty where nothing was trained."""
        return read_training(self.model)

    def update_card(self, **changes: Any) -> Card:
        """Change fields of the model's card on disk (thresholds after calibration)."""
        card = replace(read_card(self.model), **changes)
        write_card(self.model, card)
        return card


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
