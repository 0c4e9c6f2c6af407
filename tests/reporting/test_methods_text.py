"""The methods paragraph says what was used and nothing else; every reference is cited and every citation known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import lesioncam
from lesioncam.evaluation.compare import COMPARED
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.options.run import MapMethod
from lesioncam.reporting.words.methods_text import Described, Protocol, bibliography, methods_text
from lesioncam.runs.summary import CalibrationKinds, MapThreshold, Summary

CONFIG = {
    "pooling.kind": "pcam", "pooling.temperature": 0.5, "backbone.name": "slim", "backbone.stride": 8,
    "weights": "none",    "epochs": 25, "patience": 15, "batch": 32, "learning_rate": 0.003, "preprocess.size": 128,
}  # fmt: skip
SUMMARY = Summary(
    split="test", method="cam", classes=("mass",), thresholds={"mass": MapThreshold(0.4, "val")},
    calibration=CalibrationKinds("none", "none", "youden"),
)  # fmt: skip
PROTOCOL = Protocol("test", 389, 21, ("auroc", "dice"), 2000, 7, "0.1.0")


def run(
    name: str = "a", foreign: bool = False, calibration: dict[str, str] | None = None, **config: object
) -> Described:
    changed = {key.replace("__", "."): value for key, value in config.items()}
    kinds = replace(SUMMARY.calibration, **(calibration or {}))
    summary = SUMMARY.model_copy(update={"calibration": kinds, "method": "x" if foreign else "cam"})
    return Described(name, {} if foreign else CONFIG | changed, summary, foreign)


def cited(text: str) -> set[str]:
    return set(re.findall(r"@(\w+)", text))


def test_what_was_used_is_said():
    text = methods_text([run(), run("b")], PROTOCOL)
    for words in ("probabilistic-CAM pooling (temperature 0.5) [@ye2020pcam]", "narrow ResNet-10", "at random",
                  "25 epochs", "128 x 128 pixels", "389 test images of 21 patients", "2000 bootstrap draws", "seed 7",
                  "Holm",
                  "highest mean Dice coefficient on validation masks", "[@youden1950]", "lesioncam 0.1.0"):  # fmt: skip
        assert words in text, words


def test_what_was_not_used_is_not_said():
    text = methods_text([run(), run("b")], PROTOCOL)
    for key in ("zhou2016gap", "guo2017calibration", "platt1999", "zadrozny2002", "arun2021", "zhang2018excitation",
                "shen2021gmic", "brodersen2010"):  # fmt: skip
        assert f"@{key}" not in text
    alone = methods_text([run()], PROTOCOL._replace(paired=False))
    assert not cited(alone) & {"mandel2008", "holm1979", "piepho2004"}


@pytest.mark.parametrize("kind", sorted(POOLING_TYPES))
def test_every_pooling_has_words_and_a_reference(kind):
    options = {f"pooling__{k}": v for k, v in POOLING_TYPES[kind]().model_dump().items()}
    text = methods_text([run(**options)], PROTOCOL)
    sentence = re.search(r"pooled by (.*?)\.(?= [A-Z])", text)[1]
    assert cited(sentence)
    assert "not recorded" not in sentence


@pytest.mark.parametrize(
    ("kind", "key"), [("temperature", "guo2017calibration"), ("platt", "platt1999"), ("isotonic", "zadrozny2002")]
)
def test_calibrations_are_cited_where_they_were_used(kind, key):
    assert f"[@{key}]" in methods_text([run(calibration={"images": kind})], PROTOCOL)
    assert "Map values were calibrated" in methods_text([run(calibration={"maps": kind})], PROTOCOL)


@pytest.mark.parametrize(
    ("name", "key"),
    [("resnet34", "he2016resnet"), ("densenet121", "huang2017densenet"), ("convnext_tiny", "liu2022convnext"),
     ("tf_efficientnet_b0", "tan2019efficientnet"), ("vit_small_patch16_224", "dosovitskiy2021vit"),
     ("a_network_nobody_knows", "wightman2019timm")],
)  # fmt: skip
def test_backbones_are_cited_by_family(name, key):
    assert f"{name} [@{key}]" in methods_text([run(backbone__name=name)], PROTOCOL)


def test_runs_that_differ_are_told_apart():
    text = methods_text([run("a"), run("b", pooling__kind="avg"), run("c", pooling__kind="avg")], PROTOCOL)
    assert (
        "probabilistic-CAM pooling (temperature 0.5) [@ye2020pcam] (a); "
        "the mean of the class map [@zhou2016cam] (b and c)" in text
    )
    hub = methods_text([run("a"), run("b", weights="hub")], PROTOCOL)
    assert "at random (a); with timm's pretrained weights (b)" in hub
    assert "/home" not in methods_text([run(weights="/home/anna/x.safetensors")], PROTOCOL)


def test_a_pooling_of_ones_own_and_unknown_things():
    text = methods_text([run(pooling__kind="custom", pooling__name="mine.pool")], PROTOCOL)
    assert "a pooling of the authors' own (mine.pool)" in text
    bare = methods_text([Described("old", {}, Summary(split="test", method="", classes=()))], PROTOCOL)
    assert "{}" not in bare
    assert "None" not in bare
    assert "  " not in bare


def test_maps_of_another_tool_are_said_to_be_theirs():
    text = methods_text([run("ours"), run("theirs", foreign=True)], PROTOCOL)
    assert "The maps of theirs were made by another tool" in text
    assert "theirs" not in text.split("Image scores were pooled")[1].split(".")[0]
    only = methods_text([run("x", foreign=True), run("y", foreign=True)], PROTOCOL)
    assert "Classifiers were trained" not in only
    assert "PyTorch" not in only
    assert "x and y" in only


@pytest.mark.parametrize("metric", COMPARED)
def test_every_metric_has_words(metric):
    text = methods_text([run()], PROTOCOL._replace(metrics=(metric,)))
    assert "Reported are" in text
    assert metric not in text or metric in ("dice", "iou")


def test_the_bibliography_holds_exactly_what_is_cited():
    text = methods_text(
        [run(), run("b", pooling__kind="lse", calibration={"maps": "platt"})], PROTOCOL._replace(repeated=True)
    )
    entries = re.findall(r"^@\w+\{(\w+),$", bibliography(text), flags=re.MULTILINE)
    assert set(entries) == cited(text)
    assert len(entries) == len(set(entries))
    assert "arun2021" in entries
    assert bibliography("nothing") == ""


BIB = (Path(lesioncam.__file__).parent / "reporting" / "words" / "references.bib").read_text()
KEYS = re.findall(r"^@\w+\{(\w+),$", BIB, flags=re.MULTILINE)


def test_the_bibliography_of_everything_is_the_file():
    assert KEYS
    assert sorted(bibliography(" ".join(f"[@{key}]" for key in KEYS)).split("\n")) == sorted(BIB.split("\n"))


@pytest.mark.parametrize("key", KEYS)
def test_every_reference_is_complete_and_balanced(key):
    entry = bibliography(f"[@{key}]")
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, flags=re.MULTILINE))
    assert {"author", "title", "year"} <= set(fields)
    assert re.match(r"@(article|inproceedings|book|misc)\{", entry)
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert fields["year"] in key
    assert "&" not in fields.get("journal", "").replace("\\&", "")


def test_whatever_the_code_cites_stands_in_the_file():
    root = Path(lesioncam.__file__).parent
    found = {key for path in root.rglob("*.py") for key in re.findall(r"\[@(\w+)\]", path.read_text())}
    assert len(found) > 20
    assert found - {"key"} <= set(KEYS)  # [@key] is how one is written


@pytest.mark.parametrize("method", [name for name in get_args(MapMethod) if name != "cam"])
def test_every_map_method_has_words_and_a_reference(method):
    one = run()
    text = methods_text([one._replace(summary=one.summary.model_copy(update={"method": method}))], PROTOCOL)
    (key,) = re.search(r"Heat maps were [^[]*\[@(\w+)\]", text).groups()
    assert f"{{{key}," in bibliography(text)


def test_a_network_that_was_adopted_was_not_trained_here():
    theirs = Described("mine", {"seed": 0}, SUMMARY)
    alone, beside = methods_text([theirs], PROTOCOL), methods_text([theirs, run()], PROTOCOL)
    assert alone.startswith("mine was trained elsewhere.")
    assert "image-level labels" not in alone
    assert "mine was trained elsewhere. The other classifiers were trained from image-level labels alone" in beside
