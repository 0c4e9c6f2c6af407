"""Choosing anew: what is asked is chosen and nothing else, and nothing is changed before everything is chosen."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import lesioncam as lc
from lesioncam.errors import ImageError, OptionError, RunError
from lesioncam.runs.card import read_card
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.calibrate import recalibrate
from lesioncam.verbs.evaluate_maps import evaluate_maps


@pytest.fixture
def run(toy_run, tmp_path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def test_what_is_asked_is_chosen_and_the_rest_stays(run):
    before = read_card(RunFolder(run).model)
    given = recalibrate(run, calibration="platt", operating_point="sensitivity=0.9")
    after = read_card(RunFolder(run).model)
    assert after == given
    assert (after.image_calibration.kind, before.image_calibration) == ("platt", None)
    assert after.config.operating_point == "sensitivity=0.9"
    assert (after.trained_on, after.roles, after.training) == (before.trained_on, before.roles, before.training)
    np.testing.assert_allclose([t.value for t in after.thresholds], [t.value for t in before.thresholds], atol=1e-6)
    recalibrate(run, calibration="none", operating_point="youden")
    again = read_card(RunFolder(run).model)
    assert again.image_calibration is None
    assert [t.value for t in again.decisions] == pytest.approx([t.value for t in before.decisions], abs=1e-6)


def test_a_failure_on_the_way_leaves_the_model_as_it_was(run, toy, monkeypatch):
    before = RunFolder(run).model.read_bytes()
    validation = lc.read_table(run / "table.csv").split("val").records()
    damaged = validation[-1].image

    def read(record):
        if record.image == damaged:
            raise ImageError(f"{damaged} is damaged.")
        return exam_of(record)

    from lesioncam.inference.exam import exam_of

    monkeypatch.setattr("lesioncam.measurement.part.exam_of", read)
    with pytest.raises(ImageError, match="is damaged"):
        recalibrate(run, calibration="platt")
    assert RunFolder(run).model.read_bytes() == before


def test_another_option_and_another_tools_maps_are_refused(run, toy, tmp_path):
    with pytest.raises(OptionError, match="Did you mean 'threshold'"):
        recalibrate(run, thresold="val")
    maps = tmp_path / "maps"
    maps.mkdir()
    for record in lc.read_table(run / "table.csv").split("val").records():
        np.save(maps / f"{record.id}.npy", np.random.default_rng(0).random((2, 16, 12)))
    evaluate_maps(maps, run / "table.csv", tmp_path / "theirs", config=lc.RunConfig(draws=20))
    before = RunFolder(tmp_path / "theirs").maps.read_bytes()
    with pytest.raises(RunError, match="another tool's maps"):
        recalibrate(tmp_path / "theirs", calibration="platt")
    assert RunFolder(tmp_path / "theirs").maps.read_bytes() == before
