"""Train, val and test by patient, with every class in each: by shares, folds, date or site.

Whatever belongs together stays together: the images of a patient, of a study (where the patient is not known), and
images that are nearly the same, where the pairs are given (:func:`lesioncam.data.table.duplicates.find_duplicates`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lesioncam.data.table.duplicates import Pair, duplicate_groups
from lesioncam.data.table.table import Table
from lesioncam.errors import OptionError, TableError
from lesioncam.types import POSITIVE, SPLITS

_TRIES = 2000
"""Moves after which the search for a rare class in each split ends; overlapping classes may allow none."""

_FRACTIONS = (0.7, 0.15, 0.15)
_FOLD = "extra:fold"
_SHOWN = 5


def split_table(
    table: Table, fractions: Sequence[float] = _FRACTIONS, seed: int = 0, *, pairs: Sequence[Pair] = ()
) -> Table:
    """Deal the patients out to train, val and test; a split the table already has is replaced.

    Images per class are kept in proportion by greedy iterative stratification over patients, rarest class first
    (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011); images without any finding count as
    a class of their own. A class of three patients or more comes into each split, where the classes' overlap allows.

    Args:
        table: with a patient rule.
        fractions: shares of train, val and test; they sum to 1.
        seed: the same table, fractions, pairs and seed give the same split.
        pairs: rows that are nearly the same image, by position; they stay together, and so do their patients.

    Returns:
        The same table with the split filled in.

    Raises:
        TableError: without a patient rule, with patients missing, or with fewer patients than splits.
        OptionError: if the fractions are no shares.

    Example:
        >>> ids = [f"i{n}" for n in range(20)]
        >>> patients = [f"p{n // 2}" for n in range(20)]
        >>> frame = pd.DataFrame({"row": range(2, 22), "id": ids, "patient": patients, "split": None})
        >>> states = np.float32([[n // 2 % 2] for n in range(20)])
        >>> table = Table(frame, ("mass",), states, patient_rule="column patient")
        >>> split = split_table(table, (0.6, 0.2, 0.2))
        >>> [len(split.split(name)) for name in SPLITS]
        [12, 4, 4]
    """
    shares = _shares(fractions)
    homes = _deal_groups(table, group_rows(table, pairs), shares, np.random.default_rng(seed))
    return _with_split(table, np.array(SPLITS, dtype=object)[homes])


def split_folds(table: Table, folds: int = 5, seed: int = 0, *, pairs: Sequence[Pair] = ()) -> Table:
    """Number the rows 0 to k - 1 for cross-validation, in the extra column ``fold``, stratified as :func:`split_table`.

    Fold i is then trained and tested with :func:`use_fold`. An old column ``fold`` is replaced, a split is left alone.

    Args:
        table: with a patient rule.
        folds: k, at least 3: one to test on, one to choose on, the rest to train on.
        seed: of the numbering.
        pairs: as in :func:`split_table`.

    Raises:
        TableError: without a patient rule, with patients missing, or with fewer patients than folds.
        OptionError: for fewer than three folds.

    Example:
        >>> names = [f"p{n}" for n in range(9)]
        >>> frame = pd.DataFrame({"row": range(2, 11), "id": names, "patient": names, "split": None})
        >>> table = Table(frame, ("mass",), np.float32([[n % 3 == 0] for n in range(9)]), patient_rule="column patient")
        >>> table = split_folds(table, 3)
        >>> [len(use_fold(table, 1).split(name)) for name in SPLITS]
        [3, 3, 3]
    """
    if folds < 3:
        raise OptionError(f"--folds {folds}: at least 3 are needed, to train, to choose and to test.")
    shares = np.full(folds, 1 / folds)
    homes = _deal_groups(table, group_rows(table, pairs), shares, np.random.default_rng(seed))
    cells = pd.Series([str(home) for home in homes.tolist()], dtype=object)
    return replace(table, frame=table.frame.assign(**{_FOLD: cells}))


def use_fold(table: Table, fold: int) -> Table:
    """The split of one fold: test is fold i, val the next one (i + 1 modulo k), train the rest; a split is replaced.

    Args:
        table: with the column ``fold`` of :func:`split_folds`.
        fold: i, from 0.

    Raises:
        TableError: if there is no such column, or a cell is no number.
        OptionError: if there is no such fold.
    """
    if _FOLD not in table.frame:
        raise TableError(f"{table.source} has no column 'fold'; make one with `lesioncam split --folds 5`.")
    cells = pd.to_numeric(table.frame[_FOLD], errors="coerce").to_numpy(dtype=float)
    bad = ~((cells >= 0) & (cells % 1 == 0))
    if bad.any():
        raise TableError(f"{table.source} has no fold number from 0 on in row {_rows(table, bad)}; number every row.")
    numbers = cells.astype(int)
    count = int(numbers.max()) + 1
    if count < 3 or not 0 <= fold < count:
        raise OptionError(
            f"fold {fold} of {table.source} is not possible: there are {count}, and at least 3 are needed."
        )
    names = np.full(len(table), "train", dtype=object)
    names[numbers == (fold + 1) % count] = "val"
    names[numbers == fold] = "test"
    return _with_split(table, names)


class SideSplit(NamedTuple):
    """A split whose test side was given from outside.

    Attributes:
        table: with the split filled in.
        straddling: the patients with rows on both sides, and those whom near-identical images join to them.
        moved: rows that went to test for that reason alone.
    """

    table: Table
    straddling: tuple[str, ...]
    moved: int


def split_by_date(
    table: Table,
    column: str,
    date: str,
    fractions: Sequence[float] = _FRACTIONS,
    seed: int = 0,
    *,
    pairs: Sequence[Pair] = (),
) -> SideSplit:
    """Test on what came later: rows of that date or after it are test, the earlier ones are dealt to train and val.

    A patient with rows on both sides goes wholly to test: nothing of the time that is tested on is trained on, nor
    anybody who is tested on. Such patients and their earlier rows are counted.

    Args:
        table: with a patient rule.
        column: the user's column of dates.
        date: the first day of test. Dates are ISO (2020-03-31, 20200331), or any form pandas reads without having to
            guess whether day or month comes first.
        fractions: of train, val and test; the first two in proportion are the shares of what is not test.
        seed: of the dealing.
        pairs: as in :func:`split_table`.

    Raises:
        TableError: for a date that cannot be read, with its row; if one side is empty; as :func:`split_table`.
        OptionError: for an unknown column, an unreadable ``date``, or fractions that are none.
    """
    first = _dates(pd.Series([date], dtype=object))
    if first.isna().any():
        raise OptionError(f"--after {date}: that is no date; write it as 2020-03-31.")
    cells = _column(table, column)
    days = _dates(cells)
    bad = days.isna().to_numpy()
    if bad.any():
        found = cells[bad].iloc[0]
        text = f"{found!r} in column {column!r} is no date, or day and month could be swapped"
        raise TableError(f"{table.source} row {_rows(table, bad)}: {text}; write dates as 2020-03-31.")
    dealing = _Dealing(_shares(fractions), group_rows(table, pairs), seed)
    return _one_side(table, (days >= first.iloc[0]).to_numpy(), f"{column} from {date} on", dealing)


def hold_out(
    table: Table,
    column: str,
    value: str,
    fractions: Sequence[float] = _FRACTIONS,
    seed: int = 0,
    *,
    pairs: Sequence[Pair] = (),
    straddling: Literal["test", "refuse"] = "test",
) -> SideSplit:
    """Test on one site, scanner, year ...: all rows whose column holds the value are test, the rest is train and val.

    Args:
        table: with a patient rule.
        column: one of the user's columns, or ``study``, ``view``, ``laterality``.
        value: the cell's text.
        fractions: of train, val and test; the first two in proportion are the shares of what is not test.
        seed: of the dealing.
        pairs: as in :func:`split_table`.
        straddling: what becomes of patients with rows on both sides: all their rows go to ``test``, or ``refuse`` with
            their names.

    Raises:
        TableError: if one side is empty, or a patient is on both sides and that is refused; as :func:`split_table`.
        OptionError: for an unknown column, a value no row has, or fractions that are none.

    Example:
        >>> names = [f"p{n}" for n in range(8)]
        >>> frame = pd.DataFrame({"row": range(2, 10), "id": names, "patient": names, "extra:site": list("AAAAAABB")})
        >>> table = Table(frame, ("mass",), np.float32([[n % 2] for n in range(8)]), patient_rule="column patient")
        >>> found = hold_out(table, "site", "B")
        >>> [len(found.table.split(name)) for name in SPLITS], found.straddling
        ([4, 2, 2], ())
    """
    cells = _column(table, column)
    held = np.array([cell == value for cell in cells.tolist()], dtype=bool)
    if not held.any():
        there = list(dict.fromkeys(cell for cell in cells.tolist() if cell))
        shown = ", ".join(map(repr, there[:8])) + (", ..." if len(there) > 8 else "")
        raise OptionError(f"--hold-out {column}={value}: no row has it. Column {column!r} holds {shown}.")
    dealing = _Dealing(_shares(fractions), group_rows(table, pairs), seed)
    return _one_side(table, held, f"{column}={value}", dealing, refuse=straddling == "refuse")


# ---- what belongs together ---------------------------------------------------------------------------------------


def group_rows(table: Table, pairs: Sequence[Pair] = ()) -> np.ndarray:
    """Per row the number of its group, ``(n,)`` int from 0 on: rows that must lie on one side of every split.

    Rows of one patient; where the patient is blank or unknown, of one study (and of the patient who has that study, if
    it is only one); and what is joined by pairs.

    Raises:
        TableError: without a patient rule, or with neither patient nor study in a row.
    """
    require_patients(table)
    keys, codes = _keys(table)
    if not pairs:
        return codes
    first = pd.Series(np.arange(len(codes))).groupby(codes).first().to_numpy()
    chains = [Pair(int(first[code]), row, "copy", 1.0) for row, code in enumerate(codes.tolist())]
    labels = duplicate_groups([*chains, *pairs], len(codes))
    least = pd.Series(keys).groupby(labels).transform("min")  # numbered by name, whatever the order of rows
    return np.asarray(pd.factorize(least.to_numpy(), sort=True)[0])


def _keys(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Per row the name of its patient or study, and the number of that name."""
    keys = table.patients().astype(object)
    if "study" in table.frame and table.frame["study"].notna().any():
        unknown = table.frame["patient"].isna().to_numpy() | (table.patient_rule == "none")
        study = table.frame["study"]
        alone = unknown & study.notna().to_numpy()
        known = pd.DataFrame({"study": study, "key": keys})[~unknown & study.notna()].drop_duplicates()
        owner = known.drop_duplicates("study", keep=False).set_index("study")["key"]
        named = study[alone]
        keys[alone] = named.map(owner).where(named.isin(owner.index), "study " + named.astype(str)).to_numpy()
    codes, _ = pd.factorize(keys.astype(str), sort=True)
    return keys.astype(str), np.asarray(codes)


def require_patients(table: Table) -> None:
    """Refuse a table whose patients are not known.

    Raises:
        TableError: if there is no patient rule, or a row with neither patient nor study.
    """
    if not table.patient_rule:
        raise TableError(
            f"{table.source} does not say which images are of one patient, so a split could tear one apart. "
            r"Name the column (--columns patient=YOUR_NAME), or use --patient-from '(P\d+)_' (a group over the image "
            "path), blocks:20 (20 rows in a row), or none (every image is its own patient)."
        )
    missing = table.frame["patient"].isna().to_numpy() & (table.patient_rule != "none")
    if "study" in table.frame:
        missing &= table.frame["study"].isna().to_numpy()
    if missing.any():
        where = _rows(table, missing)
        raise TableError(f"{table.source} has no patient in row {where}. Fill the cell; such images cannot be split.")


def _rows(table: Table, chosen: np.ndarray) -> str:
    rows = table.frame["row"].to_numpy()[chosen]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(map(str, rows[:_SHOWN].tolist())) + more


# ---- one side given ----------------------------------------------------------------------------------------------


def _column(table: Table, name: str) -> pd.Series[Any]:
    """The text of a user's column, blank where there is none."""
    own = {key.removeprefix("extra:"): key for key in map(str, table.frame) if key.startswith("extra:")}
    own |= {key: key for key in ("study", "view", "laterality") if key in table.frame}
    if name not in own:
        near = get_close_matches(name, own, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        there = ", ".join(map(repr, own)) or "none"
        raise OptionError(f"{table.source} has no column {name!r}.{hint} Columns to split by: {there}.")
    cells = table.frame[own[name]]
    return cells.where(cells.notna(), "").astype(object)


_UNSURE = re.compile(r"\s*(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d{2})\b")


def _dates(cells: pd.Series[Any]) -> pd.Series[Any]:
    """Days as UTC time stamps, NaT where a cell is no date or day and month could be swapped."""
    days = pd.to_datetime(cells, format="ISO8601", errors="coerce", utc=True)
    rest = days.isna() & (cells != "")
    for position in np.flatnonzero(rest).tolist():
        days.iloc[position] = _other_date(str(cells.iloc[position]))
    return days


def _other_date(text: str) -> pd.Timestamp | None:
    parts = _UNSURE.match(text)
    first, second = (int(part) for part in parts.groups()[:2]) if parts else (0, 0)
    if parts and first != second and max(first, second) <= 12:
        return None
    try:
        return pd.to_datetime(text, dayfirst=first > 12, utc=True, format="mixed")
    except (ValueError, OverflowError):
        return None


class _Dealing(NamedTuple):
    shares: np.ndarray
    groups: np.ndarray
    seed: int


def _one_side(table: Table, held: np.ndarray, what: str, dealing: _Dealing, *, refuse: bool = False) -> SideSplit:
    """Groups with a held row are test; the others are dealt to train and val."""
    groups, shares = dealing.groups, dealing.shares
    test = np.isin(groups, groups[held])
    moved = test & ~held
    names = tuple(sorted(set(table.patients()[np.isin(groups, groups[moved])].tolist())))
    if refuse and names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = ", ".join(map(repr, names[:_SHOWN])) + more
        raise TableError(f"{table.source}: {shown} with rows on both sides of {what}. Take out one side, or allow it.")
    if not held.any():
        raise TableError(f"{table.source}: no row is {what}; nothing is left to test on.")
    if test.all():
        raise TableError(f"{table.source}: every patient has rows with {what}; nothing is left to train on.")
    rest = np.flatnonzero(~test)
    shares = np.array([shares[0], shares[1], 0.0]) / (shares[0] + shares[1])
    homes = _deal_groups(table.take(rest), groups[rest], shares, np.random.default_rng(dealing.seed))
    split = np.full(len(table), "test", dtype=object)
    split[rest] = np.array(SPLITS, dtype=object)[homes]
    return SideSplit(_with_split(table, split), names, int(moved.sum()))


def _with_split(table: Table, names: np.ndarray) -> Table:
    return replace(table, frame=table.frame.assign(split=pd.Series(names, dtype=object)))


# ---- dealing out -------------------------------------------------------------------------------------------------


def _deal_groups(table: Table, groups: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Per row the number of its split, ``(n,)``; groups stay whole, classes in proportion."""
    codes, names = pd.factorize(groups, sort=True)
    wanted = int((shares > 0).sum())
    if len(names) < wanted:
        count = "one patient" if len(names) == 1 else f"{len(names)} patients"
        raise TableError(f"{table.source} has {count}, too few for {wanted} splits by patient; add patients.")
    found = (table.states == POSITIVE).astype(np.int64)
    marks = np.column_stack([found, ~found.any(axis=1), np.ones(len(table), dtype=np.int64)])
    counts = np.zeros((len(names), marks.shape[1]), dtype=np.int64)
    np.add.at(counts, codes, marks)
    return np.asarray(_deal(counts, shares, rng)[codes])


def _shares(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (3,) or (shares < 0).any() or shares[0] <= 0 or abs(shares.sum() - 1) > 1e-6:
        given = " ".join(f"{share:g}" for share in np.ravel(shares))
        raise OptionError(f"--fractions {given}: the shares of train, val and test must sum to 1, with train above 0.")
    return shares


@dataclass
class _Deal:
    """Who went where so far, and how many images of each kind every split still wants."""

    counts: list[list[int]]
    homes: list[int]
    wants: list[list[float]]
    has: list[list[int]]

    def give(self, patient: int, split: int) -> None:
        self._move(patient, split, 1)
        self.homes[patient] = split

    def take_back(self, patient: int) -> None:
        self._move(patient, self.homes[patient], -1)
        self.homes[patient] = -1

    def _move(self, patient: int, split: int, sign: int) -> None:
        wants, has = self.wants[split], self.has[split]
        for kind, count in enumerate(self.counts[patient]):
            if count:
                wants[kind] -= sign * count
                has[kind] += sign


def _deal(counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The split of each patient, from images per patient and kind ``(patients, kinds)``; the last kind is any image."""
    order = rng.permutation(len(counts)).tolist()
    splits = np.flatnonzero(shares > 0).tolist()
    wants = (shares[:, None] * counts.sum(axis=0)).tolist()
    deal = _Deal(counts.tolist(), [-1] * len(counts), wants, [[0] * counts.shape[1] for _ in shares])
    members = [[patient for patient in order if deal.counts[patient][kind]] for kind in range(counts.shape[1])]
    _fill(deal, members, splits)
    _bring_everywhere(deal, members, splits, rng)
    return np.array(deal.homes)


def _fill(deal: _Deal, members: list[list[int]], splits: list[int]) -> None:
    """Each patient goes where their rarest kind is wanted most; the kind with the fewest free patients comes first."""
    free = [len(group) for group in members]
    while any(free):
        kind = min((kind for kind in range(len(free)) if free[kind]), key=lambda kind: free[kind])
        for patient in members[kind]:
            if deal.homes[patient] < 0:
                deal.give(patient, max(splits, key=lambda split: (deal.wants[split][kind], deal.wants[split][-1])))
                for each, count in enumerate(deal.counts[patient]):
                    free[each] -= count > 0


def _bring_everywhere(deal: _Deal, members: list[list[int]], splits: list[int], rng: np.random.Generator) -> None:
    """Move single patients until every kind of enough patients is in each split (min-conflicts search, bounded)."""
    common = [kind for kind, group in enumerate(members) if len(group) >= len(splits)]
    for _ in range(_TRIES):
        lacking = [(kind, split) for kind in common for split in splits if not deal.has[split][kind]]
        if not lacking:
            return
        kind, split = lacking[rng.integers(len(lacking))]
        harm = [_harm(deal, patient, split, common) for patient in members[kind]]
        least = [patient for patient, each in zip(members[kind], harm, strict=True) if each == min(harm)]
        choice = members[kind] if rng.random() < 0.1 else least
        patient = choice[rng.integers(len(choice))]
        deal.take_back(patient)
        deal.give(patient, split)


def _harm(deal: _Deal, patient: int, split: int, common: list[int]) -> int:
    """How many more kinds would be lacking somewhere if the patient moved."""
    left, entered = deal.has[deal.homes[patient]], deal.has[split]
    mine = [kind for kind in common if deal.counts[patient][kind]]
    return sum((left[kind] == 1) - (entered[kind] == 0) for kind in mine)
