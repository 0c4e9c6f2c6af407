"""What an answer is given for, opened: from a file, an array or a Pillow image to an examination."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lesioncam.data.io.image import read_picture, validate_image
from lesioncam.errors import ImageError
from lesioncam.picture import Picture
from lesioncam.types import Exam, Record

Source = str | Path | Picture | np.ndarray | Image.Image
"""A file (``file#index`` for one of several), a picture, an array ``(H, W)`` or ``(H, W, C)`` or of a volume, a Pillow
image."""


def open_exam(source: Source, name: str | None = None) -> Exam:
    """Read and check one image.

    Args:
        source: what was given.
        name: what to call it; by default the file's name, ``image`` for pixels.

    Raises:
        ImageError: if it cannot be read or used.
    """
    told = str(source) if isinstance(source, str | Path) else name or "image"
    picture = _decoded(source, told)
    validate_image(picture)
    return Exam(name or Path(told).name, told, (picture,))


def exam_of(record: Record) -> Exam:
    """A row of a table with all its images, read and checked."""
    if len(record.images) < 2:
        return open_exam(record.image, record.id)
    return Exam(record.id, record.images[0], tuple(open_exam(image).picture for image in record.images))


def _decoded(source: Source, name: str) -> Picture:
    if isinstance(source, str | Path):
        return read_picture(source)
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        return Picture(np.asarray(source if source.mode in _MODES else source.convert("RGB")), source=name)
    if isinstance(source, np.ndarray):
        return Picture(source, source=name)
    raise ImageError(f"{name} is a {type(source).__name__}; give a file, an array (H, W[, C]) or a Pillow image.")


_MODES = ("L", "RGB", "I;16", "F", "I")
"""Pillow's modes whose pixels are used as they are."""
