"""From raw values to what is shown and said: the scale of maps, and the probabilities of images."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.special import softmax as _softmax

from lesioncam.types import Calibration, Heatmap


def shown_scale(heatmap: Heatmap, evidence: np.ndarray) -> Calibration:
    """The scale on which maps are painted and cut: the calibrated one, otherwise each map's own range.

    Args:
        heatmap: K maps.
        evidence: the same on the image's own grid, ``(K, *native)``.
    """
    return heatmap.calibration or Calibration.own_range(evidence, heatmap.geometry)


def image_probabilities(logits: np.ndarray, scale: Calibration | None, *, softmax: bool) -> np.ndarray:
    """Image probabilities of one image or of many.

    Args:
        logits: ``(K,)`` or ``(n, K)``.
        scale: fitted on validation; None is the plain sigmoid or softmax.
        softmax: classes exclude each other: probabilities sum to 1, and a scale is a temperature, one for all classes.

    Returns:
        As ``logits``, float32.

    Example:
        >>> image_probabilities(np.log([1.0, 3.0]), None, softmax=True)
        array([0.25, 0.75], dtype=float32)
        >>> image_probabilities(np.array([0.0, 0.0]), None, softmax=False)
        array([0.5, 0.5], dtype=float32)
    """
    values = np.asarray(logits, dtype=np.float64)
    if softmax:
        sharp = 1.0 if scale is None else np.asarray(scale.scale)
        return np.asarray(_softmax(values * sharp, axis=-1), dtype=np.float32)
    if scale is None:
        return np.asarray(expit(values), dtype=np.float32)
    return scale.probability(values.T).T
