"""Augmentation: sampled and applied apart, the same for image and mask, a function of (seed, epoch, record)."""

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
