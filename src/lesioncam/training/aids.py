"""Aids against shortcuts: second views and erasing. Randomness follows from (seed, step) alone.

Everything is written once for images and volumes. Places are pixels of the network input, in array order; a cell of a
class map lies where it looks (:func:`lesioncam.models.backbone.measure_origin`), not in the middle of its tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesioncam.functional.losses import equivariance_loss
from lesioncam.geometry import plane_rotation
from lesioncam.models.backbone import measure_origin
from lesioncam.models.classifier import Classifier
from lesioncam.models.layout import channels_last
from lesioncam.options.run import RunConfig
from lesioncam.options.training import AidsConfig
from lesioncam.types import Batch, ClassifierOutput

_STREAM = 104_729  # keeps these draws apart from order and augmentation
_WHOLE = 0.99  # a place counts as image where all but a hundredth of what it is interpolated from is


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Draws of one training step.

    Example:
        >>> step_rng(0, 7).random() == step_rng(0, 7).random() != step_rng(0, 8).random()
        True
    """
    return np.random.default_rng([seed, step, _STREAM])


def stretch(aids: AidsConfig) -> float:
    """How many times the passes of plain training a step takes, roughly.

    Example:
        >>> stretch(AidsConfig()), stretch(AidsConfig(equivariance=1, erasing=0.5))
        (1.0, 2.3)
    """
    return (2.0 if aids.equivariance else 1.0) + (0.3 if aids.erasing else 0.0)


# ---- where cells look ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a class map look: cell ``i`` at input pixel ``origin + i * stride``, per axis."""

    origin: tuple[float, ...]
    stride: float

    def places(self, grid: Sequence[int]) -> Tensor:
        """Input pixels of all cells, ``(*grid, axes)``.

        Example:
            >>> Lattice((1.5,), 4).places((3,)).flatten()
            tensor([1.5000, 5.5000, 9.5000])
        """
        return _points(grid) * self.stride + torch.tensor(self.origin)


def lattice_of(network: Classifier, channels: int) -> Lattice:
    """Where the class maps of a classifier look."""
    return Lattice(measure_origin(network.backbone, channels), network.backbone.stride)


def _points(sides: Sequence[int]) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in sides), indexing="ij"), dim=-1)


# ---- a second view -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warp:
    """One affine change per image: pixel ``p`` of the new image shows ``matrix @ (p - c - shift) + c`` of the old one.

    Attributes:
        matrix: ``(N, axes, axes)``.
        shift: ``(N, axes)``, pixels.
        sides: of the image; ``c`` is its middle.
    """

    matrix: Tensor
    shift: Tensor
    sides: tuple[int, ...]

    def back(self, places: Tensor) -> Tensor:
        """Where pixels ``(*grid, axes)`` of the new images lie in the old ones, ``(N, *grid, axes)``.

        No matrix product: under autocast it would round to whole pixels.
        """
        single = (len(self.matrix),) + (1,) * (places.ndim - 1)
        middle = (torch.tensor(self.sides, dtype=torch.float32, device=self.matrix.device) - 1) / 2
        away = places.to(middle.device) - middle - self.shift.view(*single, -1)
        turned = self.matrix.view(*single, *self.matrix.shape[1:]) * away[..., None, :]
        return turned.sum(-1) + middle


def draw_warp(rng: np.random.Generator, count: int, sides: Sequence[int], config: RunConfig) -> Warp:
    """Draw one change per image: turned (volumes about all three axes), scaled, shifted, mirrored left to right.

    Args:
        rng: of the step.
        count: N.
        sides: of the input.
        config: ``aids``, and the chance ``flip`` of ``augment``: 0 where laterality is the finding.
    """
    aids, axes = config.aids, len(sides)
    matrices = []
    for _ in range(count):
        turn = np.eye(axes)
        for first, second in itertools.combinations(range(axes), 2):
            angle = math.radians(rng.uniform(-1, 1) * aids.equivariance_rotation)
            turn = turn @ plane_rotation(axes, first, second, angle)
        turn[:, -1] *= -1.0 if rng.random() < config.augment.flip else 1.0
        matrices.append(turn / math.exp(rng.uniform(-1, 1) * math.log1p(aids.equivariance_scale)))
    shift = rng.uniform(-1, 1, (count, axes)) * aids.equivariance_shift * np.array(sides)
    return Warp(torch.from_numpy(np.stack(matrices)).float(), torch.from_numpy(shift).float(), tuple(sides))


def warp_images(warp: Warp, batch: Batch, outside: float | None = None) -> Batch:
    """The warped view of a batch; what comes in from outside takes the image's lowest value and is not valid."""
    places = warp.back(_points(warp.sides))
    low = batch.images.amin(tuple(range(1, batch.images.ndim)), keepdim=True)
    base = low if outside is None else torch.full_like(low, outside)
    images = _sample(batch.images - base, places) + base
    valid = _sample(batch.valid.to(images.dtype), places) >= _WHOLE
    return replace(batch, images=images, valid=valid)


def second_view(batch: Batch, rng: np.random.Generator, config: RunConfig) -> tuple[Batch, Warp]:
    """A batch followed by its warped self: twice as many images, which share the statistics of batch norms."""
    drawn = draw_warp(rng, len(batch.images), batch.images.shape[2:], config)
    device = batch.images.device
    warp = Warp(drawn.matrix.to(device), drawn.shift.to(device), drawn.sides)
    other = warp_images(warp, batch, config.augment.outside)
    pairs = ((getattr(batch, name), getattr(other, name)) for name in ("images", "valid", "labels", "index"))
    return Batch(*(torch.cat(pair) for pair in pairs)), warp


def disagreement(output: ClassifierOutput, valid: Tensor, warp: Warp, lattice: Lattice, config: RunConfig) -> Tensor:
    """How far the class maps of the second views are from the warped class maps of the first, a scalar.

    Args:
        output: of a batch that :func:`second_view` made.
        valid: ``(2N, 1, *S)`` bool, of that batch.
        warp: from there.
        lattice: where cells look.
        config: ``aids.equivariance_stop``; whether classes exclude each other.
    """
    first, second = output.class_maps.chunk(2)
    grid = first.shape[2:]
    device = first.device
    origin = torch.tensor(lattice.origin, device=device)
    cells = (warp.back(lattice.places(grid)) - origin) / lattice.stride
    mine, theirs = (F.interpolate(part.float(), grid, mode="area") >= _WHOLE for part in valid.chunk(2))
    known = _sample(mine.float(), cells) >= _WHOLE  # zeros lie beyond the outer cells
    target = _sample(first.detach() if config.aids.equivariance_stop else first, cells)
    return equivariance_loss(second, target, known & theirs, exclusive=config.softmax)


def _sample(maps: Tensor, places: Tensor) -> Tensor:
    """Linear interpolation of ``(N, C, *S)`` at places ``(N, *grid, axes)`` in pixels, array order; zeros outside."""
    sides = torch.tensor(maps.shape[2:], dtype=torch.float32, device=places.device)
    grid = ((2 * places + 1) / sides - 1).flip(-1).to(maps.dtype)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# ---- erasing -------------------------------------------------------------------------------------------------------


def hottest(maps: Tensor, labels: Tensor, valid: Tensor, share: float) -> Tensor:
    """The hottest cells of the classes an image has, united.

    Args:
        maps: ``(N, K, *grid)``.
        labels: ``(N, K)``; classes above .5 count, unknown ones do not.
        valid: ``(N, 1, *grid)`` bool; other cells are never hot.
        share: of the valid cells, for each class, rounded up.

    Returns:
        ``(N, 1, *grid)`` bool.

    Example:
        >>> maps, valid = torch.tensor([[[[0.0, 3.0, 2.0, 9.0]]]]), torch.tensor([[[[True, True, True, False]]]])
        >>> hottest(maps, torch.ones(1, 1), valid, share=0.3)
        tensor([[[[False,  True, False, False]]]])
    """
    inside = valid.flatten(2)
    heat = torch.where(inside, maps.flatten(2).float(), -torch.inf)
    rank = heat.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    wanted = (share * inside.sum(-1, keepdim=True)).ceil()
    hot = (rank < wanted) & inside & (labels > 0.5)[..., None]
    return hot.any(1, keepdim=True).unflatten(-1, maps.shape[2:])


def erase(batch: Batch, hot: Tensor, lattice: Lattice) -> Batch:
    """Paint over the pixels nearest to hot cells with the mean of the image's valid pixels, per channel.

    Args:
        batch: images, valid.
        hot: ``(N, 1, *grid)`` bool.
        lattice: where cells look.

    Reference:
        Wei et al., "Object region mining with adversarial erasing: a simple classification to semantic segmentation
        approach", CVPR 2017. There regions are erased by networks trained one after the other; here by the network
        itself, as it trains.
    """
    spread = hot
    for axis, (side, cells, first) in enumerate(
        zip(batch.images.shape[2:], hot.shape[2:], lattice.origin, strict=True)
    ):
        nearest = ((torch.arange(side) - first) / lattice.stride + 0.5).floor().long().clamp(0, cells - 1)
        spread = spread.index_select(axis + 2, nearest.to(hot.device))
    axes = tuple(range(2, batch.images.ndim))
    share = batch.valid.to(batch.images.dtype)
    mean = (batch.images * share).sum(axes, keepdim=True) / share.sum(axes, keepdim=True).clamp(min=1)
    return replace(batch, images=torch.where(spread & batch.valid, mean, batch.images))


def erase_hottest(batch: Batch, network: nn.Module, lattice: Lattice, draws: np.ndarray, aids: AidsConfig) -> Batch:
    """Erase what the network looks at now, in the images whose draw lies below ``aids.erasing``.

    The network looks as it would in use: no dropout, and its batch norms learn nothing from it.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            output = network(channels_last(batch.images), batch.valid)
    finally:
        for module, mode in modes:
            module.training = mode
    hot = hottest(output.class_maps, batch.labels, output.valid, aids.erasing_share)
    chosen = torch.from_numpy(draws < aids.erasing).to(hot.device)
    return erase(batch, hot & chosen.view(-1, *(1,) * (hot.ndim - 1)), lattice)
