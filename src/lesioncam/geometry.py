"""Geometry: how a network input was cut from the native image, and the way back.

A native grid is cropped (optionally), scaled with its aspect ratio kept, and padded to a fixed input ("letter-box").
Everything is written once for 2D ``(H, W)`` and 3D ``(D, H, W)``; sizes are in array order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lesioncam.errors import GeometryError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OUTSIDE", "Geometry", "resize"]

OUTSIDE = -20.0
"""Logit of places the network never saw (outside a foreground crop): probability 2e-9, colder than any evidence."""

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Linear resize with half-pixel centres: cell ``i`` lands at ``s * i + (s - 1) / 2``, inside the value range.

    Args:
        maps: shape ``(N, K, *s)``, one to three spatial axes, float.
        grid: target size in array order.

    Returns:
        Shape ``(N, K, *grid)``, float32.

    Example:
        >>> import torch
        >>> resize(torch.tensor([[[0.0, 1.0]]]), [4])
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    import torch.nn.functional as F

    return F.interpolate(maps.float(), tuple(grid), mode=_MODES[len(grid)], align_corners=False)


@dataclass(frozen=True)
class Geometry:
    """How the network input was cut from the native image.

    Attributes:
        native: size of the image in the file, pixels or voxels, array order.
        input: size of the network input, pixels or voxels, array order.
        crop: ``(start, stop)`` per axis in native pixels, half-open.
        centred: padding on both sides (True) or at the far end only.
        spacing: pitch in mm per axis; None if the file does not say.

    Example:
        >>> g = Geometry.letterbox((200, 100), (64, 64))
        >>> g.scaled, g.offset
        ((64, 32), (0, 16))
        >>> g.to_native_points([[31.5, 31.5]])
        array([[99.5, 49.5]])
    """

    native: tuple[int, ...]
    input: tuple[int, ...]
    crop: tuple[tuple[int, int], ...]
    centred: bool = True
    spacing: tuple[float, ...] | None = None

    @classmethod
    def letterbox(
        cls,
        native: Sequence[int],
        size: Sequence[int],
        *,
        crop: Sequence[tuple[int, int]] | None = None,
        centred: bool = True,
        spacing: Sequence[float] | None = None,
    ) -> Geometry:
        """Plan a letter-box of a native grid (or a crop of it) into an input of ``size``.

        Raises:
            GeometryError: if an extent is empty or the numbers of axes differ.
        """
        whole = tuple((0, int(n)) for n in native)
        chosen = tuple((int(a), int(b)) for a, b in crop) if crop is not None else whole
        if len(native) != len(size) or len(chosen) != len(size):
            raise GeometryError(
                f"native size {tuple(native)} and input size {tuple(size)} have different numbers of axes."
            )
        if min(size) < 1 or any(not 0 <= a < b <= n for (a, b), n in zip(chosen, native, strict=True)):
            raise GeometryError(
                f"crop {chosen} does not lie inside an image of {tuple(native)}; give start < stop inside it."
            )
        pitch = tuple(float(s) for s in spacing) if spacing is not None else None
        return cls(tuple(int(n) for n in native), tuple(int(n) for n in size), chosen, centred, pitch)

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the crop, native pixels."""
        return tuple(stop - start for start, stop in self.crop)

    @property
    def scaled(self) -> tuple[int, ...]:
        """Size of the crop inside the input, input pixels."""
        scale = min(size / extent for size, extent in zip(self.input, self.extent, strict=True))
        return tuple(
            min(size, max(1, round(extent * scale))) for size, extent in zip(self.input, self.extent, strict=True)
        )

    @property
    def offset(self) -> tuple[int, ...]:
        """Where the scaled crop begins inside the input, input pixels."""
        if not self.centred:
            return (0,) * len(self.input)
        return tuple((size - scaled) // 2 for size, scaled in zip(self.input, self.scaled, strict=True))

    def to_input(self, images: Tensor, fill: float = 0.0) -> Tensor:
        """Cut, scale (antialiased when it shrinks) and pad native images ``(N, C, *native)`` to ``(N, C, *input)``."""
        import torch.nn.functional as F

        self._expect(images.shape[2:], self.native)
        window: Any = (..., *(slice(a, b) for a, b in self.crop))
        cut = images[window].float()
        shrinks = self.scaled < self.extent and len(self.input) == 2
        if self.scaled != self.extent:
            mode = _MODES[len(self.input)]
            cut = F.interpolate(cut, self.scaled, mode=mode, align_corners=False, antialias=shrinks)
        pads: list[int] = []
        for size, scaled, offset in reversed(list(zip(self.input, self.scaled, self.offset, strict=True))):
            pads += [offset, size - scaled - offset]
        return F.pad(cut, pads, value=fill)

    def valid(self) -> np.ndarray:
        """Where the input shows image and not padding, ``(*input)`` bool."""
        inside = np.zeros(self.input, dtype=bool)
        inside[self._window] = True
        return inside

    def to_native(self, maps: np.ndarray, fill: float = OUTSIDE, origin: Sequence[float] | None = None) -> np.ndarray:
        """Carry maps ``(K, *s)`` of any resolution over the input back to the native grid, ``(K, *native)`` float32.

        Args:
            maps: K maps.
            fill: what stands outside the crop, where the network saw nothing.
            origin: where the centre of the first cell lies in the input, pixels per axis; None means half-pixel
                centres, ``(pitch - 1) / 2``. A network padded on both sides looks at pixel ``i * pitch`` instead.

        Returns:
            Linear in between, inside the range of the maps.
        """
        cut, ways = np.asarray(maps, dtype=np.float32), self.weights(maps.shape[1:], origin)
        if len(ways) == 2:  # one product per map, already in order
            cut = ways[0] @ (cut @ ways[1].T)
        else:
            for axis, weights in enumerate(ways):
                cut = np.moveaxis(np.tensordot(weights, cut, axes=(1, axis + 1)), 0, axis + 1)
            cut = np.ascontiguousarray(cut)
        if self.extent == self.native:
            return cut
        out = np.full((len(maps), *self.native), fill, dtype=np.float32)
        window: Any = (..., *(slice(a, b) for a, b in self.crop))
        out[window] = cut
        return out

    def weights(self, grid: Sequence[int], origin: Sequence[float] | None = None) -> tuple[np.ndarray, ...]:
        """The linear way home, axis by axis: ``native = A_0 ... A_n map`` inside the crop.

        Args:
            grid: size of the map.
            origin: as in :meth:`to_native`.

        Returns:
            Per axis ``(extent, cells)`` float32; rows sum to 1, nothing is negative.
        """
        found = []
        for axis, (window, size, extent) in enumerate(zip(self._window, self.input, self.extent, strict=True)):
            pitch = size / grid[axis]
            first = (pitch - 1) / 2 if origin is None else origin[axis]
            spread = _linear(np.arange(window.start, window.stop), grid[axis], first, pitch)
            scaled = window.stop - window.start
            if scaled != extent:
                stretch = extent / scaled
                spread = _linear(np.arange(extent), scaled, (stretch - 1) / 2, stretch) @ spread
            found.append(spread)
        return tuple(found)

    def to_cells(self, image: np.ndarray, grid: Sequence[int], origin: Sequence[float] | None = None) -> np.ndarray:
        """What each cell of a map sees of a native image or mask: means by the same weights that carry maps home.

        Args:
            image: ``(*native)``.
            grid: size of the map.
            origin: as in :meth:`to_native`.

        Returns:
            ``(*grid)`` float64, inside the range of the image; a cell that reaches nothing is 0.
        """
        cells = np.asarray(image, dtype=np.float64)[tuple(slice(a, b) for a, b in self.crop)]
        for axis, way in enumerate(self.weights(grid, origin)):
            share = way.T / np.maximum(way.sum(axis=0, dtype=np.float64), 1e-12)[:, None]
            cells = np.moveaxis(np.tensordot(share, cells, axes=(1, axis)), 0, axis)
        return cells

    def to_native_points(self, points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        """Carry pixel-centre coordinates ``(n, axes)`` (array order) from the input to the native grid."""
        scale, offset, start = self._affine()
        return np.asarray((np.asarray(points, dtype=float) - offset + 0.5) / scale - 0.5 + start)

    def to_input_points(self, points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        """Carry pixel-centre coordinates ``(n, axes)`` (array order) from the native grid to the input."""
        scale, offset, start = self._affine()
        return np.asarray((np.asarray(points, dtype=float) - start + 0.5) * scale - 0.5 + offset)

    @property
    def _window(self) -> tuple[slice, ...]:
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.scaled, strict=True))

    def _affine(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale = np.array(self.scaled) / np.array(self.extent)
        return scale, np.array(self.offset), np.array([start for start, _ in self.crop])

    @staticmethod
    def _expect(found: Sequence[int], expected: Sequence[int]) -> None:
        if tuple(found) != tuple(expected):
            raise GeometryError(f"the image is {tuple(found)} but this geometry was planned for {tuple(expected)}.")


def _linear(pixels: np.ndarray, cells: int, first: float, pitch: float) -> np.ndarray:
    """Weights ``(pixels, cells)`` of linear interpolation between cell centres, held constant beyond the outer ones."""
    place = np.clip((pixels - first) / pitch, 0, cells - 1)
    low = np.minimum(place.astype(int), cells - 1)
    weights = np.zeros((len(pixels), cells), dtype=np.float32)
    weights[np.arange(len(pixels)), low] = 1 - (place - low)
    weights[np.arange(len(pixels)), np.minimum(low + 1, cells - 1)] += place - low
    return weights
