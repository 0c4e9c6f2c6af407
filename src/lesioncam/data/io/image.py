"""Image and mask files in, arrays out, in the bit depth of the file.

========================  =========================================================================================
PNG, BMP, PGM/PPM         1 to 16 bit; palette becomes RGB (grey where every colour of it is grey)
JPEG                      turned as its EXIF orientation says
TIFF                      integer or float, several pages by ``#index``; turned as its orientation tag says
``.mat``                  MATLAB v7.3 with the struct ``cjdata`` (stored transposed, turned back here)
idx, idx.gz               the format of MNIST, one image by ``#index``
NIfTI (.nii, .nii.gz)     a volume ``(D, H, W, 1)``; of a file with several, one by ``#index`` (see `nifti`)
========================  =========================================================================================

1-bit images become 0 and 255; alpha is dropped; 32-bit integers and 64-bit floats become float32, everything else keeps
its type (uint8, uint16, int16, float32).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from lesioncam.data.io.nifti import NIFTI_SUFFIXES, Volume, is_nifti, is_volume, read_grid, read_nifti
from lesioncam.errors import ImageError

if TYPE_CHECKING:
    import h5py
    import tifffile

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageInfo",
    "image_info",
    "read_cjdata",
    "read_image",
    "read_mask",
    "split_index",
    "validate_image",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".mat", *NIFTI_SUFFIXES)
"""Suffixes a folder is searched for; files are recognised by their content."""

SUPPORTED = "PNG, JPEG, TIFF, BMP, PGM/PPM, MATLAB v7.3 with cjdata (.mat), idx (.gz), NIfTI (.nii, .nii.gz)"
_PILLOW = ("PNG", "JPEG", "TIFF", "BMP", "PPM")
_IDX_NAME = re.compile(r"(?:[.-]idx\d?(?:-ubyte)?(?:\.gz)?|\.gz)$", re.IGNORECASE)
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_KEPT = {"uint8", "uint16", "int16", "float32"}
_DAMAGE = (
    Image.DecompressionBombError,
    AttributeError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class ImageInfo:
    """What an image file holds, as :func:`read_image` would return it.

    Attributes:
        size: ``(H, W)`` in pixels, or ``(D, H, W)`` in voxels.
        channels: 1 grey, 3 colour, or more.
        dtype: name of the array's type: ``uint8``, ``uint16``, ``int16`` or ``float32``.
        spacing: of a volume, mm in the order of ``size``; None where the file does not say.
    """

    size: tuple[int, ...]
    channels: int
    dtype: str
    spacing: tuple[float, ...] | None = None

    @property
    def depth(self) -> str:
        """In words: ``uint8 grey``, ``uint16 RGB``, ``float32 5 channels``."""
        return f"{self.dtype} {({1: 'grey', 3: 'RGB'}).get(self.channels, f'{self.channels} channels')}"

    @classmethod
    def of(cls, image: np.ndarray) -> ImageInfo:
        """The same facts of an array ``(H, W)``, ``(H, W, C)`` or a volume ``(D, H, W, C)``."""
        if is_volume(image):
            grid = image.grid if isinstance(image, Volume) else None
            return cls(image.shape[:3], image.shape[3], str(image.dtype), None if grid is None else grid.spacing)
        return cls((image.shape[0], image.shape[1]), image.shape[2] if image.ndim == 3 else 1, str(image.dtype))


def split_index(path: str | Path) -> tuple[Path, int | None]:
    """Take ``file#index`` apart; a file whose own name ends that way is left whole.

    Example:
        >>> split_index("digits.gz#17"), split_index("a.png")
        ((PosixPath('digits.gz'), 17), (PosixPath('a.png'), None))
    """
    match = re.fullmatch(r"(.+)#(\d+)", str(path))
    if match is None or Path(path).is_file():
        return Path(path), None
    return Path(match.group(1)), int(match.group(2))


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image in full.

    Args:
        path: the file; ``file#index`` picks one of several (TIFF pages, idx), counted from 0.

    Returns:
        ``(H, W)`` grey or ``(H, W, C)`` colour without alpha, in the file's bit depth; NIfTI gives a volume
        ``(D, H, W, 1)``, slices from foot to head as radiologists look at them (`lesioncam.data.io.nifti`).

    Raises:
        ImageError: if the file is missing, damaged, of an unknown format, or has no such index.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "a.png"
        ...     Image.fromarray(np.array([[0, 40000]], np.uint16)).save(place)
        ...     read_image(place)
        array([[    0, 40000]], dtype=uint16)
    """
    file, index = split_index(path)
    with _reading(file):
        if is_nifti(file):
            return read_nifti(file, index)
        if file.suffix.lower() == ".mat":
            _expect_single(file, index)
            return read_cjdata(file)["image"]
        if _IDX_NAME.search(file.name):
            pages = _read_idx(file)
            return _keep(pages[_pick(file, index, len(pages))])
        if _is_tiff(file):
            return _read_tiff(file, index)
        with _open(file, index) as image:
            return _read_pillow(file, image)


def image_info(path: str | Path) -> ImageInfo:
    """Size, channels and type of an image from its header, without decoding the pixels.

    Raises:
        ImageError: as :func:`read_image`, as far as the header shows it.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGBA", (7, 5)).save(Path(folder) / "a.png")
        ...     image_info(Path(folder) / "a.png")
        ImageInfo(size=(5, 7), channels=3, dtype='uint8', spacing=None)
    """
    file, index = split_index(path)
    with _reading(file):
        if is_nifti(file):
            grid, kind = read_grid(file, index)
            return ImageInfo(grid.size, 1, kind, grid.spacing)
        if file.suffix.lower() == ".mat":
            _expect_single(file, index)
            with _open_cjdata(file) as struct_:
                width, height = struct_["image"].shape
                return ImageInfo((height, width), 1, _kept_name(struct_["image"].dtype))
        if _IDX_NAME.search(file.name):
            dtype, (n, *shape) = _idx_header(file)
            _pick(file, index, n)
            return ImageInfo((shape[0], shape[1]), shape[2] if len(shape) == 3 else 1, _kept_name(np.dtype(dtype)))
        if _is_tiff(file):
            return _tiff_info(file, index)
        with _open(file, index) as image:
            return _pillow_info(image)


def read_mask(paths: str | Path | Sequence[str | Path], size: Sequence[int]) -> np.ndarray:
    """Unite mask files: every pixel that is not zero in one of them is lesion.

    Grey, RGB, RGBA (alpha says nothing) and palette files (index not 0; where index 0 is not black, colour not black)
    are read alike; in JPEG, which blurs, lesion begins at 128. A ``.mat`` file gives its ``cjdata/tumorMask``, a NIfTI
    file a volume turned as `read_image` turns it: in it lesion is whatever is above 0, in whole or in real numbers.

    Args:
        paths: one file or several, each possibly ``file#index``.
        size: ``(H, W)`` or ``(D, H, W)`` of the image they belong to.

    Returns:
        ``(*size)`` bool.

    Raises:
        ImageError: if a file cannot be read or has another size.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(Path(folder) / "m.png")
        ...     read_mask(Path(folder) / "m.png", (1, 3))
        array([[False,  True,  True]])
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    union = np.zeros(tuple(size), dtype=bool)
    for path in files:
        mask = _one_mask(path)
        if mask.shape != union.shape:
            raise ImageError(
                f"mask {path} is {_size(mask.shape)} but its image is {_size(union.shape)} "
                f"({'height x width' if union.ndim == 2 else 'slices x height x width'}); save the mask in the image's "
                "own pixels."
            )
        union |= mask
    return union


def read_cjdata(path: str | Path) -> dict[str, Any]:
    """Read one file of the figshare brain tumour set (MATLAB v7.3, struct ``cjdata``), axes turned back to ``(H, W)``.

    Returns:
        ``image`` ``(H, W)``, ``label`` (int), ``patient`` (str or None), ``mask`` ``(H, W)`` bool or None.

    Raises:
        ImageError: if it is no such file.
    """
    file = Path(path)
    with _reading(file), _open_cjdata(file) as data:
        mask = np.ascontiguousarray(data["tumorMask"][()].T != 0) if "tumorMask" in data else None
        label = int(np.asarray(data["label"][()]).ravel()[0]) if "label" in data else None
        patient = "".join(chr(code) for code in np.asarray(data["PID"][()]).ravel()) if "PID" in data else None
        return {"image": _keep(data["image"][()].T), "label": label, "patient": patient, "mask": mask}


def validate_image(image: np.ndarray, path: str | Path) -> None:
    """Refuse an image from which nothing can be learned.

    Raises:
        ImageError: if it is empty, holds NaN or infinite pixels, or is constant (all black, for instance).

    Example:
        >>> validate_image(np.zeros((2, 2), np.uint8), "a.png")
        Traceback (most recent call last):
        lesioncam.errors.ImageError: a.png is constant (every pixel is 0): it shows nothing. Replace it or drop its row.
    """
    if image.size == 0:
        raise ImageError(f"{path} is empty ({_size(image.shape)}); export it again or take its row out.")
    if np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise ImageError(f"{path} has {bad} NaN or infinite pixels of {image.size}; fill them or take its row out.")
    low, high = image.min(), image.max()
    if low == high:
        value = f"{float(low):g}"
        raise ImageError(f"{path} is constant (every pixel is {value}): it shows nothing. Replace it or drop its row.")


# ---- errors and small parts --------------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a decoder raises becomes one sentence with the file and the way out."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path} is missing; correct the path or the image folder (--images).") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{path} cannot be opened ({error.strerror}).") from error
    except _DAMAGE as error:
        raise ImageError(_damage(path, error)) from error


def _damage(path: Path, error: Exception) -> str:
    if "imagecodecs" in str(error):
        return f"{path} is compressed in a way that needs another package here: pip install imagecodecs."
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"{path} is too large to be decoded whole ({2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels at most); cut it."
        )
    if type(error).__name__ in {"UnidentifiedImageError", "TiffFileError"}:
        if path.stat().st_size == 0:
            return f"{path} is an empty file; copy it again or take its row out."
        return f"{path} is damaged or of an unknown format; supported: {SUPPORTED}."
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{path} cannot be decoded ({reason}): truncated or damaged. Copy it again or take its row out."


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _keep(array: np.ndarray) -> np.ndarray:
    """The array as a writable, contiguous one of a kept type."""
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    return np.array(array, dtype=_kept_name(array.dtype), order="C")


def _kept_name(dtype: np.dtype[Any]) -> str:
    plain = dtype.newbyteorder("=").name
    return {"bool": "uint8", "int8": "int16"}.get(plain, plain if plain in _KEPT else "float32")


def _pick(path: Path, index: int | None, count: int) -> int:
    if index is None and count == 1:
        return 0
    if index is None:
        raise ImageError(f"{path} holds {count} images; say which one: {path.name}#0 to {path.name}#{count - 1}.")
    if index >= count:
        there = "one only, #0" if count == 1 else f"{count}, #0 to #{count - 1}"
        raise ImageError(f"{path} has no image #{index}; it holds {there}.")
    return index


def _expect_single(path: Path, index: int | None) -> None:
    _pick(path, index, 1)


# ---- what Pillow reads -------------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path, index: int | None) -> Iterator[Image.Image]:
    """A file opened by Pillow, header only, at the page that was asked for."""
    with Image.open(path, formats=_PILLOW) as image:
        if image.format == "TIFF":
            image.seek(index or 0)
        else:
            _pick(path, index, 1)
        yield image


def _read_pillow(path: Path, image: Image.Image) -> np.ndarray:
    if _is_deep_png(image):
        return _read_png16(path, _raw_mode(image))
    _refuse_deep_ppm(path, image)
    if image.format == "JPEG":
        image = ImageOps.exif_transpose(image)
    return _keep(_plain(image))


def _refuse_deep_ppm(path: Path, image: Any) -> None:
    """Pillow keeps 8 bit of deeper colour PPM and offers no way round."""
    if image.format == "PPM" and image.mode == "RGB" and image.tile and image.tile[0][0] != "raw":
        raise ImageError(f"{path} is colour PPM of more than 8 bit, whose depth would be lost; save it as PNG or TIFF.")


def _pillow_info(image: Image.Image) -> ImageInfo:
    width, height = image.size
    if image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5:
        width, height = height, width
    if _is_deep_png(image):
        return ImageInfo((height, width), 1 if _raw_mode(image).startswith("LA") else 3, "uint16")
    return ImageInfo((height, width), _channels(image), _pillow_dtype(image))


def _channels(image: Any) -> int:
    if image.mode == "P":
        return 1 if _grey_palette(image) else 3
    return 1 if image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16") else 3


def _pillow_dtype(image: Any) -> str:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return "uint16"
    return "float32" if image.mode in {"I", "F"} else "uint8"


def _grey_palette(image: Any) -> bool:
    colours = np.reshape(image.getpalette("RGB"), (-1, 3))
    return bool((colours == colours[:, :1]).all())


def _plain(image: Any) -> np.ndarray:
    """Pixels of a Pillow image without alpha and palette."""
    image.load()
    if image.mode == "P":
        colours = np.array(image.convert("RGBA"))[..., :3]
        return colours[..., 0] if _grey_palette(image) else colours
    if image.mode in {"1", "LA", "La"}:
        return np.array(image.convert("L"))
    if image.mode == "I" and image.format == "PPM":
        return np.array(image).astype(np.uint16)
    if image.mode in {"L", "I", "F", "RGB"} or image.mode.startswith("I;16"):
        return np.array(image)
    return np.array(image)[..., :3] if image.mode in {"RGBA", "RGBX"} else np.array(image.convert("RGB"))


def _raw_mode(image: Any) -> str:
    """How the pixels lie in a PNG, for instance ``RGB;16B``."""
    return str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""


def _is_deep_png(image: Any) -> bool:
    """16-bit PNG in colour or with alpha, of which Pillow by itself keeps the high bytes only."""
    return _raw_mode(image).endswith(";16B") and not image.mode.startswith("I")


def _read_png16(path: Path, raw: str) -> np.ndarray:
    """Decode twice, for the high and for the low bytes; grey with alpha is read as the four bytes it is."""
    if raw.startswith("LA"):
        high, low, *_ = np.moveaxis(_decode_as(path, "RGBA"), -1, 0).astype(np.uint16)
        return high << 8 | low
    high, low = (_decode_as(path, raw[:-1] + end)[..., :3].astype(np.uint16) for end in "BL")
    return high << 8 | low


def _decode_as(path: Path, raw: str) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        image.tile = [tile._replace(args=raw) for tile in image.tile]
        return np.array(image)


# ---- TIFF --------------------------------------------------------------------------------------------------------


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


@contextmanager
def _open_page(path: Path, index: int | None) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """One page of a TIFF and its number; reduced copies (thumbnails) need no index to be told from the image."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        full = sum(not page.aspage().is_reduced for page in pages)
        number = 0 if index is None and full == 1 else _pick(path, index, len(pages))
        yield pages[number].aspage(), number


def _read_tiff(path: Path, index: int | None) -> np.ndarray:
    with _open_page(path, index) as (page, number):
        if _is_shallow(page):
            with _open(path, number) as image:
                return _read_pillow(path, image)
        return _keep(_orient(_drop_alpha(_deep_pixels(path, page, number), page), _orientation(page)))


def _tiff_info(path: Path, index: int | None) -> ImageInfo:
    with _open_page(path, index) as (page, number):
        if _is_shallow(page):
            with _open(path, number) as image:
                return _pillow_info(image)
        size = (page.imagelength, page.imagewidth)
        return ImageInfo(size[::-1] if _orientation(page) >= 5 else size, _colours(page), _kept_name(page.dtype))


def _is_shallow(page: tifffile.TiffPage) -> bool:
    """Whether Pillow is the better reader: every compression and palettes, but 8 bit and four channels at most."""
    if page.bitspersample > 8 or page.samplesperpixel > 4 or page.sampleformat != 1:
        return False
    plain = page.photometric.name in {"MINISWHITE", "MINISBLACK", "RGB"} and int(page.compression) in {1, 8, 32946}
    return not plain or page.bitspersample not in {1, 8}


def _deep_pixels(path: Path, page: tifffile.TiffPage, number: int) -> np.ndarray:
    try:
        pixels = page.asarray()
    except (KeyError, ValueError):  # a compression that needs imagecodecs: libtiff knows it, and is exact for grey
        if page.samplesperpixel > 1:
            raise
        with _open(path, number) as image:
            image.load()
            return np.array(image).astype(page.dtype)  # turned already, and the right way up
    if page.photometric.name == "MINISWHITE" and pixels.dtype.kind in "bu":
        pixels = ~pixels
    return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _drop_alpha(pixels: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    colours = _colours(page)
    return pixels if pixels.ndim < 3 else (pixels[..., 0] if colours == 1 else pixels[..., :colours])


def _colours(page: tifffile.TiffPage) -> int:
    """Channels without alpha (extra samples marked as alpha: 1 and 2)."""
    alpha = sum(int(kind) in {1, 2} for kind in page.extrasamples)
    return max(1, page.samplesperpixel - alpha)


def _orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None else 1


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as TIFF orientation 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (orientation in {3, 4, 7, 8}), (orientation in {2, 3, 6, 7})
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]


# ---- MATLAB and idx ----------------------------------------------------------------------------------------------


@contextmanager
def _open_cjdata(path: Path) -> Iterator[h5py.Group]:
    import h5py

    if path.is_file() and not h5py.is_hdf5(path):
        raise ImageError(f"{path} is damaged or not MATLAB v7.3 (HDF5); save it with save(..., '-v7.3').")
    with h5py.File(path, "r") as file:
        found = list(file)
        data = file.get("cjdata")
        if not isinstance(data, h5py.Group) or "image" not in data:
            raise ImageError(f"{path} has no struct 'cjdata' with an image; found: {', '.join(found) or 'nothing'}.")
        yield data


def _idx_header(path: Path) -> tuple[str, tuple[int, ...]]:
    """Type and shape from the big-endian header of an idx file."""
    with _open_idx(path) as handle:
        start = handle.read(4)
        known = len(start) == 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES
        if not known or start[3] not in {3, 4}:
            found = start.hex() or "nothing"
            raise ImageError(f"{path} is no idx file of images (it begins with {found}); supported: {SUPPORTED}.")
        return _IDX_TYPES[start[2]], struct.unpack(f">{start[3]}I", handle.read(4 * start[3]))


def _open_idx(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


_idx_lock = Lock()


def _read_idx(path: Path) -> np.ndarray:
    """All images of an idx file ``(n, H, W)``; the last files read stay in memory, since records pick single images."""
    state = path.stat()
    with _idx_lock:
        return _decode_idx(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _decode_idx(path: Path, _modified: int, _bytes: int) -> np.ndarray:
    dtype, shape = _idx_header(path)
    count, start = math.prod(shape), 4 + 4 * len(shape)
    with _open_idx(path) as handle:
        handle.seek(start)
        content = handle.read(count * np.dtype(dtype).itemsize)
    if len(content) < count * np.dtype(dtype).itemsize:
        raise ImageError(f"{path} is truncated: the header promises {shape[0]} images. Copy it again.")
    return np.frombuffer(content, dtype).reshape(shape)


# ---- masks -------------------------------------------------------------------------------------------------------


def _one_mask(path: str | Path) -> np.ndarray:
    file, index = split_index(path)
    with _reading(file):
        if file.suffix.lower() == ".mat":
            mask = read_cjdata(file)["mask"]
            if mask is None:
                raise ImageError(f"{file} has no cjdata/tumorMask; take it out of the mask column.")
            return np.asarray(mask)
        if is_nifti(file):
            return np.asarray(np.nan_to_num(np.asarray(read_nifti(file, index))[..., 0]) > 0)
        level, pixels = _mask_pixels(file, index, path)
    lesion = np.nan_to_num(pixels) >= level if level > 1 else (np.nan_to_num(pixels) != 0)
    return np.asarray(lesion.any(axis=2) if lesion.ndim == 3 else lesion)


def _mask_pixels(file: Path, index: int | None, path: str | Path) -> tuple[Literal[1, 128], np.ndarray]:
    """Values of a mask file and from which value on they are lesion."""
    if _IDX_NAME.search(file.name):
        return 1, read_image(path)
    if _is_tiff(file) and not _has_palette(file, index):
        return 1, _stored_values(file, index)
    with _open(file, index) as image:
        if image.mode == "P" and not any((image.getpalette("RGB") or [])[:3]):
            return 1, np.array(image)
        return (128 if image.format == "JPEG" else 1), _read_pillow(file, image)


def _has_palette(file: Path, index: int | None) -> bool:
    with _open_page(file, index) as (page, _):
        return bool(page.photometric.name == "PALETTE")


def _stored_values(file: Path, index: int | None) -> np.ndarray:
    """Values as stored: ImageJ and tifffile mark masks "white is zero" and mean the value; fax files mean the look."""
    pixels = _read_tiff(file, index)
    with _open_page(file, index) as (page, _):
        inverted = page.photometric.name == "MINISWHITE" and int(page.compression) not in {2, 3, 4}
    return ~pixels if inverted and pixels.dtype.kind == "u" else pixels
