"""Maps from perturbed images: what the score does when parts of the image are hidden. Score-CAM, occlusion, RISE.

Each function takes ``score``: prepared images ``(M, C, *S)`` to logits ``(M, K)``. All classes come from the same
forward passes, which run in batches within a memory budget and without gradients; an image of a batch gets the map it
would get alone. Maps are raw and signed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lesioncam.errors import OptionError
from lesioncam.explanation.budget import MEMORY, in_batches
from lesioncam.geometry import resize

Score = Callable[[Tensor], Tensor]
ScoreKind = Literal["logit", "probability"]

_FLAT = 1e-6
"""A channel whose range is no more than this share of its largest value varies by rounding only."""


@dataclass(frozen=True)
class ScoreCam:
    """Options of Score-CAM.

    Attributes:
        temperature: of the softmax over channels, in units of the score; 1 is the paper's. Over logits the softmax is
            often near one-hot; a larger value lets more channels speak.
        score: the softmax is over ``logit`` (paper) or ``probability`` (sigmoid of the logit).
        memory: budget of a batch of masked images and its forward pass, bytes.
    """

    temperature: float = 1.0
    score: ScoreKind = "logit"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        _known_score(self.score)
        if not self.temperature > 0:
            raise OptionError(f"temperature must be positive, got {self.temperature}; 1 is the paper's.")


@dataclass(frozen=True)
class Occlusion:
    """Options of occlusion.

    Attributes:
        patch: side of the window, pixels: one number, one per axis, or None for an eighth of the image's side.
        stride: pixels between windows, likewise; None for half the patch. The last window always ends at the border.
        baseline: what a window is filled with: a value, a tensor that broadcasts to ``(N, C, *S)``, or None for the
            mean of the image, channel by channel. Black is a good filling only where air is black.
        score: the drop is measured in ``logit`` or in ``probability`` (sigmoid of the logit).
        memory: budget of a batch of occluded images and its forward pass, bytes.
    """

    patch: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    baseline: float | Tensor | None = None
    score: ScoreKind = "logit"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        _known_score(self.score)


@dataclass(frozen=True)
class Rise:
    """Options of RISE.

    Attributes:
        masks: how many; the error falls with the root of their number.
        cells: of the coarse grid along each axis of the image.
        keep: chance of a cell to be kept.
        centred: subtract the mean score first. The mean score is the same everywhere but for the chance of the masks,
            so this takes away noise and a constant, and nothing else.
        score: ``logit`` or ``probability`` (sigmoid of the logit).
        seed: of the masks; all images see the same ones.
        generator: draws the masks in place of a fresh one seeded with ``seed``.
        memory: budget of a batch of masked images and its forward pass, bytes.
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    centred: bool = False
    score: ScoreKind = "logit"
    seed: int = 0
    generator: torch.Generator | None = None
    memory: int = MEMORY

    def __post_init__(self) -> None:
        _known_score(self.score)
        if self.masks < 1 or self.cells < 1:
            raise OptionError(f"rise needs at least one mask of one cell, got masks={self.masks}, cells={self.cells}.")
        if not 0 < self.keep < 1:
            raise OptionError(f"keep is the chance of a cell to be kept, inside (0, 1); got {self.keep}.")


def scorecam(score: Score, images: Tensor, activations: Tensor, classes: Tensor | None, options: ScoreCam) -> Tensor:
    r"""Score-CAM: each channel counts by the score of the image seen through it.

    .. math:: M_k = \sum_c w_{kc} A_c, \qquad w_k = \mathrm{softmax}_c(\ell_k(x \odot H_c) / T)

    with :math:`H_c` the channel resized to the image (linear, half-pixel centres) and scaled to [0, 1]. The score of a
    baseline image, which the paper subtracts, cancels in the softmax. Flat channels are skipped: they hide nothing. An
    image without any other gets a map of zeros. The paper's final ReLU is left to the display.

    Args:
        score: images ``(M, C, *S)`` to logits ``(M, K)``.
        images: ``(N, C, *S)``, prepared.
        activations: ``(N, channels, *s)`` of these images at the layer looked at.
        classes: ``(N,)``, one class per image; None gives all K from the same forward passes.
        options: see :class:`ScoreCam`.

    Returns:
        ``(N, K, *s)`` float32, or ``(N, 1, *s)`` with classes.

    Reference:
        Wang et al., "Score-CAM: Score-weighted visual explanations for convolutional neural networks", CVPR Workshops
        2020.

    Example:
        >>> bright = lambda x: x.flatten(2).mean(2)                         # the score is the mean of the image
        >>> cells = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[5.0, 5.0]]]])    # left, right, a flat channel
        >>> image = torch.tensor([[[[3.0, 1.0]]]])
        >>> scorecam(bright, image, cells, None, ScoreCam())                # softmax(3/2, 1/2)
        tensor([[[[0.7311, 0.2689]]]])
    """
    images, activations = images.detach(), activations.detach().float()
    number, channels = activations.shape[:2]
    cells = activations.flatten(0, 1)
    varied = _varied(cells)
    rows = varied.nonzero().flatten()

    def ask(start: int, stop: int) -> Tensor:
        chosen = rows[start:stop]
        owner = chosen.div(channels, rounding_mode="floor")
        seen = images.index_select(0, owner)
        seen.mul_(_unit_masks(cells[chosen], images.shape[2:]).to(seen.dtype))
        return _read(score(seen), _of(classes, owner), options.score)

    with torch.inference_mode():
        parts = list(in_batches(len(rows), ask, options.memory))
        found = torch.cat(parts) if parts else _read(score(images[:1]), _of(classes, slice(1)), options.score)[:0]
    with torch.no_grad(), _full_precision(cells):
        table = found.new_full((len(cells), found.shape[1]), -math.inf)
        table[rows] = found / options.temperature
        weights = table.unflatten(0, (number, channels)).softmax(1)
        weights = weights.masked_fill(~varied.view(number, channels, 1), 0.0)
        counted = torch.where(varied.view(-1, *[1] * (cells.ndim - 1)), cells, 0.0).view_as(activations)
        return torch.einsum("nck,nc...->nk...", weights, counted)


def occlusion(score: Score, images: Tensor, classes: Tensor | None, options: Occlusion) -> Tensor:
    r"""Occlusion: how far the score falls when a window that covers the place is blanked out.

    .. math:: M_k(x) = \mathrm{mean}_{w \ni x}\, [\ell_k(\mathrm{image}) - \ell_k(\mathrm{image\ without\ } w)]

    Every place is covered, and the mean is over the windows that cover it, so borders are on the same scale as the
    middle. Of a linear model, with a patch of one pixel and the baseline 0, it is ``weight * image`` exactly.

    Args:
        score: images ``(M, C, *S)`` to logits ``(M, K)``.
        images: ``(N, C, *S)``, prepared.
        classes: ``(N,)``, one class per image; None gives all K from the same forward passes.
        options: see :class:`Occlusion`.

    Returns:
        ``(N, K, *S)`` float32, or ``(N, 1, *S)`` with classes; in units of the score.

    Raises:
        OptionError: if patch or stride do not suit the image.

    Reference:
        Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.

    Example:
        >>> double = lambda x: 2 * x.flatten(1).sum(1, keepdim=True)
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> occlusion(double, image, None, Occlusion(patch=1, baseline=0.0))
        tensor([[[[2., 4.],
                  [6., 8.]]]])
    """
    images, filling = images.detach(), baseline_of(images.detach(), options.baseline)
    windows = _all_windows(images, options)
    counts = [len(each) for each in windows]
    places = math.prod(counts)

    def ask(start: int, stop: int) -> Tensor:
        row = torch.arange(start, stop, device=images.device)
        owner = row.div(places, rounding_mode="floor")
        hidden = _window_masks(windows, torch.unravel_index(row % places, counts))
        return _read(score(torch.where(hidden, filling[owner], images[owner])), _of(classes, owner), options.score)

    def ask_whole(start: int, stop: int) -> Tensor:
        return _read(score(images[start:stop]), _of(classes, slice(start, stop)), options.score)

    with torch.inference_mode():
        whole = torch.cat(list(in_batches(len(images), ask_whole, options.memory)))
        left = torch.cat(list(in_batches(len(images) * places, ask, options.memory)))
    with torch.no_grad(), _full_precision(images):
        return _mean_over_windows(whole[:, None] - left.unflatten(0, (len(images), places)), windows)


def rise(score: Score, images: Tensor, classes: Tensor | None, options: Rise) -> Tensor:
    r"""RISE: the mean of random masks, each weighted by the score of the image seen through it.

    .. math:: M_k(x) = \frac{1}{p\,n} \sum_i \ell_k(\mathrm{image} \odot m_i)\, m_i(x)

    an estimate of the expected score given that the place is seen. A mask is a grid of cells, each kept with chance
    ``p``, interpolated linearly and shifted by a random part of a cell. The grid is drawn two nodes wider than the
    image, so that no place is special: every pixel, those at the border too, has the mean ``p`` and the same variance.
    The shift is continuous (the paper's is in whole pixels). Centred, the mean score is taken off first, which leaves
    the covariance of score and mask over ``p``.

    Args:
        score: images ``(M, C, *S)`` to logits ``(M, K)``.
        images: ``(N, C, *S)``, prepared; what a mask hides becomes 0.
        classes: ``(N,)``, one class per image; None gives all K from the same forward passes.
        options: see :class:`Rise`.

    Returns:
        ``(N, K, *S)`` float32, or ``(N, 1, *S)`` with classes; in units of the score.

    Reference:
        Petsiuk, Das & Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.

    Example:
        >>> left = lambda x: x[:, 0, :, :4].sum((1, 2))[:, None]              # the score looks at the left half
        >>> maps = rise(left, torch.ones(1, 1, 8, 8), None, Rise(masks=500, cells=8, centred=True))
        >>> bool(maps[..., :4].mean() > 3 * maps[..., 4:].mean().abs())
        True
    """
    images, size = images.detach(), images.shape[2:]
    grids, shifts = _draw_grids(options, len(size), images.device)

    def ask(start: int, stop: int) -> Tensor:
        row = torch.arange(start, stop, device=images.device)
        owner, drawn = row.div(options.masks, rounding_mode="floor"), row % options.masks
        seen = images.index_select(0, owner)
        with _full_precision(images):
            seen.mul_(_smooth_masks(grids[drawn], shifts[drawn], size)[:, None].to(seen.dtype))
        return _read(score(seen), _of(classes, owner), options.score)

    with torch.inference_mode():
        found = torch.cat(list(in_batches(len(images) * options.masks, ask, options.memory)))
    with torch.no_grad(), _full_precision(images):
        weights = found.unflatten(0, (len(images), options.masks)).transpose(1, 2)
        if options.centred:
            weights = weights - weights.mean(2, keepdim=True)
        return _weighted_masks(weights / (options.keep * options.masks), grids, shifts, size, options.memory)


def baseline_of(images: Tensor, value: float | Tensor | None) -> Tensor:
    """What takes the place of the image: ``(N, C, *S)``, of the images' own type.

    Args:
        images: ``(N, C, *S)``.
        value: a number, a tensor that broadcasts to the images, or None for each image's mean, channel by channel.

    Raises:
        OptionError: if a tensor does not broadcast to the images.

    Example:
        >>> baseline_of(torch.tensor([[[[1.0, 3.0]]]]), None)
        tensor([[[[2., 2.]]]])
    """
    if value is None:
        space = tuple(range(2, images.ndim))
        return images.mean(space, keepdim=True).expand_as(images)
    filling = torch.as_tensor(value, dtype=images.dtype, device=images.device).detach()
    try:
        return filling.expand_as(images)
    except RuntimeError:
        raise OptionError(
            f"the baseline is {tuple(filling.shape)} and the images are {tuple(images.shape)}; give a number, or a "
            f"tensor that broadcasts, such as (1, {images.shape[1]}{', 1' * (images.ndim - 2)})."
        ) from None


def _known_score(score: str) -> None:
    if score not in ("logit", "probability"):
        raise OptionError(f"Unknown score {score!r}; choose 'logit' or 'probability'.")


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Autocast is for the network: masks and sums stay in float32."""
    return torch.autocast(tensor.device.type, enabled=False)


def _of(classes: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    return None if classes is None else classes[rows]


def _read(scores: Tensor, classes: Tensor | None, kind: ScoreKind) -> Tensor:
    """Scores ``(M, K)``, or ``(M, 1)`` of the class of each row, float32."""
    scores = scores.float()
    if classes is not None:
        scores = scores.gather(1, classes[:, None])
    return scores.sigmoid() if kind == "probability" else scores


def _varied(cells: Tensor) -> Tensor:
    """Which maps ``(M, *s)`` hold more than one value, beyond rounding, and no infinity: ``(M,)`` bool."""
    flat = cells.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    return (high - low > _FLAT * torch.maximum(low.abs(), high.abs())) & (high - low).isfinite()


def _unit_masks(cells: Tensor, size: Sequence[int]) -> Tensor:
    """Channels ``(M, *s)`` resized and scaled to [0, 1] each, ``(M, 1, *size)``."""
    masks = resize(cells[:, None], size)
    shape = (-1,) + (1,) * (masks.ndim - 1)
    low, high = (end.view(shape) for end in masks.flatten(1).aminmax(dim=1))
    span = (high - low).clamp(min=torch.finfo(masks.dtype).tiny)
    return masks.sub_(low).div_(span)


def _all_windows(images: Tensor, options: Occlusion) -> list[Tensor]:
    """Per axis, which pixels each window hides, ``(windows, side)`` bool."""
    size = images.shape[2:]
    patches = _per_axis("patch", options.patch, [max(1, round(side / 8)) for side in size])
    strides = _per_axis("stride", options.stride, [max(1, patch // 2) for patch in patches])
    found = []
    for side, patch, stride in zip(size, patches, strides, strict=True):
        if not 1 <= stride <= patch <= side:
            raise OptionError(
                f"a patch of {patch} at a stride of {stride} does not cover a side of {side} pixels; "
                "it needs 1 <= stride <= patch <= side."
            )
        starts = torch.tensor(sorted({*range(0, side - patch, stride), side - patch}), device=images.device)
        pixel = torch.arange(side, device=images.device)
        found.append((pixel >= starts[:, None]) & (pixel < starts[:, None] + patch))
    return found


def _per_axis(name: str, given: int | Sequence[int] | None, default: list[int]) -> list[int]:
    if given is None:
        return default
    chosen = [given] * len(default) if isinstance(given, int) else list(given)
    if len(chosen) != len(default):
        raise OptionError(f"{name} has {len(chosen)} numbers and the image has {len(default)} axes; give one per axis.")
    return chosen


def _window_masks(windows: Sequence[Tensor], index: Sequence[Tensor]) -> Tensor:
    """The windows at these places (one index per axis), ``(M, 1, *S)`` bool."""
    axes = len(windows)
    mask = torch.ones((1,) * (axes + 2), dtype=torch.bool, device=windows[0].device)
    for axis, (window, where) in enumerate(zip(windows, index, strict=True)):
        shape = [len(where)] + [1] * (axes + 1)
        shape[axis + 2] = window.shape[1]
        mask = mask & window[where].view(shape)
    return mask


def _mean_over_windows(drops: Tensor, windows: Sequence[Tensor]) -> Tensor:
    """Drops ``(N, places, K)`` to the mean over the windows that cover each pixel, ``(N, K, *S)``."""
    total = drops.unflatten(1, [len(window) for window in windows])
    for window in windows:
        share = window.to(drops.dtype) / window.sum(0)
        total = torch.tensordot(total, share, dims=([1], [0]))
    return total


def _draw_grids(options: Rise, axes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """All coarse grids ``(masks, *nodes)`` bool and their shifts ``(masks, axes)`` in cells, whatever the batches."""
    generator = options.generator or torch.Generator().manual_seed(options.seed)
    grid = (options.cells + 2,) * axes
    kept = torch.rand((options.masks, *grid), generator=generator, device=generator.device) < options.keep
    shifts = torch.rand((options.masks, axes), generator=generator, device=generator.device)
    return kept.to(device), shifts.to(device)


def _smooth_masks(grids: Tensor, shifts: Tensor, size: Sequence[int]) -> Tensor:
    """Grids ``(M, *nodes)`` shifted and interpolated linearly, ``(M, *size)`` float32; nothing is clamped."""
    masks, nodes = grids.float(), grids.shape[-1]
    node = torch.arange(nodes, device=grids.device)
    for axis, side in enumerate(size):
        pixel = (torch.arange(side, device=grids.device) + 0.5) * ((nodes - 2) / side)
        reach = (pixel + shifts[:, axis, None])[:, None] - node[:, None]
        rest = masks.shape[2:]
        masks = torch.bmm(masks.flatten(2).mT if rest else masks[:, None], (1 - reach.abs()).clamp_(min=0))
        masks = masks.unflatten(1, rest) if rest else masks[:, 0]
    return masks


def _weighted_masks(weights: Tensor, grids: Tensor, shifts: Tensor, size: Sequence[int], memory: int) -> Tensor:
    """Sum of the masks with weights ``(N, K, masks)``: ``(N, K, *size)``. Masks are made again, which costs little."""
    total = weights.new_zeros(weights.shape[0] * weights.shape[1], math.prod(size))
    flat = weights.flatten(0, 1)
    some = min(256, max(1, memory // (16 * math.prod(size))))
    for start in range(0, len(grids), some):
        part = slice(start, start + some)
        total.addmm_(flat[:, part], _smooth_masks(grids[part], shifts[part], size).flatten(1))
    return total.view(*weights.shape[:2], *size)
