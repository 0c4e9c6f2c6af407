"""What a verb leaves behind: a run folder, and what can be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lesioncam.errors import RunError
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier
from lesioncam.options.variation import OwnPool
from lesioncam.runs.folder import RunFolder


@dataclass(frozen=True)
class Run:
    """A run folder and what is in it.

    Attributes:
        folder: where it lies.
        interrupted: whether training was stopped by the user; the best weights so far are kept.
    """

    folder: Path
    interrupted: bool = False

    @property
    def report(self) -> Path:
        """The HTML report."""
        return RunFolder(self.folder).report

    def metrics(self, split: str = "val") -> pd.DataFrame:
        """The tidy table of numbers of one split.

        Raises:
            RunError: if that split was not evaluated yet.
        """
        path = RunFolder(self.folder).evaluation(split) / "metrics.csv"
        if not path.is_file():
            raise RunError(f"{path} is missing; run `lesioncam evaluate {self.folder} --split {split}` first.")
        return pd.read_csv(path)

    def classifier(self, pooling: OwnPool | None = None) -> TrainedClassifier:
        """The trained classifier."""
        return load_classifier(self.folder, pooling=pooling)


def folder_of(run: str | Path | Run) -> RunFolder:
    """The folder of a run, however it was named."""
    return RunFolder(run.folder if isinstance(run, Run) else Path(run))
