"""The user's table of image-level labels: CSV or Parquet in, one canonical frame with four label states out.

Nothing is renamed for the user and nothing is written back into their file: columns are mapped while reading.
What is wrong with single rows is collected in :attr:`Table.problems`, so that ``check`` can list everything at once;
only a table that cannot be read at all raises.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lesioncam.config import TableConfig
from lesioncam.errors import OptionError, TableError
from lesioncam.files import write_with
from lesioncam.types import NEGATIVE, POSITIVE, UNCERTAIN, UNKNOWN, Box, Record

__all__ = [
    "SPLITS",
    "Problem",
    "Table",
    "digest",
    "natural_key",
    "read_cells",
    "read_table",
    "relative_to",
    "write_table",
]

SPLITS = ("train", "val", "test")
"""The three roles of data; a split column holds nothing else."""

_TEXTS = ("study", "view", "laterality")
_NAMES = ("image", "label", "id", "patient", *_TEXTS, "split", "mask", "boxes", "verified")
_MASKS = ("mask:", "mask@")
_PREFIXES = (*_MASKS, "class:", "negative:")
_CELLS = {"": UNKNOWN, "nan": UNKNOWN, "1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN}
_CELLS |= {"true": POSITIVE, "false": NEGATIVE}
_CELLS |= {f"{cell}.0": state for cell, state in _CELLS.items() if cell.lstrip("-").isdigit()}
_STATES = {POSITIVE: "1", NEGATIVE: "0", UNCERTAIN: "-1"}
_SUFFIX = r"\.[A-Za-z][A-Za-z0-9]*(?:\.gz)?(?=(?:#\d+)?$)"
_NO_MASKS: Mapping[str, tuple[str, ...]] = {}
_NO_READERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
_CHECKED = {"": None, "nan": None, "1": True, "1.0": True, "true": True, "yes": True}
_CHECKED |= {"0": False, "0.0": False, "false": False, "no": False}
_ALIASES = {
    "image": ("file", "filename", "file name", "path", "img", "image index", "image name", "image_path"),
    "label": ("labels", "dx", "class", "diagnosis", "finding", "finding labels", "target"),
    "patient": ("pid", "patient id", "patient_id", "patientid", "subject", "subject_id", "case"),
}


@dataclass(frozen=True)
class Problem:
    """One finding about a table.

    Attributes:
        row: row as a spreadsheet shows it (the header is row 1); None if it concerns the whole table.
        kind: what sort of finding, for grouping ("unknown label", "patient in two splits", ...).
        message: one sentence with the place and the way out.
    """

    row: int | None
    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table of labels, read and mapped.

    Attributes:
        frame: n rows with the columns ``row`` (the header is row 1), ``id``, ``image`` (path joined to the image
            root, ``#index`` kept), ``name`` (the cell as the user wrote it), ``patient``, ``study``, ``view``,
            ``laterality``, ``split`` (None where blank), ``negative`` (the no-lesion labels of the row, joined by
            ``|``), ``masks`` (class -> paths, ``""`` for every positive class), ``boxes`` (native pixels), ``readers``
            (reader -> class -> paths), ``verified`` (True, False or None; only where the table has the column), and
            the user's other columns as ``extra:<name>``.
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
        names = ["id", "image", "row", "patient", *_TEXTS, "split", "masks", "boxes"]
        names += ["readers"] if "readers" in self.frame else []
        columns = [self.frame[name].tolist() for name in names]
        labels = map(tuple, self.states.tolist())
        return [
            Record(key, image, row, label, *rest)
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

    def labels(self, uncertain: str | float = "ignore", blank: str = "ignore") -> np.ndarray:
        """Training targets under a policy, ``(n, K)`` float32 with NaN for "say nothing".

        Args:
            uncertain: what -1 becomes: "ignore" (NaN), 0, 1, or a soft label between them.
            blank: what a blank becomes: "ignore" (NaN) or "0".

        Raises:
            OptionError: for any other value.

        Example:
            >>> t = Table(pd.DataFrame({"id": list("abcd")}), ("mass",), np.float32([[1], [0], [-1], [np.nan]]))
            >>> t.labels()[:, 0].tolist(), t.labels("0", "0")[:, 0].tolist(), t.labels(0.5)[:, 0].tolist()
            ([1.0, 0.0, nan, nan], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.5, nan])
        """
        unsure, missing = _policy("uncertain", uncertain, 1.0), _policy("blank", blank, 0.0)
        targets = self.states.astype(np.float32, copy=True)
        targets[np.isnan(self.states)] = missing
        targets[self.states == UNCERTAIN] = unsure
        return targets

    def verified(self) -> np.ndarray | None:
        """``(n,)`` bool: the rows whose labels somebody checked; None where the table has no column ``verified``.

        A blank is as good as 0.
        """
        if "verified" not in self.frame:
            return None
        return np.array([cell is True for cell in self.frame["verified"].tolist()], dtype=bool)

    def verified_only(self, split: str | None = None) -> Table:
        """The rows, of one split or all, whose labels were checked; all of them where the table does not say.

        Raises:
            OptionError: if ``split`` is not train, val or test.

        Example:
            >>> frame = pd.DataFrame({"id": list("ab"), "row": [2, 3], "verified": [True, None]})
            >>> t = Table(frame, ("mass",), np.float32([[1], [0]]))
            >>> t.verified(), len(t.verified_only())
            (array([ True, False]), 1)
        """
        part = self if split is None else self.split(split)
        checked = part.verified()
        return part if checked is None else part.take(checked)

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


def _policy(name: str, value: str | float, highest: float) -> float:
    if value == "ignore":
        return UNKNOWN
    try:
        number = float(value)
    except ValueError:
        number = UNKNOWN
    if not 0 <= number <= highest:
        choices = "ignore, 0, 1 or a number between 0 and 1" if highest else "ignore or 0"
        raise OptionError(f"{name}={value!r} is not possible; use {choices}.")
    return number


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
    sheet = _open_sheet(place, config)
    labels = _read_labels(sheet)
    return _build(sheet, labels, str(place.parent if config.images is None else config.images))


@dataclass
class _Sheet:
    """The raw cells (all text, index = row number), who is who among the columns, and what was found wrong."""

    raw: pd.DataFrame
    source: str
    config: TableConfig
    columns: dict[str, str]
    used: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def cells(self, name: str) -> np.ndarray | None:
        """The stripped cells of one of our columns, ``(n,)`` of str, or None if the table has no such column."""
        return self.own(self.columns[name]) if name in self.columns else None

    def own(self, column: str) -> np.ndarray:
        """The stripped cells of a column under the user's name."""
        self.used.add(column)
        return self.raw[column].to_numpy(dtype=object)

    def report(self, positions: Iterable[int], kind: str, sentence: str) -> None:
        """Note the same sentence about several rows."""
        for position in positions:
            row = int(self.raw.index[position])
            self.problems.append(Problem(row, kind, f"{self.source} row {row}: {sentence}"))


@dataclass(frozen=True)
class _Labels:
    classes: tuple[str, ...]
    states: np.ndarray
    negative: np.ndarray
    names: tuple[str, ...]


def _open_sheet(path: Path, config: TableConfig) -> _Sheet:
    raw = read_cells(path)
    found = list(raw.columns)
    columns = {name: name for name in found if name in _NAMES or name.startswith(_MASKS)}
    if noted := [name for name in found if _written_rule(name)]:
        columns["patient"] = noted[0]
    for ours, theirs in config.columns.items():
        if ours not in _NAMES and not ours.startswith(_MASKS):
            known = f"{_hint(ours, _NAMES)} Ours: {', '.join(_NAMES)}, mask:CLASS, mask@READER:CLASS."
            raise OptionError(f"--columns {ours}={theirs}: no column {ours!r} is known.{known}")
        if theirs not in found:
            raise TableError(_missing(path.name, ours, theirs, found))
        columns[ours] = theirs
    if "image" not in columns:
        raise TableError(_missing(path.name, "image", None, found))
    return _Sheet(raw, path.name, config, columns)


def _missing(source: str, ours: str, theirs: str | None, found: list[str]) -> str:
    wanted = f"column {ours!r}" if theirs is None else f"column {theirs!r}, which --columns names for {ours!r}"
    return f"{source} has no {wanted}. {_way_out(ours, theirs or ours, found)}"


def _way_out(ours: str, wanted: str, found: list[str]) -> str:
    """The columns there are, the nearest, and how to name it."""
    near = _near(wanted, found)
    hint = f" Did you mean {near!r}?" if near else ""
    name = near or "YOUR_NAME"
    typed = name if name.isidentifier() else f"'{name}'"
    return (
        f"Found: {', '.join(map(repr, found))}.{hint} "
        f"Name yours with --columns {ours}={typed} (in Python columns={{{ours!r}: {name!r}}})."
    )


def _hint(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    near = get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def _near(wanted: str, found: Iterable[str]) -> str | None:
    lower = {name.lower(): name for name in found}
    for alias in (wanted.lower(), *_ALIASES.get(wanted, ())):
        if near := get_close_matches(alias, lower, n=1, cutoff=0.8):
            return lower[near[0]]
    return None


def read_cells(path: Path) -> pd.DataFrame:
    """All cells of a CSV or Parquet file as stripped text; the index is the row number of a spreadsheet.

    Raises:
        TableError: if the file cannot be read or has no rows.
    """
    return _strip(_read_raw(path), path.name)


def _read_raw(path: Path) -> pd.DataFrame:
    if path.is_dir():
        raise TableError(f"{path} is a folder; make a table of it with `lesioncam index {path} -o labels.csv`.")
    if not path.is_file():
        raise TableError(f"{path} does not exist; give a CSV or Parquet table of labels.")
    kind = "".join(path.suffixes).lower()
    if kind.endswith((".parquet", ".pq")):
        return _read_parquet(path)
    if kind.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")):
        return _read_csv(path)
    raise TableError(f"{path.name} is no table this reads; save it as .csv, .csv.gz or .parquet.")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        raw = pd.read_csv(
            path,
            header=None,
            dtype=str,
            sep=_separator(path),
            encoding="utf-8-sig",
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            compression="gzip" if path.suffix.lower() == ".gz" else None,
        ).fillna("")
    except pd.errors.EmptyDataError as error:
        raise TableError(f"{path.name} has no rows; it needs a header and one row per image.") from error
    except pd.errors.ParserError as error:
        raise TableError(f"{path.name} cannot be split into columns ({_last_sentence(error)}). {_QUOTE}") from error
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise TableError(f"{path.name} cannot be read ({_last_sentence(error)}); save it as 'CSV UTF-8'.") from error
    raw.columns = pd.Index(raw.iloc[0].astype(str))
    raw.index = pd.RangeIndex(1, len(raw) + 1)
    return raw.iloc[1:]


_QUOTE = 'Put cells that hold the separator into "quotes".'


def _separator(path: Path) -> str:
    """The commonest of comma, semicolon and tab in the header."""
    import gzip

    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as handle:
        header = handle.readline()
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _last_sentence(error: Exception) -> str:
    return str(error).strip().rsplit("error: ", 1)[-1].rstrip(".")


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow.lib import ArrowException

    try:
        raw = pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        raise TableError(f"{path.name} is not readable as Parquet ({error}); write it again.") from error
    raw = pd.DataFrame({str(name): _as_text(raw.iloc[:, i]) for i, name in enumerate(raw.columns)})
    raw.index = pd.RangeIndex(2, len(raw) + 2)
    return raw


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Cells as a CSV would hold them: whole floats without a point, booleans as 1 and 0, missing as blank."""
    values = column.astype(object).where(column.notna().to_numpy(), "")
    if pd.api.types.is_bool_dtype(column.dtype):
        return values.map(lambda cell: "" if isinstance(cell, str) else str(int(cell)))
    if pd.api.types.is_float_dtype(column.dtype):
        return values.map(lambda cell: str(cell).removesuffix(".0"))
    return values.map(str)


def _strip(raw: pd.DataFrame, source: str) -> pd.DataFrame:
    """Headers and cells without outer blanks; nameless empty columns and wholly blank rows go, row numbers stay."""
    names = [str(name).strip() for name in raw.columns]
    cells = [raw.iloc[:, i].str.strip() for i in range(len(names))]
    kept = {i: name for i, name in enumerate(names) if name or bool((cells[i] != "").any())}
    labels = {i: name or f"unnamed {i + 1}" for i, name in kept.items()}
    twice = sorted({name for name in labels.values() if list(labels.values()).count(name) > 1})
    if twice:
        raise TableError(f"{source} has the column {twice[0]!r} twice; give each column its own name.")
    clean = pd.DataFrame({name: cells[i] for i, name in labels.items()}, index=raw.index)
    clean = clean[(clean != "").any(axis=1)] if labels else clean
    if clean.empty:
        raise TableError(f"{source} has no rows; it needs a header and one row per image.")
    return clean


# ---- labels ------------------------------------------------------------------------------------------------------


def _read_labels(sheet: _Sheet) -> _Labels:
    columns = _class_columns(sheet)
    labels = _from_columns(sheet, columns) if columns else _from_cells(sheet)
    if not labels.classes:
        raise TableError(
            f"{sheet.source} names no lesion: every label is blank or declared negative. "
            "Give at least one finding, or check --negative."
        )
    return labels


def _class_columns(sheet: _Sheet) -> dict[str, str]:
    """Class (or negative label) -> its column, empty where labels stand in one column."""
    found = list(sheet.raw.columns)
    marked = {name.split(":", 1)[1]: name for name in found if name.startswith(("class:", "negative:"))}
    if marked:
        return marked
    declared = sheet.config.classes or ()
    whole = bool(declared) and all(name in found for name in declared if name not in sheet.config.negative)
    if "label" in sheet.columns and not whole:
        return {}
    if declared:
        missing = [name for name in declared if name not in found and name not in sheet.config.negative]
        if missing:
            raise TableError(_missing_class(sheet, missing[0], found))
        names = [*declared, *(name for name in sheet.config.negative if name in found and name not in declared)]
        return {name: name for name in names if name in found}
    taken = {*sheet.columns.values(), *sheet.columns}
    free = [name for name in found if name not in taken and not name.startswith(_PREFIXES)]
    columns = {name: name for name in free if _is_class(sheet.raw[name])}
    if not columns:
        raise TableError(
            f"{sheet.source} has no labels: no column 'label', and no column holds only 1, 0, -1 or blank. "
            + _way_out("label", "label", found)
        )
    return columns


def _missing_class(sheet: _Sheet, name: str, found: list[str]) -> str:
    near = _near(name, found)
    hint = f" Did you mean {near!r}?" if near else ""
    return (
        f"{sheet.source} has neither a column 'label' nor a column {name!r}, which is declared as a class. "
        f"Found: {', '.join(map(repr, found))}.{hint} Name the label column with --columns label=YOUR_NAME."
    )


def _is_class(column: pd.Series[Any]) -> bool:
    values = {str(value).lower() for value in column.unique()}
    return values <= set(_CELLS) and not values <= {"", "nan"}


def _from_columns(sheet: _Sheet, columns: dict[str, str]) -> _Labels:
    marked = [name for name, column in columns.items() if column.startswith("negative:")]
    names = tuple(dict.fromkeys([*sheet.config.negative, *marked]))
    classes = _order_declared(sheet, [name for name in columns if name not in names])
    states = np.empty((len(sheet.raw), len(classes)), np.float32)
    for k, name in enumerate(classes):
        states[:, k] = _cell_states(sheet, columns[name])
    negative = np.full(len(states), "", dtype=object)
    for name in names:
        if name in columns:
            rows = _cell_states(sheet, columns[name]) == POSITIVE
            _negate(sheet, states, rows, name)
            negative[rows] = [f"{before}|{name}".lstrip("|") for before in negative[rows]]
    _missing_negative(sheet, [name for name in names if name not in columns], list(sheet.raw.columns))
    return _Labels(classes, states, negative, names)


def _order_declared(sheet: _Sheet, found: list[str]) -> tuple[str, ...]:
    declared = sheet.config.classes
    return tuple(found if declared is None else [name for name in declared if name in found])


def _negate(sheet: _Sheet, states: np.ndarray, rows: np.ndarray, name: str) -> None:
    """A row of a no-lesion label is negative where it was blank; a finding beside it is a contradiction."""
    clash = rows & (states == POSITIVE).any(axis=1)
    sheet.report(np.flatnonzero(clash), "contradiction", _contradiction(name))
    blank = rows[:, None] & np.isnan(states)
    states[blank] = NEGATIVE


def _contradiction(name: str) -> str:
    return f"{name!r} is no lesion, yet a finding stands beside it. Keep one of them."


def _cell_states(sheet: _Sheet, column: str) -> np.ndarray:
    codes, values = pd.factorize(sheet.own(column))
    states = np.array([_CELLS.get(str(value).lower(), UNKNOWN) for value in values], np.float32)
    for code, value in enumerate(values):
        if str(value).lower() not in _CELLS:
            sentence = f"column {column!r} holds {value!r}; use 1 (present), 0 (absent), -1 (uncertain) or a blank."
            sheet.report(np.flatnonzero(codes == code), "bad cell", sentence)
    return states[codes]


def _from_cells(sheet: _Sheet) -> _Labels:
    cells = sheet.cells("label")
    assert cells is not None
    codes, values = pd.factorize(cells)
    parts = [tuple(dict.fromkeys(p for p in map(str.strip, str(value).split("|")) if p)) for value in values]
    names = tuple(sheet.config.negative)
    found = {part for labels in parts for part in labels}
    classes = sheet.config.classes
    classes = tuple(sorted(found - set(names), key=natural_key) if classes is None else classes)
    classes = tuple(name for name in classes if name not in names)
    states = np.full((len(values), len(classes)), UNKNOWN, np.float32)
    for code, labels in enumerate(parts):
        if labels:
            states[code] = [float(name in labels) for name in classes]
        _judge(sheet, np.flatnonzero(codes == code), labels, classes) if set(labels) - set(classes) else None
    _missing_negative(sheet, [name for name in names if name not in found], list(found))
    negative = np.array(["|".join(p for p in labels if p in names) for labels in parts], dtype=object)
    return _Labels(classes, states[codes], negative[codes], names)


def _judge(sheet: _Sheet, rows: np.ndarray, labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    for label in labels:
        if label in sheet.config.negative and set(labels) & set(classes):
            sheet.report(rows, "contradiction", _contradiction(label))
        elif label not in sheet.config.negative and label not in classes:
            known = [*classes, *sheet.config.negative]
            sentence = f"label {label!r} is not declared.{_hint(label, known)} Declared: {', '.join(known)}. "
            sheet.report(rows, "unknown label", sentence + "Correct the cell or add it to --classes.")


def _missing_negative(sheet: _Sheet, names: list[str], found: list[str]) -> None:
    for name in names:
        near = _near(name, found)
        kind = "unknown negative" if near else "unused negative"
        hint = f" Did you mean {near!r}?" if near else ""
        text = f"{sheet.source}: no row has the label {name!r}, which --negative names.{hint}"
        sheet.problems.append(Problem(None, kind, text))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which numbers inside names count as numbers.

    Example:
        >>> sorted(["10.png", "9.png"], key=natural_key)
        ['9.png', '10.png']
    """
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


# ---- the other columns -------------------------------------------------------------------------------------------


def _build(sheet: _Sheet, labels: _Labels, root: str) -> Table:
    n = len(sheet.raw)
    names = sheet.cells("image")
    assert names is not None
    sheet.report(np.flatnonzero(names == ""), "no image", "the image cell is blank. Fill it or take the row out.")
    split = _read_split(sheet)
    patient, rule = _read_patients(sheet, names, labels.states, split)
    columns: dict[str, np.ndarray] = {"id": _read_ids(sheet, names), "image": _objects(_join(root, names))}
    columns["name"] = names
    columns["patient"] = patient
    columns |= {name: _none(sheet.cells(name), n) for name in _TEXTS}
    columns |= {"split": split, "negative": labels.negative, "masks": _read_masks(sheet, labels.classes, root)}
    columns["boxes"] = _read_boxes(sheet, labels.classes)
    columns["readers"] = _read_readers(sheet, labels.classes, root)
    columns |= {"verified": _read_verified(sheet)} if "verified" in sheet.columns else {}
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


def _objects(values: Sequence[Any]) -> np.ndarray:
    """A ``(n,)`` object array, whatever the values are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _none(cells: np.ndarray | None, n: int) -> np.ndarray:
    """Text or None where blank."""
    if cells is None:
        return np.full(n, None, dtype=object)
    return _blanked(cells, cells == "")


def _blanked(cells: np.ndarray, gone: np.ndarray) -> np.ndarray:
    kept = cells.astype(object)
    kept[gone] = None
    return kept


def _join(root: str, cells: Iterable[str]) -> list[str]:
    """Paths from the root, tidied; absolute ones stay."""
    return [os.path.normpath(os.path.join(root, cell)).replace(os.sep, "/") if cell else "" for cell in cells]  # noqa: PTH118


def _read_ids(sheet: _Sheet, names: np.ndarray) -> np.ndarray:
    """The id column, else the image cell without suffix, else (where that is not unique) the whole cell."""
    stems = pd.Series(names, dtype=object).str.replace(_SUFFIX, "", regex=True)
    stems = stems.mask(stems.duplicated(keep=False), pd.Series(names, dtype=object))
    derived = stems.to_numpy(dtype=object)
    cells = sheet.cells("id")
    return derived if cells is None else np.where(cells == "", derived, cells)


def _read_split(sheet: _Sheet) -> np.ndarray:
    cells = sheet.cells("split")
    if cells is None:
        return np.full(len(sheet.raw), None, dtype=object)
    codes, values = pd.factorize(cells)
    lower = [str(value).lower() for value in values]
    for code, value in enumerate(lower):
        if value and value not in SPLITS:
            sentence = f"split {values[code]!r} is not train, val or test.{_hint(value, SPLITS, 0.5)}"
            sheet.report(np.flatnonzero(codes == code), "bad split", sentence)
    return _objects([value if value in SPLITS else None for value in lower])[codes]


def _written_rule(column: str) -> str:
    """The rule in a header that :func:`write_table` wrote, ``patient (blocks:20)``, else ""."""
    match = re.fullmatch(r"patient \((.+)\)", column)
    return match.group(1) if match else ""


def _read_patients(sheet: _Sheet, names: np.ndarray, states: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, str]:
    rule = sheet.config.patient_from
    if rule is None:
        return _patient_column(sheet, len(names))
    if rule == "none":
        return np.full(len(names), None, dtype=object), "none"
    if rule.startswith("blocks:"):
        return _blocks(rule, states, split), rule
    return _patient_regex(sheet, names, rule), f"regex {rule}"


def _patient_column(sheet: _Sheet, n: int) -> tuple[np.ndarray, str]:
    cells = _none(sheet.cells("patient"), n)
    if "patient" not in sheet.columns:
        return cells, ""
    column = sheet.columns["patient"]
    rule = _written_rule(column) or f"column {column}"
    if rule != "none":
        sentence = f"no patient in column {column!r}. Fill the cell; images without a patient cannot be split."
        unknown = pd.isna(cells) & pd.isna(_none(sheet.cells("study"), n))  # a study keeps its images together, too
        sheet.report(np.flatnonzero(unknown), "no patient", sentence)
    return cells, rule


def _blocks(rule: str, states: np.ndarray, split: np.ndarray) -> np.ndarray:
    """N consecutive rows are one patient, never across a change of label or split."""
    text = rule.removeprefix("blocks:")
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"--patient-from {rule}: give a whole number of rows, for instance blocks:20.")
    codes = pd.factorize(split, use_na_sentinel=False)[0]
    keys = np.column_stack([np.nan_to_num(states, nan=9.0), codes])
    starts = np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(keys)), 0))
    inside = np.arange(len(keys)) - first
    numbers = np.cumsum(inside % int(text) == 0)
    return _objects([f"block-{number:04d}" for number in numbers])


def _patient_regex(sheet: _Sheet, names: np.ndarray, rule: str) -> np.ndarray:
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        raise OptionError(f"--patient-from {rule!r} is not a regular expression ({error}).") from error
    if groups != 1:
        raise OptionError(f"--patient-from {rule!r} has {groups} groups; put the patient into exactly one: (P\\d+)_")
    found = pd.Series(names, dtype=object).str.extract(rule, expand=False).to_numpy(dtype=object)
    for position in np.flatnonzero(pd.isna(found)).tolist():
        sheet.report([position], "no patient", f"--patient-from {rule!r} finds no patient in {names[position]!r}.")
    return _blanked(found, pd.isna(found))


def _read_masks(sheet: _Sheet, classes: tuple[str, ...], root: str) -> np.ndarray:
    masks = np.full(len(sheet.raw), _NO_MASKS, dtype=object)
    for name in [name for name in sheet.columns if name == "mask" or name.startswith("mask:")]:
        label = name.partition(":")[2]
        _expect_class(sheet, name, label, classes)
        for position, files in _mask_files(sheet, name, root):
            masks[position] = {**masks[position], label: files}
    return masks


def _read_readers(sheet: _Sheet, classes: tuple[str, ...], root: str) -> np.ndarray:
    """What human readers drew: ``mask@<reader>:<class>``, or ``mask@<reader>`` of every positive class."""
    readers = np.full(len(sheet.raw), _NO_READERS, dtype=object)
    for name in [name for name in sheet.columns if name.startswith("mask@")]:
        reader, _, label = name.removeprefix("mask@").partition(":")
        if not reader:
            text = f"{sheet.source}: column {name!r} names no reader; write mask@NAME or mask@NAME:CLASS."
            sheet.problems.append(Problem(None, "unknown mask column", text))
        _expect_class(sheet, name, label, classes)
        for position, files in _mask_files(sheet, name, root):
            before = readers[position]
            readers[position] = {**before, reader: {**before.get(reader, {}), label: files}}
    return readers


def _expect_class(sheet: _Sheet, name: str, label: str, classes: tuple[str, ...]) -> None:
    if label and label not in classes:
        stem = name.removesuffix(label)
        hint = _hint(name, [f"{stem}{each}" for each in classes])
        text = f"{sheet.source}: column {name!r} is of no class.{hint} Classes: {', '.join(classes)}."
        sheet.problems.append(Problem(None, "unknown mask column", text))


def _mask_files(sheet: _Sheet, name: str, root: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Position and files of each cell of a mask column that is not blank."""
    cells = sheet.cells(name)
    assert cells is not None
    for position in np.flatnonzero(cells != "").tolist():
        yield position, tuple(_join(root, (part.strip() for part in cells[position].split("|") if part.strip())))


def _read_verified(sheet: _Sheet) -> np.ndarray:
    cells = sheet.cells("verified")
    assert cells is not None
    for position in [i for i, cell in enumerate(cells) if str(cell).lower() not in _CHECKED]:
        sentence = f"column {sheet.columns['verified']!r} holds {cells[position]!r}; use 1 (checked), 0 or a blank."
        sheet.report([position], "bad verified", sentence)
    return _objects([_CHECKED.get(str(cell).lower()) for cell in cells])


def _read_boxes(sheet: _Sheet, classes: tuple[str, ...]) -> np.ndarray:
    boxes = _objects([()] * len(sheet.raw))
    cells = sheet.cells("boxes")
    if cells is None:
        return boxes
    for position in np.flatnonzero(cells != "").tolist():
        try:
            boxes[position] = tuple(_parse_boxes(cells[position], classes))
        except ValueError as error:
            sheet.report([position], "bad boxes", str(error))
    return boxes


def _parse_boxes(text: str, classes: tuple[str, ...]) -> Iterator[Box]:
    form = '[{"class": "mass", "box": [x0, y0, x1, y1]}]'
    try:
        items = json.loads(text)
        found = [(str(item["class"]), tuple(float(value) for value in item["box"])) for item in items]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"boxes {text[:60]!r} are not readable; write {form} in native pixels.") from error
    for label, box in found:
        if label not in classes:
            raise ValueError(f"a box is of class {label!r}, which is none of {', '.join(classes)}.")
        if len(box) not in {4, 6} or not np.isfinite(box).all():
            raise ValueError(f"box {list(box)} needs four finite numbers, {form}.")
        if any(box[i] >= box[i + len(box) // 2] for i in range(len(box) // 2)):
            raise ValueError(
                f"box {[*map(_number, box)]} of {label!r} is inverted or empty; x0 < x1 and y0 < y1 must hold."
            )
        yield Box(label, box)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


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
    return write_with(place, lambda partial: frame.to_csv(partial, index=False, lineterminator="\n"))


def _sheet_of(table: Table, folder: Path) -> pd.DataFrame:
    frame, relative = table.frame, relative_to(folder)
    columns: dict[str, Sequence[Any]] = {"image": [relative(path) for path in frame["image"]]}
    columns["id"] = frame["id"].tolist()
    if table.patient_rule:
        plain = table.patient_rule == "column patient"
        columns["patient" if plain else f"patient ({table.patient_rule})"] = _blank(frame["patient"])
    columns |= {name: _blank(frame[name]) for name in (*_TEXTS, "split") if frame[name].notna().any()}
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
    ours = plain in _NAMES or plain.startswith((*_PREFIXES, "extra:")) or bool(_written_rule(plain))
    return name if ours else plain


def _blank(column: pd.Series[Any]) -> list[str]:
    return ["" if empty else str(cell) for cell, empty in zip(column, column.isna(), strict=True)]


def _boxes_text(boxes: Sequence[Box]) -> str:
    return json.dumps([{"class": box.label, "box": [*map(_number, box.box)]} for box in boxes]) if boxes else ""


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
