"""Boxes: one convention, half-open, x before y; a drawn 3x2 box says it all."""

import math

import numpy as np
import pytest

from lesioncam.functional.boxes import box_iou, component_boxes, inside_boxes
from lesioncam.types import Component


def test_a_drawn_box_three_wide_two_high():
    mask = np.zeros((5, 9), bool)
    mask[1:3, 4:7] = True
    scores = np.zeros((5, 9))
    scores[2, 5], scores[0, 0] = 0.75, 0.99
    assert component_boxes(mask, scores) == [Component((4, 1, 7, 3), 6, 0.75, (2, 5))]


def test_one_pixel_and_no_pixel():
    mask = np.zeros((3, 4), bool)
    assert component_boxes(mask) == []
    mask[2, 3] = True
    (part,) = component_boxes(mask)
    assert (part.box, part.area) == ((3, 2, 4, 3), 1)
    assert math.isnan(part.peak)


def test_largest_first_and_equals_in_scanning_order():
    mask = np.zeros((7, 9), bool)
    mask[0, 7] = mask[2, 0] = mask[6, 4] = True
    mask[4:6, 7:9] = True
    assert [part.box for part in component_boxes(mask)] == [(7, 4, 9, 6), (7, 0, 8, 1), (0, 2, 1, 3), (4, 6, 5, 7)]


def test_volumes_name_x_y_z():
    mask = np.zeros((4, 5, 6), bool)
    mask[0:1, 1:3, 2:5] = True
    assert component_boxes(mask)[0].box == (2, 1, 0, 5, 3, 1)


def test_overlapping_frames_keep_their_own_pixels():
    """The box of one region may hold pixels of another: size and peak must not mix."""
    mask = np.zeros((5, 5), bool)
    mask[0, :] = mask[:, 0] = True
    mask[2:4, 2:4] = True
    scores = np.where(mask, 0.5, 0.0)
    scores[2, 2] = 0.9
    assert component_boxes(mask, scores) == [
        Component((0, 0, 5, 5), 9, 0.5, (0, 0)),
        Component((2, 2, 4, 4), 4, 0.9, (2, 2)),
    ]


def test_iou_by_hand():
    found = box_iou([[0, 0, 4, 2], [10, 10, 10, 10]], [[2, 0, 6, 2], [0, 0, 4, 2], [4, 0, 8, 2], [0.5, 0, 1.5, 1]])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[4 / 12, 1.0, 0.0, 1 / 8], [0, 0, 0, 0]])


def test_iou_equals_drawn_masks():
    rng = np.random.default_rng(0)
    for _ in range(50):
        low, size = rng.integers(0, 6, size=(2, 2, 2))
        boxes = np.hstack([low, low + size + 1])
        drawn = np.zeros((2, 16, 16), bool)
        for canvas, (x0, y0, x1, y1) in zip(drawn, boxes, strict=True):
            canvas[y0:y1, x0:x1] = True
        expected = (drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum()
        assert box_iou(boxes[:1], boxes[1:])[0, 0] == expected


def test_iou_in_three_dimensions_and_without_boxes():
    assert box_iou([[0, 0, 0, 2, 2, 2]], [[0, 0, 1, 2, 2, 3]])[0, 0] == 4 / 12
    assert box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert box_iou(np.zeros((2, 4)), []).shape == (2, 0)
    with pytest.raises(ValueError, match="2D has 4"):
        box_iou([[0, 0, 1, 1]], [[0, 0, 0, 1, 1, 1]])


def test_a_pixel_is_inside_by_its_centre():
    boxes = [[3, 1, 5, 2], [3.6, 1, 5, 2], [3.5, 1, 5, 2], [1, 3, 2, 5]]
    assert inside_boxes((1, 3), boxes).tolist() == [True, False, True, False]
    assert inside_boxes((1, 5), boxes).tolist() == [False] * 4  # the right end is outside
    assert inside_boxes((0, 0), []).tolist() == []
    assert inside_boxes((2, 1, 0), [[0, 1, 2, 1, 2, 3]]).tolist() == [True]
