"""Geometry: how a network input was cut from the native image, and the way back.

Two ways: a native grid is cropped (optionally), scaled with its aspect ratio kept and padded to a fixed input
("letter-box"); or it is scaled as a whole and the middle of it is the input ("resize, then centre crop", timm's way).
Everything is written once for 2D ``(H, W)`` and 3D ``(D, H, W)``; sizes are in array order. A letter-box keeps the
proportions of the body, not of the array: where voxels are no cubes, ``aspect`` says how long each of their sides is.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lesioncam.errors import GeometryError

if TYPE_CHECKING:
    from torch import Tensor


OUTSIDE = -20.0
"""Logit of places the network never saw (outside a crop): probability 2e-9, colder than any evidence."""

CropMode = Literal["center", "squash", "border"]
"""How timm brings an image to a fixed size: cut the longer side, forget the proportions, or pad the shorter side."""

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
        crop: the native pixels that the input shows, ``(start, stop)`` per axis, half-open.
        centred: padding on both sides (True) or at the far end only.
        spacing: pitch in mm per axis; None if the file does not say.
        whole: size to which the whole image was scaled before the input was cut from it; None for a letter-box.
        shift: where the first pixel of the whole scaled image lies in the input, negative where it was cut off; None
            for a letter-box.
        affine: from an index of the native array to mm, right, anterior, superior; None where nothing is known.
        aspect: length of a native pixel along each axis, relative; the letter-box makes them equal. None: they are.

    Example:
        >>> g = Geometry.letterbox((200, 100), (64, 64))
        >>> g.scaled, g.offset
        ((64, 32), (0, 16))
        >>> g.to_input_points([[99.5, 49.5]])
        array([[31.5, 31.5]])
        >>> Geometry.letterbox((20, 100, 100), (50, 50, 50), aspect=(5.0, 1.0, 1.0)).scaled      # thick slices
        (50, 50, 50)
    """

    native: tuple[int, ...]
    input: tuple[int, ...]
    crop: tuple[tuple[int, int], ...]
    centred: bool = True
    spacing: tuple[float, ...] | None = None
    whole: tuple[int, ...] | None = None
    shift: tuple[int, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    aspect: tuple[float, ...] | None = None

    @classmethod
    def letterbox(
        cls,
        native: Sequence[int],
        size: Sequence[int],
        *,
        crop: Sequence[tuple[int, int]] | None = None,
        centred: bool = True,
        spacing: Sequence[float] | None = None,
        affine: tuple[tuple[float, ...], ...] | None = None,
        aspect: Sequence[float] | None = None,
    ) -> Geometry:
        """Plan a letter-box of a native grid (or a crop of it) into an input of ``size``; see the attributes.

        Raises:
            GeometryError: if an extent is empty, the numbers of axes differ, or an aspect is no length.
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
        sides = tuple(float(s) for s in aspect) if aspect is not None else None
        if sides is not None and (len(sides) != len(size) or not all(0 < side < math.inf for side in sides)):
            raise GeometryError(f"aspect {sides} must be {len(size)} positive lengths, one per axis.")
        return cls(
            tuple(int(n) for n in native),
            tuple(int(n) for n in size),
            chosen,
            centred,
            pitch,
            affine=affine,
            aspect=sides,
        )

    @classmethod
    def resize_crop(
        cls,
        native: Sequence[int],
        size: Sequence[int],
        *,
        crop_pct: float = 0.875,
        mode: CropMode = "center",
        spacing: Sequence[float] | None = None,
    ) -> Geometry:
        """Plan timm's evaluation transform: scale the whole image to ``size / crop_pct``, then take the middle.

        Args:
            native: size of the image, pixels.
            size: of the network input, pixels.
            crop_pct: share of the scaled image's side that the input shows.
            mode: ``center`` scales the shorter side and cuts the longer one; ``squash`` scales both sides and forgets
                the proportions; ``border`` scales the longer side and pads the shorter one.
            spacing: pitch in mm per axis.

        Raises:
            GeometryError: if an extent is empty or the numbers of axes differ.

        Example:
            >>> g = Geometry.resize_crop((2500, 3000), (224, 224))
            >>> g.scaled, g.offset, g.crop      # Resize(256), CenterCrop(224)
            ((256, 307), (-16, -42), ((156, 2344), (410, 2599)))
        """
        if len(native) != len(size):
            raise GeometryError(
                f"native size {tuple(native)} and input size {tuple(size)} have different numbers of axes."
            )
        if min(*size, *native) < 1 or crop_pct <= 0:
            raise GeometryError(
                f"an image of {tuple(native)} cannot be cut to {tuple(size)} at crop_pct {crop_pct:g}; all of these "
                "must be positive."
            )
        sides = tuple(int(n) for n in native)
        whole = _scaled_whole(sides, tuple(math.floor(n / crop_pct) for n in size), mode)
        shift = tuple(_centre_shift(n, target) for n, target in zip(whole, size, strict=True))
        shown = tuple(_shown(*axis) for axis in zip(sides, whole, shift, size, strict=True))
        pitch = None if spacing is None else tuple(float(s) for s in spacing)
        return cls(sides, tuple(int(n) for n in size), shown, spacing=pitch, whole=whole, shift=shift)

    @property
    def extent(self) -> tuple[int, ...]:
        """Size of the crop, native pixels."""
        return tuple(stop - start for start, stop in self.crop)

    @property
    def source(self) -> tuple[tuple[int, int], ...]:
        """What was scaled, ``(start, stop)`` per axis in native pixels: the crop of a letter-box, or the whole."""
        return self.crop if self.whole is None else tuple((0, n) for n in self.native)

    @property
    def scaled(self) -> tuple[int, ...]:
        """Size of what was scaled, input pixels; larger than the input where the input was cut from it."""
        if self.whole is not None:
            return self.whole
        sides = self.extent if self.aspect is None else tuple(map(operator.mul, self.extent, self.aspect))
        scale = min(size / side for size, side in zip(self.input, sides, strict=True))
        return tuple(min(size, max(1, round(side * scale))) for size, side in zip(self.input, sides, strict=True))

    @property
    def offset(self) -> tuple[int, ...]:
        """Where what was scaled begins, input pixels; negative where it was cut off."""
        if self.shift is not None:
            return self.shift
        if not self.centred:
            return (0,) * len(self.input)
        return tuple((size - scaled) // 2 for size, scaled in zip(self.input, self.scaled, strict=True))

    def to_input(self, images: Tensor, fill: float = 0.0) -> Tensor:
        """Cut, scale (antialiased when it shrinks) and pad native images ``(N, C, *native)`` to ``(N, C, *input)``."""
        import torch.nn.functional as F

        self._expect(images.shape[2:], self.native)
        cut = images[(slice(None), slice(None), *(slice(a, b) for a, b in self.source))].float()
        shrinks = self.scaled < self._source_extent and len(self.input) == 2
        if self.scaled != self._source_extent and len(self.input) == 3:
            cut = _shrunk(cut, self.scaled)
        if self.scaled != tuple(cut.shape[2:]):
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

    def seen(self) -> np.ndarray:
        """The native pixels that the input shows, ``(*native)`` bool.

        Example:
            >>> Geometry.letterbox((1, 4), (1, 2), crop=((0, 1), (1, 3))).seen().tolist()
            [[False, True, True, False]]
        """
        inside = np.zeros(self.native, dtype=bool)
        inside[tuple(slice(start, stop) for start, stop in self.crop)] = True
        return inside

    def to_native(
        self,
        maps: np.ndarray,
        fill: float | np.ndarray | None = None,
        origin: Sequence[float] | None = None,
        pitch: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Carry maps ``(K, *s)`` of any resolution over the input back to the native grid, ``(K, *native)`` float32.

        Args:
            maps: K maps.
            fill: what stands outside the crop, where the network saw nothing: a number, or one per map; by default
                ``OUTSIDE``, or the coldest value of the map where that is colder still.
            origin: where the centre of the first cell lies in the input, pixels per axis; None means half-pixel
                centres, ``(pitch - 1) / 2``. A network padded on both sides looks at pixel ``i * pitch`` instead.
            pitch: input pixels from cell to cell; see :meth:`pitch`.

        Returns:
            Linear in between, inside the range of the maps.
        """
        cut, ways = np.asarray(maps, dtype=np.float32), self.weights(maps.shape[1:], origin, pitch)
        if len(ways) == 2:  # one product per map, already in order
            cut = ways[0] @ (cut @ ways[1].T)
        else:
            for axis, weights in enumerate(ways):
                cut = np.moveaxis(np.tensordot(weights, cut, axes=(1, axis + 1)), 0, axis + 1)
            cut = np.ascontiguousarray(cut)
        if self.extent == self.native:
            return cut
        if fill is None:
            coldest = np.min(np.asarray(maps, dtype=np.float32), axis=tuple(range(1, np.ndim(maps))), initial=OUTSIDE)
            fill = np.where(np.isnan(coldest), np.float32(OUTSIDE), coldest)
        out = np.empty((len(maps), *self.native), dtype=np.float32)
        out[:] = np.reshape(np.asarray(fill, dtype=np.float32), (-1,) + (1,) * len(self.native))
        out[(slice(None), *(slice(a, b) for a, b in self.crop))] = cut
        return out

    def weights(
        self, grid: Sequence[int], origin: Sequence[float] | None = None, pitch: Sequence[float] | None = None
    ) -> tuple[np.ndarray, ...]:
        """The linear way home, axis by axis: ``native = A_0 ... A_n map`` inside the crop.

        Args:
            grid: size of the map.
            origin: as in :meth:`to_native`.
            pitch: as in :meth:`to_native`.

        Returns:
            Per axis ``(extent, cells)`` float32; rows sum to 1, nothing is negative.
        """
        found = []
        steps = self.pitch(grid, origin) if pitch is None else tuple(pitch)
        for axis, (offset, scaled) in enumerate(zip(self.offset, self.scaled, strict=True)):
            first = (steps[axis] - 1) / 2 if origin is None else origin[axis]
            spread = _linear(np.arange(offset, offset + scaled), grid[axis], first, steps[axis])
            (begin, end), (start, stop) = self.source[axis], self.crop[axis]
            shown = np.arange(start - begin, stop - begin)
            if scaled != end - begin:
                stretch = (end - begin) / scaled
                spread = _linear(shown, scaled, (stretch - 1) / 2, stretch) @ spread
            else:
                spread = spread[shown]
            found.append(spread)
        return tuple(found)

    def pitch(self, grid: Sequence[int], origin: Sequence[float] | None = None) -> tuple[float, ...]:
        """Input pixels from cell to cell of a map, per axis.

        The map's cells share the input evenly, unless the network is known to stride (``origin`` was measured) and the
        input is no multiple of its stride: 8 cells over 240 pixels are 32 pixels apart, the last one hangs over.

        Example:
            >>> g = Geometry.letterbox((240, 240), (240, 240))
            >>> g.pitch((8, 8)), g.pitch((8, 8), origin=(0.0, 0.0))
            ((30.0, 30.0), (32.0, 32.0))
        """
        shares = tuple(size / cells for size, cells in zip(self.input, grid, strict=True))
        if origin is None:
            return shares
        return tuple(_stride(size, cells) or share for size, cells, share in zip(self.input, grid, shares, strict=True))

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

    def to_input_points(self, points: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
        """Carry pixel-centre coordinates ``(n, axes)`` (array order) from the native grid to the input."""
        scale, offset, start = self._affine()
        return np.asarray((np.asarray(points, dtype=float) - start + 0.5) * scale - 0.5 + offset)

    @property
    def _window(self) -> tuple[slice, ...]:
        """Where the input shows image."""
        sides = zip(self.offset, self.scaled, self.input, strict=True)
        return tuple(slice(max(0, offset), min(size, offset + scaled)) for offset, scaled, size in sides)

    @property
    def _source_extent(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.source)

    def _affine(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale = np.array(self.scaled) / np.array(self._source_extent)
        return scale, np.array(self.offset), np.array([start for start, _ in self.source])

    @staticmethod
    def _expect(found: Sequence[int], expected: Sequence[int]) -> None:
        if tuple(found) != tuple(expected):
            raise GeometryError(f"the image is {tuple(found)} but this geometry was planned for {tuple(expected)}.")


def _shrunk(volume: Tensor, size: Sequence[int]) -> Tensor:
    """A volume brought to ``size`` along the axes that shrink, antialiased: torch does so for pictures only."""
    for axis, (length, wanted) in enumerate(zip(volume.shape[2:], size, strict=True), start=2):
        if wanted < length:
            weights = volume.new_tensor(_triangles(length, wanted))
            volume = (volume.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return volume


def _triangles(length: int, wanted: int) -> np.ndarray:
    """Weights ``(wanted, length)``: a triangle round each new centre, as wide as two new pixels; rows sum to 1."""
    stretch = length / wanted
    centres = (np.arange(wanted) + 0.5) * stretch
    far = np.abs(np.arange(length)[None] + 0.5 - centres[:, None]) / stretch
    weights = np.maximum(0.0, 1.0 - far)
    return weights / weights.sum(axis=1, keepdims=True)


def _linear(pixels: np.ndarray, cells: int, first: float, pitch: float) -> np.ndarray:
    """Weights ``(pixels, cells)`` of linear interpolation between cell centres, held constant beyond the outer ones."""
    place = np.clip((pixels - first) / pitch, 0, cells - 1)
    low = np.minimum(place.astype(int), cells - 1)
    weights = np.zeros((len(pixels), cells), dtype=np.float32)
    weights[np.arange(len(pixels)), low] = 1 - (place - low)
    weights[np.arange(len(pixels)), np.minimum(low + 1, cells - 1)] += place - low
    return weights


def _scaled_whole(native: tuple[int, ...], target: tuple[int, ...], mode: CropMode) -> tuple[int, ...]:
    """The size of the whole image before the middle is taken, rounded as timm and torchvision round it."""
    if mode == "squash":
        return target
    if mode == "center" and len(set(target)) == 1:
        short = min(native)
        return tuple(target[0] if n == short else int(target[0] * n / short) for n in native)
    ratios = [n / size for n, size in zip(native, target, strict=True)]
    ratio = max(ratios) if mode == "border" else min(ratios)
    return tuple(max(1, round(n / ratio)) for n in native)


def _centre_shift(scaled: int, size: int) -> int:
    """Where the first scaled pixel lies in a centred input: half to even where it is cut, down where it is padded."""
    return (size - scaled) // 2 if size >= scaled else -round((scaled - size) / 2)


def _shown(native: int, scaled: int, shift: int, size: int) -> tuple[int, int]:
    """The native pixels whose centres lie in the input."""
    edges = [math.ceil((place - shift) * native / scaled - 0.5) for place in (0, size)]
    start = min(max(0, edges[0]), native - 1)
    return start, min(max(edges[1], start + 1), native)


def _stride(size: int, cells: int) -> float | None:
    """The power of two by which a padded network gets from a size to so many cells; None if there is none."""
    power = 1
    while power <= size:
        if -(-size // power) == cells:
            return float(power)
        power *= 2
    return None


def plane_rotation(axes: int, first: int, second: int, angle: float) -> np.ndarray:
    """A rotation in the plane of two axes, from the first towards the second, ``(axes, axes)``.

    Args:
        axes: of the space.
        first: axis that is turned ...
        second: ... towards this one.
        angle: radians.

    Example:
        >>> plane_rotation(2, 0, 1, np.pi / 2).round().tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    turn = np.eye(axes)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[second, first], turn[first, second] = math.sin(angle), -math.sin(angle)
    return turn
