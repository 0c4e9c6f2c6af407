"""Random changes of training images: sampled by one function, applied by a deterministic twin.

So a change can be logged, repeated, and done to image and mask alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesioncam.config import AugmentConfig

__all__ = ["AugmentParams", "apply_augment", "apply_placement", "sample_augment"]


@dataclass(frozen=True)
class AugmentParams:
    """What happens to one image.

    Attributes:
        angle: degrees, counter-clockwise on the screen.
        shift: (down, right), share of the side.
        scale: above 1 enlarges.
        flip: left-right mirror.
        contrast: gain above the image's darkest value, which stays where it is.
        brightness: added after it, in units of the normalised image.
        gamma: exponent on the image's own range.
        noise: standard deviation, in units of the normalised image.
        noise_seed: of the noise field.
    """

    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    flip: bool = False
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0


def sample_augment(rng: np.random.Generator, config: AugmentConfig) -> AugmentParams:
    """Draw what happens to one image.

    Example:
        >>> a, b = (sample_augment(np.random.default_rng([0, 3, 7]), AugmentConfig()) for _ in range(2))
        >>> a == b
        True
    """

    def either_side(width: float) -> float:
        return float(rng.uniform(-width, width))

    return AugmentParams(
        angle=either_side(config.rotation),
        shift=(either_side(config.shift), either_side(config.shift)),
        scale=math.exp(either_side(math.log1p(config.scale))),
        flip=bool(rng.random() < config.flip),
        contrast=math.exp(either_side(math.log1p(config.contrast))),
        brightness=either_side(config.brightness),
        gamma=math.exp(either_side(math.log1p(config.gamma))),
        noise=float(rng.uniform(0, config.noise)),
        noise_seed=int(rng.integers(2**31)),
    )


def apply_augment(params: Sequence[AugmentParams], images: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Do it to a batch.

    Args:
        params: one per image.
        images: ``(N, C, H, W)`` float32.
        valid: ``(N, 1, H, W)`` bool; what is moved in from outside becomes invalid and takes the image's lowest value.

    Returns:
        Images and valid, same shapes.

    Example:
        >>> images, valid = torch.arange(4.0).view(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
        >>> apply_augment([AugmentParams(flip=True)], images, valid)[0]
        tensor([[[[1., 0.],
                  [3., 2.]]]])
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp(min=1e-6)
    moved = apply_placement(params, images - low) + low
    gamma, contrast, brightness = (
        torch.tensor([getattr(p, name) for p in params]).view(-1, 1, 1, 1)
        for name in ("gamma", "contrast", "brightness")
    )
    moved = ((moved - low) / span).clamp(0, 1).pow(gamma) * span + low
    moved = (moved - low) * contrast + low + brightness + _noise(params, images.shape[1:])
    return moved, apply_placement(params, valid.float(), mode="nearest") > 0.5


def apply_placement(params: Sequence[AugmentParams], maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Only the geometric part, for maps and masks (``mode="nearest"``); zeros come in from outside."""
    theta = torch.stack([_theta(p, maps.shape[-2:]) for p in params])
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode=mode, padding_mode="zeros", align_corners=False)


def _theta(params: AugmentParams, size: Sequence[int]) -> Tensor:
    """Output to input coordinates in [-1, 1], in pixels so that a rotation of a non-square image stays one."""
    angle = math.radians(params.angle)
    cos, sin, (height, width) = math.cos(angle), math.sin(angle), size
    mirror = -1.0 if params.flip else 1.0
    down, right = params.shift
    matrix = (
        torch.tensor([[mirror * cos, -mirror * sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
        / params.scale
    )
    matrix[:, 2] = matrix[:, :2] @ torch.tensor([-2 * right, -2 * down])
    return matrix


def _noise(params: Sequence[AugmentParams], shape: Sequence[int]) -> Tensor:
    fields = [
        torch.randn(tuple(shape), generator=torch.Generator().manual_seed(p.noise_seed)) * p.noise
        if p.noise > 0
        else torch.zeros(tuple(shape))
        for p in params
    ]
    return torch.stack(fields)
