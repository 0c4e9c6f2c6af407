"""The whole road on small images, through the real command line: every artefact is there, every number adds up."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.errors import ImageError, LesioncamError, RunError
from lesioncam.evaluation.cases import read_cases
from lesioncam.evaluation.summary import summarise
from lesioncam.files import read_json
from lesioncam.inference.look import analyse
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.result import Run


@pytest.fixture(scope="module")
def done(toy_run):
    """One finished run, validated and tested once."""
    return toy_run


def test_a_run_folder_holds_what_the_plan_says(done):
    for name in [
        "config.yaml",
        "table.csv",
        "state.json",
        "provenance.json",
        "model/weights.safetensors",
        "model/model.json",
        "log/history.csv",
        "ledger.json",
        "report.html",
    ]:
        assert (done / name).is_file(), name
    for split in ("val", "test"):
        for name in ["cases.csv", "metrics.csv", "curves.npz", "summary.json", "gallery.csv"]:
            assert (done / "evaluate" / split / name).is_file()
        assert len(list((done / "evaluate" / split / "arrays").glob("*.npz"))) == 24
    assert read_json(done / "state.json")["state"] == "done"
    assert not [path for path in done.rglob("*") if path.name.startswith(".")], "half-written files"


def test_it_learnt_and_localised(done):
    metrics = Run(done).metrics("test")
    macro = metrics[metrics["class"] == "macro"].set_index(["metric", "method"])["value"]
    assert macro["auroc", "cam"] > 0.8
    assert macro["dice", "cam"] > macro["dice", "mean_mask"] + 0.05
    assert macro["pointing_game", "cam"] > macro["pointing_game", "random_map"]


def test_every_number_follows_from_the_cases_alone(done):
    for split in ("val", "test"):
        place = done / "evaluate" / split
        again = summarise(read_cases(place / "cases.csv"), exclusive=False, draws=100, seed=0)
        kept = pd.read_csv(place / "metrics.csv")
        pd.testing.assert_frame_equal(again.reset_index(drop=True), kept, check_dtype=False)


def test_the_cases_are_the_case(done):
    """Dice of one row, computed again by hand from the mask files and a fresh pass."""
    cases = read_cases(done / "evaluate" / "test" / "cases.csv")
    row = cases[(cases["method"] == "cam") & (cases["dice"] > 0)].iloc[0]
    table = lc.read_table(done / "table.csv")
    record = next(r for r in table.records() if r.id == row["image"])
    result = analyse(lc.load(done), record.image)
    predicted = result.segmentation.mask(row["class"])
    truth = np.asarray(Image.open(record.masks[row["class"]][0])) > 0
    assert 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()) == pytest.approx(row["dice"], abs=1e-9)
    assert result.probabilities[result.classes.index(row["class"])] == pytest.approx(row["probability"], abs=1e-6)


def test_thresholds_come_from_validation_and_remember_it(done):
    model = read_json(done / "model" / "model.json")
    val = read_cases(done / "evaluate" / "val" / "cases.csv")
    test = read_cases(done / "evaluate" / "test" / "cases.csv")
    for name in ("dot", "bar"):
        threshold = model["thresholds"][name]
        assert threshold["source"] == "val"
        people = set(model["patients"][threshold["tuned_on"]])
        assert people == set(val["patient"])
        assert not people & set(test["patient"])


def test_patients_leave_only_as_digests(done):
    for path in [*done.rglob("*.json"), *done.rglob("cases.csv"), done / "report.html"]:
        assert "Patient " not in path.read_text().replace("Patient rule", "").replace("Patients", ""), path


def test_opening_test_is_counted(done, toy, tmp_path):
    """In the run and beside the table, where other runs on it are counted too; opening val is not."""
    run, beside = shutil.copytree(done, tmp_path / "run"), toy.with_name("labels.csv.ledger.json")
    before = len(read_json(beside)["openings"])
    assert before >= len(read_json(run / "ledger.json")["openings"]) >= 1
    lc.evaluate(run, "test")
    lc.evaluate(run, "val")
    for place in (run / "ledger.json", beside):
        assert len(read_json(place)["openings"]) == before + 1
    assert read_json(run / "evaluate" / "test" / "summary.json")["test_opened"] == before + 1


def test_a_threshold_fitted_on_test_patients_is_refused(done, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    path = copy / "model" / "model.json"
    content, test = read_json(path), read_cases(copy / "evaluate" / "test" / "cases.csv")
    content["patients"][content["thresholds"]["dot"]["tuned_on"]][0] = test["patient"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(LesioncamError, match="chosen on 1 of these patients"):
        lc.evaluate(copy, "test")


def test_a_model_without_thresholds_is_refused_unless_told(toy, quick, tmp_path):
    lc.train(toy, tmp_path / "bare", **{**quick, "epochs": 1})
    with pytest.raises(RunError, match="--threshold default"):
        lc.predict(tmp_path / "bare", [toy.parent / "p00_0.png"])
    result = lc.predict(tmp_path / "bare", [toy.parent / "p00_0.png"], threshold="default")[0]
    assert result.segmentation.thresholds[0].source == "default"
    with pytest.raises(RunError, match="--threshold default"):
        lc.evaluate(tmp_path / "bare")
    metrics = lc.evaluate(tmp_path / "bare", threshold="default")  # never calibrated, so no controls either
    assert set(metrics["method"]) == {"cam", "resolution_ceiling"}
    cases = read_cases(tmp_path / "bare" / "evaluate" / "val" / "cases.csv")
    assert set(cases[cases["method"] == "cam"]["map_source"]) == {"default"}


def test_the_gallery_shows_the_threshold_that_was_asked_for(done, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(done, copy)
    lc.evaluate(copy, "val", threshold=0.9)
    place = copy / "evaluate" / "val"
    row = pd.read_csv(place / "gallery.csv").iloc[0]
    with np.load(place / "arrays" / row["file"], allow_pickle=False) as kept:
        k = kept["classes"].tolist().index(row["class"])
        assert kept["shown"].tolist() == [row["class"]]
        clear = np.abs(kept["probability"][0].astype(float) - 0.9) > 1e-2  # kept in half precision
        assert ((kept["probability"][0] > 0.9) == kept["masks"][k])[clear].all()


def test_predict_writes_what_it_says_and_goes_on_after_a_broken_image(done, toy, tmp_path, capsys):
    good = [toy.parent / name for name in ("p03_0.png", "p03_2.png")]
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:300])
    out = tmp_path / "out"
    assert main(["predict", str(done), *map(str, [good[0], broken, good[1]]), "-o", str(out)]) == 0
    assert "1 could not be used" in capsys.readouterr().out
    table = pd.read_csv(out / "predictions.csv")
    columns = ["image", "class", "probability", "positive", "threshold", "area", "boxes"]
    assert [c for c in table.columns if c in columns] == columns
    assert len(table) == 4
    failed = pd.read_csv(out / "failed.csv")
    assert failed["image"].tolist() == [str(broken)]
    for row in table.itertuples():
        stem = row.image.rsplit("/", 1)[-1].removesuffix(".png")
        mask = np.asarray(Image.open(out / "masks" / f"{stem}_{row[2]}.png")) > 0
        assert mask.shape == (64, 48)
        assert mask.sum() == row.area
        if not row.positive:
            assert row.area == 0
            assert json.loads(row.boxes) == []
        for x0, y0, x1, y1 in json.loads(row.boxes):
            assert mask[y0:y1, x0:x1].any(axis=0).all()
        with Image.open(out / "overlays" / f"{stem}_{row[2]}.png") as drawn:
            assert drawn.size[0] >= 48
        with np.load(out / "maps" / f"{stem}.npz", allow_pickle=False) as maps:
            assert maps["probability"].shape == (2, 64, 48)
    with pytest.raises(RunError, match="--overwrite"):
        lc.predict(done, good, out)


def test_predict_in_python_takes_arrays_and_names_what_it_cannot_read(done, toy, tmp_path):
    pixels = np.asarray(Image.open(toy.parent / "p03_0.png"))
    from_array, from_file = lc.predict(done, [pixels, toy.parent / "p03_0.png"])
    np.testing.assert_array_equal(from_array.heatmap.raw, from_file.heatmap.raw)
    assert from_file.heatmap.probability().shape == (2, 64, 48)
    with pytest.raises(ImageError):
        lc.predict(done, [tmp_path / "none.png"])


def test_equal_names_in_two_folders_do_not_overwrite_each_other(done, toy, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes((toy.parent / "p03_0.png").read_bytes())
    lc.predict(done, [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"], tmp_path / "out", write=["masks"])
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_the_classifier_gives_logits_and_maps_in_one_pass(done):
    import torch

    classifier = lc.load(done)
    calls = []
    handle = classifier.network.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    output = classifier(torch.rand(3, 1, 64, 64))
    handle.remove()
    assert output.logits.shape == (3, 2)
    assert output.class_maps.shape == (3, 2, 8, 8)
    assert len(calls) == 1


def test_the_report_is_rebuilt_from_the_folder_alone(done, tmp_path):
    elsewhere = tmp_path / done.name
    shutil.copytree(done, elsewhere)
    (elsewhere / "report.html").unlink()
    assert lc.report(elsewhere).read_text() == (done / "report.html").read_text()


@pytest.mark.usefixtures("rendered")
def test_the_figures_of_a_run_are_pictures(done, tmp_path):
    run = shutil.copytree(done, tmp_path / "run")
    page = lc.report(run).read_text()
    pictures = list(run.glob("evaluate/*/figures/*.png"))
    assert len(pictures) >= 18  # ten of each split or so
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    assert page.count("<svg") >= len(pictures)
    assert page.count("<path") > 10 * len(pictures)


def test_a_users_own_pooling_needs_no_edit(toy, quick, tmp_path):
    def mine(class_maps):
        return class_maps.flatten(2).mean(-1)

    run = lc.run(toy, tmp_path / "own", **{**quick, "epochs": 1}, pooling=mine)
    assert run.report.is_file()
    with pytest.raises(LesioncamError, match="your own"):
        lc.load(run.folder)
    assert lc.load(run.folder, pooling=mine).classes == ("dot", "bar")


def test_without_masks_localisation_is_not_measured(toy, quick, tmp_path):
    table = pd.read_csv(toy).drop(columns=["mask:dot", "mask:bar"])
    table["file"] = [str(toy.parent / name) for name in table["file"]]
    table.to_csv(tmp_path / "t.csv", index=False)
    run = lc.run(tmp_path / "t.csv", tmp_path / "run", **{**quick, "epochs": 1})
    assert "localisation not measured" in run.report.read_text().lower()
    assert read_json(run.folder / "model" / "model.json")["thresholds"]["dot"]["source"] == "default"
    assert "dice" not in set(run.metrics()["metric"][run.metrics()["n"] > 0])


def test_overwrite_leaves_nothing_of_the_old_run(toy, quick, tmp_path):
    out = tmp_path / "run"
    lc.train(toy, out, **{**quick, "epochs": 1})
    (out / "evaluate" / "val").mkdir(parents=True)
    (out / "evaluate" / "val" / "metrics.csv").write_text("old")
    lc.train(toy, out, **{**quick, "epochs": 1}, overwrite=True)
    assert not (out / "evaluate").exists()
    assert RunFolder(out).is_run()
