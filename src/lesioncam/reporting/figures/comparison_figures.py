"""Plots of a comparison: every run's value with its interval, and every pair's difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from lesioncam.evaluation.compare import COMPARED
from lesioncam.evaluation.metric import title_of
from lesioncam.reporting.figures.figures import COLOURS, MUTED, Plot, make_plot
from lesioncam.reporting.words.words import number

__all__ = ["difference_plots", "heading", "signed", "value_plots", "verdict"]

LINES = 60
"""A longer plot shows the mean of the classes only."""

Row = Mapping[Any, Any]


def value_plots(estimates: pd.DataFrame) -> list[Plot]:
    """One forest plot per metric: per class, then the mean of classes; letters beside the numbers mark ties."""
    return [plot for metric in COMPARED if (plot := _value_plot(metric, estimates)) is not None]


def difference_plots(differences: pd.DataFrame) -> list[Plot]:
    """One plot per metric: the difference of every pair of runs, for the mean of the classes (else the only one)."""
    return [plot for metric in COMPARED if (plot := _difference_plot(metric, differences)) is not None]


def heading(label: str) -> str:
    """How a class is called in print.

    Example:
        >>> heading("macro"), heading("any"), heading("mass")
        ('Mean of classes', 'Any class', 'mass')
    """
    return {"macro": "Mean of classes", "any": "Any class"}.get(label, label)


def _value_plot(metric: str, estimates: pd.DataFrame) -> Plot | None:
    rows = estimates[(estimates["metric"] == metric) & estimates["value"].notna()]
    rows = rows[rows["class"] != "macro"] if rows["class"].nunique() == 2 and "macro" in set(rows["class"]) else rows
    rows = rows if len(rows) + rows["class"].nunique() <= LINES else rows[rows["class"] == "macro"]
    if rows.empty:
        return None
    lines: list[tuple[str, Row | None]] = []
    for label, part in rows.groupby("class", sort=False):
        lines += [(heading(str(label)), None), *((str(row["run"]), row) for row in part.to_dict("records"))]
    title = f"{title_of(metric)} with 95 % interval"

    def draw(axes: Axes) -> None:
        for y, (_, row) in enumerate(lines):
            if row is not None:
                _interval(axes, y, (row["low"], row["high"]), 2.2)
                axes.plot([row["value"]], [y], "o", color=COLOURS[0], markersize=6, clip_on=False)
                beside = f"{number(row['value'])}  {row['letters']}"
                axes.text(1.04, y, beside, va="center", transform=axes.get_yaxis_transform(), clip_on=False)
        axes.set(xlim=(0, 1), title=title)
        _finish(axes, [name for name, _ in lines], [row is None for _, row in lines])

    said = [f"{name}: {number(row['value'])} {_range(row['low'], row['high'])}" if row else name for name, row in lines]
    return make_plot(f"values-{metric}", (3.4, 0.75 + 0.2 * len(lines)), draw, f"{title}. {'; '.join(said)}.")


def _difference_plot(metric: str, differences: pd.DataFrame) -> Plot | None:
    own = differences[(differences["metric"] == metric) & differences["difference"].notna()]
    rows = own[own["class"] == "macro"].to_dict("records")
    if not rows:
        return None
    names = [f"{row['run_a']} − {row['run_b']}" for row in rows]
    ends = [row[key] for row in rows for key in ("difference", "low_corrected", "high_corrected")]
    reach = max(0.02, 1.1 * max((abs(end) for end in ends if math.isfinite(end)), default=0.02))
    title = f"Difference of {title_of(metric)}, mean of classes"

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for y, row in enumerate(rows):
            colour = MUTED if row["tie"] != 0 else COLOURS[1]
            _interval(axes, y, (row["low_corrected"], row["high_corrected"]), 1.0, colour)
            _interval(axes, y, (row["low"], row["high"]), 2.6, colour)
            axes.plot([row["difference"]], [y], "o", color=colour, markersize=6)
            beside = f"{signed(row['difference'])}  {verdict(row)}"
            axes.text(1.04, y, beside, va="center", transform=axes.get_yaxis_transform(), clip_on=False)
        axes.set(xlim=(-reach, reach), title=title)
        _finish(axes, names, [False] * len(names))

    said = [f"{name}: {signed(row['difference'])}, {verdict(row)}" for name, row in zip(names, rows, strict=True)]
    return make_plot(f"differences-{metric}", (3.0, 0.75 + 0.24 * len(rows)), draw, f"{title}. {'; '.join(said)}.")


def verdict(row: Row) -> str:
    """Tie, apart, or nothing to be said.

    Example:
        >>> [verdict({"tie": tie}) for tie in (1.0, 0.0, float("nan"))]
        ['tie', 'apart', 'cannot be told']
    """
    if math.isnan(row["tie"]):
        return "cannot be told"
    return "tie" if row["tie"] else "apart"


def signed(value: float) -> str:
    """With a sign, a true minus, and no sign before nothing.

    Example:
        >>> [signed(value) for value in (0.1, -0.0204, -0.0001)]
        ['+0.100', '−0.020', '0.000']
    """
    said = f"{value:+.3f}"
    return "0.000" if said in ("+0.000", "-0.000") else said.replace("-", "−")


def _interval(axes: Axes, y: float, ends: tuple[float, float], width: float, colour: str = COLOURS[0]) -> None:
    if math.isfinite(ends[0] + ends[1]):
        axes.plot(ends, [y, y], color=colour, linewidth=width, solid_capstyle="butt")


def _finish(axes: Axes, names: Sequence[str], headings: Sequence[bool]) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", length=0)
    for tick, bold in zip(axes.get_yticklabels(), headings, strict=True):
        tick.set_fontweight("bold" if bold else "normal")
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _range(low: float, high: float) -> str:
    return f"({number(low)} to {number(high)})" if math.isfinite(low + high) else "(no interval)"
