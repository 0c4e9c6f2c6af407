"""Any network, from files or arrays to maps, boxes, crops and overlays in each image's own pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lesioncam.data.io.image import read_image, validate_image
from lesioncam.data.preprocess import Prepares, display_image
from lesioncam.errors import ImageError, LesioncamError, OptionError
from lesioncam.explanation.cam import LAYERLESS, Padded, maps_are_logits
from lesioncam.explanation.capture import Target, private, quiet, ready, scores_of
from lesioncam.explanation.explain import METHODS, explain
from lesioncam.explanation.receptive import Cells, measure_cells
from lesioncam.functional.boxes import component_boxes
from lesioncam.functional.overlay import overlay
from lesioncam.geometry import Geometry
from lesioncam.inference.look import unit_scale
from lesioncam.lookup import find
from lesioncam.models.adopted import head_classes
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier
from lesioncam.segmentation.crops import Crop, hottest, square_crop
from lesioncam.types import Calibration, Component, Heatmaps, Sample

__all__ = ["Explainer", "Explanation", "SelfTest"]

Source = str | Path | np.ndarray | Image.Image
T = TypeVar("T")

_BATCH = 8
_THREADS = 8
_REPEATS = 3


@dataclass(frozen=True)
class Explanation:
    """What a network sees in one image; everything is in the image's own pixels.

    Attributes:
        id: the file, or a number.
        pixels: of the image, as decoded.
        classes: K names.
        scores: ``(K,)`` float32, the logits that are explained.
        raw: ``(K, *s)`` float32, signed, at the resolution where it was taken.
        method: name of the map method.
        layer: where it was taken.
        geometry: how the input was cut from the image.
        calibration: from raw values to probabilities; None if there is no such scale.
        cells: where the cells of the map look; None for half-pixel centres.
    """

    id: str
    pixels: np.ndarray
    classes: tuple[str, ...]
    scores: np.ndarray
    raw: np.ndarray
    method: str
    layer: str
    geometry: Geometry
    calibration: Calibration | None = None
    cells: Cells | None = None

    @property
    def scale(self) -> Literal["probability", "unit"]:
        """What thresholds are on: ``probability`` where there is a calibration, otherwise ``unit``.

        On the unit scale each map has its own range as [0, 1]: a healthy image looks as hot as a sick one.
        """
        return "unit" if self.calibration is None else "probability"

    @property
    def flat(self) -> np.ndarray:
        """Which maps show nothing, ``(K,)`` bool: the same value everywhere, or not finite."""
        maps = self.raw.reshape(len(self.raw), -1)
        low, high = maps.min(axis=1), maps.max(axis=1)
        return np.asarray(~(np.isfinite(high - low) & (high > low)))

    def native(self, label: str | int | None = None) -> np.ndarray:
        """Raw evidence on the image's own grid: ``(*native)`` of one class, ``(K, *native)`` of all.

        Resized linearly, never rescaled. Where the network saw nothing stands the coldest value.
        """
        maps = self.raw if label is None else self.raw[self._index(label)][None]
        cells = (None, None) if self.cells is None else self.cells
        coldest = maps.reshape(len(maps), -1).min(axis=1) if self.calibration is None else None
        found = self.geometry.to_native(maps, coldest, *cells)
        return found if label is None else found[0]

    def unit(self, label: str | int | None = None) -> np.ndarray:
        """Each map's own range as [0, 1], for display; a flat map is zeros. Shapes as of :meth:`native`."""
        maps = self.native(label)
        stack = maps if label is None else maps[None]
        found = np.nan_to_num(unit_scale(stack, self.geometry).probability(stack))
        return found if label is None else found[0]

    def probability(self, label: str | int | None = None) -> np.ndarray:
        """Probabilities: resize first, then the calibrated scale. Shapes as of :meth:`native`.

        Raises:
            LesioncamError: if there is no calibration.
        """
        if self.calibration is None:
            raise LesioncamError(
                f"{self.method} maps have no calibrated scale here; use .unit() or .native(), or give the Explainer a "
                "calibration."
            )
        maps = self.native(label)
        if label is None:
            return self.calibration.probability(maps)
        return np.asarray(self.calibration.of_class(self._index(label)).probability(maps[None])[0])

    def shown(self, label: str | int) -> np.ndarray:
        """The map of one class on its :attr:`scale`, ``(*native)`` float32 in [0, 1]."""
        return self.unit(label) if self.calibration is None else self.probability(label)

    def mask(self, label: str | int, threshold: float = 0.5) -> np.ndarray:
        """Where the map of one class reaches a threshold on its :attr:`scale`, ``(*native)`` bool."""
        if not 0 < threshold <= 1:
            raise OptionError(
                f"threshold {threshold:g}: expected a number above 0 and up to 1, on the {self.scale} scale."
            )
        return np.asarray(self.shown(label) >= np.float64(threshold))

    def boxes(self, label: str | int, threshold: float = 0.5) -> list[tuple[int, ...]]:
        """Half-open boxes ``(x0, y0, x1, y1)`` round the regions that reach a threshold, largest first.

        Args:
            label: a class, by name or number.
            threshold: on the map's :attr:`scale`: a probability where there is a calibration (then a healthy image has
                no box), otherwise a share of the map's own range (then every image that is not flat has one). For CAM
                the raw values are logits, so it is the probability ``sigmoid(map)`` without further ado.
        """
        return [part.box for part in self._parts(label, threshold)]

    def crops(
        self, label: str | int, size: int = 256, margin: float = 0.2, n: int = 3, threshold: float = 0.5
    ) -> list[Crop]:
        """Square cut-outs of the image round the hottest regions of a class, hottest first.

        Args:
            label: a class, by name or number.
            size: side of the result, pixels.
            margin: round the region, as a share of its longer side.
            n: so many at most.
            threshold: what a region is, as for :meth:`boxes`.

        Returns:
            Pixels in the image's own depth, with the square and the region in native pixels.
        """
        return [square_crop(self.pixels, part, size, margin) for part in hottest(self._parts(label, threshold), n)]

    def overlay(self, label: str | int, threshold: float | None = None) -> np.ndarray:
        """The map of one class painted on the image, ``(H, W, 3)`` uint8; with the boxes at a threshold, if given.

        Raises:
            ImageError: for a volume.
        """
        if len(self.geometry.native) != 2:
            raise ImageError(f"{self.id} is a volume; paint its slices, .native() has the map of each.")
        boxes = [] if threshold is None else self.boxes(label, threshold)
        return overlay(display_image(self.pixels), self.shown(label), boxes=boxes, zoom=1)

    def _parts(self, label: str | int, threshold: float) -> list[Component]:
        return component_boxes(self.mask(label, threshold), self.shown(label))

    def _index(self, label: str | int) -> int:
        if isinstance(label, str):
            return find(label, {name: k for k, name in enumerate(self.classes)}, "class")
        if not 0 <= label < len(self.classes):
            raise OptionError(f"class {label} does not exist: there are {len(self.classes)}, from 0.")
        return int(label)


@dataclass(frozen=True)
class SelfTest:
    """What a network does when it is explained; ``print`` it.

    Attributes:
        method: name of the map method.
        layer: where maps are taken.
        grid: size of a map.
        size: of the network input.
        cells: where cells look; None for half-pixel centres.
        identity: largest difference between the mean of a class map and its logit, relative; None if there are none.
        why: if there is no identity, why not.
        logits: largest change of the logits by explaining.
        kept: whether modes, hooks and gradients are as before.
        batch: largest difference between a batch and its images one by one, relative.
        threads: largest difference between eight threads and one, relative.
        milliseconds: per image.
        tolerance: what is allowed, by the network's precision.
    """

    method: str
    layer: str
    grid: tuple[int, ...]
    size: tuple[int, ...]
    cells: Cells | None
    identity: float | None
    why: str
    logits: float
    kept: bool
    batch: float
    threads: float
    milliseconds: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether all is as it should be; no identity is no fault."""
        errors = (self.batch, self.threads, self.identity or 0.0)
        return self.kept and self.logits == 0 and all(error <= self.tolerance for error in errors)

    def __str__(self) -> str:
        """A line for each finding."""
        looks = "half-pixel centres"
        if self.cells is not None:
            looks = f"first cell at {_sizes(self.cells.origin)}, {_sizes(self.cells.pitch)} pixels apart"
        identity = f"no: {self.why}" if self.identity is None else self._verdict(self.identity)
        lines = {
            "maps": f"{self.method} at {self.layer}",
            "cells": f"{_sizes(self.grid)} of a {_sizes(self.size)} input; {looks}",
            "mean of CAM = logit": identity,
            "logits unchanged": f"{_yes(ok=self.logits == 0 and self.kept)}",
            "batch = one by one": self._verdict(self.batch),
            f"{_THREADS} threads = one": self._verdict(self.threads),
            "time": f"{self.milliseconds:.0f} ms per image",
        }
        return "\n".join(f"{name:<20} {said}" for name, said in lines.items())

    def _verdict(self, error: float) -> str:
        return f"{_yes(ok=error <= self.tolerance)}, off by {error:.1e}"


def _yes(*, ok: bool) -> str:
    return "yes" if ok else "NO"


def _sizes(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


class Explainer:
    """Heat maps of any network, from files or arrays to native pixels; safe to share between threads.

    The model is never touched. Building one stores its arguments and does nothing else.

    Args:
        model: any ``nn.Module`` from prepared images to logits; or a classifier of a run, from :func:`lesioncam.load`.
        preprocess: from a decoded image to a `Sample`, with its way back: ``Preprocess.from_timm(model)``, or any
            callable. A classifier of a run brings its own.
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
        preprocess: Prepares | None = None,
        classes: Sequence[str] | None = None,
        *,
        method: str = "gradcam",
        layer: str | nn.Module | None = None,
        target: Target | None = None,
        calibration: Calibration | None = None,
        batch: int = _BATCH,
        **options: Any,
    ) -> None:
        find(method, METHODS, "map method")
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
        self.model, self.method, self.layer, self.target = model, method, layer, target
        self.preprocess, self.classes, self._own = preprocess, tuple(classes), own
        self.calibration, self.batch, self.options = calibration, max(1, batch), options
        self._cells: dict[tuple[int, ...], Cells | None] = {}
        self._lock = Lock()

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
        given = [images] if isinstance(images, str | Path | np.ndarray | Image.Image) else images
        found: list[Explanation] = []
        for part in _parts_of(enumerate(given), self.batch):
            found += self._explain_part(part)
        return found

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
        samples = [self.preprocess(*_pixels(image, i)[::-1]) for i, image in enumerate(given)]
        state, before = _state(self.model), self._scores(samples)
        head_classes(before, self.classes, type(self.model).__name__)
        maps = self._maps(samples)
        alone = [self._maps([sample]) for sample in samples]
        with ThreadPoolExecutor(_THREADS) as pool:
            shared = list(pool.map(lambda i: self._maps([samples[i % len(samples)]]).raw, range(2 * _THREADS)))
        identity, why = self._identity(samples)
        size = tuple(samples[0].image.shape[1:])
        return SelfTest(
            method=self.method,
            layer=maps.layer,
            grid=tuple(maps.raw.shape[2:]),
            size=size,
            cells=self._where(tuple(maps.raw.shape[2:]), samples[0]),
            identity=identity,
            why=why,
            logits=float((self._scores(samples) - before).abs().max()),
            kept=_state(self.model) == state,
            batch=_off(maps.raw, torch.cat([each.raw for each in alone])),
            threads=max(_off(raw, alone[i % len(samples)].raw) for i, raw in enumerate(shared)),
            milliseconds=1000 * _median_time(lambda: self._maps(samples[:1])),
            tolerance=1e-4 if _dtype(self.model) in (torch.float32, torch.float64) else 2e-2,
        )

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _explain_part(self, part: Sequence[tuple[int, Source]]) -> list[Explanation]:
        """Images that are in memory together; those of one prepared size go through together."""
        read = [_pixels(image, i) for i, image in part]
        samples = [self.preprocess(pixels, name) for name, pixels in read]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(sample.image.shape, []).append(i)
        found: dict[int, Explanation] = {}
        for members in groups.values():
            maps = self._maps([samples[i] for i in members])
            head_classes(maps.scores, self.classes, type(self.model).__name__)
            raw, scores = maps.raw.cpu().numpy(), maps.scores.cpu().numpy()
            cells = self._where(raw.shape[2:], samples[members[0]])
            for row, i in enumerate(members):
                found[i] = Explanation(
                    *read[i],
                    self.classes,
                    scores[row],
                    raw[row],
                    self.method,
                    maps.layer,
                    samples[i].geometry,
                    self._scale(),
                    cells,
                )
        return [found[i] for i in range(len(read))]

    def _maps(self, samples: Sequence[Sample]) -> Heatmaps:
        model, images = self._network(samples), self._tensor(samples)
        return explain(model, images, self.method, self._layer(), target=self.target, **self.options)

    def _layer(self) -> str | nn.Module | None:
        """What the user chose, here or when the network was adopted."""
        adopted = None if self._own is None else self._own.card.adopted
        if self.layer is not None or adopted is None or self.method in LAYERLESS:
            return self.layer
        return adopted.layer

    def _network(self, samples: Sequence[Sample]) -> nn.Module:
        """The network to explain; one of ours is told where its input is padding."""
        inner = self.model if self._own is None else self._own.network
        if not isinstance(inner, Classifier):
            return inner
        valid = torch.from_numpy(np.stack([sample.valid for sample in samples]))[:, None]
        return Padded(inner, valid.to(_device(inner)))

    def _tensor(self, samples: Sequence[Sample]) -> Tensor:
        return torch.from_numpy(np.stack([sample.image for sample in samples])).to(_device(self.model))

    def _scores(self, samples: Sequence[Sample]) -> Tensor:
        images = self._tensor(samples)
        with quiet(images):
            twin = private(self._network(samples))
            return scores_of(twin(ready(twin, images)), self.target).float().cpu()

    def _identity(self, samples: Sequence[Sample]) -> tuple[float | None, str]:
        """How exactly class maps average to logits; if there are none, why not."""
        try:
            maps = explain(self._network(samples), self._tensor(samples), "cam", target=self.target)
        except LesioncamError as error:
            return None, str(error)
        if self._own is not None and self._own.card.adopted is None:
            return 0.0, ""  # our own pooling of the maps is checked there, whatever it is
        return _off(maps.raw.flatten(2).mean(-1), maps.scores), ""

    def _scale(self) -> Calibration | None:
        if self.calibration is not None:
            return self.calibration
        card = None if self._own is None else self._own.card
        if card is not None and card.config.map == self.method and card.calibration is not None:
            return card.calibration
        logits = self.method == "cam" if card is None else maps_are_logits(card, self.method)
        return Calibration.of_classifier(len(self.classes)) if logits else None

    def _where(self, grid: tuple[int, ...], sample: Sample) -> Cells | None:
        """Where cells look, measured once for each size of input; maps over pixels need no measuring."""
        size = tuple(sample.image.shape[1:])
        if tuple(grid) == size:
            return None
        with self._lock:
            if size not in self._cells:
                self._cells[size] = self._measure(sample)
            return self._cells[size]

    def _measure(self, sample: Sample) -> Cells | None:
        network, size = self._network([sample]), sample.image.shape[1:]
        return measure_cells(network, len(sample.image), size, self._layer(), self.target)


def _parts_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(items)
    while part := list(islice(stream, size)):
        yield part


def _pixels(image: Source, number: int) -> tuple[str, np.ndarray]:
    """Name and decoded pixels of whatever was given."""
    if isinstance(image, str | Path):
        name, pixels = str(image), read_image(image)
    elif isinstance(image, Image.Image):
        plain = image if image.mode in ("L", "RGB", "I;16", "F", "I") else image.convert("RGB")
        name, pixels = f"image {number}", np.asarray(plain)
    elif isinstance(image, np.ndarray):
        name, pixels = f"image {number}", image
    else:
        raise ImageError(
            f"image {number} is a {type(image).__name__}; give a file, an array (H, W[, C]) or a Pillow image."
        )
    validate_image(pixels, name)
    return name, pixels


def _noise() -> list[Source]:
    """Three pictures to try a network on."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (256, 192), dtype=np.uint8) for _ in range(3)]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _state(model: nn.Module) -> Mapping[str, Any]:
    """What explaining must leave as it was."""
    return {
        name: (
            module.training,
            len(module._forward_hooks) + len(module._forward_pre_hooks),  # noqa: SLF001 (counted, not used)
            tuple(p.grad is None for p in module.parameters(recurse=False)),
        )
        for name, module in model.named_modules()
    }


def _off(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    span = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((found.float().cpu() - expected.float().cpu()).abs().max()) / span


def _median_time(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[_REPEATS // 2]
