"""Boxes: one convention, half-open, x before y; a drawn 3x2 box says it all."""

import math

import numpy as np
import pytest

from lesioncam.errors import OptionError
from lesioncam.functional import boxes
from lesioncam.functional.boxes import (
    box_iou,
    box_overlaps,
    component_boxes,
    from_inclusive,
    from_xywh,
    inside_boxes,
    regions,
    to_inclusive,
)
from lesioncam.functional.segmentation import components
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


def slow_parts(mask, scores):
    labels = components(mask)
    out = []
    for i in range(1, labels.max(initial=0) + 1):
        places = np.argwhere(labels == i)  # in scanning order
        low, high = places.min(0)[::-1].tolist(), (places.max(0) + 1)[::-1].tolist()
        values = [-math.inf if math.isnan(scores[tuple(p)]) else scores[tuple(p)] for p in places]
        first = int(np.argmax(values))
        known = values[first] > -math.inf
        peak, place = (float(values[first]), tuple(places[first].tolist())) if known else (math.nan, ())
        out.append((tuple(low + high), len(places), peak, place))
    return sorted(out, key=lambda part: -part[1])


@pytest.mark.parametrize("many", [0, 10**9])
def test_regions_equal_a_walk_over_each(many, monkeypatch):
    """Both ways to the boxes, ties and NaN included."""
    monkeypatch.setattr(boxes, "_MANY", many)
    rng = np.random.default_rng(1)
    for trial in range(60):
        shape = tuple(rng.integers(1, 13, size=2 + trial % 2))
        mask = rng.random(shape) < rng.choice([0.05, 0.3, 0.6])
        scores = rng.integers(0, 4, shape) / 4
        scores[rng.random(shape) < 0.3] = math.nan
        found = component_boxes(mask, scores.astype(np.float32))
        expected = slow_parts(mask, scores)
        assert [(p.box, p.area, p.place) for p in found] == [(b, a, place) for b, a, _, place in expected]
        np.testing.assert_array_equal([p.peak for p in found], [peak for _, _, peak, _ in expected])
        assert [p.box for p in component_boxes(mask)] == [part[0] for part in expected]


def test_the_hottest_pixel_is_the_first_of_equals():
    mask = np.ones((2, 3), bool)
    assert component_boxes(mask, np.array([[0, 1, 2], [2, 2, 0]]))[0].place == (0, 2)
    assert component_boxes(mask)[0].place == ()
    assert regions(mask).places.tolist() == [-1]


def test_three_overlaps_by_hand():
    """methods.md section 10."""
    found = box_overlaps([[0, 0, 4, 4]], [[2, 2, 6, 6]])
    assert (found.iou[0, 0], found.iobb[0, 0], found.iogt[0, 0]) == (1 / 7, 0.25, 0.25)
    pixel = box_overlaps([[3, 3, 4, 4]], [[0, 0, 10, 10]])
    assert (pixel.iou[0, 0], pixel.iobb[0, 0], pixel.iogt[0, 0]) == (0.01, 1.0, 0.01)
    empty = box_overlaps([[3, 3, 3, 3], [5, 5, 2, 2]], [[0, 0, 10, 10], [4, 4, 4, 4]])
    assert not any(table.any() for table in empty)  # no area, inverted: nothing in common with anything
    assert [table.shape for table in box_overlaps([], [[0, 0, 1, 1]])] == [(0, 1)] * 3


def test_overlaps_hang_together():
    rng = np.random.default_rng(2)
    low = rng.integers(0, 8, (40, 3))
    table = np.hstack([low, low + rng.integers(1, 9, (40, 3))])
    found = box_overlaps(table[:20], table[20:])
    np.testing.assert_array_equal(found.iou, box_iou(table[:20], table[20:]))
    np.testing.assert_array_equal(found.iobb, box_overlaps(table[20:], table[:20]).iogt.T)
    meet = found.iou > 0
    np.testing.assert_allclose(1 / found.iou[meet], 1 / found.iobb[meet] + 1 / found.iogt[meet] - 1)
    assert (found.iou <= np.minimum(found.iobb, found.iogt)).all()


def test_the_other_convention_by_name():
    """methods.md section 11: a perfect 3 x 3 box scores 9/16 there."""
    drawn, annotated = [[4, 7, 7, 10]], to_inclusive([[4, 7, 7, 10]])
    assert box_iou(drawn, annotated, convention="wsol")[0, 0] == 0.5625
    assert box_iou(drawn, from_inclusive(annotated))[0, 0] == 1.0
    with pytest.raises(OptionError, match="half_open, wsol"):
        box_iou(drawn, drawn, convention="coco")


def test_conversions():
    np.testing.assert_array_equal(from_inclusive([[0, 0, 0, 0]]), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(from_xywh([[1, 2, 3, 4, 5, 6]]), [[1, 2, 3, 5, 7, 9]])
    rng = np.random.default_rng(3)
    table = rng.integers(0, 9, (5, 6)).astype(float)
    kept = table.copy()
    np.testing.assert_array_equal(from_inclusive(to_inclusive(table)), table)
    np.testing.assert_array_equal(table, kept)  # arguments are left alone
    assert from_xywh([]).shape == from_inclusive([]).shape == to_inclusive([]).shape == (0, 4)
