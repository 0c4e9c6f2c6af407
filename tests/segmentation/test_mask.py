"""Masks and boxes in the file's own pixels: resize first, then threshold."""

import numpy as np
import pytest

from lesioncam.errors import LesioncamError
from lesioncam.geometry import Geometry
from lesioncam.segmentation.mask import binarise, segment
from lesioncam.types import Calibration, Heatmap, Threshold


def heatmap(raw, native, size, **kwargs):
    raw = np.asarray(raw, np.float32)
    classes = tuple(f"c{k}" for k in range(len(raw)))
    geometry = Geometry.letterbox(native, size, **kwargs)
    return Heatmap(raw, classes, "cam", "head", geometry, Calibration.of_classifier(len(raw)))


def test_a_hot_cell_becomes_a_box_where_it_lies():
    raw = np.full((2, 8, 8), -9.0)
    raw[0, 2, 5] = 9.0  # x 40 to 48, y 16 to 24 of a 64 x 64 image
    found = segment(heatmap(raw, (64, 64), (64, 64)), [Threshold(0.5), Threshold(0.9)])
    assert found.masks.shape == (2, 64, 64)
    assert found.masks.dtype == bool
    assert found.boxes("c0") == [(40, 16, 48, 24)]  # half of the way to a cold neighbour is its edge
    assert found.boxes("c1") == []
    (part,) = found.components[0]
    assert part.area == found.mask("c0").sum() > 0
    assert part.peak == heatmap(raw, (64, 64), (64, 64)).probability()[0].max()
    assert [t.value for t in found.thresholds] == [0.5, 0.9]


def test_resize_comes_before_the_threshold():
    """Two cells of logit 1 and -3: the edge lies where the resized logit crosses 0, a quarter of the way."""
    found = segment(heatmap([[[1.0, -3.0]]], (1, 80), (1, 80)), [Threshold(0.5)])
    assert found.boxes("c0") == [(0, 0, 30, 1)]


def test_outside_the_crop_nothing_is_found():
    found = segment(heatmap(np.full((1, 4, 4), 5.0), (40, 60), (32, 32), crop=((0, 40), (10, 50))), [Threshold(1e-5)])
    assert found.boxes("c0") == [(10, 0, 50, 40)]


def test_volumes():
    raw = np.full((1, 2, 3, 4), -5.0)
    raw[0, 1] = 5.0
    found = segment(heatmap(raw, (2, 3, 4), (2, 3, 4)), [Threshold(0.5)])
    assert found.boxes("c0") == [(0, 0, 1, 4, 3, 2)]


@pytest.mark.parametrize(("value", "pixels"), [(0.5, 16), (0.5000001, 0)])
def test_at_or_above_is_positive_on_a_flat_map(value, pixels):
    assert segment(heatmap(np.zeros((1, 2, 2)), (4, 4), (4, 4)), [Threshold(value)]).masks.sum() == pixels


def test_broken_maps_make_no_mask():
    assert not segment(heatmap(np.full((1, 2, 2), np.nan), (4, 4), (4, 4)), [Threshold(0.1)]).masks.any()


def test_no_scale_and_wrong_number_of_thresholds():
    bare = Heatmap(np.zeros((1, 2, 2), np.float32), ("c0",), "gradcam", "x", Geometry.letterbox((4, 4), (4, 4)))
    with pytest.raises(LesioncamError, match="calibrated"):
        segment(bare, [Threshold(0.5)])
    with pytest.raises(ValueError, match="zip"):
        segment(heatmap(np.zeros((1, 2, 2)), (4, 4), (4, 4)), [Threshold(0.5), Threshold(0.5)])


def test_comparison_is_in_double_precision():
    assert not binarise(np.float32([0.1]), np.nextafter(np.float64(np.float32(0.1)), 1)).any()
    assert binarise(np.float32([0.1]), float(np.float32(0.1))).all()
