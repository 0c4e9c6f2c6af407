"""The forest plot: estimates with their intervals, one under the other, under headings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from matplotlib.axes import Axes

from lesioncam.reporting.figures.plot import COLOURS, MUTED, PAPER, Plot, make_plot

MOST_LINES = 60
"""A longer forest shows the mean of the classes only."""

Kind = Literal["own", "control", "bound", "tie", "apart"]


class _Look(NamedTuple):
    """How a kind of estimate is drawn."""

    colour: str
    marker: str
    size: float
    width: float
    line: str = "-"
    fill: str | None = None


LOOKS: dict[Kind, _Look] = {
    "own": _Look(COLOURS[0], "o", 6.0, 2.2),
    "control": _Look(MUTED, "s", 4.0, 1.2),
    "bound": _Look(MUTED, "D", 5.0, 1.2, ":", PAPER),
    "tie": _Look(MUTED, "o", 6.0, 2.6),
    "apart": _Look(COLOURS[1], "o", 6.0, 2.6),
}
"""The method as a blue dot, a control as a grey square, a bound as a hollow diamond; a tie grey, a difference not."""


@dataclass(frozen=True)
class Mark:
    """One estimate.

    Attributes:
        value: NaN where there is none.
        interval: its ends; NaN where there is none.
        words: to the right of the axes; of an estimate without a value in its place.
        kind: how it is drawn.
        wider: ends of a corrected interval, drawn thin.
    """

    value: float
    interval: tuple[float, float]
    words: str
    kind: Kind = "own"
    wider: tuple[float, float] = (math.nan, math.nan)


@dataclass(frozen=True)
class Forest:
    """What a forest plot shows.

    Attributes:
        title: above it.
        lines: from top to bottom, a name and its estimate; a heading has none.
        limits: of the axis; where they lie on both sides of 0, a line marks it.
    """

    title: str
    lines: Sequence[tuple[str, Mark | None]]
    limits: tuple[float, float] = (0.0, 1.0)


def forest_plot(key: str, forest: Forest, alt: str, width: float = 3.4, step: float = 0.2) -> Plot:
    """Draw it.

    Args:
        key: the name of the plot.
        forest: what it shows.
        alt: the same in words.
        width: inches.
        step: inches from one line to the next.
    """
    lines = forest.lines

    def draw(axes: Axes) -> None:
        if forest.limits[0] < 0 < forest.limits[1]:
            axes.axvline(0, color=MUTED, linewidth=0.8)
        for y, (_, mark) in enumerate(lines):
            if mark is not None:
                _draw_mark(axes, y, mark)
        axes.set(xlim=forest.limits, ylim=(len(lines) - 0.4, -0.6), title=forest.title)
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        axes.tick_params(axis="y", length=0)
        for tick, (_, mark) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if mark is None else "normal")
        axes.grid(axis="x")
        axes.set_axisbelow(True)

    return make_plot(key, (width, 0.75 + step * len(lines)), draw, alt)


def _draw_mark(axes: Axes, y: float, mark: Mark) -> None:
    if not math.isfinite(mark.value):
        axes.text(0.02, y, mark.words, va="center", color=MUTED, fontsize=8)
        return
    look = LOOKS[mark.kind]
    for ends, width in ((mark.wider, 1.0), (mark.interval, look.width)):
        if math.isfinite(ends[0] + ends[1]):
            axes.plot(ends, [y, y], color=look.colour, linewidth=width, linestyle=look.line, solid_capstyle="butt")
    fill = look.fill or look.colour
    axes.plot([mark.value], [y], look.marker, color=look.colour, markersize=look.size, clip_on=False,
              markerfacecolor=fill)  # fmt: skip
    axes.text(1.04, y, mark.words, va="center", transform=axes.get_yaxis_transform(), clip_on=False)
