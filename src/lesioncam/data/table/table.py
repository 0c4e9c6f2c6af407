"""The user's table of image-level labels: CSV or Parquet in, one canonical frame with four label states out.

Nothing is renamed for the user and nothing is written back into their file: columns are mapped while reading.
What is wrong with single rows is collected in :attr:`Table.problems`, so that ``check`` can list everything at once;
only a table that cannot be read at all raises.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesioncam.data.table.columns import (
    image_paths,
    join_paths,
    objects_of,
    plain_number,
    read_boxes,
    read_ids,
    read_masks,
    read_patients,
    read_readers,
    read_split,
    read_verified,
    text_or_none,
)
from lesioncam.data.table.labels import Labels, read_labels
from lesioncam.data.table.policy import make_targets
from lesioncam.data.table.sheet import NAMES, PREFIXES, TEXTS, Problem, Sheet, open_sheet, written_rule
from lesioncam.errors import OptionError
from lesioncam.files import write_csv, write_with
from lesioncam.options.base import validated
from lesioncam.options.data import TableConfig
from lesioncam.types import NEGATIVE, POSITIVE, SPLITS, UNCERTAIN, Box, Record

_STATES = {POSITIVE: "1", NEGATIVE: "0", UNCERTAIN: "-1"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table of labels, read and mapped.

    Attributes:
        frame: n rows with the columns ``row`` (the header is row 1), ``id``, ``image`` (path joined to the image root,
            ``#index`` kept; several images of a row are joined by ``|``), ``name`` (the cell as the user wrote it),
            ``patient``, ``study``, ``view``, ``laterality``, ``split`` (None where blank), ``negative`` (the no-lesion
            labels of the row, joined by ``|``), ``masks`` (class -> paths, ``""`` for every positive class), ``boxes``
            (native pixels), ``readers`` (reader -> class -> paths), ``verified`` (True, False or None; only where the
            table has the column), and the user's other columns as ``extra:<name>``.
        classes: the K lesion classes.
        states: ``(n, K)`` float32: 1 positive, 0 negative, -1 uncertain, NaN unknown.
        negative: labels that are no lesion; they make no class, such a row is negative for every class.
        exclusive: every row has exactly one label, of at least two classes or a no-lesion label: arg-max balanced
            accuracy is defined.
        source: name of the file, for messages.
        patient_rule: ``column PID``, ``regex ...``, ``blocks:20``, ``none``, or "" without any patient information.
        problems: what was found wrong while reading.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    states: np.ndarray
    negative: tuple[str, ...] = ()
    exclusive: bool = False
    source: str = "table"
    patient_rule: str = ""
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        """Rows, that is images."""
        return len(self.frame)

    def records(self) -> list[Record]:
        """The rows as typed records, in order."""
        names = ["id", "image", "row", "patient", *TEXTS, "split", "masks", "boxes"]
        names += ["readers"] if "readers" in self.frame else []
        columns = [self.frame[name].tolist() for name in names]
        labels = map(tuple, self.states.tolist())
        return [
            Record(key, image_paths(image), row, label, *rest)
            for (key, image, row, *rest), label in zip(zip(*columns, strict=True), labels, strict=True)
        ]

    def take(self, rows: np.ndarray | Sequence[int]) -> Table:
        """The table of some rows only, by position or as a ``(n,)`` bool mask; classes stay as they are."""
        chosen = np.asarray(rows)
        positions = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        frame = self.frame.iloc[positions].reset_index(drop=True)
        kept = {None, *frame["row"].tolist()}
        problems = tuple(problem for problem in self.problems if problem.row in kept)
        return replace(self, frame=frame, states=self.states[positions], problems=problems)

    def split(self, name: str) -> Table:
        """The rows of one split.

        Raises:
            OptionError: if ``name`` is not train, val or test.
        """
        if name not in SPLITS:
            raise OptionError(f"Unknown split {name!r}. Available: {', '.join(SPLITS)}.")
        return self.take(self.frame["split"].to_numpy() == name)

    def labels(self, uncertain: str | float | tuple[float, float] = "ignore", blank: str = "ignore") -> np.ndarray:
        """Training targets under a policy, ``(n, K)`` float32 with NaN for "say nothing".

        Args:
            uncertain: what -1 becomes: "ignore" (NaN), 0, 1, a soft label between them, or the middle of an interval.
            blank: what a blank becomes: "ignore" (NaN) or "0".

        Policies of single classes are in :func:`lesioncam.data.table.targets.targets_of`.

        Raises:
            OptionError: for any other value.

        Example:
            >>> t = Table(pd.DataFrame({"id": list("abcd")}), ("mass",), np.float32([[1], [0], [-1], [np.nan]]))
            >>> t.labels()[:, 0].tolist(), t.labels("0", "0")[:, 0].tolist(), t.labels(0.5)[:, 0].tolist()
            ([1.0, 0.0, nan, nan], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.5, nan])
        """
        what = f"uncertain={uncertain!r}, blank={blank!r} is not possible"
        policy = validated(TableConfig, {"uncertain": uncertain, "blank": blank}, what)
        return make_targets(self.states, self.classes, policy).middle()

    def verified(self) -> np.ndarray | None:
        """``(n,)`` bool: the rows whose labels somebody checked; None where the table has no column ``verified``.

        A blank is as good as 0.
        """
        if "verified" not in self.frame:
            return None
        return np.array([cell is True for cell in self.frame["verified"].tolist()], dtype=bool)

    def images(self) -> list[str]:
        """The image of each row.

        Raises:
            ImageError: if a row has several: whoever asks for one can look at one only.
        """
        return [record.image for record in self.records()]

    def readers(self) -> tuple[str, ...]:
        """The readers who drew masks (``mask@<reader>``), in the order of their columns."""
        cells = self.frame.get("readers", ())
        return tuple(dict.fromkeys(reader for cell in cells for reader in cell))

    def patients(self) -> np.ndarray:
        """Per row the patient's key, ``(n,)`` of str; the image's own id where no patient is known."""
        ids = self.frame["id"].to_numpy(dtype=object)
        if self.patient_rule in {"", "none"}:
            return ids.astype(str)
        patients = self.frame["patient"].to_numpy(dtype=object)
        return np.where(pd.isna(patients), ids, patients).astype(str)


# ---- reading -----------------------------------------------------------------------------------------------------


def read_table(
    path: str | Path,
    *,
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    negative: Sequence[str] = (),
    patient_from: str | None = None,
    config: TableConfig | None = None,
) -> Table:
    r"""Read a CSV (also ``.csv.gz``) or Parquet table of image-level labels.

    Args:
        path: the table. Comma, semicolon or tab; UTF-8.
        images: folder the image and mask paths start from; by default the table's own.
        columns: your names for our columns, ``{"image": "file", "label": "dx"}``.
        classes: the lesion classes, in the order you want; by default all that are found.
        negative: labels that are no lesion.
        patient_from: a regular expression with one group over the image path, ``blocks:N``, or ``none``.
        config: all of the above as one object, instead of them.

    Returns:
        The table; what is wrong with single rows is in ``problems``.

    Raises:
        TableError: if the file cannot be read, is empty, or lacks the columns for images or labels.
        OptionError: if an option cannot be what it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "labels.csv"
        ...     _ = place.write_text("file,dx,pid\na.png,mass|cyst,7\nb.png,healthy,8\n")
        ...     names = {"image": "file", "label": "dx", "patient": "pid"}
        ...     table = read_table(place, columns=names, negative=["healthy"])
        >>> table.classes, table.states.tolist(), table.patients().tolist()
        (('cyst', 'mass'), [[1.0, 1.0], [0.0, 0.0]], ['7', '8'])
    """
    if config is None:
        config = TableConfig(
            images=None if images is None else Path(images),
            columns=dict(columns or {}),
            classes=None if classes is None else tuple(classes),
            negative=tuple(negative),
            patient_from=patient_from,
        )
    elif not (images is None and columns is None and classes is None and not negative and patient_from is None):
        raise OptionError("read_table takes config or the single options, not both; put them into the TableConfig.")
    place = Path(path)
    sheet = open_sheet(place, config)
    labels = read_labels(sheet)
    return _build(sheet, labels, str(place.parent if config.images is None else config.images))


def _build(sheet: Sheet, labels: Labels, root: str) -> Table:
    n = len(sheet.raw)
    names = sheet.cells("image")
    assert names is not None
    sheet.report(np.flatnonzero(names == ""), "no image", "the image cell is blank. Fill it or take the row out.")
    split = read_split(sheet)
    patient, rule = read_patients(sheet, names, labels.states, split)
    columns: dict[str, np.ndarray] = {
        "id": read_ids(sheet, names),
        "image": objects_of(["|".join(join_paths(root, image_paths(cell))) for cell in names]),
    }
    columns["name"] = names
    columns["patient"] = patient
    columns |= {name: text_or_none(sheet.cells(name), n) for name in TEXTS}
    columns |= {"split": split, "negative": labels.negative, "masks": read_masks(sheet, labels.classes, root)}
    columns["boxes"] = read_boxes(sheet, labels.classes)
    columns["readers"] = read_readers(sheet, labels.classes, root)
    columns |= {"verified": read_verified(sheet)} if "verified" in sheet.columns else {}
    rest = [name for name in sheet.raw.columns if name not in sheet.used]
    columns |= {f"extra:{name.removeprefix('extra:')}": sheet.own(name) for name in rest}
    frame = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
    frame.insert(0, "row", np.asarray(sheet.raw.index, dtype=np.int64))
    problems = tuple(sorted(sheet.problems, key=lambda problem: problem.row or 0))
    exclusive = _is_exclusive(labels.states, labels.negative != "")
    return Table(frame, labels.classes, labels.states, labels.names, exclusive, sheet.source, rule, problems)


def _is_exclusive(states: np.ndarray, healthy: np.ndarray) -> bool:
    """Every row has one label: one of at least two classes, or one of the labels that are no lesion."""
    k = states.shape[1]
    positives, negatives = (states == POSITIVE).sum(axis=1), (states == NEGATIVE).sum(axis=1)
    return k > 1 and bool(((positives + healthy == 1) & (positives + negatives == k)).all())


# ---- writing -----------------------------------------------------------------------------------------------------


def write_table(table: Table, path: str | Path) -> Path:
    r"""Write a table that :func:`read_table` reads back equal, whole or not at all.

    Paths are written relative to the new file's folder. Classes become columns ``class:<name>`` (1, 0, -1, blank),
    labels without lesion ``negative:<name>``, and a patient rule other than a column ``patient`` stands in the header:
    ``patient (blocks:20)``.

    Args:
        table: what to write.
        path: ``.csv``, ``.csv.gz`` or ``.parquet``.

    Returns:
        The path.

    Raises:
        OptionError: for another suffix.
        OSError: if the disk is full, for instance; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder) / "labels.csv"
        ...     _ = place.write_text("image,label,PID\na.png,mass,7\nb.png,,8\n")
        ...     table = read_table(place, columns={"patient": "PID"})
        ...     again = read_table(write_table(table, Path(folder) / "copy.csv"))
        >>> again.states.tolist(), again.patient_rule
        ([[1.0], [nan]], 'column PID')
    """
    place = Path(path)
    frame = _sheet_of(table, place.parent)
    if place.suffix in {".parquet", ".pq"}:
        return write_with(place, lambda partial: frame.to_parquet(partial, index=False))
    if not place.name.endswith((".csv", ".csv.gz")):
        raise OptionError(f"{place.name} has no suffix this writes; use .csv, .csv.gz or .parquet.")
    return write_csv(place, frame)


def _sheet_of(table: Table, folder: Path) -> pd.DataFrame:
    frame, relative = table.frame, relative_to(folder)
    columns: dict[str, Sequence[object]] = {}
    columns["image"] = ["|".join(map(relative, image_paths(cell))) for cell in frame["image"]]
    columns["id"] = frame["id"].tolist()
    if table.patient_rule:
        plain = table.patient_rule == "column patient"
        columns["patient" if plain else f"patient ({table.patient_rule})"] = _blank(frame["patient"])
    columns |= {name: _blank(frame[name]) for name in (*TEXTS, "split") if frame[name].notna().any()}
    for k, name in enumerate(table.classes):
        columns[f"class:{name}"] = [_STATES.get(state, "") for state in table.states[:, k].tolist()]
    for name in table.negative:
        columns[f"negative:{name}"] = [str(int(name in cell.split("|"))) for cell in frame["negative"]]
    for key in dict.fromkeys(key for masks in frame["masks"] for key in masks):
        cells = ["|".join(relative(path) for path in masks.get(key, ())) for masks in frame["masks"]]
        columns[f"mask:{key}" if key else "mask"] = cells
    columns |= _reader_columns(table, relative)
    if "verified" in frame:
        columns["verified"] = ["" if cell is None else str(int(cell)) for cell in frame["verified"].tolist()]
    if any(frame["boxes"]):
        columns["boxes"] = [_boxes_text(boxes) for boxes in frame["boxes"]]
    columns |= {_extra_name(name): frame[name].tolist() for name in map(str, frame) if name.startswith("extra:")}
    return pd.DataFrame(columns, dtype=object)


def _reader_columns(table: Table, relative: Callable[[str], str]) -> dict[str, list[str]]:
    cells = table.frame["readers"].tolist() if "readers" in table.frame else []
    keys = dict.fromkeys((reader, label) for cell in cells for reader, masks in cell.items() for label in masks)
    return {
        f"mask@{reader}:{label}" if label else f"mask@{reader}": [
            "|".join(relative(path) for path in cell.get(reader, {}).get(label, ())) for cell in cells
        ]
        for reader, label in keys
    }


def _extra_name(name: str) -> str:
    """The user's own name, unless it would be taken for one of ours."""
    plain = name.removeprefix("extra:")
    ours = plain in NAMES or plain.startswith((*PREFIXES, "extra:")) or bool(written_rule(plain))
    return name if ours else plain


def _blank(column: pd.Series[Any]) -> list[str]:
    return ["" if empty else str(cell) for cell, empty in zip(column, column.isna(), strict=True)]


def _boxes_text(boxes: Sequence[Box]) -> str:
    return json.dumps([{"class": box.label, "box": [*map(plain_number, box.box)]} for box in boxes]) if boxes else ""


def relative_to(folder: Path) -> Callable[[str], str]:
    """A function that turns a path (``#index`` and all) into one as seen from ``folder``.

    Example:
        >>> relative_to(Path("runs/x"))("png/a.png#3")
        '../../png/a.png#3'
    """
    known: dict[str, str] = {}

    def turn(path: str) -> str:
        parent, _, name = path.rpartition("/")
        if parent not in known:
            known[parent] = _relative(parent or ("/" if path.startswith("/") else "."), folder)
        return name if known[parent] == "." else f"{known[parent]}/{name}"

    return turn


def _relative(parent: str, folder: Path) -> str:
    try:
        return os.path.relpath(parent, folder).replace(os.sep, "/")
    except ValueError:  # another drive
        return str(Path(parent).absolute()).replace(os.sep, "/")


def digest(table: Table) -> str:
    """SHA-256 (hex) of class names, ids and label states, in row order: the same table has the same digest anywhere.

    Example:
        >>> t = Table(pd.DataFrame({"id": ["a"]}), ("mass",), np.float32([[1]]))
        >>> digest(t)[:8], len(digest(t))
        ('f9cbc236', 64)
    """
    known = np.where(np.isnan(table.states), 9.0, table.states).astype("<f4")
    text = json.dumps([list(table.classes), table.frame["id"].tolist()], ensure_ascii=False)
    return hashlib.sha256(text.encode() + b"\0" + known.tobytes()).hexdigest()
