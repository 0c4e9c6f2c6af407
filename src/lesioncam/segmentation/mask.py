"""From a heat map to masks and boxes in the file's own pixels: resize, then threshold, then take apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lesioncam.functional.boxes import component_boxes
from lesioncam.lookup import find
from lesioncam.segmentation.segmenters import SEGMENTERS, Evidence
from lesioncam.types import Calibration, Component, Heatmap, Segmentation, Threshold


def segment(
    heatmap: Heatmap,
    thresholds: Sequence[Threshold],
    evidence: np.ndarray | None = None,
    image: np.ndarray | None = None,
    segmenter: str = "threshold",
) -> Segmentation:
    """Cut the maps of one image into masks and regions.

    Args:
        heatmap: K maps with a calibrated scale.
        thresholds: K, on the probability scale.
        evidence: the raw maps on the image's own grid, where they are at hand already.
        image: the picture's pixels, for a segmenter that looks at them.
        segmenter: a name of :data:`lesioncam.segmentation.segmenters.SEGMENTERS`.

    Returns:
        Masks ``(K, *native)`` bool and their connected regions, largest first; not gated by the image score.

    Raises:
        LesioncamError: if the maps have no calibrated scale.
        OptionError: for a segmenter that does not exist, with the nearest.
        ValueError: if the number of thresholds is not K.

    Example:
        >>> from lesioncam.geometry import Geometry
        >>> from lesioncam.types import Calibration
        >>> raw = np.array([[[4.0, -4.0], [-4.0, -4.0]]], np.float32)
        >>> h = Heatmap(raw, ("mass",), "cam", "head", Geometry.letterbox((4, 4), (4, 4)), Calibration.of_classifier(1))
        >>> segment(h, [Threshold(0.9)]).boxes("mass")
        [(0, 0, 1, 1)]
    """
    scale, native = heatmap.scale, heatmap.native() if evidence is None else evidence
    cut = find(segmenter, SEGMENTERS, "segmenter")
    masks = cut(Evidence(native, scale, tuple(thresholds)), image, heatmap.geometry.seen())
    parts = tuple(
        _parts(mask, values, scale.of_class(k)) for k, (mask, values) in enumerate(zip(masks, native, strict=True))
    )
    return Segmentation(masks, heatmap.classes, tuple(thresholds), parts)


def _parts(mask: np.ndarray, values: np.ndarray, scale: Calibration) -> tuple[Component, ...]:
    """The regions of a mask, their hottest values as probabilities."""
    parts = component_boxes(mask, values)
    if not parts:
        return ()
    peaks = scale.probability(np.array([[part.peak for part in parts]], dtype=np.float32))[0].tolist()
    return tuple(replace(part, peak=peak) for part, peak in zip(parts, peaks, strict=True))


def binarise(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map reaches a threshold, compared in double precision; NaN never does.

    Example:
        >>> binarise(np.array([0.5, np.nan, 0.4]), 0.5)
        array([ True, False, False])
    """
    return np.asarray(probability >= np.float64(threshold))
