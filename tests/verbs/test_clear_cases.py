"""`lesioncam figures`: the figures of CLEAR for a run; which images are shown follows from confidence alone."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.data.io.image import read_picture
from lesioncam.explanation.cam import Padded
from lesioncam.verbs.clear_cases import ClearAsked, clear_figures


@pytest.fixture(scope="module")
def drawn(toy_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("clear")
    assert main(["figures", str(toy_run), "-o", str(out), "--rows", "2"]) == 0
    return out


def said(run, split="val"):
    """Per image of one positive class: the truth, the winner and its probability, counted by hand."""
    cases = pd.read_csv(run / "evaluate" / split / "cases.csv")
    found = {}
    for name, rows in cases[cases["method"] == "cam"].groupby("image"):
        if (rows["label"] == 1).sum() == 1:
            best = rows.loc[rows["probability"].idxmax()]
            found[name] = (rows.loc[rows["label"] == 1, "class"].item(), best["class"], best["probability"])
    return found


def test_the_cases_are_those_of_median_confidence(toy_run, drawn):
    known, listed = said(toy_run), pd.read_csv(drawn / "clear_cases.csv")
    for row in listed.itertuples():
        assert known[row.image] == (row.truth, row.predicted, pytest.approx(row.probability, abs=1e-6))
    grades = listed[listed["figure"] == "clear_grades.png"]
    assert set(zip(grades["truth"], grades["truth"] == grades["predicted"], strict=True)) == {
        (truth, truth == predicted) for truth, predicted, _ in known.values()
    }
    for row in grades.itertuples():
        rivals = [p for t, s, p in known.values() if t == row.truth and (s == t) == (row.predicted == row.truth)]
        below, above = sum(p < row.probability - 1e-6 for p in rivals), sum(p > row.probability + 1e-6 for p in rivals)
        assert abs(below - above) <= 1
    table = listed[listed["figure"] == "clear_table.png"]
    right = (table["truth"] == table["predicted"]).tolist()
    assert right == sorted(right, reverse=True)
    assert sum(right) == 2


def test_what_is_drawn_is_what_explain_says(toy_run, drawn):
    """The CLEAR map of the first row is as bright and as coloured as the responses on the image's own grid."""
    from lesioncam.functional.clear import palette
    from lesioncam.measurement.measure import RunFolder
    from lesioncam.runs.table import run_table
    from lesioncam.verbs.clear_cases import _case, _judged, _middle

    classifier, folder = lc.load(toy_run), RunFolder(toy_run)
    one = _middle([k for k in _judged(folder, classifier.classes, "val") if k.correct], 2)[0]
    record = next(r for r in run_table(folder).records() if r.id == one.id)
    case = _case(classifier, record, one, ClearAsked())
    pixels = read_picture(record.image).pixels
    sample = classifier.preprocess(pixels)
    images, valid = torch.from_numpy(sample.image)[None], torch.from_numpy(sample.valid)[None, None]
    raw = lc.explain(Padded(classifier.network, valid), images, "clear").raw[0].numpy()
    native = sample.geometry.to_native(raw, np.zeros(len(raw)))
    assert case.dominant.shape == pixels.shape[:2]
    np.testing.assert_allclose(case.dominant, native.max(0), atol=1e-5 * native.max())
    strong = np.sort(native, axis=0)[-1] > 1.05 * np.sort(native, axis=0)[-2]
    np.testing.assert_array_equal(case.dominant_class[strong], native.argmax(0)[strong])
    picture = np.asarray(Image.open(drawn / "clear_table.png"))
    colours = {tuple(np.rint(255 * c).astype(int)) for c in palette("safe", len(classifier.classes))}
    assert colours & {tuple(c) for c in picture.reshape(-1, 3)[::1].tolist()}


def test_a_split_that_was_not_evaluated_and_other_refusals(toy_run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(toy_run, copy)
    shutil.rmtree(copy / "evaluate" / "test")
    assert main(["figures", str(copy), "-o", str(tmp_path / "x"), "--split", "test"]) == 2
    assert "was not evaluated on test" in capsys.readouterr().err
    assert main(["figures", str(copy), "-o", str(tmp_path / "x"), "--rows", "0"]) == 2
    assert "expected 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    cases = pd.read_csv(copy / "evaluate" / "val" / "cases.csv")
    cases["label"] = cases["label"].where(cases["label"] != 1, 0)
    cases.to_csv(copy / "evaluate" / "val" / "cases.csv", index=False)
    with pytest.raises(lc.LesioncamError, match="exactly one positive class"):
        clear_figures(copy, tmp_path / "x")
