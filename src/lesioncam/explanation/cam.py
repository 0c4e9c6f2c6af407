"""Maps of a classifier of a run, by any method: the class maps that come with the logits, or what `explain` makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from lesioncam.explanation.explain import METHODS as ALL
from lesioncam.explanation.explain import explain
from lesioncam.models.backbone import memory_format
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier, shrink_valid
from lesioncam.options.poolings import AcamPool
from lesioncam.runs.card import ModelCard
from lesioncam.types import Calibration, ClassifierOutput, Heatmap, Sample

__all__ = ["LAYERLESS", "METHODS", "Explained", "Padded", "cam", "explained", "maps_are_logits"]

LAYERLESS = ("cam", "occlusion", "rise", "integrated_gradients", "smoothgrad", "clear")
"""Methods that look at no layer, or at one that is not for choosing."""


class Explained(NamedTuple):
    """Image logits ``(K,)``, the raw maps, and the features ``(C, h, w)`` the head saw, all of one pass."""

    logits: np.ndarray
    heatmap: Heatmap
    features: np.ndarray | None = None


class Padded(nn.Module):
    """A classifier of ours that knows where its input is padding, so that it can be explained like any other network.

    Args:
        network: ours.
        valid: ``(N, 1, *S)`` bool, True where the input shows image; one for all images where N is 1.
    """

    def __init__(self, network: Classifier, valid: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("valid", valid, persistent=False)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Logits and class maps of prepared images ``(M, C, *S)``."""
        inside: Tensor = self.valid  # type: ignore[assignment]
        return self.network(images, inside.expand(len(images), *inside.shape[1:]))


def cam(classifier: TrainedClassifier, sample: Sample) -> Explained:
    """Image logits and the class activation map, from one forward pass and no gradient.

    The head is a 1x1 convolution, so its output is the CAM with the bias spread over the map: the pooled map is the
    logit, and its sigmoid is a probability map on one scale for all images. Where attention along the axes pools
    (ACAM), the map is the attentional one as its option ``combine`` says; only for ``mean`` is that a map of logits.

    Args:
        classifier: in eval mode.
        sample: one prepared image.

    Returns:
        Logits ``(K,)`` float32, the raw map ``Heatmap.raw (K, h, w)`` float32, and the features.

    Raises:
        LesioncamError: for a network of somebody else that does not end in pooling and a linear layer.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.
    """
    if classifier.card.adopted is not None:
        return explained(classifier, sample, "cam")
    with torch.inference_mode():
        images = torch.from_numpy(sample.image)[None].contiguous(memory_format=memory_format(sample.image.ndim - 1))
        output = classifier(images, torch.from_numpy(sample.valid)[None, None])
    raw = output.maps[0].float().numpy()
    if classifier.card.config.preprocess.air == "padding":
        raw = _without_air(raw, sample)
    heatmap = Heatmap(
        raw, classifier.classes, "cam", "head", sample.geometry, _scale(classifier, "cam"), classifier.card.origin
    )
    features = None if output.features is None else output.features[0].float().numpy()
    return Explained(output.logits[0].float().numpy(), heatmap, features)


def _without_air(raw: np.ndarray, sample: Sample) -> np.ndarray:
    """Maps ``(K, *s)`` where air counts as padding: no label ever reached its cells, so they say nothing.

    They are as cold as the body's coldest cell; right beside the body half as far down, so that what lies at its edge
    does not fade.
    """
    inside = shrink_valid(torch.from_numpy(sample.valid)[None, None], tuple(raw.shape[1:]))[0, 0].numpy()
    distance, nearest = distance_transform_edt(~inside, return_indices=True)
    coldest = raw[:, inside].min(axis=1).reshape(-1, *(1,) * inside.ndim)
    around = np.where(distance < _BESIDE, (raw[(slice(None), *nearest)] + coldest) / 2, coldest)
    return np.where(inside, raw, around)


_BESIDE = 1.8
"""Cells: a neighbour along an edge or a corner, in 2D and 3D."""


def explained(
    classifier: TrainedClassifier, sample: Sample, method: str, options: Mapping[str, Any] | None = None
) -> Explained:
    """Image logits and the maps of any method, as :func:`lesioncam.explain` makes them.

    Args:
        classifier: in eval mode.
        sample: one prepared image.
        method: name of the map method.
        options: of the method.

    Returns:
        Logits ``(K,)`` float32 and the raw maps ``(K, *s)`` float32. They have a scale only where one was fitted for
        this very method.

    Raises:
        LesioncamError: as `explain`.
    """
    card, images = classifier.card, torch.from_numpy(sample.image)[None]
    if card.adopted is None:
        assert isinstance(classifier.network, Classifier)
        model: nn.Module = Padded(classifier.network, torch.from_numpy(sample.valid)[None, None])
        layer: str | None = None  # the features that the head sees
    else:
        model, layer = classifier.network, card.adopted.layer
    maps = explain(model, images, method, layer if method not in LAYERLESS else None, **(options or {}))
    raw = maps.raw[0].cpu().numpy()
    if card.adopted is None and card.config.preprocess.air == "padding":
        raw = _without_air(raw, sample)
    origin = None if raw.shape[1:] == sample.image.shape[1:] else card.origin
    heatmap = Heatmap(raw, classifier.classes, method, maps.layer, sample.geometry, _scale(classifier, method), origin)
    return Explained(maps.scores[0].cpu().numpy(), heatmap)


def _scale(classifier: TrainedClassifier, method: str) -> Calibration | None:
    """What was fitted for this method; class maps that are logits have the classifier's own sigmoid."""
    card = classifier.card
    if card.calibration is not None and card.config.map == method:
        return card.calibration
    return Calibration.of_classifier(len(card.classes)) if maps_are_logits(card, method) else None


def maps_are_logits(card: ModelCard, method: str) -> bool:
    """Whether the sigmoid of a map is a probability as it is: of class maps that were not multiplied by attentions.

    Example:
        >>> from lesioncam.options.poolings import AcamPool
        >>> from lesioncam.options.run import RunConfig
        >>> cards = [ModelCard(("mass",), RunConfig(pooling=AcamPool(combine=way))) for way in ("mean", "product")]
        >>> [maps_are_logits(card, "cam") for card in cards]
        [True, False]
    """
    pooling = card.config.pooling
    sharpened = card.adopted is None and isinstance(pooling, AcamPool) and pooling.combine != "mean"
    return method == "cam" and not sharpened


Method = Callable[[TrainedClassifier, Sample], Explained]

METHODS: dict[str, Method] = {**{name: partial(explained, method=name) for name in ALL}, "cam": cam}
"""Every map method by its name."""
