"""The rows of ``comparison.csv`` and ``differences.csv``, and how they are said in print."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from lesioncam.evaluation.compare import DIFFERENCES, VALUES
from lesioncam.reporting.words.words import number


@dataclass(frozen=True)
class RunEstimate:
    """One metric of one class of one run, with its 95 % interval and its place among the runs (NaN: none)."""

    metric: str
    label: str
    run: str
    value: float
    low: float
    high: float
    n: float
    rank_first: float
    rank_last: float
    letters: str

    @property
    def text(self) -> str:
        """The value."""
        return number(self.value)

    @property
    def interval(self) -> str:
        """From where to where; empty where there is no interval."""
        return f"{number(self.low)} to {number(self.high)}" if math.isfinite(self.low + self.high) else ""

    @property
    def rank(self) -> str:
        """A place or a range of places; empty where there is none."""
        if not math.isfinite(self.rank_first):
            return ""
        first, last = int(self.rank_first), int(self.rank_last)
        return f"rank {first}" if first == last else f"rank {first} to {last}"

    @property
    def best(self) -> bool:
        """Whether no other run is better beyond chance."""
        return self.rank_first == 1


@dataclass(frozen=True)
class Difference:
    """One metric of one class: a first run minus a second one; ``tie`` is 1, 0, or NaN where nothing can be said."""

    metric: str
    label: str
    run_a: str
    run_b: str
    difference: float
    low: float
    high: float
    low_corrected: float
    high_corrected: float
    p: float
    p_holm: float
    tie: float

    @property
    def pair(self) -> str:
        """Both runs."""
        return f"{self.run_a} − {self.run_b}"

    @property
    def verdict(self) -> str:
        """Tie, apart, or nothing to be said."""
        if math.isnan(self.tie):
            return "cannot be told"
        return "tie" if self.tie else "apart"

    @property
    def interval(self) -> str:
        """Of this pair alone."""
        return _ends(self.low, self.high)

    @property
    def corrected(self) -> str:
        """Of all pairs together."""
        return _ends(self.low_corrected, self.high_corrected)


def estimates_of(frame: pd.DataFrame) -> list[RunEstimate]:
    """The rows that have a value, in their order.

    Example:
        >>> row = ("dice", "macro", "a", 0.5, 0.4, 0.6, 9, 1, 2, "a")
        >>> [one] = estimates_of(pd.DataFrame([row], columns=list(VALUES)))
        >>> one.text, one.interval, one.rank, one.best
        ('0.500', '0.400 to 0.600', 'rank 1 to 2', True)
    """
    known = frame[frame["value"].notna()]
    return [RunEstimate(*row) for row in known[list(VALUES)].itertuples(index=False, name=None)]


def differences_of(frame: pd.DataFrame) -> list[Difference]:
    """The rows that have a difference, in their order.

    Example:
        >>> row = ("dice", "macro", "a", "b", -0.1, -0.2, 0.1, float("nan"), float("nan"), 0.2, 0.4)
        >>> rows = [(*row, tie) for tie in (1.0, 0.0, float("nan"))]
        >>> found = differences_of(pd.DataFrame(rows, columns=list(DIFFERENCES)))
        >>> [one.verdict for one in found], found[0].interval, found[0].corrected
        (['tie', 'apart', 'cannot be told'], '−0.200 to +0.100', 'no interval')
    """
    known = frame[frame["difference"].notna()]
    return [Difference(*row) for row in known[list(DIFFERENCES)].itertuples(index=False, name=None)]


def signed(value: float) -> str:
    """With a sign, a true minus, and no sign before nothing.

    Example:
        >>> [signed(value) for value in (0.1, -0.0204, -0.0001)]
        ['+0.100', '−0.020', '0.000']
    """
    said = f"{value:+.3f}"
    return "0.000" if said in ("+0.000", "-0.000") else said.replace("-", "−")


def p_text(value: float) -> str:
    """A p value as it is printed.

    Example:
        >>> p_text(0.0312), p_text(0.0002), p_text(float("nan"))
        ('0.031', '< 0.001', '–')
    """
    return "–" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _ends(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}" if math.isfinite(low + high) else "no interval"
