"""Tables of the report: the short one, all metrics with their conventions, controls, subgroups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lesioncam.evaluation.metric import FAMILIES, ORACLE, family_of, shown_in, title_of
from lesioncam.evaluation.summary import best_control
from lesioncam.reporting.report.checks import leak_text
from lesioncam.reporting.report.read import Evaluation
from lesioncam.reporting.words.words import Count, Estimate, counted, estimate, method_name

BESIDE_CONTROLS = shown_in("controls")
TASKS = ("classification", "segmentation", "localisation")
LEAK_ROWS = 200


@dataclass(frozen=True)
class Headline:
    """A number of the first screen beside the best that needs no model."""

    title: str
    own: Estimate
    beside: str
    verdict: str


Cells = Sequence[Estimate | None]


@dataclass(frozen=True)
class ShortTable:
    """The default table: a row per class, a column per metric, and over how many images they were taken."""

    metrics: Sequence[str]
    rows: Sequence[tuple[str, Cells]]
    counted: str


@dataclass(frozen=True)
class FamilyTable:
    """All metrics of a family: a row per metric, a column per class; ``oracle`` where one was chosen in hindsight."""

    title: str
    convention: str
    oracle: bool
    labels: Sequence[str]
    rows: Sequence[tuple[str, Cells]]
    counted: str

    @property
    def size(self) -> int:
        """How many metrics."""
        return len(self.rows)


@dataclass(frozen=True)
class ControlTable:
    """The method, its controls and the marks of what is possible: groups of rows under a title, for one class."""

    label: str
    metrics: Sequence[str]
    groups: Sequence[tuple[str, Sequence[tuple[str, Cells]]]]


@dataclass(frozen=True)
class SubgroupCell:
    """A number of a group, the images and patients behind it, and whether it is below or above overall."""

    one: Estimate
    behind: str
    flag: str


@dataclass(frozen=True)
class SubgroupPart:
    """One class: a row per group, a column per metric."""

    label: str
    metrics: Sequence[str]
    rows: Sequence[tuple[str, Sequence[SubgroupCell | None]]]


@dataclass(frozen=True)
class SubgroupTable:
    """One column of the table: the mean of classes, then class by class."""

    column: str
    parts: Sequence[SubgroupPart]


def headlines(evaluation: Evaluation) -> list[Headline]:
    """Dice, pointing game and AUROC (of grades kappa as well), each beside its best control or chance."""
    label = evaluation.mean
    wanted = [("segmentation", "dice"), ("localisation", "pointing_game"), ("classification", "auroc")]
    found = [(task, metric, estimate(evaluation, task, metric, label)) for task, metric in wanted]
    if evaluation.summary.task == "ordinal":  # of all grades at once, hence under no class's name
        metric = "kappa_quadratic"
        found.insert(0, ("classification", metric, estimate(evaluation, "classification", metric, "macro")))
    shown = [(t, m, own) for t, m, own in found if own is not None and (own.known or own.hidden or m == "auroc")]
    return [_headline(evaluation, task, metric, own) for task, metric, own in shown]


def is_localised(evaluation: Evaluation) -> bool:
    """Whether any measure of place exists: false alarms alone need no mask and do not count."""
    rows = evaluation.metrics
    place = rows["task"].isin(["segmentation", "localisation"]) & ~rows["metric"].str.contains(
        "false_alarm|afp@|froc@|cpm"
    )
    own = rows[place & (rows["method"] == evaluation.method)]
    hidden = own["hidden"].ne("").any() if "hidden" in own else False
    return bool(own["value"].notna().any() or hidden)


def short_table(evaluation: Evaluation, count: Count) -> ShortTable | None:
    """The numbers that matter most; None where there is none."""
    columns = [column for column in shown_in("short") if _measured(evaluation, *column)]
    labels = _labels(evaluation, columns)
    rows = [(label, [estimate(evaluation, *column, label) for column in columns]) for label in labels]
    return ShortTable([m for _, m in columns], rows, _counted(evaluation, columns, count)) if rows else None


def all_metrics(evaluation: Evaluation, count: Count) -> list[FamilyTable]:
    """Every metric of the method: a table per family."""
    own = evaluation.metrics[evaluation.metrics["method"] == evaluation.method]
    present = dict.fromkeys(zip(own["task"], own["metric"], strict=True))
    owner = {pair: family_of(*pair) for pair in present if pair[0] in TASKS}
    tables = []
    for family in FAMILIES.values():
        shown = [pair for pair, its in owner.items() if its is family and _measured(evaluation, *pair)]
        if labels := _labels(evaluation, shown):
            rows = [(metric, [estimate(evaluation, task, metric, c) for c in labels]) for task, metric in shown]
            oracle = any(metric.startswith(ORACLE) for _, metric in shown)
            said = _counted(evaluation, shown, count)
            tables.append(FamilyTable(family.title, family.convention, oracle, labels, rows, said))
    return tables


def _counted(evaluation: Evaluation, columns: Sequence[tuple[str, str]], count: Count) -> str:
    """Over how many images the means were taken, in words."""
    pairs = [(task, estimate(evaluation, task, metric, label))
             for label in (evaluation.mean, "any") for task, metric in columns]  # fmt: skip
    return ". ".join(counted([(task, one) for task, one in pairs if one is not None], count))


def control_tables(evaluation: Evaluation) -> list[ControlTable]:
    """The method, its controls and the marks of what is possible in numbers, a table per class."""
    tables = []
    for label in (*evaluation.classes, "macro"):
        groups = [(name, methods) for name, methods in _compared(evaluation) if methods]
        cells = {m: [estimate(evaluation, *column, label, m) for column in BESIDE_CONTROLS]
                 for _, methods in groups for m in methods}  # fmt: skip
        shown = [i for i in range(len(BESIDE_CONTROLS)) if any(line[i] is not None for line in cells.values())]
        if shown:
            rows = [(name, [(m, [cells[m][i] for i in shown]) for m in methods]) for name, methods in groups]
            tables.append(ControlTable(label, [BESIDE_CONTROLS[i][1] for i in shown], rows))
    return tables


def subgroup_tables(evaluation: Evaluation, count: Count) -> list[SubgroupTable]:
    """A table per column: a row per group, a column per metric of the mean of classes, then a table per class."""
    if evaluation.subgroups.empty:
        return []
    own = evaluation.subgroups[evaluation.subgroups["method"] == evaluation.method]
    tables = []
    for column, rows in own.groupby("column", sort=False):
        labels = [c for c in ("macro", "any", *evaluation.classes) if c in set(rows["class"])]
        parts = [_subgroup_part(rows[rows["class"] == label], label, count) for label in labels]
        tables.append(SubgroupTable(str(column), parts))
    return tables


def leak_rows(evaluation: Evaluation) -> tuple[list[str], int]:
    """The pairs that lie in two splits, and how many more there are than are listed."""
    leaks = evaluation.summary.leaks
    return [leak_text(leak) for leak in leaks[:LEAK_ROWS]], max(0, len(leaks) - LEAK_ROWS)


def _headline(evaluation: Evaluation, task: str, metric: str, own: Estimate) -> Headline:
    label = evaluation.mean
    mean = "mean of classes" if label == "macro" else label
    if metric == "kappa_quadratic":
        return Headline(title_of(metric), own, "chance: 0.000", _verdict(own, 0.0, 0.0, "chance"))
    if task == "classification":
        return Headline(f"AUROC, {mean}", own, "chance: 0.500", _verdict(own, 0.5, 0.5, "chance"))
    best = best_control(evaluation.metrics, metric, label)
    control = None if best is None else estimate(evaluation, task, metric, label, str(best["method"]))
    if best is None or control is None:
        return Headline(f"{title_of(metric)}, {mean}", own, "no control was measured", "")
    beside = f"best control, {method_name(str(best['method']))}: {control.text}"
    beside += f" ({control.interval})" if control.interval else ""
    verdict = _verdict(own, control.value, control.high, "the best control")
    return Headline(f"{title_of(metric)}, {mean}", own, beside, verdict)


def _verdict(own: Estimate, value: float, high: float, what: str) -> str:
    if not own.known:
        return ""
    if own.value <= value:
        return f"Not better than {what}."
    if own.interval and math.isfinite(high) and own.low > high:
        return f"Above {what}: the intervals do not touch." if high > value else f"Above {what}."
    return f"Above {what}, but the intervals overlap."


def _measured(evaluation: Evaluation, task: str, metric: str) -> bool:
    """Recognising and false alarms are shown even where undefined; places need one number somewhere."""
    rows = evaluation.metrics
    own = rows[(rows["task"] == task) & (rows["metric"] == metric) & (rows["method"] == evaluation.method)]
    always = task == "classification" or metric == "false_alarm_rate"
    hidden = own["hidden"].ne("").any() if "hidden" in own else False
    return len(own) > 0 and bool(always or hidden or own["value"].notna().any())


def _labels(evaluation: Evaluation, columns: Iterable[tuple[str, str]]) -> list[str]:
    wanted, own = set(columns), evaluation.metrics[evaluation.metrics["method"] == evaluation.method]
    rows = zip(own["task"], own["metric"], own["class"], strict=True)
    present = {label for task, metric, label in rows if (task, metric) in wanted}
    return [label for label in (*evaluation.classes, "macro", "any") if label in present]


def _compared(evaluation: Evaluation) -> list[tuple[str, tuple[str, ...]]]:
    return [
        ("", (evaluation.method,)),
        ("Controls: what it has to beat", evaluation.controls),
        ("Marks of what is possible: nothing to beat", evaluation.bounds),
    ]


def _subgroup_part(rows: pd.DataFrame, label: str, count: Count) -> SubgroupPart:
    columns = list(dict.fromkeys(zip(rows["task"], rows["metric"], strict=True)))
    order = shown_in("short")
    columns.sort(key=lambda pair: order.index(pair) if pair in order else len(order))
    groups: dict[str, dict[tuple[str, str], SubgroupCell]] = {}
    for row in rows.to_dict("records"):
        groups.setdefault(row["group"], {})[row["task"], row["metric"]] = _subgroup_cell(row, count)
    lines = [(group, [cells.get(column) for column in columns]) for group, cells in groups.items()]
    return SubgroupPart(label, [metric for _, metric in columns], lines)


def _subgroup_cell(row: Mapping[Hashable, Any], count: Count) -> SubgroupCell:
    n, people = (int(row[key]) if math.isfinite(row[key]) else 0 for key in ("n", "patients"))
    one = Estimate(row["metric"], row["value"], row["low"], row["high"], n, 0, "too few", str(row.get("hidden", "")))
    said = str(row.get("said", "")) or _behind(count(n), count(people, least=5))
    return SubgroupCell(one, said, str(row.get("flag", "")) if one.known else "")


def _behind(images: str, patients: str) -> str:
    return (
        f"{images} {'image' if images == '1' else 'images'}, {patients} {'patient' if patients == '1' else 'patients'}"
    )
