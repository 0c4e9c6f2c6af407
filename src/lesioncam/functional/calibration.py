"""From logits to probabilities one can believe: temperature, Platt, isotonic.

Labels other than 0 and 1 (NaN, soft) and logits that are not finite take no part. Weights ``(n,)`` are how often a row
counts, fractions allowed; a row of weight 0 takes no part. Where fewer than two rows, or one class only, are left there
is nothing to fit: None.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit, softmax

EPSILON = 1e-6
"""Isotonic probabilities stay this far from 0 and 1: a finite sample proves neither."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float | None:
    r"""The temperature with the smallest negative log-likelihood of ``sigmoid(logit / T)``.

    .. math:: T = \arg\min_T -\sum_i w_i \left[ y_i \log \sigma(z_i/T) + (1 - y_i) \log \sigma(-z_i/T) \right]

    The likelihood is convex in 1/T. Two cases have no minimum. Where the sign of every logit is already right, T would
    go to 0: there the labels are smoothed as in `fit_platt`, and T is at most 1, so that no probability moves away from
    its label. Where the logits are no better than chance, T would go to infinity: it is never above a hundred times the
    largest logit (or 1), where all probabilities are about a half.

    Args:
        logits: ``(n,)``.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(n,)``, not negative.

    Returns:
        T above 0, never with a worse likelihood than T = 1; 1 where all logits are 0; None with too little data.

    Reference:
        Guo et al., "On calibration of modern neural networks", ICML 2017.

    Example:
        >>> logits, labels = np.array([4.0, 4.0, 4.0, -4.0]), np.array([1, 1, 0, 0])      # said .98, right 3 of 4
        >>> round(fit_temperature(logits, labels), 3), round(float(4 / np.log(3)), 3)
        (3.641, 3.641)
        >>> fit_temperature(logits, np.ones(4)) is None
        True
    """
    known = _known(logits, labels, weights)
    if known is None:
        return None
    z, y, w = known
    size = float(np.abs(z).max())
    if size == 0:
        return 1.0
    separate = bool((z[y == 1] >= 0).all() and (z[y == 0] <= 0).all())
    x = z / size
    x[np.abs(x) < 1e-200] = 0.0  # or the bracket below overflows
    slope = _slope(x, _smoothed(y, w) if separate else y, w)
    # at the upper end every sigmoid is 0 or 1, so that only wrong signs (or smoothed targets) are left: slope above 0
    lowest, highest = np.log(0.01), np.log(1000.0 / np.abs(x[x != 0]).min())
    if slope(lowest) >= 0:
        return max(100.0 * size, 1.0)
    temperature = float(size * np.exp(-brentq(slope, lowest, highest, xtol=1e-12, maxiter=1000)))
    return min(temperature, 1.0) if separate else temperature


def fit_platt(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float] | None:
    r"""Scale and offset of ``sigmoid(scale * logit + offset)``, by maximum likelihood with Platt's targets.

    .. math:: t_+ = \frac{N_+ + 1}{N_+ + 2} \qquad t_- = \frac{1}{N_- + 2}

    stand for the labels 1 and 0 (N: summed weights of the class), so that separable data have a finite optimum.

    Args:
        logits: ``(n,)``.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(n,)``, not negative.

    Returns:
        ``(scale, offset)``; None with too little data. The scale is never negative, for a calibration must not reverse
        a ranking: where the best one would be, and for constant logits, it is 0 and the offset is the logit of the mean
        target.

    Reference:
        Platt, "Probabilistic outputs for support vector machines", 1999.

    Example:
        >>> scale, offset = fit_platt(np.array([-1.0, 1.0]), np.array([0, 1]))            # targets 1/3 and 2/3
        >>> round(scale, 4), round(abs(offset), 4), round(float(np.log(2)), 4)
        (0.6931, 0.0, 0.6931)
    """
    known = _known(logits, labels, weights)
    if known is None:
        return None
    z, y, w = known
    target = _smoothed(y, w)
    constant = 0.0, float(logit(np.average(target, weights=w)))
    # on a scale where the typical logit is about 1, so that one start and one tolerance suit all
    size = np.abs(z).max() or 1.0
    middle = np.average(z / size, weights=w)
    spread = np.sqrt(np.average((z / size - middle) ** 2, weights=w))
    x = z / size - middle
    if spread <= 1e-12 or (w * target * x).sum() <= 0:
        return constant
    # in units of the rarer class, or a tolerance would mean little where positives are one in ten thousand
    share = w / min(w[y == 1].sum(), w[y == 0].sum())
    scale, offset = _logistic(x / spread, target, share, start=constant[1])
    return float(scale / spread / size), float(offset - scale * middle / spread)


def fit_isotonic(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """The best non-decreasing probabilities, as knots of a line: ``numpy.interp(logit, x, y)``, constant outside.

    Args:
        logits: ``(n,)``.
        labels: ``(n,)``, 1 or 0; other values take no part.
        weights: ``(n,)``, not negative.

    Returns:
        ``x, y`` ``(m,)``: logits ascending and their probabilities, not descending and kept within `EPSILON` and
        1 - `EPSILON`; only the two ends of each level are listed. None with too little data.

    Reference:
        Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.

    Example:
        >>> x, y = fit_isotonic(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([0, 1, 0, 1, 1]))
        >>> x.tolist(), y.round(3).tolist()                      # -1 and 0 are in the wrong order: they share a level
        ([-2.0, -1.0, 0.0, 1.0, 2.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    from sklearn.isotonic import IsotonicRegression

    known = _known(logits, labels, weights)
    if known is None:
        return None
    z, y, w = known
    fitted = IsotonicRegression(y_min=EPSILON, y_max=1 - EPSILON).fit(z, y, sample_weight=w)
    return np.asarray(fitted.X_thresholds_, dtype=float), np.asarray(fitted.y_thresholds_, dtype=float)


def log_odds(logits: np.ndarray) -> np.ndarray:
    r"""Each class against all others: the numbers whose sigmoid is the softmax, without rounding to 0 or 1.

    .. math:: o_k = z_k - \log \sum_{j \ne k} \exp z_j

    Args:
        logits: ``(..., K)``, K at least 2, before the softmax.

    Returns:
        ``(..., K)``, in the same order within an image; unlike logits they compare between images.

    Example:
        >>> odds = log_odds(np.log([[1.0, 1.0, 2.0]]))
        >>> expit(odds)                                                                     # 1/4, 1/4, 2/4
        array([[0.25, 0.25, 0.5 ]])
    """
    values = np.asarray(logits)
    classes = values.shape[-1]
    others = np.broadcast_to(values[..., None, :], (*values.shape[:-1], classes, classes)).astype(float)
    rest = np.logaddexp.reduce(np.where(np.eye(classes, dtype=bool), -np.inf, others), axis=-1)
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(float)
    return np.asarray(values - rest, dtype=kind)


def fit_softmax_temperature(logits: np.ndarray, groups: np.ndarray) -> float | None:
    r"""The temperature with the smallest negative log-likelihood of ``softmax(logits / T)``, one for all classes.

    .. math:: T = \arg\min_T -\sum_i \log \mathrm{softmax}(z_i / T)_{y_i}

    As in `fit_temperature`: where every class is right already, labels are smoothed ((n + 1) / (n + 2) for the true
    class, the rest shared) and T is at most 1; where the logits are no better than chance, T is a hundred times the
    largest difference of logits (or 1).

    Args:
        logits: ``(n, K)``; rows that are not finite take no part.
        groups: ``(n,)`` number of the true class; negative is unknown.

    Returns:
        T above 0; None with fewer than two rows or one class only.

    Reference:
        Guo et al., "On calibration of modern neural networks", ICML 2017.

    Example:
        >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])           # said .98, right 3 of 4
        >>> round(fit_softmax_temperature(logits, np.array([0, 0, 1, 1])), 3)
        3.641
    """
    z, y = np.asarray(logits, dtype=float), np.asarray(groups)
    known = np.isfinite(z).all(axis=1) & (y >= 0)
    z, y = z[known] - z[known].max(axis=1, keepdims=True), y[known].astype(int)
    if len(np.unique(y)) < 2:
        return None
    size = float(np.abs(z).max())
    if size == 0:
        return 1.0
    count, classes = z.shape
    target = np.eye(classes)[y]
    separate = bool((z[np.arange(count), y] >= 0).all())
    if separate:
        target = target * (count + 1) / (count + 2) + (1 - target) / ((count + 2) * (classes - 1))
    x = z / size

    def slope(log_inverse: float) -> float:
        return float(((softmax(np.exp(log_inverse) * x, axis=1) - target) * x).sum(axis=1).mean())

    if slope(np.log(0.01)) >= 0:
        return max(100.0 * size, 1.0)
    highest = np.log(1000.0 / np.abs(x[x < -1e-200]).min())
    temperature = float(size * np.exp(-brentq(slope, np.log(0.01), highest, xtol=1e-12, maxiter=1000)))
    return min(temperature, 1.0) if separate else temperature


def _known(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The rows that take part, float64; None where there is nothing to fit."""
    z, y = np.asarray(logits, dtype=float), np.asarray(labels, dtype=float)
    w = np.ones(len(z)) if weights is None else np.asarray(weights, dtype=float)
    known = np.isfinite(z) & ((y == 0) | (y == 1)) & (w > 0)
    if len(np.unique(y[known])) < 2:
        return None
    return z[known], y[known], w[known]


def _smoothed(y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Platt's targets: what the labels would say after one more row of each class had been seen."""
    positive, negative = w[y == 1].sum(), w[y == 0].sum()
    return np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))


def _slope(z: np.ndarray, target: np.ndarray, w: np.ndarray) -> Callable[[float], float]:
    """Derivative of the mean negative log-likelihood by 1/T, as a function of log(1/T)."""
    share = w / w.sum()

    def at(log_inverse: float) -> float:
        return float((share * z * (expit(np.exp(log_inverse) * z) - target)).sum())

    return at


def _logistic(x: np.ndarray, target: np.ndarray, share: np.ndarray, start: float) -> np.ndarray:
    """Scale and offset of the smallest cross-entropy, ``(2,)``."""
    design = np.column_stack([x, np.ones_like(x)])

    def loss(at: np.ndarray) -> float:
        u = design @ at
        return float((share * (np.logaddexp(0.0, u) - target * u)).sum())

    def gradient(at: np.ndarray) -> np.ndarray:
        return np.asarray((share * (expit(design @ at) - target)) @ design)

    def curvature(at: np.ndarray) -> np.ndarray:
        p = expit(design @ at)
        return np.asarray((design.T * (share * p * (1 - p))) @ design)

    found = minimize(
        loss, np.array([0.0, start]), jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9}
    )
    return np.asarray(found.x)
