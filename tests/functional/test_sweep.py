"""All thresholds at once equal one threshold after the other, to the last bit."""

import numpy as np
import pytest
from scipy import ndimage

from lesioncam.errors import OptionError
from lesioncam.functional import sweep
from lesioncam.functional.boxes import box_iou
from lesioncam.functional.segmentation import threshold_levels
from lesioncam.functional.sweep import box_sweep, box_sweep_levels


def slow_sweep(scores, thresholds, truth, convention="half_open"):
    """Binarise, label, box, compare; once per threshold."""
    largest, best = np.zeros((2, len(thresholds)))
    full = np.ones((3,) * scores.ndim)
    for i, t in enumerate(thresholds):
        labels, count = ndimage.label(scores.astype(np.float64) >= t, full)
        if not count:
            continue
        boxes = []
        for place in ndimage.find_objects(labels):
            ends = [s.stop for s in reversed(place)]
            if convention == "wsol":
                ends = [min(e, size - 1) for e, size in zip(ends, scores.shape[::-1], strict=True)]
            boxes.append([*(s.start for s in reversed(place)), *ends])
        fit = box_iou(boxes, truth, convention).max(axis=1)
        largest[i], best[i] = fit[np.bincount(labels.ravel())[1:].argmax()], fit.max()
    return largest, best


def some_map(rng, kind, shape):
    noise = rng.random(shape)
    if kind == "smooth":
        return ndimage.gaussian_filter(noise, 2.0) * 8 - 3.5
    if kind == "plateaus":
        return np.round(ndimage.gaussian_filter(noise, 1.2) * 12) / 8
    if kind == "few values":
        return rng.integers(0, 3, shape) / 2
    if kind == "enlarged":
        small = rng.random(tuple(max(2, s // 4) for s in shape))
        return ndimage.zoom(small, [s / m for s, m in zip(shape, small.shape, strict=True)], order=1)
    return noise


def some_boxes(rng, shape):
    low = np.array([[rng.integers(0, s) for s in shape[::-1]] for _ in range(rng.integers(1, 4))])
    return np.hstack([low, low + rng.integers(1, 9, low.shape)])


def both_ways(scores, thresholds, truth, monkeypatch, convention="half_open"):
    """The table of hills and the walk over levels must both be right, whichever the map would get."""
    out = []
    for way in ("_by_tables", "_by_levels"):
        with monkeypatch.context() as patch:
            patch.setattr(sweep, "_by_tables", getattr(sweep, way))
            patch.setattr(sweep, "_by_levels", getattr(sweep, way))
            out.append(box_sweep(scores, thresholds, truth, convention))
    return out


@pytest.mark.parametrize("kind", ["noise", "smooth", "plateaus", "few values", "enlarged"])
@pytest.mark.parametrize("axes", [2, 3])
def test_equals_the_loop(kind, axes, monkeypatch):
    rng = np.random.default_rng(0)
    for trial in range(40):
        shape = tuple(rng.integers(1, 30 if axes == 2 else 12, size=axes))
        scores = some_map(rng, kind, shape).astype(np.float32 if trial % 2 else np.float64)
        thresholds = np.linspace(0, 1, int(rng.choice([1, 7, 40, 101])))
        truth = some_boxes(rng, shape)
        convention = "wsol" if trial % 5 == 0 else "half_open"
        expected = slow_sweep(scores, thresholds, truth, convention)
        for found in both_ways(scores, thresholds, truth, monkeypatch, convention):
            np.testing.assert_array_equal(found.largest, expected[0])
            np.testing.assert_array_equal(found.best, expected[1])


def test_by_hand():
    """Two regions that become one when the pass between them is reached."""
    scores = np.array([[0.9, 0.8, 0.3, 0.7, 0.1]])
    found = box_sweep(scores, np.array([0.05, 0.2, 0.5, 0.75, 0.85, 0.95]), [[3, 0, 4, 1]])
    np.testing.assert_allclose(found.largest, [1 / 5, 1 / 4, 0, 0, 0, 0])
    np.testing.assert_allclose(found.best, [1 / 5, 1 / 4, 1, 0, 0, 0])


def test_of_equally_large_regions_the_first_counts(monkeypatch):
    scores = np.zeros((5, 9))
    scores[1:3, 6:8] = scores[2:4, 0:2] = 1.0
    for truth, value in (([[6, 1, 8, 3]], 1.0), ([[0, 2, 2, 4]], 0.0)):
        for found in both_ways(scores, np.array([0.5]), truth, monkeypatch):
            assert found.largest[0] == value
            assert found.best[0] == 1.0


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 4)])
def test_flat_maps(shape):
    truth = [[0] * len(shape) + [2] * len(shape)]
    area = np.prod(shape)
    full = box_sweep(np.full(shape, 0.5), np.array([0.0, 0.5, 0.6]), truth)
    np.testing.assert_allclose(full.best, [2 ** len(shape) / area] * 2 + [0.0])
    np.testing.assert_array_equal(full.largest, full.best)
    assert not box_sweep(np.zeros(shape), np.array([0.1]), truth).best.any()
    assert not box_sweep(np.full(shape, np.nan), np.array([0.1]), truth).best.any()


def test_nothing_true_is_undefined():
    found = box_sweep(np.ones((3, 3)), np.array([0.0, 0.5]), [])
    assert np.isnan(found.largest).all()
    assert np.isnan(found.best).all()
    assert box_sweep(np.ones((3, 3)), np.zeros(0), [[0, 0, 1, 1]]).best.shape == (0,)


def test_a_volume_of_one_slice_is_its_slice():
    rng = np.random.default_rng(3)
    scores, thresholds = some_map(rng, "smooth", (20, 24)), np.linspace(0, 1, 50)
    flat = box_sweep(scores, thresholds, [[3, 4, 9, 12]])
    deep = box_sweep(scores[None], thresholds, [[3, 4, 0, 9, 12, 1]])
    np.testing.assert_array_equal(flat.best, deep.best)
    np.testing.assert_array_equal(flat.largest, deep.largest)


def test_any_region_is_at_least_as_good_as_the_largest_and_more_truth_never_hurts():
    rng = np.random.default_rng(4)
    thresholds = np.linspace(0, 1, 64)
    for _ in range(20):
        scores, truth = some_map(rng, "smooth", (31, 27)), some_boxes(rng, (31, 27))
        one, all_ = box_sweep(scores, thresholds, truth[:1]), box_sweep(scores, thresholds, truth)
        assert (all_.best >= all_.largest).all()
        assert (all_.best >= one.best).all()


def test_levels_are_the_same_sweep():
    rng = np.random.default_rng(5)
    scores, thresholds = some_map(rng, "noise", (30, 30)), np.linspace(0, 1, 20)
    found = box_sweep_levels(threshold_levels(scores, thresholds), 20, [[2, 2, 9, 9]])
    np.testing.assert_array_equal(found.best, box_sweep(scores, thresholds, [[2, 2, 9, 9]]).best)


def test_wrong_wishes_are_refused():
    with pytest.raises(OptionError, match="half_open, wsol"):
        box_sweep(np.ones((3, 3)), np.array([0.5]), [[0, 0, 1, 1]], convention="inclusive")
    with pytest.raises(OptionError, match="ascend"):
        box_sweep(np.ones((3, 3)), np.array([0.5, 0.1]), [[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="2D has 4"):
        box_sweep(np.zeros((3, 3)), np.array([0.5]), [[0, 0, 0, 1, 1, 1]])
