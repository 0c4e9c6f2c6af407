"""summary.json: written and read by one class, whatever the age of the file."""

import json

import pytest

from lesioncam.errors import RunError
from lesioncam.runs.summary import (
    CalibrationKinds,
    Faithfulness,
    FaithfulnessScores,
    HealthyCold,
    LayerSimilarity,
    Leak,
    LedgerCount,
    MapThreshold,
    Sanity,
    Summary,
    Verified,
)


def test_what_is_written_is_read(tmp_path):
    faithful = Faithfulness(2, FaithfulnessScores(0.1), FaithfulnessScores())
    whole = Summary(
        split="test",
        method="cam",
        classes=("mass", "ring"),
        thresholds={"mass": MapThreshold(0.1 + 0.2, "val")},
        healthy_cold=HealthyCold(0.5, 4),
        leaks=(Leak("a", "test", "b", "train", "mirror", 0.99),),
        ledger=LedgerCount(3, 2, shared=True),
        calibration=CalibrationKinds("platt", "none", "youden"),
        verified=Verified(3, 5),
        policy={"mass": {"uncertain": "1", "blank": "0"}},
        sanity=Sanity(0.1, 4, 0, (LayerSimilarity("head", 1, None),), faithful),
    )
    whole.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == whole


def test_a_file_without_newer_keys_says_that_they_are_not_known(tmp_path):
    old = {
        "split": "val",
        "method": "cam",
        "classes": ["mass"],
        "patient_rule": None,
        "test_opened": 4,
        "configurations": 3,
    }
    (tmp_path / "summary.json").write_text(json.dumps(old | {"of a newer version": 1}))
    read = Summary.read(tmp_path / "summary.json")
    assert (read.policy, read.dropped, read.leaks_checked, read.sanity) == (None, None, None, None)
    assert not read.knows_patients
    assert read.opened == LedgerCount(4, 3, None)


@pytest.mark.parametrize(
    ("rule", "known"), [("none", False), ("", False), ("blocks:20", True), ("column patient", True)]
)
def test_patients_are_known_by_a_rule(rule, known):
    assert Summary(split="val", method="cam", classes=("mass",), patient_rule=rule).knows_patients is known


@pytest.mark.parametrize("content", ["null", "[]", "3", '"x"', "{}", '{"split": "val", "method": "cam", "classes": 3}'])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"summary\.json is damaged \("):
        Summary.read(path)
