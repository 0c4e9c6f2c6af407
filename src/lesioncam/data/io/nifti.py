"""NIfTI volumes: the only place that knows how a file's axes lie in the body (see `lesioncam.picture`)."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lesioncam.data.io.base import ImageInfo, kept_name, pick
from lesioncam.errors import ImageError
from lesioncam.files import write_bytes
from lesioncam.picture import Picture, VolumeGrid, by_x

if TYPE_CHECKING:
    import nibabel as nib


FORMATS = "NIfTI (.nii, .nii.gz)"
SUFFIXES = (".nii", ".nii.gz")


def recognises(path: str | Path) -> bool:
    """Whether a file is named like a NIfTI.

    Example:
        >>> [recognises(name) for name in ("a.nii.gz", "b.NII", "train-images.idx3-ubyte.gz")]
        [True, True, False]
    """
    return Path(path).name.lower().endswith(SUFFIXES)


def read(path: Path, index: int | None = None) -> Picture:
    """Decode a volume.

    Args:
        path: the file.
        index: which channel or time point, where it holds several.

    Returns:
        ``(D, H, W, 1)`` in the type of the file: uint8, uint16, int16 or float32; scaled by the header's slope.

    Raises:
        ImageError: if the header places no voxels in space, or the file holds several volumes and none was picked.
        Exception: whatever nibabel raises for a damaged file.
    """
    image, grid = _open(path, index)
    voxels = _scaled(image, index)
    return Picture(grid.from_file(voxels.reshape(grid.shape))[..., None], grid)


def info(path: Path, index: int | None = None) -> ImageInfo:
    """Size, type and spacing from the header."""
    image, grid = _open(path, index)
    return ImageInfo(grid.size, 1, _kind(image), grid.spacing)


def read_mask(path: Path, index: int | None = None) -> np.ndarray:
    """Lesion is whatever is above 0, in whole or in real numbers."""
    return np.asarray(np.nan_to_num(read(path, index).pixels[..., 0]) > 0)


def read_grid(path: Path, index: int | None = None) -> VolumeGrid:
    """Where the voxels of a file lie, from its header.

    Raises:
        ImageError: as :func:`read`.
    """
    return _open(path, index)[1]


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


def stem_of(path: str | Path) -> str:
    """A file's name without its suffix, which may be ``.nii.gz``.

    Example:
        >>> stem_of("scans/p01.nii.gz"), stem_of("a.b.png")
        ('p01', 'a.b')
    """
    name = Path(path).name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def _open(path: Path, index: int | None) -> tuple[nib.Nifti1Image, VolumeGrid]:
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
        raise ImageError(f"{path} is empty ({by_x(image.shape)}); export it again or take its row out.")
    pick(path, index, int(np.prod(image.shape[3:], dtype=int)), "volume", f" ({by_x(image.shape)})")
    _check_kind(path, image.get_data_dtype())
    _check_header(path, image)
    try:
        return image, VolumeGrid.of(shape, image.affine)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _check_kind(path: Path, dtype: np.dtype) -> None:
    if dtype.fields is not None or dtype.kind == "c":
        what = "complex numbers" if dtype.kind == "c" else "colours"
        raise ImageError(f"{path} holds {what} ({dtype}), which are no grey values; convert it to one number a voxel.")


def _check_header(path: Path, image: nib.Nifti1Image) -> None:
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


def _scaled(image: nib.Nifti1Image, index: int | None) -> np.ndarray:
    """One volume in a kept type: whole numbers stay so unless the header scales them."""
    place = np.unravel_index(index or 0, image.shape[3:], order="F") if image.ndim > 3 else ()
    voxels = np.asarray(image.dataobj[(..., *map(int, place))])
    return np.array(voxels, dtype=kept_name(voxels.dtype))


def _kind(image: nib.Nifti1Image) -> str:
    proxy = image.dataobj
    scaled = hasattr(proxy, "slope") and not (proxy.slope == 1.0 and proxy.inter == 0.0)
    return "float32" if scaled else kept_name(image.get_data_dtype())
