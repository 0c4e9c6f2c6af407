"""Classes that exclude each other and grades, from the table to the report: everything downstream agrees."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import cohen_kappa_score

import lesioncam as lc
from lesioncam.errors import LesioncamError, TableError
from lesioncam.evaluation.cases import read_cases
from lesioncam.runs.folder import RunFolder

KINDS = {("0", "0"): "none", ("1", "0"): "dot", ("0", "1"): "bar", ("1", "1"): "both"}


@pytest.fixture(scope="module")
def kinds(toy):
    """The toy's images, each of one kind (a blank one among them), and graded by the number of things in it."""
    frame = pd.read_csv(toy, dtype=str, keep_default_na=False)
    frame["kind"] = [KINDS[pair] for pair in zip(frame["dot"], frame["bar"], strict=True)]
    frame["grade"] = (frame["dot"].astype(int) + frame["bar"].astype(int)).astype(str)
    frame.loc[5, ["kind", "grade"]] = ""
    frame = frame.drop(columns=["dot", "bar", *[name for name in frame if name.startswith("mask")]])
    frame.to_csv(toy.parent / "kinds.csv", index=False)
    return toy.parent / "kinds.csv"


@pytest.fixture(scope="module")
def multiclass(kinds, quick, tmp_path_factory):
    columns = {"image": "file", "label": "kind"}
    out = tmp_path_factory.mktemp("tasks") / "multiclass"
    return lc.run(kinds, out, **{**quick, "columns": columns}, task="multiclass", calibration="temperature")


@pytest.fixture(scope="module")
def ordinal(kinds, quick, tmp_path_factory):
    columns = {"image": "file", "label": "grade"}
    out = tmp_path_factory.mktemp("tasks") / "ordinal"
    options = {**quick, "columns": columns, "epochs": 6, "loss": "focal", "backbone": "slim,channels=[16,16,32,32]"}
    return lc.run(kinds, out, **options, task="ordinal")


def square(cases, column, method="cam"):
    own = cases[cases["method"] == method]
    return own.pivot_table(index="image", columns="class", values=column, sort=False, dropna=False)


def cases_of(run):
    return read_cases(run.folder / "evaluate" / "val" / "cases.csv")


def test_probabilities_are_one_softmax_with_one_temperature(multiclass):
    cases = cases_of(multiclass)
    probabilities = square(cases, "probability")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    card = multiclass.classifier().card
    assert card.exclusive
    assert card.image_calibration.kind == "temperature"
    assert len(set(card.image_calibration.scale)) == 1
    for image in probabilities.index[:5]:
        stored = next((multiclass.folder / "evaluate" / "val" / "arrays").glob(f"{image}-*.npz"))
        logits = np.load(stored)["logits"].astype(float)
        expected = softmax(logits * card.image_calibration.scale[0])
        np.testing.assert_allclose(probabilities.loc[image, list(card.classes)], expected, atol=1e-6)
        odds = square(cases, "logit").loc[image, list(card.classes)]
        np.testing.assert_allclose(expit(odds.to_numpy(float)), softmax(logits), atol=1e-6)


def test_one_image_alone_says_the_same(multiclass, kinds):
    result = lc.predict(multiclass.classifier(), [kinds.parent / "p02_1.png"])[0]
    own = square(cases_of(multiclass), "probability").loc["p02_1", list(result.classes)]
    np.testing.assert_allclose(result.probabilities, own, atol=1e-6)
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert np.isnan(result.expected_grade)


def test_balanced_accuracy_is_that_of_the_likeliest_class(multiclass):
    cases = cases_of(multiclass)
    probabilities, labels = square(cases, "probability"), square(cases, "label")
    guess, truth = probabilities.to_numpy().argmax(1), labels.to_numpy().argmax(1)
    recalls = [np.mean(guess[truth == k] == k) for k in np.unique(truth)]
    metrics = multiclass.metrics().set_index(["metric", "class"])["value"]
    assert metrics["balanced_accuracy", "macro"] == pytest.approx(np.mean(recalls))
    assert ("kappa_quadratic", "macro") not in metrics


def test_a_run_of_its_table_reads_it_back(multiclass):
    """The row without a kind says nothing; the others are one-hot."""
    from lesioncam.data.table.targets import targets_of
    from lesioncam.runs.table import run_table

    labels = targets_of(
        run_table(RunFolder(multiclass.folder)), multiclass.classifier().card.config.table, "multiclass"
    )
    known = ~np.isnan(labels.middle()).any(axis=1)
    assert (~known).sum() == 1
    assert (labels.middle()[known].sum(axis=1) == 1).all()


def test_grades_are_measured_by_kappa_everywhere(ordinal):
    cases = cases_of(ordinal)
    probabilities, labels = square(cases, "probability"), square(cases, "label")
    guess, truth = probabilities.to_numpy().argmax(1), labels.to_numpy().argmax(1)
    expected = cohen_kappa_score(guess, truth, weights="quadratic", labels=[0, 1, 2])
    metrics = ordinal.metrics().set_index(["metric", "class"])
    assert metrics.loc[("kappa_quadratic", "macro"), "value"] == pytest.approx(expected)
    grades = (probabilities * [0, 1, 2]).sum(axis=1)
    np.testing.assert_allclose(square(cases, "expected_grade")["0"], grades, atol=1e-6)
    page = ordinal.report.read_text()
    assert "Quadratic-weighted kappa" in page
    assert "Kappa on validation" in page


def test_the_epoch_with_the_best_kappa_is_kept(ordinal):
    history = pd.read_csv(ordinal.folder / "log" / "history.csv")
    ranking = history["val_kappa"] - 1e-4 * history["val_loss"]
    assert ordinal.classifier().card.training.best_epoch == ranking.argmax()


def test_all_metrics_hold_kappa_once(ordinal):
    from lesioncam.verbs.evaluate import evaluate

    before = ordinal.metrics()
    metrics = evaluate(ordinal, metrics="all")
    kappa = metrics[metrics["metric"] == "kappa_quadratic"]
    assert len(kappa) == 1
    assert kappa["value"].item() == before.loc[before["metric"] == "kappa_quadratic", "value"].item()


def test_predictions_say_the_likeliest_grade_and_the_expected_one(ordinal, kinds, tmp_path):
    images = [kinds.parent / name for name in ("p03_0.png", "p03_3.png")]
    results = lc.predict(ordinal.folder, images, tmp_path / "out", write=("boxes",))
    rows = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"class": str})
    for result, (_, own) in zip(results, rows.groupby("image", sort=False), strict=True):
        assert own["probability"].sum() == pytest.approx(1, abs=1e-5)
        assert own["predicted"].sum() == 1
        assert own.loc[own["predicted"] == 1, "class"].item() == result.classes[result.probabilities.argmax()]
        mean = (own["class"].astype(int) * own["probability"]).sum()
        assert own["expected_grade"].tolist() == pytest.approx([mean] * 3, abs=1e-5)


def test_runs_of_one_task_compare_by_the_likeliest_class(ordinal, tmp_path):
    from lesioncam.reporting.comparison.comparison import compare_runs

    shutil.copytree(ordinal.folder, tmp_path / "twin")
    compare_runs([ordinal.folder, tmp_path / "twin"], tmp_path / "compared", draws=50)
    found = pd.read_csv(tmp_path / "compared" / "comparison.csv")
    metrics = ordinal.metrics().set_index(["metric", "class"])["value"]
    for metric in ("balanced_accuracy", "kappa_quadratic"):
        rows = found[found["metric"] == metric]
        assert rows["class"].tolist() == ["macro", "macro"]
        assert rows["value"].tolist() == pytest.approx([metrics[metric, "macro"]] * 2)


def test_negative_names_and_other_tasks_are_refused_before_anything_is_written(kinds, quick, tmp_path):
    columns = {"image": "file", "label": "kind"}
    with pytest.raises(TableError, match="Leave --negative out"):
        lc.run(kinds, tmp_path / "a", **{**quick, "columns": columns}, task="multiclass", negative=["none"])
    with pytest.raises(LesioncamError, match="is no grade"):
        lc.run(kinds, tmp_path / "b", **{**quick, "columns": columns}, task="ordinal")
    with pytest.raises(LesioncamError, match="use temperature"):
        lc.run(kinds, tmp_path / "c", **{**quick, "columns": columns}, task="multiclass", calibration="platt")
    assert not any(tmp_path.iterdir())


def test_a_network_of_somebody_else_may_end_in_a_softmax(kinds, tmp_path, monkeypatch):
    import timm
    import torch
    from safetensors.torch import save_file

    from lesioncam.cli import main

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", num_classes=3, in_chans=1)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "net.safetensors")
    words = f"timm:resnet10t {kinds} -o {tmp_path / 'run'} --weights {tmp_path / 'net.safetensors'} --task ordinal "
    words += "--options in_chans=1 --prepare size=96 crop_pct=1 crop_mode=border --columns image=file label=grade "
    assert main(["adopt", *(words + "--draws 10 --calibration temperature").split()]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    cases = read_cases(tmp_path / "run" / "evaluate" / "val" / "cases.csv")
    own = cases[cases["expected_grade"].notna()]
    np.testing.assert_allclose(own.groupby("image")["probability"].sum(), 1, atol=1e-6)
    metrics = pd.read_csv(tmp_path / "run" / "evaluate" / "val" / "metrics.csv")
    assert (metrics["metric"] == "kappa_quadratic").sum() == 1


def test_soft_labels_are_no_truth_when_epochs_are_compared():
    from lesioncam.training.modules import _macro_auroc

    logits, labels = np.array([[3.0], [2.0], [1.0], [0.0]]), np.array([[0.9], [0.0], [1.0], [0.0]])
    assert _macro_auroc(logits, labels) == 0.5  # the positive lies between two negatives
    assert np.isnan(_macro_auroc(logits[:1], labels[:1]))
