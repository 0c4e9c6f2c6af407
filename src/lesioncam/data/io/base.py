"""What a reader of image files is, and what all readers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lesioncam.errors import ImageError
from lesioncam.picture import Picture

_KEPT = {"uint8", "uint16", "int16", "float32"}


@dataclass(frozen=True)
class ImageInfo:
    """What an image file holds, as decoding it would return it.

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
    def of(cls, picture: Picture) -> ImageInfo:
        """The same facts of a decoded image."""
        spacing = None if picture.grid is None else picture.grid.spacing
        return cls(picture.size, picture.channels, str(picture.pixels.dtype), spacing)


class Reader(Protocol):
    """A module that reads one kind of file; `lesioncam.data.io.image.READERS` lists them.

    Its functions get a path without ``#index`` and may raise whatever their decoder raises for a damaged file: the
    caller turns that into one sentence. ``index`` is None where none was asked for.
    """

    @property
    def FORMATS(self) -> str:  # noqa: N802
        """For people: which formats it reads."""
        ...

    @property
    def SUFFIXES(self) -> Sequence[str]:  # noqa: N802
        """Which files of a folder are taken for images."""
        ...

    def recognises(self, path: Path, /) -> bool:
        """Whether this file is of this kind, by its name or its first bytes."""
        ...

    def read(self, path: Path, index: int | None, /) -> Picture:
        """Decode one image."""
        ...

    def info(self, path: Path, index: int | None, /) -> ImageInfo:
        """The same facts from the header alone."""
        ...

    def read_mask(self, path: Path, index: int | None, /) -> np.ndarray:
        """Where a mask file shows lesion, ``(*S)`` bool."""
        ...


class UnknownFormatError(ImageError):
    """The file is of no kind that is read; the message says what was found."""


def kept(array: np.ndarray) -> np.ndarray:
    """The array as a writable, contiguous one of a kept type; booleans become 0 and 255."""
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    return np.array(array, dtype=kept_name(array.dtype), order="C")


def kept_name(dtype: npt.DTypeLike) -> str:
    """The type in which values of a type are kept.

    Example:
        >>> [kept_name(name) for name in ("bool", "int8", ">u2", "int32", "float64")]
        ['uint8', 'int16', 'uint16', 'float32', 'float32']
    """
    plain = np.dtype(dtype).newbyteorder("=").name
    return {"bool": "uint8", "int8": "int16"}.get(plain, plain if plain in _KEPT else "float32")


def pick(path: Path, index: int | None, count: int, what: str = "image", shape: str = "") -> int:
    """The index that was asked for, in a file of ``count`` images; without one the only image.

    Raises:
        ImageError: if there is no such image, or several and none was asked for.
    """
    if index is None and count == 1:
        return 0
    if index is None:
        which = f"{path.name}#0 to {path.name}#{count - 1}"
        raise ImageError(f"{path} holds {count} {what}s{shape}; say which one: {which}.")
    if index >= count:
        there = "one only, #0" if count == 1 else f"{count}, #0 to #{count - 1}"
        raise ImageError(f"{path} has no {what} #{index}; it holds {there}.")
    return index


def lesion_of(pixels: np.ndarray, level: int = 1) -> np.ndarray:
    """Where a mask shows lesion: not zero, or from a level on; in colour, where one of the channels says so."""
    values = np.nan_to_num(pixels)
    lesion = values >= level if level > 1 else values != 0
    return np.asarray(lesion.any(axis=2) if lesion.ndim == 3 else lesion)
