"""Poolings with weights of their own: attention over places, and attention along each axis (ACAM), 1D, 2D and 3D.

Class maps ``s (N, K, *grid)``, features ``F (N, C, *grid)`` that the maps were made of, ``valid (N, 1, *grid)`` bool.
Everything runs in float32 with autocast off, float64 stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lesioncam.functional.cam import class_maps
from lesioncam.functional.pooling import avg_pool


class Attention(NamedTuple):
    """Weights of an attention over places.

    Attributes:
        value: ``V (L, C)``.
        out: ``v (K, L)``, or ``(1, L)`` for one attention that all classes share.
        gate: ``U (L, C)``; None for the form without a gate.
    """

    value: Tensor
    out: Tensor
    gate: Tensor | None = None


def attention_scores(features: Tensor, weights: Attention) -> Tensor:
    r"""How much each place asks for attention, before the softmax.

    .. math:: a_k(x) = v_k^\top (\tanh(V F(x)) \odot \sigma(U F(x)))

    Args:
        features: ``(N, C, *grid)``.
        weights: without a gate the second factor is 1.

    Returns:
        ``(N, K, *grid)``, or ``(N, 1, *grid)`` where the classes share one.

    Reference:
        Ilse, Tomczak & Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, equations 8 and 9.

    Example:
        >>> one = torch.ones(1, 1)
        >>> attention_scores(torch.tensor([[[0.0, 1.0]]]), Attention(one, 2 * one))              # 2 tanh(F)
        tensor([[[0.0000, 1.5232]]])
    """
    features = _exact(features)
    with torch.autocast(features.device.type, enabled=False):
        hidden = class_maps(features, weights.value.to(features.dtype)).tanh()
        if weights.gate is not None:
            hidden = hidden * class_maps(features, weights.gate.to(features.dtype)).sigmoid()
        return class_maps(hidden, weights.out.to(features.dtype))


def attention_pool(maps: Tensor, features: Tensor, weights: Attention, valid: Tensor | None = None) -> Tensor:
    r"""Attention pooling: the class map, weighed by an attention that is learnt.

    .. math:: \ell_k = \sum_x \mathrm{softmax}_x(a_k)(x)\, s_k(x)

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        features: what they were made of, ``(N, C, *grid)``.
        weights: see :func:`attention_scores`.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32.

    Reference:
        Ilse, Tomczak & Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018.

    Example:
        >>> features = torch.tensor([[[0.0, 1.0]]])
        >>> even = Attention(torch.zeros(1, 1), torch.ones(1, 1))                # no preference: the mean
        >>> attention_pool(torch.tensor([[[1.0, 3.0]]]), features, even)
        tensor([[2.]])
    """
    asked, flat = attention_scores(features, weights).flatten(2), _exact(maps).flatten(2)
    if valid is not None:
        asked, flat = asked.masked_fill(~valid.flatten(2), -torch.inf), flat.masked_fill(~valid.flatten(2), 0.0)
    return (asked.softmax(-1) * flat).sum(-1)


# ---- ACAM: one attention along each axis --------------------------------------------------------------------------


def axis_attention(features: Tensor, weight: Tensor, valid: Tensor | None = None) -> tuple[Tensor, ...]:
    r"""Attention along each axis, scaled to a mean of one.

    .. math:: g^a_i = w_a^\top F^a(i), \qquad s^a = \mathrm{softmax}_i(g^a), \qquad \hat s^a = n_a s^a

    where :math:`F^a(i)` is the mean of the features over slice ``i`` of axis ``a``. Padding takes no part; a slice
    counts by the share of all valid places that it holds (a slice of padding alone gets 0), so that the mean of
    :math:`\hat s^a` over the valid places is 1 for a mask of any shape. Where padding is whole slices, as in a letter
    box, that is exactly :math:`n_a s^a` with ``n_a`` valid slices.

    Args:
        features: ``(N, C, *grid)`` with A axes.
        weight: ``(A, C)``, or ``(1, C)`` for one that all axes share.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        One ``(N, n_a)`` per axis, in array order.

    Reference:
        Wu, Du, Luo, Wen, Shen & Feng, "Weakly Supervised Brain Lesion Segmentation via Attentional Representation
        Learning", MICCAI 2019; the mean-one scale is ours: raw ``s`` depends on the number of slices.

    Example:
        >>> features = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])                # two rows
        >>> rows, columns = axis_attention(features, torch.tensor([[1.0986], [5.0]]))
        >>> rows, columns                                                        # softmax(0, ln 3) times 2
        (tensor([[0.5000, 1.5000]]), tensor([[1., 1.]]))
    """
    features = _exact(features)
    axes = features.ndim - 2
    with torch.autocast(features.device.type, enabled=False):
        asked = class_maps(features, weight.to(features.dtype)).expand(-1, axes, *features.shape[2:])
    places = torch.ones_like(asked[:, :1]) if valid is None else valid.to(asked.dtype)
    return tuple(_mean_one(_along(asked[:, a : a + 1] * places, a), _along(places, a)) for a in range(axes))


def combined(attention: Sequence[Tensor], combine: str) -> Tensor:
    """Attentions along the axes as one weight per place.

    Args:
        attention: as :func:`axis_attention` gives them.
        combine: one of :data:`COMBINE`. ``mean`` is the paper's weighted sum, and leaves cross-shaped ghosts;
            ``product`` keeps only what all axes ask for; ``geomean`` is its A-th root; ``min`` the least of them.

    Returns:
        ``(N, 1, *grid)``.

    Raises:
        ValueError: for an unknown way.

    Example:
        >>> rows, columns = torch.tensor([[0.5, 1.5]]), torch.tensor([[0.0, 2.0]])
        >>> combined((rows, columns), "mean")[0, 0].tolist(), combined((rows, columns), "product")[0, 0].tolist()
        ([[0.25, 1.25], [0.75, 1.75]], [[0.0, 1.0], [0.0, 3.0]])
    """
    if combine not in COMBINE:
        raise ValueError(f"combine must be one of {', '.join(COMBINE)}; got {combine!r}.")
    axes = len(attention)
    spread = [each.view(len(each), 1, *(-1 if a == b else 1 for b in range(axes))) for a, each in enumerate(attention)]
    return COMBINE[combine](torch.stack(torch.broadcast_tensors(*spread)))


def acam_pool(maps: Tensor, features: Tensor, weight: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""ACAM's image logit: attention-MIL pooling along each axis, averaged over the axes.

    .. math:: \ell_k = \frac{1}{A} \sum_a \sum_i s^a_i\, (W_k^\top F^a(i) + b_k)

    The paper's text only scales the map after a classification by the mean, whose logit does not depend on ``w_a``:
    the attention would get no gradient. Here it does.

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        features: what they were made of, ``(N, C, *grid)``.
        weight: ``(A, C)`` or ``(1, C)``, see :func:`axis_attention`.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32.

    Reference:
        Wu et al., MICCAI 2019, see :func:`axis_attention`; trained by this logit is our reading.

    Example:
        >>> features = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
        >>> acam_pool(8 * features, features, torch.tensor([[1.0986], [5.0]]))   # rows: .75 * 8, columns: 4
        tensor([[5.0000]])
    """
    attention = axis_attention(features, weight, valid)
    return avg_pool(_exact(maps) * combined(attention, "mean"), valid)


def acam_maps(maps: Tensor, attention: Sequence[Tensor], combine: str, bias: Tensor | None = None) -> Tensor:
    r"""Attentional class activation maps ``C'``, with the bias spread over them.

    .. math:: C'_k(x) = \hat s(x)\, M_k(x) + b_k, \qquad M_k = s_k - b_k

    With ``mean`` the mean of the map is the logit of :func:`acam_pool`, as for plain CAM; the other ways give evidence
    that is sharper and on no scale of logits. With an even attention every way gives the class maps back.

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        attention: as :func:`axis_attention` gives them.
        combine: see :func:`combined`.
        bias: of the head, ``(K,)``; None is 0.

    Returns:
        ``(N, K, *grid)`` float32.

    Reference:
        Wu et al., MICCAI 2019, see :func:`axis_attention`.

    Example:
        >>> attention = (torch.tensor([[0.5, 1.5]]), torch.tensor([[0.0, 2.0]]))
        >>> acam_maps(torch.full((1, 1, 2, 2), 3.0), attention, "product", torch.ones(1))[0, 0].tolist()
        [[1.0, 3.0], [1.0, 7.0]]
    """
    maps = _exact(maps)
    weight = combined(attention, combine)
    if bias is None:
        return maps * weight
    spread = bias.to(maps.dtype).view(1, -1, *[1] * (maps.ndim - 2))
    return (maps - spread) * weight + spread


def _geomean(each: Tensor) -> Tensor:
    product = each.prod(0)
    none = product == 0  # padding, where the root has no slope
    return torch.where(none, 0.0, torch.where(none, 1.0, product).pow(1 / len(each)))


COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda each: each.mean(0),
    "product": lambda each: each.prod(0),
    "geomean": _geomean,
    "min": lambda each: each.amin(0),
}
"""How attentions along the axes ``(A, N, 1, *grid)`` become one weight per place."""


def _exact(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _along(values: Tensor, axis: int) -> Tensor:
    """Sums over the slices of one axis: ``(N, 1, *grid)`` to ``(N, n_a)``."""
    return values.movedim(axis + 2, 1).flatten(2).sum(-1)


def _mean_one(asked: Tensor, places: Tensor) -> Tensor:
    """Mean-one attention of slices from sums of their scores and numbers of their places, both ``(N, n)``."""
    empty = places == 0
    scores = asked / torch.where(empty, 1.0, places)
    share = torch.where(empty, 1.0, places / places.sum(1, keepdim=True))
    whole = (scores + share.log()).masked_fill(empty, -torch.inf).logsumexp(1, keepdim=True)
    return (scores - whole).exp().masked_fill(empty, 0.0)
