"""Points of the reliability plot, from the rows of ``cases.csv``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from lesioncam.functional.metrics import brier, expected_calibration_error, reliability_curve

BINS = 15


class Reliability(NamedTuple):
    """Mean probability and share of positives per bin, both ``(B,)``, images per bin, and two errors of the whole."""

    predicted: np.ndarray
    observed: np.ndarray
    images: np.ndarray
    ece: float
    brier: float


def reliability(cases: pd.DataFrame, label: str, least: int = 1) -> Reliability | None:
    """Bins of equal mass over the images of one class whose label is known: fifteen, or as many as can be filled.

    Args:
        cases: rows of one method with the columns class, label (0, 1, other is left out) and probability.
        label: the class.
        least: images in a bin at least.

    Returns:
        None where no image has both a label and a probability, or all of them are fewer than ``least``.

    Example:
        >>> table = pd.DataFrame({"class": "mass", "label": [0, 1], "probability": [0.2, 0.7]})
        >>> found = reliability(table, "mass")
        >>> found.predicted.tolist(), found.observed.tolist(), round(found.ece, 3), round(found.brier, 3)
        ([0.2, 0.7], [0.0, 1.0], 0.25, 0.065)
    """
    rows = cases[cases["class"] == label]
    score, truth = rows["probability"].to_numpy(float), rows["label"].to_numpy(float)
    for bins in range(BINS, 0, -1):
        curve = reliability_curve(score, truth, bins)
        if not len(curve.count):
            return None
        if curve.count.min() >= least:
            error = expected_calibration_error(score, truth, bins=BINS)
            return Reliability(curve.mean, curve.frequency, curve.count, error, brier(score, truth))
    return None
