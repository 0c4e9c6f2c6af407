"""Random changes of volumes: each kind by hand, and slice by slice the same as in 2D."""

import math

import numpy as np
import pytest
import torch

from lesioncam.data.augment import AugmentParams, apply_augment, apply_placement, sample_augment
from lesioncam.options.data import AugmentConfig


def ball(place, shape=(24, 30, 36), width=2.0):
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), dim=-1)
    return torch.exp(-0.5 * ((grid - torch.tensor(place)) ** 2).sum(-1) / width**2)[None, None]


def centre(volume):
    weights = volume[0, 0]
    grid = torch.stack(torch.meshgrid(*map(torch.arange, weights.shape), indexing="ij"), dim=-1)
    return ((grid * weights[..., None]).sum((0, 1, 2)) / weights.sum()).tolist()


PLACE = (10.0, 18.0, 12.0)
MIDDLE = np.array([11.5, 14.5, 17.5])


def test_a_flip_exchanges_left_and_right_only():
    moved = apply_placement([AugmentParams(flip=True)], ball(PLACE))
    assert centre(moved) == pytest.approx((10, 18, 35 - 12), abs=0.05)


def test_a_shift_is_a_share_of_each_side():
    moved = apply_placement([AugmentParams(shift=(0.125, -0.1, 0.25))], ball(PLACE))
    assert centre(moved) == pytest.approx((10 + 3, 18 - 3, 12 + 9), abs=0.05)


def test_a_scale_moves_away_from_the_middle():
    moved = apply_placement([AugmentParams(scale=1.25)], ball(PLACE, width=1.5))
    assert centre(moved) == pytest.approx(MIDDLE + 1.25 * (np.array(PLACE) - MIDDLE), abs=0.1)


@pytest.mark.parametrize(("params", "axis"), [({"angle": 30.0}, 0), ({"tilt": (30.0, 0)}, 2), ({"tilt": (0, 30.0)}, 1)])
def test_a_turn_keeps_the_distance_to_its_axis(params, axis):
    """About the axis of the slices, of the columns' direction, of the rows' direction: lengths in voxels stay."""
    moved = np.array(centre(apply_placement([AugmentParams(**params)], ball(PLACE)))) - MIDDLE
    before = np.array(PLACE) - MIDDLE
    others = [a for a in range(3) if a != axis]
    assert moved[axis] == pytest.approx(before[axis], abs=0.1)
    assert math.hypot(*moved[others]) == pytest.approx(math.hypot(*before[others]), abs=0.1)
    angle = math.atan2(*moved[others]) - math.atan2(*before[others])
    assert abs((math.degrees(angle) + 180) % 360 - 180) == pytest.approx(30, abs=1)


def test_without_tilt_every_slice_moves_as_an_image_does():
    volume = torch.rand(2, 1, 5, 20, 28)
    params = [AugmentParams(angle=12, shift=(0.1, -0.05), scale=1.1, flip=True), AugmentParams(angle=-20, scale=0.9)]
    flat = torch.stack([apply_placement(params, volume[:, :, d]) for d in range(5)], dim=2)
    turned = [AugmentParams(p.angle, (0.0, *p.shift), 1.0, p.flip) for p in params]
    flat_unscaled = torch.stack(
        [
            apply_placement([AugmentParams(p.angle, p.shift, 1.0, p.flip) for p in params], volume[:, :, d])
            for d in range(5)
        ],
        dim=2,
    )
    assert torch.allclose(apply_placement(turned, volume), flat_unscaled, atol=1e-5)
    assert not torch.allclose(apply_placement(turned, volume), flat, atol=1e-2)  # a scale acts through the slices too


def test_what_comes_in_is_invalid_and_dark():
    images, valid = 1 + torch.rand(1, 2, 8, 8, 8), torch.ones(1, 1, 8, 8, 8, dtype=torch.bool)
    moved, inside = apply_augment([AugmentParams(shift=(0.25, 0.0, 0.0))], images, valid)
    assert not inside[0, 0, :2].any()
    assert inside[0, 0, 2:].all()
    assert torch.allclose(moved[0, :, :2], images.min(), atol=1e-5)
    assert torch.allclose(moved[0, :, 2:], images[0, :, :-2], atol=1e-5)


def test_draws_repeat_and_images_keep_their_own():
    config = AugmentConfig()
    flat, volume = (sample_augment(np.random.default_rng([1, 2]), config, axes) for axes in (2, 3))
    assert (flat.angle, flat.scale, flat.flip) == (volume.angle, volume.scale, volume.flip)
    assert flat.shift == volume.shift[1:]
    assert volume == sample_augment(np.random.default_rng([1, 2]), config, 3)
    assert any(abs(t) > 0 for t in volume.tilt)
