"""Controls: maps that know nothing of the image, measured beside every map method by the same rules.

A localisation that does not beat them has found where lesions usually are, not where this one is. Their thresholds are
fitted on the same validation masks by the same search, so that the comparison is fair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from lesioncam.errors import RunError
from lesioncam.files import write_with
from lesioncam.geometry import resize
from lesioncam.types import Heatmap, Threshold

__all__ = ["CONTROLS", "ControlMap", "MeanMask", "Scene", "centre_prior", "control_maps", "mean_mask", "random_map"]

FRAME = 64
"""Side of the unit frame in which masks of all sizes are averaged."""


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
            self.total[class_index] += _to_frame(np.asarray(mask, dtype=np.float64))
            self.images[class_index] += 1

    def maps(self, native: Sequence[int]) -> np.ndarray:
        """Mean masks on a native grid, ``(K, *native)`` float32 in [0, 1], resized linearly; zeros without any mask."""
        import torch

        shape = (-1,) + (1,) * (self.total.ndim - 1)
        mean = self.total / np.maximum(1, self.images).reshape(shape)
        return np.asarray(resize(torch.from_numpy(mean)[None], tuple(native))[0].numpy())

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` whole or not at all."""
        names = np.array(self.classes)
        return write_with(
            path, lambda part: np.savez_compressed(part, classes=names, total=self.total, images=self.images)
        )

    @classmethod
    def load(cls, path: Path) -> MeanMask:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            RunError: if the file is missing or is something else.
        """
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
                masks = cls([str(name) for name in content["classes"]], content["total"].ndim - 1)
                masks.total, masks.images = content["total"], content["images"]
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise RunError(f"{path} holds no mean masks ({error}); calibrate or run again.") from error
        return masks


@dataclass(frozen=True)
class Scene:
    """All that a control may know: name, sizes and grid of an image, never its pixels.

    Attributes:
        image: id of the image.
        heatmap: only its shape and geometry are used.
        masks: mean masks of the validation split.
        seed: of the run.
    """

    image: str
    heatmap: Heatmap
    masks: MeanMask
    seed: int = 0


class ControlMap(NamedTuple):
    """A control's maps of one image, ``(K, *native)`` in [0, 1], and its thresholds, K."""

    maps: np.ndarray
    thresholds: Sequence[Threshold]


def random_map(scene: Scene) -> np.ndarray:
    """Uniform noise on the class maps' own coarse grid, carried home like a map; the same for a seed and an image id.

    Returns:
        ``(K, *native)`` float32 in [0, 1]; 0 where the network saw nothing.
    """
    digest = blake2b(f"{scene.seed}:{scene.image}".encode(), digest_size=16).digest()
    noise = np.random.default_rng(int.from_bytes(digest)).random(scene.heatmap.raw.shape, dtype=np.float32)
    return scene.heatmap.geometry.to_native(noise, fill=0.0)


def centre_prior(scene: Scene) -> np.ndarray:
    """A Gaussian at the centre of the image, standard deviation a quarter of each side; 1 at its top.

    Returns:
        ``(K, *native)`` float32 (read-only), the same for every class.
    """
    bell = np.ones((), dtype=np.float32)
    for size in scene.heatmap.geometry.native:
        place = (np.arange(size) + 0.5) / size - 0.5
        bell = np.multiply.outer(bell, np.exp(-0.5 * (place / 0.25) ** 2).astype(np.float32))
    return np.broadcast_to(bell, (len(scene.heatmap.classes), *bell.shape))


def mean_mask(scene: Scene) -> np.ndarray:
    """The mean validation mask of each class.

    Returns:
        ``(K, *native)`` float32 in [0, 1].
    """
    return scene.masks.maps(scene.heatmap.geometry.native)


CONTROLS: dict[str, Callable[[Scene], np.ndarray]] = {
    "random_map": random_map,
    "centre_prior": centre_prior,
    "mean_mask": mean_mask,
}


def control_maps(scene: Scene) -> dict[str, np.ndarray]:
    """The maps of every control for one image, each ``(K, *native)`` float32 in [0, 1]."""
    return {name: control(scene) for name, control in CONTROLS.items()}


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
