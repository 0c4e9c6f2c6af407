"""From a heat map to masks and boxes in the file's own pixels: resize, then threshold, then take apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesioncam.functional.boxes import component_boxes
from lesioncam.types import Heatmap, Segmentation, Threshold

__all__ = ["binarise", "segment"]


def segment(heatmap: Heatmap, thresholds: Sequence[Threshold]) -> Segmentation:
    """Cut the probability maps of one image at one threshold per class.

    Args:
        heatmap: K maps with a calibrated scale.
        thresholds: K, on the probability scale.

    Returns:
        Masks ``(K, *native)`` bool and their connected regions, largest first; not gated by the image score.

    Raises:
        LesioncamError: if the maps have no calibrated scale.
        ValueError: if the number of thresholds is not K.

    Example:
        >>> from lesioncam.geometry import Geometry
        >>> from lesioncam.types import Calibration
        >>> raw = np.array([[[4.0, -4.0], [-4.0, -4.0]]], np.float32)
        >>> h = Heatmap(raw, ("mass",), "cam", "head", Geometry.letterbox((4, 4), (4, 4)), Calibration.of_classifier(1))
        >>> segment(h, [Threshold(0.9)]).boxes("mass")
        [(0, 0, 1, 1)]
    """
    probability = heatmap.probability()
    pairs = list(zip(probability, thresholds, strict=True))
    masks = np.stack([binarise(values, threshold.value) for values, threshold in pairs])
    parts = tuple(tuple(component_boxes(mask, values)) for mask, values in zip(masks, probability, strict=True))
    return Segmentation(masks, heatmap.classes, tuple(thresholds), parts)


def binarise(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map reaches a threshold, compared in double precision; NaN never does.

    Example:
        >>> binarise(np.array([0.5, np.nan, 0.4]), 0.5)
        array([ True, False, False])
    """
    return np.asarray(probability >= np.float64(threshold))
