"""Labels of a table: one column of names, or one column a class, to four states."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesioncam.data.table.sheet import PREFIXES, Problem, Sheet, hint_at, nearest_of, way_out
from lesioncam.errors import TableError
from lesioncam.types import NEGATIVE, POSITIVE, UNCERTAIN, UNKNOWN

_CELLS = {"": UNKNOWN, "nan": UNKNOWN, "1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN}
_CELLS |= {"true": POSITIVE, "false": NEGATIVE}
_CELLS |= {f"{cell}.0": state for cell, state in _CELLS.items() if cell.lstrip("-").isdigit()}


@dataclass(frozen=True)
class Labels:
    """What a table says about findings.

    Attributes:
        classes: K lesion classes.
        states: ``(n, K)``: 1, 0, -1 uncertain, NaN unknown.
        negative: ``(n,)`` the no-lesion labels of each row, joined by ``|``.
        names: the labels that are no lesion.
    """

    classes: tuple[str, ...]
    states: np.ndarray
    negative: np.ndarray
    names: tuple[str, ...]


def read_labels(sheet: Sheet) -> Labels:
    """Classes and states, from columns of classes or one column of names.

    Raises:
        TableError: if there are no labels, or they name no lesion.
    """
    columns = _class_columns(sheet)
    labels = _from_columns(sheet, columns) if columns else _from_cells(sheet)
    if not labels.classes:
        raise TableError(
            f"{sheet.source} names no lesion: every label is blank or declared negative. "
            "Give at least one finding, or check --negative."
        )
    return labels


def _class_columns(sheet: Sheet) -> dict[str, str]:
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
    free = [name for name in found if name not in taken and not name.startswith(PREFIXES)]
    columns = {name: name for name in free if _is_class(sheet.raw[name])}
    if not columns:
        raise TableError(
            f"{sheet.source} has no labels: no column 'label', and no column holds only 1, 0, -1 or blank. "
            + way_out("label", "label", found)
        )
    return columns


def _missing_class(sheet: Sheet, name: str, found: list[str]) -> str:
    near = nearest_of(name, found)
    hint = f" Did you mean {near!r}?" if near else ""
    return (
        f"{sheet.source} has neither a column 'label' nor a column {name!r}, which is declared as a class. "
        f"Found: {', '.join(map(repr, found))}.{hint} Name the label column with --columns label=YOUR_NAME."
    )


def _is_class(column: pd.Series[str]) -> bool:
    values = {str(value).lower() for value in column.unique()}
    return values <= set(_CELLS) and not values <= {"", "nan"}


def _from_columns(sheet: Sheet, columns: dict[str, str]) -> Labels:
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
    return Labels(classes, states, negative, names)


def _order_declared(sheet: Sheet, found: list[str]) -> tuple[str, ...]:
    declared = sheet.config.classes
    return tuple(found if declared is None else [name for name in declared if name in found])


def _negate(sheet: Sheet, states: np.ndarray, rows: np.ndarray, name: str) -> None:
    """A row of a no-lesion label is negative where it was blank; a finding beside it is a contradiction."""
    clash = rows & (states == POSITIVE).any(axis=1)
    sheet.report(np.flatnonzero(clash), "contradiction", _contradiction(name))
    blank = rows[:, None] & np.isnan(states)
    states[blank] = NEGATIVE


def _contradiction(name: str) -> str:
    return f"{name!r} is no lesion, yet a finding stands beside it. Keep one of them."


def _cell_states(sheet: Sheet, column: str) -> np.ndarray:
    codes, values = pd.factorize(sheet.own(column))
    states = np.array([_CELLS.get(str(value).lower(), UNKNOWN) for value in values], np.float32)
    for code, value in enumerate(values):
        if str(value).lower() not in _CELLS:
            sentence = f"column {column!r} holds {value!r}; use 1 (present), 0 (absent), -1 (uncertain) or a blank."
            sheet.report(np.flatnonzero(codes == code), "bad cell", sentence)
    return states[codes]


def _from_cells(sheet: Sheet) -> Labels:
    cells = sheet.cells("label")
    assert cells is not None
    codes, values = pd.factorize(cells)
    parts = _whole([tuple(dict.fromkeys(p for p in map(str.strip, str(v).split("|")) if p)) for v in values])
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
    return Labels(classes, states[codes], negative[codes], names)


def _whole(parts: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Grades as they were meant: tools write whole numbers as 2.0 where a column has a blank cell."""
    found = {part for labels in parts for part in labels}
    if not all(re.fullmatch(r"\d+\.0+", part) for part in found):
        return parts
    return [tuple(part.partition(".")[0] for part in labels) for labels in parts]


def _judge(sheet: Sheet, rows: np.ndarray, labels: tuple[str, ...], classes: tuple[str, ...]) -> None:
    for label in labels:
        if label in sheet.config.negative and set(labels) & set(classes):
            sheet.report(rows, "contradiction", _contradiction(label))
        elif label not in sheet.config.negative and label not in classes:
            known = [*classes, *sheet.config.negative]
            sentence = f"label {label!r} is not declared.{hint_at(label, known)} Declared: {', '.join(known)}. "
            sheet.report(rows, "unknown label", sentence + "Correct the cell or add it to --classes.")


def _missing_negative(sheet: Sheet, names: list[str], found: list[str]) -> None:
    for name in names:
        near = nearest_of(name, found)
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
