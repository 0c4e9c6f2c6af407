"""PNG, JPEG, BMP, PGM/PPM by Pillow, in the bit depth of the file; and the kinds of TIFF that it reads better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lesioncam.data.io.base import ImageInfo, kept, lesion_of, pick
from lesioncam.errors import ImageError
from lesioncam.picture import Picture

FORMATS = "PNG, JPEG, BMP, PGM/PPM"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
_PILLOW = ("PNG", "JPEG", "TIFF", "BMP", "PPM")
_BLURRED = 128  # in JPEG, which leaves a seam of small values round what was drawn, lesion begins here


def recognises(path: Path) -> bool:
    """Whatever no other reader claims: Pillow knows a file by its content, or says that it does not."""
    del path
    return True


def read(path: Path, index: int | None = None) -> Picture:
    """Decode one image: 1 bit becomes 0 and 255, a palette RGB (grey where every colour of it is), alpha is dropped."""
    with open_page(path, index) as image:
        return Picture(decode(path, image))


def info(path: Path, index: int | None = None) -> ImageInfo:
    """Size, channels and type from the header."""
    with open_page(path, index) as image:
        return facts_of(image)


def read_mask(path: Path, index: int | None = None) -> np.ndarray:
    """Not zero is lesion; of a palette with black first its index, otherwise its colour; of JPEG the bright half."""
    with open_page(path, index) as image:
        if image.mode == "P" and not any((image.getpalette("RGB") or [])[:3]):
            return lesion_of(np.array(image))
        return lesion_of(decode(path, image), _BLURRED if image.format == "JPEG" else 1)


@contextmanager
def open_page(path: Path, index: int | None) -> Iterator[Image.Image]:
    """A file opened by Pillow, header only, at the page that was asked for."""
    with Image.open(path, formats=_PILLOW) as image:
        if image.format == "TIFF":
            image.seek(index or 0)
        else:
            pick(path, index, 1)
        yield image


def decode(path: Path, image: Image.Image) -> np.ndarray:
    """Pixels of an opened image, ``(H, W)`` or ``(H, W, C)``, in the depth of the file; JPEG turned as EXIF says."""
    if _is_deep_png(image):
        return _read_png16(path, _raw_mode(image))
    _refuse_deep_ppm(path, image)
    if image.format == "JPEG":
        image = ImageOps.exif_transpose(image)
    return kept(_plain(image))


def _refuse_deep_ppm(path: Path, image: Image.Image) -> None:
    """Pillow keeps 8 bit of deeper colour PPM and offers no way round."""
    tiles = _tiles(image)
    if image.format == "PPM" and image.mode == "RGB" and tiles and tiles[0][0] != "raw":
        raise ImageError(f"{path} is colour PPM of more than 8 bit, whose depth would be lost; save it as PNG or TIFF.")


def facts_of(image: Image.Image) -> ImageInfo:
    """What :func:`decode` will give, from the header."""
    width, height = image.size
    if image.format == "JPEG" and image.getexif().get(0x0112, 1) >= 5:
        width, height = height, width
    if _is_deep_png(image):
        return ImageInfo((height, width), 1 if _raw_mode(image).startswith("LA") else 3, "uint16")
    return ImageInfo((height, width), _channels(image), _pillow_dtype(image))


def _channels(image: Image.Image) -> int:
    if image.mode == "P":
        return 1 if _grey_palette(image) else 3
    return 1 if image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16") else 3


def _pillow_dtype(image: Image.Image) -> str:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return "uint16"
    return "float32" if image.mode in {"I", "F"} else "uint8"


def _grey_palette(image: Image.Image) -> bool:
    colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    return bool((colours == colours[:, :1]).all())


def _plain(image: Image.Image) -> np.ndarray:
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


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in a PNG, for instance ``RGB;16B``."""
    tiles = _tiles(image)
    return str(tiles[0][3]) if image.format == "PNG" and tiles else ""


def _tiles(image: Image.Image) -> list[tuple[str, object, int, object]]:
    """How the pixels lie in the file: decoder, box, offset, arguments."""
    return getattr(image, "tile", [])


def _is_deep_png(image: Image.Image) -> bool:
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
