"""From a heat map to masks and boxes in the file's own pixels: resize, then segment, then take apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from lesioncam.functional.boxes import component_boxes
from lesioncam.geometry import Geometry
from lesioncam.lookup import find
from lesioncam.segmentation.evidence import Evidence
from lesioncam.segmentation.threshold import threshold
from lesioncam.types import Calibration, Component, Heatmap, Segmentation, Threshold

__all__ = ["SEGMENTERS", "Segmenter", "binarise", "segment"]


class Segmenter(Protocol):
    """From the evidence for each class to its mask."""

    def __call__(
        self, evidence: Evidence, image: np.ndarray | None, valid: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        """Masks ``(K, *S)`` bool; nothing outside ``valid``, and nothing where no probability reaches its level.

        Args:
            evidence: K maps, on the image's own grid or on the network's.
            image: pixels ``(*S)`` or ``(*S, C)`` on the same grid, for those that follow edges; None where not at hand.
            valid: ``(*S)`` bool, the pixels that the network saw.
            levels: K thresholds on the scale of probabilities.
        """
        ...


SEGMENTERS: dict[str, Segmenter] = {"threshold": threshold}
"""Every segmenter by its name."""


def segment(
    heatmap: Heatmap,
    thresholds: Sequence[Threshold],
    evidence: np.ndarray | None = None,
    *,
    image: np.ndarray | None = None,
    segmenter: str = "threshold",
) -> Segmentation:
    """Masks and boxes of one image, with one threshold per class.

    Args:
        heatmap: K maps with a calibrated scale.
        thresholds: K, on the probability scale.
        evidence: the raw maps on the image's own grid, where they are at hand already.
        image: the file's pixels, for segmenters that look at them.
        segmenter: one of :data:`SEGMENTERS`.

    Returns:
        Masks ``(K, *native)`` bool and their connected regions, largest first; not gated by the image score.

    Raises:
        LesioncamError: if the maps have no calibrated scale.
        ValueError: if the number of thresholds is not K.

    Example:
        >>> raw = np.array([[[4.0, -4.0], [-4.0, -4.0]]], np.float32)
        >>> h = Heatmap(raw, ("mass",), "cam", "head", Geometry.letterbox((4, 4), (4, 4)), Calibration.of_classifier(1))
        >>> segment(h, [Threshold(0.9)]).boxes("mass")
        [(0, 0, 1, 1)]
    """
    given = Evidence(heatmap.native() if evidence is None else evidence, heatmap.scale)
    levels = [each.value for each in thresholds]
    masks = find(segmenter, SEGMENTERS, "segmenter")(given, image, _seen(heatmap.geometry), levels)
    pairs = enumerate(zip(masks, given.raw, strict=True))
    parts = tuple(_parts(mask, values, given.scale.of_class(k)) for k, (mask, values) in pairs)
    return Segmentation(masks, heatmap.classes, tuple(thresholds), parts)


def _seen(geometry: Geometry) -> np.ndarray:
    """The native pixels that the network input shows, ``(*native)`` bool."""
    seen = np.zeros(geometry.native, dtype=bool)
    seen[tuple(slice(start, stop) for start, stop in geometry.crop)] = True
    return seen


def _parts(mask: np.ndarray, values: np.ndarray, scale: Calibration) -> tuple[Component, ...]:
    """The regions of a mask, their hottest values as probabilities."""
    parts = component_boxes(mask, values)
    if not parts:
        return ()
    peaks = scale.probability(np.array([[part.peak for part in parts]], dtype=np.float32))[0].tolist()
    return tuple(replace(part, peak=peak) for part, peak in zip(parts, peaks, strict=True))


def binarise(probability: np.ndarray, level: float) -> np.ndarray:
    """Where a map reaches a threshold, compared in double precision; NaN never does.

    Example:
        >>> binarise(np.array([0.5, np.nan, 0.4]), 0.5)
        array([ True, False, False])
    """
    return np.asarray(probability >= np.float64(level))
