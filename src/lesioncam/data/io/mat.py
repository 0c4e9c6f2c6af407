"""MATLAB v7.3 with the struct ``cjdata``: the figshare brain tumour set, stored transposed, turned back here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lesioncam.data.io.base import ImageInfo, kept, kept_name, pick
from lesioncam.errors import ImageError
from lesioncam.picture import Picture

if TYPE_CHECKING:
    import h5py


FORMATS = "MATLAB v7.3 with cjdata (.mat)"
SUFFIXES = (".mat",)


@dataclass(frozen=True, eq=False)
class BrainSlice:
    """What one file holds.

    Attributes:
        image: ``(H, W)``.
        label: the diagnosis by number; None where the file does not say.
        patient: the patient's key, or None.
        mask: of the tumour, ``(H, W)`` bool, or None.
    """

    image: np.ndarray
    label: int | None
    patient: str | None
    mask: np.ndarray | None


def read_slice(path: Path) -> BrainSlice:
    """Everything of one file, axes turned back to ``(H, W)``."""
    with _open_cjdata(path) as data:
        mask = np.ascontiguousarray(data["tumorMask"][()].T != 0) if "tumorMask" in data else None
        label = int(np.asarray(data["label"][()]).ravel()[0]) if "label" in data else None
        patient = "".join(chr(code) for code in np.asarray(data["PID"][()]).ravel()) if "PID" in data else None
        return BrainSlice(kept(data["image"][()].T), label, patient, mask)


def recognises(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() == ".mat"


def read(path: Path, index: int | None = None) -> Picture:
    """The image of the struct."""
    pick(path, index, 1)
    return Picture(read_slice(path).image)


def info(path: Path, index: int | None = None) -> ImageInfo:
    """Size and type from the header."""
    pick(path, index, 1)
    with _open_cjdata(path) as data:
        width, height = data["image"].shape
        return ImageInfo((height, width), 1, kept_name(data["image"].dtype))


def read_mask(path: Path, _index: int | None = None) -> np.ndarray:
    """The struct's ``tumorMask``."""
    mask = read_slice(path).mask
    if mask is None:
        raise ImageError(f"{path} has no cjdata/tumorMask; take it out of the mask column.")
    return mask


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
