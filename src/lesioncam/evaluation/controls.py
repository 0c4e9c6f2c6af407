"""Controls: maps that know little or nothing of the image, measured beside every map method by the same rules.

A localisation that does not beat them has found where lesions usually are, not where this one is. Their thresholds are
fitted on the same validation masks by the same search, so that the comparison is fair. Bounds and human readers stand
beside them as marks of what is possible; they are nothing to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from lesioncam.files import read_arrays, write_arrays
from lesioncam.functional.boxes import component_boxes
from lesioncam.functional.segmentation import overlap_counts
from lesioncam.geometry import resize
from lesioncam.segmentation.mask import binarise
from lesioncam.types import Component, Heatmap, Threshold

FRAME = 64
"""Side of the unit frame in which masks of all sizes are averaged."""

BOUNDS = ("resolution_ceiling", "supervised_bound")
"""Marks of what is possible; nothing to beat."""

READER = "reader:"
"""What the name of a human reader's row begins with."""


class MeanMask:
    """Mean of the validation masks of each class, on a unit frame: where lesions usually are.

    Example:
        >>> masks = MeanMask(("mass",))
        >>> masks.add(0, np.array([[True, False], [False, False]]))
        >>> masks.maps((2, 2))[0].round(2).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, classes: Sequence[str], axes: int = 2) -> None:
        """Start with no mask at all; ``axes`` is 2 for images, 3 for volumes."""
        self.classes = tuple(classes)
        self.total = np.zeros((len(self.classes), *(FRAME,) * axes))
        self.images = np.zeros(len(self.classes), dtype=np.int64)

    def add(self, class_index: int, mask: np.ndarray) -> None:
        """Add one mask ``(*native)`` of any size by area averages; an empty one is passed over."""
        if np.any(mask):
            if not self.images.any() and np.ndim(mask) != self.total.ndim - 1:  # the first one tells the axes
                self.total = np.zeros((len(self.classes), *(FRAME,) * np.ndim(mask)))
            self.total[class_index] += _to_frame(np.asarray(mask, dtype=np.float64))
            self.images[class_index] += 1

    def maps(self, native: Sequence[int]) -> np.ndarray:
        """Mean masks on a native grid, ``(K, *native)`` float32 in [0, 1], resized linearly; zeros without any mask."""
        import torch

        if not self.images.any():
            return np.zeros((len(self.classes), *native), dtype=np.float32)
        shape = (-1,) + (1,) * (self.total.ndim - 1)
        mean = self.total / np.maximum(1, self.images).reshape(shape)
        return np.asarray(resize(torch.from_numpy(mean)[None], tuple(native))[0].numpy())

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` whole or not at all."""
        return write_arrays(path, {"classes": np.array(self.classes), "total": self.total, "images": self.images})

    @classmethod
    def load(cls, path: Path) -> MeanMask:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            RunError: if the file is missing or is something else.
        """
        names = ("classes", "total", "images")
        content = read_arrays(path, names, what="mean masks", remedy="calibrate or run again")
        masks = cls([str(name) for name in content["classes"]], content["total"].ndim - 1)
        masks.total, masks.images = content["total"], content["images"]
        return masks


@dataclass(frozen=True)
class Scene:
    """All that a control may know of one image.

    Attributes:
        image: id of the image.
        heatmap: only its shape and geometry are used.
        masks: mean masks of the validation split.
        seed: of the run.
        grey: the image's own brightness, ``(*native)`` float32 in [0, 1]; for the brightness map alone.
        few_shot: probability maps of the few-shot head on the class maps' grid, ``(K, *s)``; None without features.
        wanted: the k classes that are drawn; None draws all K.
    """

    image: str
    heatmap: Heatmap
    masks: MeanMask
    seed: int = 0
    grey: np.ndarray | None = None
    few_shot: np.ndarray | None = None
    wanted: tuple[int, ...] | None = None

    @property
    def indices(self) -> list[int]:
        """The classes that are drawn."""
        return list(range(len(self.heatmap.classes)) if self.wanted is None else self.wanted)

    def spread(self, image: np.ndarray) -> np.ndarray:
        """One picture for every class that is drawn, read-only."""
        return np.broadcast_to(image, (len(self.indices), *self.heatmap.geometry.native))


class Cut(NamedTuple):
    """A map at its threshold: the mask ``(*native)`` and its connected regions, largest first."""

    mask: np.ndarray
    parts: Sequence[Component]


@dataclass(frozen=True)
class ControlMap:
    """A control's maps of one image and its thresholds.

    Attributes:
        maps: class index -> ``(*native)`` in [0, 1]; a class without an entry was not drawn.
        thresholds: by class index.
        known: class index -> mask and regions, where the same map was cut before; filled by `cut`.
    """

    maps: Mapping[int, np.ndarray]
    thresholds: Mapping[int, Threshold] | Sequence[Threshold] = field(default_factory=tuple)
    known: dict[int, Cut] = field(default_factory=dict)

    def cut(self, k: int) -> Cut:
        """Mask and regions of one class; worked out once."""
        found = self.known.get(k)
        if found is None:
            mask = binarise(self.maps[k], self.thresholds[k].value)
            found = self.known[k] = Cut(mask, component_boxes(mask, self.maps[k]))
        return found

    def area(self, k: int) -> int:
        """Pixels of the mask of one class."""
        found = self.known.get(k)
        mask = binarise(self.maps[k], self.thresholds[k].value) if found is None else found.mask
        return int(np.count_nonzero(mask))


def random_map(scene: Scene) -> np.ndarray:
    """Uniform noise on the class maps' own coarse grid, carried home like a map; the same for a seed and an image id.

    Returns:
        ``(k, *native)`` float32 in [0, 1]; 0 where the network saw nothing.
    """
    digest = blake2b(f"{scene.seed}:{scene.image}".encode(), digest_size=16).digest()
    noise = np.random.default_rng(int.from_bytes(digest)).random(scene.heatmap.raw.shape, dtype=np.float32)
    return scene.heatmap.geometry.to_native(noise[scene.indices], fill=0.0)


def centre_prior(scene: Scene) -> np.ndarray:
    """A Gaussian at the centre of the image, standard deviation a quarter of each side; 1 at its top.

    Returns:
        ``(k, *native)`` float32 (read-only), the same for every class.
    """
    bell = np.ones((), dtype=np.float32)
    for size in scene.heatmap.geometry.native:
        place = (np.arange(size) + 0.5) / size - 0.5
        bell = np.multiply.outer(bell, np.exp(-0.5 * (place / 0.25) ** 2).astype(np.float32))
    return scene.spread(bell)


def mean_mask(scene: Scene) -> np.ndarray:
    """The mean validation mask of each class.

    Returns:
        ``(k, *native)`` float32 in [0, 1].
    """
    return scene.masks.maps(scene.heatmap.geometry.native)[scene.indices]


def uniform_map(scene: Scene) -> np.ndarray:
    """One half everywhere: "the lesion is the whole image". It never points anywhere.

    Returns:
        ``(k, *native)`` float32 (read-only).
    """
    return scene.spread(np.full((), 0.5, dtype=np.float32))


def brightness_map(scene: Scene) -> np.ndarray:
    """The image itself as a map: what is bright is called a lesion.

    Returns:
        ``(k, *native)`` float32 in [0, 1] (read-only), the same for every class; zeros where no image was given.
    """
    native = scene.heatmap.geometry.native
    grey = np.zeros(native, dtype=np.float32) if scene.grey is None else scene.grey
    return scene.spread(grey)


def few_shot(scene: Scene) -> np.ndarray:
    """A 1x1 logistic head on the frozen features, fitted on the validation masks, carried home like a map.

    Returns:
        ``(k, *native)`` float32 in [0, 1]; zeros where there are no features.
    """
    if scene.few_shot is None:
        return scene.spread(np.zeros((), dtype=np.float32))
    return scene.heatmap.geometry.to_native(scene.few_shot[scene.indices], fill=0.0, origin=scene.heatmap.origin)


CONTROLS: dict[str, Callable[[Scene], np.ndarray]] = {
    "random_map": random_map,
    "centre_prior": centre_prior,
    "mean_mask": mean_mask,
    "uniform_map": uniform_map,
    "brightness_map": brightness_map,
    "few_shot": few_shot,
}
"""Every control, from name to maps."""

STILL = frozenset({"centre_prior", "mean_mask", "uniform_map"})
"""Controls that are the same for all images of one size."""


def is_method(name: str) -> bool:
    """Whether rows of this name are a map method's, and not a control's, a bound's or a reader's.

    Example:
        >>> [is_method(name) for name in ("cam", "random_map", "resolution_ceiling", "reader:A")]
        [True, False, False, False]
    """
    return name not in CONTROLS and name not in BOUNDS and not name.startswith(READER)


class Ceiling(NamedTuple):
    """A map on the native grid, ``(*native)`` in [0, 1], and the threshold at which it covers the lesion best."""

    map: np.ndarray
    threshold: float
    dice: float


STEPS = 150
"""Of the ascent to the ceiling; more change nothing (tests)."""

MOST = {1: 96, 2: 96, 3: 40}
"""Pixels per axis that the ascent looks at, by the number of axes; the Dice it is judged by is that of all pixels."""


def resolution_ceiling(heatmap: Heatmap, mask: np.ndarray) -> Ceiling:
    """The best overlap a map of this grid can reach, drawn with the truth in hand.

    Gradient ascent on the soft Dice of a free map, from the means of the mask in each cell and from its least-squares
    fit; the threshold is 0 by construction. What can be reached is at least this.

    Args:
        heatmap: only grid, origin and geometry are used.
        mask: truth, ``(*native)`` bool, not empty.

    Returns:
        The map as a probability (it is an oracle), its threshold .5, and its Dice.
    """
    geometry, grid = heatmap.geometry, heatmap.raw.shape[1:]
    ways = geometry.weights(grid, heatmap.origin)
    seen = mask[tuple(slice(a, b) for a, b in geometry.crop)]
    nearest = _along(seen.astype(np.float32), [np.linalg.pinv(way) for way in ways])
    starts = geometry.to_cells(mask, grid, heatmap.origin).astype(np.float32), nearest
    return max((_judged(heatmap, _ascend(start, seen, ways), mask) for start in starts), key=lambda one: one.dice)


def _judged(heatmap: Heatmap, cells: np.ndarray, mask: np.ndarray) -> Ceiling:
    logits = heatmap.geometry.to_native(cells[None].astype(np.float32), origin=heatmap.origin)[0]
    return Ceiling(expit(logits), 0.5, overlap_counts(logits >= 0, mask).dice)


def _ascend(start: np.ndarray, mask: np.ndarray, ways: Sequence[np.ndarray]) -> np.ndarray:
    """Cells ``(*s)``, positive where the map should be lesion: Adam on the soft Dice, ever steeper."""
    span = max(float(np.ptp(start)), 1e-9)
    cells = 4 * (start - start.min()) / span - 2
    target, near = _near(mask, ways)
    first, second = np.zeros_like(cells), np.zeros_like(cells)
    for step in range(1, STEPS + 1):
        steep = 1 + step / 15
        soft = expit(steep * _along(cells, near))
        both, size = float((soft * target).sum()), float(soft.sum() + target.sum())
        slope = (2 * target / size - 2 * both / size**2) * steep * soft * (1 - soft)
        gradient = _along(slope, [way.T for way in near])
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        cells += 0.3 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-9)
    return cells


def _near(mask: np.ndarray, ways: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The lesion with two cells around it, thinned to at most `MOST` pixels per axis, and the way there."""
    rows = []
    for axis, way in enumerate(ways):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        margin = 2 * -(-len(way) // way.shape[1])
        low, high = (max(0, hit[0] - margin), min(len(way), hit[-1] + 1 + margin)) if len(hit) else (0, len(way))
        rows.append(np.arange(low, high, -(-(high - low) // MOST[mask.ndim])))
    return mask[np.ix_(*rows)].astype(np.float32), [way[kept] for way, kept in zip(ways, rows, strict=True)]


def _along(values: np.ndarray, ways: Sequence[np.ndarray]) -> np.ndarray:
    """Each axis through its matrix."""
    if len(ways) == 2:
        return np.asarray(ways[0] @ values @ ways[1].T)
    for axis, way in enumerate(ways):
        values = np.moveaxis(np.tensordot(way, values, axes=(1, axis)), 0, axis)
    return values


def _to_frame(mask: np.ndarray) -> np.ndarray:
    """Area average of each cell of the frame, axis by axis."""
    for axis, size in enumerate(mask.shape):
        mask = np.moveaxis(np.tensordot(_overlaps(size), mask, axes=(1, axis)), 0, axis)
    return mask


def _overlaps(size: int) -> np.ndarray:
    """``(FRAME, size)``: the share of each frame cell that each pixel covers; rows sum to 1."""
    edges = np.arange(FRAME + 1)[:, None] * size / FRAME
    pixels = np.arange(size)[None]
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.asarray(np.maximum(covered, 0.0) * FRAME / size)
