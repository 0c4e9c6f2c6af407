"""A run folder is read as types: what older versions wrote still loads, and whatever is damaged is named."""

import json

import pytest
from tests.reporting.conftest import Made, write_run

from lesioncam.errors import RunError
from lesioncam.measurement.control_set import ControlSet
from lesioncam.options.run import RunConfig
from lesioncam.reporting.report.html import write_report
from lesioncam.runs.card import ClassifierCard
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.ledger import read_ledger
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.source import Source

CONFIG = {"pooling": {"kind": "topq", "fraction": 0.05}, "backbone": {"name": "slim", "stride": 8}, "epochs": 45}
MODEL = {
    "format": 2, "lesioncam": "0.1.0", "classes": ["mass", "ring"], "exclusive": False, "config": CONFIG,
    "thresholds": {"mass": {"value": 0.62, "source": "val", "tuned_on": 0},
                   "ring": {"value": 0.5, "source": "val", "tuned_on": 0}},
    "decisions": {"mass": {"value": 0.14, "source": "val", "tuned_on": 0},
                  "ring": {"value": 0.27, "source": "val", "tuned_on": 0}},
    "calibration": {"kind": "none", "scale": [1.0, 1.0], "offset": [0.0, 0.0], "source": "classifier", "knots": [],
                    "tuned_on": 1},
    "image_calibration": None, "chosen": [{"what": "checkpoint", "value": "epoch 35", "tuned_on": 0}],
    "trained_on": 2, "roles": "9a46", "key_mark": "2259", "origin": [0.0, 0.0],
    "training": {"best_epoch": 35, "epochs": 45, "seconds": 86.2, "images": 540, "interrupted": False},
    "patients": [["13ab", "14a2"], [], ["004e"]],
}  # fmt: skip
SUMMARY = {
    "split": "test", "method": "cam", "foreign": False, "pooling": "topq", "classes": ["mass", "ring"], "negative": [],
    "exclusive": False, "task": "auto", "images": 50, "patients": 17, "healthy_images": 20, "images_with_masks": 41,
    "images_by_split": {"train": 540, "val": 132, "test": 50},
    "patients_by_split": {"train": 90, "val": 22, "test": 17},
    "label_counts": {name: {"positive": 19, "negative": 70, "uncertain": 0, "unknown": 0} for name in ("mass", "ring")},
    "policy": {}, "patient_rule": "column patient", "threshold_patients": 22, "seed": 0, "draws": 1000,
    "thresholds": {"mass": {"value": 0.62, "source": "val"}, "ring": {"value": 0.5, "source": "val"}},
    "healthy_cold": {"share": 0.99, "n": 20}, "question": "Which images show mass, ring, and where?",
    "gallery_rule": "By rule.", "leaks": [], "leaks_checked": True, "dropped": 0,
    "ledger": {"times": 1, "configurations": 1, "shared": True}, "test_opened": 1, "configurations": 1,
    "missing_maps": 0, "undefined_maps": 0, "calibration": {"images": "none", "maps": "none", "rule": "youden"},
    "ceiling_grid": [16, 16], "metrics": "default", "thresholds_chosen_here": False,
}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """As it was written before cards had kinds and summaries a type."""
    folder = RunFolder(write_run(tmp_path / "old", Made(splits=("test",))))
    folder.model.write_text(json.dumps(MODEL))
    folder.summary("test").write_text(json.dumps(SUMMARY))
    return folder


def test_an_older_folder_loads(old):
    card = old.read_card()
    assert isinstance(card, ClassifierCard)
    assert card.config == RunConfig.model_validate(CONFIG)
    assert [(t.value, t.tuned_on) for t in card.thresholds] == [(v, frozenset({"13ab", "14a2"})) for v in (0.62, 0.5)]
    assert (card.trained_on, card.calibration.tuned_on) == (frozenset({"004e"}), frozenset())
    assert (card.training.best_epoch, card.training.interrupted) == (35, False)
    summary = old.read_summary("test")
    assert json.loads(summary.model_dump_json(include=SUMMARY.keys())) == SUMMARY
    assert (old.read_state().state, old.read_provenance().seed, old.read_source()) == ("done", 0, Source())


def test_an_older_folder_reports(old, without_figures):
    page = write_report(old.root).read_text()
    assert "opened once by 1 configuration" in page
    assert "Which images show mass, ring, and where?" in page


READERS = {
    "state": (lambda folder: folder.state, RunFolder.read_state),
    "provenance": (lambda folder: folder.provenance, RunFolder.read_provenance),
    "source": (lambda folder: folder.source, RunFolder.read_source),
    "summary": (lambda folder: folder.summary("test"), lambda folder: folder.read_summary("test")),
    "model": (lambda folder: folder.model, RunFolder.read_card),
    "training": (lambda folder: folder.model, RunFolder.read_training),
    "maps": (lambda folder: folder.maps, RunFolder.read_card),
    "ledger": (lambda folder: folder.ledger, lambda folder: read_ledger(folder.ledger)),
    "controls": (lambda folder: folder.controls, lambda folder: ControlSet.load(folder, 0)),
}


@pytest.mark.parametrize("content", ["null", "[]", "[{}]", "3", '"text"', '{"a', "\xff"])
@pytest.mark.parametrize("name", READERS)
def test_whatever_is_damaged_is_named(old, name, content):
    place, read = READERS[name]
    path = place(old)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError) as told:
        read(old)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_what_nobody_wrote_down_is_empty(old):
    old.provenance.unlink()
    old.model.unlink()
    assert old.read_provenance() == Provenance()
    assert old.read_training().best_epoch is None
    with pytest.raises(RunError, match=r"model\.json is missing"):
        old.read_card()
