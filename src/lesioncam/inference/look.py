"""The whole way of an image, in one function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.special import softmax as _softmax

from lesioncam.data.io.image import read_image, validate_image
from lesioncam.errors import RunError
from lesioncam.explanation.cam import METHODS
from lesioncam.geometry import Geometry
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.segmentation.mask import segment
from lesioncam.types import Calibration, CaseResult, Heatmap, Threshold

__all__ = [
    "analyse",
    "decisions_of",
    "image_probabilities",
    "look",
    "probabilities_of",
    "shown_scale",
    "thresholds_of",
    "unit_scale",
]


def analyse(
    classifier: TrainedClassifier,
    image: str | Path | np.ndarray,
    *,
    name: str | None = None,
    threshold: str | float = "val",
    method: str | None = None,
) -> CaseResult:
    """File -> pixels -> network input -> logits and heat map -> masks and boxes in the file's own pixels.

    Args:
        classifier: from :func:`lesioncam.load`.
        image: a file (``file#index`` for one of several) or a decoded image ``(H, W)`` or ``(H, W, C)``.
        name: what to call it; by default the file's name.
        threshold: ``val`` (chosen on validation), ``default`` (.5), or a probability.
        method: map method; None is the one of the run. Thresholds and scale were chosen for that one only: masks of
            another method are cut at .5 (or the number given) of each map's own range, called ``default``.

    Raises:
        ImageError: if the image cannot be read or used.
        RunError: if thresholds of validation are asked for and none were chosen.
    """
    return look(classifier, image, name=name, threshold=threshold, method=method)[0]


def look(
    classifier: TrainedClassifier,
    image: str | Path | np.ndarray,
    *,
    name: str | None = None,
    threshold: str | float = "val",
    method: str | None = None,
) -> tuple[CaseResult, np.ndarray]:
    """As :func:`analyse`, and with it the raw maps on the image's own grid, ``(K, *native)``, for whoever goes on."""
    source = name or (str(image) if isinstance(image, str | Path) else "image")
    pixels = image if isinstance(image, np.ndarray) else read_image(str(image))
    validate_image(pixels, source)
    sample = classifier.preprocess(pixels, source)
    asked = method or classifier.card.config.map
    logits, heatmap, features = find(asked, METHODS, "map method")(classifier, sample)
    evidence = heatmap.native()
    if threshold == "val" and asked != classifier.card.config.map:
        threshold = "default"  # what was chosen, was chosen for another method
    scaled = replace(heatmap, calibration=shown_scale(heatmap, evidence))
    segmentation = segment(scaled, thresholds_of(classifier, threshold), evidence)
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
        task=classifier.card.config.task,
    )
    return found, evidence


def shown_scale(heatmap: Heatmap, evidence: np.ndarray) -> Calibration:
    """The scale on which maps are painted and cut: the calibrated one, otherwise each map's own range.

    Args:
        heatmap: K maps.
        evidence: the same on the image's own grid, ``(K, *native)``.
    """
    return heatmap.calibration or unit_scale(evidence, heatmap.geometry)


def unit_scale(evidence: np.ndarray, geometry: Geometry) -> Calibration:
    """Each map's own range as [0, 1], over the pixels that the network saw; a flat map becomes zeros.

    No probability: a healthy image looks as hot as a sick one on this scale. It is called ``unit`` wherever it is used.

    Args:
        evidence: raw maps on the image's own grid, ``(K, *native)``.
        geometry: says which pixels the network saw.

    Example:
        >>> whole = Geometry.letterbox((1, 3), (1, 3))
        >>> maps = np.array([[[2.0, 3.0, 4.0]], [[7.0, 7.0, 7.0]]], np.float32)
        >>> unit_scale(maps, whole).probability(maps)[:, 0].tolist()
        [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    seen = evidence[(slice(None), *(slice(a, b) for a, b in geometry.crop))].reshape(len(evidence), -1)
    knots = []
    for low, high in zip(seen.min(axis=1).tolist(), seen.max(axis=1).tolist(), strict=True):
        usable = np.isfinite(high - low) and high > low
        knots.append(((low, high), (0.0, 1.0)) if usable else ((0.0, 1.0), (0.0, 0.0)))
    count = len(knots)
    return Calibration((1.0,) * count, (0.0,) * count, "unit", tuple(knots), kind="unit")


def probabilities_of(classifier: TrainedClassifier, logits: np.ndarray) -> np.ndarray:
    """Image probabilities ``(K,)`` of logits ``(K,)``: the sigmoid or softmax, or what was fitted on validation."""
    card = classifier.card
    return image_probabilities(logits, card.image_calibration, softmax=card.config.softmax)


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
