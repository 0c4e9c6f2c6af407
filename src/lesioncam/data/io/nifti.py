"""Volumes: NIfTI files in, arrays out, and the way back to the file's own voxels.

A volume is an array of four axes ``(D, H, W, C)``, so that it is never taken for a picture ``(H, W, C)``. Whatever the
orientation of the file, slices ``d`` run from foot to head, rows ``h`` from front to back and columns ``w`` from the
patient's right to the left: a slice looks as radiologists look at it, and a left-right mirror is a flip of the last
spatial axis. It is the closest canonical (RAS) orientation of nibabel with its axes reversed, so oblique files keep
their voxels and nothing is resampled. What leaves the project for people and other tools (maps, masks, boxes of
``predict``; boxes in a table) is in the file's own voxels ``(i, j, k)``, as every NIfTI viewer counts them.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from lesioncam.errors import ImageError
from lesioncam.files import write_bytes

__all__ = [
    "NIFTI_SUFFIXES",
    "Volume",
    "VolumeGrid",
    "as_volume",
    "is_nifti",
    "is_volume",
    "plane_of",
    "read_grid",
    "read_nifti",
    "save_nifti",
    "sides_of",
    "stem_of",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")

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
            raise ImageError(f"an array of {_size(np.shape(array))} does not fit a volume of {_size(self.size)}.")
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


class Volume(np.ndarray):
    """Voxels ``(D, H, W, C)`` that remember their grid; a part of them, or another size, forgets it."""

    grid: VolumeGrid | None

    def __new__(cls, voxels: np.ndarray, grid: VolumeGrid) -> Self:
        """Lay a grid under an array ``(D, H, W, C)``."""
        made = np.asarray(voxels).view(cls)
        made.grid = grid
        return made

    def __array_finalize__(self, other: Any) -> None:
        grid = getattr(other, "grid", None)
        self.grid = grid if grid is not None and self.ndim == 4 and self.shape[:3] == grid.size else None


def is_nifti(path: str | Path) -> bool:
    """Whether a file is named like a NIfTI.

    Example:
        >>> [is_nifti(name) for name in ("a.nii.gz", "b.NII", "train-images.idx3-ubyte.gz")]
        [True, True, False]
    """
    return Path(path).name.lower().endswith(NIFTI_SUFFIXES)


def is_volume(image: np.ndarray) -> bool:
    """Whether a decoded image is a volume ``(D, H, W, C)``."""
    return np.ndim(image) == 4


def as_volume(image: np.ndarray) -> Volume:
    """An array ``(D, H, W)`` or ``(D, H, W, C)`` as a volume; where nothing is known of its place, voxels are 1 mm.

    Raises:
        ImageError: for another number of axes.
    """
    if isinstance(image, Volume) and image.grid is not None:
        return image
    voxels = np.asarray(image)
    if voxels.ndim not in (3, 4):
        raise ImageError(f"a volume is (D, H, W) or (D, H, W, C), this array is {voxels.shape}.")
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    return Volume(voxels, VolumeGrid.of_array(voxels.shape[:3]))


def plane_of(image: np.ndarray) -> np.ndarray:
    """What stands for an image where only a picture will do: itself, or the middle slice of a volume.

    Example:
        >>> plane_of(np.zeros((5, 4, 3, 1))).shape, plane_of(np.zeros((4, 3))).shape
        ((4, 3), (4, 3))
    """
    if not is_volume(image):
        return image
    plane = np.asarray(image)[len(image) // 2]
    return plane[..., 0] if plane.shape[-1] != 3 else plane


def sides_of(image: np.ndarray) -> tuple[int, ...]:
    """Size of a decoded image without its channels: ``(H, W)`` or ``(D, H, W)``."""
    return tuple(np.shape(image)[: 3 if is_volume(image) else 2])


def stem_of(path: str | Path) -> str:
    """A file's name without its suffix, which may be ``.nii.gz``.

    Example:
        >>> stem_of("scans/p01.nii.gz"), stem_of("a.b.png")
        ('p01', 'a.b')
    """
    name = Path(path).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def read_nifti(path: Path, index: int | None = None) -> Volume:
    """Decode a NIfTI file.

    Args:
        path: the file.
        index: which channel or time point, where it holds several.

    Returns:
        ``(D, H, W, 1)`` in the type of the file: uint8, uint16, int16 or float32; scaled by the header's slope.

    Raises:
        ImageError: if the header places no voxels in space, or the file holds several volumes and none was picked.
        Exception: whatever nibabel raises for a damaged file; `read_image` turns that into a sentence.
    """
    image, grid = _open(path, index)
    voxels = _scaled(image, index)
    return Volume(grid.from_file(voxels.reshape(grid.shape))[..., None], grid)


def read_grid(path: Path, index: int | None = None) -> tuple[VolumeGrid, str]:
    """Grid and type of a NIfTI file from its header, without decoding the voxels.

    Raises:
        ImageError: as :func:`read_nifti`.
    """
    image, grid = _open(path, index)
    return grid, _kind(image)


def save_nifti(path: Path, array: np.ndarray, grid: VolumeGrid) -> Path:
    """Write an array ``(D, H, W)`` in the voxels of the file it belongs to, whole or not at all.

    Args:
        path: ends with ``.nii`` or ``.nii.gz``.
        array: bool and integers as uint8, everything else as float32.
        grid: of the volume.

    Raises:
        ImageError: if the array is of another size.
    """
    import nibabel as nib

    kind = np.uint8 if array.dtype.kind in "bu" else np.float32
    image = nib.Nifti1Image(grid.to_file(array.astype(kind)), np.array(grid.affine))
    image.header.set_xyzt_units("mm")

    content = image.to_bytes()
    return write_bytes(path, gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)


# ---- parts -------------------------------------------------------------------------------------------------------


def _open(path: Path, index: int | None) -> tuple[Any, VolumeGrid]:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ImageError(f"{path} is damaged or no NIfTI ({reason}). Copy it again or take its row out.") from error
    if not isinstance(image, nib.Nifti1Image):
        raise ImageError(f"{path} is {type(image).__name__}, not NIfTI; convert it, with nibabel for instance.")
    shape = (*image.shape, 1, 1, 1)[:3] if image.ndim < 3 else tuple(image.shape[:3])
    if not np.prod(image.shape):
        raise ImageError(f"{path} is empty ({_size(image.shape)}); export it again or take its row out.")
    _check_count(path, image.shape, index)
    _check_kind(path, image.get_data_dtype())
    _check_header(path, image)
    try:
        return image, VolumeGrid.of(shape, image.affine)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _check_count(path: Path, shape: Sequence[int], index: int | None) -> None:
    count = int(np.prod(shape[3:], dtype=int))
    if index is None and count > 1:
        raise ImageError(
            f"{path} holds {count} volumes ({_size(shape)}); say which one: {path.name}#0 to {path.name}#{count - 1}."
        )
    if index is not None and index >= count:
        there = "one only, #0" if count == 1 else f"{count}, #0 to #{count - 1}"
        raise ImageError(f"{path} has no volume #{index}; it holds {there}.")


def _check_kind(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.fields is not None or dtype.kind == "c":
        what = "complex numbers" if dtype.kind == "c" else "colours"
        raise ImageError(f"{path} holds {what} ({dtype}), which are no grey values; convert it to one number a voxel.")


def _check_header(path: Path, image: Any) -> None:
    """Spacing as written: nibabel repairs a zero by a silent 1 mm."""
    from nibabel.openers import ImageOpener

    with ImageOpener(str(path)) as handle:
        header = type(image.header).from_fileobj(handle, check=False)
    spacing = [float(value) for value in header["pixdim"][1:4][: min(3, image.ndim)]]
    if not all(np.isfinite(value) and value != 0 for value in spacing):
        named = ", ".join(f"{value:g}" for value in spacing)
        raise ImageError(
            f"{path} has a spacing of ({named}) mm in its header; every voxel needs a size. Repair the header."
        )


def _scaled(image: Any, index: int | None) -> np.ndarray:
    """One volume in a kept type: whole numbers stay so unless the header scales them."""
    place: tuple[Any, ...] = (...,)
    if image.ndim > 3:
        place = (..., *(int(i) for i in np.unravel_index(index or 0, image.shape[3:], order="F")))
    voxels = np.asarray(image.dataobj[place])
    return np.array(voxels, dtype=_kept(voxels.dtype))


def _kind(image: Any) -> str:
    proxy = image.dataobj
    scaled = hasattr(proxy, "slope") and not (proxy.slope == 1.0 and proxy.inter == 0.0)
    return "float32" if scaled else _kept(image.get_data_dtype())


def _kept(dtype: np.dtype[Any]) -> str:
    plain = dtype.newbyteorder("=").name
    return {"int8": "int16"}.get(plain, plain if plain in {"uint8", "uint16", "int16"} else "float32")


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
