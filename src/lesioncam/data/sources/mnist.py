"""MNIST, handwritten digits in the original idx files: the sanity figures of CLEAR.

``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``,
gzipped or not, with a dot or a hyphen before ``idx``. All numbers in the headers are big-endian. A row's image is
``file#index``. The published test file is test; the last tenth of the train file is val, whatever the seed.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.sources.base import NO_PATIENT, SourceInfo, last_share, not_found
from lesioncam.errors import TableError

VAL_SHARE = 0.1
"""The end of the train file that becomes val."""

INFO = SourceInfo(
    name="mnist",
    licence="free to use",
    citation="LeCun, Cortes & Burges: The MNIST database of handwritten digits",
    counts="60000 train and 10000 test images of 28 x 28, ten digits",
    traps=(
        "the headers are big-endian: read the other way round they promise billions of images",
        "digits are bright on 0 and fill a 20 x 20 box: no crop to the foreground, no mirroring",
        "the idx files do not say who wrote what: writers count as unknown patients",
        "the digit is the class, and every pixel of it is evidence: no lesion, no mask",
    ),
)

_IMAGES, _LABELS = 2051, 2049  # magic numbers


def table(root: Path) -> pd.DataFrame:
    """Make a table of the four idx files.

    Args:
        root: folder with the files.

    Returns:
        Columns ``image`` (``file#index``), ``label`` (``0`` to ``9``), ``split`` and a blank ``patient (none)``.

    Raises:
        TableError: if a file is missing, is no idx file, or images and labels are not as many.
    """
    parts = [(_rows(root, "train"), "train"), (_rows(root, "t10k"), "test")]
    images = [image for (names, _), _ in parts for image in names]
    labels = [str(digit) for (_, digits), _ in parts for digit in digits]
    split = [name for (names, _), name in parts for _ in names]
    held = last_share(len(parts[0][0][0]), VAL_SHARE)
    split[: len(held)] = ["val" if last else "train" for last in held]
    columns = {"image": images, "label": labels, "split": split, NO_PATIENT: [""] * len(images)}
    return pd.DataFrame(columns, dtype=object)


def _rows(root: Path, part: str) -> tuple[list[str], np.ndarray]:
    """Names and digits of one of the two parts."""
    images, labels = (_file(root, f"{part}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    count, digits = _header(images, _IMAGES)[0], _digits(labels)
    if count != len(digits):
        raise TableError(f"{images.name} holds {count} images, {labels.name} {len(digits)} labels; one is incomplete.")
    return [f"{images.as_posix()}#{index}" for index in range(count)], digits


def _file(root: Path, name: str) -> Path:
    for form in (name, name.replace("-idx", ".idx")):
        for suffix in (".gz", ""):
            if (root / f"{form}{suffix}").is_file():
                return root / f"{form}{suffix}"
    raise not_found(INFO.name, root, *(f"{p}-{k}-ubyte.gz" for p in ("train", "t10k") for k in _KINDS))


_KINDS = ("images-idx3", "labels-idx1")


def _header(path: Path, magic: int) -> tuple[int, ...]:
    """Sizes in the header: big-endian, as many as the last byte of the magic number says."""
    return struct.unpack(f">{magic & 0xFF}I", _read(path, magic, 4, 4 * (magic & 0xFF)))


def _digits(path: Path) -> np.ndarray:
    (count,) = _header(path, _LABELS)
    digits = np.frombuffer(_read(path, _LABELS, 8, count), np.uint8)
    if len(digits) and digits.max() > 9:
        raise TableError(f"{path} holds the label {digits.max()}; digits go from 0 to 9.")
    return digits


def _read(path: Path, magic: int, start: int, count: int) -> bytes:
    """Bytes of an idx file after its magic number was checked."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as handle:
            found = handle.read(4)
            handle.seek(start)
            content = handle.read(count)
    except (OSError, EOFError) as error:
        raise TableError(f"{path} cannot be read ({error}); copy it again.") from error
    if found != struct.pack(">I", magic):
        raise TableError(f"{path} begins with {found.hex() or 'nothing'}; expected {magic:08x}, an idx file of bytes.")
    if len(content) < count:
        raise TableError(f"{path} is truncated: {count} bytes were promised, {len(content)} found. Copy it again.")
    return content
