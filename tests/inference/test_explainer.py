"""Any network from files to native maps, boxes and crops: drawn blobs come home, batches and threads change nothing."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import lesioncam as lc
from lesioncam.data.preprocess import ResizeCrop
from lesioncam.errors import ImageError, LesioncamError, ModelError, OptionError
from lesioncam.explanation.receptive import measure_cells
from lesioncam.geometry import Geometry
from lesioncam.options.data import ResizeCropConfig
from lesioncam.types import Calibration, Sample

SIZES = [(97, 131), (160, 96), (64, 64)]
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0}


def plant(network: nn.Module, classes: int) -> nn.Module:
    """Make a detector of bright blobs of any network: every kernel a small mean, class 0 the brightness."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.weight.fill_(1.0 / module.weight[0].numel())
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                module.weight.zero_()
                module.weight[0] = 1.0 / module.weight.shape[1]
                module.bias.copy_(torch.linspace(-0.2, 0.2, classes))
    return network.eval()


def detector(conv=nn.Conv2d, pool=nn.AdaptiveAvgPool2d, channels=3, stride=2) -> nn.Module:
    """Four-fold smaller maps, padded on both sides: cell i looks at pixel stride**2 * i."""
    stages = [conv(channels, 8, 3, stride, 1), nn.ReLU(), conv(8, 8, 3, stride, 1), nn.ReLU()]
    return plant(nn.Sequential(*stages, pool(1), nn.Flatten(), nn.Linear(8, 3)), 3)


def blob(size, place, width=None):
    grid = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    width = width or 0.08 * min(size)
    return np.exp(-sum((g - p) ** 2 for g, p in zip(grid, place, strict=True)) / (2 * width**2))


def picture(size, place, width=None):
    return np.rint(250 * blob(size, place, width)).astype(np.uint8)


def centroid(image):
    grid = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
    return [float((g * image).sum() / image.sum()) for g in grid]


def warm(result):
    """The first class's evidence above the coldest cell, in native pixels."""
    raw = result.raw[0]
    return np.clip(result.native(0) - raw.min() - 0.02 * np.ptp(raw), 0, None)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return plant(timm.create_model("resnet10t", num_classes=3), 3)


@pytest.fixture
def explainer(small) -> lc.Explainer:
    return lc.Explainer(small, lc.Preprocess.from_timm(small), classes=["mass", "node", "fluid"])


@pytest.mark.parametrize("method", ["cam", "gradcam", "hirescam", "layercam", "eigencam"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", SIZES)
def test_a_drawn_blob_comes_home_within_half_a_pixel(size, mode, method):
    prepare = ResizeCrop(ResizeCropConfig(size=(128, 128), crop_mode=mode, **PLAIN))
    place = (0.5 * size[0] + 3, 0.5 * size[1] - 6)
    [result] = lc.Explainer(detector(), prepare, ["mass", "node", "fluid"], method=method)([picture(size, place)])
    assert result.native("mass").shape == size
    assert centroid(warm(result)) == pytest.approx(place, abs=0.5)


@pytest.mark.parametrize("side", [(120, 136), (130, 121)])
def test_a_blob_where_the_input_is_no_multiple_of_the_stride(side):
    """Cells of a strided network hang over the end of the input; they do not shrink."""
    prepare = ResizeCrop(ResizeCropConfig(size=side, **PLAIN))
    place = (0.75 * side[0], 0.7 * side[1])
    [result] = lc.Explainer(detector(stride=4), prepare, ["a", "b", "c"])([picture(side, place, 9)])
    assert result.cells == ((0.0, 0.0), (16.0, 16.0))
    assert centroid(warm(result)) == pytest.approx(place, abs=0.5)


def test_a_blob_in_a_volume_comes_home_within_half_a_voxel():
    network, size = detector(nn.Conv3d, nn.AdaptiveAvgPool3d, channels=1), (24, 40, 56)

    def prepare(volume: np.ndarray, name: str = "image") -> Sample:
        geometry = Geometry.letterbox(volume.shape, size)
        prepared = geometry.to_input(torch.from_numpy(volume.astype(np.float32) / 255)[None, None])[0].numpy()
        return Sample(prepared, geometry.valid(), geometry)

    place = (13.0, 17.0, 33.0)
    explain = lc.Explainer(network, prepare, ["mass", "node", "fluid"])
    [result] = explain([picture(size, place, 4)])
    assert centroid(warm(result)) == pytest.approx(place, abs=0.5)
    box = result.boxes("mass", 0.5)[0]
    assert all(low <= p <= high for low, p, high in zip(box[:3], place[::-1], box[3:], strict=True))
    crop = result.crops("mass", size=16, n=1)[0]
    assert crop.pixels.shape == (16, 16, 16)
    assert crop.pixels.max() > 230
    with pytest.raises(ImageError, match="volume"):
        result.overlay("mass")
    assert explain.self_test([picture(size, place, 4), picture(size, (8, 20, 20), 4)]).ok


def test_files_arrays_and_pictures_of_any_size(explainer, tmp_path):
    places = [(60, 70), (80, 40), (35, 30)]
    images = [picture(size, place) for size, place in zip(SIZES, places, strict=True)]
    Image.fromarray(images[1]).save(tmp_path / "b.png")
    results = explainer(
        [images[0], tmp_path / "b.png", Image.fromarray(images[2]).convert("RGB"), str(tmp_path / "b.png")]
    )
    assert [result.native().shape for result in results] == [(3, *size) for size in [*SIZES, SIZES[1]]]
    assert results[1].id.endswith("b.png")
    np.testing.assert_array_equal(results[1].raw, results[3].raw)
    for result, size in zip(results, SIZES, strict=False):
        [alone] = explainer(result.pixels)
        # The planted weights are tiny and equal: sums of many near-equal terms, in an order that goes with the batch.
        np.testing.assert_allclose(result.raw, alone.raw, atol=1e-4 * abs(alone.raw).max())
        painted = result.overlay("mass", threshold=0.5)
        assert painted.shape == (*size, 3)
        assert painted.dtype == np.uint8


def test_the_model_and_explain_agree(explainer, small):
    image = picture((200, 180), (90, 90))
    [result] = explainer([image])
    prepared = torch.from_numpy(explainer.preprocess(image).image)[None]
    expected = lc.explain(small, prepared, "gradcam")
    np.testing.assert_array_equal(result.raw, expected.raw[0].numpy())
    np.testing.assert_allclose(result.scores, small(prepared)[0].detach().numpy(), rtol=1e-5)
    assert result.layer == expected.layer


def test_boxes_and_crops_hold_the_blob():
    prepare = ResizeCrop(ResizeCropConfig(size=(128, 128), **PLAIN))
    image = picture((160, 160), (50, 110), 6) + picture((160, 160), (120, 40), 6) // 2
    [result] = lc.Explainer(detector(), prepare, ["mass", "node", "fluid"])([image])
    assert result.scale == "unit"
    (x0, y0, x1, y1), *rest = result.boxes("mass", threshold=0.4)
    assert x0 <= 110 < x1
    assert y0 <= 50 < y1
    assert len(rest) == 1
    first, second = result.crops("mass", size=64, margin=0.2, n=3, threshold=0.4)
    assert first.peak == pytest.approx(1.0, abs=1e-3)
    assert first.peak > second.peak
    assert first.pixels.shape == (64, 64)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.max() >= 240
    left, top, right, bottom = first.box
    assert right - left == bottom - top == round(1.4 * max(x1 - x0, y1 - y0))
    np.testing.assert_array_equal(first.region, (x0, y0, x1, y1))
    assert centroid(first.pixels.astype(float)) == pytest.approx([31.5, 31.5], abs=3)
    assert len(result.crops("mass", n=1, threshold=0.4)) == 1


def test_crops_stay_inside_and_pad_where_they_cannot():
    prepare = ResizeCrop(ResizeCropConfig(size=(128, 128), crop_mode="squash", **PLAIN))
    corner = picture((120, 120), (10, 112), 6)
    strip = picture((40, 120), (20, 60), 14)
    corner_result, strip_result = lc.Explainer(detector(), prepare, ["mass", "node", "fluid"])([corner, strip])
    _, top, right, _ = corner_result.crops("mass", n=1)[0].box
    assert top == 0
    assert right == 120
    [crop] = strip_result.crops("mass", size=64, margin=0.8, n=1, threshold=0.2)
    _, top, _, bottom = crop.box
    assert top < 0
    assert bottom > 40
    assert crop.pixels[0].max() == strip.min()
    deep = lc.Explainer(detector(), prepare, ["mass", "node", "fluid"])([corner.astype(np.uint16) * 200])[0]
    assert deep.crops("mass", n=1)[0].pixels.dtype == np.uint16
    assert deep.crops("mass", n=1)[0].pixels.max() > 40000


def test_scales_are_said():
    prepare, image = ResizeCrop(ResizeCropConfig(size=(128, 128), **PLAIN)), picture((160, 160), (50, 110), 6)
    names, network = ["mass", "node", "fluid"], detector()
    [plain] = lc.Explainer(network, prepare, names)([image])
    with pytest.raises(LesioncamError, match="no calibrated scale"):
        plain.probability("mass")
    assert plain.unit().max() == 1
    [cam] = lc.Explainer(network, prepare, names, method="cam")([image])
    assert cam.scale == "probability"
    np.testing.assert_allclose(cam.probability("mass"), 1 / (1 + np.exp(-cam.native("mass"))), rtol=1e-5)
    cold = Calibration((1.0,) * 3, (-9.0,) * 3)
    [calibrated] = lc.Explainer(network, prepare, names, calibration=cold)([image])
    assert calibrated.boxes("mass", threshold=0.4) == []  # nothing is hot in a healthy image
    assert plain.boxes("mass", threshold=0.4) != []
    with pytest.raises(OptionError, match="unit scale"):
        plain.boxes("mass", threshold=3)
    with pytest.raises(OptionError, match="Did you mean 'mass'"):
        plain.boxes("mas")


def test_what_was_cut_off_is_cold_and_does_not_stretch_the_scale():
    prepare = ResizeCrop(ResizeCropConfig(size=(64, 64), crop_pct=0.5, mean=(0.0,) * 3, std=(1.0,) * 3))
    [result] = lc.Explainer(detector(), prepare, ["a", "b", "c"])([picture((80, 120), (40, 60), 9)])
    unit = result.unit("a")
    rows, columns = (slice(*side) for side in result.geometry.crop)
    inside = np.zeros(unit.shape, bool)
    inside[rows, columns] = True
    assert (unit[~inside] == 0).all()
    assert unit[inside].max() == 1
    assert np.median(unit[inside]) < 0.5


def test_flat_maps_are_zeros_with_a_flag():
    network = detector()
    nn.init.zeros_(network[-1].weight)
    prepare = ResizeCrop(ResizeCropConfig(size=(64, 64), **PLAIN))
    [result] = lc.Explainer(network, prepare, ["a", "b", "c"])([picture((80, 80), (40, 40))])
    assert result.flat.all()
    assert (result.unit() == 0).all()
    assert result.boxes("a", 0.1) == []
    assert result.crops("a") == []


def test_eight_threads_times_five_calls(explainer):
    images = [picture(size, (size[0] // 2, size[1] // 2)) for size in SIZES]
    expected = [explainer([image])[0].native() for image in images]
    modes = [module.training for module in explainer.model.modules()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: explainer([images[i % 3]])[0].native(), range(40)))
    for i, one in enumerate(found):
        np.testing.assert_allclose(one, expected[i % 3], atol=1e-4 * abs(expected[i % 3]).max())
    assert [module.training for module in explainer.model.modules()] == modes


def test_the_self_test_says_what_it_found(explainer):
    test = explainer.self_test()
    said = str(test)
    assert test.ok
    assert test.identity == pytest.approx(0, abs=1e-4)
    assert test.cells is not None
    assert "gradcam at input of global_pool" in said
    assert "mean of CAM = logit  yes" in said
    assert "ms per image" in said


def test_the_self_test_catches_a_wrong_number_of_classes(small):
    prepare = lc.Preprocess.from_timm(small)
    explain = lc.Explainer(small, prepare, classes=["mass", "node"])  # building checks nothing
    with pytest.raises(ModelError, match=r"3 scores but there are 2 classes \(mass, node\)"):
        explain.self_test()
    with pytest.raises(ModelError, match="3 scores but there are 2 classes"):
        explain([picture((60, 60), (30, 30))])


def test_the_self_test_says_why_there_is_no_identity():
    network = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=2, num_classes=2)
    test = lc.Explainer(network, lc.Preprocess.from_timm(network), ["a", "b"]).self_test()
    assert test.identity is None
    assert test.why in str(test)
    assert test.grid == (4, 6)
    assert test.ok


def test_a_model_in_training_mode_is_left_there(small):
    network = timm.create_model("resnet10t", num_classes=3).train()
    test = lc.Explainer(network, lc.Preprocess.from_timm(network), ["a", "b", "c"]).self_test()
    assert test.ok
    assert network.training


def test_several_outputs_need_a_target():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = detector()

        def forward(self, images):
            return self.net(images), "more"

    prepare = ResizeCrop(ResizeCropConfig(size=(64, 64), **PLAIN))
    image = picture((80, 80), (40, 40))
    with pytest.raises(ModelError, match="target"):
        lc.Explainer(Pair(), prepare, ["a", "b", "c"])([image])
    [result] = lc.Explainer(Pair(), prepare, ["a", "b", "c"], target=lambda output: output[0])([image])
    assert result.cells is not None


def test_a_run_of_our_own_needs_nothing_more(toy_run):
    classifier = lc.load(toy_run)
    image = np.asarray(Image.open(next(toy_run.parent.parent.rglob("p03_0.png"))))
    [result] = lc.Explainer(classifier, method="cam")([image])
    expected = lc.analyse(classifier, image)
    np.testing.assert_allclose(result.scores, expected.logits, rtol=1e-4)
    np.testing.assert_allclose(result.raw, expected.heatmap.raw, atol=1e-4 * abs(expected.heatmap.raw).max())
    np.testing.assert_allclose(result.native(), expected.heatmap.native(), atol=1e-3)


def test_bad_images_are_named(explainer, tmp_path):
    with pytest.raises(ImageError, match="image 1"):
        explainer([picture((60, 60), (30, 30)), np.zeros((20, 20), np.uint8)])
    with pytest.raises(ImageError, match=r"none\.png"):
        explainer(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a dict"):
        explainer([{}])
    with pytest.raises(OptionError, match="how are images prepared"):
        lc.Explainer(explainer.model, classes=["a"])
    with pytest.raises(OptionError, match="Did you mean 'gradcam'"):
        lc.Explainer(explainer.model, explainer.preprocess, ["a"], method="grad-cam")


@pytest.mark.parametrize(
    ("name", "origin"),
    [("resnet18", 0.0), ("convnext_atto", 15.5), ("densenet121", 14.0), ("efficientnet_b0", 0.0), ("regnety_002", 0.0)],
)
def test_where_the_cells_of_known_networks_look(name, origin):
    """Padded strides centre a cell on its first pixel, patches on the middle of their tile, mean pools in between."""
    found = measure_cells(timm.create_model(name), 3, (224, 192))
    assert found is not None
    assert found.origin == (origin, origin)
    assert found.pitch == (32.0, 32.0)


def test_attention_looks_everywhere():
    assert measure_cells(timm.create_model("vit_tiny_patch16_224", depth=1), 3, (224, 224)) is None
