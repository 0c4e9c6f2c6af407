"""Rows of cases.csv: every cell by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lesioncam.errors import GeometryError, RunError
from lesioncam.evaluation.cases import COLUMNS, Truth, case_rows, read_cases, write_cases
from lesioncam.evaluation.controls import ControlMap
from lesioncam.geometry import Geometry
from lesioncam.segmentation.mask import segment
from lesioncam.types import Box, Calibration, CaseResult, Heatmap, Threshold

NAN = math.nan
SHAPE = (8, 10)


def result(*maps, threshold=0.5):
    """A model whose maps have the image's own size, so that each pixel is known."""
    raw = np.stack([np.asarray(m, np.float32) for m in maps])
    classes = ("mass", "ring")[: len(raw)]
    geometry = Geometry.letterbox(raw.shape[1:], raw.shape[1:])
    heatmap = Heatmap(raw, classes, "cam", "head", geometry, Calibration.of_classifier(len(raw)))
    logits = np.linspace(-1, 1, len(raw)).astype(np.float32)
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    decisions = tuple(Threshold(0.6, "val") for _ in raw)
    cut = segment(heatmap, [Threshold(threshold, "val")] * len(raw))
    return CaseResult("a", "a.png", classes, logits, probabilities, decisions, heatmap, cut)


def spot(*places, hot=3.0, cold=-3.0, shape=SHAPE):
    out = np.full(shape, cold)
    for place in places:
        out[place] = hot
    return out


def mask(*places, shape=SHAPE):
    out = np.zeros(shape, bool)
    for place in places:
        out[place] = True
    return out


def truth(states=(1, 0), labels=None, **kwargs):
    return Truth(states, states if labels is None else labels, "d1", "val", **kwargs)


CENTRE = np.s_[2:4, 3:6]  # 3 wide, 2 high


def test_every_column_of_a_found_lesion():
    maps = spot(np.s_[2:4, 3:5], np.s_[7, 9]), spot()  # 4 of 6 pixels, and 1 astray
    first, second = case_rows(result(*maps), truth(masks={"mass": mask(CENTRE)}))
    assert set(first) == set(second) == set(COLUMNS)
    p = float(Calibration.of_classifier(1).probability(np.float32([[3.0]]))[0, 0])
    expected = {
        "image": "a", "patient": "d1", "split": "val", "class": "mass", "method": "cam", "state": 1, "label": 1,
        "logit": -1.0, "positive": 0, "decision_threshold": 0.6, "healthy": 0,
        "map_threshold": 0.5, "map_source": "val", "map_max": p, "area": 5, "has_mask": 1, "truth_area": 6,
        "dice": 8 / 11, "iou": 4 / 7, "sensitivity": 4 / 6, "specificity": 73 / 74, "pointing": 1,
        "truth_boxes": 1, "boxes_hit": 1,
    }  # fmt: skip
    assert {key: first[key] for key in expected} == pytest.approx(expected)
    assert json.loads(first["boxes"]) == [[3, 2, 5, 4], [9, 7, 10, 8]]
    assert first["probability"] == pytest.approx(1 / (1 + math.e))
    assert math.isnan(first["false_alarm"])
    assert (second["class"], second["label"], second["positive"], second["area"]) == ("ring", 0, 1, 0)
    assert (second["has_mask"], second["truth_boxes"], second["boxes"]) == (0, 0, "[]")
    undefined = ("truth_area", "dice", "iou", "sensitivity", "specificity", "pointing", "boxes_hit", "false_alarm")
    assert all(math.isnan(second[key]) for key in undefined)


def test_percentile_of_the_map():
    values = np.arange(100.0).reshape(10, 10) / 50 - 1
    (row,) = case_rows(result(values), truth([0]))
    logits = np.float32([98 / 50 - 1, 99 / 50 - 1])  # ranks 98 and 99 of 0 ... 99
    p = 1 / (1 + np.exp(-logits))
    assert row["map_p99"] == pytest.approx(p[0] + 0.01 * (p[1] - p[0]), abs=1e-6)


def test_a_missed_lesion_counts_zero_and_is_not_gated_by_the_score():
    (row,) = case_rows(result(spot()), truth([1], masks={"mass": mask(CENTRE)}))
    assert (row["dice"], row["iou"], row["sensitivity"], row["boxes_hit"], row["area"]) == (0, 0, 0, 0, 0)
    (row,) = case_rows(result(spot(CENTRE)), truth([1], masks={"mass": mask(CENTRE)}))
    assert (row["positive"], row["dice"]) == (0, 1)  # score below, mask right


def test_an_empty_truth_mask_is_undefined_not_a_hit():
    (row,) = case_rows(result(spot(CENTRE)), truth([0], masks={"mass": mask()}))
    assert (row["has_mask"], row["truth_area"], row["truth_boxes"], row["false_alarm"]) == (1, 0, 0, 1)
    assert all(math.isnan(row[key]) for key in ("dice", "iou", "sensitivity", "specificity", "pointing", "boxes_hit"))


@pytest.mark.parametrize(
    ("labels", "healthy"), [((0, 0), 1), ((0, 1), 0), ((0, NAN), 0), ((0, 0.5), 0), ((NAN, NAN), 0)]
)
def test_healthy_means_every_class_is_known_to_be_negative(labels, healthy):
    hot, cold = case_rows(result(spot(CENTRE), spot()), truth(labels))
    assert hot["healthy"] == cold["healthy"] == healthy
    expected = (1, 0) if healthy else (NAN, NAN)
    assert (hot["false_alarm"], cold["false_alarm"]) == pytest.approx(expected, nan_ok=True)


def test_state_and_label_are_two_things():
    first, second = case_rows(result(spot(), spot()), truth((-1, NAN), labels=(0.7, NAN)))
    assert (first["state"], first["label"]) == (-1, 0.7)
    assert math.isnan(second["state"])
    assert math.isnan(second["label"])


def pointing(values, **kwargs):
    (row,) = case_rows(result(values), truth([1], **kwargs))
    return row["pointing"]


def test_pointing_game():
    inside = {"mass": mask(CENTRE)}
    assert pointing(spot(np.s_[3, 5]), masks=inside) == 1
    assert pointing(spot(np.s_[3, 6]), masks=inside) == 0
    assert pointing(np.zeros(SHAPE), masks={"mass": mask(np.s_[0, 0])}) == 0  # a flat map is a miss, even at 0, 0
    assert pointing(np.full(SHAPE, NAN), masks={"mass": mask(np.s_[0, 0])}) == 0
    assert pointing(spot(np.s_[1, 1], np.s_[3, 4]), masks=inside) == 0  # of equals the first, at 1, 1
    assert pointing(spot(np.s_[3, 4], np.s_[7, 7]), masks=inside) == 1


def test_pointing_sees_differences_the_sigmoid_has_lost():
    values = spot(np.s_[0, 0], hot=40.0)
    values[3, 4] = 41.0
    assert pointing(values, masks={"mass": mask(CENTRE)}) == 1


def test_pointing_takes_any_box_where_there_is_no_mask():
    boxes = (Box("mass", (0, 0, 2, 1)), Box("mass", (3, 2, 6, 4)), Box("ring", (9, 7, 10, 8)))
    assert pointing(spot(np.s_[3, 5]), boxes=boxes) == 1
    assert pointing(spot(np.s_[0, 1]), boxes=boxes) == 1
    assert pointing(spot(np.s_[4, 5]), boxes=boxes) == 0
    assert pointing(spot(np.s_[7, 9]), boxes=boxes) == 0  # that box is of another class
    assert pointing(spot(np.s_[3, 5]), boxes=boxes, masks={"mass": mask(np.s_[0, 0])}) == 0  # the mask comes first
    assert pointing(spot(np.s_[3, 5]), boxes=boxes, masks={"mass": mask()}) == 1
    assert math.isnan(pointing(spot(np.s_[3, 5])))


def test_box_hits_need_half_an_overlap():
    boxes = [Box("mass", (3, 2, 6, 4)), Box("mass", (0, 6, 2, 8)), Box("mass", (8, 0, 10, 1))]
    values = spot(np.s_[2:4, 3:5], np.s_[6:8, 0:4], np.s_[0, 8:10])  # IoU 4/6, 4/8, 1
    (row,) = case_rows(result(values), truth([1], boxes=boxes))
    assert (row["truth_boxes"], row["boxes_hit"]) == (3, 3)
    values = spot(np.s_[2:4, 3:5], np.s_[6:8, 0:5])  # 4/6, 4/10, none
    (row,) = case_rows(result(values), truth([1], boxes=boxes))
    assert (row["truth_boxes"], row["boxes_hit"]) == (3, 1)
    assert (row["has_mask"], math.isnan(row["dice"])) == (0, True)


def test_boxes_of_the_table_come_before_those_of_the_mask():
    masks = {"mass": mask(CENTRE, np.s_[7, 0])}
    (row,) = case_rows(result(spot(CENTRE)), truth([1], masks=masks))
    assert (row["truth_boxes"], row["boxes_hit"]) == (2, 1)
    (row,) = case_rows(result(spot(CENTRE)), truth([1], masks=masks, boxes=[Box("mass", (2.5, 1.5, 6.5, 4))]))
    assert (row["truth_boxes"], row["boxes_hit"]) == (1, 1)  # 6 / 10


def control(values, thresholds=(0.5, 0.5)):
    maps = {k: np.asarray(value, np.float32) for k, value in enumerate(values)}
    return {"centre_prior": ControlMap(maps, [Threshold(t, "val") for t in thresholds])}


def test_controls_have_rows_where_truth_exists_only():
    maps = control([mask(CENTRE) * 0.9, mask(np.s_[0, 0]) * 0.9])
    model = result(spot(), spot())
    rows = case_rows(model, truth(masks={"mass": mask(CENTRE)}), maps)
    assert [(row["class"], row["method"]) for row in rows] == [
        ("mass", "cam"),
        ("mass", "centre_prior"),
        ("ring", "cam"),
    ]
    found = rows[1]
    assert set(found) == set(COLUMNS)
    assert (found["dice"], found["pointing"], found["boxes_hit"], found["state"], found["healthy"]) == (1, 1, 1, 1, 0)
    assert all(
        math.isnan(found[key]) for key in ("logit", "probability", "decision_threshold", "positive", "false_alarm")
    )
    healthy = case_rows(model, truth((0, 0)), control([mask(CENTRE) * 0.9, mask()], (0.95, 0.5)))
    assert [row["method"] for row in healthy] == ["cam", "centre_prior"] * 2
    assert [row["false_alarm"] for row in healthy] == [0, 0, 0, 0]
    assert case_rows(model, truth((0, 0)), control([mask(CENTRE) * 0.9, mask()], (0.9, 0.5)))[1]["false_alarm"] == 0
    assert case_rows(model, truth((0, 0)), control([mask(CENTRE) * 0.9, mask()], (0.8, 0.5)))[1]["false_alarm"] == 1
    assert [row["method"] for row in case_rows(model, truth((1, 0)), maps)] == ["cam", "cam"]


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(GeometryError):
        case_rows(result(spot()), truth([1], masks={"mass": mask(np.s_[0, 0], shape=(10, 8))}))


def test_volumes():
    values = spot(np.s_[1, 2:4, 2:5], shape=(3, 5, 6))
    place = {"mass": mask(np.s_[1, 2:4, 2:5], shape=(3, 5, 6))}
    (row,) = case_rows(result(values), truth([1], masks=place))
    assert (row["dice"], row["pointing"], row["boxes_hit"]) == (1, 1, 1)
    assert json.loads(row["boxes"]) == [[2, 2, 1, 5, 4, 2]]


# ---- on disk -----------------------------------------------------------------------------------------------------


def test_cells_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for name in ["007", "NA", "null", 'ä, b"c', " x "]:
        row = dict.fromkeys(COLUMNS, NAN) | {
            "image": name,
            "patient": "1e5",
            "class": "None",
            "boxes": "[[1, 2, 3, 4]]",
            "peaks": "[[0.5, 2, 1]]",
        }
        row |= {"split": "val", "method": "cam", "map_source": "val", "area": 12, "has_mask": 0, "state": -1.0}
        row |= {"logit": float(np.float32(rng.normal())), "dice": rng.random() * 1e-12, "probability": 1 / 3}
        rows.append(row)
    path = write_cases(tmp_path / "cases.csv", rows)
    again = read_cases(path)
    assert list(again.columns) == list(COLUMNS)
    for name, kind in COLUMNS.items():
        expected = [row[name] for row in rows]
        if kind == "text":
            assert again[name].tolist() == expected
        else:
            np.testing.assert_array_equal(again[name].to_numpy(), np.array(expected, dtype=float))
    assert path.read_text() == write_cases(tmp_path / "again.csv", again).read_text()
    line = dict(zip(COLUMNS, path.read_text().splitlines()[1].split(","), strict=False))
    assert (line["state"], line["label"]) == ("-1", "")  # whole numbers look whole, blanks blank


def test_rows_of_a_case_can_be_written_as_they_are(tmp_path):
    rows = case_rows(result(spot(CENTRE), spot()), truth((1, NAN), masks={"mass": mask(CENTRE)}))
    again = read_cases(write_cases(tmp_path / "cases.csv", rows))
    pd.testing.assert_frame_equal(again, pd.DataFrame(rows)[list(COLUMNS)], check_dtype=False)


@pytest.mark.parametrize("content", [None, "", "image,class\na,b\n", "\x00\x01"])
def test_missing_broken_and_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "cases.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match=r"cases\.csv"):
        read_cases(path)


def test_a_word_where_a_number_belongs(tmp_path):
    path = write_cases(tmp_path / "cases.csv", [{"image": "a", "dice": 0.25}])
    path.write_text(path.read_text().replace("0.25", "good"))
    with pytest.raises(RunError, match="good"):
        read_cases(path)
