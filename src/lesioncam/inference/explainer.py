"""Any network, from files or arrays to maps, boxes, crops and overlays in each image's own pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from lesioncam.data.preprocess import OwnPrepare, Prepares, prepares
from lesioncam.errors import OptionError
from lesioncam.explanation.capture import Target
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.exam import Source, open_exam
from lesioncam.inference.explanation import Explanation
from lesioncam.inference.network import NetworkSubject
from lesioncam.inference.self_test import SelfTest, try_network
from lesioncam.inference.subject import Subject
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.options.run import RunConfig
from lesioncam.runs.card import ModelCard
from lesioncam.types import Calibration, Exam

T = TypeVar("T")


class Explainer:
    """Heat maps of any network, from files or arrays to native pixels; safe to share between threads.

    The model is never touched. Building one stores its arguments and does nothing else.

    Args:
        model: any ``nn.Module`` from prepared images to logits; or a classifier of a run, from :func:`lesioncam.load`.
        preprocess: from a decoded image to a `Sample`, with its way back: ``Preprocess.from_timm(model)``, or any
            callable of the pixels and a name for errors. A classifier of a run brings its own.
        classes: one name per score, in the model's order; a classifier of a run brings its own.
        method: map method, see :func:`lesioncam.explain`.
        layer: where maps are taken; None finds it.
        target: from the model's output to scores ``(N, K)``, for models that give more than a tensor.
        calibration: from raw values to probabilities, per class. CAM has one without asking: its values are logits, and
            their sigmoid is a probability if the network was trained with one.
        batch: so many images of one size go through the network at once.
        **options: of the method.

    Example:
        >>> from lesioncam.options.data import ResizeCropConfig
        >>> from lesioncam.data.preprocess import ResizeCrop
        >>> end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *end)
        >>> explain_all = Explainer(net, ResizeCrop(ResizeCropConfig(size=(32, 32))), classes=["mass", "node"])
        >>> pixels = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
        >>> [result] = explain_all([pixels])
        >>> result.native("mass").shape, result.scale, result.layer
        ((50, 70), 'unit', 'input of 2')
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Prepares | OwnPrepare | None = None,
        classes: Sequence[str] | None = None,
        *,
        method: str = "gradcam",
        layer: str | nn.Module | None = None,
        target: Target | None = None,
        calibration: Calibration | None = None,
        batch: int = 8,
        **options: Any,
    ) -> None:
        find(method, MAP_METHODS, "map method")
        own = model if isinstance(model, TrainedClassifier) else None
        preprocess = own.preprocess if own is not None and preprocess is None else preprocess
        classes = own.classes if own is not None and classes is None else classes
        if preprocess is None:
            raise OptionError(
                "how are images prepared? Give preprocess=Preprocess.from_timm(model), or any callable that returns a "
                "Sample."
            )
        if classes is None:
            raise OptionError("name the classes, one per score of the model: classes=['mass', ...].")
        self.model, self.preprocess, self.classes, self.method = model, preprocess, tuple(classes), method
        card = ModelCard(self.classes, RunConfig.model_validate({"map": method})) if own is None else own.card
        self.network = NetworkSubject(
            model, prepares(preprocess), card, method, layer, target, calibration, max(1, batch), options
        )
        self.subject: Subject = self.network
        as_it_is = layer is None and target is None and calibration is None
        if own is not None and as_it_is and preprocess is own.preprocess:
            self.subject = ClassifierSubject(own, options=options)

    def __call__(self, images: Source | Iterable[Source]) -> list[Explanation]:
        """Explain images of any sizes.

        Args:
            images: files (``file#index`` for one of several), decoded images ``(H, W)`` or ``(H, W, C)``, or Pillow
                images; one, or any number.

        Returns:
            One result per image, in order.

        Raises:
            ImageError: if an image cannot be read or used.
            ModelError: if the network does not give one score per class, or does not allow this method.
        """
        given = [images] if isinstance(images, Source) else images
        results: list[Explanation] = []
        for part in _parts_of(enumerate(given), self.network.batch):
            exams = [_exam(image, i) for i, image in part]
            for exam, answer in zip(exams, self.subject.answers(exams, self.method), strict=True):
                results.append(Explanation(exam.source, exam.pixels, answer.logits, answer.heatmap))
        return results

    def self_test(self, images: Sequence[Source] | None = None) -> SelfTest:
        """Try the network before believing it; a readable result.

        Which layer is used; whether class maps are exact; that logits, modes, hooks and gradients stay as they are;
        that a batch gives what its images give alone, and eight threads what one gives; and how long an image takes.

        Args:
            images: to try it on, of one prepared size; by default noise, which only 2D networks take.

        Raises:
            ModelError: if the number of scores is not the number of classes, or the network does not allow the method.
        """
        given = _noise() if images is None else list(images)
        exams = [_exam(image, i) for i, image in enumerate(given)]
        return try_network(self.network, [self.network.prepare(exam.picture) for exam in exams])


def _exam(image: Source, number: int) -> Exam:
    return open_exam(image) if isinstance(image, str | Path) else open_exam(image, f"image {number}")


def _parts_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(items)
    while part := list(islice(stream, size)):
        yield part


def _noise() -> list[Source]:
    """Three pictures to try a network on."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (256, 192), dtype=np.uint8) for _ in range(3)]
