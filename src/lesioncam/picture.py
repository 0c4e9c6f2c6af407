"""A decoded image: its pixels, where they lie in the body, where they came from.

Every volume is turned to one orientation: slices from foot to head, rows from front to back, columns from the patient's
right to left, as radiologists look at axial slices. It is the closest canonical (RAS) orientation of nibabel with its
axes reversed, so oblique files keep their voxels and nothing is resampled. What leaves the project for people and other
tools (maps, masks, boxes of ``predict``; boxes in a table) is in the file's own voxels ``(i, j, k)``, as every NIfTI
viewer counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lesioncam.errors import ImageError

Matrix = tuple[tuple[float, ...], ...]

_SLICES, _ROWS, _COLUMNS = (2, 1.0), (1, -1.0), (0, -1.0)
"""Axis of the world (right, anterior, superior) and direction in which the array's axes run."""


@dataclass(frozen=True)
class VolumeGrid:
    """Where the voxels of a volume lie, in its file and in the body.

    Attributes:
        shape: ``(I, J, K)`` of the file.
        affine: of the file: from ``(i, j, k)`` to mm, right, anterior, superior.
        axes: which axis of the file each of ``(D, H, W)`` is.
        turned: whether it runs the other way there.

    Example:
        >>> grid = VolumeGrid.of((4, 5, 6), np.diag([-1.0, 1.0, 3.0, 1.0]))     # left, anterior, superior
        >>> grid.size, grid.spacing, grid.turned
        ((6, 5, 4), (3.0, 1.0, 1.0), (False, True, False))
        >>> grid.box_to_file((0, 0, 2, 1, 2, 4))                                # x0 y0 z0 x1 y1 z1 of the array
        (0, 3, 2, 1, 5, 4)
    """

    shape: tuple[int, int, int]
    affine: Matrix
    axes: tuple[int, ...]
    turned: tuple[bool, ...]

    @classmethod
    def of(cls, shape: Sequence[int], affine: np.ndarray) -> VolumeGrid:
        """The grid of a file.

        Args:
            shape: ``(I, J, K)``.
            affine: ``(4, 4)``, from voxel to mm.

        Raises:
            ImageError: if the affine is not of numbers, or lays the voxels on a plane.
        """
        import nibabel as nib

        matrix = np.asarray(affine, dtype=float)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise ImageError(f"the affine {np.round(matrix, 4).tolist()} places no voxels in space; repair the header.")
        world = nib.io_orientation(matrix)  # of each axis of the file: axis of the world, direction
        found = [int(np.flatnonzero(world[:, 0] == axis)[0]) for axis, _ in (_SLICES, _ROWS, _COLUMNS)]
        ways = [way for _, way in (_SLICES, _ROWS, _COLUMNS)]
        turned = tuple(bool(world[axis, 1] != way) for axis, way in zip(found, ways, strict=True))
        return cls((shape[0], shape[1], shape[2]), tuple(map(tuple, matrix.tolist())), tuple(found), turned)

    @classmethod
    def of_array(cls, size: Sequence[int]) -> VolumeGrid:
        """The grid of an array ``(D, H, W)`` of which nothing is known: voxels of 1 mm, the array is the file."""
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], [0, 1, 2, 3]] = 1, -1, -1, 1
        return cls.of(size, affine)

    @property
    def size(self) -> tuple[int, ...]:
        """``(D, H, W)`` of the array."""
        return tuple(self.shape[axis] for axis in self.axes)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbouring slices, rows and columns of the array, mm."""
        pitch = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0)
        return tuple(round(float(pitch[axis]), 6) for axis in self.axes)

    @cached_property
    def array_affine(self) -> Matrix:
        """From ``(d, h, w)`` of the array to mm, right, anterior, superior."""
        file = np.array(self.affine)
        matrix = np.eye(4)
        matrix[:3, 3] = file[:3, 3]
        for place, (axis, turned) in enumerate(zip(self.axes, self.turned, strict=True)):
            matrix[:3, place] = -file[:3, axis] if turned else file[:3, axis]
            matrix[:3, 3] += (self.shape[axis] - 1) * file[:3, axis] if turned else 0.0
        return tuple(map(tuple, matrix.tolist()))

    def from_file(self, voxels: np.ndarray) -> np.ndarray:
        """Voxels ``(I, J, K)`` as an array ``(D, H, W)``."""
        return np.ascontiguousarray(np.flip(np.transpose(voxels, self.axes), self._turned_axes))

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """An array ``(D, H, W)`` as voxels ``(I, J, K)``.

        Raises:
            ImageError: if it is of another size.
        """
        if np.shape(array) != self.size:
            raise ImageError(f"an array of {by_x(np.shape(array))} does not fit a volume of {by_x(self.size)}.")
        return np.ascontiguousarray(np.transpose(np.flip(array, self._turned_axes), np.argsort(self.axes)))

    def box_to_file(self, box: Sequence[float]) -> tuple[float, ...]:
        """A box ``(x0, y0, z0, x1, y1, z1)`` of the array, half-open, in voxels ``(i0, j0, k0, i1, j1, k1)``."""
        low, high = [0.0] * 3, [0.0] * 3
        for place, (axis, turned) in enumerate(zip(self.axes, self.turned, strict=True)):
            ends = box[2 - place], box[5 - place]
            low[axis], high[axis] = self._flipped(ends, axis) if turned else ends
        return (*low, *high)

    def box_from_file(self, box: Sequence[float]) -> tuple[float, ...]:
        """The inverse of :meth:`box_to_file`."""
        low, high = [0.0] * 3, [0.0] * 3
        for place, (axis, turned) in enumerate(zip(self.axes, self.turned, strict=True)):
            ends = box[axis], box[axis + 3]
            low[2 - place], high[2 - place] = self._flipped(ends, axis) if turned else ends
        return (*low, *high)

    def distance(self, other: VolumeGrid) -> float:
        """How far apart the corners of two grids of one size lie at most, in the smallest side of a voxel."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.size], [1], indexing="ij")).reshape(4, -1)
        apart = (np.array(self.array_affine) - np.array(other.array_affine)) @ corners
        return float(np.linalg.norm(apart[:3], axis=0).max() / min(self.spacing))

    def slice_name(self, axis: int, place: int) -> str:
        """A slice across an axis of the array by the number it has in the file, ``k=12``."""
        own = self.axes[axis]
        return f"{'ijk'[own]}={self.shape[own] - 1 - place if self.turned[axis] else place}"

    def _flipped(self, ends: tuple[float, float], axis: int) -> tuple[float, float]:
        return self.shape[axis] - ends[1], self.shape[axis] - ends[0]

    @property
    def _turned_axes(self) -> tuple[int, ...]:
        return tuple(int(place) for place in np.flatnonzero(self.turned))


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image.

    Attributes:
        pixels: ``(H, W)`` grey or ``(H, W, C)`` colour; of a volume ``(D, H, W, C)``; in the file's own bit depth.
        grid: where the voxels of a volume lie; None where the file does not say.
        source: the file (``file#index`` for one of several), or what an array is called.

    Example:
        >>> picture = Picture(np.zeros((4, 3, 3), np.uint8), source="a.png")
        >>> picture.size, picture.channels, picture.is_volume
        ((4, 3), 3, False)
    """

    pixels: np.ndarray
    grid: VolumeGrid | None = None
    source: str = "image"

    @property
    def is_volume(self) -> bool:
        """Whether there are three axes of space."""
        return self.pixels.ndim == 4

    @property
    def size(self) -> tuple[int, ...]:
        """``(H, W)`` or ``(D, H, W)``, without channels."""
        return self.pixels.shape[: 3 if self.is_volume else 2]

    @property
    def channels(self) -> int:
        """1 grey, 3 colour, or more."""
        return self.pixels.shape[-1] if self.pixels.ndim > len(self.size) else 1

    @property
    def plane(self) -> np.ndarray:
        """What stands for it where only a flat image will do: its pixels, or the middle slice of a volume.

        Example:
            >>> Picture(np.zeros((5, 4, 3, 1))).plane.shape, Picture(np.zeros((4, 3))).plane.shape
            ((4, 3), (4, 3))
        """
        if not self.is_volume:
            return self.pixels
        plane = self.pixels[len(self.pixels) // 2]
        return plane if self.channels == 3 else plane[..., 0]

    def as_volume(self) -> Picture:
        """The same with a channel axis and a grid: where nothing is known of its place, voxels are 1 mm.

        Raises:
            ImageError: unless it is ``(D, H, W)`` or ``(D, H, W, C)``.
        """
        if self.pixels.ndim not in (3, 4):
            raise ImageError(f"a volume is (D, H, W) or (D, H, W, C), this array is {self.pixels.shape}.")
        voxels = self.pixels if self.is_volume else self.pixels[..., None]
        return replace(self, pixels=voxels, grid=self.grid or VolumeGrid.of_array(voxels.shape[:3]))


def as_picture(image: Picture | np.ndarray, source: str = "image") -> Picture:
    """A picture as it is; an array as one of which nothing else is known."""
    return image if isinstance(image, Picture) else Picture(np.asarray(image), source=source)


def channels_first(pixels: np.ndarray, axes: int) -> np.ndarray:
    """``(*S)`` or ``(*S, C)`` with so many axes of space as ``(C, *S)``.

    Example:
        >>> channels_first(np.zeros((4, 5, 3)), 2).shape, channels_first(np.zeros((4, 5, 3)), 3).shape
        ((3, 4, 5), (1, 4, 5, 3))
    """
    return pixels[None] if pixels.ndim == axes else np.moveaxis(pixels, -1, 0)


def by_x(size: Sequence[int]) -> str:
    """A size as people write it.

    Example:
        >>> by_x((4, 5))
        '4 x 5'
    """
    return " x ".join(map(str, size))
