"""What the page of a comparison shows, in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesioncam.evaluation.compare import COMPARED
from lesioncam.evaluation.metric import is_lower_better, title_of
from lesioncam.functional.overlay import color_bar
from lesioncam.reporting.comparison.compared_run import ComparedRun
from lesioncam.reporting.comparison.repetitions import repetitions
from lesioncam.reporting.comparison.result import ComparisonResult
from lesioncam.reporting.comparison.rows import RunEstimate
from lesioncam.reporting.comparison.settings import Setting, settings_of
from lesioncam.reporting.comparison.side_by_side import PICK_RULE, TITLES, Lineup
from lesioncam.reporting.figures.plot import Plot
from lesioncam.reporting.page import render

CORRECTION = (
    "For each metric and class, the intervals of all pairs hold together at 95 % (simultaneous percentile intervals of "
    "Mandel and Betensky, 2008, never wider than Bonferroni's); p values are two-sided bootstrap values with Holm's "
    "correction over the same pairs. The verdict goes by the corrected interval; Holm's stepwise p can be a little "
    "less strict. With two runs there is one pair, and nothing to correct. Nothing is corrected across metrics or "
    "classes."
)
"""What is corrected, and how, in words."""

MAIN = (
    "Labels and split (digest of the table)",
    "Backbone",
    "Initial weights",
    "Pooling",
    "Input: size",
    "Order of images and augmentation",
    "Epochs planned",
    "Images seen in training",
    "Validation images",
    "Configurations that opened them",
    "Test labels opened, times",
)
"""Settings that are named first where they were equal."""


@dataclass(frozen=True)
class _Line:
    """A metric of a class, a cell per run (None where there is nothing)."""

    metric: str
    label: str
    cells: Sequence[RunEstimate | None]
    n: int


@dataclass(frozen=True)
class _Equal:
    """A setting that was equal wherever it is known, and the runs that do not know it."""

    setting: Setting
    value: str
    unknown: Sequence[str]


def comparison_page(result: ComparisonResult, values: Sequence[Plot], gaps: Sequence[Plot], methods: str) -> str:
    """The page as HTML.

    Args:
        result: of the comparison.
        values: a plot per metric.
        gaps: of differences, likewise.
        methods: the methods paragraphs.
    """
    settings, rows, names = settings_of(result.runs), result.rows, [one.name for one in result.contenders]
    return render(
        "comparison.html.jinja",
        title=f"Comparison of {', '.join(run.name for run in result.runs)}",
        result=result,
        names=names,
        left_out=_left_out(result),
        answers=_answers([one for one in rows if one.label == "macro"]),
        means=_lines([one for one in rows if one.label == "macro"], names),
        classes=_lines([one for one in rows if one.label != "macro"], names),
        lower=[name for name in COMPARED if is_lower_better(name)],
        differences=result.gaps,
        correction=CORRECTION,
        value_plots=values,
        difference_plots=gaps,
        one_recipe=any(len(members) == len(result.runs) for members in repetitions(result.runs).values()),
        main_equal=[line.name for line in settings if not line.differs and line.name in MAIN],
        different=[line for line in settings if line.differs],
        equal=[_equal(line, result.runs) for line in settings if not line.differs],
        spreads=_spreads(result.spreads),
        cases=_cases(result.pictures),
        pick_rule=PICK_RULE,
        bar=color_bar(),
        methods=methods.strip().split("\n\n"),
    )


def _left_out(result: ComparisonResult) -> list[str]:
    """What is not compared, in sentences."""
    if result.common is None:
        return []
    common, found = result.common, []
    for name, count in common.left_out.items():
        if count:
            found.append(f"{count} images of {name} are left out: not all others were measured on them.")
    for name, classes in common.classes_left_out.items():
        if classes:
            found.append(f"Of {name} the classes {', '.join(classes)} are left out: not all others know them.")
    for name, count in common.without_score.items():
        if count:
            found.append(f"{name} has no score for {count} images; classification leaves them out for all runs.")
    silent = [c.name for c, t in zip(result.contenders, common.tables, strict=True) if np.isnan(t.score).all()]
    found += [f"{name} has no image scores at all, and no part in classification." for name in silent]
    return found


def _answers(means: Sequence[RunEstimate]) -> list[tuple[str, str]]:
    """The first thing to read: who is ahead, by metric."""
    found = []
    for metric in COMPARED:
        ranked = [one for one in means if one.metric == metric and one.rank]
        if len(ranked) > 1:
            found.append((title_of(metric), _ahead([one.run for one in ranked if one.best], len(ranked))))
    return found


def _ahead(ahead: Sequence[str], of: int) -> str:
    if len(ahead) == of:
        return "all tie" if of > 2 else "a tie"
    return f"{ahead[0]} is ahead" if len(ahead) == 1 else f"{', '.join(ahead)} are ahead, and tie or cannot be ordered"


def _lines(rows: Sequence[RunEstimate], names: Sequence[str]) -> list[_Line]:
    groups: dict[tuple[str, str], dict[str, RunEstimate]] = {}
    for one in rows:
        groups.setdefault((one.metric, one.label), {})[one.run] = one
    return [
        _Line(metric, label, [own.get(name) for name in names], int(max(one.n for one in own.values())))
        for (metric, label), own in groups.items()
    ]


def _equal(line: Setting, runs: Sequence[ComparedRun]) -> _Equal:
    value = next(one for one in line.by_run if one is not None)
    return _Equal(line, value, [run.name for one, run in zip(line.by_run, runs, strict=True) if one is None])


def _spreads(spreads: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    rows = spreads[spreads["class"] == "macro"]
    return [(str(group), part) for group, part in rows.groupby("group", sort=False)]


def _cases(pictures: Sequence[Lineup]) -> list[tuple[str, list[Lineup]]]:
    groups: dict[str, list[Lineup]] = {}
    for one in pictures:
        groups.setdefault(TITLES[one.pick.group], []).append(one)
    return list(groups.items())
