"""Any network as a subject: whatever turns prepared images into scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lesioncam.data.preprocess import Prepares
from lesioncam.errors import LesioncamError
from lesioncam.explanation.cam import LAYERLESS, Padded, maps_are_logits
from lesioncam.explanation.capture import Target, quiet, ready, scores_of
from lesioncam.explanation.explain import explain
from lesioncam.explanation.receptive import Cells, measure_cells
from lesioncam.explanation.twin import private
from lesioncam.inference.classifier import by_size
from lesioncam.inference.scale import image_probabilities
from lesioncam.inference.subject import Answer, Subject
from lesioncam.models.adopted import head_classes
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier
from lesioncam.models.layout import device_of
from lesioncam.runs.card import AdoptedCard, ModelCard
from lesioncam.types import Calibration, Exam, Heatmap, Heatmaps, Sample


@dataclass(frozen=True, eq=False)
class NetworkSubject(Subject):
    """A network, how its images are prepared, and where its maps are taken; the network is never touched.

    Attributes:
        model: any ``nn.Module``, or a classifier of a run whose layer, target or scale is another than its own.
        prepare: from a decoded image to a `Sample`.
        card: classes, and what was chosen for the map method it names.
        asked: the map method that is drawn.
        layer: where maps are taken; None finds it.
        target: from the model's output to scores ``(N, K)``.
        calibration: from raw values to probabilities; None takes what is known.
        batch: so many images of one size go through the network at once.
        options: of the map method.
    """

    model: nn.Module
    prepare: Prepares
    card: ModelCard
    asked: str
    layer: str | nn.Module | None = None
    target: Target | None = None
    calibration: Calibration | None = None
    batch: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)
    _cells: dict[tuple[int, ...], Cells | None] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def method(self) -> str:
        """Name of the map method."""
        return self.asked

    def answers(self, exams: Sequence[Exam], method: str | None = None) -> Iterator[Answer]:
        """See :meth:`Subject.answers`."""
        samples = [self.prepare(exam.picture) for exam in exams]
        made: dict[int, Answer] = {}
        for places in by_size(samples):
            maps = self.maps([samples[i] for i in places], method)
            head_classes(maps.scores, self.classes, type(self.model).__name__)
            for row, i in enumerate(places):
                made[i] = self._answer(maps, row, samples[i])
        yield from (made[i] for i in range(len(samples)))

    def _answer(self, maps: Heatmaps, row: int, sample: Sample) -> Answer:
        raw, scores = maps.raw[row].cpu().numpy(), maps.scores[row].cpu().numpy()
        cells = self.cells(raw.shape[1:], sample) or (None, None)
        heatmap = Heatmap(raw, self.classes, maps.method, maps.layer, sample.geometry, self._scale(maps.method), *cells)
        return Answer(scores, image_probabilities(scores, None, softmax=self.card.config.softmax), heatmap)

    def maps(self, samples: Sequence[Sample], method: str | None = None) -> Heatmaps:
        """Scores and maps of prepared images of one size."""
        model, images = self.network(samples), self.tensor(samples)
        return explain(model, images, method or self.method, self._layer(), target=self.target, **self.options)

    def scores(self, samples: Sequence[Sample]) -> Tensor:
        """The scores alone, ``(N, K)`` float32 on the CPU."""
        images = self.tensor(samples)
        with quiet(images):
            twin = private(self.network(samples))
            return scores_of(twin(ready(twin, images)), self.target).float().cpu()

    def network(self, samples: Sequence[Sample]) -> nn.Module:
        """What is explained; one of ours is told where its input is padding."""
        inner = self.model.network if isinstance(self.model, TrainedClassifier) else self.model
        if not isinstance(inner, Classifier):
            return inner
        valid = torch.from_numpy(np.stack([sample.valid for sample in samples]))[:, None]
        return Padded(inner, valid.to(device_of(inner)))

    def tensor(self, samples: Sequence[Sample]) -> Tensor:
        """Prepared images where the network lies, ``(N, C, *S)``."""
        return torch.from_numpy(np.stack([sample.image for sample in samples])).to(device_of(self.model))

    def cells(self, grid: Sequence[int], sample: Sample) -> Cells | None:
        """Where cells look, measured once for each size of input; maps over pixels need no measuring."""
        size = tuple(sample.image.shape[1:])
        if tuple(grid) == size:
            return None
        with self._lock:
            if size not in self._cells:
                network, channels = self.network([sample]), len(sample.image)
                self._cells[size] = measure_cells(network, channels, size, self._layer(), self.target)
            return self._cells[size]

    def identity(self, samples: Sequence[Sample]) -> tuple[Heatmaps | None, str]:
        """Class maps whose mean is the logit; if there are none, why not."""
        try:
            return explain(self.network(samples), self.tensor(samples), "cam", target=self.target), ""
        except LesioncamError as error:
            return None, str(error)

    def _layer(self) -> str | nn.Module | None:
        """What the user chose, here or when the network was adopted."""
        if self.layer is None and isinstance(self.card, AdoptedCard) and self.method not in LAYERLESS:
            return self.card.adopted.layer
        return self.layer

    def _scale(self, method: str) -> Calibration | None:
        if self.calibration is not None:
            return self.calibration
        if self.is_own(method) and self.card.calibration is not None:
            return self.card.calibration
        return Calibration.of_classifier(len(self.classes)) if maps_are_logits(self.card, method) else None
