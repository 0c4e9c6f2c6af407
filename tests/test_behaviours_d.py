"""What peers get wrong in evaluation and we must get right: behaviours D1 to D11, each a test under its number."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

import lesioncam as lc
from lesioncam.data.table.split import split_table
from lesioncam.data.table.table import Table
from lesioncam.errors import LesioncamError, TableError
from lesioncam.evaluation.cases import COLUMNS, read_cases
from lesioncam.evaluation.controls import CONTROLS
from lesioncam.evaluation.summary import METRIC_COLUMNS, summarise
from lesioncam.files import read_json
from lesioncam.functional.boxes import box_overlaps
from lesioncam.functional.segmentation import dice_at_thresholds, overlap_counts
from lesioncam.functional.sweep import box_sweep
from lesioncam.models.checkpoint import load_classifier
from lesioncam.runs.folder import RunFolder
from lesioncam.segmentation.threshold import THRESHOLDS, DiceSearch
from lesioncam.types import SPLITS, Threshold

NAN = float("nan")


@pytest.fixture(scope="module")
def every_metric(toy_run, tmp_path_factory):
    """All metrics of validation."""
    run = shutil.copytree(toy_run, tmp_path_factory.mktemp("all") / "run")
    return set(lc.evaluate(run, "val", metrics="all")["metric"])


def test_d1_no_thresholds_of_the_test_set(toy_run, every_metric, tmp_path):
    """A threshold knows the patients it was tuned on; scoring any of them raises; otherwise the name says oracle."""
    seen = Threshold(0.4, "val", frozenset({"p1", "p2"}))
    with pytest.raises(LesioncamError, match="chosen on 1 of these patients"):
        seen.check_unseen(["p0", "p2"])
    run = shutil.copytree(toy_run, tmp_path / "run")
    test = frozenset(read_cases(run / "evaluate" / "test" / "cases.csv")["patient"].iloc[:1])
    card = load_classifier(run).card
    RunFolder(run).update_card(thresholds=tuple(Threshold(t.value, "val", test) for t in card.thresholds))
    with pytest.raises(LesioncamError, match="chosen on 1 of these patients"):
        lc.evaluate(run, "test")
    assert {name for name in every_metric if "max_f1" in name} == {"oracle_max_f1"}


def random_table(rng):
    """Several rows per patient, several labels per row, and a study per row now and then."""
    patients = rng.integers(0, 40, 160)
    frame = pd.DataFrame({"row": np.arange(2, 162), "id": [f"i{n}" for n in range(160)], "split": None})
    frame = frame.assign(patient=[f"p{p}" for p in patients], study=None)
    states = (rng.random((160, 3)) < [0.4, 0.2, 0.1]).astype(np.float32)
    return Table(frame, ("a", "b", "c"), states, patient_rule="column patient", source="random")


@pytest.mark.parametrize("seed", range(20))
def test_d2_splits_are_by_patient_and_stratified(seed):
    """Overlap raises with row numbers; holds with many rows per patient and several labels."""
    table = split_table(random_table(np.random.default_rng(seed)), seed=seed)
    homes = pd.DataFrame({"patient": table.patients(), "split": table.frame["split"]}).groupby("patient")["split"]
    assert homes.agg(set).map(len).max() == 1
    for name in SPLITS:
        assert (table.split(name).states == 1).any(axis=0).all(), "every class in every split"


def test_d2_overlap_raises_with_row_numbers(toy, tmp_path):
    frame = pd.read_csv(toy)
    frame.loc[5, "split"] = "test"
    frame["file"] = [str(toy.parent / name) for name in frame["file"]]
    frame.drop(columns=[c for c in frame if c.startswith("mask")]).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(TableError, match=r"row 7.*row"):
        lc.run(tmp_path / "labels.csv", tmp_path / "run", columns={"image": "file"})


def test_d3_test_is_read_by_the_final_call_only(toy_run):
    """Three roles; the seeded leak attempts are in test_leak_routes.py."""
    assert {one["split"] for one in read_json(toy_run / "ledger.json")["openings"]} == {"test"}
    val = read_cases(toy_run / "evaluate" / "val" / "cases.csv")
    test = read_cases(toy_run / "evaluate" / "test" / "cases.csv")
    card = load_classifier(toy_run).card
    for chosen in (*card.thresholds, *card.decisions, *card.chosen):
        assert chosen.tuned_on == set(val["patient"])
        assert not chosen.tuned_on & set(test["patient"])
    assert not card.trained_on & (set(val["patient"]) | set(test["patient"]))


def test_d4_listing_each_image_twice_leaves_the_interval_unchanged(toy_run):
    cases = read_cases(toy_run / "evaluate" / "test" / "cases.csv")
    twice = pd.concat([cases, cases.assign(image=cases["image"] + " again")], ignore_index=True)
    once = summarise(cases, exclusive=False, draws=200).set_index(["task", "metric", "class", "method"])
    both = summarise(twice, exclusive=False, draws=200).set_index(["task", "metric", "class", "method"])
    both = both.loc[once.index]
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(both[column], once[column], atol=1e-12)
    assert (both["n"] == 2 * once["n"]).all()


@pytest.mark.parametrize("shape", [(17, 23), (5, 9, 7)])
def test_d5_the_search_in_one_pass_equals_the_loop_exactly(shape):
    rng = np.random.default_rng(0)
    scores = rng.random(shape).astype(np.float32)
    scores.flat[::7] = np.float32(THRESHOLDS[240])  # exactly on a threshold
    for truth in (rng.random(shape) < 0.2, np.zeros(shape, bool), np.ones(shape, bool)):
        loop = np.array([overlap_counts(scores >= t, truth).dice for t in THRESHOLDS])
        np.testing.assert_array_equal(dice_at_thresholds(scores, truth, THRESHOLDS), loop)
    search = DiceSearch(1)
    search.add(0, scores, np.zeros(shape, bool))
    assert search.best() == [None]


def case(image, **cells):
    row = dict.fromkeys(COLUMNS, NAN) | {"image": image, "patient": image, "split": "val", "class": "mass"}
    row |= {"method": "cam", "label": 1.0, "logit": 0.0, "probability": 0.5, "decision_threshold": 0.5, "positive": 1.0}
    return row | {"healthy": 0.0, "map_threshold": 0.5} | cells


def test_d6_one_policy_for_empty_cases():
    """Undefined is NaN, counted and printed; false alarms on healthy images apart; no NaN becomes True."""
    rows = [case(f"i{n}", dice=0.5, pointing=1.0) for n in range(41)]
    rows += [case(f"h{n}", label=0.0, healthy=1.0, false_alarm=float(n < 3)) for n in range(9)]
    table = summarise(pd.DataFrame(rows), exclusive=False, draws=20).set_index(["metric", "class"])
    assert table.loc[("dice", "mass"), ["value", "n", "undefined"]].tolist() == [0.5, 41, 9]
    assert table.loc[("pointing_game", "mass"), ["value", "n", "undefined"]].tolist() == [1.0, 41, 9]
    assert table.loc[("false_alarm_rate", "mass"), ["value", "n"]].tolist() == [3 / 9, 9]
    nothing = summarise(pd.DataFrame(rows[:41]), exclusive=False, draws=20).set_index(["metric", "class"])
    assert np.isnan(nothing.loc[("auroc", "mass"), "value"])
    assert nothing.loc[("auroc", "mass"), "n"] == 0


def test_d7_both_views_of_boxes():
    """IoU and IoBB; largest component and all components."""
    found = box_overlaps([[4, 4, 5, 5]], [[0, 0, 10, 10]])  # one pixel inside a box of a hundred
    assert (found.iou[0, 0], found.iobb[0, 0], found.iogt[0, 0]) == (0.01, 1.0, 0.01)
    scores = np.zeros((20, 20), np.float32)
    scores[1:9, 1:9], scores[14:17, 14:17] = 0.9, 0.9  # the larger one is beside the lesion
    sweep = box_sweep(scores, np.array([0.5]), [[14, 14, 17, 17]])
    assert (sweep.largest[0], sweep.best[0]) == (0, 1)


def test_d8_baselines_are_always_printed(toy_run):
    """CAM, centre prior, and the few-shot head of the same validation masks."""
    for split in ("val", "test"):
        table = pd.read_csv(toy_run / "evaluate" / split / "metrics.csv")
        named = set(table[(table["metric"] == "dice") & table["value"].notna()]["method"])
        assert {"cam", *CONTROLS, "resolution_ceiling"} <= named
    page = (toy_run / "report.html").read_text()
    for words in ("centre prior", "few-shot", "mean mask", "uniform map", "brightness map", "random map"):
        assert words in page


def test_d9_unlikely_findings_make_no_mask(toy_run, toy, tmp_path):
    """A class below its operating point gets an empty mask, and its row says so."""
    images = sorted(toy.parent.glob("p03_*.png"))
    lc.predict(toy_run, images, tmp_path / "out", write=("masks",))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv")
    cold = rows[rows["positive"] == 0]
    assert len(cold)
    assert (cold["area"] == 0).all()


def test_d10_maps_depend_on_the_weights(toy_run, tmp_path):
    """Random weights: similarity to the true map falls; the same weights: similarity is one."""
    run = shutil.copytree(toy_run, tmp_path / "run")
    lc.evaluate(run, "val", sanity=True)
    found = read_json(run / "evaluate" / "val" / "summary.json")["sanity"]
    assert found["similarity"] < 0.6
    assert found["maps"] + found["flat"] == 2 * 24


def test_d11_names_of_metrics_never_move(toy_run, every_metric):
    """A change of a definition is a new name: this list only grows."""
    table = pd.read_csv(toy_run / "evaluate" / "test" / "metrics.csv")
    assert tuple(table.columns) == METRIC_COLUMNS
    assert set(table["metric"]) >= {
        *("auroc", "average_precision", "balanced_accuracy", "sensitivity", "specificity"),
        *("dice", "iou", "pointing_game", "box_hit_rate", "false_alarm_rate"),
    }
    boxes = {f"{name}@{t}" for name in ("iou_acc", "iobb_acc", "afp") for t in (0.1, 0.25, 0.5, 0.75, 0.9)}
    assert every_metric >= boxes | {
        *("f1", "oracle_max_f1", "pf1", "sensitivity_at_specificity_0.9", "brier", "ece"),
        *("maxboxacc_v1", "maxboxacc_v2", "pxap", "hit_rate", "miou", "miou_true_positives", "cpm", "box_ap@0.5"),
        *("precision", "hd95", "assd", "volume_difference", "lesion_sensitivity", "lesion_precision"),
        *("dice_pooled", "dice_gated", "iou_pooled"),
    }
    assert not [name for name in every_metric if re.search(r"[A-Z ]", name)]
