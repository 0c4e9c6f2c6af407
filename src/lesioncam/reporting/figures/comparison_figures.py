"""Plots of a comparison: every run's value with its interval, and every pair's difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lesioncam.evaluation.compare import COMPARED
from lesioncam.evaluation.metric import title_of
from lesioncam.reporting.comparison.rows import Difference, RunEstimate, signed
from lesioncam.reporting.figures.forest import MOST_LINES, Forest, Mark, forest_plot
from lesioncam.reporting.figures.plot import Plot
from lesioncam.reporting.words.words import class_name


def value_plots(estimates: Sequence[RunEstimate]) -> list[Plot]:
    """One forest plot per metric: per class, then the mean of classes; letters beside the numbers mark ties."""
    found = {metric: [one for one in estimates if one.metric == metric] for metric in COMPARED}
    plots = [_value_plot(metric, rows) for metric, rows in found.items()]
    return [plot for plot in plots if plot is not None]


def difference_plots(differences: Sequence[Difference]) -> list[Plot]:
    """One plot per metric: the difference of every pair of runs, for the mean of the classes (else the only one)."""
    means = [one for one in differences if one.label == "macro"]
    found = {metric: [one for one in means if one.metric == metric] for metric in COMPARED}
    return [_difference_plot(metric, rows) for metric, rows in found.items() if rows]


def _value_plot(metric: str, rows: Sequence[RunEstimate]) -> Plot | None:
    lines: list[tuple[str, Mark | None]] = []
    said = []
    for label, part in _by_class(rows).items():
        lines.append((class_name(label), None))
        said.append(class_name(label))
        for one in part:
            lines.append((one.run, Mark(one.value, (one.low, one.high), f"{one.text}  {one.letters}")))
            said.append(f"{one.run}: {one.text} ({one.interval or 'no interval'})")
    if not lines:
        return None
    title = f"{title_of(metric)} with 95 % interval"
    return forest_plot(f"values-{metric}", Forest(title, lines), f"{title}. {'; '.join(said)}.")


def _by_class(rows: Sequence[RunEstimate]) -> dict[str, list[RunEstimate]]:
    """Class by class; of one class the mean says nothing more, and of very many only the mean is shown."""
    groups: dict[str, list[RunEstimate]] = {}
    for one in rows:
        groups.setdefault(one.label, []).append(one)
    if len(groups) == 2:
        groups.pop("macro", None)
    if sum(1 + len(part) for part in groups.values()) > MOST_LINES:
        groups = {label: part for label, part in groups.items() if label == "macro"}
    return groups


def _difference_plot(metric: str, rows: Sequence[Difference]) -> Plot:
    ends = [end for one in rows for end in (one.difference, one.low_corrected, one.high_corrected)]
    reach = max(0.02, 1.1 * max((abs(end) for end in ends if math.isfinite(end)), default=0.02))
    lines = [(one.pair, _difference_mark(one)) for one in rows]
    title = f"Difference of {title_of(metric)}, mean of classes"
    said = [f"{one.pair}: {signed(one.difference)}, {one.verdict}" for one in rows]
    forest = Forest(title, lines, limits=(-reach, reach))
    return forest_plot(f"differences-{metric}", forest, f"{title}. {'; '.join(said)}.", width=3.0, step=0.24)


def _difference_mark(one: Difference) -> Mark:
    return Mark(
        one.difference,
        (one.low, one.high),
        f"{signed(one.difference)}  {one.verdict}",
        "tie" if one.tie != 0 else "apart",
        wider=(one.low_corrected, one.high_corrected),
    )
