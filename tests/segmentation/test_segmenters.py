"""What every segmenter must obey: a disc comes back, nothing lies where the network did not look or found nothing."""

import numpy as np
import pytest

from lesioncam.errors import OptionError
from lesioncam.geometry import Geometry
from lesioncam.segmentation.evidence import Evidence
from lesioncam.segmentation.mask import SEGMENTERS, segment
from lesioncam.types import Calibration, Heatmap, Threshold

SIDE, RADIUS = 64, 15
AREA = {2: np.pi * RADIUS**2, 3: 4 / 3 * np.pi * RADIUS**3}


def ball(axes):
    """A disc or a ball off the middle."""
    places = np.indices((SIDE,) * axes) - np.array((30, 36, 28)[:axes]).reshape(-1, *(1,) * axes)
    return (places**2).sum(0) <= RADIUS**2


def evidence_of(*masks):
    """Logits of 4 inside and -4 outside."""
    return Evidence(np.where(np.stack(masks), 4.0, -4.0).astype(np.float32), Calibration.of_classifier(len(masks)))


def picture_of(mask):
    return np.where(mask, 200, 50).astype(np.uint8)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_disc_of_known_area_comes_back(name, axes):
    disc = ball(axes)
    (mask,) = SEGMENTERS[name](evidence_of(disc), picture_of(disc), np.ones_like(disc), [0.5])
    assert mask.dtype == bool
    assert mask.sum() == pytest.approx(AREA[axes], rel=0.02)
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.98


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_nothing_lies_where_the_network_did_not_look(name, axes):
    disc, valid = ball(axes), np.zeros((SIDE,) * axes, dtype=bool)
    valid[:30] = True  # the plane through the middle is cut off with one half
    (mask,) = SEGMENTERS[name](evidence_of(disc), picture_of(disc), valid, [0.5])
    assert not mask[~valid].any()
    assert mask.sum() == pytest.approx((disc & valid).sum(), rel=0.1)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_empty_evidence_gives_empty_masks_and_each_class_has_its_own(name):
    disc = ball(2)
    masks = SEGMENTERS[name](evidence_of(disc, np.zeros_like(disc)), picture_of(disc), np.ones_like(disc), [0.5, 0.5])
    assert masks.shape == (2, SIDE, SIDE)
    assert masks[0].any()
    assert not masks[1].any()


@pytest.mark.parametrize("name", SEGMENTERS)
def test_each_class_has_its_own_level_and_a_picture_may_be_missing(name):
    """Probabilities are sigmoid(4) = .982 inside and .018 outside."""
    disc, valid = ball(2), np.ones((SIDE, SIDE), dtype=bool)
    masks = SEGMENTERS[name](evidence_of(disc, disc), None, valid, [0.9, 0.99])
    assert [bool(mask.any()) for mask in masks] == [True, False]


def test_segment_goes_through_the_segmenter_that_is_asked_for(monkeypatch):
    seen = []

    def everything(evidence, image, valid, levels):
        seen.append((evidence.probability().max(), image, levels))
        return np.broadcast_to(valid, evidence.raw.shape)

    monkeypatch.setitem(SEGMENTERS, "everything", everything)
    geometry = Geometry.letterbox((8, 10), (4, 4), crop=((0, 8), (2, 10)))
    heatmap = Heatmap(np.zeros((1, 2, 2), np.float32), ("a",), "cam", "head", geometry, Calibration.of_classifier(1))
    pixels = np.zeros((8, 10), np.uint8)
    found = segment(heatmap, [Threshold(0.25)], image=pixels, segmenter="everything")
    assert found.boxes("a") == [(2, 0, 10, 8)]  # all that the network saw
    ((probability, image, levels),) = seen
    assert (probability, levels) == (0.5, [0.25])
    assert image is pixels
    with pytest.raises(OptionError, match="Did you mean 'threshold'"):
        segment(heatmap, [Threshold(0.25)], segmenter="treshold")
