"""What cuts the network input also carries results back: a drawn blob must come home."""

import numpy as np
import pytest
import torch
from tests.points import to_native_points

from lesioncam.data.preprocess import Preprocess, ResizeCrop, display_image, foreground_box, to_planes
from lesioncam.errors import GeometryError, ImageError
from lesioncam.geometry import OUTSIDE, Geometry, resize
from lesioncam.options.data import PreprocessConfig, ResizeCropConfig
from lesioncam.picture import Picture

SIZES = [(300, 180), (180, 300), (256, 256), (97, 131)]


def blob(size, place, width=0.04):
    grid = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    spread = width * max(size)
    return np.exp(-sum((g - p) ** 2 for g, p in zip(grid, place, strict=True)) / (2 * spread**2))


def centroid(image):
    grid = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
    return [float((g * image).sum() / image.sum()) for g in grid]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_a_blob_drawn_anywhere_comes_back_within_a_pixel(size, crop, centred):
    for share in ((0.3, 0.4), (0.7, 0.3), (0.5, 0.75)):
        place = [s * n for s, n in zip(share, size, strict=True)]
        image = np.zeros(size)
        image[size[0] // 8 : -size[0] // 8, size[1] // 8 : -size[1] // 8] = 0.3  # a body to crop to
        sample = Preprocess(PreprocessConfig(size=128, crop=crop, centred=centred))(image + blob(size, place))
        body_only = Preprocess(PreprocessConfig(size=128, crop=crop, centred=centred))
        seen = sample.image - body_only_image(body_only, image, sample)
        home = sample.geometry.to_native(np.clip(seen, 0, None), fill=0.0)[0]
        assert home.shape == size
        assert centroid(home) == pytest.approx(place, abs=1.0)


def body_only_image(preprocess, image, sample):
    """The same input without the blob, in the same units: normalisation is affine, so fit it on the body."""
    body = sample.geometry.to_input(torch.from_numpy(image.astype(np.float32))[None, None])[0].numpy()
    low, high = sample.image.min(), np.median(sample.image[body > 0.29])
    return low + body / 0.3 * (high - low)


@pytest.mark.parametrize("origin", [None, (0.0, 0.0), (3.5, 7.0)])
@pytest.mark.parametrize("size", SIZES)
def test_a_cell_lands_where_the_network_looked(size, origin):
    """A map with one hot cell, carried home, has its centre on the input pixel that the cell looks at."""
    geometry = Geometry.letterbox(size, (128, 128))
    first = (3.5, 3.5) if origin is None else origin
    cells = np.zeros((1, 16, 16), np.float32)
    cells[0, 8, 7] = 1.0
    home = geometry.to_native(cells, fill=0.0, origin=origin)[0]
    expected = to_native_points(geometry, [[first[0] + 8 * 8, first[1] + 7 * 8]])[0]
    assert centroid(home) == pytest.approx(expected.tolist(), abs=0.75)
    assert 0 <= home.min() <= home.max() <= 1


@pytest.mark.parametrize("grid", [(6,), (6, 9), (6, 9, 5)])
def test_resize_keeps_a_cell_in_its_place_and_range(grid):
    maps, cell = torch.zeros(1, 1, *grid), tuple(n // 2 for n in grid)
    maps[(0, 0, *cell)] = 1.0
    big = resize(maps, tuple(8 * n for n in grid))[0, 0].numpy()
    assert centroid(big) == pytest.approx([8 * i + 3.5 for i in cell], abs=1e-3)
    assert big.min() >= 0
    assert big.max() <= 1


def test_half_pixel_spread_equals_the_library_resize():
    maps = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0))
    geometry = Geometry.letterbox((72, 56), (72, 56))
    np.testing.assert_allclose(geometry.to_native(maps.numpy()), resize(maps[None], (72, 56))[0].numpy(), atol=1e-5)


def test_outside_the_crop_is_cold():
    geometry = Geometry.letterbox((40, 30), (16, 16), crop=[(10, 30), (5, 25)])
    home = geometry.to_native(np.full((1, 4, 4), 3.0, np.float32))
    assert (home[0, :10] == OUTSIDE).all()
    assert home[0, 10:30, 5:25] == pytest.approx(np.full((20, 20), 3.0))


def test_points_go_there_and_back():
    geometry = Geometry.letterbox((301, 177), (128, 128), crop=[(11, 290), (3, 170)])
    points = np.array([[20.0, 30.5], [200.25, 100.0]])
    np.testing.assert_allclose(to_native_points(geometry, geometry.to_input_points(points)), points)


def test_geometry_in_three_dimensions_equals_two_with_depth_one():
    maps = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    flat = Geometry.letterbox((50, 40), (32, 32)).to_native(maps)
    deep = Geometry.letterbox((1, 50, 40), (1, 32, 32)).to_native(maps[:, None])
    assert deep.shape == (2, 1, 50, 40)
    if Geometry.letterbox((1, 50, 40), (1, 32, 32)).scaled[1:] == Geometry.letterbox((50, 40), (32, 32)).scaled:
        np.testing.assert_allclose(deep[:, 0], flat, atol=1e-5)


@pytest.mark.parametrize("crop", [[(0, 0), (0, 5)], [(-1, 5), (0, 5)], [(0, 11), (0, 5)]])
def test_impossible_crops_are_named(crop):
    with pytest.raises(GeometryError, match="does not lie inside"):
        Geometry.letterbox((10, 10), (8, 8), crop=crop)


def test_depth_is_kept_until_normalisation():
    """A 16-bit ramp of 4096 steps survives; the same ramp cut to 8 bits would have 256 levels."""
    ramp = np.tile(np.arange(4096, dtype=np.uint16), (8, 1)).reshape(128, 256)
    sample = Preprocess(PreprocessConfig(size=256, normalise="range"))(ramp)
    values = sample.image[0][sample.valid]
    assert len(np.unique(values)) == 4096
    assert values.max() == pytest.approx(4095 / 65535, abs=1e-5)


RAMP = np.arange(1001, dtype=np.float32).reshape(7, 143)
"""Its percentile q is 10 q: half a percent at each end are the values up to 5 and from 995 on."""


def test_half_a_percent_at_each_end_is_cut():
    scaled = np.clip((RAMP - 5) / 990, 0, 1)
    sample = Preprocess(PreprocessConfig(size=143, crop=False, channels=1))(RAMP)
    np.testing.assert_allclose(sample.geometry.to_native(sample.image)[0], scaled, atol=1e-5)
    np.testing.assert_array_equal(display_image(RAMP), np.floor(255 * scaled + 0.5))
    whole = ResizeCropConfig(size=RAMP.shape, channels=1, crop_pct=1.0, crop_mode="squash", mean=(0.0,), std=(1.0,))
    np.testing.assert_allclose(ResizeCrop(whole)(RAMP).image[0], scaled, atol=1e-5)


@pytest.mark.parametrize("normalise", ["percentile", "zscore"])
def test_normalisation_forgets_gain_and_offset(normalise):
    image = np.random.default_rng(0).normal(100, 20, (64, 48))
    prepare = Preprocess(PreprocessConfig(size=64, normalise=normalise))
    np.testing.assert_allclose(prepare(image).image, prepare(7 * image + 1000).image, atol=1e-3)


def test_padding_is_as_dark_as_the_image_and_marked():
    sample = Preprocess(PreprocessConfig(size=64))(np.random.default_rng(0).integers(0, 255, (64, 32)).astype(np.uint8))
    assert sample.valid.sum() == 64 * 32
    assert (sample.image[0][~sample.valid] == sample.image.min()).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9), np.uint8), "one flat value"),
        (np.where(np.eye(9) > 0, np.nan, 1.0), "9 pixels that are NaN"),
        (np.random.default_rng(0).random((9, 9, 2)), "2 channels"),
    ],
)
def test_what_cannot_be_used_is_named(image, message):
    with pytest.raises(ImageError, match=message):
        Preprocess()(image, "scan.png")


def test_range_needs_a_full_range():
    with pytest.raises(ImageError, match="percentile or zscore"):
        Preprocess(PreprocessConfig(normalise="range"))(np.random.default_rng(0).random((9, 9)))


def test_grey_is_copied_and_colour_weighed():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_planes(Picture(grey), 3) == grey).all()
    assert to_planes(Picture(np.stack([grey] * 3, -1)), 1)[0] == pytest.approx(grey.astype(float), abs=1e-4)


def test_the_foreground_ignores_a_bright_speck():
    plane = np.zeros((100, 100))
    plane[20:80, 10:70], plane[5, 95] = 1.0, 5.0
    plane += 0.4 * (plane > 0)
    assert foreground_box(plane)[0][0] in range(15, 21)
    assert foreground_box(plane)[1][1] in range(70, 76)


def test_a_picture_for_people_uses_the_whole_range():
    shown = display_image(np.linspace(1000, 3000, 10_000).reshape(100, 100))
    assert (shown.min(), shown.max(), shown.dtype) == (0, 255, np.uint8)


def test_a_small_bright_spot_is_no_body():
    plane = np.random.default_rng(0).normal(10, 1, (100, 80))
    plane[40:50, 40:50] = 100.0
    assert foreground_box(plane) == ((0, 100), (0, 80))
