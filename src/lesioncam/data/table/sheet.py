"""A table as it lies in the file: raw cells, who is who among the columns, and what was found wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.table.cells import read_cells
from lesioncam.errors import OptionError, TableError
from lesioncam.options.data import TableConfig

TEXTS = ("study", "view", "laterality")
NAMES = ("image", "label", "id", "patient", *TEXTS, "split", "mask", "boxes", "verified")
MASKS = ("mask:", "mask@")
PREFIXES = (*MASKS, "class:", "negative:")
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


@dataclass
class Sheet:
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


def open_sheet(path: Path, config: TableConfig) -> Sheet:
    """Read the cells and find out which column is what.

    Raises:
        TableError: if the file cannot be read, or a column that is needed or named is not there.
        OptionError: if a column is mapped to something that is not known.
    """
    raw = read_cells(path)
    found = list(raw.columns)
    columns = {name: name for name in found if name in NAMES or name.startswith(MASKS)}
    if noted := [name for name in found if written_rule(name)]:
        columns["patient"] = noted[0]
    for ours, theirs in config.columns.items():
        if ours not in NAMES and not ours.startswith(MASKS):
            known = f"{hint_at(ours, NAMES)} Ours: {', '.join(NAMES)}, mask:CLASS, mask@READER:CLASS."
            raise OptionError(f"--columns {ours}={theirs}: no column {ours!r} is known.{known}")
        if theirs not in found:
            raise TableError(_missing(path.name, ours, theirs, found))
        columns[ours] = theirs
    if "image" not in columns:
        raise TableError(_missing(path.name, "image", None, found))
    return Sheet(raw, path.name, config, columns)


def _missing(source: str, ours: str, theirs: str | None, found: list[str]) -> str:
    wanted = f"column {ours!r}" if theirs is None else f"column {theirs!r}, which --columns names for {ours!r}"
    return f"{source} has no {wanted}. {way_out(ours, theirs or ours, found)}"


def way_out(ours: str, wanted: str, found: list[str]) -> str:
    """The columns there are, the nearest, and how to name it."""
    near = nearest_of(wanted, found)
    hint = f" Did you mean {near!r}?" if near else ""
    name = near or "YOUR_NAME"
    typed = name if name.isidentifier() else f"'{name}'"
    return (
        f"Found: {', '.join(map(repr, found))}.{hint} "
        f"Name yours with --columns {ours}={typed} (in Python columns={{{ours!r}: {name!r}}})."
    )


def hint_at(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """``Did you mean ...?`` where something is near, else "".

    Example:
        >>> hint_at("mas", ["mass", "cyst"])
        " Did you mean 'mass'?"
    """
    near = get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def nearest_of(wanted: str, found: Iterable[str]) -> str | None:
    """The column that is nearly called so, or is a usual name for it.

    Example:
        >>> nearest_of("label", ["File", "Diagnosis"])
        'Diagnosis'
    """
    lower = {name.lower(): name for name in found}
    for alias in (wanted.lower(), *_ALIASES.get(wanted, ())):
        if near := get_close_matches(alias, lower, n=1, cutoff=0.8):
            return lower[near[0]]
    return None


def written_rule(column: str) -> str:
    """The rule in a header that :func:`write_table` wrote, ``patient (blocks:20)``, else ""."""
    match = re.fullmatch(r"patient \((.+)\)", column)
    return match.group(1) if match else ""
