"""Protocols: the cases methods.md names, loops written out, and draws that equal repeating the rows."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from sklearn.metrics import average_precision_score

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.boxes import box_iou, component_boxes
from lesioncam.functional.localisation import (
    FALSE_POSITIVES,
    box_average_precision,
    chestxray8_boxes,
    chestxray8_case,
    chexlocalize_iou,
    froc,
    hit,
    match_detections,
    max_box_acc,
    maxboxacc_v1,
    maxboxacc_v2,
    otsu_mask,
    pointing,
    pxap,
    wsol_unit,
)
from lesioncam.functional.sweep import box_sweep, box_sweep_levels

STEPS = np.linspace(0, 1, 101)


def draws_of(rng, cases, draws=6):
    weights = rng.integers(0, 4, (draws, cases)).astype(np.uint16)
    weights[0], weights[1] = 1, 0
    return weights


def blobs(*places, shape=(40, 50)):
    canvas = np.zeros(shape)
    for x0, y0, x1, y1 in places:
        canvas[y0:y1, x0:x1] = 1.0
    return canvas


# ---- ChestX-ray8


def test_two_blobs_are_found_and_a_third_is_a_false_positive():
    truth = [[3, 4, 10, 12], [30, 20, 44, 30]]
    case = chestxray8_case(blobs(*truth), truth)
    assert (case.truth_iou > 0.9).all()
    assert len(case.predicted_iou) == 2  # both thresholds draw the same boxes: they count once
    assert (case.predicted_iou <= 0.9).sum() == 0
    extra = chestxray8_case(blobs(*truth, (20, 2, 25, 6)), truth)
    assert (extra.truth_iou > 0.9).all()
    assert (extra.predicted_iou <= 0.1).sum() == 1


def test_boxes_of_both_thresholds():
    rng = np.random.default_rng(0)
    for axes in (2, 3):
        scores = ndimage.gaussian_filter(rng.random((14,) * axes), 1.5)
        unit = (scores - scores.min()) / (scores.max() - scores.min())
        expected = {part.box for level in (60, 180) for part in component_boxes(unit >= level / 255)}
        assert {tuple(box) for box in chestxray8_boxes(scores * 7 - 3).tolist()} == expected
        assert len(chestxray8_boxes(scores)) == len(expected)


def test_a_score_on_the_threshold_counts():
    assert chestxray8_boxes(np.array([[0.0, 59.0, 60.0, 255.0]])).tolist() == [[2, 0, 4, 1], [3, 0, 4, 1]]


def test_best_of_each_side():
    scores, truth = blobs((0, 0, 10, 10), (20, 0, 24, 4)), [[5, 0, 15, 10], [20, 0, 28, 8], [40, 30, 41, 31]]
    case = chestxray8_case(scores, truth)
    np.testing.assert_allclose(case.truth_iou, [50 / 150, 16 / 64, 0])
    np.testing.assert_allclose(case.truth_iobb, [0.5, 1.0, 0])
    np.testing.assert_allclose(case.predicted_iou, [50 / 150, 16 / 64])
    np.testing.assert_allclose(case.predicted_iobb, [0.5, 1.0])


def test_no_box_or_no_truth():
    flat = chestxray8_case(np.full((4, 5), 3.0), [[0, 0, 2, 2]])
    assert flat.truth_iou.tolist() == flat.truth_iobb.tolist() == [0.0]
    assert len(flat.predicted_iou) == 0
    assert chestxray8_boxes(np.full((4, 5), np.nan)).shape == (0, 4)
    assert chestxray8_boxes(np.zeros((3, 4, 5))).shape == (0, 6)
    healthy = chestxray8_case(blobs((0, 0, 3, 3)), [])
    assert healthy.predicted_iou.tolist() == [0.0]
    assert healthy.truth_iou.shape == (0,)
    with pytest.raises(ValueError, match="2D has 4"):
        chestxray8_case(blobs((0, 0, 3, 3)), [[0, 0, 0, 1, 1, 1]])


# ---- WSOL


def test_a_map_on_its_own_range():
    scores = np.array([[2.0, 4.0], [6.0, math.nan]])
    np.testing.assert_array_equal(wsol_unit(scores), [[0, 0.5], [1, math.nan]])
    np.testing.assert_array_equal(wsol_unit(np.array([1.0, -np.inf, 3.0, np.inf])), [0, 0, 1, 1])
    np.testing.assert_array_equal(wsol_unit(np.array([5, 5])), [0, 0])
    np.testing.assert_array_equal(wsol_unit(np.full(3, np.nan)), [0, 0, 0])
    rng = np.random.default_rng(1)
    for kind in (np.float32, np.float64):
        scaled = wsol_unit(rng.normal(size=(50, 50)).astype(kind))
        assert scaled.dtype == kind
        assert (scaled.min(), scaled.max()) == (0, 1)


def test_one_threshold_for_the_whole_set():
    """Each image has a perfect threshold of its own, but no threshold serves both."""
    curves = np.array([[1.0, 0.2], [0.2, 1.0]])
    assert max_box_acc(curves, 0.5) == 0.5
    assert maxboxacc_v1(curves) == maxboxacc_v2(curves) == 0.5


def test_max_box_acc_equals_the_loop_and_repeated_rows():
    rng = np.random.default_rng(2)
    curves = rng.random((9, 20))
    curves[4] = math.nan  # nothing true there
    weights = draws_of(rng, 9)
    found = max_box_acc(curves, 0.6, weights)
    for value, row in zip(found, weights, strict=True):
        rows = np.repeat(curves, row, axis=0)
        rows = rows[~np.isnan(rows).any(axis=1)]
        best = (
            max((np.mean([r[t] >= 0.6 for r in rows]) for t in range(20)), default=math.nan) if len(rows) else math.nan
        )
        np.testing.assert_allclose(value, best)
    assert found[0] == max_box_acc(curves, 0.6)
    values = [max_box_acc(curves, delta) for delta in np.linspace(0, 1, 11)]
    assert values == sorted(values, reverse=True)
    expected = [np.mean([max_box_acc(curves, d, weights)[0] for d in (0.3, 0.5, 0.7)]), maxboxacc_v2(curves)]
    np.testing.assert_allclose(maxboxacc_v2(curves, weights)[0], expected)
    np.testing.assert_array_equal(maxboxacc_v1(curves, weights), max_box_acc(curves, 0.5, weights))
    assert math.isnan(max_box_acc(np.zeros((0, 5)), 0.5))


def test_perfect_maps_score_one_and_any_region_at_least_the_largest():
    rng = np.random.default_rng(3)
    sweeps, perfect = [], []
    for _ in range(12):
        x, y = rng.integers(0, 30, 2)
        truth = [[x, y, x + 9, y + 7]]
        perfect.append(box_sweep(wsol_unit(blobs(*truth)), STEPS, truth))
        sweeps.append(box_sweep(wsol_unit(ndimage.gaussian_filter(rng.random((40, 50)), 3)), STEPS, truth))
    largest, best = (np.stack(columns) for columns in zip(*perfect, strict=True))
    assert maxboxacc_v1(largest) == maxboxacc_v2(best) == 1.0
    largest, best = (np.stack(columns) for columns in zip(*sweeps, strict=True))
    for delta in (0.1, 0.3, 0.5):
        assert max_box_acc(best, delta) >= max_box_acc(largest, delta)


def test_their_perfect_box_scores_nine_sixteenths():
    scores = blobs((10, 10, 13, 13))
    levels = np.searchsorted(STEPS, wsol_unit(scores), side="left")
    theirs = box_sweep_levels(levels, len(STEPS), [[10, 10, 12, 12]], convention="wsol")
    assert theirs.best.max() == theirs.largest.max() == 0.5625
    assert box_sweep_levels(levels, len(STEPS), [[10, 10, 13, 13]]).best.max() == 1.0


def pixel_counts(scores, truth, thresholds, ignore=None):
    """Lesion pixels and all pixels at or above each threshold, slowly."""
    kept = np.ones(scores.shape, bool) if ignore is None else ~ignore
    reached = [(scores >= t) & kept for t in thresholds]
    return np.array([(r & (truth == 1)).sum() for r in reached]), np.array([r.sum() for r in reached])


def test_pxap_by_hand():
    scores, truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])
    positive, reached = pixel_counts(scores, truth, scores[::-1])
    assert pxap(positive[None], reached[None]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    positive, reached = pixel_counts(wsol_unit(np.full(6, 0.3)), truth, STEPS)
    assert pxap(positive[None], reached[None]) == 0.5
    positive, reached = pixel_counts(scores, np.zeros(6, bool), STEPS)
    assert math.isnan(pxap(positive[None], reached[None]))


def test_pxap_pools_pixels_and_leaves_out_ignored_ones():
    rng = np.random.default_rng(5)
    scores = STEPS[rng.integers(0, 101, (7, 6, 5))]
    truth, ignore = rng.random((2, 7, 6, 5)) < 0.3
    counts = [pixel_counts(s, t, STEPS, i) for s, t, i in zip(scores, truth, ignore, strict=True)]
    positive, reached = (np.stack(columns) for columns in zip(*counts, strict=True))
    weights = draws_of(rng, 7)
    found = pxap(positive, reached, weights)
    for value, row in zip(found, weights, strict=True):
        kept = np.repeat(~ignore, row, axis=0)
        if not row.any():
            assert math.isnan(value)
            continue
        pooled = np.repeat(truth, row, axis=0)[kept], np.repeat(scores, row, axis=0)[kept]
        assert value == pytest.approx(average_precision_score(*pooled))
    assert found[0] == pytest.approx(pxap(positive, reached))


# ---- CheXlocalize


def test_otsu_separates_two_levels():
    scores = np.where(blobs((5, 6, 20, 25)) > 0, 3.25, -1.5)
    np.testing.assert_array_equal(otsu_mask(scores), scores > 0)


def test_otsu_equals_the_library_where_there_is_nothing_to_fill():
    rng = np.random.default_rng(6)
    for _ in range(10):
        scores = ndimage.gaussian_filter(rng.random((30, 40)), 3)
        as_bytes = (255 * wsol_unit(scores)).astype(np.uint8)
        plain = ndimage.binary_fill_holes(as_bytes > threshold_otsu(as_bytes))
        labels, count = ndimage.label(plain, np.ones((3, 3)))
        for i in range(1, count + 1):
            if (labels == i).sum() == 1:
                plain[labels == i] = False
        np.testing.assert_array_equal(otsu_mask(scores), plain)


def test_holes_close_and_single_pixels_vanish():
    ring = blobs((5, 5, 12, 12))
    ring[7:10, 7:10] = 0
    ring[30, 40] = 1
    ring[0:3, 20:23] = 1
    ring[0, 21] = 0  # open to the border: no hole
    expected = ring > 0
    expected[7:10, 7:10], expected[30, 40] = True, False
    np.testing.assert_array_equal(otsu_mask(ring), expected)
    diamond = blobs(shape=(5, 5))
    diamond[[0, 1, 1, 2], [1, 0, 2, 1]] = 1  # neighbours over corners enclose their middle
    assert otsu_mask(diamond)[1, 1]
    shell = np.zeros((7, 7, 7))
    shell[1:6, 1:6, 1:6], shell[3, 3, 3] = 1, 0
    assert otsu_mask(shell)[3, 3, 3]


@pytest.mark.parametrize("scores", [np.full((3, 4), 0.5), np.full((3, 4), np.nan)])
def test_a_flat_map_has_no_mask_and_no_hit(scores):
    assert not otsu_mask(scores).any()
    assert not wsol_unit(scores).any()
    assert hit(scores, np.ones((3, 4), bool)) == 0.0


def test_four_cases_of_empty_masks():
    """Both, only truth, only prediction, none."""
    lesion, other, nothing = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=bool)
    pairs = [(other, lesion), (nothing, lesion), (other, nothing), (nothing, nothing)]
    found = [[chexlocalize_iou(*pair, true_positives_only=only) for pair in pairs] for only in (True, False)]
    np.testing.assert_array_equal(found, [[1 / 3, math.nan, math.nan, math.nan], [1 / 3, 0, 0, math.nan]])
    assert math.isnan(chexlocalize_iou(nothing, lesion))  # theirs is the default
    with pytest.raises(GeometryError):
        chexlocalize_iou(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_the_hottest_pixel():
    scores, truth = blobs(shape=(8, 9)), blobs((2, 2, 5, 5), shape=(8, 9)) > 0
    scores[3, 4] = 1.0
    assert hit(scores, truth) == 1.0
    scores[0, 0] = 1.0  # as hot, and earlier
    assert hit(scores, truth) == 0.0
    scores[0, 0] = math.nan
    assert hit(scores, truth) == 1.0
    assert math.isnan(hit(scores, np.zeros_like(truth)))
    with pytest.raises(GeometryError):
        hit(scores, truth.T)


def test_random_hits_are_the_share_of_the_area():
    rng = np.random.default_rng(7)
    truth = blobs((3, 4, 15, 12), shape=(40, 40)) > 0
    found = np.mean([hit(rng.random((40, 40)), truth) for _ in range(4000)])
    assert found == pytest.approx(truth.mean(), abs=4 * math.sqrt(0.06 * 0.94 / 4000))


@pytest.mark.parametrize("axes", [2, 3])
def test_pointing_with_tolerance_equals_distances(axes):
    rng = np.random.default_rng(8)
    for _ in range(60):
        shape = tuple(rng.integers(3, 12, axes))
        scores, truth = rng.random(shape), rng.random(shape) < 0.05
        tolerance = rng.choice([0.0, 1.0, 1.5, 2.0, 5.0])
        if not truth.any():
            assert math.isnan(pointing(scores, truth, tolerance))
            continue
        away = ndimage.distance_transform_edt(~truth)[np.unravel_index(scores.argmax(), shape)]
        assert pointing(scores, truth, tolerance) == float(away <= tolerance + 1e-9)


# ---- detections


def test_matching_by_hand():
    overlaps = np.array([[0.9, 0.6], [0.8, 0.0], [0.7, 0.55], [0.1, 0.2]])
    confidences = np.array([0.9, 0.8, 0.7, 0.95])
    assert match_detections(overlaps, confidences).tolist() == [0, -1, 1, -1]
    assert match_detections(overlaps, confidences, once=False).tolist() == [0, 0, 0, -1]
    assert match_detections(overlaps, confidences, 0.65).tolist() == [0, -1, -1, -1]
    assert match_detections(overlaps, np.array([0.1, 0.8, math.nan, 0.1])).tolist() == [1, 0, -1, -1]
    assert match_detections(np.zeros((2, 0)), np.ones(2)).tolist() == [-1, -1]
    assert match_detections(np.zeros((0, 3)), np.ones(0)).tolist() == []
    assert match_detections(np.array([[0.5], [0.5]]), np.ones(2)).tolist() == [
        0,
        -1,
    ]  # at the threshold; first of equals


def some_detections(rng, cases=8):
    lesions = rng.integers(0, 4, cases)
    owner = rng.integers(0, cases, 40)
    matched = np.array([rng.integers(-1, lesions[case]) if lesions[case] else -1 for case in owner])
    return rng.integers(0, 12, 40) / 12, matched, owner, lesions


def repeated(found, row):
    """The same detections with every case copied as often as it was drawn."""
    confidences, matched, owner, lesions = found
    starts = np.concatenate([[0], np.cumsum(row)]).astype(int)
    rows = [
        (confidences[i], matched[i], starts[case] + copy) for i, case in enumerate(owner) for copy in range(row[case])
    ]
    columns = np.array(rows).T if rows else np.zeros((3, 0))
    return columns[0], columns[1].astype(int), columns[2].astype(int), np.repeat(lesions, row)


def slow_froc(confidences, matched, owner, lesions, at):
    if not lesions.sum():
        return np.full(len(at), np.nan)
    points = [(0.0, 0.0)]
    for level in sorted(set(confidences), reverse=True):
        on = confidences >= level
        seen = {(c, m) for c, m in zip(owner[on], matched[on], strict=True) if m >= 0}
        points.append(((matched[on] < 0).sum() / len(lesions), len(seen) / lesions.sum()))
    out = []
    for f in at:
        before = [p for p in points if p[0] <= f][-1]
        after = next((p for p in points if p[0] > f), None)
        out.append(before[1] if after is None else np.interp(f, *zip(before, after, strict=True)))
    return np.array(out)


def test_froc_equals_the_loop_and_repeated_cases():
    rng = np.random.default_rng(9)
    for _ in range(10):
        found = some_detections(rng)
        weights = draws_of(rng, 8)
        curve = froc(*found, weights)
        for values, row in zip(curve.sensitivity, weights, strict=True):
            np.testing.assert_allclose(values, slow_froc(*repeated(found, row), FALSE_POSITIVES), atol=1e-12)
        plain = froc(*found)
        np.testing.assert_array_equal(plain.sensitivity, curve.sensitivity[0])
        np.testing.assert_allclose(curve.cpm[0], plain.sensitivity.mean())
        assert plain.cpm == curve.cpm[0]


def test_froc_by_hand():
    """Ten images, four lesions: 2 found at no false positive, a third after 5, the last never."""
    confidences = np.array([0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6])
    matched = np.array([0, 1, -1, -1, -1, -1, -1, 0])
    owner = np.array([0, 0, 1, 2, 3, 4, 5, 9])
    lesions = np.array([2, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(froc(confidences, matched, owner, lesions).sensitivity, [0.5, 0.5, 0.75] + [0.75] * 4)


def test_below_the_first_operating_point_the_curve_rises_from_zero():
    """One lesion and one false positive of equal confidence in one image: the first point is (1, 1)."""
    curve = froc(np.array([0.5, 0.5]), np.array([0, -1]), np.zeros(2, int), np.array([1]))
    np.testing.assert_allclose(curve.sensitivity, [1 / 8, 1 / 4, 1 / 2, 1, 1, 1, 1])
    assert curve.cpm == pytest.approx((7 / 8 + 4) / 7)


def test_a_lesion_found_twice_counts_once():
    once = froc(np.array([0.9, 0.5]), np.array([0, -1]), np.zeros(2, int), np.array([2]))
    twice = froc(np.array([0.9, 0.7, 0.5]), np.array([0, 0, -1]), np.zeros(3, int), np.array([2]))
    np.testing.assert_array_equal(once.sensitivity, twice.sensitivity)


def test_froc_without_lesions_detections_or_cases():
    none = np.zeros(0)
    assert np.isnan(froc(np.array([0.5]), np.array([-1]), np.array([0]), np.array([0, 0])).sensitivity).all()
    assert froc(none, none, none, np.array([1, 0])).cpm == 0.0
    assert math.isnan(froc(none, none, none, np.zeros(0, int)).cpm)
    unknown = froc(np.array([np.nan, 0.5]), np.array([-1, 0]), np.zeros(2, int), np.array([1]))
    assert unknown.cpm == 1.0
    assert froc(np.array([0.5]), np.array([0]), np.array([0]), np.array([2]), at=(3.0,)).sensitivity.tolist() == [0.5]


def slow_average_precision(confidences, matched, truths):
    if not truths.sum():
        return math.nan
    points = []
    for level in sorted(set(confidences), reverse=True):
        on = confidences >= level
        points.append(((matched[on] >= 0).sum() / truths.sum(), (matched[on] >= 0).mean()))
    area, reached = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - reached) * max(precision for _, precision in points[i:])
        reached = recall
    return area


def test_average_precision_equals_the_loop_and_repeated_cases():
    rng = np.random.default_rng(10)
    for _ in range(10):
        confidences, owner, truths = rng.integers(0, 15, 40) / 15, rng.integers(0, 8, 40), rng.integers(0, 5, 8)
        matched = np.full(40, -1)
        for case in range(8):
            own = owner == case
            matched[own] = match_detections(rng.random((own.sum(), truths[case])), confidences[own])
        found, weights = (confidences, matched, owner, truths), draws_of(rng, 8)
        values = box_average_precision(*found, weights)
        for value, row in zip(values, weights, strict=True):
            again = repeated(found, row)
            np.testing.assert_allclose(value, slow_average_precision(again[0], again[1], again[3]), atol=1e-12)
        assert box_average_precision(*found) == pytest.approx(values[0], nan_ok=True)


def test_average_precision_from_boxes_by_hand():
    """Found, doubled, missed by .1 of overlap, found late: 1/3 + 2/4 * 1/3 of three truths."""
    predicted = [[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 24, 10], [40, 0, 50, 10]]
    truth = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    confidences = np.array([0.9, 0.8, 0.7, 0.6])
    matched = match_detections(box_iou(predicted, truth), confidences)
    assert matched.tolist() == [0, -1, -1, 2]
    assert box_average_precision(confidences, matched, np.zeros(4, int), np.array([3])) == pytest.approx(1 / 3 + 1 / 6)


def test_average_precision_without_boxes():
    none = np.zeros(0)
    assert box_average_precision(none, none, none, np.array([2])) == 0.0
    assert math.isnan(box_average_precision(none, none, none, np.array([0])))
    assert math.isnan(box_average_precision(np.array([0.4]), np.array([-1]), np.array([0]), np.array([0])))


def test_weights_of_another_set_are_refused():
    with pytest.raises(OptionError, match="one per case"):
        max_box_acc(np.zeros((3, 5)), 0.5, np.ones((2, 4)))
    with pytest.raises(OptionError, match="one per case"):
        froc(np.zeros(1), np.zeros(1, int), np.zeros(1, int), np.ones(3), np.ones(3))
