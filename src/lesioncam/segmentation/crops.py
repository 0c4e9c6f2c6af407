"""Square cut-outs of an image's own pixels around its hottest regions, all of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesioncam.errors import OptionError
from lesioncam.geometry import Geometry
from lesioncam.types import Component


@dataclass(frozen=True)
class Crop:
    """A cut-out.

    Attributes:
        pixels: ``(size, size)`` or ``(size, size, C)``, or a cube of a volume; in the image's own depth.
        box: the square that was cut, native pixels, half-open ``(x0, y0, x1, y1)``; it reaches over the border where
            the image is smaller than the square, and is filled with the image's darkest value there.
        region: the box of the region inside it.
        peak: the hottest value of the region, on the scale it was found on.
    """

    pixels: np.ndarray
    box: tuple[int, ...]
    region: tuple[int, ...]
    peak: float


def hottest(parts: Sequence[Component], n: int) -> list[Component]:
    """The n regions with the highest peaks, the larger one of equals first.

    Example:
        >>> parts = [Component((0, 0, 9, 9), 81, 0.5), Component((3, 3, 4, 4), 1, 0.9)]
        >>> [part.area for part in hottest(parts, 1)]
        [1]
    """
    return sorted(parts, key=lambda part: (-part.peak, -part.area))[:n]


def square_crop(pixels: np.ndarray, part: Component, size: int = 256, margin: float = 0.2) -> Crop:
    """Cut a square round a region and bring it to ``size``.

    The square is as large as the region's longer side plus a margin on each side, centred on the region, and moved
    inside the image where it would reach over the border.

    Args:
        pixels: ``(H, W)``, ``(H, W, C)`` or a volume, any depth.
        part: the region.
        size: side of the result, pixels.
        margin: on each side, as a share of the region's longer side.

    Raises:
        OptionError: if size or margin make no square.

    Example:
        >>> image = np.arange(100, dtype=np.uint8).reshape(10, 10)
        >>> crop = square_crop(image, Component((7, 2, 10, 4), 6, 0.9), size=3, margin=0.0)
        >>> crop.box, crop.pixels[0].tolist()
        ((7, 1, 10, 4), [17, 18, 19])
    """
    if size < 1 or margin < 0:
        raise OptionError(f"a crop needs a size of at least 1 and a margin of at least 0, got {size} and {margin:g}.")
    axes = len(part.box) // 2
    native = pixels.shape[:axes]
    start = np.array(part.box[:axes][::-1])
    stop = np.array(part.box[axes:][::-1])
    side = max(1, round(float((stop - start).max()) * (1 + 2 * margin)))
    begin = [_begin(a, b, side, n) for a, b, n in zip(start, stop, native, strict=True)]
    box = (*begin[::-1], *(first + side for first in begin[::-1]))
    return Crop(_resized(_cut(pixels, begin, side), size, axes), box, part.box, float(part.peak))


def _begin(start: int, stop: int, side: int, native: int) -> int:
    """Where a centred square begins, moved inside where it fits."""
    first = int(np.floor((start + stop - side) / 2))
    return (native - side) // 2 if side > native else min(max(0, first), native - side)


def _cut(pixels: np.ndarray, begin: Sequence[int], side: int) -> np.ndarray:
    """The square, with the darkest value where there is no image."""
    inside = tuple(slice(max(0, first), first + side) for first in begin)
    found = pixels[inside]
    if found.shape[: len(begin)] == (side,) * len(begin):
        return found
    out = np.full((side,) * len(begin) + pixels.shape[len(begin) :], pixels.min(), dtype=pixels.dtype)
    there = tuple(slice(max(0, -first), max(0, -first) + n) for first, n in zip(begin, found.shape, strict=False))
    out[there] = found
    return out


def _resized(square: np.ndarray, size: int, axes: int) -> np.ndarray:
    """Linear, antialiased where a picture shrinks; whole numbers stay whole numbers."""
    import torch

    planes = np.moveaxis(square[..., None] if square.ndim == axes else square, -1, 0)
    tensor = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None]
    scaled = Geometry.letterbox(square.shape[:axes], (size,) * axes).to_input(tensor)[0].numpy()
    back = np.moveaxis(scaled, 0, -1)
    back = back[..., 0] if square.ndim == axes else back
    if np.issubdtype(square.dtype, np.integer):
        limits = np.iinfo(square.dtype)
        back = np.clip(np.rint(back), limits.min, limits.max)
    return np.ascontiguousarray(back).astype(square.dtype)
