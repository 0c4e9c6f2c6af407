"""From responses to colours and boxes: against colorsys, drawn rectangles and what a person can compute."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from lesioncam.errors import OptionError
from lesioncam.functional.clear import (
    BOXES,
    CLASS_SCALES,
    PALETTES,
    attentive_box,
    brightness,
    class_scale,
    compose,
    dominant,
    palette,
    project,
    reduce_channels,
)

SHAPES = [(9, 14), (5, 8, 11)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestChannels:
    @pytest.mark.parametrize("size", SHAPES)
    def test_all_agree_on_grey_images(self, size):
        signed = draw(2, 4, 1, *size)
        for how in ("sum_abs", "abs_sum", "max"):
            assert torch.equal(reduce_channels(signed, how), signed[:, :, 0].abs())

    def test_they_differ_on_colour(self):
        """On noise of three channels the sum of absolute values is sqrt(3) times the absolute value of the sum."""
        signed = draw(1, 1, 3, 400, 400)
        ratio = reduce_channels(signed, "sum_abs").mean() / reduce_channels(signed, "abs_sum").mean()
        assert ratio.item() == pytest.approx(3**0.5, rel=0.01)

    def test_unknown(self):
        with pytest.raises(OptionError, match="Did you mean 'abs_sum'"):
            reduce_channels(torch.zeros(1, 1, 1, 2), "abssum")


class TestClasses:
    @pytest.mark.parametrize("size", SHAPES)
    def test_dominant_equals_a_loop(self, size):
        responses = draw(2, 5, *size).abs()
        which, strength = dominant(responses)
        for n in range(2):
            for x in np.ndindex(*size):
                values = [float(responses[(n, k, *x)]) for k in range(5)]
                assert int(which[(n, *x)]) == values.index(max(values))
                assert float(strength[(n, *x)]) == max(values)

    @pytest.mark.parametrize("how", CLASS_SCALES)
    def test_scales_keep_zero_and_sign(self, how):
        responses = draw(2, 3, 6, 7).abs()
        responses[0, 1] = 0
        responses[1, 2] = 4.0
        scaled = class_scale(responses, torch.full((2, 3), 1 / 3), how)
        assert torch.isfinite(scaled).all()
        assert (scaled >= 0).all()
        assert (scaled[0, 1] == 0).all()

    def test_standardise_forgets_the_magnitude_of_a_class(self):
        responses, factors = draw(1, 3, 6, 7).abs(), torch.tensor([1.0, 100.0, 0.01]).view(1, 3, 1, 1)
        one = class_scale(responses, torch.ones(1, 3), "standardise")
        other = class_scale(responses * factors, torch.ones(1, 3), "standardise")
        assert torch.allclose(one, other)
        assert torch.allclose(one.flatten(2).std(2, correction=0), torch.ones(1, 3))


class TestColours:
    @pytest.mark.parametrize("classes", [1, 2, 3, 6, 7, 12, 100])
    def test_hues_equal_colorsys(self, classes):
        expected = [colorsys.hsv_to_rgb(c / classes, 1.0, 1.0) for c in range(classes)]
        np.testing.assert_allclose(palette("hue", classes), expected, atol=1e-15)

    def test_full_saturation(self):
        rng = np.random.default_rng(1)
        which, value = rng.integers(0, 9, (40, 50)), rng.random((40, 50))
        rgb = compose(which, value, palette("hue", 9))
        assert (rgb.max(-1) == value).all()
        assert (rgb.min(-1) == 0).all()

    def test_hue_round_trip(self):
        for classes in (2, 5, 14):
            for c, colour in enumerate(palette("hue", classes)):
                assert colorsys.rgb_to_hsv(*colour)[0] == pytest.approx(c / classes, abs=1e-15)

    def test_five_grades(self):
        expected = [(1, 0, 0), (0.8, 1, 0), (0, 1, 0.4), (0, 0.4, 1), (0.8, 0, 1)]
        np.testing.assert_allclose(palette("hue", 5), expected, atol=1e-15)

    def test_composition_is_hsv(self):
        rng = np.random.default_rng(2)
        which, value = rng.integers(0, 5, (6, 7)), rng.random((6, 7))
        rgb = compose(which, value, palette("hue", 5))
        for x in np.ndindex(6, 7):
            np.testing.assert_allclose(rgb[x], colorsys.hsv_to_rgb(which[x] / 5, 1.0, value[x]), atol=1e-15)

    @pytest.mark.parametrize("classes", [2, 3, 5, 7])
    def test_the_safe_palette_survives_colour_blindness(self, classes):
        """Nearest pair of colours as a protanope and a deuteranope see them (Vienot 1999), CIELAB distance."""
        safe, hue = (min(nearest(palette(name, classes), kind) for kind in DICHROMATS) for name in ("safe", "hue"))
        assert safe > 15
        assert classes < 5 or safe > hue

    def test_too_many_classes_for_the_safe_palette(self):
        with pytest.raises(OptionError, match="tells 7 classes apart, not 8"):
            palette("safe", 8)

    @pytest.mark.parametrize("name", PALETTES)
    def test_colours_are_unique(self, name):
        assert len({tuple(colour) for colour in palette(name, 7)}) == 7


LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
DICHROMATS = {
    "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
    "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
}


def nearest(colours: np.ndarray, kind: str) -> float:
    from skimage.color import rgb2lab

    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ (np.linalg.inv(LMS) @ DICHROMATS[kind] @ LMS).T, 0, 1)
    shown = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(shown)
    return min(float(np.linalg.norm(a - b)) for i, a in enumerate(lab) for b in lab[:i])


class TestBrightness:
    def test_scaled_by_its_own_peak(self):
        response = np.random.default_rng(0).random((20, 30)) * 7
        value = brightness(response, dark=0.0)
        np.testing.assert_allclose(value, response / response.max())

    def test_percentile_clips(self):
        response = np.arange(1000.0)
        value = brightness(response, percentile=99.0, dark=0.0)
        assert (value == 1).sum() == 10
        assert value[500] == pytest.approx(500 / np.percentile(response, 99))

    def test_low_evidence_is_black(self):
        value = brightness(np.array([0.049, 0.051, 1.0]))
        assert value.tolist() == [0.0, 0.051, 1.0]

    @pytest.mark.parametrize("empty", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.zeros((0,))])
    def test_nothing_is_black(self, empty):
        assert (brightness(empty) == 0).all()

    def test_bad_numbers(self):
        with pytest.raises(OptionError, match="percentile lies in"):
            brightness(np.ones(3), percentile=0)


class TestBox:
    @pytest.mark.parametrize("size", SHAPES)
    def test_a_drawn_block_is_returned_exactly(self, size):
        rng = np.random.default_rng(0)
        for _ in range(20):
            start = [int(rng.integers(0, n - 2)) for n in size]
            stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, size, strict=True)]
            response = rng.random(size) * 0.4
            block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            response[block] = 0.9 + 0.1 * rng.random([b - a for a, b in zip(start, stop, strict=True)])
            found = attentive_box(np.full(size, 3), response, predicted=3)
            assert found == (*start[::-1], *stop[::-1])

    def test_only_the_predicted_class_counts(self):
        which, response = np.zeros((8, 10), int), np.zeros((8, 10))
        response[0:2, 0:2], which[0:2, 0:2] = 5.0, 1
        response[4:7, 3:9] = 1.0
        assert attentive_box(which, response, predicted=0) == (3, 4, 9, 7)
        assert attentive_box(which, response, predicted=1) == (0, 0, 2, 2)
        assert attentive_box(which, response, predicted=2) == (0, 0, 2, 2), "no pixel of class 2: all pixels count"

    def test_the_largest_sum_wins_not_the_highest_peak(self):
        response = np.zeros((8, 10))
        response[0, 0] = 1.0
        response[4:6, 4:6] = 0.6
        assert attentive_box(np.zeros((8, 10), int), response, 0) == (4, 4, 6, 6)

    def test_diagonals_connect(self):
        response = np.eye(5)
        assert attentive_box(np.zeros((5, 5), int), response, 0) == (0, 0, 5, 5)

    def test_smoothing_joins_speckle(self):
        response = np.zeros((40, 50))
        response[10:20:2, 20:36:2] = 1.0
        response[30, 5] = 1.5
        nothing = np.zeros((40, 50), int)
        assert attentive_box(nothing, response, 0) == (5, 30, 6, 31)
        found = attentive_box(nothing, response, 0, smooth=2.0)
        assert np.abs(np.subtract(found, (20, 10, 35, 19))).max() <= 2

    @pytest.mark.parametrize("size", SHAPES)
    def test_window_equals_a_search(self, size):
        rng = np.random.default_rng(3)
        response = rng.random(size)
        side = max(1, min(size) // 4)
        best = max(
            np.ndindex(*[n - side + 1 for n in size]),
            key=lambda start: response[tuple(slice(i, i + side) for i in start)].sum(),
        )
        expected = (*best[::-1], *(i + side for i in best[::-1]))
        assert attentive_box(np.zeros(size, int), response, 0, kind="window") == expected

    @pytest.mark.parametrize("kind", BOXES)
    def test_no_response_no_box(self, kind):
        assert attentive_box(np.zeros((6, 6), int), np.zeros((6, 6)), 0, kind) is None
        assert attentive_box(np.zeros((6, 6), int), np.full((6, 6), np.nan), 0, kind) is None

    def test_unknown_kind(self):
        with pytest.raises(OptionError, match="Did you mean 'window'"):
            attentive_box(np.zeros((2, 2), int), np.ones((2, 2)), 0, "windows")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_projection_equals_a_loop(axis):
    rng = np.random.default_rng(0)
    which, response = rng.integers(0, 4, (3, 4, 5)), rng.random((3, 4, 5))
    flat, strength = project(which, response, axis)
    lines = np.moveaxis(np.stack([which, response], -1), axis, 0)
    for x in np.ndindex(flat.shape):
        best = max(lines[(slice(None), *x)].tolist(), key=lambda pair: pair[1])
        assert (flat[x], strength[x]) == (best[0], best[1])
