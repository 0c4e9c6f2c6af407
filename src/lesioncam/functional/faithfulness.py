"""Faithfulness of a map: does the score follow the pixels the map points at? Deletion, insertion and ROAD.

Each function takes one image ``(C, *S)``, one map ``(*S)`` on its grid and ``score``: images ``(M, C, *S)`` to the
score ``(M,)`` of the class the map is of. A flat map, or one that is not finite, ranks nothing: its curves are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import cg
from torch import Tensor

from lesioncam.errors import GeometryError, OptionError

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """How the score goes while pixels change.

    Attributes:
        shares: ``(T,)`` of the pixels changed so far, rising from 0 to 1.
        values: ``(T,)`` the score; NaN where the map ranks nothing.
    """

    shares: np.ndarray
    values: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve by trapezoids, in units of the score; NaN where the map ranks nothing.

        Example:
            >>> Curve(np.array([0.0, 0.5, 1.0]), np.array([4.0, 1.0, 0.0])).area       # (5/2 + 1/2) / 2
            1.5
        """
        return float(np.trapezoid(self.values, self.shares))


@dataclass(frozen=True)
class Road:
    """The score after a share of the pixels was removed and filled in again.

    Attributes:
        shares: ``(T,)`` of the pixels removed.
        most_first: ``(T,)`` the score when the highest of the map go; NaN where the map ranks nothing.
        least_first: ``(T,)`` the score when the lowest go.
    """

    shares: np.ndarray
    most_first: np.ndarray
    least_first: np.ndarray

    @property
    def gap(self) -> float:
        """Mean of ``least_first - most_first``: above 0 the map finds what the score depends on.

        Example:
            >>> Road(np.array([0.2, 0.4]), np.array([1.0, 0.0]), np.array([2.0, 2.0])).gap
            1.5
        """
        return float(np.mean(self.least_first - self.most_first))


def deletion(
    score: Score, image: Tensor, heatmap: Tensor, *, steps: int = 32, baseline: float | Tensor = 0.0, batch: int = 16
) -> Curve:
    r"""Deletion: the score while pixels are taken away, the hottest first; a faithful map makes it fall early.

    .. math:: v_t = f(\mathrm{image\ without\ its\ } \mathrm{round}(tP/T) \mathrm{\ hottest\ pixels}), \quad t = 0 .. T

    Args:
        score: images ``(M, C, *S)`` to ``(M,)``.
        image: ``(C, *S)``.
        heatmap: ``(*S)``; of equal values the lower index goes first.
        steps: ``T``.
        baseline: what is left where a pixel was taken: a value or a tensor that broadcasts to the image.
        batch: images per call of the score.

    Returns:
        The curve over ``T + 1`` shares; a small ``area`` is good.

    Raises:
        GeometryError: if image and map have different grids.

    Reference:
        Petsiuk, Das & Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.

    Example:
        >>> total = lambda x: x.flatten(1).sum(1)
        >>> image = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
        >>> deletion(total, image, image[0], steps=4).values.tolist()
        [10.0, 6.0, 3.0, 1.0, 0.0]
    """
    gone = torch.as_tensor(baseline, dtype=image.dtype, device=image.device).expand_as(image)
    return _curve(score, image, gone, heatmap, steps=steps, batch=batch)


def insertion(
    score: Score,
    image: Tensor,
    heatmap: Tensor,
    *,
    steps: int = 32,
    start: float | Tensor | None = None,
    batch: int = 16,
) -> Curve:
    """Insertion: the score while pixels are put into a blurred image, the hottest first.

    Args:
        score: images ``(M, C, *S)`` to ``(M,)``.
        image: ``(C, *S)``.
        heatmap: ``(*S)``; of equal values the lower index goes first.
        steps: number of steps.
        start: what the pixels are put into: a value or a tensor that broadcasts to the image; None blurs the image
            (:func:`blurred`), so that no hard edge is shown.
        batch: images per call of the score.

    Returns:
        The curve over ``steps + 1`` shares; a large ``area`` is good.

    Raises:
        GeometryError: if image and map have different grids.

    Reference:
        Petsiuk, Das & Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.

    Example:
        >>> total = lambda x: x.flatten(1).sum(1)
        >>> image = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
        >>> curve = insertion(total, image, image[0], steps=4, start=0.0)
        >>> curve.values.tolist(), curve.area
        ([0.0, 4.0, 7.0, 9.0, 10.0], 6.25)
    """
    first = blurred(image) if start is None else torch.as_tensor(start, dtype=image.dtype, device=image.device)
    return _curve(score, first.expand_as(image), image, heatmap, steps=steps, batch=batch)


def road(
    score: Score,
    image: Tensor,
    heatmap: Tensor,
    *,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    seed: int = 0,
    batch: int = 16,
) -> Road:
    """ROAD: remove pixels and fill the holes from their surroundings, so that the shape of the hole tells nothing.

    Blanked pixels betray where they were; a network can read the class off the hole. Here they are imputed
    (:func:`impute`), once removing the highest of the map first and once the lowest.

    Args:
        score: images ``(M, C, *S)`` to ``(M,)``.
        image: ``(C, *S)``.
        heatmap: ``(*S)``; of equal values the lower index goes first.
        shares: of the pixels to remove, in (0, 1).
        noise: as in :func:`impute`.
        seed: of the noise.
        batch: images per call of the score.

    Returns:
        The scores of both orders; a large ``gap`` is good.

    Raises:
        GeometryError: if image and map have different grids.
        OptionError: if a share is not inside (0, 1).

    Reference:
        Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022.

    Example:
        >>> total = lambda x: x.flatten(1).sum(1)
        >>> image = torch.tensor([[0.0, 8.0, 0.0, 0.0]])
        >>> found = road(total, image, image[0], shares=[0.25], noise=0.0)       # the 8 is filled with (0 + 0) / 2
        >>> found.most_first.round(6).tolist(), found.least_first.round(6).tolist()
        ([0.0], [8.0])
    """
    if not all(0 < share < 1 for share in shares):
        raise OptionError(f"shares of removed pixels lie inside (0, 1), got {tuple(shares)}.")
    _expect_grid(image, heatmap)
    if not _ranks(heatmap):
        unknown = np.full(len(shares), np.nan)
        return Road(np.array(shares), unknown, unknown)
    generator = torch.Generator().manual_seed(seed)
    rank, pixels = _rank(heatmap), heatmap.numel()
    counts = [max(1, round(share * pixels)) for share in shares]
    removed = [rank < count for count in counts] + [rank >= pixels - count for count in counts]
    filled = (impute(image, hole, noise=noise, generator=generator) for hole in removed)
    values = _scores(score, filled, batch)
    return Road(np.array(shares), values[: len(counts)], values[len(counts) :])


def impute(image: Tensor, removed: Tensor, *, noise: float = 0.01, generator: torch.Generator | None = None) -> Tensor:
    r"""Noisy linear imputation: each removed pixel becomes the weighted mean of its neighbours, and a little noise.

    .. math:: \sum_j w_{ij} (x_j - x_i) = 0 \quad \text{for every removed } i, \qquad w_{ij} = 1 / |i - j|^2

    over the neighbours in the 3 x 3 (x 3) block that lie inside the image: in 2D the paper's weights, 1/6 beside and
    1/12 across a corner. All removed pixels are solved for at once, by conjugate gradients; what is known stays. An
    image that grows evenly is restored exactly inside. With every pixel removed the image's mean is all there is.

    Args:
        image: ``(C, *S)``.
        removed: ``(*S)`` bool.
        noise: standard deviation as a share of the image's range, added to removed pixels.
        generator: of the noise; None is a fresh one with seed 0.

    Returns:
        ``(C, *S)``, as the image.

    Reference:
        Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022.

    Example:
        >>> hole = torch.tensor([False, True, True, False])
        >>> impute(torch.tensor([[1.0, 0.0, 0.0, 4.0]]), hole, noise=0.0).round(decimals=3)
        tensor([[1., 2., 3., 4.]])
    """
    _expect_grid(image, removed)
    hole = removed.detach().cpu().numpy().astype(bool)
    out = image.detach().cpu().double().numpy().copy()
    if not hole.any():
        return image.detach().clone()
    out[:, hole] = _solved(out, hole)
    filled = torch.from_numpy(out).to(image.device, image.dtype)
    draws = torch.randn(image.shape, generator=generator or torch.Generator().manual_seed(0))
    spread = noise * (image.max() - image.min())
    return torch.where(removed.to(image.device), filled + spread * draws.to(image.device, image.dtype), filled)


def blurred(image: Tensor, sigma: float = 5.0) -> Tensor:
    """The image with details washed out: a Gaussian over every spatial axis, mirrored at the border.

    Args:
        image: ``(C, *S)``.
        sigma: standard deviation, pixels; 5 is the paper's at 224 x 224.

    Returns:
        ``(C, *S)``.

    Example:
        >>> blurred(torch.full((1, 4, 4), 2.0)).unique()
        tensor([2.])
    """
    width = (0.0,) + (sigma,) * (image.ndim - 1)
    smooth = gaussian_filter(image.detach().cpu().float().numpy(), width, mode="reflect")
    return torch.from_numpy(smooth).to(image.device, image.dtype)


def _curve(score: Score, start: Tensor, end: Tensor, heatmap: Tensor, *, steps: int, batch: int) -> Curve:
    """Scores while pixels of ``start`` become those of ``end`` in the order of the map."""
    if steps < 1:
        raise OptionError(f"a curve needs at least one step, got {steps}.")
    _expect_grid(end, heatmap)
    shares = np.arange(steps + 1) / steps
    if not _ranks(heatmap):
        return Curve(shares, np.full(steps + 1, np.nan))
    rank = _rank(heatmap).to(start.device)
    counts = [round(share * heatmap.numel()) for share in shares]
    return Curve(shares, _scores(score, (torch.where(rank < count, end, start) for count in counts), batch))


def _scores(score: Score, images: Iterator[Tensor], batch: int) -> np.ndarray:
    """Scores of images made one by one, ``(T,)`` float64; no more than a batch of them exists at once."""
    found, waiting = [], []
    with torch.inference_mode():
        for image in images:
            waiting.append(image)
            if len(waiting) == batch:
                found.append(score(torch.stack(waiting)).reshape(len(waiting)))
                waiting = []
        if waiting:
            found.append(score(torch.stack(waiting)).reshape(len(waiting)))
    return torch.cat(found).double().cpu().numpy()


def _ranks(heatmap: Tensor) -> bool:
    """Whether the map tells one pixel from another."""
    return bool(heatmap.isfinite().all()) and bool(heatmap.max() > heatmap.min())


def _rank(heatmap: Tensor) -> Tensor:
    """Place of each pixel in the order from hot to cold, ``(*S)`` int64; ties by index."""
    order = heatmap.detach().flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank.view(heatmap.shape)


def _expect_grid(image: Tensor, grid: Tensor) -> None:
    if tuple(image.shape[1:]) != tuple(grid.shape):
        raise GeometryError(
            f"the map is {tuple(grid.shape)} and the image {tuple(image.shape[1:])}; resize the map to the image first."
        )


def _solved(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Values of the removed pixels, ``(C, removed)`` float64."""
    known = image[:, ~hole]
    count = int(hole.sum())
    if not known.size:
        return np.repeat(image.reshape(len(image), -1).mean(1)[:, None], count, axis=1)
    degree, pairs, right = _equations(image, hole)
    rows, columns, weights = (np.concatenate(each) for each in zip(*pairs, strict=True))
    links = coo_array((-weights, (rows, columns)), shape=(count, count)).tocsr()
    matrix = links + diags_array(degree)
    guess = known.mean(1)
    solved = [
        cg(matrix, b - matrix @ np.full(count, start), rtol=1e-10, M=diags_array(1 / degree))[0] + start
        for b, start in zip(right, guess, strict=True)
    ]
    return np.stack(solved)


def _equations(
    image: np.ndarray, hole: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]], np.ndarray]:
    """Sum of weights of each removed pixel, its links to other removed ones, and what the known ones give it."""
    count = int(hole.sum())
    number = np.zeros(hole.shape, dtype=np.int64)
    number[hole] = np.arange(count)
    degree, right, pairs = np.zeros(count), np.zeros((len(image), count)), []
    for offset in product((-1, 0, 1), repeat=hole.ndim):
        if not any(offset):
            continue
        weight = 1 / sum(step * step for step in offset)
        here, there = _overlap(hole.shape, offset)
        degree[number[here][hole[here]]] += weight
        both, edge = hole[here] & hole[there], hole[here] & ~hole[there]
        pairs.append((number[here][both], number[there][both], np.full(int(both.sum()), weight)))
        right[:, number[here][edge]] += weight * image[(slice(None), *there)][:, edge]
    return degree, pairs, right


def _overlap(shape: Sequence[int], offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The pixels that have a neighbour at this offset, and those neighbours."""
    here = tuple(slice(max(0, -step), side - max(0, step)) for side, step in zip(shape, offset, strict=True))
    there = tuple(slice(max(0, step), side - max(0, -step)) for side, step in zip(shape, offset, strict=True))
    return here, there
