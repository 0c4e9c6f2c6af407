"""Where a map becomes a mask and a score a decision: thresholds, chosen on validation only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lesioncam.functional.segmentation import dice_at_thresholds
from lesioncam.options.operating_point import OperatingRule, parse_rule
from lesioncam.types import Threshold, Validation

DEFAULT = 0.5
"""The threshold where there is nothing to fit one on."""


def _thresholds() -> np.ndarray:
    """Even steps of .05 in logits, rounded to float32 so that comparing in single or double precision is the same."""
    logits = np.linspace(-12.0, 12.0, 481)
    return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32).astype(np.float64)


THRESHOLDS = _thresholds()
"""``(481,)`` ascending: sigmoid of -12 to 12 logits in steps of .05; the middle one is .5."""


class Fit(NamedTuple):
    """The best threshold of a class, the mean Dice it reached on validation, and over how many images."""

    value: float
    dice: float
    images: int


class DiceSearch:
    """Search one map threshold per class, the one with the highest mean per-image Dice, in one pass over the images.

    Maps come at native size: resize first, then threshold. Images without a lesion of the class take no part.

    Example:
        >>> search = DiceSearch(2)
        >>> search.add(0, np.array([0.1, 0.3, 0.9]), np.array([False, True, True]))
        >>> fit, nothing = search.best()              # all of (.1, .3] is perfect: its middle, in logits
        >>> round(fit.value, 2), fit.dice, fit.images, nothing
        (0.18, 1.0, 1, None)
    """

    def __init__(self, classes: int) -> None:
        """Prepare an empty search over ``classes`` classes."""
        self._sums = np.zeros((classes, len(THRESHOLDS)))
        self._images = [0] * classes

    def add(self, class_index: int, probability: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Args:
            class_index: which class.
            probability: ``(*native)``.
            truth: ``(*native)`` bool; an empty one is passed over.

        Raises:
            GeometryError: if map and mask differ in size.
        """
        dice = dice_at_thresholds(probability, truth, THRESHOLDS)
        if np.any(truth):
            self.add_curve(class_index, dice)

    def add_curve(self, class_index: int, dice: np.ndarray) -> None:
        """Add one image that has a lesion by its Dice at every one of `THRESHOLDS`, ``(481,)``."""
        self._sums[class_index] += dice
        self._images[class_index] += 1

    def best(self) -> list[Fit | None]:
        """Per class the best threshold, the middle of the plateau where several are equal; None without any mask."""
        return [_best(sums / max(1, n), n) for sums, n in zip(self._sums, self._images, strict=True)]


def fitted_thresholds(fits: Sequence[Fit | None], who: Validation) -> tuple[Threshold, ...]:
    """The result of a search as thresholds that remember whom they were chosen on; .5, ``default``, where nothing was.

    Args:
        fits: one per class, from `DiceSearch.best`.
        who: the validation images of the search.

    Example:
        >>> who = Validation(("a",), ("p1",), ("val",))
        >>> [(t.value, t.source) for t in fitted_thresholds([Fit(0.25, 0.9, 4), None], who)]
        [(0.25, 'val'), (0.5, 'default')]
    """
    return tuple(Threshold(fit.value, "val", who.tuned_on) if fit else Threshold(DEFAULT) for fit in fits)


def decision_threshold(probabilities: np.ndarray, labels: np.ndarray, rule: str | OperatingRule = "youden") -> float:
    r"""The image-score threshold that an operating rule picks on validation; "at or above" is positive.

    - ``youden``: highest sensitivity + specificity, the lowest threshold among equals;
    - ``sensitivity=0.9``: the highest threshold that still reaches the sensitivity;
    - ``specificity=0.9``: the lowest threshold that already reaches the specificity;
    - ``cost=5``: smallest :math:`5\,FN + FP`, at the prevalence of validation; the lowest threshold among equals.

    Args:
        probabilities: ``(n,)``; NaN takes no part.
        labels: ``(n,)``, 1 or 0; other values (unknown, soft) take no part.
        rule: as text, or from `parse_rule`.

    Returns:
        Half-way between two neighbouring scores, rounded to float32; except by ``youden`` it may also be the lowest
        score itself (everybody is positive) or the next float32 above the highest (nobody is). .5 with one class only,
        and where by ``youden`` no threshold is better than chance.

    Raises:
        OptionError: for a rule that does not exist or a value it cannot have.

    Reference:
        Youden, "Index for rating diagnostic tests", Cancer 1950; cost: Elkan, "The foundations of cost-sensitive
        learning", IJCAI 2001.

    Example:
        >>> scores, truth = np.array([0.125, 0.25, 0.75, 0.875]), np.array([0, 0, 1, 1])
        >>> decision_threshold(scores, truth)
        0.5
        >>> decision_threshold(np.array([0.2, 0.3]), np.array([1, 1]))
        0.5
        >>> decision_threshold(scores, np.array([0, 1, 0, 1]), "sensitivity=0.9")      # between .125 and .25
        0.1875
    """
    asked = parse_rule(rule) if isinstance(rule, str) else rule
    scores, truth = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    known = ((truth == 0) | (truth == 1)) & ~np.isnan(scores)
    levels, group = np.unique(scores[known], return_inverse=True)
    positives = np.bincount(group, truth[known] == 1, len(levels))
    negatives = np.bincount(group, truth[known] == 0, len(levels))
    if not positives.sum() or not negatives.sum():
        return DEFAULT
    # of the threshold "reaches level i", i = 0 (everybody) ... len(levels) (nobody): positives missed, negatives spared
    missed, spared = np.append(0.0, positives.cumsum()), np.append(0.0, negatives.cumsum())
    place = _place(asked, missed, spared)
    return DEFAULT if place is None else _at(levels, place)


def _place(rule: OperatingRule, missed: np.ndarray, spared: np.ndarray) -> int | None:
    """The level from which on scores are positive; None where the rule finds nothing."""
    wanted = rule.value or 0.0
    if rule.kind == "sensitivity":
        # quotients of whole numbers are the floats nearest to them, so that 9 of 10 is .9 exactly
        return int(np.flatnonzero((missed[-1] - missed) / missed[-1] >= wanted)[-1])
    if rule.kind == "specificity":
        return int(np.flatnonzero(spared / spared[-1] >= wanted)[0])
    if rule.kind == "cost":
        cost = wanted * missed + (spared[-1] - spared)
        return int(np.flatnonzero(cost <= cost.min() * (1 + 1e-12))[0])
    # whole numbers, so that equal values of J are equal: J * P * N; both ends have 0
    gain = spared * missed[-1] - missed * spared[-1]
    return int(gain.argmax()) if gain.max() > 0 else None


def _at(levels: np.ndarray, place: int) -> float:
    """A threshold that ``levels[place]`` reaches and the level below it does not."""
    if place == 0:
        lowest = np.float32(levels[0])
        return float(lowest if lowest <= levels[0] else np.nextafter(lowest, np.float32(-np.inf)))
    if place == len(levels):
        highest = np.float32(levels[-1])
        return float(highest if highest > levels[-1] else np.nextafter(highest, np.float32(np.inf)))
    return _between(levels[place - 1], levels[place])


def _between(low: float, high: float) -> float:
    """The middle, in float32, but never so close to ``low`` that ``low`` reaches it."""
    middle = float(np.float32((low + high) / 2))
    return middle if low < middle <= high else float(high)


def _best(mean: np.ndarray, images: int) -> Fit | None:
    if not images:
        return None
    start, stop = _longest_run(mean == mean.max())
    middle = (start + stop - 1) // 2
    return Fit(float(THRESHOLDS[middle]), float(mean[middle]), images)


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Half-open ends of the longest run of True, the first of equals."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    starts, stops = edges[::2], edges[1::2]
    longest = int((stops - starts).argmax())
    return int(starts[longest]), int(stops[longest])
