"""Public data sets by name: one file each, a folder in, a table out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lesioncam.data.sources import br35h, figshare_brain, folder, idrid, mnist, nih_cxr
from lesioncam.data.sources.base import Source
from lesioncam.data.table.table import relative_to
from lesioncam.errors import OptionError, TableError
from lesioncam.files import write_csv, write_with
from lesioncam.lookup import find

SOURCES = {
    "folder": Source(folder.INFO, folder.table),
    "br35h": Source(br35h.INFO, br35h.table),
    "figshare-brain": Source(figshare_brain.INFO, figshare_brain.table),
    "idrid": Source(idrid.INFO, idrid.table),
    "idrid-lesions": Source(idrid.LESIONS_INFO, idrid.lesion_table),
    "mnist": Source(mnist.INFO, mnist.table),
    "nih-cxr": Source(nih_cxr.INFO, nih_cxr.table),
}
"""A new data set: one file with ``INFO`` and ``table(root)``, one line here, one test."""


def index_source(spec: str | Path, *, labels: str | Path | None = None, on: str | None = None) -> pd.DataFrame:
    """Make a table of a folder or of a known data set.

    Args:
        spec: ``DIR`` (one sub-folder a class) or ``NAME:DIR``.
        labels: a file of labels to join with the images of ``DIR``.
        on: the column of that file which names the image: path, file name, or name without suffix.

    Returns:
        One row per image in the columns :func:`~lesioncam.data.table.table.read_table` knows; paths as ``spec`` gave
        them.

    Raises:
        TableError: if the folder is missing or is not what the name says.
        OptionError: if there is no such name, or one of ``labels`` and ``on`` is missing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cyst/1.png", "healthy/2.png"):
        ...         (Path(root) / name).parent.mkdir()
        ...         _ = (Path(root) / name).write_bytes(b"")
        ...     index_source(root)["label"].tolist()
        ['cyst', 'healthy']
    """
    name, root = _parse(str(spec))
    if (labels is None) != (on is None):
        raise OptionError("--labels FILE and --on COLUMN go together; give both.")
    if not root.is_dir():
        raise TableError(f"{root} is not a folder; give the folder with the images.")
    if labels is None or on is None:
        return SOURCES[name].table(root)
    if name != "folder":
        raise OptionError(f"{name} brings its own labels; --labels goes with a plain folder.")
    return folder.join(root, Path(labels), on)


def describe_source(spec: str | Path) -> str:
    """What a user should know of a public set: licence, citation, counts, traps; nothing for a plain folder.

    Raises:
        OptionError: if there is no such name.

    Example:
        >>> print(describe_source("mnist:DIR").splitlines()[1])
        licence: free to use
    """
    name, _ = _parse(str(spec))
    info = SOURCES[name].info
    if name == "folder":
        return ""
    traps = "".join(f"  - {trap}\n" for trap in info.traps)
    return f"{name}: {info.counts}\nlicence: {info.licence}\ncite: {info.citation}\ntraps:\n{traps}"


def _parse(spec: str) -> tuple[str, Path]:
    name, colon, rest = spec.partition(":")
    if not colon or (name not in SOURCES and (len(name) == 1 or Path(spec).exists())):
        return "folder", Path(spec)
    find(name, SOURCES, "source")
    return name, Path(rest)


def write_index(frame: pd.DataFrame, out: str | Path) -> Path:
    """Write a table from :func:`index_source` as CSV (or Parquet), with paths relative to its folder.

    Raises:
        OSError: if it cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     frame = pd.DataFrame({"image": [f"{root}/png/1.png"], "label": ["cyst"]})
        ...     write_index(frame, Path(root) / "t.csv").read_text().split()
        ['image,label', 'png/1.png,cyst']
    """
    place = Path(out)
    turn = relative_to(place.parent)
    written = frame.copy()
    for column in [name for name in map(str, frame) if name in {"image", "mask"} or name.startswith("mask:")]:
        cells = ["|".join(turn(path) for path in str(cell).split("|") if path) for cell in frame[column]]
        written[column] = pd.Series(cells, index=frame.index, dtype=object)
    if place.suffix in {".parquet", ".pq"}:
        return write_with(place, lambda partial: written.to_parquet(partial, index=False))
    return write_csv(place, written)
