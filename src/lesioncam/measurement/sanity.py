"""Do the maps of a run depend on what was learnt, and does the score depend on the places they name?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lesioncam.data.io.image import read_picture
from lesioncam.explanation.cam import Explained, Padded
from lesioncam.explanation.capture import scores_of
from lesioncam.explanation.sanity import cascade, map_similarity, randomised
from lesioncam.functional.faithfulness import deletion, insertion, road
from lesioncam.geometry import Geometry
from lesioncam.inference.classifier import ClassifierSubject, explained_samples
from lesioncam.measurement.part import Part
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier
from lesioncam.models.layout import device_of
from lesioncam.runs.summary import Faithfulness, FaithfulnessScores, LayerSimilarity, Sanity
from lesioncam.types import Sample

COMPARED, CASCADED, TRIED = 50, 8, 16
"""Images whose maps are compared with those of random weights; that are followed layer by layer; whose places are
taken away and put back."""

ROAD_SHARES = (0.1, 0.3, 0.5)
STEPS = 16


class _Tried(NamedTuple):
    """One image and the class that is asked about."""

    sample: Sample
    which: int
    raw: np.ndarray


def sanity_of(trained: TrainedClassifier, part: Part, seed: int = 0) -> Sanity:
    """Three questions about the first images of a part, by the map method of the run.

    * ``similarity``: rank correlation of each map with that of the same network with random weights (0: unrelated).
    * ``cascade``: the same while layer after layer is randomised, from the output down.
    * ``faithfulness``: what the probability of the highest class does while pixels are deleted, inserted or imputed
      (ROAD) in the order of its map, beside the order of a random map.

    Args:
        trained: the classifier of the run.
        part: the split that is measured; no label is looked at.
        seed: of random weights and random maps.

    Returns:
        The three answers; None where nothing could be compared.
    """
    records = part.table.records()[:COMPARED]
    samples = [trained.preprocess(read_picture(record.image)) for record in records]
    own, fresh = (_explained(each, samples) for each in (trained, randomised(trained, seed)))
    found = [
        map_similarity(a, b)
        for one, other in zip(own, fresh, strict=True)
        for a, b in zip(one.heatmap.raw, other.heatmap.raw, strict=True)
    ]
    known = [abs(value) for value in found if not np.isnan(value)]
    return Sanity(
        similarity=float(np.mean(known)) if known else None,
        maps=len(known),
        flat=len(found) - len(known),
        cascade=_cascade(trained, samples[:CASCADED], seed),
        faithfulness=_faithfulness(trained, samples[:TRIED], own[:TRIED], seed),
    )


def _explained(classifier: TrainedClassifier, samples: Sequence[Sample]) -> list[Explained]:
    """Scores and raw maps by the method of the run, batch by batch."""
    size = ClassifierSubject(classifier).batch
    batches = (samples[first : first + size] for first in range(0, len(samples), size))
    return [each for batch in batches for each in explained_samples(classifier, batch)]


def _cascade(trained: TrainedClassifier, samples: Sequence[Sample], seed: int) -> tuple[LayerSimilarity, ...]:
    def explain(network: nn.Module) -> Tensor:
        one = TrainedClassifier(network, trained.card).eval()
        return torch.from_numpy(np.stack([each.heatmap.raw for each in _explained(one, samples)]))

    steps = cascade(trained.network, explain, seed=seed)
    return tuple(LayerSimilarity(step.layer, step.randomised, step.agreement.summary()["spearman"]) for step in steps)


def _faithfulness(
    trained: TrainedClassifier, samples: Sequence[Sample], explained: Sequence[Explained], seed: int
) -> Faithfulness:
    """Mean areas and gaps over the images, for the maps and for random ones of the same grid."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[float, float, float]]] = {"map": [], "random_map": []}
    for sample, one in zip(samples, explained, strict=True):
        which = int(one.logits.argmax())
        tried = _Tried(sample, which, one.heatmap.raw[which])
        noise = rng.random(tried.raw.shape, dtype=np.float32)
        for name, raw in (("map", tried.raw), ("random_map", noise)):
            rows[name].append(_judged(trained, tried._replace(raw=raw), seed))
    table = {name: np.array(each, dtype=float).reshape(-1, 3) for name, each in rows.items()}
    usable = ~np.isnan(table["map"]).any(axis=1)
    means = {name: each[usable].mean(axis=0) if usable.any() else np.full(3, np.nan) for name, each in table.items()}
    scores = {name: FaithfulnessScores(*map(_or_none, each)) for name, each in means.items()}
    return Faithfulness(int(usable.sum()), **scores)


def _judged(trained: TrainedClassifier, tried: _Tried, seed: int) -> tuple[float, float, float]:
    """Area under deletion, area under insertion, gap of ROAD."""
    image, score = torch.from_numpy(tried.sample.image), _score(trained, tried)
    size = tried.sample.image.shape[1:]
    carried = Geometry.letterbox(size, size).to_native(tried.raw[None], origin=_origin(trained, tried))[0]
    places = torch.from_numpy(carried)
    return (
        deletion(score, image, places, steps=STEPS).area,
        insertion(score, image, places, steps=STEPS).area,
        road(score, image, places, shares=ROAD_SHARES, seed=seed).gap,
    )


def _origin(trained: TrainedClassifier, tried: _Tried) -> tuple[float, ...] | None:
    return None if tried.raw.shape == tried.sample.image.shape[1:] else trained.card.origin


def _score(trained: TrainedClassifier, tried: _Tried) -> Callable[[Tensor], Tensor]:
    """Images ``(M, C, *S)`` to the probability of the class ``(M,)``, on the CPU wherever the network lies."""
    network, device = trained.network, device_of(trained)
    if isinstance(network, Classifier):
        network = Padded(network, torch.from_numpy(tried.sample.valid)[None, None].to(device)).eval()

    def score(images: Tensor) -> Tensor:
        scores = scores_of(network(images.to(device)))
        probabilities = scores.softmax(dim=1) if trained.card.config.softmax else scores.sigmoid()
        return probabilities[:, tried.which].cpu()

    return score


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
