"""Where evidence comes from: a classifier, several, any network, a folder of maps. What follows is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lesioncam.errors import RunError
from lesioncam.evaluation.protocol import Remembers
from lesioncam.runs.card import ModelCard
from lesioncam.types import Exam, Heatmap, Threshold


@dataclass(frozen=True)
class Answer:
    """What a subject says of one examination, before anything is scaled or cut.

    Attributes:
        logits: ``(K,)`` float32.
        probabilities: ``(K,)`` float32, calibrated where something was fitted.
        heatmap: raw evidence per class.
        features: ``(C, *s)`` before the class maps; None where there are none.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    heatmap: Heatmap
    features: np.ndarray | None = None


class Subject(ABC):
    """A source of evidence. One that is to be measured has a card, a digest, and says what was missing.

    Attributes:
        card: classes, options, and everything that was chosen.
        digest: of weights and choices, or of another tool's files: one configuration of the ledger.
        foreign: no model of ours.
        batch: so many examinations are answered at once.
    """

    card: ModelCard
    digest: str = ""
    foreign: bool = False
    batch: int = 1

    @abstractmethod
    def answers(self, exams: Sequence[Exam], method: str | None = None) -> Iterator[Answer]:
        """One answer per examination, in order.

        Everything that can be wrong with an image is found before the first answer is given.

        Args:
            exams: as many as go together.
            method: map method; None is the subject's own.

        Raises:
            ImageError: for an image that cannot be used.
        """

    def with_card(self, card: ModelCard) -> Self:
        """The same source of evidence with other choices; ``self`` is left as it is."""
        return replace(self, card=card)  # type: ignore[type-var]  # those with a card of their own are dataclasses

    @property
    def method(self) -> str:
        """Name of the map method in every table."""
        return self.card.config.map

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.card.classes

    def gaps(self) -> tuple[int, int]:
        """How many maps were missing, and how many held values that are not finite, in what was looked at so far."""
        return 0, 0

    def is_own(self, method: str | None) -> bool:
        """Whether a map method is the one that scale and thresholds were chosen for."""
        return method in (None, self.card.config.map)

    @property
    def decisions(self) -> tuple[Threshold, ...]:
        """One threshold on the image score per class; .5 where none was chosen."""
        return self.card.decisions or default_thresholds(len(self.classes))

    @property
    def thresholds(self) -> tuple[Threshold, ...] | None:
        """One map threshold per class, as chosen on validation; None where none was."""
        return self.card.thresholds

    def levels(self, threshold: str | float = "val", method: str | None = None) -> tuple[Threshold, ...]:
        """The map thresholds to cut at, and where each comes from.

        Args:
            threshold: ``val`` (chosen on validation), ``default`` (.5), or a probability.
            method: what was chosen holds for the subject's own method only: maps of another are cut at .5.

        Raises:
            RunError: if thresholds of validation are asked for and none were chosen.
        """
        count = len(self.classes)
        if threshold == "default" or (threshold == "val" and not self.is_own(method)):
            return default_thresholds(count)
        if not isinstance(threshold, str):
            return (Threshold(float(threshold), "given"),) * count
        if self.thresholds is None:
            raise RunError(
                "this model has no thresholds yet; run `lesioncam run ... --resume`, or use --threshold default (.5)."
            )
        return self.thresholds

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


def default_thresholds(count: int) -> tuple[Threshold, ...]:
    """.5 for every class, called ``default``."""
    return (Threshold(0.5, "default"),) * count
