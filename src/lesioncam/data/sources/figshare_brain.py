"""T1 contrast-enhanced brain tumours (Cheng, figshare 1512427), as published and as converted to images.

*Published*: ``1.mat`` to ``3064.mat`` (in any sub-folders), MATLAB v7.3, struct ``cjdata`` with image, label, PID and
tumorMask; ``cvind.mat``, where present, adds the authors' patient-wise ``fold`` 1 to 5.

*Converted*: ``labels.csv`` (``index, label, split``), ``images/<index>.jpg``, ``masks/<index>.png``. There are no
patient numbers in it. Neighbouring indices are slices of one patient, so every 20 indices in a row (of the same class
and split) are written as one patient, ``block-0001`` and so on: a stand-in, good enough to keep neighbours together and
to draw intervals over, and not the true patients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.io.image import read_cjdata
from lesioncam.data.sources.base import SourceInfo
from lesioncam.data.table.cells import read_cells
from lesioncam.errors import ImageError, TableError

LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
"""Codes of the published files; relabelled copies use others."""

BLOCK = 20
"""Consecutive indices that stand in for one patient in the converted layout."""

INFO = SourceInfo(
    name="figshare-brain",
    licence="CC BY 4.0",
    citation="Cheng, Jun (2017): brain tumor dataset. figshare. https://doi.org/10.6084/m9.figshare.1512427",
    counts="3064 slices of 233 patients: 708 meningioma, 1426 glioma, 930 pituitary; no healthy images",
    traps=(
        "arrays are stored transposed",
        "neighbouring indices are slices of one patient: a random split leaks",
        "every slice has a tumour: the weak signal is its class, not its presence",
        "15 slices are not 512 x 512",
    ),
)


def table(root: Path) -> pd.DataFrame:
    """Make a table of either layout.

    Args:
        root: folder with ``labels.csv`` and ``images/``, or with numbered ``.mat`` files somewhere below.

    Returns:
        Columns ``image, label, patient, mask`` and ``split`` (converted) or, with ``cvind.mat``, ``fold`` (published).

    Raises:
        TableError: if it is neither layout, or a label is none of the three.
    """
    if (root / "labels.csv").is_file() and (root / "images").is_dir():
        return _converted(root)
    files = {int(path.stem): path for path in sorted(root.rglob("*.mat")) if path.stem.isdigit()}
    if not files:
        raise TableError(
            f"{root} is not the figshare brain set: expected numbered .mat files (1.mat, 2.mat, ...), "
            "or labels.csv beside images/."
        )
    return _published(root, dict(sorted(files.items())))


def _converted(root: Path) -> pd.DataFrame:
    cells = read_cells(root / "labels.csv")
    missing = [name for name in ("index", "label", "split") if name not in cells]
    if missing:
        raise TableError(f"{root / 'labels.csv'} has no column {missing[0]!r}; found: {', '.join(map(str, cells))}.")
    bad = cells.index[~cells["index"].str.isdigit()]
    if len(bad):
        found = cells.loc[bad[0], "index"]
        raise TableError(f"{root / 'labels.csv'} row {bad[0]}: index {found!r} is no whole number; it names the image.")
    cells = cells.assign(number=cells["index"].astype(int)).sort_values("number")
    index = cells["index"]
    columns = {
        "image": [(root / "images" / f"{name}.jpg").as_posix() for name in index],
        "label": cells["label"].tolist(),
        "patient": _blocks(cells),
        "split": cells["split"].tolist(),
        "mask": [(root / "masks" / f"{name}.png").as_posix() for name in index],
    }
    return pd.DataFrame(columns, dtype=object)


def _blocks(cells: pd.DataFrame) -> list[str]:
    """Names of blocks of 20 consecutive indices within a run of the same class and split."""
    keys = cells[["label", "split"]]
    runs = (keys != keys.shift()).any(axis=1).cumsum()
    numbers = cells["number"]
    inside = (numbers - numbers.groupby(runs).transform("first")) // BLOCK
    blocks = pd.Series(list(zip(runs, inside, strict=True)))
    return [f"block-{code + 1:04d}" for code in pd.factorize(blocks)[0]]


def _published(root: Path, files: dict[int, Path]) -> pd.DataFrame:
    rows = [_row(path) for path in files.values()]
    frame = pd.DataFrame(rows, dtype=object)
    folds = _folds(root)
    if folds is not None:
        outside = [number for number in files if not 1 <= number <= len(folds)]
        if outside:
            raise TableError(f"{files[outside[0]]} has no entry in cvind.mat, which knows 1 to {len(folds)}.")
        frame["fold"] = [str(folds[number - 1]) for number in files]
    return frame


def _row(path: Path) -> dict[str, str]:
    try:
        data = read_cjdata(path)
    except ImageError as error:
        raise TableError(f"{error} Nothing was written.") from error
    if data.label not in LABELS:
        known = ", ".join(f"{code} {name}" for code, name in LABELS.items())
        raise TableError(
            f"{path} has the label {data.label}; the published codes are {known}. Is it a relabelled copy?"
        )
    place = path.as_posix()
    return {"image": place, "label": LABELS[data.label], "patient": data.patient or "", "mask": place}


def _folds(root: Path) -> np.ndarray | None:
    """The authors' five folds from ``cvind.mat`` (any MATLAB version), one per index, or None."""
    import h5py

    found = sorted(root.rglob("cvind.mat"))
    if not found:
        return None
    if h5py.is_hdf5(found[0]):
        with h5py.File(found[0], "r") as file:
            return np.asarray(file["cvind"][()]).ravel().astype(int)
    from scipy.io import loadmat

    return np.asarray(loadmat(found[0])["cvind"]).ravel().astype(int)
