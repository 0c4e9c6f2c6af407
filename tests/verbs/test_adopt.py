"""Somebody else's network as a run: checked before it is believed, then evaluated and compared like our own."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.errors import ModelError
from lesioncam.models.adopted import build_adopted
from lesioncam.models.checkpoint import load_classifier
from lesioncam.models.weights import fill, read_weights
from lesioncam.options.networks import AdoptConfig

TABLE = ["--columns", "image=file", "--draws", "20"]
MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, classes, ends):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        self.hidden = nn.Linear(width, width) if ends == "mlp" else nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        seen = self.features(images).mean((2, 3))
        return self.head(torch.tanh(self.hidden(seen)) if isinstance(self.hidden, nn.Linear) else seen)


def build(width=8, classes=2, ends="linear"):
    return Net(width, classes, ends)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Marks of trust go to a home of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's, in the working folder."""
    (tmp_path / "hers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("hers", None)


def bright(network: nn.Module) -> nn.Module:
    """Both classes are brightness: enough to localise what is drawn on the toy."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(1.0 / module.weight[0].numel())
            elif isinstance(module, nn.Linear):
                module.weight.fill_(8.0 / module.weight.shape[1])
                module.bias.fill_(-3.0)
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    network = bright(timm.create_model("resnet10t", num_classes=2, in_chans=1))
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def adopted(toy, weights, tmp_path_factory) -> Path:
    """A timm network, adopted and evaluated on val and test, through the command line."""
    out = tmp_path_factory.mktemp("adopted") / "theirs"
    words = ["--options", "in_chans=1", "--prepare", "size=96", "crop_pct=1", "crop_mode=border"]
    assert main(["adopt", "timm:resnet10t", str(toy), "-o", str(out), "--weights", str(weights), *words, *TABLE]) == 0
    assert main(["evaluate", str(out)]) == 0
    assert main(["evaluate", str(out), "--split", "test"]) == 0
    return out


def test_it_is_a_run_like_any_other(adopted, toy):
    card = load_classifier(adopted).card
    assert card.config.map == "cam"  # pooling and a linear layer: no gradients needed
    assert {t.source for t in card.thresholds} == {"val"}
    assert card.adopted.prepare.size == (96, 96)
    assert (adopted / "report.html").is_file()
    metrics = pd.read_csv(adopted / "evaluate" / "test" / "metrics.csv")
    dice = metrics[(metrics["metric"] == "dice") & (metrics["class"] == "macro")].set_index("method")["value"]
    assert dice["cam"] > dice["random_map"]
    content = json.loads((adopted / "model" / "model.json").read_text())
    assert content["adopted"]["model"] == "timm:resnet10t"
    assert content["format"] == 2
    assert "epochs" not in (adopted / "config.yaml").read_text()
    assert str(toy.parent) not in (adopted / "model" / "model.json").read_text()


def test_what_is_loaded_is_what_was_adopted(adopted, weights):
    classifier = load_classifier(adopted)
    theirs = timm.create_model("resnet10t", num_classes=2, in_chans=1).eval()
    fill(theirs, read_weights(weights), ["dot", "bar"])
    images = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier.network(images), theirs(images))
    with pytest.raises(ModelError, match="no class maps of its own"):
        classifier(images)


def test_predict_and_compare(adopted, toy_run, toy, tmp_path):
    image = toy.parent / "p03_0.png"
    for method in ("cam", "gradcam", "occlusion"):
        out = tmp_path / method
        assert main(["predict", str(adopted), str(image), "-o", str(out), "--map", method]) == 0
        with np.load(out / "maps" / "p03_0.npz", allow_pickle=False) as kept:
            assert kept["raw"].shape[0] == 2
    assert main(["compare", str(adopted), str(toy_run), "-o", str(tmp_path / "both"), "--draws", "20"]) == 0
    [result] = lc.Explainer(lc.load(adopted), method="cam")([image])
    expected = lc.analyse(lc.load(adopted), image)
    np.testing.assert_allclose(result.raw, expected.heatmap.raw, atol=1e-5 * abs(result.raw).max())
    np.testing.assert_allclose(result.native(), expected.heatmap.native(), atol=1e-4)


def test_a_function_of_ones_own(toy, own_module):
    """With a hidden layer there is no CAM: Grad-CAM, whose maps get a scale from validation."""
    torch.manual_seed(0)
    network = bright(hers_build(ends="mlp"))
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, "net.pth")
    done = lc.adopt(
        "hers:build",
        toy,
        "runs/hers",
        weights="net.pth",
        options={"ends": "mlp"},
        prepare={"size": 64, "channels": 1, "mean": [0.0], "std": [1.0]},
        config=lc.RunConfig(table={"columns": {"image": "file"}}, draws=20),
    )
    assert done.test.ok
    assert done.test.identity is None
    card = done.run.classifier().card
    assert card.config.map == "gradcam"
    assert card.calibration.source == "val"
    assert card.calibration.tuned_on
    metrics = lc.evaluate("runs/hers")
    assert metrics["value"].notna().any()
    assert main(["calibrate", "runs/hers", "--operating-point", "sensitivity=0.9"]) == 0


def hers_build(**options):
    return build_adopted(AdoptConfig(model="hers:build", options=options))


def test_code_is_called_only_where_it_was_adopted(toy, own_module, monkeypatch):
    save_file(hers_build().state_dict(), "net.safetensors")
    words = ["--weights", "net.safetensors", "--prepare", "size=64", "channels=1", "mean=[0.0]", "std=[1.0]"]
    assert main(["adopt", "hers:build", str(toy), "-o", "mine", *words, *TABLE]) == 0
    load_classifier("mine")
    os.rename("mine", "given")  # noqa: PTH104 (as if it had come from somebody else)
    with pytest.raises(ModelError, match="was not adopted here by you"):
        load_classifier("given")
    from hers import build

    assert load_classifier("given", build=build).card.adopted.model == "hers:build"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["timm:resnet10t"], "needs its weights"),
        (["timm:resnet1Ot", "--weights", "W"], "Unknown timm model"),
        (["resnet10t", "--weights", "W"], "write timm:NAME, or module:function"),
        (["nowhere:build"], "No module named 'nowhere'"),
        (["os:abord"], "has no 'abord'"),
        (["math:pi"], "not a function"),
        (["math:sqrt", "--options", "x=4"], "keyword"),
        (["timm:resnet10t", "--weights", "none.safetensors"], "no such file"),
        (["timm:resnet10t", "--weights", "W"], "of another shape"),
        (["timm:resnet10t", "--weights", "W", "--options", "pretrained=true"], "is no option here"),
        (["timm:resnet18", "--weights", "W", "--options", "in_chans=1"], "missing"),
        (["timm:resnet10t", "--weights", "W", "--options", "in_chans=1", "--prepare", "sice=3"], "available: size"),
    ],
)
def test_slips_leave_nothing_behind(toy, weights, tmp_path, capsys, words, message):
    words = [str(weights) if word == "W" else word for word in words]
    out = tmp_path / "run"
    assert main(["adopt", words[0], str(toy), "-o", str(out), *words[1:], *TABLE]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not out.exists()


def test_a_head_of_another_size_names_both(toy, tmp_path, capsys, own_module):
    network = timm.create_model("resnet10t", num_classes=5, in_chans=1)
    save_file(network.state_dict(), "five.safetensors")
    words = ["--weights", "five.safetensors", "--options", "in_chans=1"]
    assert main(["adopt", "timm:resnet10t", str(toy), "-o", "run", *words, *TABLE]) == 2
    said = capsys.readouterr().err
    assert "end in 5 scores but the table has 2 classes (dot, bar)" in said or "2 classes (bar, dot)" in said
    words = ["--options", "classes=3", "--prepare", "size=64", "channels=1", "mean=[0.0]", "std=[1.0]"]
    assert main(["adopt", "hers:build", str(toy), "-o", "run", *words, *TABLE]) == 2
    assert "3 scores but there are 2 classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_validation_images_thresholds_are_default(toy, weights, tmp_path):
    frame = pd.read_csv(toy, dtype=str, keep_default_na=False)
    frame["file"] = [str(toy.parent / name) for name in frame["file"]]
    for name in ("mask:dot", "mask:bar"):
        frame[name] = [str(toy.parent / cell) if cell else "" for cell in frame[name]]
    frame.assign(split="test").to_csv(tmp_path / "test.csv", index=False)
    words = ["--weights", str(weights), "--options", "in_chans=1", "--prepare", "size=96"]
    out = tmp_path / "run"
    assert main(["adopt", "timm:resnet10t", str(tmp_path / "test.csv"), "-o", str(out), *words, *TABLE]) == 0
    assert {t.source for t in load_classifier(out).card.thresholds} == {"default"}


def test_an_existing_folder_is_not_replaced(adopted, toy, weights, capsys):
    words = ["--weights", str(weights), "--options", "in_chans=1"]
    assert main(["adopt", "timm:resnet10t", str(toy), "-o", str(adopted), *words, *TABLE]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_the_picture_of_a_known_case(adopted, toy):
    """The planted detector's map is hot where the toy has a lump."""
    frame = pd.read_csv(toy, keep_default_na=False)
    row = frame[(frame["mask:dot"] != "") & (frame["bar"] == 0)].iloc[0]
    mask = np.asarray(Image.open(toy.parent / row["mask:dot"])) > 0
    result = lc.analyse(lc.load(adopted), toy.parent / row["file"])
    evidence = result.heatmap.native()[0]
    assert evidence[mask].mean() > evidence[~mask].mean()
