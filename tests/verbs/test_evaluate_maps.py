"""Another tool's maps through the whole protocol: our own maps, given as files, must get our own numbers."""

import numpy as np
import pandas as pd
import pytest

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.errors import LesioncamError, OptionError, RunError
from lesioncam.evaluation.cases import read_cases
from lesioncam.files import read_json
from lesioncam.inference.look import analyse
from lesioncam.verbs.result import Run


@pytest.fixture(scope="module")
def maps(toy_run, tmp_path_factory):
    """Probability maps of the toy run as another tool would leave them, for val and test, with image scores."""
    folder, model = tmp_path_factory.mktemp("maps"), lc.load(toy_run)
    table, scores = lc.read_table(toy_run / "table.csv"), []
    for record in [*table.split("val").records(), *table.split("test").records()]:
        result = analyse(model, record.image, name=record.id)
        np.save(folder / f"{record.id}.npy", result.heatmap.probability())
        scores += [(record.id, name, p) for name, p in zip(result.classes, result.probabilities, strict=True)]
    pd.DataFrame(scores, columns=["image", "class", "score"]).to_csv(folder / "scores.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def theirs(maps, toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("theirs") / "theirs"
    words = ["evaluate", str(maps), str(toy), "-o", str(out), "--columns", "image=file", "--name", "theirs"]
    assert main([*words, "--split", "val"]) == 0
    assert main([*words, "--split", "test"]) == 0
    return out


def own(run, split):
    cases = read_cases(run / "evaluate" / split / "cases.csv")
    return cases[cases["method"].isin(["cam", "theirs"])].set_index(["image", "class"]).sort_index()


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_same_maps_get_the_same_numbers(toy_run, theirs, split):
    ours, given = own(toy_run, split), own(theirs, split)
    for column in ("dice", "iou", "area", "pointing", "boxes_hit", "false_alarm", "label", "truth_area"):
        np.testing.assert_array_equal(given[column], ours[column], err_msg=column)
    assert given["boxes"].tolist() == ours["boxes"].tolist()
    np.testing.assert_allclose(given["map_threshold"], ours["map_threshold"])
    metrics = [Run(run).metrics(split).query("method in ['cam', 'theirs']") for run in (toy_run, theirs)]
    for name in ("auroc", "dice", "pointing_game", "false_alarm_rate"):
        values = [table[(table["metric"] == name) & (table["class"] == "macro")]["value"].item() for table in metrics]
        assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_the_controls_that_need_no_model_are_the_same(toy_run, theirs):
    ours, given = (Run(run).metrics("test").set_index(["metric", "class", "method"]) for run in (toy_run, theirs))
    for control in ("centre_prior", "mean_mask", "uniform_map", "brightness_map"):
        assert given.loc[("dice", "macro", control), "value"] == pytest.approx(
            ours.loc[("dice", "macro", control), "value"], abs=1e-9
        )
    assert "few_shot" not in given.index.get_level_values("method")


def test_it_has_a_report_and_a_ledger(theirs, toy):
    assert "theirs" in (theirs / "report.html").read_text()
    ledger = read_json(toy.with_name("labels.csv.ledger.json"))["openings"]
    before = len(ledger)
    lc.evaluate(theirs, "test")
    after = read_json(toy.with_name("labels.csv.ledger.json"))["openings"]
    assert len(after) == before + 1
    assert len({one["configuration"] for one in after}) >= 2, "ours and theirs are two configurations"


def test_missing_maps_are_misses_and_counted(maps, toy, tmp_path):
    table = lc.read_table(toy, columns={"image": "file"})
    few = tmp_path / "maps"
    few.mkdir()
    for path in maps.iterdir():
        (few / path.name).write_bytes(path.read_bytes())
    gone = table.split("test").frame["id"][0]  # shows a dot
    (few / f"{gone}.npy").unlink()
    config = lc.RunConfig(table=lc.TableConfig(columns={"image": "file"}))
    lc.evaluate_maps(few, toy, tmp_path / "out", "test", config=config)
    rows = own_rows(tmp_path / "out", gone)
    assert rows.loc["dot", ["dice", "pointing", "area"]].tolist() == [0, 0, 0]
    facts = read_json(tmp_path / "out" / "evaluate" / "test" / "summary.json")
    assert (facts["missing_maps"], facts["foreign"]) == (2, True)
    metrics = Run(tmp_path / "out").metrics("test").query("metric == 'dice' and `class` == 'dot' and method == 'maps'")
    assert metrics["n"].item() == 12, "no image is left out"


def own_rows(run, image):
    cases = read_cases(run / "evaluate" / "test" / "cases.csv")
    return cases[(cases["image"] == image) & (cases["method"] == "maps")].set_index("class")


def test_without_scores_there_is_no_classification(maps, toy, tmp_path):
    bare = tmp_path / "maps"
    bare.mkdir()
    for path in maps.glob("*.npy"):
        np.save(bare / path.name, (np.load(path) * 40 - 17)[:, ::2, ::2])  # another scale, another size
    config = lc.RunConfig(table=lc.TableConfig(columns={"image": "file"}))
    metrics = lc.evaluate_maps(bare, toy, tmp_path / "out", "val", config=config)
    assert metrics[metrics["metric"] == "auroc"]["value"].isna().all()
    macro = metrics[(metrics["metric"] == "dice") & (metrics["class"] == "macro")].set_index("method")["value"]
    assert macro["maps"] > macro["mean_mask"]


def test_what_cannot_be(maps, toy, tmp_path, toy_run):
    config = lc.RunConfig(table=lc.TableConfig(columns={"image": "file"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no map"):
        lc.evaluate_maps(tmp_path / "empty", toy, tmp_path / "out", config=config, overwrite=True)
    np.save(tmp_path / "empty" / "stranger.npy", np.zeros((2, 4, 4)))
    with pytest.raises(RunError, match="no map of any image of this table"):
        lc.evaluate_maps(tmp_path / "empty", toy, tmp_path / "out", config=config, overwrite=True)
    with pytest.raises(RunError, match="no folder of maps"):
        lc.evaluate_maps(tmp_path / "none", toy, tmp_path / "other", config=config)
    with pytest.raises(OptionError, match="no such column"):
        lc.evaluate(toy_run, "val", by=("sex",))
    with pytest.raises(OptionError, match="random weights|weights can be randomised"):
        lc.evaluate_maps(maps, toy, tmp_path / "third", config=config, sanity=True)
    assert main(["evaluate", str(maps), str(toy)]) == 2
    assert main(["evaluate", str(toy_run), "-o", str(tmp_path / "x")]) == 2
    with pytest.raises(LesioncamError):
        lc.evaluate(tmp_path / "none")
