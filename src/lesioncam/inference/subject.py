"""What results come from: a classifier of ours, or another source of maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lesioncam.evaluation.protocol import Remembers
from lesioncam.inference.look import look
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.runs.card import ModelCard
from lesioncam.types import CaseResult, Record

__all__ = ["Subject", "classifier_subject"]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        card: classes, options, and everything that was chosen.
        method: name of the map method in every table.
        analyse: one record, its pixels and where thresholds come from, to a result and its native raw maps.
        digest: of weights and choices, or of another tool's files: one configuration of the ledger.
        foreign: no model of ours.
        gaps: how many maps were missing, and how many held values that are not finite, in what was walked so far.
    """

    card: ModelCard
    method: str
    analyse: Callable[[Record, np.ndarray, str | float], tuple[CaseResult, np.ndarray]]
    digest: str
    foreign: bool = False
    gaps: Callable[[], tuple[int, int]] = lambda: (0, 0)

    @property
    def chosen(self) -> tuple[Remembers, ...]:
        """Everything chosen on some patients, and applied to others."""
        scales = (self.card.calibration, self.card.image_calibration)
        return (
            *(self.card.thresholds or ()),
            *(self.card.decisions or ()),
            *(scale for scale in scales if scale is not None),
            *self.card.chosen,
        )


def classifier_subject(classifier: TrainedClassifier, digest: str = "") -> Subject:
    """A classifier of ours as a subject of measurement."""

    def analysed(record: Record, pixels: np.ndarray, threshold: str | float) -> tuple[CaseResult, np.ndarray]:
        found, evidence = look(classifier, pixels, name=record.id, threshold=threshold)
        return replace(found, image=record.image), evidence

    return Subject(classifier.card, classifier.card.config.map, analysed, digest)
