"""From the four states of a label to what a network is told: policies for uncertain and blank labels, tasks, grades.

The table keeps what the user wrote; a policy is applied when a run asks for targets, and said wherever it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lesioncam.data.table.policy import SUPPORT_DEVICES, Targets, make_targets
from lesioncam.data.table.table import Table
from lesioncam.errors import OptionError, TableError
from lesioncam.lookup import find
from lesioncam.options.data import TableConfig
from lesioncam.options.run import Task
from lesioncam.types import NEGATIVE, POSITIVE, UNCERTAIN, UNKNOWN

_YES = frozenset({"1", "1.0", "true"})


def targets_of(table: Table, policy: TableConfig, task: Task = "auto", seed: int = 0) -> Targets:
    """The targets of a table under a policy and a task.

    Where classes exclude each other (multiclass, ordinal) a row is one-hot, or NaN throughout where its class is not
    known; a 1 settles the blanks beside it.

    Args:
        table: as read.
        policy: what becomes of uncertain and blank labels.
        task: what is asked of the labels.
        seed: of the draws of soft labels.

    Raises:
        OptionError: if the policy names something that is not in the table.
        TableError: if the task is multiclass or ordinal and a row has no or several classes, or a soft one.
    """
    made = make_targets(table.states, table.classes, policy, _healthy_rows(table, policy.no_finding))
    if task in {"multiclass", "ordinal"}:
        labels = _one_hot(made.middle(), table, task)
        return Targets(labels, labels, seed)
    return Targets(made.low, made.high, seed)


def _healthy_rows(table: Table, name: str | None) -> np.ndarray | None:
    """The rows whose "No Finding" is 1: a class, or a column of the user's that is none."""
    if name is None:
        return None
    if name in table.classes:
        return np.asarray(table.states[:, table.classes.index(name)] == POSITIVE)
    if name in table.negative:
        raise OptionError(f"--no-finding {name!r} is named by --negative as well, which says more; leave one out.")
    own = {str(column).removeprefix("extra:"): column for column in table.frame if str(column).startswith("extra:")}
    column = find(name, own | dict.fromkeys(table.classes), "column of --no-finding")
    return np.array([str(cell).strip().lower() in _YES for cell in table.frame[column]], dtype=bool)


def _one_hot(labels: np.ndarray, table: Table, task: str) -> np.ndarray:
    ones, blank = (labels == POSITIVE).sum(axis=1), np.isnan(labels).any(axis=1)
    soft = ((labels > 0) & (labels < 1)).any(axis=1)
    wrong = np.flatnonzero(soft | (ones > 1) | ((ones == 0) & ~blank))
    if len(wrong):
        raise TableError(_not_one(labels[wrong[0]], table, int(wrong[0]), task, len(wrong)))
    made = np.where(labels == POSITIVE, np.float32(1), np.float32(0))
    made[ones == 0] = UNKNOWN
    return made


def _not_one(labels: np.ndarray, table: Table, place: int, task: str, count: int) -> str:
    found = [name for name, label in zip(table.classes, labels.tolist(), strict=True) if label == POSITIVE]
    said = " and ".join(map(repr, found)) if found else "none of the classes"
    if ((labels > 0) & (labels < 1)).any():
        said = "a soft label"
    row = f" row {table.frame['row'].iloc[place]}" if "row" in table.frame else f" row number {place + 1}"
    others = f" ({count - 1:,} more like it)" if count > 1 else ""
    text = f"{table.source}{row} has {said}{others}, but --task {task} needs exactly one class in every image."
    if not found and table.negative:
        return f"{text} Leave --negative out: {table.negative[0]!r} then is a class of its own, among the others."
    if said == "a soft label":
        return f"{text} Use --uncertain ignore: such an image then takes no part."
    return f"{text} Correct the row, or use --task multilabel."


def check_task(table: Table, policy: TableConfig, task: Task) -> None:
    """Whether the labels fit the task.

    Raises:
        TableError: naming the row or the grades that do not.
    """
    if task not in {"multiclass", "ordinal"}:
        return
    if len(table.classes) < 2:
        only = f"only {table.classes[0]!r} is there"
        hint = f" Leave --negative out: {table.negative[0]!r} then is a class too." if table.negative else ""
        raise TableError(f"{table.source}: --task {task} needs two classes or more, but {only}.{hint}")
    if task == "ordinal" and policy.classes is None:
        _check_grades(table)
    targets_of(table, policy, task)


def _check_grades(table: Table) -> None:
    """Grades that nobody declared are whole numbers without a gap, lowest first."""
    names = list(table.classes)
    way = "Name them from the lowest to the highest with --classes, for instance --classes 0 1 2 3 4."
    if not all(re.fullmatch(r"\d+", name) for name in names):
        odd = next(name for name in names if not re.fullmatch(r"\d+", name))
        raise TableError(f"{table.source}: {odd!r}{_where(table, odd)} is no grade, so the order is not known. {way}")
    numbers = [int(name) for name in names]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise TableError(f"{table.source}: the grades {', '.join(names)} have a gap or stand in another order. {way}")


def _where(table: Table, name: str) -> str:
    rows = np.flatnonzero(table.states[:, table.classes.index(name)] == POSITIVE)
    return f" (row {table.frame['row'].iloc[int(rows[0])]})" if len(rows) and "row" in table.frame else ""


def policy_table(table: Table, policy: TableConfig) -> pd.DataFrame:
    """What stands in the table, class by class, and what uncertain and blank labels became.

    Returns:
        Columns ``class``, ``positive``, ``negative``, ``uncertain``, ``uncertain_becomes``, ``blank``,
        ``blank_becomes``.

    Raises:
        OptionError: if the policy names something that is not in the table.

    Example:
        >>> from lesioncam.data.table.table import Table
        >>> t = Table(pd.DataFrame({"id": list("abc")}), ("mass",), np.float32([[1], [-1], [np.nan]]))
        >>> told = policy_table(t, TableConfig(uncertain="soft"))
        >>> told[["uncertain", "uncertain_becomes", "blank", "blank_becomes"]].values.tolist()
        [[1, '0.55 to 0.85', 1, 'ignored']]
    """
    healthy = _healthy_rows(table, policy.no_finding)
    make_targets(table.states, table.classes, policy)
    return pd.DataFrame(list(_policy_rows(table, policy, healthy)))


def _policy_rows(table: Table, policy: TableConfig, healthy: np.ndarray | None) -> Iterator[dict[str, object]]:
    for name, states in zip(table.classes, table.states.T, strict=True):
        blank = np.isnan(states)
        rest = "0" if policy.blank_for.get(name, policy.blank) == "0" else "ignored"
        told = 0 if healthy is None or SUPPORT_DEVICES.fullmatch(name) else int((blank & healthy).sum())
        if told and rest != "0":
            rest = f"0 in {told:,} rows ({policy.no_finding}), otherwise ignored"
        yield {
            "class": name,
            "positive": int((states == POSITIVE).sum()),
            "negative": int((states == NEGATIVE).sum()),
            "uncertain": int((states == UNCERTAIN).sum()),
            "uncertain_becomes": _said(policy.uncertain_for.get(name, policy.uncertain)),
            "blank": int(blank.sum()),
            "blank_becomes": rest,
        }


def _said(policy: str | float | tuple[float, float]) -> str:
    if isinstance(policy, tuple):
        return f"{policy[0]:g} to {policy[1]:g}"
    return "ignored" if policy == "ignore" else f"{float(policy):g}"
