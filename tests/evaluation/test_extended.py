"""The measures of ``--metrics all``: cells by hand, macro and intervals by the rules of the default table."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn import metrics as oracle

from lesioncam.errors import GeometryError, RunError
from lesioncam.evaluation.cases import COLUMNS, Truth, View
from lesioncam.evaluation.extended import (
    EXTENDED,
    THRESHOLDS,
    ExtendedCases,
    read_extended,
    summarise_extended,
)
from lesioncam.evaluation.metric import LEVELS
from lesioncam.evaluation.summary import METRIC_COLUMNS, summarise
from lesioncam.functional.boxes import component_boxes
from lesioncam.functional.localisation import FALSE_POSITIVES
from lesioncam.functional.metrics import patient_weights
from lesioncam.geometry import OUTSIDE
from lesioncam.types import Box, Threshold

NAN = math.nan


def view(values, threshold=0.5):
    values = np.asarray(values, np.float32)
    mask = values >= threshold
    return View(values, mask, component_boxes(mask, values), Threshold(threshold, "val"), lambda raw: raw)


def truth(mask=None, boxes=(), label="mass", patient="p"):
    masks = {} if mask is None else {label: np.asarray(mask, bool)}
    return Truth((1.0,), (1.0,), patient, "test", masks, [Box(label, tuple(box)) for box in boxes])


def block(*boxes, shape=(20, 30), value=1.0):
    """Blocks of one value on 0; boxes are half-open x0 y0 x1 y1."""
    out = np.zeros(shape, np.float32)
    for box in boxes:
        half = len(box) // 2
        out[tuple(slice(a, b) for a, b in zip(box[half - 1 :: -1], box[: half - 1 : -1], strict=True))] = value
    return out


def one(values, truth, spacing=None, threshold=0.5):
    """The single row of a single map, and its curves."""
    collected = ExtendedCases()
    collected.add(("a", "mass", "cam"), view(values, threshold), truth, spacing)
    return collected.frame().iloc[0], collected.sweeps()


def table(rows):
    """Rows of cases.csv with the columns that matter; all others blank."""
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    defaults = {"method": "cam", "split": "test", "class": "mass", "map_source": "val"}
    for name, kind in COLUMNS.items():
        if kind == "text":
            frame[name] = frame[name].astype(object).fillna(defaults.get(name, "")).astype(str)
        else:
            frame[name] = frame[name].astype(float)
    return frame


def pick(metrics, metric, label="mass", method="cam"):
    chosen = metrics[(metrics["metric"] == metric) & (metrics["class"] == label) & (metrics["method"] == method)]
    assert len(chosen) == 1, (metric, chosen)
    return chosen.iloc[0]


def scored(images=40, classes=("mass", "ring"), seed=0):
    """Images with scores only."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        for name in classes:
            label = float(rng.integers(0, 2))
            p = float(1 / (1 + np.exp(-rng.normal() - label)))
            rows.append({"image": f"i{i}", "patient": f"p{i // 2}", "class": name, "label": label,
                         "logit": math.log(p / (1 - p)), "probability": p, "decision_threshold": 0.6,
                         "positive": float(p >= 0.6)})  # fmt: skip
    return table(rows)


def summary(frame, collected=None, *, exclusive=False, draws=10, seed=0):
    collected = collected or ExtendedCases()
    return summarise_extended(frame, collected.frame(), collected.sweeps(), exclusive=exclusive, draws=draws, seed=seed)


# ---- one map -----------------------------------------------------------------------------------------------------


def test_a_perfect_map():
    place = (4, 5, 14, 11)
    row, curves = one(block(place), truth(block(place)))
    assert json.loads(row["truth"]) == [list(place)]
    assert row[["overlap", "area", "truth_area", "precision"]].tolist() == [60, 60, 60, 1]
    assert row[["hausdorff", "hd95", "assd", "volume_difference"]].tolist() == [0, 0, 0, 0]
    assert row[["lesions", "lesions_found", "components", "components_false"]].tolist() == [1, 1, 1, 0]
    assert row[["otsu_iou", "otsu_iou_true_positives", "hit"]].tolist() == [1, 1, 1]
    assert row["truth_count"] == 1
    for level in LEVELS:
        assert row[[f"{kind}@{level:g}" for kind in ("iou_hits", "iobb_hits", "iou_false", "iobb_false")]].tolist() == [
            1,
            1,
            0,
            0,
        ]
    assert (curves.largest[0, 1:] == 1).all()  # at 0 the whole map is reached
    assert curves.best[0, 0] == np.float32(60 / 600)
    assert (curves.found[0] == 60).all()
    assert curves.reached[0, 0] == 600
    assert (curves.reached[0, 1:] == 60).all()


def test_a_map_that_is_hot_elsewhere():
    row, curves = one(block((20, 2, 26, 6)), truth(block((4, 5, 14, 11))), spacing=(2.0, 1.0))
    assert row[["overlap", "area", "precision", "volume_difference"]].tolist() == [0, 24, 0, 24 / 60 - 1]
    assert row["hausdorff"] == pytest.approx(math.hypot(2 * 5, 16))  # bottom left of the lesion to the hot block
    assert row[["lesions", "lesions_found", "components", "components_false"]].tolist() == [1, 0, 1, 1]
    assert row[["otsu_iou", "hit"]].tolist() == [0, 0]
    for level in LEVELS:
        assert row[f"iou_hits@{level:g}"] == row[f"iobb_hits@{level:g}"] == 0
        assert row[f"iou_false@{level:g}"] == row[f"iobb_false@{level:g}"] == row["predicted_count"] > 0
    assert (curves.best[0, 1:] == 0).all()
    assert (curves.found[0, 1:] == 0).all()


def test_two_lesions_and_a_blob():
    lesions = (2, 2, 6, 6), (12, 10, 16, 14)
    row, _ = one(block(lesions[0], (24, 2, 28, 6)), truth(block(*lesions)))
    assert row[["lesions", "lesions_found", "components", "components_false"]].tolist() == [2, 1, 2, 1]
    assert row[["overlap", "area", "truth_area", "precision"]].tolist() == [16, 32, 32, 0.5]
    assert row[["truth_count", "predicted_count", "iou_hits@0.5", "iou_false@0.5"]].tolist() == [2, 2, 1, 1]
    assert row["otsu_iou"] == pytest.approx(16 / 48)


def test_one_pixel_inside_has_a_full_iobb_and_no_iou():
    row, _ = one(block((10, 8, 11, 9)), truth(block((5, 5, 15, 15))))
    assert [row[f"iobb_hits@{level:g}"] for level in LEVELS] == [1] * 5
    assert [row[f"iou_hits@{level:g}"] for level in LEVELS] == [0] * 5
    assert [row[f"iou_false@{level:g}"] for level in LEVELS] == [1] * 5
    assert [row[f"iobb_false@{level:g}"] for level in LEVELS] == [0] * 5


def test_an_overlap_at_the_level_is_not_above_it():
    row, _ = one(block((0, 0, 10, 10)), truth(boxes=[(0, 0, 20, 10)]))  # IoU is .5 exactly
    assert (row["iou_hits@0.25"], row["iou_hits@0.5"], row["iou_false@0.5"]) == (1, 0, 1)


def test_listed_boxes_go_before_those_of_the_mask():
    row, curves = one(block((4, 5, 14, 11)), truth(block((4, 5, 14, 11)), boxes=[(4, 5, 14, 17)]))
    assert json.loads(row["truth"]) == [[4, 5, 14, 17]]
    assert row["precision"] == 1
    assert curves.best[0, 500] == 0.5


def test_boxes_without_a_mask_leave_the_mask_undefined():
    row, curves = one(block((4, 5, 14, 11)), truth(boxes=[(4.5, 5, 14, 11)]))
    for name in ("overlap", "precision", "hd95", "lesions", "otsu_iou", "hit"):
        assert math.isnan(row[name])
    assert row["iou_hits@0.9"] == 1
    assert not curves.found.any()
    assert not curves.reached.any()
    assert curves.best[0, 500] == pytest.approx(57 / 60)


def test_an_empty_prediction():
    row, _ = one(block((4, 5, 14, 11), value=0.3), truth(block((4, 5, 14, 11))))
    assert row[["overlap", "area"]].tolist() == [0, 0]
    assert row[["precision", "hausdorff", "hd95", "assd"]].isna().all()
    assert row["volume_difference"] == -1
    assert row[["lesions", "lesions_found", "components", "components_false"]].tolist() == [1, 0, 0, 0]
    assert row[["otsu_iou", "hit"]].tolist() == [1, 1]  # protocols look at the map, not at the mask


@pytest.mark.parametrize("value", [0.0, 0.7, OUTSIDE, NAN])
def test_a_flat_map_is_a_miss_without_a_box(value):
    row, curves = one(np.full((20, 30), value), truth(block((4, 5, 14, 11))))
    assert row[["hit", "predicted_count", "iou_hits@0.1", "iou_false@0.1"]].tolist() == [0, 0, 0, 0]
    assert row["otsu_iou"] == 0
    assert math.isnan(row["otsu_iou_true_positives"])
    assert not curves.best[0, 1:].any()


def test_protocols_get_the_map_as_it_is_shown():
    """As probabilities: the spread of cold logits, and the -20 outside a crop, must not make the rest look hot."""
    lesion = block((4, 5, 14, 11))
    raw = np.where(lesion > 0.5, 3, np.random.default_rng(0).uniform(-9, -4, lesion.shape)).astype(np.float32)
    raw[:, 24:] = OUTSIDE
    cut = View(raw, raw > 0, component_boxes(raw > 0, raw), Threshold(0.5), expit)
    collected = ExtendedCases()
    collected.add(("a", "mass", "cam"), cut, truth(lesion))
    row, curves = collected.frame().iloc[0], collected.sweeps()
    assert row[["otsu_iou", "hit", "iou_hits@0.9", "iou_false@0.1"]].tolist() == [1, 1, 1, 0]
    assert curves.best[0, 500] == curves.largest[0, 500] == 1


def test_3d():
    place = (3, 2, 1, 7, 6, 3)
    shape = (5, 9, 11)
    shifted = (3, 2, 2, 7, 6, 4)  # one slice further
    given = truth(block(place, shape=shape))
    row, curves = one(block(shifted, shape=shape), given, spacing=(4.0, 1.0, 1.0))
    assert json.loads(row["truth"]) == [list(place)]
    assert row[["overlap", "area", "hausdorff"]].tolist() == [16, 32, 4]
    assert row["otsu_iou"] == pytest.approx(1 / 3)
    assert row[["iou_hits@0.25", "iou_hits@0.5"]].tolist() == [1, 0]
    assert curves.best[0, 500] == pytest.approx(1 / 3)
    unknown, _ = one(block(shifted, shape=shape), given)
    assert unknown[["hausdorff", "hd95", "assd"]].isna().all()
    assert unknown["overlap"] == 16


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(GeometryError, match=r"'a' is \(4, 5\).*\(20, 30\)"):
        one(block((1, 1, 3, 3)), truth(np.ones((4, 5), bool)))


def test_curves_equal_the_slow_way():
    rng = np.random.default_rng(3)
    mask = rng.random((9, 8)) < 0.3
    values = rng.integers(0, 12, size=(9, 8)).astype(np.float32)
    _, curves = one(values, truth(mask))
    unit = (values.astype(float) - values.min()) / (values.max() - values.min())
    reached = [int((unit >= t).sum()) for t in THRESHOLDS]
    # values that fall on a threshold may round to either side of it
    firm = np.array([not np.isclose(unit, t, atol=1e-6).any() for t in THRESHOLDS])
    np.testing.assert_array_equal(curves.reached[0][firm], np.array(reached)[firm])
    np.testing.assert_array_equal(
        curves.found[0][firm], np.array([int((unit[mask] >= t).sum()) for t in THRESHOLDS])[firm]
    )


# ---- on disk -----------------------------------------------------------------------------------------------------


def collected():
    cases = ExtendedCases()
    cases.add(("007", "mass", "cam"), view(block((4, 5, 14, 11))), truth(block((4, 6, 14, 13))))
    cases.add(("008", "mass", "cam"), view(block((1, 1, 2, 2))), truth(boxes=[(0.25, 0, 7, 7)]))
    return cases


def test_what_was_written_comes_back(tmp_path):
    cases = collected()
    cases.save(tmp_path)
    frame, sweeps = read_extended(tmp_path)
    pd.testing.assert_frame_equal(frame, cases.frame())
    assert list(frame.columns) == list(EXTENDED)
    assert frame["image"].tolist() == ["007", "008"]
    for curve, other in zip(sweeps, cases.sweeps(), strict=True):
        np.testing.assert_array_equal(curve, other)
        assert curve.shape == (2, 1001)
        assert curve.dtype == other.dtype
        assert curve.itemsize == 4
    assert not [path for path in tmp_path.iterdir() if path.name not in ("extended.csv", "sweeps.npz")]


def test_nothing_collected_comes_back_too(tmp_path):
    ExtendedCases().save(tmp_path)
    frame, sweeps = read_extended(tmp_path)
    assert frame.empty
    assert sweeps.best.shape == (0, 1001)


def test_broken_files(tmp_path):
    with pytest.raises(RunError, match="--metrics all"):
        read_extended(tmp_path)
    collected().save(tmp_path)
    text = (tmp_path / "extended.csv").read_text()
    (tmp_path / "extended.csv").write_text(text.replace("008", "009"))
    with pytest.raises(RunError, match="different rows"):
        read_extended(tmp_path)
    (tmp_path / "extended.csv").write_text(text.replace("hd95", "hd94"))
    with pytest.raises(RunError, match="lacks the columns hd95"):
        read_extended(tmp_path)
    (tmp_path / "extended.csv").write_text(text)
    (tmp_path / "sweeps.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match="--metrics all"):
        read_extended(tmp_path)


# ---- classification ----------------------------------------------------------------------------------------------


def test_classification_equals_scikit_learn():
    frame = scored()
    metrics = summary(frame)
    for name, own in frame.groupby("class"):
        label, p = own["label"], own["probability"]
        fpr, tpr, _ = oracle.roc_curve(label, p, drop_intermediate=False)
        expected = {
            "f1": oracle.f1_score(label, own["positive"]),
            "oracle_max_f1": max(oracle.f1_score(label, p >= t) for t in p),
            "pf1": 2 * (p * label).sum() / (p.sum() + label.sum()),
            "sensitivity_at_specificity_0.9": tpr[1 - fpr >= 0.9].max(),
            "brier": oracle.brier_score_loss(label, p),
        }
        for metric, value in expected.items():
            row = pick(metrics, metric, name)
            assert (row["value"], row["n"], row["undefined"], row["task"]) == (
                pytest.approx(value), 40, 0, "classification")  # fmt: skip
            assert row["low"] < row["high"]
    assert pick(metrics, "f1")["threshold"] == 0.6
    assert pick(metrics, "pf1", "macro")["value"] == pytest.approx(
        np.mean([pick(metrics, "pf1", name)["value"] for name in ("mass", "ring")])
    )


def test_calibration_error_by_hand():
    rows = [{"image": f"i{i}", "patient": f"p{i}", "label": float(i % 2), "probability": 0.8} for i in range(10)]
    assert pick(summary(table(rows)), "ece")["value"] == pytest.approx(0.3)  # .8 said, .5 happened


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_only(label):
    metrics = summary(scored().assign(label=label))
    for metric in ("f1", "oracle_max_f1", "pf1"):
        row = pick(metrics, metric)
        assert math.isnan(row["value"]) == (label == 0)
        assert row["n"] == (40 if label else 0)
    assert math.isnan(pick(metrics, "sensitivity_at_specificity_0.9")["value"])
    assert pick(metrics, "brier")["n"] == 40


def test_nan_scores_and_unknown_labels_are_left_out_and_counted():
    frame = scored()
    frame.loc[frame["image"] == "i0", ["logit", "probability", "positive"]] = NAN
    frame.loc[frame["image"] == "i1", "label"] = NAN
    metrics = summary(frame)
    rest = summary(frame[~frame["image"].isin(["i0", "i1"])])
    for metric in ("f1", "oracle_max_f1", "pf1", "brier", "ece", "sensitivity_at_specificity_0.9"):
        row = pick(metrics, metric)
        assert row[["n", "undefined"]].tolist() == [38, 2]
        assert row["value"] == pytest.approx(pick(rest, metric)["value"])


def test_kappa_grades_begin_with_none():
    """Three grades: none, mild, severe."""
    grades, guesses = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0, 2]
    rows = []
    for i, (grade, guess) in enumerate(zip(grades, guesses, strict=True)):
        for k, name in enumerate(["mild", "severe"], start=1):
            p = 0.9 if guess == k else 0.1
            rows.append({"image": f"i{i}", "patient": f"p{i}", "class": name, "label": float(grade == k),
                         "logit": p, "probability": p, "positive": float(guess == k)})  # fmt: skip
    row = pick(summary(table(rows), exclusive=True), "kappa_quadratic", "macro")
    assert row["value"] == pytest.approx(oracle.cohen_kappa_score(grades, guesses, weights="quadratic"))
    assert (row["n"], row["undefined"]) == (7, 0)
    assert "kappa_quadratic" not in set(summary(table(rows))["metric"])


# ---- places ------------------------------------------------------------------------------------------------------


def many(images=14, classes=("mass", "ring"), methods=("cam", "random_map"), seed=0):
    """Random maps with two regions beside random lesions; every third image is healthy. Two images a patient."""
    rng = np.random.default_rng(seed)
    rows, collected = [], ExtendedCases()
    for i in range(images):
        for name in classes:
            ill = i % 3 > 0
            x, y = (int(v) for v in rng.integers(0, 8, size=2))
            mask = block((x, y, x + 6, y + 5), shape=(16, 18)) if ill else np.zeros((16, 18))
            for method in methods:
                own = method == "cam"
                values = rng.random((4, 6)).repeat(4, 0).repeat(3, 1).astype(np.float32)
                seen = view(values, 0.7 if own else 0.6)
                both, area = int((seen.mask & (mask > 0)).sum()), int(seen.mask.sum())
                row = {"image": f"i{i}", "patient": f"p{i // 2}", "class": name, "method": method, "label": float(ill),
                       "map_threshold": seen.threshold.value, "healthy": float(not ill), "truth_boxes": float(ill),
                       "boxes": json.dumps([list(part.box) for part in seen.parts]),
                       "peaks": json.dumps([[part.peak, *part.place] for part in seen.parts])}  # fmt: skip
                if own:
                    p = float(rng.random())
                    row |= {"logit": p, "probability": p, "positive": float(p > 0.4), "decision_threshold": 0.4}
                if ill:
                    row |= {
                        "dice": 2 * both / (area + 30),
                        "pointing": float(mask[np.unravel_index(values.argmax(), mask.shape)]),
                    }
                    collected.add((f"i{i}", name, method), seen, truth(mask, label=name))
                rows.append(row)
    return table(rows), collected


def drawn(frame, draws, seed):
    """How often each image is in each draw."""
    images = frame.drop_duplicates("image")
    weights = patient_weights(images["patient"].to_numpy(str), np.random.default_rng(seed), draws)
    return images["image"].tolist(), np.vstack([np.ones(len(images), int), weights])


def test_the_table_is_tidy_and_follows_the_default_table():
    frame, collected = many()
    metrics = summary(frame, collected)
    assert tuple(metrics.columns) == METRIC_COLUMNS
    assert not metrics.duplicated(["task", "metric", "class", "method"]).any()
    assert set(metrics["class"]) == {"mass", "ring", "macro"}
    assert (metrics["n"] + metrics["undefined"] == 14).all()
    defined = metrics[metrics["value"].notna()]
    assert (defined["n"] > 0).all()
    assert (metrics.loc[metrics["value"].isna(), "n"] == 0).all()
    assert (defined["low"] <= defined["high"]).all()
    default = summarise(frame, exclusive=False, draws=10)
    assert not set(map(tuple, metrics[["task", "metric"]].to_numpy())) & set(
        map(tuple, default[["task", "metric"]].to_numpy())
    )
    for method in ("cam", "random_map"):
        names = set(metrics.loc[metrics["method"] == method, "metric"])
        assert names >= {f"{kind}@{t:g}" for kind in ("iou_acc", "iobb_acc", "afp", "iobb_afp") for t in LEVELS}
        assert names >= {f"froc@{x:g}" for x in FALSE_POSITIVES} | {
            "cpm",
            "box_ap@0.5",
            "pxap",
            "miou",
            "hd95",
            "dice_gated",
        }
        assert ("brier" in names) == (method == "cam")


@pytest.mark.parametrize("label", ["mass", "ring", "macro"])
@pytest.mark.parametrize("method", ["cam", "random_map"])
def test_rows_equal_those_of_the_default_table_where_the_number_is_the_same(method, label):
    frame, collected = many()
    frame["positive"] = 1.0
    extended = summary(frame, collected, draws=40, seed=3)
    default = summarise(frame, exclusive=False, draws=40, seed=3)
    columns = ["value", "low", "high", "n", "undefined", "threshold"]
    for ours, theirs in [("dice_gated", "dice"), ("hit_rate", "pointing_game")]:
        pd.testing.assert_series_equal(
            pick(extended, ours, label, method)[columns],
            pick(default, theirs, label, method)[columns],
            check_names=False,
        )


def slow(metric, rows, curves):
    """A metric of the rows of one class, each listed as often as it was drawn."""

    def box_accuracy(name, delta):
        return max(np.mean([curves[name][i][t] >= np.float32(delta) for i in rows.index]) for t in range(1001))

    total = rows.sum(numeric_only=True)
    match metric:
        case "iou_acc@0.25":
            return total["iou_hits@0.25"] / total["truth_count"]
        case "iobb_acc@0.5":
            return total["iobb_hits@0.5"] / total["truth_count"]
        case "afp@0.1":
            return rows["iou_false@0.1"].mean()
        case "iobb_afp@0.1":
            return rows["iobb_false@0.1"].mean()
        case "miou":
            return rows["otsu_iou"].mean()
        case "hd95" | "assd" | "volume_difference" | "precision":
            return rows[metric].mean()
        case "lesion_sensitivity":
            return total["lesions_found"] / total["lesions"]
        case "lesion_precision":
            return 1 - total["components_false"] / total["components"]
        case "dice_pooled":
            return 2 * total["overlap"] / (total["area"] + total["truth_area"])
        case "iou_pooled":
            return total["overlap"] / (total["area"] + total["truth_area"] - total["overlap"])
        case "maxboxacc_v1":
            return box_accuracy("largest", 0.5)
        case "maxboxacc_v2":
            return np.mean([box_accuracy("best", delta) for delta in (0.3, 0.5, 0.7)])
        case "pxap":
            found, reached = (curves[name][rows.index].sum(0, dtype=float) for name in ("found", "reached"))
            recall = found[::-1] / found[0]
            precision = found[::-1] / np.maximum(reached[::-1], 1)
            return (precision * np.diff(recall, prepend=0)).sum()
    raise AssertionError(metric)


@pytest.mark.parametrize("method", ["cam", "random_map"])
@pytest.mark.parametrize(
    "metric",
    ["iou_acc@0.25", "iobb_acc@0.5", "afp@0.1", "iobb_afp@0.1", "miou", "hd95", "assd", "volume_difference",
     "precision", "lesion_sensitivity", "lesion_precision", "dice_pooled", "iou_pooled", "maxboxacc_v1",
     "maxboxacc_v2", "pxap"],
)  # fmt: skip
def test_values_and_intervals_equal_the_slow_bootstrap(metric, method):
    frame, collected = many()
    rows, curves, draws = collected.frame(), collected.sweeps()._asdict(), 8
    images, weights = drawn(frame, draws, 5)
    values = {}
    for name in ("mass", "ring"):
        own = rows[(rows["method"] == method) & (rows["class"] == name)]
        often = [own["image"].map(dict(zip(images, weight, strict=True))) for weight in weights]
        values[name] = np.array([slow(metric, own.loc[own.index.repeat(times)], curves) for times in often])
    values["macro"] = (values["mass"] + values["ring"]) / 2
    metrics = summary(frame, collected, draws=draws, seed=5)
    for name, expected in values.items():
        row = pick(metrics, metric, name, method)
        low, high = np.quantile(expected[1:], [0.025, 0.975])
        assert row[["value", "low", "high"]].tolist() == pytest.approx([expected[0], low, high], rel=1e-6)
        assert (row["n"], row["undefined"]) == (9, 5)


def test_the_gate_is_the_image_score_of_the_runs_own_method():
    frame, collected = many()
    metrics = summary(frame, collected)
    for method in ("cam", "random_map"):
        for name in ("mass", "ring"):
            part = frame[(frame["class"] == name) & (frame["label"] == 1)].set_index("image")
            open_gate = part.loc[part["method"] == "cam", "positive"]
            expected = (part.loc[part["method"] == method, "dice"] * open_gate).mean()
            assert pick(metrics, "dice_gated", name, method)["value"] == pytest.approx(expected)


def test_thresholds_are_named_where_the_mask_counts():
    frame, collected = many()
    metrics = summary(frame, collected)
    for metric, level in [("hd95", 0.7), ("dice_pooled", 0.7), ("cpm", 0.7), ("miou", NAN), ("pxap", NAN)]:
        assert pick(metrics, metric)["threshold"] == pytest.approx(level, nan_ok=True)


def test_a_method_without_a_located_lesion_has_rows_with_n_zero():
    frame, _ = many()
    metrics = summary(frame)
    for metric in ("hd95", "iou_acc@0.5", "pxap", "maxboxacc_v2", "miou", "lesion_sensitivity"):
        row = pick(metrics, metric)
        assert math.isnan(row["value"])
        assert (row["n"], row["undefined"]) == (0, 14)


def test_both_files_must_be_of_one_evaluation():
    frame, collected = many()
    with pytest.raises(RunError, match="one evaluation"):
        summary(frame[frame["image"] != "i1"], collected)
    with pytest.raises(RunError, match="'random_map' is not in these cases"):
        summary(frame[frame["method"] == "cam"], collected)


def test_three_images_only():
    frame, collected = many(images=3)
    frame["patient"] = frame["image"]
    metrics = summary(frame, collected, draws=30)
    assert (metrics["n"] <= 3).all()
    row = pick(metrics, "miou")
    assert row["n"] == 2
    assert row["low"] <= row["value"] <= row["high"]


def test_no_positive_image_at_all():
    frame, _ = many()
    frame = frame[frame["label"] == 0]
    metrics = summary(frame)
    for metric in ("cpm", "froc@1", "box_ap@0.5", "f1", "hd95", "dice_gated"):
        assert pick(metrics, metric)[["value", "low", "high"]].isna().all()


# ---- candidates --------------------------------------------------------------------------------------------------


def detected():
    """Two lesions in ``a``, a false candidate in the negative ``b``; ``c`` is unknown, ``d`` positive but nowhere."""
    seen = {"map_threshold": 0.5}
    given = {
        "a": (1.0, [[0, 0, 4, 4], [20, 0, 24, 4], [9, 9, 13, 13]], [[0.9, 1, 1], [0.8, 1, 21], [0.7, 11, 11]]),
        "b": (0.0, [[3, 3, 5, 5]], [[0.85, 3, 3]]),
        "c": (NAN, [[3, 3, 5, 5]], [[0.99, 3, 3]]),
        "d": (1.0, [[3, 3, 5, 5]], [[0.99, 3, 3]]),
    }
    rows = [
        {"image": image, "patient": image, "label": label, "boxes": json.dumps(boxes), "peaks": json.dumps(peaks)}
        | seen
        for image, (label, boxes, peaks) in given.items()
    ]
    collected = ExtendedCases()
    collected.add(
        ("a", "mass", "cam"), view(block((0, 0, 4, 4))), truth(boxes=[(0, 0, 4, 4), (10, 10, 14, 14)], patient="a")
    )
    return rows, collected


def test_froc_and_box_precision_by_hand():
    rows, collected = detected()
    metrics = summary(table(rows), collected)
    # .9 hits, .85 and .8 are false, .7 hits: half of the lesions at once, all at two false positives in two images
    expected = dict.fromkeys(("froc@0.125", "froc@0.25", "froc@0.5"), 0.5)
    expected |= dict.fromkeys(("froc@1", "froc@2", "froc@4", "froc@8"), 1.0)
    expected |= {"cpm": 5.5 / 7, "box_ap@0.5": 0.5}  # the last box has the pixel but fits by 9/23 only
    for metric, value in expected.items():
        row = pick(metrics, metric)
        assert (row["value"], row["n"], row["undefined"]) == (pytest.approx(value), 2, 2)
        assert row["threshold"] == 0.5


def test_unlisted_candidates_are_not_no_candidates():
    """A control's boxes are not listed on healthy images; a blank cell must not count as an image without alarms."""
    rows, collected = detected()
    rows[1] |= {"boxes": "", "peaks": ""}
    row = pick(summary(table(rows), collected), "froc@1")
    assert (row["value"], row["n"]) == (1.0, 1)
    rows[1] |= {"boxes": "[]", "peaks": "[]"}
    row = pick(summary(table(rows), collected), "froc@0.5")
    assert (row["value"], row["n"]) == (1.0, 2)


def test_no_candidate_at_all_finds_nothing():
    rows, collected = detected()
    metrics = summary(table([row | {"boxes": "[]", "peaks": "[]"} for row in rows]), collected)
    for metric in ("froc@8", "cpm", "box_ap@0.5"):
        assert pick(metrics, metric)[["value", "n"]].tolist() == [0, 2]


def slow_froc(rows, truths, at):
    """Every threshold in turn, on a list of images in which an image may come more than once."""
    levels = sorted({peak[0] for row in rows for peak in row["peaks"]}, reverse=True)
    points = [(0.0, 0.0)]
    for level in levels:
        found = false = 0
        for row in rows:
            met = set()
            for p, y, x in row["peaks"]:
                if p >= level:
                    inside = [i for i, (a, b, c, d) in enumerate(truths[row["image"]]) if a <= x < c and b <= y < d]
                    met |= set(inside[:1])
                    false += not inside
            found += len(met)
        points.append((false / len(rows), found / sum(len(truths[row["image"]]) for row in rows)))
    out = []
    for x in at:
        below = [i for i, p in enumerate(points) if p[0] <= x]
        (x0, y0), *rest = points[below[-1] :]
        out.append(y0 + (rest[0][1] - y0) * (x - x0) / (rest[0][0] - x0) if rest else y0)
    return out


def test_froc_values_and_intervals_equal_the_slow_bootstrap():
    frame, collected = many(images=12)
    extended, draws = collected.frame(), 10
    images, weights = drawn(frame, draws, 2)
    metrics = summary(frame, collected, draws=draws, seed=2)
    for name in ("mass", "ring"):
        part = frame[(frame["method"] == "cam") & (frame["class"] == name)]
        own = extended[(extended["method"] == "cam") & (extended["class"] == name)]
        truths = dict.fromkeys(images, ()) | {
            i: json.loads(cell) for i, cell in zip(own["image"], own["truth"], strict=True)
        }
        parsed = {row.image: {"image": row.image, "peaks": json.loads(row.peaks)} for row in part.itertuples()}
        values = np.array(
            [slow_froc([parsed[i] for i in np.repeat(images, weight)], truths, FALSE_POSITIVES) for weight in weights]
        )
        columns = {f"froc@{x:g}": values[:, i] for i, x in enumerate(FALSE_POSITIVES)} | {"cpm": values.mean(axis=1)}
        for metric, expected in columns.items():
            low, high = np.quantile(expected[1:], [0.025, 0.975])
            row = pick(metrics, metric, name)
            assert row[["value", "low", "high"]].tolist() == pytest.approx([expected[0], low, high])
            assert row["n"] == 12


def test_an_overlap_exactly_at_delta_counts_although_curves_are_float32():
    """7/10 is below .7 in float32."""
    frame = table([{"image": "a", "patient": "a", "label": 1.0}])
    collected = ExtendedCases()
    collected.add(("a", "mass", "cam"), view(block((0, 0, 7, 1))), truth(boxes=[(0, 0, 10, 1)]))
    assert float(np.float32(0.7)) < 0.7
    assert pick(summary(frame, collected), "maxboxacc_v2")["value"] == 1.0
    assert pick(summary(frame, collected), "maxboxacc_v1")["value"] == 1.0
