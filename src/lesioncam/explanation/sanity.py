"""Sanity of maps: a map that survives the loss of everything that was learnt explains nothing that was learnt.

Reference:
    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy.stats import rankdata

from lesioncam.models.checkpoint import TrainedClassifier

__all__ = ["map_similarity", "randomised"]


def randomised(classifier: TrainedClassifier, seed: int = 0) -> TrainedClassifier:
    """The same network with fresh random weights in every layer; the given one is left as it was.

    Args:
        classifier: any.
        seed: of the new weights; the global generators are left where they were.

    Example:
        >>> from lesioncam.config import make_config
        >>> from lesioncam.models.checkpoint import ModelCard
        >>> from lesioncam.models.classifier import build_classifier
        >>> config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8")
        >>> trained = TrainedClassifier(build_classifier(config, 1), ModelCard(("mass",), config))
        >>> fresh = randomised(trained)
        >>> bool(torch.equal(fresh.network.head.weight, trained.network.head.weight))
        False
    """
    fresh = copy.deepcopy(classifier)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh.eval().requires_grad_(requires_grad=False)


def map_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation (Spearman) of two maps: 1 for the same order of all cells, about 0 for unrelated ones.

    Args:
        first: ``(*s)``.
        second: ``(*s)``.

    Returns:
        NaN where a map is flat.

    Example:
        >>> round(map_similarity(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [9.0, 16.0]])), 6)
        1.0
    """
    ranks = [rankdata(np.ravel(each)) for each in (first, second)]
    a, b = (each - each.mean() for each in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")
