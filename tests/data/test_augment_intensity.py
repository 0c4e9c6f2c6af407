"""Histogram, shading, focus and cut-out: closed forms, ends that stay, and no change to the bit at strength zero."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from lesioncam.data.augment import AugmentParams, apply_augment, sample_augment
from lesioncam.options.data import AugmentConfig

STILL = {"rotation": 0, "shift": 0, "scale": 0, "flip": 0, "contrast": 0, "gamma": 0}
NEW = {"histogram": 0.8, "bias_field": 0.5, "defocus": 1.5, "sharpen": 1.0, "coarse": 1.0, "cutout": 0.4}
SIZES = [(20, 30), (8, 12, 10)]


def picture(size=(20, 30), count=1, seed=0):
    images = torch.rand((count, 1, *size), generator=torch.Generator().manual_seed(seed))
    for image in images:
        image.view(-1)[0], image.view(-1)[1] = 0.0, 1.0
    return images, torch.ones((count, 1, *size), dtype=torch.bool)


def changed(images, valid, **params):
    return apply_augment([AugmentParams(**params)] * len(images), images, valid)[0]


def drawn(seed=0, axes=2, **options):
    return sample_augment(np.random.default_rng(seed), AugmentConfig(**{**STILL, **options}), axes)


def test_knots_are_straight_lines_with_both_ends_fixed():
    images = torch.tensor([[[[0.0, 1.0, 2.0], [2.5, 3.0, 4.0]]]])
    valid = torch.ones_like(images, dtype=torch.bool)
    warped = changed(images, valid, knots=((0.25, 0.5), (0.5, 0.6)))  # of the range 0 to 4
    torch.testing.assert_close(warped, torch.tensor([[[[0.0, 2.0, 2.4], [2.8, 3.2, 4.0]]]]))


@pytest.mark.parametrize("seed", range(20))
def test_drawn_warps_rise_and_keep_their_ends(seed):
    knots = np.array(drawn(seed, histogram=1.0).knots)
    assert knots.shape == (4, 2)
    assert (np.diff(knots, axis=0) >= 0).all()
    assert (knots >= 0).all()
    assert (knots <= 1).all()
    ramp = torch.linspace(0, 1, 200).view(1, 1, 10, 20)
    warped = changed(ramp, ramp >= 0, knots=drawn(seed, histogram=1.0).knots).flatten()
    assert (warped.diff() >= 0).all()
    assert (float(warped[0]), float(warped[-1])) == pytest.approx((0, 1), abs=1e-6)
    np.testing.assert_allclose(warped, np.interp(ramp.flatten(), [0, *knots[:, 0], 1], [0, *knots[:, 1], 1]), atol=1e-5)


def test_the_strength_of_a_warp_bounds_it():
    far = {s: max(abs(b - a) for seed in range(50) for a, b in drawn(seed, histogram=s).knots) for s in (0.1, 0.5, 1.0)}
    assert far[0.1] <= 0.1
    assert far[0.1] < far[0.5] < far[1.0] <= 1


@pytest.mark.parametrize("size", SIZES)
def test_shading_is_a_bounded_gain_that_leaves_the_darkest_value(size):
    (images, valid), spreads = picture(size), []
    for seed in range(10):
        weights = drawn(seed, len(size), bias_field=0.5).shading
        assert len(weights) == {2: 5, 3: 9}[len(size)]
        assert sum(map(abs, weights)) <= math.log(1.5)
        gain = (changed(images, valid, shading=weights) / images)[images > 0.05]
        assert float(gain.min()) >= 1 / 1.5 - 1e-4
        assert float(gain.max()) <= 1.5 + 1e-4
        spreads.append(float(gain.std()))
        assert float(changed(images, valid, shading=weights).flatten()[0]) == pytest.approx(0, abs=1e-5)
    assert max(spreads) > 0.05


def test_shading_by_hand():
    """Weights in the order of degrees (0,1), (0,2), (1,0), (1,1), (2,0) along rows and columns."""
    images, valid = torch.ones(1, 1, 3, 5), torch.ones(1, 1, 3, 5, dtype=torch.bool)
    images[0, 0, 1, 2] = 0.0  # the darkest, so that ones have a range
    x, y = np.linspace(-1, 1, 5)[None], np.linspace(-1, 1, 3)[:, None]
    field = 0.1 * x + 0.2 * (3 * x**2 - 1) / 2 + 0.3 * y + 0.05 * x * y - 0.1 * (3 * y**2 - 1) / 2
    shaded = changed(images, valid, shading=(0.1, 0.2, 0.3, 0.05, -0.1))
    np.testing.assert_allclose(shaded[0, 0], np.exp(field) * images[0, 0].numpy(), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_defocus_is_a_gaussian(size):
    images, valid = picture(size)
    blurred = changed(images, valid, defocus=1.2)
    slow = ndimage.gaussian_filter(images[0, 0].numpy(), 1.2, mode="nearest", radius=5)
    np.testing.assert_allclose(blurred[0, 0], slow, atol=1e-5)


def test_sharpening_adds_what_a_blur_takes():
    images, valid = picture((40, 40))
    images = 0.5 + 0.1 * (images - 0.5)  # far from the ends of the range
    images[0, 0, 0, 0], images[0, 0, -1, -1] = 0.0, 1.0
    sharp, soft = changed(images, valid, sharpen=0.7), changed(images, valid, defocus=1.0)
    middle = (0, 0, slice(8, -8), slice(8, -8))
    torch.testing.assert_close(sharp[middle], images[middle] + 0.7 * (images - soft)[middle])
    assert float(changed(images, valid, sharpen=50.0).min()) >= 0
    assert float(changed(images, valid, sharpen=50.0).max()) <= 1


def test_coarse_pixels_are_means_of_blocks():
    images, valid = picture((8, 12))
    coarse = changed(images, valid, coarse=1.0)
    blocks = images[0, 0].view(4, 2, 6, 2).mean((1, 3))
    slow = ndimage.zoom(blocks.numpy(), 2, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(coarse[0, 0], slow, atol=1e-6)
    volume, inside = picture((8, 6, 4))
    assert float(changed(volume, inside, coarse=7.0).std()) < 0.1  # one, one and one pixel: their mean
    assert torch.allclose(changed(volume, inside, coarse=7.0), volume.mean(), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_cut_out_box_takes_the_mean_of_the_body(size):
    images, valid = picture(size)
    images[:, :, :4], valid[..., -2:] = 0.0, False  # air in the first rows, padding in the last columns
    images[valid.logical_not()] = 0.0
    images.view(-1)[-3] = 1.0
    box = ((0.25, 0.75),) * (len(size) - 1) + ((0.5, 1.2),)
    cut = changed(images, valid, cutout=box)
    inside = torch.zeros_like(valid)
    inside[(0, 0, *(slice(round(a * n), round(b * n)) for (a, b), n in zip(box, size, strict=True)))] = True
    mean = images[valid & (images > 0.05)].mean()
    assert torch.allclose(cut[inside & valid], mean)
    torch.testing.assert_close(cut[~(inside & valid)], images[~(inside & valid)])


def test_boxes_are_no_larger_than_asked_for_and_lie_anywhere():
    boxes = np.array([drawn(seed, cutout=0.3).cutout for seed in range(200)])
    sides, middles = boxes[..., 1] - boxes[..., 0], boxes.mean(-1)
    assert sides.min() > 0
    assert 0.25 < sides.max() <= 0.3
    assert (np.histogram(middles, bins=4, range=(0, 1))[0] > 60).all()  # 100 each


@pytest.mark.parametrize("size", SIZES)
def test_strength_zero_changes_nothing_to_the_bit(size):
    """Neither what else is drawn, nor the image, and an image is not touched by what its neighbours get."""
    axes, old = len(size), {"noise": 0.1, "brightness": 0.1}
    plain = [sample_augment(np.random.default_rng(i), AugmentConfig(**old), axes) for i in range(3)]
    rich = [sample_augment(np.random.default_rng(i), AugmentConfig(**old, **NEW), axes) for i in range(3)]
    for a, b in zip(plain, rich, strict=True):
        assert (a.knots, a.shading, a.cutout, a.defocus, a.sharpen, a.coarse) == ((), (), (), 0.0, 0.0, 0.0)
        for name in ("angle", "shift", "scale", "flip", "tilt", "contrast", "gamma", "brightness", "noise_seed"):
            assert getattr(a, name) == getattr(b, name)
    images, valid = picture(size, 3)
    alone, _ = apply_augment(plain, images, valid)
    beside, _ = apply_augment([plain[0], rich[1], plain[2]], images, valid)
    assert torch.equal(alone[[0, 2]], beside[[0, 2]])
    assert not torch.allclose(alone[1], beside[1], atol=1e-2)


@pytest.mark.parametrize("name", sorted(NEW))
def test_one_option_does_not_move_the_draws_of_the_others(name):
    everything, one = drawn(3, **NEW), drawn(3, **{name: NEW[name]})
    held = {"histogram": "knots", "bias_field": "shading"}.get(name, name)
    assert getattr(one, held) == getattr(everything, held)
    assert getattr(one, held) != getattr(drawn(4, **NEW), held)


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_all_changes_is_the_images_one_by_one(size):
    images, valid = picture(size, 4)
    params = [sample_augment(np.random.default_rng(i), AugmentConfig(noise=0.1, **NEW), len(size)) for i in range(4)]
    together = apply_augment(params, images, valid)
    for i, p in enumerate(params):
        alone = apply_augment([p], images[i : i + 1], valid[i : i + 1])
        torch.testing.assert_close(together[0][i], alone[0][0], atol=1e-5, rtol=1e-5)
        assert torch.equal(together[1][i], alone[1][0])
    assert torch.equal(together[0], apply_augment(params, images, valid)[0])


@pytest.mark.parametrize("options", [{"histogram": 1.5}, {"cutout": -0.1}, {"defocus": -1}, {"bias_field": -0.2}])
def test_impossible_strengths_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AugmentConfig(**options)
