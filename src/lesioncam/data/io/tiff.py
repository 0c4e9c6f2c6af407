"""TIFF: integer or float, several pages by ``#index``, turned as its orientation tag says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lesioncam.data.io import pillow
from lesioncam.data.io.base import ImageInfo, kept, kept_name, lesion_of, pick
from lesioncam.picture import Picture

if TYPE_CHECKING:
    import tifffile


FORMATS = "TIFF"
SUFFIXES = (".tif", ".tiff")


def recognises(path: Path) -> bool:
    """By its first bytes."""
    with path.open("rb") as handle:
        return handle.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def read(path: Path, index: int | None = None) -> Picture:
    """One page, in the bit depth of the file."""
    return Picture(_pixels(path, index))


def info(path: Path, index: int | None = None) -> ImageInfo:
    """Size, channels and type from the header."""
    with _page(path, index) as (page, number):
        if _is_shallow(page):
            return pillow.info(path, number)
        size = (page.imagelength, page.imagewidth)
        return ImageInfo(size[::-1] if _orientation(page) >= 5 else size, _colours(page), kept_name(page.dtype))


def read_mask(path: Path, index: int | None = None) -> np.ndarray:
    """Values as stored: ImageJ and tifffile mark masks "white is zero" and mean the value; fax files mean the look."""
    with _page(path, index) as (page, number):
        if page.photometric.name == "PALETTE":
            return pillow.read_mask(path, number)
        inverted = page.photometric.name == "MINISWHITE" and int(page.compression) not in {2, 3, 4}
    pixels = _pixels(path, index)
    return lesion_of(~pixels if inverted and pixels.dtype.kind == "u" else pixels)


def _pixels(path: Path, index: int | None) -> np.ndarray:
    with _page(path, index) as (page, number):
        if _is_shallow(page):
            return pillow.read(path, number).pixels
        return kept(_orient(_drop_alpha(_deep_pixels(path, page, number), page), _orientation(page)))


@contextmanager
def _page(path: Path, index: int | None) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """One page of a TIFF and its number; reduced copies (thumbnails) need no index to be told from the image."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        full = sum(not page.aspage().is_reduced for page in pages)
        number = 0 if index is None and full == 1 else pick(path, index, len(pages))
        yield pages[number].aspage(), number


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
        with pillow.open_page(path, number) as image:
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
