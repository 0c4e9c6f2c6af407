"""Train, val and test by patient, with every class in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lesioncam.data.table import SPLITS, Table
from lesioncam.errors import OptionError, TableError
from lesioncam.types import POSITIVE

__all__ = ["require_patients", "split_table"]

_TRIES = 2000
"""Moves after which the search for a rare class in each split ends; overlapping classes may allow none."""


def split_table(table: Table, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> Table:
    """Deal the patients out to train, val and test; a split the table already has is replaced.

    Images per class are kept in proportion by greedy iterative stratification over patients, rarest class first
    (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011); images without any finding count as
    a class of their own. A class of three patients or more comes into each split, where the classes' overlap allows.

    Args:
        table: with a patient rule.
        fractions: shares of train, val and test; they sum to 1.
        seed: the same table, fractions and seed give the same split.

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
    require_patients(table)
    codes, patients = pd.factorize(table.patients(), sort=True)
    wanted = int((shares > 0).sum())
    if len(patients) < wanted:
        count = "one patient" if len(patients) == 1 else f"{len(patients)} patients"
        raise TableError(f"{table.source} has {count}, too few for {wanted} splits by patient; add patients.")
    found = (table.states == POSITIVE).astype(np.int64)
    marks = np.column_stack([found, ~found.any(axis=1), np.ones(len(table), dtype=np.int64)])
    counts = np.zeros((len(patients), marks.shape[1]), dtype=np.int64)
    np.add.at(counts, codes, marks)
    homes = _deal(counts, shares, np.random.default_rng(seed))
    names = np.array(SPLITS, dtype=object)[homes[codes]]
    return replace(table, frame=table.frame.assign(split=pd.Series(names, dtype=object)))


def require_patients(table: Table) -> None:
    """Refuse a table whose patients are not known.

    Raises:
        TableError: if there is no patient rule, or a row without a patient.
    """
    if not table.patient_rule:
        raise TableError(
            f"{table.source} does not say which images are of one patient, so a split could tear one apart. "
            r"Name the column (--columns patient=YOUR_NAME), or use --patient-from '(P\d+)_' (a group over the image "
            "path), blocks:20 (20 rows in a row), or none (every image is its own patient)."
        )
    missing = np.flatnonzero(table.frame["patient"].isna()) if table.patient_rule != "none" else np.empty(0, int)
    if len(missing):
        rows = table.frame["row"].to_numpy()[missing[:5]].tolist()
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        where = ", ".join(map(str, rows)) + more
        raise TableError(f"{table.source} has no patient in row {where}. Fill the cell; such images cannot be split.")


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
