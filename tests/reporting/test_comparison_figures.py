"""Forest plots of a comparison: what they show is said in words."""

from __future__ import annotations

from dataclasses import replace

from lesioncam.reporting.comparison.rows import Difference, RunEstimate
from lesioncam.reporting.figures.comparison_figures import difference_plots, value_plots

MEAN = RunEstimate("dice", "macro", "a", 0.5, 0.4, 0.6, 9, 1, 2, "a")
GAP = Difference("dice", "macro", "a", "b", -0.1, -0.2, 0.1, -0.3, 0.2, 0.2, 0.4, 1.0)


def test_values_are_said_in_words():
    (plot,) = value_plots([MEAN, replace(MEAN, run="worse", value=0.1)])
    assert plot.key == "values-dice"
    assert plot.alt == (
        "Dice with 95 % interval. Mean of classes; a: 0.500 (0.400 to 0.600); worse: 0.100 (0.400 to 0.600)."
    )
    assert value_plots([]) == []


def test_of_one_class_the_mean_is_left_out():
    (plot,) = value_plots([replace(MEAN, label="mass"), MEAN])
    assert "mass; a: 0.500" in plot.alt
    assert "Mean of classes" not in plot.alt


def test_of_very_many_lines_the_mean_is_shown():
    (plot,) = value_plots([replace(MEAN, label=f"class {i}") for i in range(40)] + [MEAN])
    assert plot.alt.count("0.500") == 1
    assert value_plots([replace(MEAN, label=f"class {i}") for i in range(40)]) == []


def test_differences_are_of_the_mean_and_signed():
    (plot,) = difference_plots([GAP, replace(GAP, label="mass", difference=0.7)])
    assert plot.alt == "Difference of Dice, mean of classes. a − b: −0.100, tie."
