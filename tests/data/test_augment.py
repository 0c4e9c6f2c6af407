"""Augmentation: sampled and applied apart, the same for image and mask, a function of (seed, epoch, record)."""

import dataclasses

import numpy as np
import pytest
import torch

from lesioncam.data.augment import AugmentParams, apply_augment, apply_placement, sample_augment
from lesioncam.options.data import AugmentConfig

SHAPE = (1, 1, 41, 61)


def dot(row, column):
    images = torch.zeros(SHAPE)
    images[0, 0, row, column] = 1.0
    return images


def place(images):
    heat = images[0, 0]
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in heat.shape), indexing="ij")
    return float((rows * heat).sum() / heat.sum()), float((columns * heat).sum() / heat.sum())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (AugmentParams(), (10, 20)),
        (AugmentParams(flip=True), (10, 40)),
        (AugmentParams(shift=(0.1, -0.2)), (10 + 4.1, 20 - 12.2)),
        (AugmentParams(angle=90.0), (20 + 10, 30 - 10)),  # centre (20, 30): (-10, -10) turns to (10, -10)
        (AugmentParams(scale=0.5), (15, 25)),
    ],
)
def test_a_dot_moves_where_it_should(params, expected):
    assert place(apply_placement([params], dot(10, 20))) == pytest.approx(expected, abs=0.35)


def test_a_mask_moves_with_its_image():
    params = AugmentParams(angle=25.0, shift=(0.05, 0.1), scale=1.1, flip=True)
    disc = torch.zeros(1, 1, 64, 48)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(48), indexing="ij")
    disc[0, 0] = ((rows - 25) ** 2 + (columns - 30) ** 2 < 64).float()
    image = apply_placement([params], disc)
    mask = apply_placement([params], disc, mode="nearest")
    overlap = ((image > 0.5) & (mask > 0.5)).sum() / ((image > 0.5) | (mask > 0.5)).sum()
    assert overlap > 0.9


def test_what_comes_in_from_outside_is_invalid_and_dark():
    images = torch.full(SHAPE, 3.0)
    images[0, 0, 0, 0] = -1.0
    moved, valid = apply_augment([AugmentParams(shift=(0.0, 0.5))], images, torch.ones(SHAPE, dtype=torch.bool))
    assert not valid[0, 0, 20, :29].any()
    assert valid[0, 0, 20, 32:].all()
    assert moved[0, 0, 20, 5].item() == pytest.approx(-1.0, abs=1e-5)


def test_intensity_changes_have_their_closed_forms():
    images = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    valid = torch.ones_like(images, dtype=torch.bool)
    bright, _ = apply_augment([AugmentParams(brightness=0.5)], images, valid)
    strong, _ = apply_augment([AugmentParams(contrast=2.0)], images, valid)
    curved, _ = apply_augment([AugmentParams(gamma=2.0)], images, valid)
    torch.testing.assert_close(bright, images + 0.5)
    torch.testing.assert_close(strong, 2 * images)
    torch.testing.assert_close(curved, images**2 / 4)


def test_noise_has_its_size_and_its_seed():
    images, valid = torch.zeros(1, 1, 100, 100), torch.ones(1, 1, 100, 100, dtype=torch.bool)
    images[0, 0, 0, 0] = 1.0
    one, again, other = (
        apply_augment([AugmentParams(noise=0.1, noise_seed=s)], images, valid)[0] - images for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(0.1, rel=0.05)


def test_draws_follow_from_seed_epoch_and_record_alone():
    draws = {
        key: sample_augment(np.random.default_rng(list(key)), AugmentConfig())
        for key in [(0, 0, 1), (0, 1, 1), (0, 0, 2)]
    }
    assert sample_augment(np.random.default_rng([0, 0, 1]), AugmentConfig()) == draws[0, 0, 1]
    assert len(set(draws.values())) == 3


def test_ranges_are_kept_and_nothing_is_drawn_from_zero_ranges():
    quiet = AugmentConfig(rotation=0, shift=0, scale=0, flip=0, contrast=0, brightness=0, gamma=0, noise=0)
    still = sample_augment(np.random.default_rng(0), quiet)
    assert (still.angle, still.shift, still.scale, still.flip, still.noise) == (0.0, (0.0, 0.0), 1.0, False, 0.0)
    wide = [sample_augment(np.random.default_rng(i), AugmentConfig(rotation=10)) for i in range(200)]
    assert max(abs(p.angle) for p in wide) <= 10
    assert 0.3 < np.mean([p.flip for p in wide]) < 0.7


def test_the_batch_is_the_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    images, valid = torch.randn(3, 1, 20, 30, generator=generator), torch.ones(3, 1, 20, 30, dtype=torch.bool)
    params = [sample_augment(np.random.default_rng(i), AugmentConfig()) for i in range(3)]
    together, _ = apply_augment(params, images, valid)
    apart = torch.cat([apply_augment([p], images[i : i + 1], valid[i : i + 1])[0] for i, p in enumerate(params)])
    torch.testing.assert_close(together, apart)


# ---- cutting out --------------------------------------------------------------------------------------------------

STILL = {"rotation": 0, "shift": 0, "scale": 0, "flip": 0, "contrast": 0, "gamma": 0}
SIZES = [(20, 30), (8, 12, 10)]


def picture(size=(20, 30), count=1, seed=0):
    images = torch.rand((count, 1, *size), generator=torch.Generator().manual_seed(seed))
    for image in images:
        image.view(-1)[0], image.view(-1)[1] = 0.0, 1.0
    return images, torch.ones((count, 1, *size), dtype=torch.bool)


def drawn(seed=0, axes=2, **options):
    return sample_augment(np.random.default_rng(seed), AugmentConfig(**{**STILL, **options}), axes)


@pytest.mark.parametrize("size", SIZES)
def test_a_cut_out_box_takes_the_mean_of_the_body(size):
    images, valid = picture(size)
    images[:, :, :4], valid[..., -2:] = 0.0, False  # air in the first rows, padding in the last columns
    images[valid.logical_not()] = 0.0
    images.view(-1)[-3] = 1.0
    box = ((0.25, 0.75),) * (len(size) - 1) + ((0.5, 1.2),)
    cut = apply_augment([AugmentParams(cutout=box)], images, valid)[0]
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
def test_without_cutting_out_nothing_changes_to_the_bit(size):
    """Neither what else is drawn, nor the image, and an image is not touched by what its neighbours get."""
    axes, old = len(size), {"noise": 0.1, "brightness": 0.1}
    plain = [sample_augment(np.random.default_rng(i), AugmentConfig(**old), axes) for i in range(3)]
    rich = [sample_augment(np.random.default_rng(i), AugmentConfig(**old, cutout=0.4), axes) for i in range(3)]
    for a, b in zip(plain, rich, strict=True):
        assert a.cutout == ()
        assert a == dataclasses.replace(b, cutout=())
    images, valid = picture(size, 3)
    alone, _ = apply_augment(plain, images, valid)
    beside, _ = apply_augment([plain[0], rich[1], plain[2]], images, valid)
    assert torch.equal(alone[[0, 2]], beside[[0, 2]])
    assert not torch.allclose(alone[1], beside[1], atol=1e-2)


@pytest.mark.parametrize("size", SIZES)
def test_a_batch_of_all_changes_is_the_images_one_by_one(size):
    images, valid = picture(size, 4)
    config = AugmentConfig(noise=0.1, brightness=0.1, cutout=0.4)
    params = [sample_augment(np.random.default_rng(i), config, len(size)) for i in range(4)]
    together = apply_augment(params, images, valid)
    for i, p in enumerate(params):
        alone = apply_augment([p], images[i : i + 1], valid[i : i + 1])
        torch.testing.assert_close(together[0][i], alone[0][0], atol=1e-5, rtol=1e-5)
        assert torch.equal(together[1][i], alone[1][0])
    assert torch.equal(together[0], apply_augment(params, images, valid)[0])


@pytest.mark.parametrize("options", [{"cutout": -0.1}, {"cutout": 1.5}, {"noise": -1}])
def test_impossible_strengths_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AugmentConfig(**options)
