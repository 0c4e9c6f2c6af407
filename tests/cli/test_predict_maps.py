"""`lesioncam predict --map --class --write`: any method on any run, and what is shown is said."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.errors import OptionError
from lesioncam.explanation.cam import Padded
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.options.run import MAPS, RunConfig

QUICK = [name for name in MAPS if name not in ("rise", "smoothgrad", "occlusion", "integrated_gradients", "scorecam")]
ROW, COLUMN = 34, 26


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """One image of the toy's kind, with a round lump at a known place."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:64, :48]
    image = rng.normal(90, 8, (64, 48))
    image[(rows - ROW) ** 2 + (columns - COLUMN) ** 2 < 49] += 60
    path = tmp_path_factory.mktemp("slides") / "lump.png"
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
    return path


def predict(run, slide, out, *words):
    assert main(["predict", str(run), str(slide), "-o", str(out), *words]) == 0
    return pd.read_csv(out / "predictions.csv").set_index("class")


def test_one_list_of_methods():
    assert set(MAPS) == set(MAP_METHODS)
    assert RunConfig().map == "cam"


@pytest.mark.parametrize("method", MAPS)
def test_every_method_writes_the_maps_that_explain_makes(toy_run, slide, tmp_path, method):
    table = predict(toy_run, slide, tmp_path, "--map", method, "--write", "maps")
    with np.load(tmp_path / "maps" / "lump.npz", allow_pickle=False) as kept:
        assert str(kept["method"]) == method
        assert list(kept["classes"]) == list(table.index)
        raw, shown = kept["raw"], kept["probability" if method == "cam" else "unit"]
    classifier = lc.load(toy_run)
    sample = classifier.preprocess(np.asarray(Image.open(slide)))
    images, valid = torch.from_numpy(sample.image)[None], torch.from_numpy(sample.valid)[None, None]
    expected = lc.explain(Padded(classifier.network, valid), images, method)
    np.testing.assert_allclose(raw, expected.raw[0].numpy(), atol=1e-5 * float(expected.raw.abs().max()))
    assert shown.shape == (2, 64, 48)
    assert 0 <= shown.min() <= shown.max() <= 1
    assert set(table["map"]) == {method}
    assert set(table["map_scale"]) == {"probability" if method == "cam" else "unit"}


def test_padding_matters_and_is_told(toy_run, slide):
    """The scores of every method are those of the run, which knows where its input is padding."""
    classifier = lc.load(toy_run)
    sample = classifier.preprocess(np.asarray(Image.open(slide)))
    assert not sample.valid.all()
    expected = lc.analyse(classifier, slide).logits
    for method in QUICK:
        found = lc.analyse(classifier, slide, method=method)
        np.testing.assert_allclose(found.logits, expected, rtol=1e-4)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_the_lump_is_found(toy_run, slide, method):
    """The box of the hottest region holds it.

    Finer methods see what a few seconds of training happen to learn, which differs from processor to processor; that
    they come home is tested with planted weights (tests/pipeline/test_explainer.py).
    """
    result = lc.analyse(toy_run_classifier(toy_run), slide, method=method, threshold="default")
    part = max(result.segmentation.components[result.classes.index("dot")], key=lambda one: one.peak)
    x0, y0, x1, y1 = part.box
    assert x0 - 4 <= COLUMN < x1 + 4
    assert y0 - 4 <= ROW < y1 + 4


def toy_run_classifier(toy_run):
    return lc.load(toy_run)


def test_classes_and_crops(toy_run, slide, tmp_path):
    predict(toy_run, slide, tmp_path, "--map", "layercam", "--class", "dot", "--write", "maps", "overlay", "crops")
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["lump_dot.png"]
    assert not (tmp_path / "masks").exists()
    with np.load(tmp_path / "maps" / "lump.npz", allow_pickle=False) as kept:
        assert list(kept["classes"]) == ["dot"]
        assert kept["raw"].shape[0] == 1
    crops = pd.read_csv(tmp_path / "crops.csv")
    assert set(crops["class"]) == {"dot"}
    assert set(crops["scale"]) == {"unit"}
    assert 1 <= len(crops) <= 3
    assert crops["peak"].is_monotonic_decreasing
    x0, y0, x1, y1 = json.loads(crops["box"][0])
    assert x1 - x0 == y1 - y0
    pixels = np.asarray(Image.open(tmp_path / "crops" / crops["crop"][0]))
    assert pixels.shape == (256, 256)
    assert pixels.dtype == np.uint8
    original = np.asarray(Image.open(slide))[max(0, y0) : y1, max(0, x0) : x1]
    assert pixels.mean() == pytest.approx(original.mean(), rel=0.1)


def test_thresholds_of_val_are_for_the_runs_own_method(toy_run, slide, tmp_path):
    own = predict(toy_run, slide, tmp_path / "own")
    other = predict(toy_run, slide, tmp_path / "other", "--map", "gradcam")
    given = predict(toy_run, slide, tmp_path / "given", "--map", "gradcam", "--threshold", "0.8")
    assert (own["probability"] == other["probability"]).all()
    assert (other["map_threshold"] == 0.5).all()
    assert (given["map_threshold"] == 0.8).all()
    assert (own["map_threshold"] != 0.5).any()
    result = lc.analyse(lc.load(toy_run), slide, method="gradcam")
    assert {t.source for t in result.segmentation.thresholds} == {"default"}
    assert result.heatmap.calibration is None


def test_in_python_the_words_are_the_same(toy_run, slide, tmp_path):
    [result] = lc.predict(toy_run, [slide], map="gradcam")
    assert result.heatmap.method == "gradcam"
    lc.predict(toy_run, [slide], tmp_path, map="gradcam", classes=["bar"], write=["overlay"])
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["lump_bar.png"]
    with pytest.raises(OptionError, match="Did you mean 'dot'"):
        lc.predict(toy_run, [slide], tmp_path / "a", classes=["dott"])
    with pytest.raises(OptionError, match="Did you mean 'gradcam'"):
        lc.predict(toy_run, [slide], tmp_path / "a", map="grad-cam")
    assert not (tmp_path / "a").exists()


def test_a_slip_on_the_command_line(toy_run, slide, tmp_path, capsys):
    assert main(["predict", str(toy_run), str(slide), "-o", str(tmp_path / "a"), "--class", "dott"]) == 2
    assert "Did you mean 'dot'" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "tpu"])
def test_a_device_that_is_not_there_is_one_sentence(toy_run, slide, tmp_path, capsys, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for words in (["predict", str(toy_run), str(slide), "-o", str(tmp_path / "out")], ["evaluate", str(toy_run)]):
        assert main([*words, "--device", device]) == 2
        said = capsys.readouterr().err
        assert device in said
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_the_cpu_may_be_asked_for(toy_run, slide, tmp_path):
    asked, auto = (predict(toy_run, slide, tmp_path / one, "--device", one) for one in ("cpu", "auto"))
    np.testing.assert_allclose(asked["probability"], auto["probability"], atol=1e-3)
