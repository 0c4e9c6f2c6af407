"""Numbers of a classifier and their intervals, vectorised over bootstrap draws.

One policy: what is undefined is NaN and never raises. Labels other than 0 and 1 (NaN, soft) and NaN scores take no
part. With ``weights (D, n)``, how often each row was drawn, a metric returns one value per draw, ``(D,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, overload

import numpy as np

from lesioncam.errors import OptionError

_CHUNK = 4_000_000
"""Largest number of weights turned into float64 at once (32 MB)."""


class ReliabilityCurve(NamedTuple):
    """What was said against what happened, one entry per bin that holds rows, ascending.

    Attributes:
        mean: mean probability of the bin.
        frequency: share of positives in it.
        count: how many rows it holds, int64.
    """

    mean: np.ndarray
    frequency: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # a tuple's own count() is of no use here


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


@overload
def sensitivity_at_specificity(scores: np.ndarray, labels: np.ndarray, specificity: float) -> float: ...
@overload
def sensitivity_at_specificity(
    scores: np.ndarray, labels: np.ndarray, specificity: float, weights: np.ndarray
) -> np.ndarray: ...
def sensitivity_at_specificity(
    scores: np.ndarray, labels: np.ndarray, specificity: float, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Highest sensitivity among the thresholds whose specificity is at least the wanted one; no interpolation.

    The threshold is taken from the rows it is judged on, as every point of a ROC curve is: a property of the ranking,
    not of a decision that was fixed beforehand.

    Args:
        scores: ``(n,)``, any monotone unit.
        labels: ``(n,)``, 1 positive, 0 negative; other values take no part.
        specificity: wanted share of negatives below the threshold, 0 to 1.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN where a draw has one class only; 0 where only "nobody is positive" is
        specific enough.

    Raises:
        OptionError: if the specificity is not within 0 and 1.

    Reference:
        Pepe, *The Statistical Evaluation of Medical Tests*, 2003, section 4.2 (points of the ROC curve).

    Example:
        >>> scores, truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])
        >>> sensitivity_at_specificity(scores, truth, 0.5), sensitivity_at_specificity(scores, truth, 1.0)
        (1.0, 0.3333333333333333)
    """
    if not 0 <= specificity <= 1:
        raise OptionError(f"specificity is {specificity}, expected a share from 0 to 1; give 0.9 for 90 %.")

    def best(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        negatives = alarms[:, -1:]
        # a quotient of whole numbers is the float nearest to it: .55 of 100 is reached by 55, which .55 * 100 is above
        reached = _divide(negatives - alarms, negatives) >= specificity
        found = _divide(np.where(reached, hits, 0.0).max(1), hits[:, -1])
        return np.where(negatives[:, 0] > 0, found, np.nan)

    return _ranked(best, scores, labels, weights)


@overload
def f1_score(predicted: np.ndarray, labels: np.ndarray) -> float: ...
@overload
def f1_score(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def f1_score(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    r"""Harmonic mean of precision and recall of decisions.

    .. math:: F_1 = \frac{2\,TP}{2\,TP + FP + FN}

    Args:
        predicted: ``(n,)``, 1 (True) called positive, 0 (False) negative; other values take no part.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN where no row drawn is positive in truth.

    Reference:
        van Rijsbergen, *Information Retrieval*, 1979, chapter 7.

    Example:
        >>> f1_score(np.array([True, True, False, False]), np.array([1, 0, 0, 0]))       # 2 / (2 + 1 + 0)
        0.6666666666666666
    """
    decided = np.asarray(predicted, dtype=float)
    return _f_beta(np.where((decided == 0) | (decided == 1), decided, np.nan), labels, weights, beta=1.0)


@overload
def oracle_max_f1(scores: np.ndarray, labels: np.ndarray) -> float: ...
@overload
def oracle_max_f1(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def oracle_max_f1(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """The best F1 any threshold on these scores reaches: an upper bound, for it chooses on the rows it is judged on.

    Args:
        scores: ``(n,)``, any monotone unit.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw; each draw has its own best threshold.

    Returns:
        A float, or ``(D,)`` with weights; NaN where no row drawn is positive; at least ``2 pi / (1 + pi)`` at
        prevalence pi, which calling everybody positive reaches.

    Reference:
        Lipton et al., "Optimal thresholding of classifiers to maximize F1 measure", ECML 2014.

    Example:
        >>> scores, truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])
        >>> round(oracle_max_f1(scores, truth), 6)                           # from .6 up: 6 / (6 + 1 + 0)
        0.857143
    """
    return _ranked(_max_f1, scores, labels, weights)


@overload
def probabilistic_f1(probabilities: np.ndarray, labels: np.ndarray, *, beta: float = 1.0) -> float: ...
@overload
def probabilistic_f1(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, beta: float = 1.0
) -> np.ndarray: ...
def probabilistic_f1(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, beta: float = 1.0
) -> float | np.ndarray:
    r"""F-beta in which a probability counts as that share of a decision (pF1); decisions of 0 and 1 give the plain one.

    .. math:: pF_\beta = \frac{(1 + \beta^2) \sum p y}{\beta^2 \sum y + \sum p}

    It depends on the calibration, not on the ranking alone: halving every probability changes it.

    Args:
        probabilities: ``(n,)``, 0 to 1; NaN takes no part.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.
        beta: how many times recall counts as much as precision.

    Returns:
        A float, or ``(D,)`` with weights; NaN where no row drawn is positive, 0 where no positive has any probability.

    Reference:
        Yacouby & Axman, "Probabilistic extension of precision, recall, and F1 score", Eval4NLP 2020; metric of the
        RSNA mammography challenge 2023.

    Example:
        >>> constant, truth = np.full(4, 0.5), np.array([1, 0, 0, 0])        # 2 pi c / (pi + c), prevalence pi = 1/4
        >>> round(probabilistic_f1(constant, truth), 6), round(probabilistic_f1(np.ones(4), truth), 6)
        (0.333333, 0.4)
    """
    return _f_beta(probabilities, labels, weights, beta)


@overload
def kappa_quadratic(predicted: np.ndarray, truth: np.ndarray, grades: int) -> float: ...
@overload
def kappa_quadratic(predicted: np.ndarray, truth: np.ndarray, grades: int, weights: np.ndarray) -> np.ndarray: ...
def kappa_quadratic(
    predicted: np.ndarray, truth: np.ndarray, grades: int, weights: np.ndarray | None = None
) -> float | np.ndarray:
    r"""Agreement of two raters on ordered grades beyond chance; a miss of two grades costs four times one of one.

    .. math:: \kappa = 1 - \frac{\sum_{ij} (i-j)^2 O_{ij}}{\sum_{ij} (i-j)^2 E_{ij}}

    O counts the pairs of grades, E is what the two raters' own shares of each grade would give by chance. The usual
    divisor of the squares, (grades - 1) squared, cancels; for two grades this is Cohen's kappa.

    Args:
        predicted: ``(n,)`` grades 0 to ``grades - 1``; negative or NaN takes no part.
        truth: ``(n,)`` likewise.
        grades: how many there are.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; 0 where one rater is constant, NaN where both are and agree, or nothing is
        known.

    Raises:
        OptionError: if a grade is not a whole number below ``grades``.

    Reference:
        Cohen, "Weighted kappa", Psychological Bulletin 1968.

    Example:
        >>> kappa_quadratic(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]), 3)       # 2 * (4*5 - 5*3) / (4*14 - 2*5*3)
        0.38461538461538464
    """
    guess, true = np.asarray(predicted, dtype=float), np.asarray(truth, dtype=float)
    known = (guess >= 0) & (true >= 0)
    codes = np.append(guess[known], true[known])
    wrong = codes[(codes >= grades) | (codes != np.floor(codes))]
    if len(wrong):
        raise OptionError(
            f"a grade is {wrong[0]:g}, expected whole numbers from 0 to {grades - 1}; map the grades to codes first."
        )
    a, b = np.where(known, guess, 0.0), np.where(known, true, 0.0)
    sums = _sums(np.column_stack([known, a, b, a * b, a * a + b * b]), _rows(weights, len(a)))
    rows, first, second, product, squares = sums.T
    # whole numbers until the division, so that a constant rater gives 0 and not almost 0
    result = _divide(2 * (rows * product - first * second), rows * squares - 2 * first * second)
    return result if weights is not None else float(result[0])


@overload
def brier(probabilities: np.ndarray, labels: np.ndarray) -> float: ...
@overload
def brier(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def brier(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Mean squared distance of the probability from what happened, 0 (best) to 1.

    Args:
        probabilities: ``(n,)``, 0 to 1; NaN takes no part.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.

    Returns:
        A float, or ``(D,)`` with weights; NaN where nothing is known.

    Reference:
        Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950.

    Example:
        >>> brier(np.array([0.5, 1.0]), np.array([1, 0]))                            # (1/4 + 1) / 2
        0.625
    """
    p, y = _known_pairs(probabilities, labels, missing=np.nan)
    result = weighted_mean(((p - y) ** 2)[:, None], _rows(weights, len(p)))[:, 0]
    return result if weights is not None else float(result[0])


@overload
def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float: ...
@overload
def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = 15
) -> np.ndarray: ...
def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, bins: int = 15
) -> float | np.ndarray:
    r"""Mean distance between what was said and what happened, over bins that hold about equally many rows (ECE).

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\,|\bar p_b - \bar y_b|

    The bins are those of the rows as they are, the same in every draw, so that draws differ by the data alone; equal
    probabilities share a bin. With few rows per bin it is above 0 even for perfect probabilities.

    Args:
        probabilities: ``(n,)``, 0 to 1; NaN takes no part.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(D, n)`` multiplicities, one row per bootstrap draw.
        bins: how many at most; those that stay empty are passed over.

    Returns:
        A float, or ``(D,)`` with weights; NaN where nothing is known.

    Raises:
        OptionError: if there is not at least one bin.

    Reference:
        Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; equal-mass bins:
        Nguyen & O'Connor, "Posterior calibration and exploratory analysis for NLP models", EMNLP 2015.

    Example:
        >>> said, happened = np.array([0.1, 0.1, 0.7, 0.7]), np.array([0, 0, 1, 0])
        >>> round(expected_calibration_error(said, happened, bins=2), 6)             # (|.1 - 0| + |.7 - .5|) / 2
        0.15
    """
    p, y = _known_pairs(probabilities, labels, missing=np.nan)
    known = np.flatnonzero(~np.isnan(p))
    place = _equal_mass(p[known], bins)
    columns = np.zeros((len(p), bins + 1))
    columns[known, place] = p[known] - y[known]
    columns[known, bins] = 1.0
    sums = _sums(columns, _rows(weights, len(p)))
    result = _divide(np.abs(sums[:, :bins]).sum(1), sums[:, bins])
    return result if weights is not None else float(result[0])


def reliability_curve(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> ReliabilityCurve:
    """The bins of `expected_calibration_error`, to be drawn: said against happened, on the diagonal if calibrated.

    Args:
        probabilities: ``(n,)``, 0 to 1; NaN takes no part.
        labels: ``(n,)``, 1 or 0; other values take no part.
        bins: how many at most.

    Returns:
        Three arrays ``(b,)``, b the number of bins that hold rows (0 where nothing is known), lowest first.

    Raises:
        OptionError: if there is not at least one bin.

    Example:
        >>> curve = reliability_curve(np.array([0.1, 0.1, 0.7, 0.7]), np.array([0, 0, 1, 0]), bins=2)
        >>> curve.mean.tolist(), curve.frequency.tolist(), curve.count.tolist()
        ([0.1, 0.7], [0.0, 0.5], [2, 2])
    """
    p, y = _known_pairs(probabilities, labels, missing=np.nan)
    p, y = p[~np.isnan(p)], y[~np.isnan(p)]
    place = _equal_mass(p, bins)
    count = np.bincount(place, minlength=bins)
    said, happened = (np.bincount(place, values, bins)[count > 0] for values in (p, y))
    count = count[count > 0]
    return ReliabilityCurve(_divide(said, count), _divide(happened, count), count.astype(np.int64))


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


def _max_f1(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    positives = hits[:, -1:]
    return np.asarray(_divide(2 * hits, np.where(positives > 0, hits + alarms + positives, 0.0)).max(1))


# ---- probabilities -----------------------------------------------------------------------------------------------


def _known_pairs(values: np.ndarray, labels: np.ndarray, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, with ``missing`` in the rows that take no part."""
    said, truth = np.asarray(values, dtype=float), np.asarray(labels, dtype=float)
    known = ((truth == 0) | (truth == 1)) & ~np.isnan(said)
    return np.where(known, said, missing), np.where(known, truth, missing)


def _f_beta(
    probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, beta: float
) -> float | np.ndarray:
    p, y = _known_pairs(probabilities, labels)
    sums = _sums(np.column_stack([p * y, p, y]), _rows(weights, len(p)))
    caught, said, positive = sums.T
    result = np.where(caught > 0, _divide((1 + beta**2) * caught, beta**2 * positive + said), 0.0)
    result = np.where(positive > 0, result, np.nan)
    return result if weights is not None else float(result[0])


def _equal_mass(values: np.ndarray, bins: int) -> np.ndarray:
    """Which bin each value is in, ``(n,)``: equals stay together, by the middle of the ranks they take up."""
    if bins < 1:
        raise OptionError(f"{bins} bins were asked for, expected at least 1; 15 is usual.")
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    stop = count.cumsum()
    middle = ((2 * stop - count) * bins) // max(1, 2 * len(values))
    return np.asarray(middle[group])


# ---- shared ------------------------------------------------------------------------------------------------------


def _rows(weights: np.ndarray | None, rows: int) -> np.ndarray:
    return np.ones((1, rows)) if weights is None else np.asarray(weights)


def _sums(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of each column ``(n, m)`` over the rows drawn, ``(D, m)``."""
    return _by_chunk(lambda chunk: chunk @ columns, weights, columns.shape[1:])


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
