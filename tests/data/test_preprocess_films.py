"""What films need beside the letter-box: equalisation, blur, a padding value, fixed mean and standard deviation."""

import numpy as np
import pytest
import torch

from lesioncam.data.augment import AugmentParams, apply_augment, sample_augment
from lesioncam.data.preprocess import Preprocess
from lesioncam.errors import OptionError
from lesioncam.options.data import AugmentConfig, PreprocessConfig
from lesioncam.options.run import make_config

PLAIN = {"size": 8, "crop": False, "normalise": "range"}


def prepare(image, **options):
    return Preprocess(PreprocessConfig(**{**PLAIN, **options}))(image)


def test_mean_and_spread_are_taken_off_at_the_end():
    image = np.zeros((8, 8), np.uint8)
    image[0] = 255
    assert prepare(image, mean=(0.25,), std=(0.5,)).image[0, :2, 0].tolist() == [1.5, -0.5]
    three = prepare(image, channels=3, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25)).image
    assert three[:, 0, 0].tolist() == [1, 1, 0]
    assert three[:, 1, 0].tolist() == [0, -1, -4]
    assert prepare(image, mean=(0.25,)).image[0, 0, 0] == 0.75


def test_padding_takes_its_value_on_the_scale_of_the_image():
    image = np.zeros((4, 8), np.uint8)
    image[0] = 255
    sample = prepare(image, centred=False, padding=0.5, mean=(0.5,), std=(0.25,))
    assert sample.image[0, :, 3].tolist() == [2, -2, -2, -2, 0, 0, 0, 0]
    assert not sample.valid[4:].any()
    assert prepare(image, centred=False, mean=(0.5,)).image[0, 7, 3] == -0.5  # the darkest, as ever


def test_equalised_values_are_ranks():
    """Of 64 pixels 16 are black, 32 grey and 16 white: shares up to and including each are 1/4, 3/4 and 1."""
    image = np.repeat([10, 20, 20, 200], 16).astype(np.uint8).reshape(8, 8)
    values = prepare(image, equalise=True).image[0, ::2, 0]
    np.testing.assert_allclose(values, [0.25, 0.75, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(prepare(image // 2, equalise=True).image[0, ::2, 0], values, atol=1e-6)  # no contrast


def test_blur_spreads_and_keeps_the_sum():
    image = np.zeros((9, 9), np.uint8)
    image[4, 4] = 255
    blurred = prepare(image, size=9, blur=0.8).image[0]
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert blurred[4, 3] / blurred[4, 4] == pytest.approx(np.exp(-1 / (2 * 0.8**2)), rel=1e-5)
    np.testing.assert_array_equal(prepare(image, size=9).image[0], image / np.float32(255))


def test_what_does_not_fit_together():
    with pytest.raises(OptionError, match="mean needs one number, or one for each of 2 channels"):
        make_config(channels=2, mean=(0.1, 0.2, 0.3))
    with pytest.raises(OptionError, match="equalise, mean and std work on the scale"):
        make_config(normalise="zscore", equalise=True)
    with pytest.raises(OptionError, match="std"):
        make_config(std=(0.0,))


def test_what_comes_in_from_outside():
    images, valid = torch.full((2, 1, 4, 4), 3.0), torch.ones(2, 1, 4, 4, dtype=torch.bool)
    images[:, :, 0, 0] = -1.0
    down = [AugmentParams(shift=(0.5, 0.0), outside=0.5), AugmentParams(shift=(0.5, 0.0))]
    moved, inside = apply_augment(down, images, valid)
    assert moved[0, 0, :, 3].tolist() == [0.5, 0.5, 3, 3]
    assert moved[1, 0, :, 3].tolist() == [-1, -1, 3, 3]  # the image's lowest
    assert inside[0, 0, :, 3].tolist() == [False, False, True, True]
    assert sample_augment(np.random.default_rng(0), AugmentConfig(outside=2.0)).outside == 2.0
