"""Surface distances: by hand, by a distance transform over the whole image, by a loop over all pairs, and by MONAI."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.surface import (
    LesionDetection,
    lesion_detection,
    mask_boundary,
    surface_distances,
    volume_difference,
)

SPACING = {2: (0.7, 1.3), 3: (2.5, 0.8, 0.6)}


def blobs(rng, shape, level=0.55):
    """Random masks with regions, holes and pixels at the edge of the image."""
    return ndimage.gaussian_filter(rng.random(shape), 1.0) > level * 0.5 + 0.25 * rng.random()


def slow_boundary(mask):
    """Every pixel asks each of its face neighbours."""
    out = np.zeros(mask.shape, bool)
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = place.copy()
                near[axis] += step
                outside = not 0 <= near[axis] < mask.shape[axis]
                out[tuple(place)] |= outside or not mask[tuple(near)]
    return out


def by_transform(predicted, truth, spacing):
    """Two distance transforms of the whole, uncropped image."""
    a, b = slow_boundary(predicted), slow_boundary(truth)
    forth = ndimage.distance_transform_edt(~b, sampling=spacing)[a]
    back = ndimage.distance_transform_edt(~a, sampling=spacing)[b]
    both = np.concatenate([forth, back])
    return both.max(), max(np.percentile(forth, 95), np.percentile(back, 95)), both.mean()


def by_pairs(predicted, truth, spacing):
    """Each boundary pixel against each one of the other."""
    a, b = (np.argwhere(slow_boundary(m)) * np.array(spacing) for m in (predicted, truth))
    forth = [min(math.dist(p, q) for q in b) for p in a]
    back = [min(math.dist(p, q) for p in a) for q in b]
    both = forth + back
    return max(both), max(np.percentile(forth, 95), np.percentile(back, 95)), sum(both) / len(both)


def by_monai(predicted, truth, spacing):
    """MONAI 1.5 trips over an argument that it deprecated itself; only that warning is put aside."""
    pair = [torch.from_numpy(m)[None, None] for m in (predicted, truth)]
    given = {"include_background": True, "spacing": list(spacing)}
    return (
        compute_hausdorff_distance(*pair, **given).item(),
        compute_hausdorff_distance(*pair, **given, percentile=95).item(),
        compute_average_surface_distance(*pair, **given, symmetric=True).item(),
    )


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("slow", "rel"), [(by_transform, 1e-12), (by_pairs, 1e-12), (by_monai, 1e-5)])
def test_equals_the_slow_ways(slow, rel, axes):
    rng = np.random.default_rng(axes)
    shape = (17, 23) if axes == 2 else (6, 9, 8)
    compared = 0
    for _ in range(15):
        predicted, truth = blobs(rng, shape), blobs(rng, shape)
        if predicted.any() and truth.any():
            assert surface_distances(predicted, truth, SPACING[axes]) == pytest.approx(
                slow(predicted, truth, SPACING[axes]), rel=rel
            )
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("axes", [2, 3])
def test_boundary_equals_the_loop(axes):
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = rng.random((7, 6, 5)[:axes]) < 0.8
        np.testing.assert_array_equal(mask_boundary(mask), slow_boundary(mask))


def test_two_squares_shifted_by_three():
    a, b = np.zeros((2, 20, 20), bool)
    a[2:12, 2:12] = True
    b[2:12, 5:15] = True
    assert surface_distances(a, b) == (3.0, 3.0, 1.5)
    assert surface_distances(a, b, (5.0, 2.0)).hausdorff == 6.0  # the shift is along x
    assert surface_distances(a.T, b.T, (5.0, 2.0)).hausdorff == 15.0
    assert surface_distances(a, a) == (0.0, 0.0, 0.0)


def test_two_pixels():
    a, b = np.zeros((2, 50, 40), bool)
    a[1, 2] = b[4, 6] = True
    assert surface_distances(a, b) == (5.0, 5.0, 5.0)
    assert surface_distances(a, b, (2.0, 0.5)) == pytest.approx((math.hypot(6, 2),) * 3)
    b[1, 2] = True  # a's pixel is now met; b's distances are 0 and 5
    assert surface_distances(a, b) == pytest.approx((5.0, 4.75, 5 / 3))


def test_two_voxels_in_3d():
    a, b = np.zeros((2, 3, 8, 9), bool)
    a[0, 1, 2] = b[2, 4, 6] = True
    assert surface_distances(a, b, (6.0, 1.0, 1.0)) == pytest.approx((13.0,) * 3)


def test_2d_equals_3d_of_one_slice():
    rng = np.random.default_rng(5)
    a, b = blobs(rng, (15, 12)), blobs(rng, (15, 12))
    stack = lambda m: np.stack([np.zeros_like(m), m, np.zeros_like(m)])  # noqa: E731
    hollow = [mask_boundary(m) for m in (a, b)]  # in a single slice every pixel is at the surface
    assert surface_distances(stack(hollow[0]), stack(hollow[1]), (1, 1, 1)) == pytest.approx(
        by_transform(stack(hollow[0]), stack(hollow[1]), (1, 1, 1))
    )


def test_symmetric_and_blind_to_the_empty_rest_of_the_image():
    rng = np.random.default_rng(6)
    a, b = blobs(rng, (14, 11)), blobs(rng, (14, 11))
    expected = surface_distances(a, b)
    assert surface_distances(b, a) == pytest.approx(expected)
    wide = [np.pad(m, ((30, 7), (2, 90))) for m in (a, b)]
    assert surface_distances(*wide) == pytest.approx(expected)
    assert by_transform(*wide, (1, 1)) == pytest.approx(expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_an_empty_mask_is_undefined(axes):
    full, empty = np.ones((4, 5, 6)[:axes], bool), np.zeros((4, 5, 6)[:axes], bool)
    for pair in [(full, empty), (empty, full), (empty, empty)]:
        assert np.isnan(surface_distances(*pair, SPACING[axes])).all()


def test_3d_needs_the_spacing_even_where_nothing_is_measured():
    for mask in (np.ones((2, 3, 4), bool), np.zeros((2, 3, 4), bool)):
        with pytest.raises(OptionError, match="3D need the spacing"):
            surface_distances(mask, mask)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -2.0), (1.0, math.nan)])
def test_bad_spacing(spacing):
    with pytest.raises(OptionError, match="2 positive numbers of mm"):
        surface_distances(np.ones((3, 3), bool), np.ones((3, 3), bool), spacing)


@pytest.mark.parametrize("measure", [surface_distances, lesion_detection, volume_difference])
def test_masks_of_two_sizes_are_refused(measure):
    with pytest.raises(GeometryError, match=r"\(2, 3\).*\(3, 2\)"):
        measure(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


# ---- lesions -----------------------------------------------------------------------------------------------------


def picture(*lines):
    return np.array([[c == "#" for c in line] for line in lines])


def test_lesions_by_hand():
    truth = picture(
        "##.......",
        "##....#..",
        ".......#.",
        "#........",
    )
    predicted = picture(
        ".#####...",
        "......#..",
        "..##.....",
        "........#",
    )
    # lesions: the square, the diagonal pair, the single pixel; the arm from the square reaches the pair's upper pixel
    assert lesion_detection(predicted, truth) == LesionDetection(lesions=3, found=2, predicted=3, false=2)
    assert lesion_detection(predicted, truth, share=0.25).found == 2
    assert lesion_detection(predicted, truth, share=0.5).found == 1
    assert lesion_detection(predicted, truth, share=0.51).found == 0
    assert lesion_detection(truth, truth, share=1.0) == (3, 3, 3, 0)


def slow_detection(predicted, truth, share):
    structure = np.ones((3,) * truth.ndim)
    regions, guesses = ndimage.label(predicted, structure)
    lesions, count = ndimage.label(truth, structure)
    found = sum(
        bool((predicted & (lesions == i)).any()) and (predicted & (lesions == i)).sum() / (lesions == i).sum() >= share
        for i in range(1, count + 1)
    )
    false = sum(not (truth & (regions == i)).any() for i in range(1, guesses + 1))
    return count, found, guesses, false


@pytest.mark.parametrize("axes", [2, 3])
def test_lesions_equal_the_loop(axes):
    rng = np.random.default_rng(7)
    for _ in range(40):
        predicted, truth = (rng.random((9, 8, 5)[:axes]) < rng.uniform(0, 0.2) for _ in range(2))
        for share in (0.0, 0.5):
            assert lesion_detection(predicted, truth, share=share) == slow_detection(predicted, truth, share)


def test_no_lesion_and_no_guess():
    full, empty = np.ones((3, 3), bool), np.zeros((3, 3), bool)
    assert lesion_detection(empty, empty) == (0, 0, 0, 0)
    assert lesion_detection(full, empty) == (0, 0, 1, 1)
    assert lesion_detection(empty, full) == (1, 0, 0, 0)


# ---- volume ------------------------------------------------------------------------------------------------------


def test_volume_difference():
    truth = np.zeros((2, 5, 5), bool)
    truth[0, :2] = True
    assert volume_difference(truth, truth) == 0
    assert volume_difference(np.zeros_like(truth), truth) == -1
    assert volume_difference(np.ones_like(truth), truth) == 4.0
    assert math.isnan(volume_difference(truth, np.zeros_like(truth)))
