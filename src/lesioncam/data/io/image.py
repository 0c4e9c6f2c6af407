"""Image and mask files in, pictures out, in the bit depth of the file: one entry for every kind of file.

Each kind has a module beside this one, and a line in `READERS`. 32-bit integers and 64-bit floats become float32,
everything else keeps its type (uint8, uint16, int16, float32).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncam.data.io import idx, mat, nifti, pillow, tiff
from lesioncam.data.io.base import ImageInfo, Reader, UnknownFormatError
from lesioncam.errors import ImageError
from lesioncam.picture import Picture, by_x

READERS: dict[str, Reader] = {"nifti": nifti, "mat": mat, "idx": idx, "tiff": tiff, "pillow": pillow}
"""Kinds of file. The first that recognises a file reads it; the last takes what nobody else knows."""

IMAGE_SUFFIXES = tuple(suffix for reader in reversed(READERS.values()) for suffix in reader.SUFFIXES)
"""Suffixes a folder is searched for; files are recognised by their content."""

SUPPORTED = ", ".join(reader.FORMATS for reader in reversed(READERS.values()))

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
"""What decoders raise for damaged files."""


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


def read_picture(path: str | Path) -> Picture:
    """Decode an image in full.

    Args:
        path: the file; ``file#index`` picks one of several (TIFF pages, idx, volumes of a NIfTI), counted from 0.

    Returns:
        ``(H, W)`` grey or ``(H, W, C)`` colour without alpha, in the file's bit depth; NIfTI gives a volume
        ``(D, H, W, 1)`` with its grid, slices from foot to head as radiologists look at them.

    Raises:
        ImageError: if the file is missing, damaged, of an unknown format, or has no such index.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "a.png"
        ...     Image.fromarray(np.array([[0, 40000]], np.uint16)).save(place)
        ...     read_picture(place).pixels
        array([[    0, 40000]], dtype=uint16)
    """
    with _opened(path) as (reader, file, index):
        return replace(reader.read(file, index), source=str(path))


def image_info(path: str | Path) -> ImageInfo:
    """Size, channels and type of an image from its header, without decoding the pixels.

    Raises:
        ImageError: as :func:`read_picture`, as far as the header shows it.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGBA", (7, 5)).save(Path(folder) / "a.png")
        ...     image_info(Path(folder) / "a.png")
        ImageInfo(size=(5, 7), channels=3, dtype='uint8', spacing=None)
    """
    with _opened(path) as (reader, file, index):
        return reader.info(file, index)


def read_mask(paths: str | Path | Sequence[str | Path], size: Sequence[int]) -> np.ndarray:
    """Unite mask files: every pixel that is not zero in one of them is lesion.

    Grey, RGB, RGBA (alpha says nothing) and palette files (index not 0; where index 0 is not black, colour not black)
    are read alike; in JPEG, which blurs, lesion begins at 128. A ``.mat`` file gives its ``cjdata/tumorMask``, a NIfTI
    file a volume turned as `read_picture` turns it: in it lesion is whatever is above 0, in whole or in real numbers.

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
        with _opened(path) as (reader, file, index):
            mask = reader.read_mask(file, index)
        if mask.shape != union.shape:
            raise ImageError(
                f"mask {path} is {by_x(mask.shape)} but its image is {by_x(union.shape)} "
                f"({'height x width' if union.ndim == 2 else 'slices x height x width'}); save the mask in the image's "
                "own pixels."
            )
        union |= mask
    return union


def read_cjdata(path: str | Path) -> mat.BrainSlice:
    """Everything of one file of the figshare brain tumour set: image, label, patient, mask.

    Raises:
        ImageError: if it is no such file.
    """
    with _opened(path) as (_, file, _index):
        return mat.read_slice(file)


def validate_image(picture: Picture) -> None:
    """Refuse an image from which nothing can be learned.

    Raises:
        ImageError: if it is empty, holds NaN or infinite pixels, or is constant (all black, for instance).

    Example:
        >>> validate_image(Picture(np.zeros((2, 2), np.uint8), source="a.png"))
        Traceback (most recent call last):
        lesioncam.errors.ImageError: a.png is constant (every pixel is 0): it shows nothing. Replace it or drop its row.
    """
    pixels, path = picture.pixels, picture.source
    if pixels.size == 0:
        raise ImageError(f"{path} is empty ({by_x(pixels.shape)}); export it again or take its row out.")
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise ImageError(f"{path} has {bad} NaN or infinite pixels of {pixels.size}; fill them or take its row out.")
    low, high = pixels.min(), pixels.max()
    if low == high:
        value = f"{float(low):g}"
        raise ImageError(f"{path} is constant (every pixel is {value}): it shows nothing. Replace it or drop its row.")


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Reader, Path, int | None]]:
    """The reader of a file, the file, the index; whatever a decoder raises becomes a sentence with the way out."""
    file, index = split_index(path)
    try:
        yield next(reader for reader in READERS.values() if reader.recognises(file)), file, index
    except UnknownFormatError as error:
        raise ImageError(f"{error}; supported: {SUPPORTED}.") from error
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{file} is missing; correct the path or the image folder (--images).") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{file} cannot be opened ({error.strerror}).") from error
    except _DAMAGE as error:
        raise ImageError(_damage(file, error)) from error


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
