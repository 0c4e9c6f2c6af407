"""Pooling of class logit maps ``s (N, K, *grid)`` to image logits ``(N, K)``, one code path for 1D, 2D and 3D.

All K classes in one call. Half precision is computed in float32, float64 stays; no operation here is one that autocast
takes to half precision. Each takes ``valid (N, 1, *grid)`` bool: padding takes no part, as if it had been cut off.
Poolings with weights of their own (attention, ACAM) are in :mod:`lesioncam.functional.attention`.

The feature-space variants of the PCAM authors' code pool each channel of ``F (N, C, *grid)`` and then apply the linear
head, ``lse_pool(F) @ W.T + b``: other functions (only for the mean the same), whose map does not give the logit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_FAINT = -20.0
"""Below this logit ``softplus(s)`` is ``exp(s)`` but for the next term of its series, in float64 as well."""

ClassMaps = Float[Tensor, "n k *grid"]
Valid = Bool[Tensor, "n 1 *grid"]
Logits = Float[Tensor, "n k"]


def avg_pool(maps: ClassMaps, valid: Valid | None = None) -> Logits:
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


def max_pool(maps: ClassMaps, valid: Valid | None = None) -> Logits:
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


def lse_pool(maps: ClassMaps, valid: Valid | None = None, *, sharpness: float = 10.0) -> Logits:
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
    peak = _hidden(maps, valid).amax(-1, keepdim=True).detach()  # the signed maximum: max|s| would give -inf for s < 0
    below = sharpness * (flat - peak)
    if known is not None:
        below = below.masked_fill(~known, -math.inf)
    count = flat.shape[-1] if known is None else known.sum(-1)
    rest = below.expm1() if known is None else below.expm1().masked_fill(~known, 0.0)
    mean = rest.sum(-1) / count  # exact for a small r, where a mean of exp would round r away
    near = mean > -0.5
    bridge = torch.where(near, torch.where(near, mean, 0.0).log1p(), (below.exp().sum(-1) / count).log())
    return peak.squeeze(-1) + bridge / sharpness


def exp_pool(maps: ClassMaps, valid: Valid | None = None) -> Logits:
    r"""Exponential softmax: each location weighs as much as its own exponential.

    .. math:: \ell_k = \sum_x \omega_k(x)\, s_k(x) = \mathrm{LSE}_1(s_k) + \mathrm{KL}(\omega_k \| \mathrm{uniform}),
        \qquad \omega_k = \mathrm{softmax}_x(s_k)

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32, never below those of ``lse`` at sharpness 1 nor of ``pcam`` at temperature 1.

    Reference:
        Wang, Li & Metze, "A Comparison of Five Multiple Instance Learning Pooling Functions for Sound Event Detection
        with Weak Labeling", ICASSP 2019 (there on probabilities).

    Example:
        >>> exp_pool(torch.tensor([[[0.0, math.log(3.0)]]]))                     # weights 1/4 and 3/4: .75 ln 3
        tensor([[0.8240]])
    """
    flat, known = _flat(maps, valid)
    return _weighed(flat, flat, known)


def linear_pool(maps: ClassMaps, valid: Valid | None = None) -> Logits:
    r"""Linear softmax: probabilities weigh themselves.

    .. math:: \ell_k = \mathrm{logit} \frac{\sum_x p_k(x)^2}{\sum_x p_k(x)}
        = \log \sum_x p_k(x)^2 - \log \sum_x p_k(x) (1 - p_k(x)), \qquad p = \sigma(s)

    Computed from log-sigmoids: exact at any size, without a clamp. Its probability is that of PCAM's weights at
    temperature 1, applied to probabilities. It is no weighted mean of ``s``.

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32.

    Reference:
        Wang, Li & Metze, "A Comparison of Five Multiple Instance Learning Pooling Functions for Sound Event Detection
        with Weak Labeling", ICASSP 2019.

    Example:
        >>> linear_pool(torch.tensor([[[0.0, math.log(3.0)]]]))                  # p = 1/2, 3/4: logit(.65)
        tensor([[0.6190]])
    """
    flat, known = _flat(maps, valid)
    yes, no = F.logsigmoid(flat), F.logsigmoid(-flat)
    (top, above), (bottom, below) = _split_logsumexp(2 * yes, known), _split_logsumexp(yes + no, known)
    return (top - bottom) + (above - below)  # in two parts, so that a constant map comes back without rounding


def noisy_or_pool(maps: ClassMaps, valid: Valid | None = None) -> Logits:
    r"""Noisy-or: the image is positive unless every location is negative.

    .. math:: 1 - P_k = \prod_x (1 - \sigma(s_k(x))), \qquad \ell_k = \log(e^{a} - 1), \quad
        a = \sum_x \log(1 + e^{s_k(x)})

    It counts locations: a constant map does not come back as its own logit, and more background is a higher score.

    Args:
        maps: class logit maps, ``(N, K, *grid)``.
        valid: places that count, ``(N, 1, *grid)``; None counts all.

    Returns:
        Image logits, ``(N, K)`` float32, never below ``max(s)``; one location gives its own logit.

    Reference:
        Maron & Lozano-Perez, "A Framework for Multiple-Instance Learning", NIPS 10, 1998.

    Example:
        >>> noisy_or_pool(torch.tensor([[[0.0, math.log(3.0)]]]))                # 1 - 1/2 * 1/4 = 7/8: ln 7
        tensor([[1.9459]])
    """
    flat, known = _flat(maps, valid)
    each = -F.logsigmoid(-flat)
    faint = flat < _FAINT
    low = flat.clamp(max=_FAINT)
    log_each = torch.where(faint, low - low.exp() / 2, torch.where(faint, 1.0, each).log())
    if known is not None:
        each, log_each = each.masked_fill(~known, 0.0), log_each.masked_fill(~known, -math.inf)
    total, log_total = each.sum(-1), log_each.logsumexp(-1)
    return _log_expm1(total, log_total)


def topq_pool(maps: ClassMaps, valid: Valid | None = None, *, fraction: float = 0.02) -> Logits:
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


def pcam_pool(maps: ClassMaps, valid: Valid | None = None, *, temperature: float = 0.5) -> Logits:
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
    return _weighed(flat, F.logsigmoid(flat) / temperature, known)


POOLINGS: dict[str, Callable[..., Tensor]] = {
    "avg": avg_pool,
    "exp": exp_pool,
    "linear": linear_pool,
    "lse": lse_pool,
    "max": max_pool,
    "noisy_or": noisy_or_pool,
    "pcam": pcam_pool,
    "topq": topq_pool,
}
"""Every pooling without weights of its own, by its name; options are keyword arguments, as in
:mod:`lesioncam.options.poolings`. Those with weights are ``LEARNABLE`` in :mod:`lesioncam.models.pooling`."""


def _flat(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Maps as ``(N, K, n)`` in float32 (float64 stays), valid as ``(N, 1, n)``."""
    if maps.dtype in (torch.float16, torch.bfloat16):
        maps = maps.float()
    return maps.flatten(2), None if valid is None else valid.flatten(2)


def _hidden(maps: Tensor, valid: Tensor | None) -> Tensor:
    flat, known = _flat(maps, valid)
    return flat if known is None else flat.masked_fill(~known, -math.inf)


def _weighed(flat: Tensor, evidence: Tensor, known: Tensor | None) -> Tensor:
    """Sum of the maps, weighed by the softmax of the evidence over the places that count."""
    if known is not None:
        evidence, flat = evidence.masked_fill(~known, -math.inf), flat.masked_fill(~known, 0.0)
    return (evidence.softmax(-1) * flat).sum(-1)


def _split_logsumexp(flat: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over places as two terms: the maximum, and what the sum adds to it."""
    if known is not None:
        flat = flat.masked_fill(~known, -math.inf)
    peak = flat.amax(-1, keepdim=True).detach()
    return peak.squeeze(-1), (flat - peak).exp().sum(-1).log()


def _log_expm1(total: Tensor, log_total: Tensor) -> Tensor:
    """``log(exp(a) - 1)`` of ``a >= 0`` and of its logarithm, which stays finite where ``a`` underflows to 0."""
    large, small = total > math.log(2), total < 1e-3
    upper = torch.where(large, total, 1.0)
    middle = torch.where(large | small, 0.5, total)
    high = upper + (-(-upper).exp()).log1p()
    between = middle.expm1().log()
    little = torch.where(small, total, 0.0)
    tiny = log_total + little / 2 + little**2 / 24  # log((e^a - 1) / a), whose next term is a^4 / 2880
    return torch.where(large, high, torch.where(small, tiny, between))


def _share(n: int, fraction: float) -> int:
    return max(1, round(fraction * n))


def _positive(name: str, value: float, instead: str) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}; use {instead}.")
