"""The central types, in the field's own words: frozen dataclasses, no torch at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import expit

from lesioncam.errors import ImageError, LesioncamError
from lesioncam.geometry import Geometry, resize
from lesioncam.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
POSITIVE, NEGATIVE, UNCERTAIN, UNKNOWN = 1.0, 0.0, -1.0, float("nan")
"""The four states of a label in a table, kept apart until the policy of the run is applied."""


@dataclass(frozen=True)
class Box:
    """A box of one class in native pixels, half-open: ``(x0, y0, x1, y1)``; predicted ones integer, truth may be not.

    Example:
        >>> Box("mass", (2, 1, 5, 3)).area      # 3 wide, 2 high
        6.0
    """

    label: str
    box: tuple[float, ...]

    @property
    def area(self) -> float:
        """Pixels (2D) or voxels (3D) inside."""
        half = len(self.box) // 2
        return float(np.prod([self.box[half + i] - self.box[i] for i in range(half)])) if self.box else 0.0


@dataclass(frozen=True)
class Record:
    """One row of the table.

    Attributes:
        id: unique name of the row (the image path without suffix unless the table has an ``id`` column).
        images: paths of its images, absolute or relative to the working directory; ``file#index`` picks one of several
            in a file. One, or the sequences or views of an examination; none where the cell was blank.
        row: row number as a spreadsheet shows it (the header is row 1).
        labels: per class 1 positive, 0 negative, -1 uncertain, NaN unknown, in the order of the table's classes.
        patient: the user's own key of the patient; never leaves the run folder.
        split: ``train``, ``val``, ``test`` or None.
        masks: class -> mask files to be united; the key ``""`` stands for "of every positive class of the row".
        boxes: truth boxes, native pixels.
        readers: reader -> class -> mask files that this human reader drew; a benchmark, never the truth.
    """

    id: str
    images: tuple[str, ...]
    row: int
    labels: tuple[float, ...]
    patient: str | None = None
    study: str | None = None
    view: str | None = None
    laterality: str | None = None
    split: Split | None = None
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    readers: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """Path of the image of a row that has one; "" where the cell was blank.

        Raises:
            ImageError: if there are several: whoever asks for one can look at one only.
        """
        if len(self.images) > 1:
            raise ImageError(
                f"row {self.row} ({self.id}) has {len(self.images)} images ({', '.join(self.images)}), but this looks "
                "at one at a time; give each image a row of its own."
            )
        return self.images[0] if self.images else ""


@dataclass(frozen=True, eq=False)
class Exam:
    """What one answer is given for: an image today, room for several views of one patient.

    Attributes:
        id: what it is called in every table.
        source: the file it came from, or its name again.
        pictures: decoded images.
    """

    id: str
    source: str
    pictures: tuple[Picture, ...]

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of :attr:`picture`."""
        return self.picture.pixels

    @property
    def picture(self) -> Picture:
        """The picture of an examination that has one.

        Raises:
            ImageError: if there are several: no subject of today looks at more than one.
        """
        if len(self.pictures) != 1:
            raise ImageError(f"{self.id} has {len(self.pictures)} images; this model looks at one at a time.")
        return self.pictures[0]


@dataclass(frozen=True)
class Sample:
    """One image ready for the network.

    Attributes:
        image: ``(C, *S)`` float32, normalised and letter-boxed.
        valid: ``(*S)`` bool, True where the input shows image and not padding.
        geometry: the way back to the file's own pixels.
    """

    image: np.ndarray
    valid: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class Batch:
    """Samples as tensors: images ``(N, C, *S)``, valid ``(N, 1, *S)`` bool, labels ``(N, K)`` with NaN unknown."""

    images: Tensor
    valid: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class ClassifierOutput:
    """What one forward pass gives: ``logits (N, K)`` and ``class_maps (N, K, *s)``, both before the sigmoid.

    For single-image heads ``pool(class_maps, features, valid) == logits``; ``features (N, C, *s)`` are what it saw.
    ``attended (N, K, *s)`` are the maps to look at where a pooling makes others of the class maps (ACAM); else None.
    """

    logits: Tensor
    class_maps: Tensor
    valid: Tensor | None = None
    features: Tensor | None = None
    attended: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """The maps to look at, ``(N, K, *s)``: the class maps, or what an attention along the axes made of them."""
        return self.class_maps if self.attended is None else self.attended


@dataclass(frozen=True)
class Calibration:
    """From a raw value (logit) to a probability, per class: ``sigmoid(scale * raw + offset)`` or a rising line.

    Attributes:
        scale: K.
        offset: K.
        source: ``classifier`` (the sigmoid the classifier was trained with) or the split it was fitted on.
        knots: isotonic: per class the raw values and their probabilities, linear in between and constant outside; an
            empty pair of a class leaves it to ``scale`` and ``offset``. Empty for the other kinds.
        tuned_on: keyed digests of the patients it was fitted on.
        kind: ``none``, ``temperature``, ``platt`` or ``isotonic``.

    Example:
        >>> Calibration((1.0,), (0.0,), knots=(((-1.0, 1.0), (0.25, 0.75)),)).probability(np.float32([[0.0, 9.0]]))
        array([[0.5 , 0.75]], dtype=float32)
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    source: str = "classifier"
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    tuned_on: frozenset[str] = frozenset()
    kind: str = "none"

    @classmethod
    def of_classifier(cls, classes: int) -> Calibration:
        """The sigmoid the classifier itself was trained with."""
        return cls((1.0,) * classes, (0.0,) * classes)

    @classmethod
    def spanning(cls, values: Sequence[np.ndarray], tuned_on: frozenset[str]) -> Calibration:
        """A scale for maps that have none: rising, so it changes no ranking, no Dice and no pointing.

        The sigmoid's ends (logits -6 and 6) are the 1st and the 99.9th percentile of the class's values, so that a
        search over thresholds covers them.

        Args:
            values: per class the raw values of all validation maps, flat; an empty one keeps the sigmoid.
            tuned_on: keyed digests of the patients they come from.

        Example:
            >>> scale = Calibration.spanning([np.linspace(0, 1000, 1001)], frozenset())
            >>> scale.probability(np.array([[10.0, 999.0]])).round(4)
            array([[0.0025, 0.9975]], dtype=float32)
        """
        scale, offset = [], []
        for each in values:
            low, high = np.percentile(each, (1, 99.9)) if len(each) else (-6.0, 6.0)
            scale.append(float(12 / (high - low if high > low else 1.0)))
            offset.append(float(-6 - scale[-1] * low))
        return cls(tuple(scale), tuple(offset), "val", (), tuned_on)

    @classmethod
    def own_range(cls, evidence: np.ndarray, geometry: Geometry) -> Calibration:
        """Each map's own range as [0, 1], over the pixels that the network saw; a flat map becomes zeros.

        No probability: a healthy image looks as hot as a sick one on this scale. It is called ``unit`` wherever it is
        used.

        Args:
            evidence: raw maps on the image's own grid, ``(K, *native)``.
            geometry: says which pixels the network saw.

        Example:
            >>> whole = Geometry.letterbox((1, 3), (1, 3))
            >>> maps = np.array([[[2.0, 3.0, 4.0]], [[7.0, 7.0, 7.0]]], np.float32)
            >>> Calibration.own_range(maps, whole).probability(maps)[:, 0].tolist()
            [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
        """
        seen = evidence[(slice(None), *(slice(a, b) for a, b in geometry.crop))].reshape(len(evidence), -1)
        knots = []
        for low, high in zip(seen.min(axis=1).tolist(), seen.max(axis=1).tolist(), strict=True):
            usable = np.isfinite(high - low) and high > low
            knots.append(((low, high), (0.0, 1.0)) if usable else ((0.0, 1.0), (0.0, 0.0)))
        count = len(knots)
        return cls((1.0,) * count, (0.0,) * count, "unit", tuple(knots), kind="unit")

    def probability(self, raw: np.ndarray) -> np.ndarray:
        """Probabilities of raw values ``(K, ...)``, float32."""
        shape = (-1,) + (1,) * (raw.ndim - 1)
        logit = raw * np.reshape(self.scale, shape).astype(raw.dtype) + np.reshape(self.offset, shape).astype(raw.dtype)
        out = np.asarray(expit(logit), dtype=np.float32)
        for k, (places, values) in enumerate(self.knots):
            if places:
                out[k] = np.interp(raw[k], places, values)
        return out

    def raw_level(self, k: int, probability: float) -> np.float32:
        """The smallest raw value of class ``k`` whose probability reaches a threshold; infinity if none does.

        Comparing raw maps with it is comparing their probabilities with the threshold, without computing them.

        Example:
            >>> round(float(Calibration((2.0,), (-1.0,)).raw_level(0, 0.5)), 6)
            0.5
        """
        return _raw_level(self.of_class(k), float(probability))

    def of_class(self, k: int) -> Calibration:
        """The scale of one class alone."""
        return Calibration(self.scale[k : k + 1], self.offset[k : k + 1], knots=self.knots[k : k + 1])

    def check_unseen(self, patients: Sequence[str]) -> None:
        """Refuse to be applied to patients (digests) it was fitted on.

        Raises:
            LesioncamError: if any of them was seen.
        """
        _refuse_seen(f"{self.kind} calibration", self.tuned_on, patients)


@lru_cache(maxsize=1024)
def _raw_level(scale: Calibration, probability: float) -> np.float32:
    def reaches(code: int) -> bool:
        return bool(scale.probability(_from_order(code)[None, None])[0, 0] >= np.float64(probability))

    low, high = _to_order(np.float32(-np.inf)), _to_order(np.float32(np.inf))
    if not reaches(high):
        return np.float32(np.inf)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return np.float32(_from_order(high))


def _to_order(value: np.float32) -> int:
    """Floats as whole numbers in the same order, so that halving an interval ends."""
    code = int(value.view(np.int32))
    return code if code >= 0 else -(code & 0x7FFFFFFF)


def _from_order(code: int) -> np.ndarray:
    bits = code if code >= 0 else (-code) | 0x80000000
    return np.array(bits, dtype=np.uint32).view(np.float32)


@dataclass(frozen=True)
class Heatmap:
    """Raw evidence per class of one image; never normalised silently.

    Attributes:
        raw: ``(K, *s)`` float32, at the resolution of the network's class maps.
        classes: K names.
        method: name of the map method, for instance ``cam``.
        layer: where in the network it was taken.
        geometry: the way back to the file's own pixels.
        calibration: the scale on which two images compare; None if none is known.
        origin: where the centre of the first cell lies in the network input, pixels per axis; None means half-pixel
            centres.
        pitch: input pixels from cell to cell, where it was measured; None follows from the grid.

    Example:
        >>> g = Geometry.letterbox((4, 4), (4, 4))
        >>> h = Heatmap(np.zeros((1, 2, 2), np.float32), ("mass",), "cam", "head", g, Calibration.of_classifier(1))
        >>> h.native().shape, float(h.probability().max())
        ((1, 4, 4), 0.5)
    """

    raw: np.ndarray
    classes: tuple[str, ...]
    method: str
    layer: str
    geometry: Geometry
    calibration: Calibration | None = None
    origin: tuple[float, ...] | None = None
    pitch: tuple[float, ...] | None = None

    @property
    def flat(self) -> np.ndarray:
        """Which maps show nothing, ``(K,)`` bool: the same value everywhere, or not finite."""
        maps = self.raw.reshape(len(self.raw), -1)
        low, high = maps.min(axis=1), maps.max(axis=1)
        return np.asarray(~(np.isfinite(high - low) & (high > low)))

    def native(self) -> np.ndarray:
        """Raw evidence on the image's own grid, ``(K, *native)`` float32: resized linearly, never rescaled.

        Where the network saw nothing stands, on a calibrated scale, a value colder than any evidence
        (:data:`lesioncam.geometry.OUTSIDE`); without a scale, where such a number would mean nothing, the coldest
        value of the map.
        """
        coldest = self.raw.reshape(len(self.raw), -1).min(axis=1) if self.calibration is None else None
        return self.geometry.to_native(self.raw, coldest, self.origin, self.pitch)

    def of_class(self, k: int) -> Heatmap:
        """The map of one class alone."""
        scale = None if self.calibration is None else self.calibration.of_class(k)
        return replace(self, raw=self.raw[k : k + 1], classes=self.classes[k : k + 1], calibration=scale)

    def probability(self) -> np.ndarray:
        """Probabilities on the image's own grid, ``(K, *native)``: resize first, then the calibrated sigmoid.

        Raises:
            LesioncamError: if the map has no calibrated scale.
        """
        return self.scale.probability(self.native())

    @property
    def scale(self) -> Calibration:
        """The calibrated scale.

        Raises:
            LesioncamError: if there is none.
        """
        if self.calibration is None:
            raise LesioncamError(
                f"{self.method} maps have no calibrated scale here; use .native() or .unit(), or fit one."
            )
        return self.calibration

    def unit(self) -> np.ndarray:
        """Each map scaled to [0, 1] by its own minimum and maximum, for display only; a flat map becomes zeros.

        A healthy image looks as hot as a sick one on this scale.
        """
        maps = self.native()
        return np.nan_to_num(Calibration.own_range(maps, self.geometry).probability(maps))


@dataclass(frozen=True)
class Heatmaps:
    """Raw evidence per class of a batch of prepared images, as tensors; never normalised silently.

    Attributes:
        raw: ``(N, K, *s)`` float32 without a graph; ``(N, 1, *s)`` where one class per image was asked for.
        method: name of the map method.
        layer: where in the network it was taken, a dotted name.
        scores: ``(N, K)`` or ``(N, 1)`` float32, the logits that are explained.
        size: of the network input, pixels or voxels, array order.
        classes: ``(N,)`` the class of each image; None where all K were asked for.
        origin: where the centre of the first cell lies in the network input, pixels per axis; None means half-pixel
            centres.

    Example:
        >>> import torch
        >>> maps = Heatmaps(torch.tensor([[[[0.0, 1.0]]]]), "cam", "head", torch.zeros(1, 1), (1, 4))
        >>> maps.native()
        tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
        >>> maps.flat
        tensor([[False]])
    """

    raw: Tensor
    method: str
    layer: str
    scores: Tensor
    size: tuple[int, ...]
    classes: Tensor | None = None
    origin: tuple[float, ...] | None = None

    @property
    def flat(self) -> Tensor:
        """Which maps show nothing, ``(N, K)`` bool: the same value everywhere, or not finite."""
        low, high = _range(self.raw)
        return ~((high - low).isfinite() & (high > low)).flatten(2).squeeze(-1)

    def native(self, size: Sequence[int] | None = None) -> Tensor:
        """Raw evidence at a size, ``(N, K, *size)`` float32: resized linearly, inside the raw range.

        Args:
            size: array order; None is the size of the network input. Another size is taken as the same image, scaled
                to it without a crop; the way back through crops and padding is a :class:`Geometry`.
        """
        low, high = _range(self.raw)
        maps = self.raw
        if self.origin is not None:
            way = Geometry.letterbox(self.size, self.size).weights(tuple(maps.shape[2:]), self.origin)
            for axis, weights in enumerate(way, start=2):
                maps = (maps.movedim(axis, -1) @ maps.new_tensor(weights).T).movedim(-1, axis)
        target = tuple(self.size if size is None else size)
        maps = maps if tuple(maps.shape[2:]) == target else resize(maps, target)
        return maps.clamp(low, high)  # sums of rounded weights may pass the ends of the range by one digit

    def unit(self, size: Sequence[int] | None = None) -> Tensor:
        """Each map scaled to [0, 1] by its own minimum and maximum, for display only; a flat map becomes zeros.

        A healthy image looks as hot as a sick one on this scale.
        """
        maps = self.native(size)
        low, high = _range(maps)
        usable = (high - low).isfinite() & (high > low)
        return ((maps - low) / (high - low).where(usable, 1.0)).where(usable, 0.0)


def _range(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each map of ``(N, K, *s)``, kept as ``(N, K, 1, ...)``; NaN where a map has one."""
    axes = tuple(range(2, maps.ndim))
    return maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)


@dataclass(frozen=True)
class Threshold:
    """A number that turns evidence into a decision, and where it was chosen.

    Attributes:
        value: on the probability scale; "at or above" is positive.
        source: ``val`` (fitted), ``default`` (.5, nothing to fit on), ``given`` (by the user) or ``ensemble`` (the
            mean of the members' own, chosen by nobody for their mean).
        tuned_on: keyed digests of the patients it was chosen on; plain ids never leave the run folder.
    """

    value: float
    source: Literal["val", "default", "given", "ensemble"] = "default"
    tuned_on: frozenset[str] = frozenset()

    def check_unseen(self, patients: Sequence[str]) -> None:
        """Refuse to be applied to patients (digests) it was chosen on.

        Raises:
            LesioncamError: if any of them was seen.
        """
        _refuse_seen(f"threshold {self.value:g}", self.tuned_on, patients)


@dataclass(frozen=True)
class Validation:
    """The images on which something may be chosen: the only thing that choosing functions accept.

    It cannot be made of any other split than ``val``, and whatever is chosen remembers these patients.

    Attributes:
        images: ids.
        patients: keyed digest of the patient of each image.
        splits: ``val``, once per image.

    Raises:
        LesioncamError: if an image is of another split, or there is none.

    Example:
        >>> sorted(Validation(("a", "b"), ("p", "p"), ("val", "val")).tuned_on)
        ['p']
        >>> Validation(("a",), ("p",), ("test",))
        Traceback (most recent call last):
        ...
        lesioncam.errors.LesioncamError: choices are made on `val` only; image 'a' is of split `test`. ...
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.patients) == len(self.splits):
            raise ValueError("a validation set needs one patient and one split per image.")
        for image, split in zip(self.images, self.splits, strict=True):
            if split != "val":
                raise LesioncamError(
                    f"choices are made on `val` only; image {image!r} is of split `{split}`. "
                    "Test is for the last look; keep a few images with masks as val."
                )

    @property
    def tuned_on(self) -> frozenset[str]:
        """What a choice made here has to remember."""
        return frozenset(self.patients)


@dataclass(frozen=True)
class Chosen:
    """The outcome of a choice on validation, and whom it was made on.

    Attributes:
        what: ``checkpoint``, ``method``, ``ensemble``, ``calibration`` ...
        value: what was chosen, in a word; members of an ensemble are joined by ``+``.
        tuned_on: keyed digests of the patients it was chosen on.
    """

    what: str
    value: str
    tuned_on: frozenset[str] = frozenset()

    def check_unseen(self, patients: Sequence[str]) -> None:
        """Refuse to be applied to patients (digests) it was chosen on.

        Raises:
            LesioncamError: if any of them was seen.
        """
        _refuse_seen(f"{self.what} {self.value!r}", self.tuned_on, patients)


def _refuse_seen(what: str, tuned_on: frozenset[str], patients: Sequence[str]) -> None:
    if seen := tuned_on.intersection(patients):
        raise LesioncamError(
            f"{what} was chosen on {len(seen)} of these patients; choose on `val` only, and keep each patient in one "
            "split."
        )


@dataclass(frozen=True)
class Component:
    """One connected region of a mask.

    Attributes:
        box: half-open, ``(x0, y0, x1, y1)``.
        area: pixels.
        peak: its hottest probability; NaN where no map was given.
        place: index of the hottest pixel in array order, the first of equals; empty where no map was given.
    """

    box: tuple[int, ...]
    area: int
    peak: float
    place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segmentation:
    """Masks on the image's own grid, with the thresholds that made them.

    Attributes:
        masks: ``(K, *native)`` bool.
        classes: K names.
        thresholds: one per class.
        components: per class, largest first.
    """

    masks: np.ndarray
    classes: tuple[str, ...]
    thresholds: tuple[Threshold, ...]
    components: tuple[tuple[Component, ...], ...]

    def boxes(self, label: str) -> list[tuple[int, ...]]:
        """Half-open boxes of one class, largest component first."""
        return [part.box for part in self.components[self.classes.index(label)]]

    def mask(self, label: str) -> np.ndarray:
        """The mask of one class, ``(*native)`` bool."""
        return np.asarray(self.masks[self.classes.index(label)])


@dataclass(frozen=True)
class CaseResult:
    """One image through the whole path.

    Attributes:
        id: name of the image.
        image: the file it came from.
        classes: K names.
        logits: ``(K,)`` float32, before the sigmoid.
        probabilities: ``(K,)`` float32.
        decisions: one image threshold per class.
        heatmap: raw evidence per class.
        segmentation: masks and boxes in the file's own pixels.
        features: ``(C, *s)`` before the class maps, where they were asked for.
        task: of the classifier: with ``multiclass`` and ``ordinal`` the probabilities are a softmax.
    """

    id: str
    image: str
    classes: tuple[str, ...]
    logits: np.ndarray
    probabilities: np.ndarray
    decisions: tuple[Threshold, ...]
    heatmap: Heatmap
    segmentation: Segmentation
    features: np.ndarray | None = None
    task: str = "auto"

    @property
    def exclusive(self) -> bool:
        """Whether classes exclude each other, so that the probabilities are a softmax."""
        return self.task in {"multiclass", "ordinal"}

    @property
    def expected_grade(self) -> float:
        """Of grades the mean of their places 0 ... K - 1, weighted by probability; NaN where classes are no grades."""
        if self.task != "ordinal":
            return float("nan")
        return float(np.arange(len(self.classes)) @ self.probabilities.astype(np.float64))

    @property
    def positive(self) -> tuple[bool, ...]:
        """Per class, whether the image score reaches its threshold."""
        return tuple(bool(p >= t.value) for p, t in zip(self.probabilities, self.decisions, strict=True))
