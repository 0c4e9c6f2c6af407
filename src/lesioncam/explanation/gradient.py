"""Maps of the score's gradient at the input: integrated gradients and SmoothGrad.

Each function takes ``score``: prepared images ``(M, C, *S)`` to logits ``(M, K)``, differentiable in the images. Only
the gradient at the input is asked for, so no parameter's ``.grad`` changes; gradients are switched on here whatever the
caller runs under. Batches stay within a memory budget. Maps are raw and signed; channels are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.budget import MEMORY, in_batches
from lesioncam.explanation.perturbation import Score, baseline_of

RULES = ("gauss", "midpoint", "trapezoid")
VARIANTS = ("signed", "squared")


@dataclass(frozen=True)
class IntegratedGradients:
    """Options of integrated gradients.

    Attributes:
        steps: points on the way from the baseline to the image.
        rule: where they lie and what they weigh: ``gauss`` (Gauss-Legendre), ``midpoint`` or ``trapezoid``.
        baseline: what the image is compared with: a value, a tensor that broadcasts to ``(N, C, *S)``, or None for the
            mean of the image, channel by channel. 0 is right where the image was prepared so that 0 means nothing.
        tolerance: largest completeness error allowed, logits; None does not check, which saves two forward passes.
        memory: budget of a batch with its graph, bytes.
    """

    steps: int = 50
    rule: Literal["gauss", "midpoint", "trapezoid"] = "gauss"
    baseline: float | Tensor | None = 0.0
    tolerance: float | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise OptionError(f"Unknown rule {self.rule!r}; choose one of {', '.join(RULES)}.")
        if self.steps < (2 if self.rule == "trapezoid" else 1):
            raise OptionError(f"steps={self.steps} are too few for {self.rule}; 50 is usual.")


@dataclass(frozen=True)
class SmoothGrad:
    """Options of SmoothGrad.

    Attributes:
        samples: noisy copies of each image.
        noise: standard deviation as a share of the image's range (largest minus smallest value).
        variant: ``signed`` (the mean of the gradients) or ``squared`` (the mean of their squares).
        seed: of the noise; all images get the same noise, each scaled by its own range.
        generator: draws the noise in place of a fresh one seeded with ``seed``.
        memory: budget of a batch with its graph, bytes.
    """

    samples: int = 50
    noise: float = 0.15
    variant: Literal["signed", "squared"] = "signed"
    seed: int = 0
    generator: torch.Generator | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise OptionError(f"Unknown variant {self.variant!r}; choose one of {', '.join(VARIANTS)}.")
        if self.samples < 1 or not self.noise >= 0:
            raise OptionError(
                f"smoothgrad needs at least one sample and noise >= 0, got samples={self.samples}, noise={self.noise}."
            )


def integrated_gradients(score: Score, images: Tensor, classes: Tensor | None, options: IntegratedGradients) -> Tensor:
    r"""Integrated gradients: what each pixel adds on the straight way from a baseline to the image.

    .. math:: M_k(x) = \sum_c (I_c - B_c)(x) \int_0^1 \frac{\partial \ell_k}{\partial I_c(x)}\big(B + a(I - B)\big)\, da

    Completeness: the map sums to ``score(image) - score(baseline)``, up to the error of the integration, which
    :func:`completeness_error` gives. Of a linear model it is ``weight * (image - baseline)`` exactly.

    Args:
        score: images ``(M, C, *S)`` to logits ``(M, K)``, differentiable.
        images: ``(N, C, *S)``, prepared.
        classes: ``(N,)``, one class per image; None gives all K from the same forward passes.
        options: see :class:`IntegratedGradients`.

    Returns:
        ``(N, K, *S)`` float32, or ``(N, 1, *S)`` with classes, in logits.

    Raises:
        ModelError: if the score has no gradient at the image, or the completeness error exceeds the tolerance.

    Reference:
        Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017.

    Example:
        >>> square = lambda x: (x**2).flatten(1).sum(1, keepdim=True)     # from 0: exactly the squares
        >>> maps = integrated_gradients(square, torch.tensor([[[1.0, 2.0, 3.0]]]), None, IntegratedGradients(steps=4))
        >>> maps.round(decimals=3)
        tensor([[[1., 4., 9.]]])
    """
    with _differentiating():
        images, classes = _plain(images), None if classes is None else classes.clone()
        start_at = baseline_of(images, options.baseline)
        way = images - start_at
        places, shares = (each.to(images.device) for each in _quadrature(options.rule, options.steps))
        shape = (-1,) + (1,) * (images.ndim - 1)

        def step(start: int, stop: int) -> tuple[Tensor, Tensor]:
            row = torch.arange(start, stop, device=images.device)
            owner, point = row.div(options.steps, rounding_mode="floor"), row % options.steps
            inputs = start_at[owner] + way[owner] * places[point].view(shape).to(images.dtype)
            weight = way[owner].float() * shares[point].view(shape)
            found = _gradients(score, inputs, None if classes is None else classes[owner])
            return owner, torch.stack([(gradient.float() * weight).sum(1) for gradient in found], 1)

        maps: Tensor | None = None
        for owner, part in in_batches(len(images) * options.steps, step, options.memory):
            if maps is None:
                maps = part.new_zeros(len(images), *part.shape[1:])
            maps.index_add_(0, owner, part)
        assert maps is not None
    if options.tolerance is not None:
        _check_complete(completeness_error(score, images, classes, maps, options), options)
    return maps


def completeness_error(
    score: Score, images: Tensor, classes: Tensor | None, maps: Tensor, options: IntegratedGradients
) -> Tensor:
    """How far the sum of each map is from ``score(image) - score(baseline)``: the error of the integration.

    Args:
        score: as given to :func:`integrated_gradients`.
        images: likewise.
        classes: likewise.
        maps: what it returned, ``(N, K, *S)`` or ``(N, 1, *S)``.
        options: likewise.

    Returns:
        ``(N, K)`` or ``(N, 1)`` float32, logits; more steps make it smaller.

    Example:
        >>> cube, image = lambda x: (x**3).flatten(1).sum(1, keepdim=True), torch.tensor([[[1.0, 2.0]]])
        >>> coarse = IntegratedGradients(steps=1, rule="midpoint")       # 3 x (1/2)^2 instead of 1: 3/4 of each cube
        >>> completeness_error(cube, image, None, integrated_gradients(cube, image, None, coarse), coarse)
        tensor([[-2.2500]])
    """
    images = images.detach()
    start_at = baseline_of(images, options.baseline)

    def both(start: int, stop: int) -> Tensor:
        rise = score(images[start:stop]).float() - score(start_at[start:stop].contiguous()).float()
        return rise if classes is None else rise.gather(1, classes[start:stop, None])

    with torch.no_grad():
        return maps.flatten(2).sum(2) - torch.cat(list(in_batches(len(images), both, options.memory)))


def smoothgrad(score: Score, images: Tensor, classes: Tensor | None, options: SmoothGrad) -> Tensor:
    r"""SmoothGrad: the gradient at the input, averaged over noisy copies of the image.

    .. math:: M_k(x) = \frac{1}{n} \sum_i \sum_c \frac{\partial \ell_k}{\partial I_c(x)}(I + \epsilon_i), \qquad
        \epsilon_i \sim N(0, \sigma^2)

    with each gradient squared before the sums in the ``squared`` variant. Of a linear model the signed map is its
    weight exactly, whatever the noise.

    Args:
        score: images ``(M, C, *S)`` to logits ``(M, K)``, differentiable.
        images: ``(N, C, *S)``, prepared.
        classes: ``(N,)``, one class per image; None gives all K from the same forward passes.
        options: see :class:`SmoothGrad`.

    Returns:
        ``(N, K, *S)`` float32, or ``(N, 1, *S)`` with classes: logits per unit of the image (squared: its square).

    Raises:
        ModelError: if the score has no gradient at the image.

    Reference:
        Smilkov et al., "SmoothGrad: removing noise by adding noise", arXiv:1706.03825, 2017; squared: Hooker et al.,
        "A benchmark for interpretability methods in deep neural networks", NeurIPS 2019.

    Example:
        >>> weight = torch.tensor([[[1.0, -2.0, 3.0]]])
        >>> smoothgrad(lambda x: (x * weight).flatten(1).sum(1, keepdim=True), torch.rand(1, 1, 3), None, SmoothGrad())
        tensor([[[ 1., -2.,  3.]]])
    """
    with _differentiating():
        images, classes = _plain(images), None if classes is None else classes.clone()
        flat = images.flatten(1)
        spread = options.noise * (flat.amax(1) - flat.amin(1))
        generator = options.generator or torch.Generator().manual_seed(options.seed)

        def step(start: int, stop: int) -> Tensor:
            """Sums over these samples, ``(N, K, *S)``; all images see the same noise."""
            noise = _noise(generator, stop - start, images)
            found = []
            for n, image in enumerate(images):
                chosen = None if classes is None else classes[n].expand(stop - start)
                each = _gradients(score, image + spread[n] * noise, chosen)
                found.append(torch.stack([_summed(gradient.float(), options.variant) for gradient in each]))
            return torch.stack(found)

        total: Tensor | None = None
        for part in in_batches(options.samples, step, options.memory):
            total = part if total is None else total.add_(part)
        assert total is not None
        return total / options.samples


@contextmanager
def _differentiating() -> Iterator[None]:
    """Gradients on, whatever the caller runs under; without leaving inference mode, no graph can be built."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def _plain(images: Tensor) -> Tensor:
    """The images free of any graph, and no longer inference tensors."""
    return images.detach().clone()


def _gradients(score: Score, inputs: Tensor, classes: Tensor | None) -> Iterator[Tensor]:
    """Gradients ``(M, C, *S)`` of each class's score, one after the other; one forward pass for all."""
    inputs = inputs.detach().requires_grad_()
    scores = score(inputs)
    if classes is not None:
        scores = scores.gather(1, classes[:, None])
    if not scores.requires_grad:
        raise ModelError(
            "the score has no gradient at the image: the model detaches it or runs without gradients inside. "
            "Use occlusion or rise, which need none."
        )
    last = scores.shape[1] - 1
    for k in range(last + 1):
        yield torch.autograd.grad(scores[:, k].sum(), inputs, retain_graph=k < last)[0]


def _quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Points in [0, 1] and their weights, which sum to 1."""
    if rule == "gauss":
        points, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (points + 1) / 2, weights / 2
    elif rule == "midpoint":
        points, weights = (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    else:
        points, weights = np.linspace(0, 1, steps), np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
    return torch.from_numpy(points).float(), torch.from_numpy(weights).float()


def _check_complete(error: Tensor, options: IntegratedGradients) -> None:
    worst = float(error.abs().max())
    if not worst <= float(options.tolerance or 0.0):
        raise ModelError(
            f"the map misses the difference of the scores by {worst:.3g} logits, more than {options.tolerance:g}; "
            f"take more than {options.steps} steps."
        )


def _noise(generator: torch.Generator, count: int, images: Tensor) -> Tensor:
    """Standard normal noise ``(count, C, *S)``, drawn sample by sample: the same whatever the batches."""
    shape = images.shape[1:]
    drawn = [torch.randn(shape, generator=generator, device=generator.device) for _ in range(count)]
    return torch.stack(drawn).to(images.device, images.dtype)


def _summed(gradient: Tensor, variant: str) -> Tensor:
    """Gradients ``(M, C, *S)`` summed over samples and channels."""
    return (gradient.square() if variant == "squared" else gradient).sum((0, 1))
