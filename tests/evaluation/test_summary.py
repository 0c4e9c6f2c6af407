"""From cases.csv alone to metrics.csv: by hand, by scikit-learn, and by a slow bootstrap over repeated rows."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from lesioncam.errors import RunError
from lesioncam.evaluation.cases import COLUMNS, read_cases, write_cases
from lesioncam.evaluation.summary import (
    METRIC_COLUMNS,
    best_control,
    case_tables,
    curves,
    grid_of,
    own_method,
    patient_draws,
    summarise,
)
from lesioncam.functional.metrics import patient_weights

NAN = math.nan
LOCAL = ("dice", "iou", "sensitivity", "specificity", "pointing")


def cases(rows):
    """Rows with the columns that matter; all others blank."""
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    defaults = {"method": "cam", "split": "val", "class": "mass", "map_source": "val", "boxes": "[]"}
    for name, kind in COLUMNS.items():
        if kind == "text":
            frame[name] = frame[name].astype(object).fillna(defaults.get(name, "")).astype(str)
        else:
            frame[name] = frame[name].astype(float)
    return frame


def pick(metrics, metric, label="mass", method="cam", task=None):
    chosen = metrics[(metrics["metric"] == metric) & (metrics["class"] == label) & (metrics["method"] == method)]
    if task:
        chosen = chosen[chosen["task"] == task]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


def random_cases(images=60, classes=("mass", "ring"), methods=("cam", "random_map", "mean_mask"), seed=0):
    """About two images a patient; positives have masks; controls have no score."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        labels = rng.integers(0, 2, size=len(classes))
        healthy = int(not labels.any())
        for name, label in zip(classes, labels, strict=True):
            for method in methods:
                own = method == "cam"
                if not own and not label and not healthy:
                    continue
                logit = rng.normal() + label
                row = {"image": f"i{i}", "patient": f"p{rng.integers(images // 2)}" if not rows or rows[-1]["image"]
                       != f"i{i}" else rows[-1]["patient"], "class": name, "method": method, "state": label,
                       "label": label, "healthy": healthy, "map_threshold": 0.3 if own else 0.1}  # fmt: skip
                if own:
                    row |= {"logit": logit, "probability": 1 / (1 + math.exp(-logit)), "decision_threshold": 0.6}
                    row["positive"] = int(row["probability"] >= 0.6)
                if label:
                    row |= {
                        "dice": rng.random(),
                        "iou": rng.random(),
                        "sensitivity": rng.random(),
                        "specificity": rng.random(),
                    }
                    row |= {"pointing": rng.integers(0, 2), "truth_boxes": rng.integers(1, 4)}
                    row["boxes_hit"] = rng.integers(0, row["truth_boxes"] + 1)
                else:
                    row |= {"truth_boxes": 0, "false_alarm": rng.integers(0, 2) if healthy else NAN}
                rows.append(row)
    return cases(rows)


def small():
    """Four images of three patients; the numbers below follow by hand."""
    seen = {"map_threshold": 0.3, "decision_threshold": 0.5}
    return cases(
        [
            {"image": "a", "patient": "p", "label": 1, "logit": 2.0, "positive": 1, "dice": 0.8, "iou": 0.7,
             "sensitivity": 0.9, "specificity": 1.0, "pointing": 1, "truth_boxes": 3, "boxes_hit": 1, **seen},
            {"image": "b", "patient": "p", "label": 1, "logit": -1.0, "positive": 0, "dice": 0.0, "iou": 0.0,
             "sensitivity": 0.0, "specificity": 0.9, "pointing": 0, "truth_boxes": 1, "boxes_hit": 1, **seen},
            {"image": "c", "patient": "q", "label": 0, "logit": 0.0, "positive": 1, "healthy": 1, "false_alarm": 1,
             "truth_boxes": 0, **seen},
            {"image": "d", "patient": "r", "label": 0, "logit": -2.0, "positive": 0, "healthy": 1, "false_alarm": 0,
             "truth_boxes": 0, **seen},
        ]
    )  # fmt: skip


# ---- values ------------------------------------------------------------------------------------------------------


def test_values_by_hand():
    metrics = summarise(small(), exclusive=False, draws=20)
    expected = {
        "auroc": (3 / 4, 4, NAN),                                    # pairs: 2 > 0, 2 > -2, -1 < 0, -1 > -2
        "average_precision": ((1 + 2 / 3) / 2, 4, NAN),
        "balanced_accuracy": (0.5, 4, 0.5),
        "pointing_game": (0.5, 2, NAN),
        "box_hit_rate": (2 / 4, 2, 0.3),
        "false_alarm_rate": (0.5, 2, 0.3),
        "dice": (0.4, 2, 0.3),
        "iou": (0.35, 2, 0.3),
    }  # fmt: skip
    for metric, (value, n, threshold) in expected.items():
        row = pick(metrics, metric)
        assert (row["value"], row["n"], row["undefined"]) == (pytest.approx(value), n, 4 - n)
        assert row["threshold"] == pytest.approx(threshold, nan_ok=True)
        macro = pick(metrics, metric, "macro")
        pd.testing.assert_series_equal(
            macro[["value", "low", "high", "n"]], row[["value", "low", "high", "n"]], check_names=False
        )
    for task, values, n in [("classification", (0.5, 0.5), 2), ("segmentation", (0.45, 0.95), 2)]:
        for metric, value in zip(("sensitivity", "specificity"), values, strict=True):
            row = pick(metrics, metric, task=task)
            assert (row["value"], row["n"]) == (pytest.approx(value), n)


def test_the_table_is_tidy():
    metrics = summarise(random_cases(), exclusive=False, draws=10)
    assert tuple(metrics.columns) == METRIC_COLUMNS
    assert not metrics.duplicated(["task", "metric", "class", "method"]).any()
    assert set(metrics["task"]) == {"classification", "localisation", "segmentation"}
    assert set(metrics["class"]) == {"mass", "ring", "macro", "any"}
    assert (metrics["n"] + metrics["undefined"] == 60).all()
    defined = metrics[metrics["value"].notna()]
    assert (defined["n"] > 0).all()
    assert ((defined["low"] <= defined["high"]) | defined["low"].isna()).all()


def test_controls_have_no_classification_rows():
    metrics = summarise(random_cases(), exclusive=False, draws=10)
    assert set(metrics.loc[metrics["task"] == "classification", "method"]) == {"cam"}
    assert set(metrics.loc[metrics["task"] == "segmentation", "method"]) == {"cam", "random_map", "mean_mask"}


def test_values_equal_scikit_learn_and_pandas():
    frame = random_cases(seed=1)
    metrics = summarise(frame, exclusive=False, draws=5)
    for name, own in frame[frame["method"] == "cam"].groupby("class"):
        label, guess = own["label"], own["positive"]
        assert pick(metrics, "auroc", name)["value"] == pytest.approx(oracle.roc_auc_score(label, own["logit"]))
        assert pick(metrics, "average_precision", name)["value"] == pytest.approx(
            oracle.average_precision_score(label, own["logit"])
        )
        assert pick(metrics, "balanced_accuracy", name)["value"] == pytest.approx(
            oracle.balanced_accuracy_score(label, guess)
        )
        assert pick(metrics, "sensitivity", name, task="classification")["value"] == pytest.approx(
            oracle.recall_score(label, guess)
        )
    for (method, name), rows in frame.groupby(["method", "class"]):
        for metric, column in [("dice", "dice"), ("pointing_game", "pointing"), ("false_alarm_rate", "false_alarm")]:
            row = pick(metrics, metric, name, method)
            assert (row["value"], row["n"]) == (pytest.approx(rows[column].mean()), rows[column].count())
        hits = rows["boxes_hit"].sum() / rows["truth_boxes"].sum()
        assert pick(metrics, "box_hit_rate", name, method)["value"] == pytest.approx(hits)
    for metric in ("auroc", "dice", "box_hit_rate"):
        values = [pick(metrics, metric, name)["value"] for name in ("mass", "ring")]
        assert pick(metrics, metric, "macro")["value"] == pytest.approx(np.mean(values))


def test_any_counts_images_once():
    rows = [
        {"image": image, "patient": image, "class": name, "label": 0, "healthy": 1, "false_alarm": alarm}
        for image, alarms in {"a": (1, 1), "b": (0, 1), "c": (0, 0)}.items()
        for name, alarm in zip(("mass", "ring"), alarms, strict=True)
    ]
    metrics = summarise(cases(rows), exclusive=False, draws=10)
    values = {name: pick(metrics, "false_alarm_rate", name)["value"] for name in ("mass", "ring", "macro", "any")}
    assert values == pytest.approx({"mass": 1 / 3, "ring": 2 / 3, "macro": 1 / 2, "any": 2 / 3})
    assert pick(metrics, "false_alarm_rate", "any")["n"] == 3


# ---- undefined ---------------------------------------------------------------------------------------------------


def test_undefined_is_nan_and_counted():
    frame = small()
    frame.loc[frame["image"] == "d", ["label", "healthy", "false_alarm"]] = NAN, 0, NAN
    metrics = summarise(frame, exclusive=False, draws=10)
    row = pick(metrics, "auroc")
    assert (row["value"], row["n"], row["undefined"]) == (0.5, 3, 1)
    assert pick(metrics, "false_alarm_rate")[["value", "n", "undefined"]].tolist() == [1, 1, 3]


def test_nothing_measured_is_nan_with_n_zero():
    frame = small()
    frame[[*LOCAL, "boxes_hit"]] = NAN
    frame["truth_boxes"] = 0
    metrics = summarise(frame, exclusive=False, draws=10)
    for metric in ("dice", "pointing_game", "box_hit_rate"):
        for label in ("mass", "macro"):
            row = pick(metrics, metric, label)
            assert row[["value", "low", "high"]].isna().all()
            assert (row["n"], row["undefined"]) == (0, 4)


def test_one_class_only_has_no_auroc():
    frame = small()[lambda f: f["label"] == 1]
    row = pick(summarise(frame, exclusive=False, draws=10), "auroc")
    assert math.isnan(row["value"])
    assert (row["n"], row["undefined"]) == (0, 2)


def test_macro_is_over_defined_classes():
    frame = random_cases()
    frame.loc[frame["class"] == "ring", [*LOCAL, "boxes_hit"]] = NAN
    metrics = summarise(frame, exclusive=False, draws=50)
    macro, mass = pick(metrics, "dice", "macro"), pick(metrics, "dice", "mass")
    assert macro[["value", "low", "high", "n"]].tolist() == mass[["value", "low", "high", "n"]].tolist()


def test_soft_labels_are_neither_positive_nor_negative():
    frame = random_cases()
    soft = frame.copy()
    soft.loc[soft["image"] == "i0", "label"] = 0.6
    row = pick(summarise(soft, exclusive=False, draws=5), "auroc")
    expected = pick(summarise(frame[frame["image"] != "i0"], exclusive=False, draws=5), "auroc")
    assert (row["value"], row["n"]) == (pytest.approx(expected["value"]), 59)


def test_one_patient_has_no_interval():
    frame = small().assign(patient="p")
    row = pick(summarise(frame, exclusive=False, draws=10), "dice")
    assert row["value"] == pytest.approx(0.4)
    assert row[["low", "high"]].isna().all()
    assert pick(summarise(small(), exclusive=False, draws=10), "dice")[["low", "high"]].isna().all()  # both are of p


# ---- exclusive ---------------------------------------------------------------------------------------------------


def exclusive_cases(truths, scores, level=0.5):
    """``truths``: index of the positive class or None; ``scores``: a probability per class."""
    rows = []
    for i, (truth, values) in enumerate(zip(truths, scores, strict=True)):
        for k, p in enumerate(values):
            rows.append({"image": f"i{i}", "patient": f"p{i}", "class": f"c{k}", "label": float(k == truth),
                         "logit": math.log(p / (1 - p)), "probability": p, "positive": float(p >= level),
                         "decision_threshold": level})  # fmt: skip
    return cases(rows)


def accuracy(frame):
    metrics = summarise(frame, exclusive=True, draws=10)
    assert (metrics["metric"] == "balanced_accuracy").sum() == 1
    return pick(metrics, "balanced_accuracy", "macro")["value"]


def test_exclusive_balanced_accuracy_is_the_recall_of_the_arg_max():
    truths = [0, 0, 0, 1, 2]
    scores = [(0.9, 0.1, 0.1), (0.3, 0.2, 0.1), (0.3, 0.4, 0.1), (0.1, 0.2, 0.3), (0.1, 0.1, 0.2)]
    assert accuracy(exclusive_cases(truths, scores)) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_images_without_any_class_are_a_group_of_their_own():
    truths = [0, 0, 1, None, None, None]
    scores = [(0.9, 0.1), (0.4, 0.1), (0.1, 0.6), (0.2, 0.3), (0.2, 0.7), (0.1, 0.2)]
    # the second reaches no threshold: called negative, wrong now, though the arg-max was right
    assert accuracy(exclusive_cases(truths, scores)) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_exclusive_accuracy_equals_scikit_learn():
    rng = np.random.default_rng(0)
    truths, scores = rng.integers(0, 4, size=80), rng.uniform(0.01, 0.99, size=(80, 4))
    frame = exclusive_cases(truths, scores)
    assert accuracy(frame) == pytest.approx(oracle.balanced_accuracy_score(truths, scores.argmax(1)))


def test_unknown_labels_are_left_out_of_exclusive_accuracy():
    frame = exclusive_cases([0, 1, 1], [(0.9, 0.1), (0.1, 0.9), (0.9, 0.1)])
    frame.loc[(frame["image"] == "i2") & (frame["class"] == "c0"), "label"] = NAN
    row = pick(summarise(frame, exclusive=True, draws=10), "balanced_accuracy", "macro")
    assert row[["value", "n", "undefined"]].tolist() == [1, 2, 1]


# ---- intervals ---------------------------------------------------------------------------------------------------


def slow_interval(frame, statistic, draws, seed):
    """The images of every draw written out again and again, and the statistic taken from the long table."""
    images = frame.drop_duplicates("image")
    weights = patient_weights(images["patient"].to_numpy(str), np.random.default_rng(seed), draws)
    values = []
    for weight in weights:
        often = dict(zip(images["image"], weight, strict=True))
        values.append(statistic(frame.loc[frame.index.repeat(frame["image"].map(often))]))
    return np.nanquantile(values, [0.025, 0.975])


@pytest.mark.parametrize(
    ("metric", "statistic"),
    [
        ("auroc", lambda f: oracle.roc_auc_score(f["label"], f["logit"])),
        ("average_precision", lambda f: oracle.average_precision_score(f["label"], f["logit"])),
        ("balanced_accuracy", lambda f: oracle.balanced_accuracy_score(f["label"], f["positive"])),
        ("dice", lambda f: f["dice"].mean()),
        ("box_hit_rate", lambda f: f["boxes_hit"].sum() / f["truth_boxes"].sum()),
        ("false_alarm_rate", lambda f: f["false_alarm"].mean()),
    ],
)
def test_intervals_equal_the_slow_bootstrap(metric, statistic):
    frame = random_cases(seed=2)
    metrics = summarise(frame, exclusive=False, draws=60, seed=3)
    own = frame[frame["method"] == "cam"]
    expected = slow_interval(own[own["class"] == "ring"], statistic, 60, 3)
    assert pick(metrics, metric, "ring")[["low", "high"]].tolist() == pytest.approx(expected.tolist())

    def macro(rows):
        return np.mean([statistic(part) for _, part in rows.groupby("class")])

    expected = slow_interval(own, macro, 60, 3)
    assert pick(metrics, metric, "macro")[["low", "high"]].tolist() == pytest.approx(expected.tolist())


def doubled(frame):
    """Every image listed twice, as two files of the same patient."""
    return pd.concat([frame, frame.assign(image=frame["image"] + "-again")], ignore_index=True)


def test_listing_every_image_twice_leaves_the_patient_interval_unchanged():
    frame = random_cases(images=80, seed=4)
    once, twice = (summarise(f, exclusive=False, draws=300) for f in (frame, doubled(frame)))
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(once[column], twice[column], rtol=1e-12)
    assert (twice["n"] == 2 * once["n"]).all()


def test_an_interval_over_images_would_shrink():
    frame = random_cases(images=300, seed=5)
    alone = frame.assign(patient=frame["image"])
    images = doubled(frame)
    images = images.assign(patient=images["image"])
    widths = []
    for table in (alone, images):
        row = pick(summarise(table, exclusive=False, draws=1000), "dice")
        widths.append(row["high"] - row["low"])
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(2), rel=0.1)


def test_all_methods_see_the_same_draws():
    frame = small()
    frame = pd.concat([frame, frame.assign(method="mean_mask", logit=NAN, positive=NAN)], ignore_index=True)
    frame.loc[frame["image"] == "b", "patient"] = "s"
    metrics = summarise(frame, exclusive=False, draws=40)
    for metric in ("dice", "false_alarm_rate", "box_hit_rate"):
        ours, theirs = pick(metrics, metric), pick(metrics, metric, method="mean_mask")
        assert ours[["value", "low", "high"]].tolist() == theirs[["value", "low", "high"]].tolist()


def test_seed_decides():
    frame = random_cases()
    first = summarise(frame, exclusive=False, draws=30, seed=1)
    pd.testing.assert_frame_equal(first, summarise(frame, exclusive=False, draws=30, seed=1))
    other = summarise(frame, exclusive=False, draws=30, seed=2)
    assert (first["value"].dropna() == other["value"].dropna()).all()
    assert not np.array_equal(first["low"], other["low"], equal_nan=True)


def test_names_of_patients_do_not_matter():
    """Digests are keyed anew in every run; the same seed must still give the same interval."""
    frame = random_cases()
    renamed = frame.assign(patient=[name[::-1] + "x" for name in frame["patient"]])
    pd.testing.assert_frame_equal(
        summarise(frame, exclusive=False, draws=30), summarise(renamed, exclusive=False, draws=30)
    )


# ---- the rest ----------------------------------------------------------------------------------------------------


def test_from_the_file_alone(tmp_path):
    frame = random_cases()
    again = read_cases(write_cases(tmp_path / "cases.csv", frame))
    pd.testing.assert_frame_equal(
        summarise(frame, exclusive=False, draws=30), summarise(again, exclusive=False, draws=30)
    )


def test_probabilities_rank_where_there_are_no_logits():
    frame = random_cases()
    bare = summarise(frame.assign(logit=NAN), exclusive=False, draws=5)
    full = summarise(frame, exclusive=False, draws=5)
    assert pick(bare, "auroc")["value"] == pytest.approx(pick(full, "auroc")["value"])


def test_best_control():
    rows = [
        ("dice", "cam", 0.9),
        ("dice", "random_map", 0.1),
        ("dice", "mean_mask", 0.2),
        ("dice", "centre_prior", NAN),
    ]
    rows += [("false_alarm_rate", "random_map", 1.0), ("false_alarm_rate", "mean_mask", 0.3), ("iou", "cam", 0.5)]
    table = pd.DataFrame(rows, columns=["metric", "method", "value"]).assign(**{"class": "macro"})
    table.index = [5] * len(table)
    assert best_control(table, "dice")["method"] == "mean_mask"
    assert best_control(table, "false_alarm_rate")["method"] == "mean_mask"
    assert best_control(table, "iou") is None
    assert best_control(table, "dice", "mass") is None


@pytest.mark.parametrize("metric", ["afp@0.5", "iobb_afp@0.1", "hd95", "assd", "brier", "ece"])
def test_the_best_control_of_a_distance_or_an_error_is_the_lowest(metric):
    table = pd.DataFrame({"metric": metric, "class": "macro", "method": ["random_map", "mean_mask"], "value": [2.0, 1]})
    assert best_control(table, metric)["method"] == "mean_mask"


def test_bounds_and_readers_are_neither_methods_nor_something_to_beat():
    frame = small()
    marks = [frame.assign(method=name, logit=NAN) for name in ("resolution_ceiling", "reader:A")]
    frame = pd.concat([*marks, frame], ignore_index=True)
    metrics = summarise(frame, exclusive=False, draws=5)
    assert set(metrics.loc[metrics["task"] == "classification", "method"]) == {"cam"}
    assert pick(metrics, "dice", method="reader:A")["value"] == pytest.approx(0.4)
    assert own_method(frame) == "cam"
    assert best_control(metrics, "dice") is None


def test_tables_share_one_grid():
    frame = random_cases(images=5)
    grid = grid_of(frame)
    part = frame[(frame["image"] == "i3") & (frame["method"] == "cam")].sample(frac=1, random_state=0)
    (table,) = case_tables(part, ("label",), grid=grid)
    assert table.column["label"].shape == (5, 2)
    assert np.isnan(np.delete(table.column["label"], 3, axis=0)).all()
    for k, name in enumerate(grid.classes):
        assert table.column["label"][3, k] == part.loc[part["class"] == name, "label"].item()
    for column in ("image", "class"):
        with pytest.raises(RunError, match=f"{column} 'other' is not in these cases"):
            case_tables(part.assign(**{column: "other"}), ("label",), grid=grid)


def test_the_first_row_of_the_draws_is_everybody_once():
    weights, owner = patient_draws(small(), 30, 0)
    assert weights.shape == (31, 4)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()  # both are of p
    assert owner.tolist() == [0, 0, 1, 2]


def test_curves_hold_the_numbers_of_the_plots():
    frame = random_cases()
    points, metrics = curves(frame), summarise(frame, exclusive=False, draws=5)
    for name in ("mass", "ring"):
        area = np.trapezoid(points[f"roc/{name}/tpr"], points[f"roc/{name}/fpr"])
        assert area == pytest.approx(pick(metrics, "auroc", name)["value"])
        steps = points[f"pr/{name}/precision"][1:] * np.diff(points[f"pr/{name}/recall"])
        assert steps.sum() == pytest.approx(pick(metrics, "average_precision", name)["value"])
    assert set(curves(frame[frame["label"] == 1])) == {
        "pr/mass/recall",
        "pr/mass/precision",
        "pr/ring/recall",
        "pr/ring/precision",
    }
    assert curves(frame[frame["label"] == 0]) == {}


def test_curves_survive_the_disk(tmp_path):
    points = curves(random_cases())
    np.savez_compressed(tmp_path / "curves.npz", **points)
    with np.load(tmp_path / "curves.npz", allow_pickle=False) as again:
        assert set(again.files) == set(points)
        np.testing.assert_array_equal(again["roc/mass/fpr"], points["roc/mass/fpr"])


def test_the_map_method_is_the_first_that_is_no_control():
    assert own_method(pd.DataFrame({"method": ["mean_mask", "gradcam", "cam"]})) == "gradcam"
    with pytest.raises(RunError, match="no row of a map method"):
        own_method(pd.DataFrame({"method": ["mean_mask"]}))
