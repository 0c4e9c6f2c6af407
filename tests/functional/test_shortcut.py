"""Shortcut signs: drawn bodies, evidence in known places, and labels that the acquisition does or does not betray."""

import numpy as np
import pytest
from scipy import ndimage

from lesioncam.errors import GeometryError
from lesioncam.functional.metrics import auroc
from lesioncam.functional.shortcut import (
    body_mask,
    border_band,
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


# ---- body --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_drawn_body_comes_back(axes, dtype):
    body = disc(40, 14, axes)
    image = np.where(body, 90, 5).astype(dtype)
    np.testing.assert_array_equal(body_mask(image, axes), body)


def test_holes_are_filled_and_small_bright_things_left():
    body = disc()
    image = np.where(body & ~disc(radius=12), 200, 3).astype(np.uint8)  # a ring: the scalp
    image[2:6, 2:12] = 255  # a burnt-in letter
    np.testing.assert_array_equal(body_mask(image), body)


def test_a_ring_beats_a_larger_solid_region_within():
    """The scalp and the brain apart, with the dark skull between: the ring holds it all, though the brain has more."""
    body, skull, brain = disc(radius=25), disc(radius=23), disc(radius=19)
    image = np.where(body & ~skull | brain, 180, 10).astype(np.uint8)
    assert brain.sum() > (body & ~skull).sum()
    np.testing.assert_array_equal(body_mask(image), body)


def test_a_bright_lesion_in_dark_tissue_is_not_the_body():
    body, lesion = disc(radius=25), disc(radius=8)
    image = np.where(lesion, 250, np.where(body, 60, 4)).astype(np.uint8)
    np.testing.assert_array_equal(body_mask(image), body)


def test_noise_in_the_air_is_not_the_body():
    body = disc(radius=12)
    noise = np.random.default_rng(1).integers(0, 9, body.shape)
    np.testing.assert_array_equal(body_mask(np.where(body, 200, noise).astype(np.uint8)), body)
    large = disc(radius=20)  # a gap in the histogram: the whole of its lower side is air
    np.testing.assert_array_equal(body_mask(np.where(large, 187, noise).astype(np.uint8)), large)


def test_colour_is_averaged():
    body = disc()
    image = np.zeros((*body.shape, 3), np.uint8)
    image[body] = (180, 60, 30)
    np.testing.assert_array_equal(body_mask(image), body)


def test_a_hole_open_to_the_edge_is_air():
    image = np.full((20, 20), 100, np.uint8)
    image[5:10, 5:10] = 0  # closed
    image[12:15, 15:] = 0  # open
    expected = np.ones((20, 20), bool)
    expected[12:15, 15:] = False
    np.testing.assert_array_equal(body_mask(image), expected)


@pytest.mark.parametrize("seed", range(5))
def test_holes_by_an_independent_fill(seed):
    """scipy's own filling of holes, on blobs."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((50, 60)), 3) > 0.5
    image = np.where(noise, 200, 0).astype(np.uint8)
    filled = ndimage.binary_fill_holes(noise)
    regions, count = ndimage.label(filled, np.ones((3, 3)))
    sizes = [int((regions == i + 1).sum()) for i in range(count)]
    np.testing.assert_array_equal(body_mask(image), regions == 1 + int(np.argmax(sizes)))


@pytest.mark.parametrize("value", [0, 7.5, -3])
def test_a_flat_image_is_all_body(value):
    assert body_mask(np.full((8, 9), value)).all()


def test_almost_flat_is_flat():
    assert body_mask(np.where(np.eye(8) > 0, 1.0, np.nextafter(1.0, 2.0))).all()


def test_single_pixel_single_slice_and_nan():
    assert body_mask(np.ones((1, 1))).all()
    body = disc()[None]
    np.testing.assert_array_equal(body_mask(np.where(body, 9.0, 1.0), axes=3), body)
    dirty = np.where(disc(), 90.0, 5.0)
    dirty[0, 0], dirty[30, 30], dirty[1, 1] = np.nan, np.inf, -np.inf  # the one inside becomes a hole, and is filled
    np.testing.assert_array_equal(body_mask(dirty), disc())


@pytest.mark.parametrize("shape", [(5,), (4, 4, 4, 4), (0, 5)])
def test_other_axes_are_refused(shape):
    for function in (body_mask, border_features, statistics_features):
        with pytest.raises(GeometryError, match="expected 2 axes"):
            function(np.zeros(shape))


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
    assert not border_band((1, 40, 40))[0, 5:35, 5:35].any()
    assert not border_band((2, 2)).any()


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
