"""Random changes of training images: sampled by one function, applied by a deterministic twin.

So a change can be logged, repeated, and done to image and mask alike. Volumes are turned about all three axes, shifted,
scaled, and mirrored left to right only: nobody's feet are where the head is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesioncam.geometry import plane_rotation
from lesioncam.options.data import AugmentConfig

_BODY = 0.05  # of the image's range above its darkest value: brighter is no air


@dataclass(frozen=True)
class AugmentParams:
    """What happens to one image.

    Attributes:
        angle: degrees, counter-clockwise on the screen; of a volume, within each slice.
        shift: (down, right), share of the side; of a volume (through the slices, down, right).
        scale: above 1 enlarges.
        flip: left-right mirror.
        contrast: gain above the image's darkest value, which stays where it is.
        brightness: added after it, in units of the normalised image.
        gamma: exponent on the image's own range.
        noise: standard deviation, in units of the normalised image.
        noise_seed: of the noise field.
        outside: what is moved in; None is the image's lowest value.
        tilt: of a volume, degrees about the axis along its rows (a nod) and about the one down its columns.
        cutout: (start, stop) per axis, shares of the side, painted over with the body's mean; () is none.
    """

    angle: float = 0.0
    shift: tuple[float, ...] = (0.0, 0.0)
    scale: float = 1.0
    flip: bool = False
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    noise_seed: int = 0
    outside: float | None = None
    tilt: tuple[float, float] = (0.0, 0.0)
    cutout: tuple[tuple[float, float], ...] = ()


def sample_augment(rng: np.random.Generator, config: AugmentConfig, axes: int = 2) -> AugmentParams:
    """Draw what happens to one image (2 axes) or volume (3).

    Example:
        >>> a, b = (sample_augment(np.random.default_rng([0, 3, 7]), AugmentConfig()) for _ in range(2))
        >>> a == b
        True
    """

    def either_side(width: float) -> float:
        return float(rng.uniform(-width, width))

    drawn = AugmentParams(
        angle=either_side(config.rotation),
        shift=(either_side(config.shift), either_side(config.shift)),
        scale=math.exp(either_side(math.log1p(config.scale))),
        flip=bool(rng.random() < config.flip),
        contrast=math.exp(either_side(math.log1p(config.contrast))),
        brightness=either_side(config.brightness),
        gamma=math.exp(either_side(math.log1p(config.gamma))),
        noise=float(rng.uniform(0, config.noise)),
        noise_seed=int(rng.integers(2**31)),
        outside=config.outside,
    )
    if axes != 2:
        through, tilt = either_side(config.shift), (either_side(config.rotation), either_side(config.rotation))
        drawn = replace(drawn, shift=(through, *drawn.shift), tilt=tilt)
    return replace(drawn, cutout=_sample_box(rng, config.cutout, axes))  # last: the draws above do not hang on it


def _sample_box(rng: np.random.Generator, largest: float, axes: int) -> tuple[tuple[float, float], ...]:
    """A box with its middle anywhere; what hangs over the border is cut off."""
    middles, sides = rng.random(axes), rng.uniform(0, largest, axes)
    box = ((float(m - s / 2), float(m + s / 2)) for m, s in zip(middles, sides, strict=True))
    return tuple(box) if largest else ()


def apply_augment(params: Sequence[AugmentParams], images: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Do it to a batch.

    Args:
        params: one per image.
        images: ``(N, C, *S)`` float32, two or three axes. In this order they are placed; curved by gamma;
            multiplied by contrast; brightness and noise added; cut out.
        valid: ``(N, 1, *S)`` bool; what is moved in from outside becomes invalid and takes the image's lowest value,
            or ``outside``.

    Returns:
        Images and valid, same shapes.

    Example:
        >>> images, valid = torch.arange(4.0).view(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
        >>> apply_augment([AugmentParams(flip=True)], images, valid)[0]
        tensor([[[[1., 0.],
                  [3., 2.]]]])
    """
    axes, single = tuple(range(1, images.ndim)), (-1,) + (1,) * (images.ndim - 1)
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    span = (high - low).clamp(min=1e-6)
    base = _outside(params, low)
    moved = apply_placement(params, images - base) + base
    gamma, contrast, brightness = (
        torch.tensor([getattr(p, name) for p in params]).view(single) for name in ("gamma", "contrast", "brightness")
    )
    moved = ((moved - low) / span).clamp(0, 1).pow(gamma) * span + low
    moved = (moved - low) * contrast + low + brightness
    moved = moved + _noise(params, images.shape[1:])
    valid = apply_placement(params, valid.float(), mode="nearest") > 0.5
    return _cut_out(params, moved, valid, low), valid


def apply_placement(params: Sequence[AugmentParams], maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Only the geometric part, for maps and masks (``mode="nearest"``); zeros come in from outside."""
    place = _theta if maps.ndim == 4 else _theta_3d
    theta = torch.stack([place(p, maps.shape[2:]) for p in params])
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


def _outside(params: Sequence[AugmentParams], low: Tensor) -> Tensor:
    """What is moved into each image, in the shape of its lowest values."""
    if all(p.outside is None for p in params):
        return low
    own = [float(lowest) if p.outside is None else p.outside for p, lowest in zip(params, low.flatten(), strict=True)]
    return low.new_tensor(own).view_as(low)


def _theta_3d(params: AugmentParams, size: Sequence[int]) -> Tensor:
    """The same in 3D: coordinates are (x, y, z), and a volume that is not tilted is turned slice by slice as in 2D."""
    about_z, about_x, about_y = (math.radians(angle) for angle in (params.angle, *params.tilt))
    planes = ((0, 1, about_z), (1, 2, about_x), (2, 0, about_y))
    first, second, third = (torch.from_numpy(plane_rotation(3, *plane)).float() for plane in planes)
    turn = first @ second @ third
    mirror = torch.tensor([-1.0 if params.flip else 1.0, 1.0, 1.0])
    sides = torch.tensor([float(n) for n in reversed(size)])
    matrix = mirror[:, None] * turn * sides[None] / sides[:, None] / params.scale
    through, down, right = params.shift if len(params.shift) == 3 else (0.0, *params.shift)
    return torch.cat([matrix, (matrix @ torch.tensor([-2 * right, -2 * down, -2 * through]))[:, None]], dim=1)


def _noise(params: Sequence[AugmentParams], shape: Sequence[int]) -> Tensor:
    fields = [
        torch.randn(tuple(shape), generator=torch.Generator().manual_seed(p.noise_seed)) * p.noise
        if p.noise > 0
        else torch.zeros(tuple(shape))
        for p in params
    ]
    return torch.stack(fields)


def _cut_out(params: Sequence[AugmentParams], images: Tensor, valid: Tensor, low: Tensor) -> Tensor:
    """Each box takes the mean of the body, channel by channel; padding stays as it is."""
    if not any(p.cutout for p in params):
        return images
    images = images.clone()
    for p, image, inside, darkest in zip(params, images, valid[:, 0], low.flatten(), strict=True):
        if not p.cutout:
            continue
        box = tuple(
            slice(max(0, round(a * n)), max(0, round(b * n)))
            for (a, b), n in zip(p.cutout, image.shape[1:], strict=True)
        )
        painted = torch.zeros_like(inside)
        painted[box] = inside[box]
        for channel in image:
            bright = channel[inside & (channel > darkest + _BODY * (channel.amax() - darkest))]
            if len(bright):
                channel[painted] = bright.mean()
    return images
