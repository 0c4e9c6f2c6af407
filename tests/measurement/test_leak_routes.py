"""Every way we know of to let the test set in, tried with a few seeds each: all refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

import lesioncam as lc
from lesioncam.errors import LesioncamError, TableError
from lesioncam.evaluation.cases import read_cases
from lesioncam.evaluation.protocol import patient_digest
from lesioncam.files import read_json
from lesioncam.measurement.calibrate import fit_scale
from lesioncam.models.checkpoint import load_classifier
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.segmentation.threshold import Fit, fitted_thresholds
from lesioncam.types import Calibration, Chosen, Threshold, Validation

TRIALS = 6
"""Every branch of a trial is taken by ``seed % 2`` and ``seed % 3``."""


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    """A copy that trials may change and must restore."""
    return shutil.copytree(toy_run, tmp_path_factory.mktemp("leaks") / "run")


@pytest.fixture(scope="module")
def people(run):
    """Digest of the patient of each test image."""
    return read_cases(run / "evaluate" / "test" / "cases.csv").drop_duplicates("image")["patient"].to_numpy()


@pytest.fixture(autouse=True)
def restored(run):
    """Whatever a trial changes is put back; no refused evaluation counts as a look at test."""
    kept = {name: (run / name).read_bytes() for name in ("model/model.json", "table.csv", "ledger.json", "log/key")}
    yield
    assert (run / "ledger.json").read_bytes() == kept["ledger.json"], "a refused evaluation opened the test labels"
    for name, content in kept.items():
        (run / name).write_bytes(content)


def some(people, seed):
    """A few of the test patients, at least one."""
    rng = np.random.default_rng(seed)
    return frozenset(rng.choice(people, rng.integers(1, 4), replace=False).tolist())


def refused(run, match):
    with pytest.raises(LesioncamError, match=match):
        lc.evaluate(run, "test")
    return True


def test_the_same_patient_in_two_splits(toy, tmp_path):
    frame = pd.read_csv(toy).drop(columns=["mask:dot", "mask:bar"])
    frame["file"] = [str(toy.parent / name) for name in frame["file"]]
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        row = rng.choice(np.flatnonzero(frame["split"] != "test"))
        torn = frame.copy()
        torn.loc[row, "split"] = "test"
        torn.to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(TableError, match="in 'test'|in two splits|is in"):
            lc.run(tmp_path / "labels.csv", tmp_path / "run", columns={"image": "file"})
    assert not (tmp_path / "run").exists()


def planted(image, rng):
    """A mirrored copy as it comes from the wild: brighter or darker, and saved as JPEG."""
    changed = ImageEnhance.Brightness(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).enhance(rng.uniform(0.85, 1.1))
    return ImageEnhance.Contrast(changed).enhance(rng.uniform(0.9, 1.1))


def test_a_mirrored_copy_in_test(toy, tmp_path):
    """Under another patient's name, in the table."""
    frame = pd.read_csv(toy).drop(columns=["mask:dot", "mask:bar"])
    names = frame["file"].to_numpy()
    frame["file"] = [str(toy.parent / name) for name in names]
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        source = rng.choice(np.flatnonzero(frame["split"] != "test"))
        target = rng.choice(np.flatnonzero(frame["split"] == "test"))
        copy = tmp_path / f"copy{seed}.jpg"
        planted(Image.open(frame["file"][source]), rng).save(copy, quality=85)
        leaky = frame.copy()
        leaky.loc[target, "file"] = str(copy)
        leaky.to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(TableError, match=f"copy{seed}"):
            lc.run(tmp_path / "labels.csv", tmp_path / "run", columns={"image": "file"})
    assert not (tmp_path / "run").exists()


def test_a_mirrored_copy_put_in_place_after_training(run, toy, tmp_path):
    """The table stays as it was; a test file is replaced by a mirrored image of training, or of validation."""
    table = lc.read_table(run / "table.csv")
    homes = dict(zip(table.frame["id"], table.frame["image"], strict=True))
    ids = {name: table.split(name).frame["id"].tolist() for name in ("train", "val", "test")}
    for seed in range(TRIALS):
        rng, met = np.random.default_rng(seed), ("train", "val")[seed % 2]
        victim, source = homes[str(rng.choice(ids["test"]))], homes[str(rng.choice(ids[met]))]
        kept = Path(victim).read_bytes()
        try:
            planted(Image.open(source), rng).save(victim)
            assert refused(run, rf"(mirror image of|copy of) \S+ in {met} ")
        finally:
            Path(victim).write_bytes(kept)


def test_a_threshold_fitted_on_test(run, people):
    for seed in range(TRIALS):
        seen = some(people, seed)
        card = load_classifier(run).card
        name = ("thresholds", "decisions")[seed % 2]
        RunFolder(run).update_card(**{name: (Threshold(0.4, "val", seen), *getattr(card, name)[1:])})
        assert refused(run, f"chosen on {len(seen)} of these patients")
        RunFolder(run).update_card(**{name: getattr(card, name)})


def test_a_calibration_fitted_on_test(run, people):
    for seed in range(TRIALS):
        seen = some(people, seed)
        kind = ("temperature", "platt", "isotonic")[seed % 3]
        name = ("calibration", "image_calibration")[seed % 2]
        before = getattr(load_classifier(run).card, name)
        RunFolder(run).update_card(**{name: Calibration((1.0, 1.0), (0.0, 0.0), "val", (), seen, kind)})
        assert refused(run, f"{kind} calibration was chosen on {len(seen)}")
        RunFolder(run).update_card(**{name: before})


@pytest.mark.parametrize("what", ["checkpoint", "ensemble"])
def test_a_checkpoint_or_an_ensemble_chosen_on_test(run, people, what):
    before = load_classifier(run).card.chosen
    for seed in range(TRIALS):
        seen = some(people, seed)
        RunFolder(run).update_card(chosen=(*before, Chosen(what, "b", seen)))
        assert refused(run, f"{what} 'b' was chosen on {len(seen)}")
        RunFolder(run).update_card(chosen=before)


def test_choosing_functions_do_not_take_test_records(people):
    """Not by their types, and not at run time."""
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        splits = ["val"] * 6
        splits[rng.integers(6)] = rng.choice(["test", "train"])
        with pytest.raises(LesioncamError, match="choices are made on `val` only"):
            Validation(tuple("abcdef"), tuple(people[:6]), tuple(splits))
        good = Validation(tuple("abcdef"), tuple(people[:6]), ("val",) * 6)
        scale = fit_scale("platt", [(rng.normal(size=6), np.array([0, 1] * 3), None)], good)
        for chosen in (*fitted_thresholds([Fit(0.3, 0.5, 6)], good), scale):
            with pytest.raises(LesioncamError, match="of these patients"):
                chosen.check_unseen(people.tolist())


def test_a_reloaded_model_json(run, people):
    """What was chosen on test stays known on disk; and without the secret nobody can tell, so it is refused."""
    path = run / "model" / "model.json"
    for seed in range(TRIALS):
        seen = some(people, seed)
        kept = path.read_bytes()
        content = json.loads(kept)
        content["patients"].append(sorted(seen))
        content["thresholds"]["dot"]["tuned_on"] = len(content["patients"]) - 1
        path.write_text(json.dumps(content))
        card = load_classifier(run).card
        RunFolder(run).update_card(training=card.training)  # written again by the program itself
        assert refused(run, f"chosen on {len(seen)} of these patients")
        path.write_bytes(kept)
        secret = (run / "log" / "key").read_bytes()
        (run / "log" / "key").write_text(f"{seed:032x}") if seed % 2 else (run / "log" / "key").unlink()
        assert refused(run, "nobody can tell whom it has seen")
        (run / "log" / "key").write_bytes(secret)


def test_an_edited_split_column(run):
    path = run / "table.csv"
    for seed in range(TRIALS):
        rng = np.random.default_rng(seed)
        kept = path.read_bytes()
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if seed % 3 == 0:  # one patient changes sides
            who = rng.choice(frame["patient"].unique())
            rows = frame["patient"] == who
            other = [name for name in ("train", "val", "test") if name != frame.loc[rows, "split"].iloc[0]]
            frame.loc[rows, "split"] = rng.choice(other)
        elif seed % 3 == 1:  # val and test are exchanged
            frame["split"] = frame["split"].map({"val": "test", "test": "val", "train": "train"})
        else:  # a training image under a new patient's name becomes a test image
            row = rng.choice(np.flatnonzero(frame["split"] == "train"))
            frame.loc[row, ["split", "patient"]] = "test", f"new{seed}"
        frame.to_csv(path, index=False)
        assert refused(run, "images, patients or splits were changed")
        path.write_bytes(kept)


def test_the_weights_remember_whom_they_were_trained_on(run, people):
    """A card whose table digest was taken away still knows its training patients."""
    card = load_classifier(run).card
    for seed in range(TRIALS):
        seen = some(people, seed)
        RunFolder(run).update_card(trained_on=card.trained_on | seen)
        assert refused(run, f"trained on {len(seen)} of the patients")
        RunFolder(run).update_card(trained_on=card.trained_on)


def test_a_patient_is_known_by_name_and_secret(run, people):
    key = run_key(RunFolder(run))
    table = lc.read_table(run / "table.csv").split("test")
    assert {patient_digest(key, name) for name in table.patients()} == set(people)
    assert replace(load_classifier(run).card).trained_on.isdisjoint(people)
    assert read_json(run / "model" / "model.json")["patients"]


def test_copies_can_be_left_out_and_are_counted(run, toy):
    table = lc.read_table(run / "table.csv")
    homes = dict(zip(table.frame["id"], table.frame["image"], strict=True))
    victim, source = homes[table.split("val").frame["id"][3]], homes[table.split("train").frame["id"][5]]
    kept = Path(victim).read_bytes()
    try:
        planted(Image.open(source), np.random.default_rng(0)).save(victim)
        with pytest.raises(LesioncamError, match="--leaks drop"):
            lc.evaluate(run, "val")
        lc.evaluate(run, "val", leaks="drop")
    finally:
        Path(victim).write_bytes(kept)
    found = read_json(run / "evaluate" / "val" / "summary.json")
    assert (found["dropped"], found["images"], len(found["leaks"])) == (1, 23, 1)
    assert found["leaks"][0]["kind"] == "mirror"
