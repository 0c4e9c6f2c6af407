"""The whole way of an image, in one function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import expit

from lesioncam.data.io import read_image, validate_image
from lesioncam.errors import RunError
from lesioncam.explanation.cam import METHODS
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.segmentation.mask import segment
from lesioncam.types import CaseResult, Threshold

__all__ = ["analyse", "decisions_of", "look", "probabilities_of", "thresholds_of"]


def analyse(
    classifier: TrainedClassifier,
    image: str | Path | np.ndarray,
    *,
    name: str | None = None,
    threshold: str | float = "val",
) -> CaseResult:
    """File -> pixels -> network input -> logits and heat map -> masks and boxes in the file's own pixels.

    Args:
        classifier: from :func:`lesioncam.load`.
        image: a file (``file#index`` for one of several) or a decoded image ``(H, W)`` or ``(H, W, C)``.
        name: what to call it; by default the file's name.
        threshold: ``val`` (chosen on validation), ``default`` (.5), or a probability.

    Raises:
        ImageError: if the image cannot be read or used.
        RunError: if thresholds of validation are asked for and none were chosen.
    """
    return look(classifier, image, name=name, threshold=threshold)[0]


def look(
    classifier: TrainedClassifier,
    image: str | Path | np.ndarray,
    *,
    name: str | None = None,
    threshold: str | float = "val",
) -> tuple[CaseResult, np.ndarray]:
    """As :func:`analyse`, and with it the raw maps on the image's own grid, ``(K, *native)``, for whoever goes on."""
    source = name or (str(image) if isinstance(image, str | Path) else "image")
    pixels = image if isinstance(image, np.ndarray) else read_image(str(image))
    validate_image(pixels, source)
    sample = classifier.preprocess(pixels, source)
    method = find(classifier.card.config.map, METHODS, "map method")
    logits, heatmap, features = method(classifier, sample)
    evidence = heatmap.native()
    segmentation = segment(heatmap, thresholds_of(classifier, threshold), evidence)
    found = CaseResult(
        id=name or Path(source).name,
        image=source,
        classes=classifier.classes,
        logits=logits,
        probabilities=probabilities_of(classifier, logits),
        decisions=decisions_of(classifier),
        heatmap=heatmap,
        segmentation=segmentation,
        features=features,
    )
    return found, evidence


def probabilities_of(classifier: TrainedClassifier, logits: np.ndarray) -> np.ndarray:
    """Image probabilities ``(K,)``: the sigmoid, or what was fitted on validation."""
    scale = classifier.card.image_calibration
    if scale is None:
        return np.asarray(expit(logits.astype(np.float64)), dtype=np.float32)
    return scale.probability(logits.astype(np.float64))


def thresholds_of(classifier: TrainedClassifier, threshold: str | float = "val") -> tuple[Threshold, ...]:
    """One map threshold per class, and where it comes from.

    Raises:
        RunError: if the model was never calibrated.
    """
    count = len(classifier.classes)
    if threshold == "default":
        return (Threshold(0.5, "default"),) * count
    if not isinstance(threshold, str):
        return (Threshold(float(threshold), "given"),) * count
    if classifier.card.thresholds is None:
        raise RunError(
            "this model has no thresholds yet; run `lesioncam run ... --resume`, or use --threshold default (.5)."
        )
    return classifier.card.thresholds


def decisions_of(classifier: TrainedClassifier) -> tuple[Threshold, ...]:
    """One threshold on the image score per class; .5 where none was chosen."""
    return classifier.card.decisions or (Threshold(0.5, "default"),) * len(classifier.classes)
