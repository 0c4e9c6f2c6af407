"""Pooling of class logit maps ``s (N, K, *grid)`` to image logits ``(N, K)``, one code path for 1D, 2D and 3D.

Reductions run in float32 with autocast off. Each takes ``valid (N, 1, *grid)`` bool: padding takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["POOLINGS", "avg_pool", "lse_pool", "max_pool", "pcam_pool", "topq_pool"]

Maps = Float[Tensor, "n k *grid"]
Valid = Bool[Tensor, "n 1 *grid"]
Logits = Float[Tensor, "n k"]


def avg_pool(maps: Maps, valid: Valid | None = None) -> Logits:
    r"""Mean of the class map (GAP): on ``s`` the same as GAP on features followed by the linear head.

    .. math:: \ell_k = \frac{1}{n} \sum_x s_k(x)

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

    Example:
        >>> avg_pool(torch.tensor([[[0.0, math.log(3.0)]]]))
        tensor([[0.5493]])
    """
    flat, known = _flat(maps, valid)
    if known is None:
        return flat.mean(-1)
    return flat.masked_fill(~known, 0.0).sum(-1) / known.sum(-1)


def max_pool(maps: Maps, valid: Valid | None = None) -> Logits:
    r"""Maximum of the class map (GMP): one location, the lowest index on ties, gets all gradient.

    .. math:: \ell_k = \max_x s_k(x)

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32.

    Reference:
        Oquab et al., "Is object localization for free?", CVPR 2015.

    Example:
        >>> max_pool(torch.tensor([[[0.0, math.log(3.0)]]]))
        tensor([[1.0986]])
    """
    return _hidden(maps, valid).max(-1).values


def lse_pool(maps: Maps, valid: Valid | None = None, *, sharpness: float = 10.0) -> Logits:
    r"""Log-sum-exp: a smooth bridge from the mean to the maximum.

    .. math:: \ell_k = \frac{1}{r} \log \frac{1}{n} \sum_x \exp(r\, s_k(x))

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.
        sharpness: :math:`r > 0`; 0 is the mean, infinity the maximum.

    Returns:
        Image logits, ``(N, K)`` float32, with ``max(s) - log(n) / r <= l <= max(s)``.

    Raises:
        ValueError: if ``sharpness`` is not positive.

    Reference:
        Pinheiro & Collobert, "From image-level to pixel-level labeling with convolutional networks", CVPR 2015.

    Example:
        >>> lse_pool(torch.tensor([[[0.0, math.log(3.0)]]]), sharpness=1.0)      # log((1 + 3) / 2)
        tensor([[0.6931]])
    """
    _positive("sharpness", sharpness, "avg, the limit 0")
    flat, known = _flat(maps, valid)
    count = flat.new_tensor(float(flat.shape[-1])) if known is None else known.sum(-1).to(flat.dtype)
    hidden = flat if known is None else flat.masked_fill(~known, -math.inf)
    return (torch.logsumexp(sharpness * hidden, dim=-1) - count.log()) / sharpness


def topq_pool(maps: Maps, valid: Valid | None = None, *, fraction: float = 0.02) -> Logits:
    r"""Mean of the largest share of the class map.

    .. math:: \ell_k = \frac{1}{k} \sum_{i \le k} s_{k(i)}, \qquad k = \max(1, \mathrm{round}(q\, n))

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all. ``n`` is their number, image by image.
        fraction: :math:`q` in (0, 1].

    Returns:
        Image logits, ``(N, K)`` float32.

    Raises:
        ValueError: if ``fraction`` is not in (0, 1].

    Reference:
        Shen et al., "An interpretable classifier for high-resolution breast cancer screening images utilizing weakly
        supervised localization", Medical Image Analysis 2021.

    Example:
        >>> topq_pool(torch.tensor([[[4.0, 2.0, 0.0, -2.0]]]), fraction=0.5)     # (4 + 2) / 2
        tensor([[3.]])
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}; use max for a single location.")
    flat, known = _flat(maps, valid)
    if known is None:
        return flat.topk(_share(flat.shape[-1], fraction), dim=-1).values.mean(-1)
    counts = torch.round(fraction * known.sum(-1, keepdim=True)).clamp(min=1)
    ordered = flat.masked_fill(~known, -math.inf).sort(dim=-1, descending=True).values
    taken = torch.arange(flat.shape[-1], device=flat.device) < counts
    return ordered.masked_fill(~taken, 0.0).sum(-1) / counts.squeeze(-1)


def pcam_pool(maps: Maps, valid: Valid | None = None, *, temperature: float = 0.5) -> Logits:
    r"""Probabilistic-CAM pooling: the class map is its own attention.

    .. math:: \ell_k = \sum_x \omega_k(x)\, s_k(x), \qquad \omega_k = \mathrm{softmax}_x(\log\sigma(s_k) / T)

    At ``T = 1`` this is the paper's :math:`p / \sum p` on features with a shared linear head, without its 0/0: the
    logarithmic form stays finite where every probability rounds to zero.

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.
        temperature: :math:`T > 0`; 0 is the maximum, infinity the mean.

    Returns:
        Image logits, ``(N, K)`` float32.

    Raises:
        ValueError: if ``temperature`` is not positive.

    Reference:
        Ye, Yao, Xue & Li, "Weakly Supervised Lesion Localization With Probabilistic-CAM Pooling", arXiv:2005.14480.

    Example:
        >>> pcam_pool(torch.tensor([[[0.0, math.log(3.0)]]]), temperature=1.0)   # weights 2/5 and 3/5: .6 ln 3
        tensor([[0.6592]])
    """
    _positive("temperature", temperature, "max, the limit 0")
    flat, known = _flat(maps, valid)
    evidence = F.logsigmoid(flat) / temperature
    if known is not None:
        evidence = evidence.masked_fill(~known, -math.inf)
        flat = flat.masked_fill(~known, 0.0)
    return (evidence.softmax(-1) * flat).sum(-1)


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "avg": avg_pool,
    "lse": lse_pool,
    "max": max_pool,
    "pcam": pcam_pool,
    "topq": topq_pool,
}
"""Every pooling by its name; options as keyword arguments, as in :mod:`lesioncam.config`."""


def _flat(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Maps as ``(N, K, n)`` in float32 (float64 stays), valid as ``(N, 1, n)``."""
    if maps.dtype in (torch.float16, torch.bfloat16):
        maps = maps.float()
    return maps.flatten(2), None if valid is None else valid.flatten(2)


def _hidden(maps: Tensor, valid: Tensor | None) -> Tensor:
    flat, known = _flat(maps, valid)
    return flat if known is None else flat.masked_fill(~known, -math.inf)


def _share(n: int, fraction: float) -> int:
    return max(1, round(fraction * n))


def _positive(name: str, value: float, instead: str) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}; use {instead}.")
