"""Several runs, several views: means of probabilities on the file's own pixels, in numbers a person can compute."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.data.preprocess import ResizeCrop
from lesioncam.errors import ImageError, ModelError, OptionError, RunError
from lesioncam.files import read_json, write_json
from lesioncam.geometry import Geometry
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.ensemble import gather
from lesioncam.inference.exam import open_exam
from lesioncam.inference.look import look
from lesioncam.inference.views import View, make_views
from lesioncam.models.checkpoint import TrainedClassifier, save_classifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.data import ResizeCropConfig
from lesioncam.options.run import make_config
from lesioncam.picture import Picture
from lesioncam.runs.card import ClassifierCard
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Calibration, ClassifierOutput, Heatmap, Sample, Threshold


class Bright(nn.Module):
    """Class maps are the mean brightness of cells of 8 pixels, times a gain, plus a bias; logits are their means."""

    def __init__(self, gains=(1.0,), biases=(0.0,), ramp=False):
        super().__init__()
        self.gains, self.biases, self.ramp = torch.tensor(gains), torch.tensor(biases), ramp

    def forward(self, images, valid=None):
        pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
        shape = (1, -1, *(1,) * (images.ndim - 2))
        cells = pool(images[:, :1], 8) * self.gains.view(shape) + self.biases.view(shape)
        if self.ramp:  # what it says depends on the place: no mirror leaves it as it was
            cells = cells * torch.linspace(0, 1, cells.shape[-1])
        return ClassifierOutput(cells.flatten(2).mean(-1), cells, valid, None)


def classifier(network=None, *, classes=("dot",), thresholds=(0.5,), options=None, **card):
    config = make_config(**{"size": 64, "crop": False, **(options or {})})
    chosen = tuple(Threshold(value, "val", frozenset({f"p{value}"})) for value in thresholds)
    card = {"thresholds": chosen, "decisions": chosen, **card}
    return TrainedClassifier(network or Bright((4.0,) * len(classes)), ClassifierCard(classes, config, **card)).eval()


def look_once(model, image, **asked):
    """The result of one image, and its raw maps on the image's own grid."""
    [seen] = look(ClassifierSubject(model), [open_exam(image)], **asked)
    return seen.result, seen.evidence


def picture(height=64, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (height, width)).astype(np.uint8)


# ---- views -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [48, 47, 64], ids=["even padding", "odd padding", "no padding"])
def test_mirrored_views_change_nothing_where_the_network_does_not_know_left_from_right(width):
    model, image = classifier(), picture(64, width)
    plain, native = look_once(model, image)
    both = lc.predict(model, [image], views="flip")[0]
    np.testing.assert_allclose(both.heatmap.raw, plain.heatmap.scale.probability(native), atol=2e-7)
    np.testing.assert_allclose(both.probabilities, plain.probabilities, atol=1e-7)
    np.testing.assert_array_equal(both.segmentation.masks, plain.segmentation.masks)


def test_a_mirrored_view_is_the_mirrored_file():
    """Slowly: mirror the file, look at it, mirror what came out; the average of both."""
    model, image = classifier(Bright((6.0,), (-1.0,), ramp=True)), picture(64, 48)
    (one, first), (two, second) = look_once(model, image), look_once(model, np.ascontiguousarray(image[:, ::-1]))
    scale = one.heatmap.scale
    expected = (scale.probability(first) + scale.probability(second)[..., ::-1]) / 2
    both = lc.predict(model, [image], views="flip")[0]
    np.testing.assert_allclose(both.heatmap.raw, expected, atol=1e-6)
    np.testing.assert_allclose(both.probabilities, (one.probabilities + two.probabilities) / 2, atol=1e-6)
    assert np.abs(scale.probability(first) - expected).max() > 0.05, "the mirror must matter here"


def test_a_network_that_looks_at_every_eighth_pixel_is_put_back_to_the_pixel():
    """Cells lie at 0, 8 ... 56; in the mirror they see 63, 55 ... 7. The picture is a ramp, so the map is the place."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32), (64, 64))
    whole = Geometry.letterbox((64, 64), (64, 64))
    for mirrored, first, last in ((False, 0, 56), (True, 7, 63)):
        shown = ramp[:, ::-1] if mirrored else ramp
        view = View(Sample(shown[None], np.ones((64, 64), bool), whole), whole, (0, 0), mirrored)
        raw = np.ascontiguousarray(shown[::8, ::8])[None]
        native = view.native(Heatmap(raw, ("x",), "cam", "head", whole, None, origin=(0.0, 0.0)))
        np.testing.assert_allclose(native[0, 5], np.clip(np.arange(64), first, last), atol=1e-4)


def test_volumes_are_mirrored_along_their_last_axis():
    volume = np.zeros((16, 32, 40), np.float32)
    volume[4:12, 8:16, 0:8] = 1.0
    geometry = Geometry.letterbox((16, 32, 40), (16, 32, 40))
    views = make_views(
        lambda one: Sample(one.pixels[None], np.ones(one.pixels.shape, bool), geometry), Picture(volume), "flip"
    )
    assert [view.mirrored for view in views] == [False, True]
    assert views[1].sample.image[0, 8, 12, 39] == 1.0
    maps = []
    for view in views:
        raw = Bright()(torch.from_numpy(view.sample.image)[None]).class_maps[0].numpy()
        maps.append(view.native(Heatmap(raw, ("x",), "cam", "head", view.sample.geometry, None)))
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-6)
    with pytest.raises(ImageError, match="--views flip"):
        make_views(lambda _: Sample(volume[None], volume > 0, geometry), Picture(volume), "ten-crop")


def test_ten_crops_are_where_the_paper_has_them():
    """Of 256 x 256 to an input of 224: corners at 0 and 32, the centre at 16; each once more in the mirror."""
    prepare = ResizeCrop(ResizeCropConfig(size=(224, 224), channels=1, mean=(0.0,), std=(1.0,)))
    image = picture(256, 256)
    views = make_views(prepare, Picture(image), "ten-crop")
    places = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    assert [view.place for view in views] == [place for place in places for _ in range(2)]
    for view in views:
        row, column = view.place
        cut = image[row : row + 224, column : column + 224] / np.float32(255)
        np.testing.assert_allclose(view.sample.image[0], cut[:, ::-1] if view.mirrored else cut, atol=1e-6)
        seen = np.zeros((256, 256), bool)
        seen[row : row + 224, column : column + 224] = True
        np.testing.assert_array_equal(view.seen(), seen)
    counts = sum(view.seen().astype(int) for view in views)
    assert [counts[0, 0], counts[20, 20], counts[128, 128], counts[128, 0]] == [2, 4, 10, 4]


@pytest.mark.parametrize("size", [(130, 90), (90, 130), (64, 64)], ids=["upright", "lying", "square"])
def test_a_lump_comes_home_from_every_crop(size):
    image = np.full(size, 20, np.uint8)
    row, column = size[0] // 3, size[1] // 2
    image[row - 7 : row + 8, column - 7 : column + 8] = 200
    model = classifier(options={"crop": False})
    whole = 0
    for view in make_views(model.preprocess, Picture(image), "ten-crop"):
        assert view.sample.image.shape == (1, 64, 64)
        with torch.no_grad():
            raw = model.network(torch.from_numpy(view.sample.image)[None]).class_maps[0].numpy()
        native = np.where(view.seen(), view.native(Heatmap(raw, ("x",), "cam", "head", view.geometry, None))[0], -9)
        if view.seen()[row - 9 : row + 10, column - 9 : column + 10].all():
            whole += 1
            hottest = np.argwhere(native > native.max() - 1e-3).mean(axis=0)
            assert np.abs(hottest - (row, column)).max() < 6, (view.place, view.mirrored)
    assert whole >= 4
    found = lc.predict(model, [image], views="ten-crop", threshold=0.9)[0]
    peak = np.unravel_index(found.heatmap.raw[0].argmax(), size)
    assert np.abs(np.subtract(peak, (row, column))).max() < 6
    assert found.heatmap.raw.shape == (1, *size)


def test_where_no_crop_looks_the_map_is_cold():
    """Enlarged, 4 : 1 is 292 pixels long, and three crops of 64 do not reach all of it."""
    image = picture(40, 160)
    found = lc.predict(classifier(), [image], views="ten-crop")[0].heatmap.raw[0]
    views = make_views(classifier().preprocess, Picture(image), "ten-crop")
    unseen = ~np.any([view.seen() for view in views], axis=0)
    assert unseen.any()
    assert (found[unseen] < 1e-6).all()
    assert (found[~unseen] > 0.4).all()


def test_a_strip_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ImageError, match="30 x 300.*--views flip"):
        lc.predict(classifier(), [picture(30, 300)], views="ten-crop")
    lc.predict(classifier(), [picture(30, 300), picture()], tmp_path, views="ten-crop", write=[])
    assert pd.read_csv(tmp_path / "failed.csv")["image"].tolist() == ["image0000"]
    with pytest.raises(OptionError, match="Did you mean 'ten-crop'"):
        lc.predict(classifier(), [picture()], views="tencrop")


# ---- ensembles ---------------------------------------------------------------------------------------------------


def test_the_mean_of_probabilities_is_not_the_sigmoid_of_the_mean_logit():
    members = [classifier(Bright((0.0,), (float(bias),))) for bias in (0.0, np.log(9))]
    found = lc.predict(members, [picture()])[0]
    assert found.probabilities[0] == pytest.approx(0.7, abs=1e-6)  # of .5 and .9
    assert found.probabilities[0] != pytest.approx(0.75, abs=0.01)  # sigmoid of the mean logit
    assert 1 / (1 + np.exp(-found.logits[0])) == pytest.approx(0.7, abs=1e-6)
    np.testing.assert_allclose(found.heatmap.raw, 0.7, atol=1e-6)
    np.testing.assert_allclose(found.heatmap.probability(), 0.7, atol=1e-6)


def test_thresholds_are_means_and_say_so():
    members = [classifier(thresholds=(value,)) for value in (0.3, 0.5)]
    found = lc.predict(members, [picture()])[0]
    for threshold in (found.segmentation.thresholds[0], found.decisions[0]):
        assert (threshold.value, threshold.source) == (pytest.approx(0.4), "ensemble")
        assert threshold.tuned_on == {"p0.3", "p0.5"}
    given = lc.predict(members, [picture()], threshold=0.8)[0].segmentation.thresholds[0]
    assert (given.value, given.source) == (0.8, "given")
    with pytest.raises(RunError, match="no thresholds"):
        lc.predict([members[0], without_thresholds()], [picture()])


def without_thresholds():
    return TrainedClassifier(Bright(), ClassifierCard(("dot",), make_config(size=64, crop=False))).eval()


def test_each_member_prepares_and_calibrates_its_own_way():
    image = picture(70, 50)
    scaled = Calibration((2.0,), (-1.0,), "val")
    members = [
        classifier(options={"size": 64}),
        classifier(options={"size": 32, "normalise": "range"}, calibration=scaled, image_calibration=scaled),
    ]
    alone = [look_once(member, image) for member in members]
    found = lc.predict(members, [image])[0]
    maps = [one.heatmap.scale.probability(native) for one, native in alone]
    np.testing.assert_allclose(found.heatmap.raw, (maps[0] + maps[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, (alone[0][0].probabilities + alone[1][0].probabilities) / 2)
    mask = found.segmentation.mask("dot")
    np.testing.assert_array_equal(mask, found.heatmap.raw[0] >= 0.5)


def test_volumes_in_ensembles_and_mirrors():
    """As images: the mean of what each member says, on the volume's own grid; a mirror changes nothing here."""
    volume = np.random.default_rng(3).integers(0, 200, (20, 40, 33, 1)).astype(np.uint8)
    options = {"size": 40, "backbone": "monai:resnet10"}
    members = [classifier(Bright((4.0,), (bias,)), options=options) for bias in (-1.0, 0.5)]
    alone = [look_once(member, volume) for member in members]
    maps = [one.heatmap.scale.probability(native) for one, native in alone]
    both = lc.predict(members, [volume])[0]
    np.testing.assert_allclose(both.heatmap.raw, (maps[0] + maps[1]) / 2, atol=1e-6)
    assert both.heatmap.raw.shape == (1, 20, 40, 33)
    mirrored = lc.predict(members, [volume], views="flip")[0]
    np.testing.assert_allclose(mirrored.heatmap.raw, both.heatmap.raw, atol=1e-6)
    with pytest.raises(ImageError, match="--views flip"):
        lc.predict(members, [volume], views="ten-crop")


def test_classes_that_exclude_each_other_stay_a_softmax():
    """Probabilities (.5, .5) and (.9, .1): the mean is (.7, .3), and the softmax of what is told gives it back."""
    options = {"task": "multiclass"}
    both = {"classes": ("a", "b"), "thresholds": (0.5, 0.5), "options": options}
    members = [classifier(Bright((0.0, 0.0), (float(np.log(odds)), 0.0)), **both) for odds in (1, 9)]
    found = lc.predict(members, [picture()])[0]
    np.testing.assert_allclose(found.probabilities, [0.7, 0.3], atol=1e-6)
    shares = np.exp(found.logits.astype(np.float64))
    np.testing.assert_allclose(shares / shares.sum(), [0.7, 0.3], atol=1e-6)
    assert found.exclusive


def test_classes_are_matched_by_name():
    one = classifier(Bright((2.0, 8.0), (0.0, -2.0)), classes=("dot", "bar"), thresholds=(0.2, 0.6))
    same = classifier(Bright((8.0, 2.0), (-2.0, 0.0)), classes=("bar", "dot"), thresholds=(0.6, 0.2))
    alone, both = lc.predict([one], [picture()])[0], lc.predict([one, same], [picture()])[0]
    assert both.classes == ("dot", "bar")
    np.testing.assert_allclose(both.probabilities, alone.probabilities, atol=1e-6)
    np.testing.assert_array_equal(both.segmentation.masks, alone.segmentation.masks)
    np.testing.assert_allclose([t.value for t in both.decisions], [0.2, 0.6])


def test_what_is_no_ensemble():
    with pytest.raises(ModelError, match=r"dot, the first run bar|bar, the first run dot"):
        gather([classifier(classes=("dot",)), classifier(classes=("bar",))])
    with pytest.raises(OptionError, match="no run was given"):
        gather([])
    one_of_two = {"classes": ("a", "b"), "thresholds": (0.5, 0.5)}
    with pytest.raises(ModelError, match="exclude each other"):
        gather([classifier(**one_of_two), classifier(**one_of_two, options={"task": "multiclass"})])


# ---- on disk -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run folders with small networks that nobody trained."""
    folders = []
    for seed in (0, 1):
        place = RunFolder(tmp_path_factory.mktemp("runs") / f"seed{seed}")
        options = {"size": 32 + 32 * seed, "backbone": "slim,channels=[8,8,16,16],stem_width=8", "crop": False}
        config = make_config(seed=seed, **options)
        chosen = tuple(Threshold(0.49 + 0.01 * seed + 0.002 * k, "val") for k in range(2))
        card = ClassifierCard(("dot", "bar"), config, thresholds=chosen, decisions=chosen)
        save_classifier(place, build_classifier(config, 2), card)
        write_json(place.state, {"state": "done", "step": "report"})
        folders.append(place.root)
    return folders


@pytest.fixture
def slides(tmp_path):
    for k in range(2):
        Image.fromarray(picture(60, 50, seed=k)).save(tmp_path / f"s{k}.png")
    return [tmp_path / "s0.png", tmp_path / "s1.png"]


def test_leading_run_folders_are_an_ensemble(runs, slides, tmp_path, capsys):
    def predicted(name, *folders):
        assert main(["predict", *map(str, folders), *map(str, slides), "-o", str(tmp_path / name)]) == 0
        return pd.read_csv(tmp_path / name / "predictions.csv")

    one, two, both = predicted("a", runs[0]), predicted("b", runs[1]), predicted("both", *runs)
    assert "2 images by 2 runs" in capsys.readouterr().out
    np.testing.assert_allclose(both["probability"], (one["probability"] + two["probability"]) / 2, atol=2e-6)
    np.testing.assert_allclose(both["map_threshold"], (one["map_threshold"] + two["map_threshold"]) / 2)
    assert set(one["map_source"]) == {"val"}
    assert set(both["map_source"]) == {"ensemble"}
    assert not (tmp_path / "a" / "members.json").exists()
    told = read_json(tmp_path / "both" / "members.json")
    assert [member["run"] for member in told["members"]] == ["seed0", "seed1"]
    for member, folder in zip(told["members"], runs, strict=True):
        assert member["weights_sha256"] == hashlib.sha256(RunFolder(folder).weights.read_bytes()).hexdigest()
    assert str(tmp_path) not in (tmp_path / "both" / "members.json").read_text()
    for row in both.itertuples():
        with np.load(tmp_path / "both" / "maps" / f"{row.image.rsplit('/')[-1].removesuffix('.png')}.npz") as kept:
            k = kept["classes"].tolist().index(row[2])
            assert kept["probability"].shape == (2, 60, 50)
            assert row.area == ((kept["raw"][k] >= row.map_threshold).sum() if row.positive else 0)


def test_views_and_members_together(runs, slides, tmp_path):
    """Ten crops of two members: the mean over members of what each says about its ten crops."""
    alone = [lc.predict(run, slides[:1], views="ten-crop")[0] for run in runs]
    both = lc.predict(runs, slides[:1], tmp_path, views="ten-crop", write=["maps"])[0]
    np.testing.assert_allclose(both.heatmap.raw, (alone[0].heatmap.raw + alone[1].heatmap.raw) / 2, atol=1e-6)
    np.testing.assert_allclose(both.probabilities, (alone[0].probabilities + alone[1].probabilities) / 2, atol=1e-6)
    assert "mean of 20 maps" in both.heatmap.layer
    assert read_json(tmp_path / "members.json")["views"] == "ten-crop"


def test_maps_without_a_scale_stay_without_one(runs, slides):
    """Thresholds of validation are for the runs' own method; another one's mean is cut at .5 of its own range."""
    found = lc.predict(runs, slides[:1], map="hirescam", views="flip")[0]
    assert found.heatmap.calibration is None
    assert found.heatmap.method == "hirescam"
    assert {t.source for t in found.segmentation.thresholds} == {"default"}
    raw = found.heatmap.raw
    low, high = raw.min(axis=(1, 2), keepdims=True), raw.max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(found.segmentation.masks, raw - low >= 0.5 * (high - low))


def test_slips_on_the_command_line(runs, slides, tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert main(["predict", str(runs[0]), str(slides[0]), str(runs[1]), *out]) == 2
    assert "runs first, then images" in capsys.readouterr().err
    assert main(["predict", str(runs[0]), str(runs[1]), *out]) == 2
    assert "no image was given" in capsys.readouterr().err
    assert main(["predict", str(runs[0]), str(runs[0]), str(slides[0]), *out]) == 2
    assert "given twice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
