"""Preprocessing of other people's networks: timm's own pixels, and a way back that knows what was cut off."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.points import to_native_points
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from lesioncam import Preprocess
from lesioncam.data.preprocess import ResizeCrop
from lesioncam.errors import GeometryError, ImageError, ModelError, OptionError
from lesioncam.geometry import OUTSIDE, Geometry
from lesioncam.options.data import PreprocessConfig, ResizeCropConfig

MODES = ["center", "squash", "border"]
NATIVES = [(250, 300), (301, 177), (100, 640), (40, 30), (224, 224)]
TARGETS = [((224, 224), 0.875), ((160, 224), 0.9), ((224, 160), 1.0), ((176, 176), 0.95)]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return timm.create_model("resnet10t")


def centroid(image: np.ndarray) -> list[float]:
    grid = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
    return [float((g * image).sum() / image.sum()) for g in grid]


def blob(size, place, width):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * width**2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "pct"), TARGETS)
def test_the_pixels_are_timms_own(small, mode, size, pct):
    prepare = Preprocess.from_timm(small, crop_mode=mode, crop_pct=pct, size=size)
    wanted = resolve_model_data_config(small) | {"crop_mode": mode, "crop_pct": pct, "input_size": (3, *size)}
    theirs = create_transform(**wanted)
    rng = np.random.default_rng(0)
    for native in NATIVES:
        image = rng.integers(0, 256, (*native, 3), dtype=np.uint8)
        expected = theirs(Image.fromarray(image)).numpy()
        np.testing.assert_allclose(prepare(image).image, expected, atol=1e-5)


def test_c10_resize_then_centre_crop_is_undone():
    """Resize 256, CenterCrop 224 on 2500 x 3000 pixels: the map's corner is not at (0, 0).

    256 / 2500 leaves 16 of 256 rows above the crop: 16 * 2500 / 256 = 156.25. The longer side becomes int(307.2) = 307
    columns, of which torchvision cuts round(41.5) = 42 (half to even): 42 * 3000 / 307 = 410.4. Without rounding it
    would be 406.25, which is less than half an input pixel (4.9 native ones) away.
    """
    geometry = Geometry.resize_crop((2500, 3000), (224, 224))
    corner = to_native_points(geometry, [[-0.5, -0.5]])[0] + 0.5
    assert corner.tolist() == pytest.approx([156.25, 42 * 3000 / 307])
    assert corner.tolist() == pytest.approx([156.25, 406.25], abs=3000 / 307 / 2)
    home = geometry.to_native(np.ones((1, 7, 7), np.float32))[0]
    rows, columns = np.nonzero(home > 0.99)
    assert (rows.min(), columns.min()) == (156, 410)
    assert (rows.max() + 1, columns.max() + 1) == (2344, 2599)
    assert (home[home <= 0.99] == OUTSIDE).all()


def test_a_blob_through_timms_own_transform_comes_home(small):
    """The transform is timm's, the way back is ours: within half a native pixel although an input pixel is ten."""
    theirs = create_transform(**(resolve_model_data_config(small) | {"input_size": (3, 224, 224), "crop_pct": 0.875}))
    place = (900.0, 1700.0)
    image = np.rint(255 * blob((2500, 3000), place, 90)).astype(np.uint8)
    seen = theirs(Image.fromarray(image).convert("RGB")).numpy()[:1]
    home = Geometry.resize_crop((2500, 3000), (224, 224)).to_native(seen - seen.min(), fill=0.0)[0]
    assert centroid(home) == pytest.approx(place, abs=0.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("native", [(300, 180), (180, 301), (97, 131)])
@pytest.mark.parametrize(("size", "pct"), TARGETS)
def test_a_blob_comes_home_in_every_mode(mode, native, size, pct):
    prepare = ResizeCrop(ResizeCropConfig(size=size, crop_pct=pct, crop_mode=mode, mean=(0.0,) * 3, std=(1.0,) * 3))
    place = (0.5 * native[0] + 7, 0.5 * native[1] - 5)
    sample = prepare(np.rint(255 * blob(native, place, 0.05 * min(native))).astype(np.uint8))
    home = sample.geometry.to_native(sample.image[:1] * (sample.image[:1] > 0.02), fill=0.0)[0]
    assert home.shape == native
    assert centroid(home) == pytest.approx(place, abs=0.5)


def test_points_and_maps_agree():
    """A hot cell lands where its input pixel lands, in both directions, also where the input was cut."""
    geometry = Geometry.resize_crop((301, 177), (96, 64), crop_pct=0.8)
    cells = np.zeros((1, 24, 16), np.float32)
    cells[0, 12, 9] = 1
    expected = to_native_points(geometry, [[12 * 4 + 1.5, 9 * 4 + 1.5]])[0]
    assert centroid(geometry.to_native(cells, fill=0.0)[0]) == pytest.approx(expected.tolist(), abs=0.5)
    points = np.array([[20.0, 30.5], [200.25, 100.0]])
    np.testing.assert_allclose(to_native_points(geometry, geometry.to_input_points(points)), points)


def test_half_pixel_centres_equal_the_library_resize_inside_the_crop():
    geometry = Geometry.resize_crop((80, 80), (64, 64), crop_pct=0.8)  # 80 -> 80: the crop is all there is
    maps = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(maps[None], (64, 64), mode="bilinear", align_corners=False)[0]
    home = geometry.to_native(maps.numpy())
    np.testing.assert_allclose(home[:, 8:72, 8:72], expected.numpy(), atol=1e-5)


def test_outside_is_colder_than_any_evidence():
    geometry = Geometry.resize_crop((80, 100), (64, 64))
    raw = np.linspace(-300, -100, 16, dtype=np.float32).reshape(1, 4, 4)
    home = geometry.to_native(raw)[0]
    assert home[0, 0] == pytest.approx(-300)
    assert geometry.to_native(raw + 200)[0, 0, 0] == pytest.approx(-100)
    assert geometry.to_native(np.zeros((2, 4, 4), np.float32), fill=np.array([1.0, 2.0]))[:, 0, 0].tolist() == [1, 2]


def test_the_few_shot_way_sees_the_crop_only():
    """A mask becomes cells by the same weights that carry cells home."""
    geometry = Geometry.resize_crop((80, 100), (64, 64))
    mask = np.zeros((80, 100), bool)
    mask[geometry.crop[0][0] : geometry.crop[0][1], geometry.crop[1][0] : geometry.crop[1][1]] = True
    np.testing.assert_allclose(geometry.to_cells(mask, (8, 8)), 1.0)
    assert [len(way) for way in geometry.weights((8, 8))] == list(geometry.extent)


def test_padding_is_no_image():
    sample = ResizeCrop(ResizeCropConfig(size=(64, 64), crop_pct=1.0, crop_mode="border"))(
        np.random.default_rng(0).integers(0, 255, (50, 100), dtype=np.uint8)
    )
    assert sample.valid.sum() == 32 * 64
    assert np.abs(sample.image[:, ~sample.valid]).max() < 0.01  # the mean colour, which is 0 after normalisation


def test_to_input_is_the_same_cut():
    geometry = Geometry.resize_crop((50, 100), (32, 48), crop_pct=0.8)
    image = torch.rand(1, 1, 50, 100, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(image, geometry.scaled, mode="bilinear", antialias=True)
    top, left = (-n for n in geometry.offset)
    torch.testing.assert_close(geometry.to_input(image), whole[..., top : top + 32, left : left + 48])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_depths_are_windowed_not_cut(dtype):
    """A 12-bit picture in a 16-bit file is as bright as its 8-bit export, and keeps its steps."""
    deep = (np.add.outer(np.arange(256), np.arange(256)) * 8).astype(dtype)
    shallow = np.rint(255 * (deep / float(deep.max()))).astype(np.uint8)
    prepare = ResizeCrop(ResizeCropConfig(size=(128, 128), mean=(0.0,) * 3, std=(1.0,) * 3))
    np.testing.assert_allclose(prepare(deep).image, prepare(shallow).image, atol=0.12)
    assert len(np.unique(prepare(deep).image)) > len(np.unique(prepare(shallow).image))


def test_what_a_model_was_built_with_wins():
    built = timm.create_model("vit_tiny_patch16_224", img_size=(160, 224))
    assert Preprocess.from_timm(built).config.size == (160, 224)
    grey = Preprocess.from_timm(timm.create_model("resnet10t", in_chans=1))
    assert grey(np.random.default_rng(0).integers(0, 255, (60, 50, 3), dtype=np.uint8)).image.shape == (1, 176, 176)


def test_wrappers_are_looked_through(small):
    class Lightning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small

    assert Preprocess.from_timm(Lightning()) == Preprocess.from_timm(small)
    assert Preprocess.from_timm(torch.compile(small)) == Preprocess.from_timm(small)


def test_slips_are_sentences(small):
    with pytest.raises(ModelError, match="no timm configuration"):
        Preprocess.from_timm(nn.Conv2d(3, 4, 1))
    with pytest.raises(OptionError, match="available: size"):
        Preprocess.from_timm(small, crop=3)
    with pytest.raises(ImageError, match="volume"):
        ResizeCrop()(np.zeros((4, 5, 6, 7), np.uint8), "scan")
    with pytest.raises(GeometryError, match="different numbers of axes"):
        Geometry.resize_crop((5, 6, 7), (3, 3))
    with pytest.raises(GeometryError, match="must be positive"):
        Geometry.resize_crop((5, 6), (3, 3), crop_pct=0)


def test_letter_boxes_are_what_they_were():
    """The generalised geometry changes nothing for our own networks."""
    geometry = Geometry.letterbox((200, 120), (64, 64), crop=[(10, 190), (5, 110)])
    assert geometry.source == geometry.crop
    assert Preprocess(PreprocessConfig(size=64))(np.eye(50)).geometry.whole is None
    assert geometry.pitch((8, 8), origin=(0.0, 0.0)) == (8.0, 8.0)
