"""A classifier of a run as a subject: its scores and its maps by any method, on whatever device it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch

from lesioncam.errors import OptionError
from lesioncam.explanation.cam import Explained, explain_samples
from lesioncam.inference.scale import image_probabilities
from lesioncam.inference.subject import Answer, Subject
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.layout import device_of
from lesioncam.runs.card import ModelCard
from lesioncam.types import Exam, Sample

_BATCH = {"cpu": 8, "cuda": 32}
"""Images that go through the network at once; of volumes a quarter."""


@dataclass(frozen=True)
class ClassifierSubject(Subject):
    """One classifier.

    Attributes:
        classifier: from :func:`lesioncam.load`, on any device.
        digest: see :class:`Subject`.
        options: of the map method.
    """

    classifier: TrainedClassifier
    digest: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        """Of the classifier, as it is now."""
        return self.classifier.card

    def with_card(self, card: ModelCard) -> Self:
        """See :meth:`Subject.with_card`; the network is shared."""
        return replace(self, classifier=TrainedClassifier(self.classifier.network, card).eval())

    @property
    def batch(self) -> int:  # type: ignore[override]
        """By device and number of axes."""
        size = _BATCH.get(device_of(self.classifier).type, 8)
        return size if self.card.config.backbone.axes == 2 else size // 4

    def answers(self, exams: Sequence[Exam], method: str | None = None) -> Iterator[Answer]:
        """See :meth:`Subject.answers`."""
        samples = [self.classifier.preprocess(exam.picture) for exam in exams]
        for one in explained_samples(self.classifier, samples, method, self.options):
            yield Answer(one.logits, self.probabilities(one), one.heatmap, one.features)

    def probabilities(self, explained: Explained) -> np.ndarray:
        """Image probabilities ``(K,)``: the sigmoid or softmax, or what was fitted on validation."""
        return image_probabilities(explained.logits, self.card.image_calibration, softmax=self.card.config.softmax)


def explained_samples(
    classifier: TrainedClassifier,
    samples: Sequence[Sample],
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Explained]:
    """Scores and maps of prepared images, those of one size together, in order."""
    made: dict[int, Explained] = {}
    for places in by_size(samples):
        together = [samples[i] for i in places]
        looked = explain_samples(classifier, together, method or classifier.card.config.map, options)
        made.update(zip(places, looked, strict=True))
    return [made[i] for i in range(len(samples))]


def by_size(samples: Sequence[Sample]) -> list[list[int]]:
    """The places of samples whose images have one size, which can go through a network together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.image.shape, []).append(i)
    return list(groups.values())


def best_device(asked: str = "auto") -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU where there is one.

    Raises:
        OptionError: for another name, or a GPU that is not there.
    """
    kind, _, number = asked.partition(":")
    find(kind, dict.fromkeys(("auto", "cpu", "cuda")), "device")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return torch.device("cuda" if count else "cpu")
    if kind == "cuda" and (number or "0") not in map(str, range(count)):
        known = f"{count} GPU(s)" if count else "no GPU"
        raise OptionError(f"--device {asked}: PyTorch finds {known} on this machine; use auto or cpu.")
    return torch.device(asked)
