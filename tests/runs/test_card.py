"""A card comes back equal, whatever its kind; patients are written once; older files still load."""

import json
from dataclasses import replace

import pytest

from lesioncam.errors import RunError
from lesioncam.options.networks import AdoptConfig
from lesioncam.options.run import RunConfig
from lesioncam.runs.card import (
    AdoptedCard,
    ClassifierCard,
    MapsCard,
    ModelCard,
    TrainingRecord,
    read_card,
    read_training,
    write_card,
)
from lesioncam.types import Calibration, Chosen, Threshold

CLASSES, WHO = ("ring", "mass"), frozenset({"p1", "p2"})
SHARED = {
    "exclusive": True,
    "thresholds": (Threshold(0.1 + 0.2, "val", WHO), Threshold(0.5)),
    "decisions": (Threshold(0.4, "given"), Threshold(0.6, "val", WHO)),
    "calibration": Calibration(
        (1.0, 2.0), (0.0, -1.0), "val", (((-1.0, 1.0), (0.25, 0.75)), ((), ())), WHO, "isotonic"
    ),
    "chosen": (Chosen("checkpoint", "epoch 3", WHO),),
    "trained_on": frozenset({"p3"}),
    "roles": "r",
    "key_mark": "k",
    "origin": (3.5, 3.5),
}
CARDS = {
    "classifier": ClassifierCard(
        CLASSES, RunConfig(), **SHARED, training=TrainingRecord(3, 9, 1.5, 100, interrupted=False)
    ),
    "adopted": AdoptedCard(CLASSES, RunConfig(), **SHARED, adopted=AdoptConfig(model="timm:resnet10t")),
    "maps": MapsCard(CLASSES, RunConfig(), **SHARED, method="theirs"),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_comes_back_equal(tmp_path, kind):
    write_card(tmp_path / "model.json", CARDS[kind])
    read = read_card(tmp_path / "model.json")
    assert read == CARDS[kind]
    assert type(read) is type(CARDS[kind])


def test_patients_are_written_once_and_thresholds_by_class(tmp_path):
    write_card(tmp_path / "model.json", CARDS["classifier"])
    text = (tmp_path / "model.json").read_text()
    content = json.loads(text)
    assert text.count('"p1"') == text.count('"p3"') == 1
    assert content["patients"][content["thresholds"]["ring"]["tuned_on"]] == ["p1", "p2"]
    assert content["patients"][content["trained_on"]] == ["p3"]
    assert content["thresholds"]["mass"]["value"] == 0.5


@pytest.mark.parametrize("kind", ["classifier", "adopted"])
def test_older_files_do_not_say_their_kind(tmp_path, kind):
    path = tmp_path / "model.json"
    write_card(path, CARDS[kind])
    content = json.loads(path.read_text())
    del content["kind"]
    path.write_text(json.dumps(content))
    assert read_card(path) == CARDS[kind]


def test_older_maps_wrap_a_card(tmp_path):
    path = tmp_path / "maps.json"
    write_card(path, ClassifierCard(CLASSES, RunConfig(), **SHARED))
    content = json.loads(path.read_text())
    del content["kind"]
    path.write_text(json.dumps({"method": "theirs", "card": content}))
    assert read_card(path) == CARDS["maps"]


def test_the_number_of_a_group_is_that_of_its_key_only(tmp_path):
    """An option of somebody's network that is called like ours stays what it is."""
    named = AdoptConfig(model="a:b", options={"tuned_on": 0, "trained_on": "x"})
    write_card(tmp_path / "model.json", replace(CARDS["adopted"], adopted=named))
    assert read_card(tmp_path / "model.json").adopted == named


def test_a_card_of_no_kind_is_not_kept(tmp_path):
    with pytest.raises(TypeError, match="ModelCard"):
        write_card(tmp_path / "model.json", ModelCard(CLASSES, RunConfig()))


def test_another_format_is_named(tmp_path):
    path = tmp_path / "model.json"
    write_card(path, CARDS["classifier"])
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(RunError, match=r"has format 3; this version reads 2\. Train again\."):
        read_card(path)


NEEDED = (
    *("format", "classes", "config", "patients", "thresholds", "decisions", "calibration", "image_calibration"),
    *("chosen", "trained_on", "roles", "key_mark"),
)


@pytest.mark.parametrize("missing", NEEDED)
def test_a_card_without_what_it_needs_is_damaged(tmp_path, missing):
    path = tmp_path / "model.json"
    write_card(path, CARDS["classifier"])
    content = json.loads(path.read_text())
    del content[missing]
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"model\.json is damaged"):
        read_card(path)


@pytest.mark.parametrize("path_to", ["thresholds.mass", "decisions.ring", "calibration", "chosen.0"])
def test_whom_a_choice_was_made_on_cannot_be_missing(tmp_path, path_to):
    path = tmp_path / "model.json"
    write_card(path, CARDS["classifier"])
    content = part = json.loads(path.read_text())
    for step in path_to.split("."):
        part = part[int(step) if step.isdigit() else step]
    del part["tuned_on"]
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"model\.json is damaged \('tuned_on'\)"):
        read_card(path)


def test_training_is_read_whatever_the_options_are(tmp_path):
    path = tmp_path / "model.json"
    assert read_training(path) == TrainingRecord()
    path.write_text(json.dumps({"config": {"gone": 1}, "training": {"best_epoch": 7}}))
    assert read_training(path).best_epoch == 7
