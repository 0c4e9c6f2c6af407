"""Br35H, brain MRI with and without a tumour, as converted to one folder per class.

``labels.csv`` (``image, label, mask``), images in ``tumour/`` and ``no_tumour/``, outlines drawn as ``masks/*.png``.
Nobody knows which images are of one patient, and nearly every image has a copy in the set (mirrored, sharpened,
darkened). The table therefore says that patients are unknown; near-identical images are found and kept together by
``lesioncam split`` and by ``run``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lesioncam.data.sources.base import NO_PATIENT, SourceInfo, not_found
from lesioncam.data.table.cells import read_cells
from lesioncam.errors import TableError

INFO = SourceInfo(
    name="br35h",
    licence="unstated by the source: do not pass the images on",
    citation="Hamada, A. (2020): Br35H, brain tumor detection. Kaggle",
    counts="701 images with an outlined tumour, 1500 without, one source; the converted copy has 500 and 1000",
    traps=(
        "patients are not known, and most images have a near or mirrored copy in the set: a random split leaks",
        "images with and without a tumour were collected apart: size and histogram alone tell them from each other",
        "images without a tumour beside tumours of another set teach the source, not the disease",
        "the licence is not stated",
    ),
)

LABELS = {"tumour": "1", "no_tumour": "0"}
"""Labels of the file, and what they mean for the one class."""


def table(root: Path) -> pd.DataFrame:
    """Make a table of the folder.

    Args:
        root: folder with ``labels.csv``, ``tumour/``, ``no_tumour/`` and ``masks/``.

    Returns:
        Columns ``image, class:tumour, negative:no_tumour, mask`` and a blank ``patient (none)``.

    Raises:
        TableError: if it is another folder, or a label is none of the two.
    """
    labels = root / "labels.csv"
    if not labels.is_file():
        raise not_found(INFO.name, root, "labels.csv (image, label, mask)", "the images it names")
    cells = read_cells(labels)
    missing = [name for name in ("image", "label", "mask") if name not in cells]
    if missing:
        raise TableError(f"{labels} has no column {missing[0]!r}; found: {', '.join(map(str, cells))}.")
    unknown = cells[~cells["label"].isin(list(LABELS))]
    if len(unknown):
        found = f"row {unknown.index[0]} has {unknown['label'].iloc[0]!r}"
        raise TableError(f"{labels} {found}; the labels of this set are {' and '.join(LABELS)}.")
    tumour = cells["label"].map(LABELS)
    columns = {
        "image": [(root / name).as_posix() for name in cells["image"]],
        "class:tumour": tumour.tolist(),
        "negative:no_tumour": [str(1 - int(cell)) for cell in tumour],
        "mask": [(root / name).as_posix() if name else "" for name in cells["mask"]],
        NO_PATIENT: [""] * len(cells),
    }
    return pd.DataFrame(columns, dtype=object)
