"""Tables and maps as odd as they come, through the whole protocol: documented values and counts, and no crash."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lesioncam as lc
from lesioncam.errors import LesioncamError
from lesioncam.evaluation.cases import read_cases
from lesioncam.files import read_json
from lesioncam.options.run import make_config
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.result import Run

SIZE = (40, 48)


def picture(i):
    """An image of its own, so that none is a copy of another."""
    rng = np.random.default_rng(i)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 8), dtype=np.uint8))
    return np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def blob(row, column):
    mask = np.zeros(SIZE, dtype=bool)
    mask[row : row + 8, column : column + 10] = True
    return mask


@pytest.fixture
def made(tmp_path):
    """A folder with a table, images and another tool's maps, of rows ``(split, a, b, mask of a, map of a, score)``."""

    def make(rows, **columns):
        (tmp_path / "maps").mkdir()
        table, scores = [], []
        for i, (split, a, b, mask, drawn, score) in enumerate(rows):
            name = f"i{i}"
            Image.fromarray(picture(i)).save(tmp_path / f"{name}.png")
            if drawn is not None:
                np.savez(tmp_path / "maps" / f"{name}.npz", a=np.float32(drawn), b=np.zeros(SIZE, np.float32))
            row = {"image": f"{name}.png", "patient": f"p{i}", "split": split, "class:a": a, "class:b": b, "mask:a": ""}
            if mask is not None:
                row["mask:a"] = f"{name}_mask.png"
                Image.fromarray(np.uint8(mask) * 255).save(tmp_path / row["mask:a"])
            table.append(row | {key: values[i] for key, values in columns.items()})
            scores.append((name, score, 0.5))
        pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
        pd.DataFrame(scores, columns=["image", "a", "b"]).to_csv(tmp_path / "maps" / "scores.csv", index=False)
        return tmp_path

    return make


def measured(folder, split="test"):
    lc.evaluate_maps(folder / "maps", folder / "t.csv", folder / "out", "val", config=make_config(draws=20))
    lc.evaluate(folder / "out", split, metrics="all")
    return Run(folder / "out")


def value(run, metric, method="maps", label="a"):
    table = run.metrics("test")
    row = table[(table["metric"] == metric) & (table["class"] == label) & (table["method"] == method)]
    return row.iloc[0]


ORDINARY = [
    ("val", 1, 0, blob(4, 5), blob(4, 5) * 0.9, 0.8),
    ("val", 1, 0, blob(20, 30), blob(20, 30) * 0.8, 0.7),
    ("val", 0, 0, None, np.zeros(SIZE), 0.1),
]


def test_three_images_only(made):
    rows = [
        ("val", 1, 0, blob(4, 5), blob(4, 5) * 0.9, 0.8),
        ("test", 1, 0, blob(20, 30), blob(20, 31) * 0.9, 0.9),
        ("test", 0, 0, None, np.zeros(SIZE), 0.1),
    ]
    run = measured(made(rows))
    assert value(run, "auroc")["value"] == 1.0
    dice = value(run, "dice")
    assert (dice["value"], dice["n"]) == (pytest.approx(2 * 72 / 160), 1)
    assert dice[["low", "high"]].isna().all(), "one patient has no interval"
    assert "Dice" in run.report.read_text()


def test_no_positive_and_no_negative_are_undefined_and_counted(made):
    run = measured(made([*ORDINARY, *[("test", 1, 0, blob(4, 30), blob(4, 30), s) for s in (0.6, 0.7, 0.8)]]))
    for label in ("a", "b"):  # a has no negative, b no positive
        for metric in ("auroc", "average_precision") if label == "b" else ("auroc",):
            row = value(run, metric, label=label)
            assert np.isnan(row["value"]), (label, metric)
            assert row["n"] == 0, (label, metric)
    assert np.isnan(value(run, "dice", label="b")["value"])
    page = run.report.read_text()
    assert "undefined" in page


def test_an_empty_mask_of_a_positive_is_undefined_and_counted(made):
    rows = [
        ("test", 1, 0, np.zeros(SIZE), blob(4, 30) * 0.9, 0.9),
        ("test", 1, 0, blob(4, 30), blob(4, 30) * 0.9, 0.9),
        ("test", 0, 0, None, np.zeros(SIZE), 0.1),
    ]
    run = measured(made([*ORDINARY, *rows]))
    dice = value(run, "dice")
    assert (dice["value"], dice["n"]) == (1.0, 1)
    cases = read_cases(RunFolder(run.folder).evaluation("test") / "cases.csv")
    empty = cases[(cases["image"] == "i3") & (cases["class"] == "a") & (cases["method"] == "maps")].iloc[0]
    assert np.isnan([empty["dice"], empty["pointing"]]).all()
    assert empty["truth_area"] == 0


def test_equal_scores_are_a_coin(made):
    run = measured(made([*ORDINARY, *[("test", i % 2, 0, None, np.full(SIZE, 0.3), 0.5) for i in range(6)]]))
    assert value(run, "auroc")["value"] == 0.5
    assert value(run, "average_precision")["value"] == 0.5, "ties are one step"


def test_nan_scores_are_left_out_and_counted(made):
    scores = (0.9, np.nan, 0.2, np.nan)
    run = measured(made([*ORDINARY, *[("test", 1 - i // 2, 0, None, np.zeros(SIZE), s) for i, s in enumerate(scores)]]))
    row = value(run, "auroc")
    assert (row["value"], row["n"]) == (1.0, 2)


def test_maps_missing_of_another_size_and_not_finite(made):
    broken = np.where(blob(0, 0), np.nan, blob(20, 30) * 0.9)
    coarse = np.zeros((10, 12))
    coarse[5:7, 8:10] = 0.9  # rows 20 to 28, columns 32 to 40
    rows = [
        ("test", 1, 0, blob(20, 30), None, 0.9),
        ("test", 1, 0, blob(20, 30), broken, 0.9),
        ("test", 1, 0, blob(20, 30), coarse, 0.9),
        ("test", 0, 0, None, np.zeros(SIZE), 0.1),
    ]
    run = measured(made([*ORDINARY, *rows]))
    facts = read_json(RunFolder(run.folder).evaluation("test") / "summary.json")
    assert facts["missing_maps"] == 2, "both classes of one image"
    assert facts["undefined_maps"] == 1
    cases = read_cases(RunFolder(run.folder).evaluation("test") / "cases.csv")
    own = cases[(cases["class"] == "a") & (cases["method"] == "maps")].set_index("image")
    assert own["dice"].round(2).tolist()[:2] == [0.0, 1.0]
    assert own.loc["i5", "dice"] > 0.7
    assert own["pointing"].tolist()[:3] == [0, 1, 1]


@pytest.mark.parametrize(
    ("box", "said"),
    [([30, 10, 80, 20], "lies outside the image"), ([20, 10, 10, 20], "inverted"), ([5, 5, 5, 9], "inverted")],
)
def test_a_box_outside_its_image_or_inverted_is_named(made, box, said):
    boxes = [""] * 3 + [json.dumps([{"class": "a", "box": box}])]
    folder = made([*ORDINARY, ("test", 1, 0, None, np.zeros(SIZE), 0.9)], boxes=boxes)
    with pytest.raises(LesioncamError, match=said):
        measured(folder)
