"""What every segmenter is given: raw maps of one image with the scale that makes probabilities of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesioncam.types import Calibration

__all__ = ["Evidence"]


@dataclass(frozen=True)
class Evidence:
    """Raw maps of one image, one per class, and their scale.

    Attributes:
        raw: ``(K, *S)`` float32.
        scale: from raw values to probabilities.
    """

    raw: np.ndarray
    scale: Calibration

    def probability(self) -> np.ndarray:
        """Probabilities ``(K, *S)`` float32."""
        return self.scale.probability(self.raw)

    def reaches(self, levels: Sequence[float]) -> np.ndarray:
        """Where the probability of each class reaches its level, ``(K, *S)`` bool; probabilities are not computed.

        Raises:
            ValueError: if the number of levels is not K.

        Example:
            >>> Evidence(np.float32([[-1.0, 1.0]]), Calibration.of_classifier(1)).reaches([0.5])
            array([[False,  True]])
        """
        pairs = enumerate(zip(self.raw, levels, strict=True))
        return np.stack([values >= self.scale.raw_level(k, level) for k, (values, level) in pairs])
