"""Losses on logits; unknown labels (NaN) take no part and get exactly zero gradient.

NaN is replaced before the arithmetic, since NaN times zero is NaN in a gradient too. Everything is computed in float32
(float64 stays), also under autocast. Weights count over the whole training set: a batch without a positive still
teaches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# ---- classes on their own ------------------------------------------------------------------------------------------


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
    terms = F.binary_cross_entropy_with_logits(_precise(logits), target, reduction="none", pos_weight=weights)
    return _mean(terms, known)


def focal_loss(
    logits: Float[Tensor, "n k"],
    labels: Float[Tensor, "n k"],
    gamma: float = 2.0,
    weights: tuple[Tensor | float, Tensor | float] = (1.0, 1.0),
) -> Float[Tensor, ""]:
    r"""Cross-entropy that fades where the network is right already, mean over the known entries.

    .. math:: L = w_+ \, y \, (1 - p)^\gamma \, (-\log p) + w_- \, (1 - y) \, p^\gamma \, (-\log(1 - p))

    Args:
        logits: ``(N, K)``, before the sigmoid.
        labels: ``(N, K)`` in [0, 1], NaN unknown.
        gamma: :math:`\gamma \ge 0`; 0 is binary cross-entropy.
        weights: of positives and negatives, numbers or ``(K,)``; the paper's are alpha and 1 - alpha.

    Returns:
        A scalar in nats. (The paper divides by the number of positives of a batch, which may be 0.)

    Reference:
        Lin et al., "Focal loss for dense object detection", ICCV 2017.

    Example:
        >>> focal_loss(torch.zeros(1, 1), torch.ones(1, 1), gamma=2.0)           # a quarter of log 2
        tensor(0.1733)
    """
    known = ~labels.isnan()
    target, z = torch.where(known, labels, 0.0), _precise(logits)
    yes, no = F.logsigmoid(z), F.logsigmoid(-z)
    missed = weights[0] * target * torch.exp(gamma * no) * -yes
    alarm = weights[1] * (1 - target) * torch.exp(gamma * yes) * -no
    return _mean(missed + alarm, known)


def effective_weights(labels: Float[Tensor, "n k"], beta: float = 0.999) -> tuple[Tensor, Tensor]:
    r"""Weights of positives and of negatives by the effective number of images, ``(K,)`` each, mean 1 per class.

    .. math:: w_\pm \propto \frac{1 - \beta}{1 - \beta^{n_\pm}}

    where a class has n images on a side (soft labels count by their share). A side without an image counts as one.

    Args:
        labels: ``(N, K)`` in [0, 1], NaN unknown; the whole training set.
        beta: in [0, 1); 0 gives 1 and 1, towards 1 the inverse counts.

    Reference:
        Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.

    Example:
        >>> yes, no = effective_weights(torch.tensor([[1.0], [0.0], [0.0]]), beta=0.5)
        >>> yes, no                                                               # 1 to (1 - .5) / (1 - .25) = 2 / 3
        (tensor([1.2000]), tensor([0.8000]))
    """
    positive, negative = _counts(labels)
    yes, no = _inverse_number(positive, beta), _inverse_number(negative, beta)
    scale = 2 / (yes + no)
    return (yes * scale).float(), (no * scale).float()


def positive_weights(labels: Float[Tensor, "n k"], cap: float = 10.0) -> Float[Tensor, " k"]:
    """Negatives over positives per class, counted over the whole training set, between 1 / cap and cap.

    A batch-wise count would lose every batch without a positive; a class with no positive gets 1. Soft labels count by
    their share.

    Example:
        >>> positive_weights(torch.tensor([[1.0], [0.0], [0.0], [float("nan")]]))
        tensor([2.])
    """
    positive, negative = (count.float() for count in _counts(labels))
    ratio = negative / positive.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where((positive > 0) & (negative > 0), ratio.clamp(1 / cap, cap), 1.0)


def aucpr_loss(
    logits: Float[Tensor, "n k"],
    labels: Float[Tensor, "n k"],
    multipliers: Float[Tensor, "k a"],
    biases: Float[Tensor, "k a"],
    prior: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    r"""A bound on 1 minus the area under the precision-recall curve, summed over A precisions.

    .. math::
        L = \frac{\delta}{1 - \delta} \sum_a \left( \frac{1}{n} \sum_i \left[ (1 + \lambda_a (1 - \alpha_a)) \,
        y_i \, \mathrm{softplus}(-z_i - b_a) + \lambda_a \alpha_a (1 - y_i) \, \mathrm{softplus}(z_i + b_a) \right]
        - \lambda_a (1 - \alpha_a) \, \pi \log 2 \right)

    with :math:`\alpha_a = a / (A + 1)` and :math:`\delta = 1 / (A + 1)`. The multipliers are to be maximised: give them
    through `reverse_gradient`.

    Args:
        logits: ``(N, K)``, before the sigmoid.
        labels: ``(N, K)`` in [0, 1], NaN unknown.
        multipliers: ``(K, A)``, :math:`\lambda`; their absolute value counts, so that none is negative.
        biases: ``(K, A)``, :math:`b`.
        prior: ``(K,)``, :math:`\pi`, the share of positives in the whole training set.

    Returns:
        A scalar: mean over the classes of which something is known in this batch. It may be negative.

    Reference:
        Eban et al., "Scalable learning of non-decomposable objectives", AISTATS 2017 (cross-entropy surrogate).

    Example:
        >>> zeros, half = torch.zeros(1, 3), torch.tensor([0.5])
        >>> aucpr_loss(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), zeros, zeros, half)    # mean of y log 2
        tensor(0.3466)
    """
    known = ~labels.isnan()
    target, z = torch.where(known, labels, 0.0), _precise(logits)
    anchors = multipliers.shape[1]
    level = torch.arange(1, anchors + 1, dtype=z.dtype, device=z.device) / (anchors + 1)
    weight = multipliers.abs()
    shifted = z[..., None] + biases
    yes, no = target[..., None], 1 - target[..., None]
    terms = (1 + weight * (1 - level)) * yes * F.softplus(-shifted) + weight * level * no * F.softplus(shifted)
    count = known.sum(0)
    mean = torch.where(known[..., None], terms, 0.0).sum(0) / count.clamp(min=1)[:, None]
    bound = mean - weight * (1 - level) * prior[:, None] * math.log(2)
    seen = count > 0  # delta / (1 - delta) is 1 / A
    return torch.where(seen, bound.sum(1) / anchors, 0.0).sum() / seen.sum().clamp(min=1)


class _Reversed(torch.autograd.Function):
    """The value as it is; its gradient turned round and scaled."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(value: Tensor, scale: float = 1.0) -> Tensor:
    """The same value; whoever minimises through it maximises, at ``scale`` times the speed.

    Reference:
        Ganin & Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> (2 * reverse_gradient(x, 0.1)).backward()
        >>> x.grad
        tensor(-0.2000)
    """
    return _Reversed.apply(value, scale)


def negative_map_loss(
    maps: Float[Tensor, "n k *grid"], labels: Float[Tensor, "n k"], valid: Tensor | None = None
) -> Float[Tensor, ""]:
    r"""Where a class is absent, it is absent everywhere: free supervision of every location.

    .. math:: L = \mathrm{mean}_{(i,k):\, y_{ik} = 0} \; \mathrm{mean}_x \; \mathrm{softplus}(s_{ik}(x))

    It keeps the maps of negative images cold; it does not shrink a map that is too large on a positive image.

    Args:
        maps: ``(N, K, *grid)``, before the sigmoid.
        labels: ``(N, K)``; only those that are exactly 0 count.
        valid: ``(N, 1, *grid)`` bool, the cells that are image; None takes all.

    Returns:
        A scalar in nats; 0 with a valid graph where no label is 0.

    Example:
        >>> negative_map_loss(torch.zeros(2, 1, 2, 2), torch.tensor([[0.0], [1.0]]))           # log 2
        tensor(0.6931)
    """
    heat = F.softplus(_precise(maps)).flatten(2)
    inside = torch.ones_like(heat) if valid is None else valid.flatten(2).expand_as(heat).to(heat.dtype)
    cold = (heat * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    return _mean(cold, labels == 0)


def equivariance_loss(
    maps: Float[Tensor, "n k *grid"], warped: Float[Tensor, "n k *grid"], known: Tensor, *, exclusive: bool = False
) -> Float[Tensor, ""]:
    r"""Class maps of a warped image against the warped class maps, where both are known.

    .. math:: L = \mathrm{mean}_{k,\, x \in \mathrm{known}} \; |p(s'_k(x)) - p((A s_k)(x))|

    It is taken on probabilities, which are bounded: the loss cannot be lowered, nor raised, by the scale of logits
    alone. Every class counts, also one that an image has not.

    Args:
        maps: :math:`s'`, ``(N, K, *grid)``, class maps of the warped images, before the sigmoid.
        warped: :math:`A s`, the same grid: class maps of the images themselves, warped likewise.
        known: ``(N, 1, *grid)`` bool, cells that show image in both.
        exclusive: classes exclude each other: probabilities are a softmax over the classes.

    Returns:
        A scalar in [0, 1]; 0 with a valid graph where nothing is known.

    Reference:
        Wang et al., "Self-supervised equivariant attention mechanism for weakly supervised semantic segmentation",
        CVPR 2020 (its equivariant regularisation; there the maps are cut at 0 and scaled to their maximum).

    Example:
        >>> maps, known = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2, dtype=torch.bool)
        >>> equivariance_loss(maps, torch.tensor([[[[0.0, 100.0]]]]), known)          # mean of 0 and 1 / 2
        tensor(0.2500)
    """
    first, second = (z.softmax(1) if exclusive else z.sigmoid() for z in (_precise(maps), _precise(warped)))
    return _mean((first - second).abs(), known.expand_as(first))


# ---- classes that exclude each other -------------------------------------------------------------------------------


def cross_entropy_loss(
    logits: Float[Tensor, "n k"],
    labels: Float[Tensor, "n k"],
    weights: Float[Tensor, " k"] | None = None,
    gamma: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Softmax cross-entropy, mean over the images whose class is known.

    .. math:: L = w_y \, (1 - p_y)^\gamma \, (-\log p_y)

    Args:
        logits: ``(N, K)``, before the softmax.
        labels: ``(N, K)``, each row one-hot, or NaN where unknown.
        weights: ``(K,)``; None is 1. Their mean over the training set should be 1 (`balanced_weights`): the sum is
            divided by the number of images, not of weights, so that an image counts the same in every batch.
        gamma: focal exponent; 0 is plain cross-entropy.

    Returns:
        A scalar in nats; 0 with a valid graph where nothing is known.

    Example:
        >>> cross_entropy_loss(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))         # log 4
        tensor(1.3863)
    """
    known = ~labels.isnan().any(1)
    target = torch.where(known[:, None], labels, 0.0)
    likely = F.log_softmax(_precise(logits), dim=1)
    terms = -target * likely
    if gamma:
        terms = terms * (-torch.expm1(likely)).clamp(min=torch.finfo(likely.dtype).tiny) ** gamma
    terms = terms if weights is None else terms * weights
    return _mean(terms.sum(1), known)


def balanced_weights(labels: Float[Tensor, "n k"], cap: float = 10.0) -> Float[Tensor, " k"]:
    """Weights of classes that exclude each other, by their inverse share; their mean over the training images is 1.

    Args:
        labels: ``(N, K)``, one-hot or NaN; the whole training set.
        cap: no weight lies above it or below its inverse (the mean then moves); a class without an image gets 1.

    Example:
        >>> balanced_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))    # 4/2/3 and 4/2/1
        tensor([0.6667, 2.0000])
    """
    count = _counts(labels)[0]
    share = count.sum() / (labels.shape[1] * count.clamp(min=1))
    return torch.where(count > 0, share.clamp(1 / cap, cap), 1.0).float()


def softmax_weights(labels: Float[Tensor, "n k"], beta: float = 0.999) -> Float[Tensor, " k"]:
    """Weights of classes that exclude each other by their effective number of images, with mean 1 over the classes.

    Args:
        labels: ``(N, K)``, one-hot or NaN; the whole training set.
        beta: in [0, 1); 0 gives ones.

    Reference:
        Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.

    Example:
        >>> softmax_weights(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), beta=0.5)       # 1 to 2 / 3
        tensor([1.2000, 0.8000])
    """
    weights = _inverse_number(_counts(labels)[0], beta)
    return (weights * (len(weights) / weights.sum())).float()


# ---- parts ---------------------------------------------------------------------------------------------------------


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _mean(terms: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, terms, 0.0).sum() / known.sum().clamp(min=1)


def _counts(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives per class, float64; soft labels count by their share."""
    known = ~labels.isnan()
    positive = torch.where(known, labels, 0.0).double().sum(0)
    return positive, known.sum(0) - positive


def _inverse_number(count: Tensor, beta: float) -> Tensor:
    """One over the effective number of images, times a constant; exact for any count."""
    count = count.clamp(min=1).double()
    return torch.ones_like(count) if beta == 0 else (1 - beta) / -torch.expm1(count * math.log(beta))
