"""The forest plot: where marks, intervals and words stand."""

from __future__ import annotations

import math

import pytest
from matplotlib.colors import to_hex

from lesioncam.reporting.figures.forest import LOOKS, Forest, Mark, forest_plot

pytestmark = pytest.mark.rendered


def axes_of(forest: Forest):
    plot = forest_plot("key", forest, "in words")
    return plot, plot.figure.axes[0]


def test_a_mark_lies_at_its_value_and_its_interval_between_its_ends():
    plot, axes = axes_of(Forest("Dice", [("mass", None), ("CAM", Mark(0.6, (0.5, 0.7), "0.600"))]))
    interval, mark = axes.get_lines()
    assert (list(interval.get_xdata()), list(interval.get_ydata())) == ([0.5, 0.7], [1, 1])
    assert (list(mark.get_xdata()), to_hex(mark.get_color())) == ([0.6], LOOKS["own"].colour)
    assert [text.get_text() for text in axes.texts] == ["0.600"]
    weights = {tick.get_text(): tick.get_fontweight() for tick in axes.get_yticklabels()}
    assert weights == {"mass": "bold", "CAM": "normal"}
    assert tuple(plot.figure.get_size_inches()) == pytest.approx((3.4, 0.75 + 0.2 * 2))


def test_what_has_no_value_is_said_in_its_place():
    _, axes = axes_of(Forest("Dice", [("CAM", Mark(math.nan, (0.5, 0.7), "undefined: no lesion mask"))]))
    assert axes.get_lines() == []
    assert [text.get_text() for text in axes.texts] == ["undefined: no lesion mask"]


def test_a_corrected_interval_is_thin_and_0_is_marked():
    mark = Mark(0.1, (0.05, 0.2), "+0.100", "apart", wider=(-0.1, 0.3))
    _, axes = axes_of(Forest("Difference", [("a − b", mark)], limits=(-0.5, 0.5)))
    zero, wide, own, _ = axes.get_lines()
    assert list(zero.get_xdata()) == [0, 0]
    assert (list(wide.get_xdata()), list(own.get_xdata())) == ([-0.1, 0.3], [0.05, 0.2])
    assert wide.get_linewidth() < own.get_linewidth()
