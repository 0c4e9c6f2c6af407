"""Masks: connected components, overlap by counting, and Dice at every threshold in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lesioncam.errors import GeometryError

__all__ = ["Overlap", "components", "dice_at_thresholds", "overlap_counts"]


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
    def specificity(self) -> float:
        """Share of the other pixels that were left alone; NaN if there are none. Near 1 for any small lesion."""
        return _ratio(self.total - self.predicted - self.truth + self.both, self.total - self.truth)


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
    _same_grid(scores, truth)
    flat, true = np.ravel(scores), np.ravel(np.asarray(truth, dtype=bool))
    reached = np.searchsorted(thresholds, flat, side="right")  # how many thresholds each pixel reaches
    reached[np.isnan(flat)] = 0
    predicted = _reaching(reached, len(thresholds))
    both = _reaching(reached[true], len(thresholds))
    size = predicted + np.count_nonzero(true)
    return np.asarray(np.divide(2 * both, size, out=np.full(len(thresholds), np.nan), where=size > 0))


def _reaching(reached: np.ndarray, thresholds: int) -> np.ndarray:
    counts = np.bincount(reached, minlength=thresholds + 1)
    return np.asarray(counts[::-1].cumsum()[::-1][1:])


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _same_grid(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise GeometryError(
            f"map or mask is {np.shape(a)} but the truth is {np.shape(b)}; bring both to the image's own grid."
        )
