"""Masks: counts a reader can check, and a threshold search that equals the slow loop to the last bit."""

import math

import numpy as np
import pytest

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.segmentation import (
    Overlap,
    components,
    counts_from_levels,
    dice_at_thresholds,
    mask_counts_at_thresholds,
    overlap_counts,
    threshold_levels,
)


def slow_dice(scores, truth, thresholds):
    out = []
    for t in thresholds:
        predicted = scores >= t
        size = int(predicted.sum()) + int(truth.sum())
        out.append(2 * int((predicted & truth).sum()) / size if size else math.nan)
    return np.array(out)


def test_two_squares_shifted_by_three():
    a, b = np.zeros((2, 20, 20), bool)
    a[2:12, 2:12] = True
    b[2:12, 5:15] = True
    counts = overlap_counts(a, b)
    assert counts == Overlap(both=70, predicted=100, truth=100, total=400)
    assert counts.dice == 0.7
    assert counts.iou == 70 / 130
    assert counts.sensitivity == 0.7
    assert Overlap(both=70, predicted=140, truth=100, total=400).precision == 0.5
    assert math.isnan(Overlap(both=0, predicted=0, truth=100, total=400).precision)
    assert counts.specificity == 270 / 300


def test_dice_and_iou_tell_the_same():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.random((2, 5, 7)) < rng.random((2, 1, 1))
        counts = overlap_counts(a, b)
        assert counts.dice == pytest.approx(2 * counts.iou / (1 + counts.iou), nan_ok=True)


@pytest.mark.parametrize(
    ("predicted", "truth", "dice", "iou", "sensitivity", "specificity"),
    [
        (0, 0, math.nan, math.nan, math.nan, 1.0),
        (1, 0, 0.0, 0.0, math.nan, 0.0),
        (0, 1, 0.0, 0.0, 0.0, math.nan),
        (1, 1, 1.0, 1.0, 1.0, math.nan),
    ],
)
def test_empty_and_full_masks(predicted, truth, dice, iou, sensitivity, specificity):
    counts = overlap_counts(np.full((2, 3), bool(predicted)), np.full((2, 3), bool(truth)))
    found = (counts.dice, counts.iou, counts.sensitivity, counts.specificity)
    assert found == pytest.approx((dice, iou, sensitivity, specificity), nan_ok=True)


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(GeometryError, match=r"\(2, 3\).*\(3, 2\)"):
        overlap_counts(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(GeometryError):
        dice_at_thresholds(np.zeros((2, 3)), np.zeros((3, 2), bool), np.array([0.5]))


@pytest.mark.parametrize("axes", [2, 3])
def test_diagonal_neighbours_connect(axes):
    mask = np.zeros((4,) * axes, bool)
    mask[(0,) * axes] = mask[(1,) * axes] = mask[(3,) * axes] = True
    labels = components(mask)
    assert labels.max() == 2
    assert labels[(0,) * axes] == labels[(1,) * axes] != labels[(3,) * axes]


def test_one_pass_equals_the_loop_exactly():
    rng = np.random.default_rng(1)
    thresholds = np.linspace(0, 1, 11)
    for trial in range(100):
        shape = tuple(rng.integers(1, 7, size=2 + trial % 2))
        scores = rng.integers(0, 11, size=shape) / 10  # many scores lie exactly on a threshold
        scores = scores.astype(np.float32 if trial % 3 else np.float64)
        truth = rng.random(shape) < rng.random()
        fast = dice_at_thresholds(scores, truth, thresholds)
        np.testing.assert_array_equal(fast, slow_dice(scores.astype(np.float64), truth, thresholds))


def test_empty_truth_is_zero_while_something_is_predicted_and_then_undefined():
    found = dice_at_thresholds(np.array([0.2, 0.4]), np.zeros(2, bool), np.array([0.1, 0.3, 0.5]))
    np.testing.assert_array_equal(found, [0.0, 0.0, math.nan])


def test_nan_reaches_no_threshold():
    scores, truth = np.array([math.nan, 0.9]), np.array([True, True])
    np.testing.assert_array_equal(dice_at_thresholds(scores, truth, np.array([0.0, 1.0])), [2 / 3, 0.0])


def awkward_maps():
    """Large enough for the table of bins: values on, just below and just above thresholds, and not numbers."""
    rng = np.random.default_rng(2)
    even, uneven = np.linspace(0, 1, 1001), 1 / (1 + np.exp(-np.linspace(-12, 12, 481)))
    size = (301, 301)
    for thresholds in (even, uneven, np.array([0.5, 0.5]), np.array([-np.inf, 0.25, 0.25, np.inf]), np.array([1e300])):
        on = rng.choice(thresholds, size)
        for scores in (on, np.nextafter(on, -np.inf), np.nextafter(on, np.inf), rng.normal(0.5, 0.5, size)):
            yield scores, thresholds
            with np.errstate(over="ignore"):
                yield scores.astype(np.float32), thresholds
    broken = rng.random(size)
    broken[rng.random(size) < 0.3] = np.nan
    broken[0, :3] = np.inf, -np.inf, -3e38
    yield broken, even
    yield broken.astype(np.float32), uneven
    yield rng.integers(0, 256, size).astype(np.uint8), np.arange(0, 256, 2.5)
    yield rng.integers(-3, 3, size) * 1e300, np.array([-1e308, 0.0, 1e308])


def test_levels_count_the_thresholds_reached():
    for scores, thresholds in awkward_maps():
        levels = threshold_levels(scores, thresholds)
        assert levels.dtype == np.uint16
        for i, threshold in enumerate(thresholds[:: max(1, len(thresholds) // 20)]):
            index = i * max(1, len(thresholds) // 20)
            np.testing.assert_array_equal(levels > index, scores.astype(np.float64) >= threshold)
        known = np.isfinite(scores.astype(np.float64))
        expected = np.searchsorted(thresholds, scores.astype(np.float64)[known], side="right")
        np.testing.assert_array_equal(levels[known], expected)


def test_counts_from_scores_and_from_levels_are_the_same():
    rng = np.random.default_rng(3)
    for scores, thresholds in awkward_maps():
        levels = threshold_levels(scores, thresholds)
        truth = rng.random(scores.shape) < 0.2
        one, other = (
            mask_counts_at_thresholds(scores, truth, thresholds),
            counts_from_levels(levels, truth, len(thresholds)),
        )
        np.testing.assert_array_equal(one.predicted, other.predicted)
        np.testing.assert_array_equal(one.both, other.both)
        assert one.truth == other.truth == truth.sum()
        assert one.predicted.dtype == one.both.dtype == other.both.dtype == np.int64
        assert one.predicted[0] == (scores.astype(np.float64) >= thresholds[0]).sum()


def test_iou_at_thresholds_follows_from_dice():
    rng = np.random.default_rng(4)
    counts = mask_counts_at_thresholds(rng.random((9, 9)), rng.random((9, 9)) < 0.3, np.linspace(0, 1, 30))
    np.testing.assert_allclose(counts.dice, 2 * counts.iou / (1 + counts.iou))
    nothing = mask_counts_at_thresholds(np.zeros(3), np.zeros(3, bool), np.array([1.0]))
    assert np.isnan(nothing.dice).all()
    assert np.isnan(nothing.iou).all()


def test_thresholds_out_of_order_are_refused():
    for wrong in ([0.5, 0.4], [0.5, math.nan], [[0.1, 0.2]]):
        with pytest.raises(OptionError, match="ascend"):
            dice_at_thresholds(np.zeros(3), np.zeros(3, bool), np.array(wrong))
        with pytest.raises(OptionError, match="ascend"):
            threshold_levels(np.zeros(3), np.array(wrong))
    with pytest.raises(OptionError, match="65,535"):
        threshold_levels(np.zeros(3), np.arange(70_000.0))
    assert dice_at_thresholds(np.zeros(3), np.zeros(3, bool), np.zeros(0)).shape == (0,)
    with pytest.raises(GeometryError):
        counts_from_levels(np.zeros((2, 3), np.uint16), np.zeros((3, 2), bool), 1)
