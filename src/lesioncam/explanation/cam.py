"""The map that comes with the logits: the class maps of the classifier's own head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.types import Calibration, Heatmap, Sample

__all__ = ["METHODS", "Explained", "cam"]


class Explained(NamedTuple):
    """Image logits ``(K,)``, the raw maps, and the features ``(C, h, w)`` the head saw, all of one pass."""

    logits: np.ndarray
    heatmap: Heatmap
    features: np.ndarray | None = None


def cam(classifier: TrainedClassifier, sample: Sample) -> Explained:
    """Image logits and the class activation map, from one forward pass and no gradient.

    The head is a 1x1 convolution, so its output is the CAM with the bias spread over the map: the pooled map is the
    logit, and its sigmoid is a probability map on one scale for all images.

    Args:
        classifier: in eval mode.
        sample: one prepared image.

    Returns:
        Logits ``(K,)`` float32, the raw map ``Heatmap.raw (K, h, w)`` float32, and the features.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """
    with torch.inference_mode():
        images = torch.from_numpy(sample.image)[None].contiguous(memory_format=torch.channels_last)
        output = classifier(images, torch.from_numpy(sample.valid)[None, None])
    scale = classifier.card.calibration or Calibration.of_classifier(len(classifier.classes))
    heatmap = Heatmap(
        raw=output.class_maps[0].float().numpy(),
        classes=classifier.classes,
        method="cam",
        layer="head",
        geometry=sample.geometry,
        calibration=scale,
        origin=classifier.card.origin,
    )
    features = None if output.features is None else output.features[0].float().numpy()
    return Explained(output.logits[0].float().numpy(), heatmap, features)


METHODS = {"cam": cam}
"""Every map method by its name."""
