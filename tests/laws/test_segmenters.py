"""What every segmenter must obey: a drawn disc comes back, nothing outside what was seen, nothing from nothing."""

import numpy as np
import pytest

from lesioncam.errors import OptionError
from lesioncam.geometry import Geometry
from lesioncam.segmentation.mask import segment
from lesioncam.segmentation.segmenters import SEGMENTERS, Evidence
from lesioncam.types import Calibration, Heatmap, Threshold

every = pytest.mark.parametrize("name", sorted(SEGMENTERS))
SIZES = {2: (60, 80), 3: (20, 40, 50)}


def disc(size, radius=8):
    """A disc or ball in the middle."""
    grid = np.meshgrid(*(np.arange(n) - n // 2 for n in size), indexing="ij")
    return sum(axis**2 for axis in grid) <= radius**2


def evidence_of(masks):
    raw = np.where(masks, 3.0, -3.0).astype(np.float32)
    return Evidence(raw, Calibration.of_classifier(len(raw)), (Threshold(0.5, "val"),) * len(raw))


def picture_of(mask):
    """Grey noise, brighter in the lesion: what a segmenter that looks at pixels would see."""
    noise = np.random.default_rng(0).normal(80, 5, mask.shape)
    return np.clip(noise + 90 * mask, 0, 255).astype(np.uint8)


@every
@pytest.mark.parametrize("axes", [2, 3])
def test_a_drawn_disc_of_known_area_comes_back(name, axes):
    mask = disc(SIZES[axes])
    volume = np.pi * 8**2 if axes == 2 else 4 / 3 * np.pi * 8**3
    [found] = SEGMENTERS[name](evidence_of(mask[None]), picture_of(mask), np.ones(mask.shape, bool))
    assert found.dtype == bool
    assert found.sum() == pytest.approx(volume, rel=0.05)
    assert (found & mask).sum() > 0.95 * mask.sum()


@every
def test_nothing_lies_outside_what_the_network_saw(name):
    mask = disc(SIZES[2])
    valid = np.zeros(mask.shape, bool)
    valid[:, :40] = True
    [found] = SEGMENTERS[name](evidence_of(mask[None]), picture_of(mask), valid)
    assert found[valid].any()
    assert not found[~valid].any()


@every
def test_empty_evidence_gives_empty_masks(name):
    nothing = np.zeros((2, *SIZES[2]), bool)
    found = SEGMENTERS[name](evidence_of(nothing), picture_of(nothing[0]), np.ones(SIZES[2], bool))
    assert found.shape == nothing.shape
    assert not found.any()


@every
def test_classes_do_not_touch_each_other(name):
    both = np.stack([disc(SIZES[2]), disc(SIZES[2], 4)])
    alone = [SEGMENTERS[name](evidence_of(one[None]), None, np.ones(one.shape, bool))[0] for one in both]
    together = SEGMENTERS[name](evidence_of(both), None, np.ones(SIZES[2], bool))
    np.testing.assert_array_equal(together, alone)


def test_an_unknown_segmenter_is_one_sentence():
    geometry = Geometry.letterbox((4, 4), (4, 4))
    heatmap = Heatmap(np.zeros((1, 2, 2), np.float32), ("a",), "cam", "x", geometry, Calibration.of_classifier(1))
    with pytest.raises(OptionError, match="Did you mean 'threshold'"):
        segment(heatmap, [Threshold(0.5)], segmenter="treshold")
