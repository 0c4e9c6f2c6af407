"""Maps of a classifier of a run, by any method: the class maps that come with the logits, or what `explain` makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from lesioncam.explanation.explain import explain
from lesioncam.functional.cam import FORMULAS
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier, shrink_valid
from lesioncam.models.layout import channels_last, device_of
from lesioncam.options.poolings import AcamPool
from lesioncam.runs.card import AdoptedCard, ModelCard
from lesioncam.types import Calibration, ClassifierOutput, Heatmap, Sample

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


def explain_samples(
    classifier: TrainedClassifier,
    samples: Sequence[Sample],
    method: str = "cam",
    options: Mapping[str, Any] | None = None,
) -> list[Explained]:
    """Image logits and the maps of any method, of a batch of prepared images, on the classifier's own device.

    An image gets the same logits and maps alone or in a batch, up to rounding (1e-5). ``cam`` of a classifier of ours
    is one forward pass and no gradient: the head is a 1x1 convolution, so its output is the CAM with the bias spread
    over the map; the pooled map is the logit, and its sigmoid is a probability map on one scale for all images. Where
    attention along the axes pools (ACAM), the map is the attentional one as its option ``combine`` says; only for
    ``mean`` is that a map of logits. Everything else is made as :func:`lesioncam.explain` makes it.

    Args:
        classifier: in eval mode, on any device.
        samples: prepared images of one size.
        method: name of the map method.
        options: of the method.

    Returns:
        One per sample, as float32 arrays: logits ``(K,)``, raw maps ``Heatmap.raw (K, *s)``, and for ``cam`` of a
        classifier of ours the features ``(C, *s)``. Maps have a scale only where one was fitted for this very method.

    Raises:
        LesioncamError: as `explain`; for ``cam`` if a network of somebody else does not end in pooling and a linear
            layer.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

    Example:
        >>> from lesioncam.models.classifier import build_classifier
        >>> from lesioncam.options.run import make_config
        >>> from lesioncam.runs.card import ClassifierCard
        >>> config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", size=64)
        >>> classifier = TrainedClassifier(build_classifier(config, 1), ClassifierCard(("mass",), config)).eval()
        >>> samples = [classifier.preprocess(np.random.default_rng(i).random((50, 60))) for i in range(3)]
        >>> [each.heatmap.raw.shape for each in explain_samples(classifier, samples)]
        [(1, 8, 8), (1, 8, 8), (1, 8, 8)]
    """
    if method == "cam" and not isinstance(classifier.card, AdoptedCard):
        return _class_maps(classifier, samples) if samples else []
    batches = [samples] if method in _ONE_PASS else [[sample] for sample in samples]
    return [each for batch in batches if batch for each in _explained(classifier, batch, method, options)]


_ONE_PASS = frozenset({"cam", *FORMULAS})
"""Methods that run the network once on the images as they are. The others run it on many versions of an image and fill
batches with those, image by image."""


def _class_maps(classifier: TrainedClassifier, samples: Sequence[Sample]) -> list[Explained]:
    """The class maps of a classifier of ours, with the logits and the features."""
    images, valid = _on_device(classifier, samples)
    with torch.inference_mode():
        output = classifier(channels_last(images), valid)
    logits, maps = output.logits.float().cpu().numpy(), output.maps.float().cpu().numpy()
    features = [None] * len(samples) if output.features is None else output.features.float().cpu().numpy()
    return [
        Explained(logits[n], _heatmap(classifier, maps[n], sample, "cam", "head"), features[n])
        for n, sample in enumerate(samples)
    ]


def _explained(
    classifier: TrainedClassifier, samples: Sequence[Sample], method: str, options: Mapping[str, Any] | None
) -> list[Explained]:
    """What `explain` makes of a batch."""
    card, model = classifier.card, classifier.network
    images, valid = _on_device(classifier, samples)
    if isinstance(model, Classifier):
        model = Padded(model, valid)
    layer = card.adopted.layer if isinstance(card, AdoptedCard) and method not in LAYERLESS else None
    maps = explain(model, images, method, layer, **(options or {}))
    logits, raw = maps.scores.cpu().numpy(), maps.raw.cpu().numpy()
    return [
        Explained(logits[n], _heatmap(classifier, raw[n], sample, method, maps.layer))
        for n, sample in enumerate(samples)
    ]


def _on_device(classifier: TrainedClassifier, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, *S)`` and which of their pixels are no padding ``(N, 1, *S)``, where the weights are."""
    device = device_of(classifier)
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    valid = torch.from_numpy(np.stack([sample.valid for sample in samples]))[:, None]
    return images.to(device), valid.to(device)


def _heatmap(classifier: TrainedClassifier, raw: np.ndarray, sample: Sample, method: str, layer: str) -> Heatmap:
    """One image's maps with their way home and their scale."""
    card = classifier.card
    if not isinstance(card, AdoptedCard) and card.config.preprocess.air == "padding":
        raw = _without_air(raw, sample)
    over_pixels = raw.shape[1:] == sample.image.shape[1:]
    origin = None if over_pixels else card.origin
    return Heatmap(raw, classifier.classes, method, layer, sample.geometry, _scale(classifier, method), origin)


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
        >>> from lesioncam.runs.card import ClassifierCard
        >>> cards = [ClassifierCard(("mass",), RunConfig(pooling=AcamPool(combine=way))) for way in ("mean", "product")]
        >>> [maps_are_logits(card, "cam") for card in cards]
        [True, False]
    """
    pooling = card.config.pooling
    own = not isinstance(card, AdoptedCard)
    return method == "cam" and not (own and isinstance(pooling, AcamPool) and pooling.combine != "mean")
