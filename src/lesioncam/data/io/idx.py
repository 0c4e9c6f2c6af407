"""idx and idx.gz, the format of MNIST: many images in a file, one by ``#index``."""

from __future__ import annotations

import gzip
import math
import re
import struct
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from lesioncam.data.io.base import ImageInfo, UnknownFormatError, kept, kept_name, lesion_of, pick
from lesioncam.errors import ImageError
from lesioncam.picture import Picture

FORMATS = "idx (.gz)"
SUFFIXES = ()
_NAME = re.compile(r"(?:[.-]idx\d?(?:-ubyte)?(?:\.gz)?|\.gz)$", re.IGNORECASE)
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def recognises(path: Path) -> bool:
    """By its name; whatever ends with ``.gz`` and is of no other kind is taken for one."""
    return _NAME.search(path.name) is not None


def read(path: Path, index: int | None = None) -> Picture:
    """One of its images."""
    images = _images(path)
    return Picture(kept(images[pick(path, index, len(images))]))


def info(path: Path, index: int | None = None) -> ImageInfo:
    """Size and type from the header."""
    dtype, (count, *shape) = _header(path)
    pick(path, index, count)
    return ImageInfo((shape[0], shape[1]), shape[2] if len(shape) == 3 else 1, kept_name(dtype))


def read_mask(path: Path, index: int | None = None) -> np.ndarray:
    """Not zero is lesion."""
    return lesion_of(read(path, index).pixels)


def _header(path: Path) -> tuple[str, tuple[int, ...]]:
    """Type and shape from the big-endian header of an idx file."""
    with _open(path) as handle:
        start = handle.read(4)
        known = len(start) == 4 and start[:2] == b"\0\0" and start[2] in _TYPES
        if not known or start[3] not in {3, 4}:
            found = start.hex() or "nothing"
            raise UnknownFormatError(f"{path} is no idx file of images (it begins with {found})")
        return _TYPES[start[2]], struct.unpack(f">{start[3]}I", handle.read(4 * start[3]))


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


_lock = Lock()


def _images(path: Path) -> np.ndarray:
    """All images of an idx file ``(n, H, W)``; the last files read stay in memory, since records pick single images."""
    state = path.stat()
    with _lock:
        return _decoded(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _decoded(path: Path, _modified: int, _bytes: int) -> np.ndarray:
    dtype, shape = _header(path)
    count, start = math.prod(shape), 4 + 4 * len(shape)
    with _open(path) as handle:
        handle.seek(start)
        content = handle.read(count * np.dtype(dtype).itemsize)
    if len(content) < count * np.dtype(dtype).itemsize:
        raise ImageError(f"{path} is truncated: the header promises {shape[0]} images. Copy it again.")
    return np.frombuffer(content, dtype).reshape(shape)
