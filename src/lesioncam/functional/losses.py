"""Losses on logits; unknown labels (NaN) take no part and get exactly zero gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["bce_loss", "positive_weights"]


def bce_loss(
    logits: Float[Tensor, "n k"], labels: Float[Tensor, "n k"], weights: Float[Tensor, " k"] | None = None
) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over the known entries.

    Args:
        logits: ``(N, K)``, before the sigmoid.
        labels: ``(N, K)`` in [0, 1], NaN unknown.
        weights: ``(K,)``, weight of positive terms; None is 1.

    Returns:
        A scalar in nats; 0 with a valid graph where nothing is known.

    Example:
        >>> bce_loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))     # log 2, the second is unknown
        tensor(0.6931)
    """
    known = ~labels.isnan()
    target = torch.where(known, labels, 0.0)
    terms = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none", pos_weight=weights)
    return torch.where(known, terms, 0.0).sum() / known.sum().clamp(min=1)


def positive_weights(labels: Float[Tensor, "n k"], cap: float = 10.0) -> Float[Tensor, " k"]:
    """Negatives over positives per class, counted over the whole training set, between 1 / cap and cap.

    A batch-wise count would lose every batch without a positive; a class with no positive gets 1.

    Example:
        >>> positive_weights(torch.tensor([[1.0], [0.0], [0.0], [float("nan")]]))
        tensor([2.])
    """
    positive, negative = (labels > 0.5).sum(0).float(), (labels <= 0.5).sum(0).float()
    ratio = negative / positive.clamp(min=1)
    return torch.where((positive > 0) & (negative > 0), ratio.clamp(1 / cap, cap), 1.0)
