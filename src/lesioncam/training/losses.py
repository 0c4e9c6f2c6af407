"""The loss a configuration names, with what it knows of the whole training set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lesioncam.errors import OptionError
from lesioncam.functional.losses import (
    aucpr_loss,
    balanced_weights,
    bce_loss,
    cross_entropy_loss,
    effective_weights,
    focal_loss,
    positive_weights,
    reverse_gradient,
    softmax_weights,
)
from lesioncam.options.run import RunConfig
from lesioncam.options.training import AucprLoss, BceLoss, ClassBalancedLoss, FocalLoss

WARM_UP = 1
"""Epochs of cross-entropy before the AUCPR bound: its multipliers mean little while scores are noise (our choice)."""


class ImageLoss(nn.Module):
    """A loss on image logits; subclasses say what it is in training, and what is compared between epochs."""

    def forward(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Loss of a batch, a scalar."""
        raise NotImplementedError

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of a whole split, on one scale for all epochs."""
        return self(logits, labels, WARM_UP)

    def _keep(self, name: str, value: Tensor) -> None:
        """A constant that moves with the module; not in the checkpoint, since the table gives it back."""
        self.register_buffer(name, value, persistent=False)


class BinaryCrossEntropy(ImageLoss):
    """Each class on its own: weighted cross-entropy, with or without focus."""

    positive: Tensor
    negative: Tensor

    def __init__(self, positive: Tensor, negative: Tensor | None = None, gamma: float = 0.0) -> None:
        super().__init__()
        self._keep("positive", positive)
        self._keep("negative", torch.ones_like(positive) if negative is None else negative)
        self.gamma, self.plain = gamma, negative is None and gamma == 0

    def forward(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Loss of a batch."""
        del epoch
        if self.plain:
            return bce_loss(logits, labels, self.positive)
        return focal_loss(logits, labels, self.gamma, (self.positive, self.negative))


class SoftmaxCrossEntropy(ImageLoss):
    """Classes that exclude each other."""

    weights: Tensor

    def __init__(self, weights: Tensor, gamma: float = 0.0) -> None:
        super().__init__()
        self._keep("weights", weights)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Loss of a batch."""
        del epoch
        return cross_entropy_loss(logits, labels, self.weights, self.gamma)


class AucprBound(ImageLoss):
    """The AUCPR bound with learnt multipliers and biases, after an epoch of cross-entropy.

    Epochs are compared by cross-entropy: the bound moves with its multipliers.

    Args:
        labels: ``(N, K)`` targets of the whole training set, for the prior.
        anchors: A.
        dual: step of the multipliers, relative to the learning rate.
    """

    prior: Tensor

    def __init__(self, labels: Tensor, anchors: int = 20, dual: float = 0.1) -> None:
        super().__init__()
        known = ~labels.isnan()
        positive = torch.where(known, labels, 0.0).sum(0)
        self._keep("prior", positive / known.sum(0).clamp(min=1))
        classes = labels.shape[1]
        self.multipliers = nn.Parameter(torch.ones(classes, anchors))
        self.biases = nn.Parameter(torch.zeros(classes, anchors))
        self.dual = dual

    def forward(self, logits: Tensor, labels: Tensor, epoch: int) -> Tensor:
        """Loss of a batch."""
        if epoch < WARM_UP:
            return bce_loss(logits, labels)
        multipliers = reverse_gradient(self.multipliers, self.dual)
        return aucpr_loss(logits, labels, multipliers, self.biases, self.prior)

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a split."""
        return bce_loss(logits, labels)


def build_loss(config: RunConfig, labels: np.ndarray) -> ImageLoss:
    """The loss of a run.

    Args:
        config: ``loss``, ``task`` and ``class_weights``.
        labels: ``(N, K)`` targets of the whole training set, NaN unknown: weights and priors are counted there.

    Raises:
        OptionError: for AUCPR where classes exclude each other.

    Example:
        >>> loss = build_loss(RunConfig(loss="focal,gamma=0", class_weights=False), np.float32([[1], [0]]))
        >>> loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), 0)                # log 2
        tensor(0.6931)
    """
    targets, kind = torch.from_numpy(np.asarray(labels, np.float32)), config.loss
    if config.softmax:
        return _exclusive(config, targets)
    ones = torch.ones(targets.shape[1])
    weights = positive_weights(targets) if config.class_weights else ones
    match kind:
        case BceLoss():
            return BinaryCrossEntropy(weights)
        case FocalLoss(alpha=None):
            return BinaryCrossEntropy(weights, ones, kind.gamma)
        case FocalLoss(alpha=float(alpha)):
            return BinaryCrossEntropy(alpha * ones, (1 - alpha) * ones, kind.gamma)
        case ClassBalancedLoss():
            return BinaryCrossEntropy(*effective_weights(targets, kind.beta))
        case AucprLoss():
            return AucprBound(targets, kind.anchors, kind.dual)
    raise OptionError(f"loss {kind!r} is not known.")  # pragma: no cover (the type is closed)


def _exclusive(config: RunConfig, targets: Tensor) -> ImageLoss:
    kind = config.loss
    weights = balanced_weights(targets) if config.class_weights else torch.ones(targets.shape[1])
    match kind:
        case AucprLoss():
            raise OptionError(
                f"--loss aucpr bounds each class on its own, but --task {config.task} has classes that exclude each "
                "other; use bce, focal or class_balanced, or --task multilabel."
            )
        case ClassBalancedLoss():
            return SoftmaxCrossEntropy(softmax_weights(targets, kind.beta))
        case FocalLoss(alpha=float()):
            raise OptionError(
                f"--loss focal,alpha=... weighs positives against negatives, which --task {config.task} has not; leave "
                "alpha out: the class weights stand in its place."
            )
        case FocalLoss():
            return SoftmaxCrossEntropy(weights, kind.gamma)
    return SoftmaxCrossEntropy(weights)
