"""Ways from evidence to masks, all with one signature. To add one: its function and its line in `SEGMENTERS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lesioncam.types import Calibration, Threshold


@dataclass(frozen=True)
class Evidence:
    """What a segmenter cuts masks from, on the image's own grid.

    Attributes:
        raw: ``(K, *native)`` float32, raw maps.
        scale: from raw values to what thresholds are on.
        thresholds: one per class.
    """

    raw: np.ndarray
    scale: Calibration
    thresholds: tuple[Threshold, ...]

    def probability(self) -> np.ndarray:
        """The maps on their scale, ``(K, *native)`` float32 in [0, 1]."""
        return self.scale.probability(self.raw)


Segmenter = Callable[[Evidence, np.ndarray | None, np.ndarray], np.ndarray]
"""``(evidence, image, valid) -> masks``: the picture's pixels ``(*native)`` or ``(*native, C)`` (None where they are
not at hand), the pixels that the network saw, ``(*native)`` bool; masks are ``(K, *native)``
bool and empty outside ``valid``."""


def threshold_masks(evidence: Evidence, _image: np.ndarray | None, valid: np.ndarray) -> np.ndarray:
    """Where a map reaches the threshold of its class; compared as raw values, so that no probability is computed.

    Example:
        >>> evidence = Evidence(np.float32([[[-1, 0, 2]]]), Calibration.of_classifier(1), (Threshold(0.5),))
        >>> threshold_masks(evidence, None, np.array([[True, True, False]])).tolist()
        [[[False, True, False]]]
    """
    pairs = enumerate(zip(evidence.raw, evidence.thresholds, strict=True))
    masks = np.stack([values >= evidence.scale.raw_level(k, cut.value) for k, (values, cut) in pairs])
    return np.asarray(masks & valid)


SEGMENTERS: dict[str, Segmenter] = {"threshold": threshold_masks}
"""Every segmenter by its name."""
