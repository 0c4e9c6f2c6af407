"""Shortcut signs: drawn bodies, evidence in known places, and labels that the acquisition does or does not betray."""

import numpy as np
import pytest

from lesioncam.errors import GeometryError
from lesioncam.functional.body import border_band
from lesioncam.functional.metrics import auroc
from lesioncam.functional.shortcut import (
    border_features,
    evidence_shares,
    probe_scores,
    statistics_features,
)

rng = np.random.default_rng(0)


def disc(side=60, radius=20, axes=2):
    """A ball in the middle."""
    grid = np.indices((side,) * axes) - (side - 1) / 2
    return (grid**2).sum(axis=0) <= radius**2


# ---- shares ------------------------------------------------------------------------------------------------------


def test_outside_inside_and_half():
    body = disc()
    evidence = np.stack([~body, body, np.where(body, 1 / body.sum(), 1 / (~body).sum())]).astype(np.float32)
    np.testing.assert_allclose(evidence_shares(evidence, body).outside, [1, 0, 0.5], rtol=1e-6)


def test_negative_evidence_does_not_count():
    body = disc()
    evidence = np.where(body, 2.0, -5.0)[None]
    assert evidence_shares(evidence, body).outside[0] == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_no_positive_or_no_finite_evidence_is_undefined(bad):
    evidence = np.full((1, 10, 10), -1.0)
    evidence[0, 4, 4] = bad
    shares = evidence_shares(evidence, np.ones((10, 10), bool))
    assert np.isnan(shares.outside[0])
    assert np.isnan(shares.border[0])


@pytest.mark.parametrize("shape", [(20, 40), (100, 30), (20, 30, 40), (7, 9)])
def test_border_of_uniform_evidence_by_counting(shape):
    count = 0
    for place in np.ndindex(*shape):
        near = [min(i, side - 1 - i) < max(1, int(0.05 * side + 0.5)) for i, side in zip(place, shape, strict=True)]
        count += any(near)
    shares = evidence_shares(np.ones((1, *shape)), np.ones(shape, bool))
    assert shares.border[0] == pytest.approx(count / np.prod(shape))
    assert shares.outside[0] == 0


def test_a_thin_axis_has_no_border():
    assert not border_band((1, 40, 40), 0.05)[0, 5:35, 5:35].any()
    assert not border_band((2, 2), 0.05).any()


def test_many_classes_at_once_equal_one_at_a_time():
    evidence, body = rng.normal(size=(5, 30, 20)), disc(30, 9)[:, 5:25]
    together = evidence_shares(evidence, body)
    for k in range(5):
        alone = evidence_shares(evidence[[k]], body)
        assert (together.outside[k], together.border[k]) == (alone.outside[0], alone.border[0])
        positive = evidence[k].clip(0)
        assert alone.outside[0] == pytest.approx(positive[~body].sum() / positive.sum())


def test_no_class_gives_no_share():
    assert evidence_shares(np.zeros((0, 5, 5)), np.ones((5, 5), bool)).outside.shape == (0,)


def test_without_air_no_share_outside_is_told():
    shares = evidence_shares(np.ones((2, 20, 20)), None)
    assert np.isnan(shares.outside).all()
    assert shares.border == pytest.approx([1 - 18 * 18 / 400] * 2)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 4, 4), (0, 5)])
def test_other_axes_are_refused(shape):
    for function in (border_features, statistics_features):
        with pytest.raises(GeometryError, match="expected 2 axes"):
            function(np.zeros(shape))


def test_maps_of_another_grid_are_refused():
    with pytest.raises(GeometryError, match="own grid"):
        evidence_shares(np.ones((1, 5, 5)), np.ones((5, 6), bool))


# ---- vectors -----------------------------------------------------------------------------------------------------

SHAPES = {2: [(1, 1), (2, 3), (40, 60), (333, 50), (64, 64, 3), (64, 64, 1), (30, 30, 4)], 3: [(1, 30, 40), (12, 9, 7)]}


@pytest.mark.parametrize("function", [border_features, statistics_features])
@pytest.mark.parametrize("axes", [2, 3])
def test_one_length_for_all_sizes(function, axes):
    vectors = [function(rng.integers(0, 255, shape).astype(np.uint8), axes) for shape in SHAPES[axes]]
    expected = {(border_features, 2): 46, (border_features, 3): 68}.get((function, axes), 56 + axes)
    assert {len(vector) for vector in vectors} == {expected}
    assert all(np.isfinite(vector).all() for vector in vectors)


@pytest.mark.parametrize("function", [border_features, statistics_features])
@pytest.mark.parametrize("value", [0, 1e30, -2.0, np.nan])
def test_flat_real_images_give_finite_vectors(function, value):
    assert np.isfinite(function(np.full((20, 20), value, np.float32))).all()


def test_border_features_see_nothing_inside():
    image = rng.integers(0, 255, (100, 80)).astype(np.uint8)
    other = image.copy()
    other[5:95, 4:76] = 0
    np.testing.assert_array_equal(border_features(image), border_features(other))
    other[4, 40] ^= 255
    assert (border_features(image) != border_features(other)).any()


def test_border_features_are_almost_the_same_at_another_size():
    small = np.pad(np.zeros((72, 72), np.uint8), 4, constant_values=200)
    large = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    np.testing.assert_allclose(border_features(small), border_features(large), atol=1e-12)


def test_border_profile_by_hand():
    image = np.zeros((20, 40))
    image[0] = np.arange(40)  # top: 5 % of 20 is one row, eight cells of five columns
    profile = border_features(image)[14:]
    np.testing.assert_allclose(profile[:8], np.arange(40).reshape(8, 5).mean(axis=1))
    np.testing.assert_allclose(profile[8:16], 0)
    np.testing.assert_allclose(profile[16:24], [(0 + 1) / 2 / 2, 0, 0, 0, 0, 0, 0, 0])  # left: 2 columns, 20 rows / 8


def test_types_are_scaled_by_their_range():
    eight = rng.integers(0, 256, (30, 30)).astype(np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    np.testing.assert_allclose(border_features(eight), border_features(sixteen))
    a, b = statistics_features(eight), statistics_features(sixteen)
    different = np.flatnonzero(~np.isclose(a, b))
    np.testing.assert_array_equal(different, [5, 6])  # bits of the type, bits in use
    assert a[5:7].tolist() == [8, 8]
    assert b[5:7].tolist() == [16, 16]


def test_statistics_by_hand():
    image = np.array([[0, 8, 16, 255], [0, 8, 255, 255]], np.uint8)
    features = statistics_features(image)
    grey = image / 255
    np.testing.assert_allclose(features[:7], [np.log(2), np.log(4), np.log(0.5), np.log(2), 1, 8, 8])
    np.testing.assert_allclose(features[7:11], [grey.mean(), grey.std(), 0, 1])
    np.testing.assert_allclose(features[18:20], [2 / 8, 3 / 8])
    histogram = np.zeros(32)
    histogram[[0, 1, 2, 31]] = np.array([2, 2, 1, 3]) / 8
    np.testing.assert_allclose(features[-32:], histogram)


def test_statistics_do_not_know_where():
    image = rng.integers(0, 255, (30, 40)).astype(np.uint8)
    shuffled = rng.permutation(image.ravel()).reshape(image.shape)
    np.testing.assert_allclose(statistics_features(image), statistics_features(shuffled))


# ---- probes ------------------------------------------------------------------------------------------------------


def test_a_separating_number_is_found_and_noise_is_not():
    labels = rng.integers(0, 2, (400, 2)).astype(float)
    features = rng.normal(size=(400, 6))
    features[:, 0] += 6 * labels[:, 0]  # only the first class is betrayed
    scores = probe_scores(features[:200], labels[:200], features[200:])
    assert auroc(scores[:, 0], labels[200:, 0]) > 0.99
    assert abs(auroc(scores[:, 1], labels[200:, 1]) - 0.5) < 0.15


def test_scale_and_shift_of_the_features_do_not_matter():
    labels, features = rng.integers(0, 2, (50, 1)).astype(float), rng.normal(size=(50, 3))
    moved = features * [1e3, 1e-3, 1] + [5, -7, 1e4]
    np.testing.assert_allclose(
        probe_scores(features, labels, features), probe_scores(moved, labels, moved), rtol=1e-4, atol=1e-6
    )


def test_unknown_labels_take_no_part():
    labels, features = rng.integers(0, 2, (50, 1)).astype(float), rng.normal(size=(50, 3))
    more = np.vstack([features, rng.normal(size=(20, 3)) * [9, 1, 1]])
    unknown = np.vstack([labels, np.full((10, 1), np.nan), np.full((10, 1), 0.5)])
    scores = probe_scores(more, unknown, features)
    assert np.isfinite(scores).all()
    same = probe_scores(np.vstack([features, features]), np.vstack([labels, np.full((50, 1), -1.0)]), features)
    np.testing.assert_allclose(same, probe_scores(features, labels, features), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_class_without_two_sides_is_undefined(value):
    labels = np.column_stack([np.full(20, value), np.arange(20) % 2])
    scores = probe_scores(rng.normal(size=(20, 3)), labels, rng.normal(size=(4, 3)))
    assert np.isnan(scores[:, 0]).all()
    assert np.isfinite(scores[:, 1]).all()


def test_constant_repeated_and_separating_features_give_no_warning():
    labels = np.repeat([[0.0], [1.0]], 10, axis=0)
    features = np.column_stack([np.full(20, 0.1), labels, labels, 1e9 * labels])
    scores = probe_scores(features, labels, features)
    assert auroc(scores[:, 0], labels[:, 0]) == 1
    odd = np.column_stack([np.full(20, 7.0), labels, labels, 1e9 * labels])  # a constant that changes says nothing
    np.testing.assert_allclose(probe_scores(features, labels, odd), scores)


def test_nothing_to_learn_from_or_to_judge():
    assert np.isnan(probe_scores(np.empty((0, 3)), np.empty((0, 2)), np.ones((4, 3)))).all()
    assert probe_scores(np.ones((4, 3)), np.ones((4, 2)), np.empty((0, 3))).shape == (0, 2)


def test_vectors_of_another_length_are_refused():
    with pytest.raises(GeometryError, match="same number of axes"):
        probe_scores(np.ones((4, 3)), np.ones((4, 1)), np.ones((4, 2)))
