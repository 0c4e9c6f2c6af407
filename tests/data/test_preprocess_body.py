"""What preprocessing does with the body: the crop round it, and air that becomes padding."""

import numpy as np
import pytest
import torch
from tests.drawn import disc, head

from lesioncam.data.preprocess import Preprocess, foreground_box
from lesioncam.options.data import PreprocessConfig


@pytest.mark.parametrize("air", ["dark", "padding"])
@pytest.mark.parametrize("axes", [2, 3])
def test_air_noise_and_marks_cannot_be_read(air, axes):
    rng, size = np.random.default_rng(0), (48,) * axes
    body = disc(size, (26,) * axes, 14)
    image = (1.0 * body + np.abs(rng.normal(0, 0.05, size)))[..., None]  # channels last
    image[(slice(0, 3),) * axes] = 1.0
    image = image if axes == 3 else image[..., 0]
    plain, clean = (Preprocess(PreprocessConfig(size=48, crop=False, air=way))(image) for way in ("keep", air))
    far = ~disc(size, (26,) * axes, 17)
    assert (plain.image[0][far] > 0).mean() > 0.5
    assert (clean.image[0][far] == 0).all()
    np.testing.assert_array_equal(clean.image[0][body], plain.image[0][body])
    assert plain.valid.all()
    if air == "dark":
        assert clean.valid.all()
    else:
        assert clean.valid[body].all()
        assert not clean.valid[far].any()


def test_masked_air_looks_like_padding():
    """Whatever the scale: after z-scores, or with a padding of one's own, air and padding are one value."""
    image = head((160, 100), (85, 50), noise=0.03)
    for options in ({"normalise": "zscore"}, {"padding": 0.25}, {"mean": (0.3,), "std": (0.2,)}, {"equalise": True}):
        sample = Preprocess(PreprocessConfig(size=80, crop=False, air="dark", **options))(image)
        assert sample.image[0, 0, 20] == pytest.approx(sample.image[0, 40, 0])
        assert sample.valid[0, 20]
        assert not sample.valid[40, 0]


def test_the_way_home_is_as_before_where_the_box_is_the_same():
    image = np.zeros((100, 60))
    image[20:80, 10:50] = 1.0 + torch.rand((60, 40), generator=torch.Generator().manual_seed(0)).numpy()
    one, other = (Preprocess(PreprocessConfig(size=64, foreground=rule))(image) for rule in ("largest", "body"))
    assert one.geometry == other.geometry
    np.testing.assert_array_equal(one.image, other.image)


def test_without_air_nothing_is_cut_or_darkened():
    """A tight crop, an ultrasound picture: there is no air, so that `air` and `foreground` change nothing."""
    image = np.random.default_rng(0).integers(60, 255, (64, 64)).astype(np.uint8)
    plain = Preprocess(PreprocessConfig(size=64))(image)
    for air in ("dark", "padding"):
        sample = Preprocess(PreprocessConfig(size=64, foreground="body", air=air))(image)
        np.testing.assert_array_equal(sample.image, plain.image)
        assert sample.valid.all()
    assert foreground_box(image, "body") == ((0, 64), (0, 64))
    assert foreground_box(np.full((9, 9), 7.0), "body") == ((0, 9), (0, 9))


def test_a_bright_lesion_does_not_paint_the_patient_black():
    body, lesion = disc((96, 96), (48, 48), 34), disc((96, 96), (40, 44), 12)
    sample = Preprocess(PreprocessConfig(size=96, crop=False, air="dark"))(np.where(lesion, 1.0, 0.15 * body))
    assert (sample.image[0][body] > 0.1).all()
