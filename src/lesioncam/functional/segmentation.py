"""Masks: connected components, overlap by counting, and the counts at every threshold in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lesioncam.errors import GeometryError, OptionError

_BINS = 1 << 14
"""Entries of the table that turns scores into levels: 32 kB, so it stays in the processor's fastest memory."""


class Overlap(NamedTuple):
    """Pixel counts of a predicted mask against the truth; every score of a mask follows from these four integers.

    Example:
        >>> Overlap(both=2, predicted=3, truth=5, total=20).dice
        0.5
    """

    both: int
    predicted: int
    truth: int
    total: int

    @property
    def dice(self) -> float:
        """``2 I / (P + T)``; NaN if both masks are empty."""
        return _ratio(2 * self.both, self.predicted + self.truth)

    @property
    def iou(self) -> float:
        """``I / (P + T - I)``; NaN if both masks are empty."""
        return _ratio(self.both, self.predicted + self.truth - self.both)

    @property
    def sensitivity(self) -> float:
        """Share of the true pixels that were found; NaN if there are none."""
        return _ratio(self.both, self.truth)

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that are true; NaN if none is predicted."""
        return _ratio(self.both, self.predicted)

    @property
    def specificity(self) -> float:
        """Share of the other pixels that were left alone; NaN if there are none. Near 1 for any small lesion."""
        return _ratio(self.total - self.predicted - self.truth + self.both, self.total - self.truth)


class MaskCounts(NamedTuple):
    """Pixel counts of ``scores >= t`` against one mask, for every threshold ``t``; all int64.

    Attributes:
        predicted: ``(T,)``, pixels that reach each threshold.
        both: ``(T,)``, true ones among them.
        truth: true pixels.

    Example:
        >>> MaskCounts(np.array([3, 1, 0]), np.array([2, 1, 0]), 2).iou
        array([0.66666667, 0.5       , 0.        ])
    """

    predicted: np.ndarray
    both: np.ndarray
    truth: int

    @property
    def dice(self) -> np.ndarray:
        """``2 I / (P + T)``, ``(T,)``; NaN where both masks are empty."""
        return _ratios(2 * self.both, self.predicted + self.truth)

    @property
    def iou(self) -> np.ndarray:
        """``I / (P + T - I)``, ``(T,)``; NaN where both masks are empty."""
        return _ratios(self.both, self.predicted + self.truth - self.both)


def components(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of a mask, diagonal neighbours included.

    Args:
        mask: ``(*S)`` bool, 2D or 3D.

    Returns:
        ``(*S)`` int32: 0 outside, 1, 2, ... in scanning order.

    Example:
        >>> components(np.array([[True, False, False], [False, True, False], [False, False, False]])).max()
        np.int32(1)
    """
    labels, _ = ndimage.label(np.asarray(mask, dtype=bool), np.ones((3,) * np.ndim(mask)))
    return np.asarray(labels, dtype=np.int32)


def overlap_counts(predicted: np.ndarray, truth: np.ndarray) -> Overlap:
    """Count the pixels two masks have alone and in common.

    Args:
        predicted: ``(*S)`` bool.
        truth: ``(*S)`` bool.

    Raises:
        GeometryError: if the masks differ in size.

    Example:
        >>> overlap_counts(np.array([True, True, False]), np.array([False, True, True])).iou
        0.3333333333333333
    """
    _same_grid(predicted, truth)
    found, true = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    count = np.count_nonzero
    return Overlap(int(count(found & true)), int(count(found)), int(count(true)), found.size)


def dice_at_thresholds(scores: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    r"""Dice of ``scores >= t`` against a mask for every threshold ``t``, exact, in one pass over the pixels.

    .. math:: D(t) = \frac{2\,|\{s \ge t\} \cap T|}{|\{s \ge t\}| + |T|}

    Args:
        scores: ``(*S)``, any unit; NaN never reaches a threshold.
        truth: ``(*S)`` bool.
        thresholds: ``(T,)`` ascending, in the unit of the scores.

    Returns:
        ``(T,)`` float64; NaN where neither the prediction nor the truth has a pixel.

    Raises:
        GeometryError: if scores and truth differ in size.

    Reference:
        Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020 (cumulative counts).

    Example:
        >>> dice_at_thresholds(np.array([0.1, 0.6, 0.9]), np.array([False, True, True]), np.array([0.0, 0.5, 0.95]))
        array([0.8, 1. , 0. ])
    """
    return mask_counts_at_thresholds(scores, truth, thresholds).dice


def mask_counts_at_thresholds(scores: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> MaskCounts:
    """Pixel counts of ``scores >= t`` against a mask for every threshold ``t``, exact: two sorts, no loop.

    For one map and many masks, `threshold_levels` once and `counts_from_levels` per mask are cheaper.

    Args:
        scores: ``(*S)``, any unit, compared in float64; NaN never reaches a threshold.
        truth: ``(*S)`` bool.
        thresholds: ``(T,)`` ascending, in the unit of the scores.

    Raises:
        GeometryError: if scores and truth differ in size.
        OptionError: if the thresholds do not ascend.

    Example:
        >>> scores, truth = np.array([0.1, 0.6, 0.9]), np.array([False, True, True])
        >>> found = mask_counts_at_thresholds(scores, truth, np.array([0.0, 0.7]))
        >>> found.predicted, found.both, found.truth
        (array([3, 1]), array([2, 1]), 2)
    """
    _same_grid(scores, truth)
    limits = _ascending(thresholds)
    flat, true = np.ravel(scores), np.ravel(np.asarray(truth, dtype=bool))
    return MaskCounts(_reaching(flat, limits), _reaching(flat[true], limits), int(np.count_nonzero(true)))


def threshold_levels(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many thresholds each pixel reaches; pixel ``x`` is in the mask of threshold ``i`` where ``levels > i``.

    Args:
        scores: ``(*S)``, any unit, compared in float64; NaN reaches none.
        thresholds: ``(T,)`` ascending, T at most 65,535.

    Returns:
        ``(*S)`` uint16.

    Raises:
        OptionError: if the thresholds do not ascend or are too many.

    Example:
        >>> threshold_levels(np.array([0.1, 0.5, np.nan]), np.array([0.0, 0.5, 0.9]))
        array([1, 2, 0], dtype=uint16)
    """
    limits = _ascending(thresholds)
    if len(limits) > np.iinfo(np.uint16).max:
        raise OptionError(f"{len(limits)} thresholds were asked for, expected at most 65,535; take a coarser grid.")
    values = np.asarray(scores)
    flat = np.ravel(values) if values.dtype in (np.float32, np.float64) else np.ravel(values).astype(np.float64)
    steps = _no_lower(limits, flat.dtype)
    levels = _by_table(flat, steps) if flat.size > 4 * _BINS else _by_search(flat, steps)
    return levels.reshape(values.shape)


def counts_from_levels(levels: np.ndarray, truth: np.ndarray, count: int) -> MaskCounts:
    """`mask_counts_at_thresholds` of a map whose `threshold_levels` are known.

    Args:
        levels: ``(*S)`` uint16, at most ``count``.
        truth: ``(*S)`` bool.
        count: number of thresholds, T.

    Raises:
        GeometryError: if levels and truth differ in size.

    Example:
        >>> levels = threshold_levels(np.array([0.1, 0.6, 0.9]), np.array([0.0, 0.7]))
        >>> counts_from_levels(levels, np.array([False, True, True]), 2).both
        array([2, 1])
    """
    _same_grid(levels, truth)
    true = np.ravel(levels)[np.ravel(np.asarray(truth, dtype=bool))]
    return MaskCounts(_above(np.ravel(levels), count), _above(true, count), true.size)


# ---- levels and counts -------------------------------------------------------------------------------------------


def _ascending(thresholds: np.ndarray) -> np.ndarray:
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.ndim != 1 or np.isnan(limits).any() or (limits[1:] < limits[:-1]).any():
        raise OptionError("thresholds must be one row of numbers that ascend; sort them first.")
    return limits


def _reaching(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How many values reach each limit."""
    ranked = np.sort(values)
    known = np.searchsorted(ranked, np.nan) if ranked.dtype.kind == "f" else len(ranked)  # NaN sorts last
    return np.asarray(known - np.searchsorted(ranked[:known], limits), dtype=np.int64)


def _above(levels: np.ndarray, count: int) -> np.ndarray:
    counts = np.bincount(levels, minlength=count + 1)
    return np.asarray(counts[::-1].cumsum()[::-1][1 : count + 1])


def _no_lower(limits: np.ndarray, kind: np.dtype) -> np.ndarray:
    """The least numbers of a kind that are not below the limits: a score of that kind reaches both or none."""
    with np.errstate(over="ignore"):
        near = limits.astype(kind)
    return np.where(near < limits, np.nextafter(near, np.array(np.inf, kind)), near)


def _by_search(flat: np.ndarray, steps: np.ndarray) -> np.ndarray:
    levels = np.searchsorted(steps, flat, side="right").astype(np.uint16)
    levels[np.isnan(flat)] = 0
    return levels


def _by_table(flat: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Sort scores and steps into the same equal bins: only a score that shares its bin with a step is searched for."""
    finite = steps[np.isfinite(steps)]
    if not len(finite) or finite[0] == finite[-1]:
        return _by_search(flat, steps)
    low = finite[0]
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.asarray(_BINS / (finite[-1] - low), dtype=flat.dtype)
        if not 0 < scale < np.inf:
            return _by_search(flat, steps)
        bins, at = (np.fmin(np.fmax((x - low) * scale, 0), _BINS - 1).astype(np.uint16) for x in (flat, steps))
    taken = np.bincount(at, minlength=_BINS)
    levels = np.asarray(taken.cumsum().astype(np.uint16)[bins])
    near = np.flatnonzero((taken > 0)[bins])
    levels[near] = _by_search(flat[near], steps)
    levels[np.isnan(flat)] = 0
    return levels


def _ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _same_grid(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise GeometryError(
            f"map or mask is {np.shape(a)} but the truth is {np.shape(b)}; bring both to the image's own grid."
        )
