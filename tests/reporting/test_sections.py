"""What issue 3 added to the report: metrics with conventions, subgroups, shortcuts, calibration, leaks, figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from tests.reporting.conftest import add_rows, row, write_shortcut, write_subgroups
from tests.reporting.test_report import Page, order, read

from lesioncam.evaluation.controls import CONTROLS
from lesioncam.evaluation.metric import family_of, title_of
from lesioncam.reporting.figures.reliability import reliability
from lesioncam.reporting.report.checklist import checklist
from lesioncam.reporting.report.checks import checks_of
from lesioncam.reporting.report.html import write_report
from lesioncam.reporting.report.read import read_run
from lesioncam.reporting.report.tables import headlines
from lesioncam.reporting.words.words import method_name

pytestmark = pytest.mark.usefixtures("without_figures")


def light(run: Path, name: str) -> tuple[str, str]:
    found = {one.name: one for one in checks_of(read_run(run).evaluations[0])}
    return found[name].word, found[name].text


LEAK = {"image": "P1/a.png", "split": "train", "other": "P2/b.png", "other_split": "val", "kind": "mirror",
        "correlation": 0.9991}  # fmt: skip


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_the_default_table_is_short_and_the_rest_is_folded(make_run):
    run = make_run()
    add_rows(run / "evaluate/val", [row("segmentation", "hd95", 12.5), row("localisation", "iou_acc@0.25", 0.4)])
    text, page = read(run)
    table = text.partition('aria-label="Numbers, validation"')[2].partition("</table>")[0]
    heads = re.findall(r'<th scope="col" class="n">([^<]*)<', table)
    expected = ["AUROC", "Average precision", "Dice", "IoU", "Pointing game", "False alarm rate"]
    assert heads == expected
    folded = text.partition("<summary>All metrics")[2].partition("</details>")[0]
    for name in ("Hausdorff", "Accuracy at IoU 0.25", "Sensitivity", "Balanced accuracy", "half-open"):
        assert name in folded
    assert "12.500" in page.text


def test_every_table_of_all_metrics_states_its_convention(make_run):
    run = make_run()
    names = ["iou_acc@0.1", "afp@0.1", "maxboxacc_v2", "pxap", "miou", "cpm", "froc@1", "box_ap@0.5"]
    add_rows(run / "evaluate/val", [row("localisation", name, 0.5) for name in names])
    text, _ = read(run)
    folded = text.partition("<summary>All metrics")[2].partition("</details>")[0]
    tables = folded.split("<table")[1:]
    assert len(tables) == 7
    assert all("Convention: " in table for table in tables)
    for name in names:
        assert folded.count(f'<th scope="row">{title_of(name)}</th>') == 1


def test_every_metric_has_one_family():
    pairs = [("classification", "ece"), ("segmentation", "hd95"), ("localisation", "afp@0.5"), ("localisation", "x")]
    titles = [family_of(*pair).title.split()[0] for pair in pairs]
    assert titles == ["Calibration", "Distances", "ChestX-ray8", "Locating:"]


def test_numbers_chosen_on_the_data_they_are_scored_on_are_marked(make_run):
    run = make_run()
    plain = read(run)[1].text
    add_rows(run / "evaluate/val", [row("classification", "oracle_max_f1", 0.9)])
    marked = read(run)[1].text
    assert "Highest F1 (oracle)" in marked
    said = "were chosen on the very images they are scored on"
    assert said in marked
    assert said not in plain


def test_every_number_carries_its_n(make_run):
    _, page = read(make_run())
    assert "n 41 of 50" in page.text
    assert "n 20 of 50" in page.text


# ---- controls ----------------------------------------------------------------------------------------------------


def test_a_ceiling_and_a_reader_are_no_control_to_beat(make_run):
    run = make_run(summary=(("ceiling_grid", [16, 16]),))
    high = [("resolution_ceiling", 0.99), ("supervised_bound", 0.98), ("reader:B", 0.97), ("few_shot", 0.31)]
    add_rows(run / "evaluate/val", [row("segmentation", "dice", value, method=name) for name, value in high])
    text, page = read(run)
    dice = next(one for one in headlines(read_run(run).evaluations[0]) if one.title.startswith("Dice"))
    assert dice.beside.startswith("best control, few-shot head on validation masks: 0.310")
    assert dice.verdict.startswith("Above the best control")
    assert "(16 × 16)" in page.text
    table = text.rpartition('aria-label="Controls, Mean of classes"')[2].partition("</table>")[0]
    order(table, ["What it has to beat".lower(), "random map", "few-shot head", "nothing to beat", "resolution ceiling",
                  "reader B"])  # fmt: skip


def test_every_control_has_a_name_in_words():
    assert not [name for name in CONTROLS if "_" in method_name(name)]


# ---- reliability -------------------------------------------------------------------------------------------------


def cases_of(score: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"class": "mass", "label": truth, "probability": score})


def test_reliability_equals_scikit_learn_where_scores_differ():
    rng = np.random.default_rng(3)
    score = rng.random(300)
    truth = (rng.random(300) < score**2).astype(float)
    found = reliability(cases_of(score, truth), "mass")
    observed, predicted = calibration_curve(truth, score, n_bins=15, strategy="quantile")
    assert found is not None
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-12)
    np.testing.assert_allclose(found.observed, observed, atol=1e-12)
    assert found.ece == pytest.approx(abs(observed - predicted).mean())
    assert found.brier == pytest.approx(brier_score_loss(truth, score))


def test_reliability_in_cases_a_hand_can_do():
    found = reliability(cases_of(np.array([0.2, 0.2, 0.2, 0.8]), np.array([0.0, 0, 1, 1])), "mass")
    assert found is not None
    np.testing.assert_allclose(found.predicted, [0.2, 0.8])
    np.testing.assert_allclose(found.observed, [1 / 3, 1])
    assert found.ece == pytest.approx((3 * (1 / 3 - 0.2) + 0.2) / 4)
    unknown = cases_of(np.array([0.2, np.nan]), np.array([np.nan, 1.0]))
    assert reliability(unknown, "mass") is None
    assert reliability(unknown, "ring") is None


@pytest.mark.parametrize("n", [9, 10, 19, 23, 77, 400])
def test_bins_hold_at_least_what_they_should(n):
    rng = np.random.default_rng(n)
    found = reliability(cases_of(rng.random(n).round(1), rng.integers(0, 2, n).astype(float)), "mass", least=10)
    if n < 10:
        assert found is None
    else:
        assert found is not None
        assert found.images.min() >= 10
        assert found.images.sum() == n


def test_the_reliability_plot_quotes_metrics_csv(make_run):
    run = make_run()
    add_rows(run / "evaluate/val", [row("classification", "ece", 0.123, **{"class": "mass"})])
    text, _ = read(run)
    assert "mass: ECE 0.123, Brier " in text


# ---- subgroups and shortcuts -------------------------------------------------------------------------------------


def test_subgroups_stand_by_column_with_n_and_interval(make_run):
    run = make_run()
    lines = [("sex", "F", 0.81, 30, 9), ("sex", "M", 0.72, 20, 8), ("lesion size", "small", 0.61, 25, 12)]
    write_subgroups(run / "evaluate/val", lines)
    _, page = read(run)
    table = page.text.rpartition("By sex, in numbers")[2]
    order(table, ["0.810", "0.760 to 0.860", "30 images, 9 patients", "By lesion size"])
    assert "Subgroups" not in read(make_run(folder="other"))[1].text


def test_a_calm_shortcut_panel_is_green(make_run):
    run = make_run()
    write_shortcut(run / "evaluate/val")
    assert light(run, "Shortcuts") == ("OK", "no sign that anything but the body decides")
    _, page = read(run)
    order(page.text, ["Where the positive evidence", "Outside the body", "10.0%", "20 %", "Below"])
    assert "slice_02.png (mass: 15% outside, 30% along the border)" in page.text
    assert "confounded" not in page.text


def test_without_air_nothing_lies_outside_the_body(make_run):
    run = make_run()
    worst = {"image": "a/b.png", "class": "mass", "outside": None, "border": 0.3}
    write_shortcut(run / "evaluate/val", outside_body={"share": None, "n": 0, "alarm": 0.2}, no_air=50, images=[worst])
    _, page = read(run)
    order(page.text, ["Outside the body", "no air in these images; not applicable", "Not measured"])
    assert "b.png (mass: 30% along the border)" in page.text


def blind(value: float, low: float) -> dict[str, object]:
    return {"mass": {"value": value, "low": low, "high": 0.99, "n": 50}}


@pytest.mark.parametrize(
    ("parts", "word", "said"),
    [
        ({"outside_body": {"share": 0.31, "n": 50, "alarm": 0.2}}, "Fail", "31% of the positive evidence lies outside"),
        ({"outside_body": {"share": 0.2, "n": 50, "alarm": 0.2}}, "OK", "no sign"),
        ({"border": {"share": 0.62, "n": 50, "alarm": 0.5}}, "Fail", "62% of the positive evidence lies along"),
        ({"border_auroc": blind(0.94, 0.9)}, "Fail", "the image border alone tells mass with AUROC 0.940, as well as"),
        ({"statistics_auroc": blind(0.8, 0.71)}, "Warning", "size and brightness alone tells mass with AUROC 0.800"),
        ({"statistics_auroc": blind(0.8, 0.7)}, "OK", "no sign"),
        ({"by_class": {"ring": {"border": {"share": 0.6, "alarm": 0.5}}}}, "Warning", "of ring, too much of the posi"),
        ({"border_auroc": {}, "statistics_auroc": {"mass": {"value": None, "low": None}}}, "OK", "no sign"),
        ({"outside_body": {"share": None, "n": 0, "alarm": 0.2}}, "OK", "no sign"),
    ],
)
def test_shortcut_alarms(make_run, parts, word, said):
    run = make_run()
    write_shortcut(run / "evaluate/val", **parts)
    found = light(run, "Shortcuts")
    assert found[0] == word
    assert found[1].startswith(said)
    text = read(run)[1].text
    assert ("Labels and acquisition may be confounded" in text) == (word != "OK")
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


# ---- leaks, ledger, calibration, foreign maps --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "word", "said"),
    [
        ({"leaks_checked": True}, "OK", "none found; no patient is in two splits, and no image in one split is a copy"),
        ({"leaks_checked": False}, "Warning", "no patient is in two splits, but near-identical images were not looked"),
        ({"leaks": [LEAK]}, "Fail", "a.png (training) and b.png (validation), mirror image, correlation 0.999"),
        ({"leaks": [LEAK], "dropped": 1}, "Warning", "a.png (training) and b.png (validation), mirror image, correl"),
        ({"leaks": [LEAK] * 5}, "Fail", "; ".join(["a.png (training) and b.png (validation), mirror image, corr"])),
    ],
)
def test_the_leak_light_says_what_was_checked(make_run, summary, word, said):
    found = light(make_run(summary=tuple(summary.items())), "Leak between splits")
    assert found[0] == word
    assert found[1].startswith(said)
    if summary.get("dropped"):
        assert found[1].endswith("1 image was left out because of it")
    if len(summary.get("leaks", [])) > 3:
        assert found[1].endswith("2 more under Data")


def test_all_pairs_are_listed_under_data(make_run):
    pairs = [LEAK | {"image": f"x/{i}.png"} for i in range(7)]
    _, page = read(make_run(summary=(("leaks", pairs), ("leaks_checked", True))))
    listed = page.text.rpartition("Pairs found across splits (7)")[2]
    assert all(f"{i}.png (training) and b.png" in listed for i in range(7))


@pytest.mark.parametrize(("shared", "where"), [(True, "in the table's side file"), (False, "in this run's folder")])
def test_the_ledger_line_says_where_openings_are_counted(make_run, shared, where):
    ledger = {"times": 4, "configurations": 3, "shared": shared}
    run = make_run(summary=(("ledger", ledger), ("test_opened", 1)))
    assert light(run, "Test labels")[1].startswith(f"opened 4 times by 3 configurations, counted {where}")
    assert f"these test labels were opened 4 times by 3 configurations, counted {where}" in read(run)[1].text


def test_calibration_and_operating_point_are_stated(make_run):
    calibration = {"images": "isotonic", "maps": "platt", "rule": "specificity=0.95"}
    _, page = read(make_run(summary=(("calibration", calibration),)))
    assert "Image scores: isotonic; maps: platt" in page.text
    assert "specificity at least 0.95" in page.text


def test_maps_of_another_tool(make_run):
    run = make_run(summary=(("foreign", True), ("missing_maps", 3), ("undefined_maps", 2)))
    for path in (run / "log/history.csv", run / "model/model.json", run / "config.yaml"):
        path.unlink()
    _, page = read(run)
    assert "Maps of another tool: nothing was trained here" in page.text
    assert "Warning Maps: 3 missing, counted as misses; 2 without a single finite value" in page.text
    assert "Trained on the labels" not in page.text
    whole = make_run(folder="whole", summary=(("foreign", True), ("missing_maps", 0)))
    assert light(whole, "Maps")[0] == "OK"


@pytest.mark.parametrize(("likeness", "word"), [(0.1, "OK"), (0.9, "Warning")])
def test_maps_that_do_not_depend_on_the_weights_are_a_warning(make_run, likeness, word):
    run = make_run(summary=(("sanity", {"similarity": likeness, "maps": 40, "flat": 0}),))
    assert light(run, "Maps depend on the weights") == (
        word,
        f"likeness to those of random weights {likeness:.2f} (1: the same)",
    )


def test_verified_labels_are_said(make_run):
    _, page = read(make_run(summary=(("verified", {"rows": 30, "of": 50}),)))
    assert "verified labels (30 of 50 rows)" in page.text


# ---- files beside the report -------------------------------------------------------------------------------------


def test_the_page_prints_with_nothing_folded_and_on_white(plain_run):
    text = write_report(plain_run).read_text()
    printed = text.partition("@media print")[2].partition("</style>")[0]
    assert "details::details-content" in printed
    assert "--paper: #ffffff" in printed


def test_the_checklist_knows_what_the_run_knows(make_run):
    run = make_run()
    report = write_report(run)
    text = (run / "checklist.html").read_text()
    page = Page(text)
    assert 'href="checklist.html"' in report.read_text()
    for said in (
        "mass, ring",
        "patient (column patient)",
        "training 200 images of 61 patients",
        "epoch 7, chosen on validation",
        "95 %, percentile bootstrap, 1000 draws of whole patients",
        "random map, centre prior, mean mask",
        "to be filled in by the authors",
    ):
        assert said in page.text
    assert "anna" not in text
    answers = {item.question: item.answer for _, items in checklist(read_run(run))
               for item in items}  # fmt: skip
    assert answers["Funding and conflicts of interest"] is None
    assert answers["Seed"] == "0"
    assert len(answers) > 35


def test_the_checklist_survives_a_bare_run(make_run):
    run = make_run()
    for path in (run / "config.yaml", run / "provenance.json", run / "model/model.json", run / "log/history.csv"):
        path.unlink()
    write_report(run)
    page = Page((run / "checklist.html").read_text())
    assert "None" not in page.text
    assert "nan" not in page.text
