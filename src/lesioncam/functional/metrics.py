"""Numbers of a classifier and their intervals, vectorised over bootstrap draws.

One policy: what is undefined is NaN and never raises. Labels other than 0 and 1 (NaN, soft) and NaN scores take no
part. With ``weights (D, n)``, how often each row was drawn, a metric returns one value per draw, ``(D,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

__all__ = [
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "interval",
    "patient_weights",
    "pr_curve",
    "roc_curve",
    "weighted_mean",
    "weighted_ratio",
]

_CHUNK = 4_000_000
"""Largest number of weights turned into float64 at once (32 MB)."""


@overload
def auroc(scores: np.ndarray, labels: np.ndarray) -> float: ...
@overload
def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    r"""Area under the ROC curve: chance that a positive scores above a negative, ties counting half.

    .. math:: A = P(s_+ > s_-) + \tfrac{1}{2} P(s_+ = s_-)

    Args:
        scores: ``(n,)``, any monotone unit.
        labels: ``(n,)``, 1 positive, 0 negative; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN where a draw has one class only.

    Reference:
        Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.

    Example:
        >>> auroc(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 1, 0, 0]))    # pairs: 1, 1, 1/2, 1
        0.875
    """
    return _ranked(_auroc, scores, labels, weights)


@overload
def average_precision(scores: np.ndarray, labels: np.ndarray) -> float: ...
@overload
def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def average_precision(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    r"""Area under the precision-recall steps, equal scores grouped; the trapezoid over that curve is another number.

    .. math:: \mathrm{AP} = \sum_i P_i\,(R_i - R_{i-1})

    Args:
        scores: ``(n,)``, any monotone unit.
        labels: ``(n,)``, 1 positive, 0 negative; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN where a draw has no positive; constant scores give the prevalence.

    Reference:
        Davis & Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006.

    Example:
        >>> scores, truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])
        >>> round(average_precision(scores, truth), 6)                       # (1 + 2/3 + 3/4) / 3
        0.805556
    """
    return _ranked(_average_precision, scores, labels, weights)


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every point of the ROC curve, from "nobody is positive" to "everybody is".

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``, 1 or 0; other values take no part.

    Returns:
        ``fpr, tpr, thresholds``, each ``(g + 1,)`` for g distinct scores; ``score >= threshold`` is positive, the first
        threshold is infinite; a rate whose class is absent is NaN.

    Example:
        >>> fpr, tpr, _ = roc_curve(np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 1, 0, 0]))
        >>> fpr.tolist(), tpr.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    hits, alarms, levels = _curve(scores, labels)
    return _divide(alarms, alarms[-1]), _divide(hits, hits[-1]), levels


def pr_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every point of the precision-recall curve, from "nobody is positive" (precision 1 by convention) downwards.

    Args:
        scores: ``(n,)``.
        labels: ``(n,)``, 1 or 0; other values take no part.

    Returns:
        ``precision, recall, thresholds``, each ``(g + 1,)`` for g distinct scores, recall ascending; recall is NaN
        without a positive. ``sum(precision[1:] * diff(recall))`` is the average precision.

    Example:
        >>> precision, recall, _ = pr_curve(np.array([0.9, 0.8, 0.8]), np.array([1, 1, 0]))
        >>> precision.round(3).tolist(), recall.tolist()
        ([1.0, 1.0, 0.667], [0.0, 0.5, 1.0])
    """
    hits, alarms, levels = _curve(scores, labels)
    precision = _divide(hits, hits + alarms)
    precision[0] = 1.0
    return precision, _divide(hits, hits[-1]), levels


@overload
def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float: ...
@overload
def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def balanced_accuracy(
    predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean recall over the groups that occur in the truth.

    Args:
        predicted: ``(n,)`` group numbers.
        truth: ``(n,)`` group numbers, negative or NaN unknown.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN if no truth is known.

    Reference:
        Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR 2010.

    Example:
        >>> balanced_accuracy(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))      # (2/3 + 1) / 2
        0.8333333333333333
    """
    guess, true = np.asarray(predicted, dtype=float), np.asarray(truth, dtype=float)
    groups = np.unique(true[true >= 0])
    belongs = true[:, None] == groups
    recalls = weighted_ratio(belongs & (guess == true)[:, None], belongs, _rows(weights, len(true)))
    result = nan_mean(recalls)
    return result if weights is not None else float(result[0])


def patient_weights(patients: Sequence[str] | np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draw whole patients with replacement, each with all of its rows.

    Args:
        patients: ``(n,)``, who each row belongs to.
        rng: source of chance.
        draws: number of draws, D.

    Returns:
        ``(D, n)`` uint16: how often each row was drawn. Only the order in which patients first appear matters, not
        their names (digests differ from run to run) nor how many rows they have.

    Reference:
        Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8 (cluster bootstrap).

    Example:
        >>> patient_weights(["a", "a", "b"], np.random.default_rng(0), 2)
        array([[0, 0, 2],
               [1, 1, 1]], dtype=uint16)
    """
    names, first, owner = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    place = np.empty(len(names), dtype=np.intp)
    place[np.argsort(first)] = np.arange(len(names))
    out = np.empty((draws, len(owner)), dtype=np.uint16)
    column = place[owner]
    for row in out:
        row[:] = (
            np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[column] if len(names) else 0
        )
    return out


def weighted_ratio(parts: np.ndarray, wholes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of parts over sum of wholes, for every draw and column.

    Args:
        parts: ``(n, m)``.
        wholes: ``(n, m)``, not negative; a row with NaN in either takes no part.
        weights: ``(D, n)`` multiplicities.

    Returns:
        ``(D, m)`` float64; NaN where the wholes sum to 0.

    Example:
        >>> weighted_ratio(np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]]), np.array([[1, 1], [0, 1], [0, 0]]))[:, 0]
        array([0.33333333, 0.        ,        nan])
    """
    top, bottom = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    known = ~(np.isnan(top) | np.isnan(bottom))
    both = np.hstack([np.where(known, top, 0.0), np.where(known, bottom, 0.0)])
    sums = _by_chunk(lambda chunk: chunk @ both, weights, both.shape[1:])
    return _divide(sums[:, : top.shape[1]], sums[:, top.shape[1] :])


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of each column over the rows drawn, NaN left out.

    Args:
        values: ``(n, m)``.
        weights: ``(D, n)`` multiplicities.

    Returns:
        ``(D, m)`` float64; NaN where nothing was drawn.

    Example:
        >>> weighted_mean(np.array([[1.0], [3.0], [np.nan]]), np.array([[1, 1, 1], [0, 2, 0]]))[:, 0]
        array([2., 3.])
    """
    return weighted_ratio(values, np.where(np.isnan(values), np.nan, 1.0), weights)


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, NaN left out; NaN, without a warning, where nothing is defined."""
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(float))


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; draws in which the statistic was undefined (NaN) are left out.

    Args:
        values: ``(D,)``, one statistic per draw.
        level: share of the draws inside.

    Returns:
        Lower and upper end; NaN if no draw is defined.

    Example:
        >>> interval(np.arange(101.0), level=0.5)
        (25.0, 75.0)
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- ranking -----------------------------------------------------------------------------------------------------


def _ranked(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
) -> float | np.ndarray:
    """Sort once, then let ``statistic`` turn cumulative hits and alarms ``(D, g)`` into ``(D,)``."""
    known, order, last = _sorted(scores, labels)
    drawn = _rows(weights, len(np.asarray(scores)))
    if not len(order):
        result = np.full(len(drawn), np.nan)
    else:
        positive = np.asarray(labels)[known][order] == 1
        columns = np.flatnonzero(known)[order]
        result = _by_chunk(lambda chunk: statistic(*_cumulate(chunk[:, columns], positive, last)), drawn, ())
    return result if weights is not None else float(result[0])


def _sorted(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows count, their order from the highest score down, and where each group of equal scores ends."""
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    known = ((truth == 0) | (truth == 1)) & ~np.isnan(values)
    order = np.argsort(-values[known], kind="stable")
    ranked = values[known][order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, dtype=np.intp)
    return known, order, last


def _cumulate(weights: np.ndarray, positive: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at or above each distinct score, ``(D, g)`` each."""
    hits = np.cumsum(weights * positive, axis=1)[:, last]
    return hits, np.cumsum(weights, axis=1)[:, last] - hits


def _curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known, order, last = _sorted(scores, labels)
    positive = np.asarray(labels)[known][order] == 1
    hits, alarms = _cumulate(np.ones((1, len(order))), positive, last)
    levels = np.asarray(scores, dtype=float)[known][order][last]
    return np.append(0.0, hits[0]), np.append(0.0, alarms[0]), np.append(np.inf, levels)


def _auroc(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Twice the trapezoids, in whole numbers until the last division."""
    doubled = (np.diff(alarms, axis=1, prepend=0.0) * (2 * hits - np.diff(hits, axis=1, prepend=0.0))).sum(1)
    return _divide(doubled, 2 * hits[:, -1] * alarms[:, -1])


def _average_precision(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    gained = np.diff(hits, axis=1, prepend=0.0)
    size = hits + alarms
    precision = np.divide(hits, size, out=np.zeros_like(size), where=size > 0)
    return _divide((precision * gained).sum(1), hits[:, -1])


# ---- shared ------------------------------------------------------------------------------------------------------


def _rows(weights: np.ndarray | None, rows: int) -> np.ndarray:
    return np.ones((1, rows)) if weights is None else np.asarray(weights)


def _by_chunk(compute: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``compute`` on a few draws at a time, so that memory stays small however many there are."""
    step = max(1, _CHUNK // max(1, weights.shape[1]))
    out = np.empty((len(weights), *shape))
    for start in range(0, len(weights), step):
        out[start : start + step] = compute(weights[start : start + step].astype(np.float64))
    return out


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole; NaN where the whole is 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    return np.asarray(np.divide(part, whole, out=np.full(shape, np.nan), where=np.asarray(whole) > 0))
