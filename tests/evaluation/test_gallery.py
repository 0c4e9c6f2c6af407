"""The gallery: failures first, by the printed rule, each image once."""

import math

import numpy as np
import pandas as pd
import pytest

from lesioncam.errors import RunError
from lesioncam.evaluation.gallery import GROUPS, RULE, pick_gallery

NAN = math.nan


def row(image, label, probability, dice=NAN, area=0, map_max=0.1, healthy=0, label_name="mass", method="cam"):
    return {
        "image": image, "class": label_name, "method": method, "label": label, "probability": probability, "dice": dice,
        "positive": float(probability >= 0.5), "decision_threshold": 0.5, "area": area, "map_max": map_max,
        "healthy": healthy,
    }  # fmt: skip


def picked(rows, per_group=4):
    found = pick_gallery(pd.DataFrame(rows), per_group)
    return {group: found.loc[found["group"] == group, "image"].tolist() for group in GROUPS}


ROWS = [
    row("far", 1, 0.1, 0.8),
    row("near", 1, 0.4, 0.7),
    row("astray", 1, 0.9, 0.0),
    row("d1", 1, 0.9, 0.1),
    row("d2", 1, 0.9, 0.2),
    row("d5", 1, 0.9, 0.5),
    row("d6", 1, 0.9, 0.6),
    row("d9", 1, 0.9, 0.9),
    row("ill", 0, 0.95, area=5),
    row("hot", 0, 0.2, area=7, map_max=0.9, healthy=1),
    row("loud", 0, 0.6, map_max=0.5, healthy=1),
    row("h1", 0, 0.1, map_max=0.1, healthy=1),
    row("h2", 0, 0.1, map_max=0.3, healthy=1),
    row("h3", 0, 0.1, map_max=0.2, healthy=1),
    row("unknown", NAN, 0.99, area=9),
]


def test_groups_by_the_rule():
    assert picked(ROWS, per_group=1) == {
        "missed": ["far"],
        "false_alarm": ["loud"],  # healthy before sick, then the highest score
        "worst": ["astray"],
        "median": ["d5"],  # median of .0 .1 .2 .5 .6 .7 .8 .9 has d5 and d6 in the middle: the lower
        "best": ["d9"],
        "healthy": ["h2"],  # median of .9 .5 .1 .3 .2
    }
    assert picked(ROWS, per_group=3) == {
        "missed": ["far", "near", "astray"],
        "false_alarm": ["loud", "hot", "ill"],
        "worst": ["d1", "d2", "d5"],
        "median": ["d6"],
        "best": ["d9"],
        "healthy": ["h2", "h3", "h1"],
    }


def test_each_image_once_and_failures_first():
    found = pick_gallery(pd.DataFrame(ROWS))
    assert found["image"].is_unique
    assert found["group"].drop_duplicates().tolist() == [group for group in GROUPS if group in set(found["group"])]
    assert found.columns.tolist() == ["image", "class", "group", "reason"]


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    for _ in range(5):
        shuffled = [ROWS[i] for i in rng.permutation(len(ROWS))]
        pd.testing.assert_frame_equal(pick_gallery(pd.DataFrame(shuffled)), pick_gallery(pd.DataFrame(ROWS)))


def test_reasons_are_numbers():
    reasons = pick_gallery(pd.DataFrame(ROWS)).set_index("image")["reason"]
    assert reasons["far"] == "score 0.100 below 0.500"
    assert reasons["astray"] == "Dice 0"
    assert reasons["hot"] == "mask of 7 pixels"
    assert reasons["ill"] == "score 0.950 reaches 0.500; mask of 5 pixels"
    assert reasons["d1"] == "Dice 0.100"
    assert reasons["h2"] == "hottest 0.300"


def test_without_masks_the_score_ranks():
    rows = [row(f"p{i}", 1, 0.5 + i / 10) for i in range(5)]
    assert picked(rows, per_group=1) == {
        "missed": [], "false_alarm": [], "worst": ["p0"], "median": ["p2"], "best": ["p4"], "healthy": []
    }  # fmt: skip
    assert pick_gallery(pd.DataFrame(rows))["reason"].iloc[0] == "score 0.500"


def test_several_classes_show_the_one_that_matters_and_controls_are_left_out():
    rows = [
        row("a", 0, 0.1, map_max=0.3, healthy=1, label_name="mass"),
        row("a", 0, 0.1, map_max=0.4, healthy=1, label_name="ring"),
        row("b", 1, 0.9, 0.5, label_name="mass"),
        row("b", 0, 0.1, label_name="ring"),
        row("c", 1, 0.9, 0.0, label_name="mass", method="mean_mask"),
    ]
    found = pick_gallery(pd.DataFrame(rows)).set_index("image")
    assert found.loc["a", ["class", "group"]].tolist() == ["ring", "healthy"]
    assert found.loc["b", ["class", "group"]].tolist() == ["mass", "worst"]
    assert "c" not in found.index


def test_no_map_method_is_said():
    with pytest.raises(RunError, match="no row"):
        pick_gallery(pd.DataFrame([row("c", 1, 0.9, method="mean_mask")]))


def test_the_rule_names_every_group():
    for group in GROUPS:
        assert group.replace("_", " ") in RULE.lower()
