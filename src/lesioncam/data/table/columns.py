"""The other columns of a table: ids, splits, patients, masks, readers, boxes, what was verified."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lesioncam.data.table.sheet import Problem, Sheet, hint_at, written_rule
from lesioncam.errors import OptionError
from lesioncam.types import SPLITS, Box

_SUFFIX = r"\.[A-Za-z][A-Za-z0-9]*(?:\.gz)?(?=(?:#\d+)?$)"
_NO_MASKS: Mapping[str, tuple[str, ...]] = {}
_NO_READERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
_CHECKED = {"": None, "nan": None, "1": True, "1.0": True, "true": True, "yes": True}
_CHECKED |= {"0": False, "0.0": False, "false": False, "no": False}


def objects_of(values: Sequence[object]) -> np.ndarray:
    """A ``(n,)`` object array, whatever the values are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def text_or_none(cells: np.ndarray | None, n: int) -> np.ndarray:
    """Text or None where blank."""
    if cells is None:
        return np.full(n, None, dtype=object)
    return _blanked(cells, cells == "")


def _blanked(cells: np.ndarray, gone: np.ndarray) -> np.ndarray:
    kept = cells.astype(object)
    kept[gone] = None
    return kept


def join_paths(root: str, cells: Iterable[str]) -> list[str]:
    """Paths from the root, tidied; absolute ones stay."""
    return [os.path.normpath(os.path.join(root, cell)).replace(os.sep, "/") if cell else "" for cell in cells]  # noqa: PTH118


def image_paths(cell: str) -> tuple[str, ...]:
    """The files of an image or mask cell, which are joined by ``|``.

    Example:
        >>> image_paths("a.png"), image_paths("t1.nii | t2.nii"), image_paths("")
        (('a.png',), ('t1.nii', 't2.nii'), ())
    """
    return tuple(part.strip() for part in cell.split("|") if part.strip())


def read_ids(sheet: Sheet, names: np.ndarray) -> np.ndarray:
    """The id column, else the (first) image's name without suffix, else (where that is not unique) the whole cell."""
    stems = pd.Series(names, dtype=object).str.split("|").str[0].str.strip().str.replace(_SUFFIX, "", regex=True)
    stems = stems.mask(stems.duplicated(keep=False), pd.Series(names, dtype=object))
    derived = stems.to_numpy(dtype=object)
    cells = sheet.cells("id")
    return derived if cells is None else np.where(cells == "", derived, cells)


def read_split(sheet: Sheet) -> np.ndarray:
    """``train``, ``val``, ``test`` or None of each row; anything else is a problem of its row."""
    cells = sheet.cells("split")
    if cells is None:
        return np.full(len(sheet.raw), None, dtype=object)
    codes, values = pd.factorize(cells)
    lower = [str(value).lower() for value in values]
    for code, value in enumerate(lower):
        if value and value not in SPLITS:
            sentence = f"split {values[code]!r} is not train, val or test.{hint_at(value, SPLITS, 0.5)}"
            sheet.report(np.flatnonzero(codes == code), "bad split", sentence)
    return objects_of([value if value in SPLITS else None for value in lower])[codes]


def read_patients(sheet: Sheet, names: np.ndarray, states: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, str]:
    """The patient of each row, or None, and the rule by which it is known."""
    rule = sheet.config.patient_from
    if rule is None:
        return _patient_column(sheet, len(names))
    if rule == "none":
        return np.full(len(names), None, dtype=object), "none"
    if rule.startswith("blocks:"):
        return _blocks(rule, states, split), rule
    return _patient_regex(sheet, names, rule), f"regex {rule}"


def _patient_column(sheet: Sheet, n: int) -> tuple[np.ndarray, str]:
    cells = text_or_none(sheet.cells("patient"), n)
    if "patient" not in sheet.columns:
        return cells, ""
    column = sheet.columns["patient"]
    rule = written_rule(column) or f"column {column}"
    if rule != "none":
        sentence = f"no patient in column {column!r}. Fill the cell; images without a patient cannot be split."
        unknown = pd.isna(cells) & pd.isna(
            text_or_none(sheet.cells("study"), n)
        )  # a study keeps its images together, too
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
    return objects_of([f"block-{number:04d}" for number in numbers])


def _patient_regex(sheet: Sheet, names: np.ndarray, rule: str) -> np.ndarray:
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


def read_masks(sheet: Sheet, classes: tuple[str, ...], root: str) -> np.ndarray:
    """Class -> mask files of each row; ``""`` stands for every positive class."""
    masks = np.full(len(sheet.raw), _NO_MASKS, dtype=object)
    for name in [name for name in sheet.columns if name == "mask" or name.startswith("mask:")]:
        label = name.partition(":")[2]
        if label in _left_out(sheet, classes):
            sheet.used.add(name)
            continue
        _expect_class(sheet, name, label, classes)
        for position, files in _mask_files(sheet, name, root):
            masks[position] = {**masks[position], label: files}
    return masks


def read_readers(sheet: Sheet, classes: tuple[str, ...], root: str) -> np.ndarray:
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


def _left_out(sheet: Sheet, classes: tuple[str, ...]) -> set[str]:
    """Findings that have a column of their own (``class:NAME``) and were not declared: no slips, only not wanted."""
    marked = {name.removeprefix("class:") for name in sheet.raw.columns if name.startswith("class:")}
    return marked - set(classes)


def _expect_class(sheet: Sheet, name: str, label: str, classes: tuple[str, ...]) -> None:
    if label and label not in classes:
        stem = name.removesuffix(label)
        hint = hint_at(name, [f"{stem}{each}" for each in classes])
        text = f"{sheet.source}: column {name!r} is of no class.{hint} Classes: {', '.join(classes)}."
        sheet.problems.append(Problem(None, "unknown mask column", text))


def _mask_files(sheet: Sheet, name: str, root: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Position and files of each cell of a mask column that is not blank."""
    cells = sheet.cells(name)
    assert cells is not None
    for position in np.flatnonzero(cells != "").tolist():
        yield position, tuple(join_paths(root, image_paths(cells[position])))


def read_verified(sheet: Sheet) -> np.ndarray:
    """True, False or None of each row."""
    cells = sheet.cells("verified")
    assert cells is not None
    for position in [i for i, cell in enumerate(cells) if str(cell).lower() not in _CHECKED]:
        sentence = f"column {sheet.columns['verified']!r} holds {cells[position]!r}; use 1 (checked), 0 or a blank."
        sheet.report([position], "bad verified", sentence)
    return objects_of([_CHECKED.get(str(cell).lower()) for cell in cells])


def read_boxes(sheet: Sheet, classes: tuple[str, ...]) -> np.ndarray:
    """The boxes of each row; cells that are no boxes are problems of their row."""
    boxes = objects_of([()] * len(sheet.raw))
    cells = sheet.cells("boxes")
    if cells is None:
        return boxes
    unwanted = _left_out(sheet, classes)
    for position in np.flatnonzero(cells != "").tolist():
        try:
            boxes[position] = tuple(_parse_boxes(cells[position], classes, unwanted))
        except ValueError as error:
            sheet.report([position], "bad boxes", str(error))
    return boxes


def _parse_boxes(text: str, classes: tuple[str, ...], unwanted: Collection[str] = ()) -> Iterator[Box]:
    form = '[{"class": "mass", "box": [x0, y0, x1, y1]}]'
    try:
        items = json.loads(text)
        found = [(str(item["class"]), tuple(float(value) for value in item["box"])) for item in items]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"boxes {text[:60]!r} are not readable; write {form} in native pixels.") from error
    for label, box in found:
        if label in unwanted:
            continue
        if label not in classes:
            raise ValueError(f"a box is of class {label!r}, which is none of {', '.join(classes)}.")
        if len(box) not in {4, 6} or not np.isfinite(box).all():
            raise ValueError(f"box {list(box)} needs four finite numbers (six in a volume), {form}.")
        if any(box[i] >= box[i + len(box) // 2] for i in range(len(box) // 2)):
            raise ValueError(
                f"box {[*map(plain_number, box)]} of {label!r} is inverted or empty; x0 < x1 and y0 < y1 must hold."
            )
        yield Box(label, box)


def plain_number(value: float) -> float | int:
    """A whole number without its point.

    Example:
        >>> plain_number(3.0), plain_number(3.5)
        (3, 3.5)
    """
    return int(value) if float(value).is_integer() else value
