"""The form of the report that may leave the house."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import rendering
from tests.reporting.conftest import Made, add_rows, row, write_run, write_shortcut, write_subgroups
from tests.reporting.test_report import Page

from lesioncam.options.verbs import VERBS
from lesioncam.reporting.report.html import write_report
from lesioncam.reporting.report.read import read_run
from lesioncam.reporting.report.share import (
    bare_command,
    bare_config,
    bare_provenance,
    shareable,
    suppressed,
    suppressed_row,
)
from lesioncam.runs.provenance import Provenance

NAMES = ("QUOKKA", "wombatius", "numbatova", "bilby", "potoroo", "dingo", "kookaburra", "echidna", "cassowary")
"""Easily recognised: images, patients, users, hosts, folders, readers, tools, columns, runs."""


@pytest.fixture(scope="module")
def named_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that names somebody wherever it can."""
    leak = {"image": "dingo/QUOKKA_1.png", "split": "train", "other": "dingo/QUOKKA_2.png", "other_split": "val",
            "kind": "copy", "correlation": 0.99}  # fmt: skip
    summary = {
        "leaks": [leak], "dropped": 1, "leaks_checked": True, "patient_rule": "column potoroo",
        "question": "Does wombatius find the mass?", "gallery_rule": "as numbatova likes it", "foreign": False,
        "ledger": {"times": 2, "configurations": 1, "shared": True}, "verified": {"rows": 44, "of": 50},
        "calibration": {"images": "platt", "maps": "none", "rule": "youden"},
    }  # fmt: skip
    made = Made(name="dingo/QUOKKA_{:02d}.png", splits=("val", "test"), summary=tuple(summary.items()))
    run = write_run(tmp_path_factory.mktemp("share") / "cassowary", made)
    (run / "config.yaml").write_text(yaml.safe_dump({
        "seed": 0, "cache": "/home/wombatius/cache", "weights": "/mnt/bilby/w.pt", "pooling": {"kind": "pcam"},
        "table": {"images": "dingo", "columns": {"patient": "potoroo"}, "uncertain": "ignore", "blank": "ignore"},
    }))  # fmt: skip
    (run / "provenance.json").write_text(json.dumps({
        "version": "0.1.0", "seed": 3, "created": "2025-01-02T03:04:05+00:00", "host": "bilby", "user": "wombatius",
        "command": "lesioncam run '/home/wombatius/dingo x/table.csv' -o runs/cassowary --classes QUOKKA --size 128",
        "hardware": "2 CPU cores (x86_64), 24 GiB memory, node bilby", "packages": {"torch": "2.8.0"},
        "table_digest": "echidna",
    }))  # fmt: skip
    (run / "table.csv").write_text("image,potoroo\ndingo/QUOKKA_1.png,numbatova\n")
    for split in ("val", "test"):
        folder = run / "evaluate" / split
        spread_cases(folder)
        readers = [row("segmentation", "dice", 0.8, method=f"reader:{who}") for who in ("numbatova", "kookaburra")]
        add_rows(folder, [*readers, row("segmentation", "dice", 0.777, n=7, **{"class": "ring"}, method="few_shot")])
        write_subgroups(folder, [("scanner", "one", 0.8111, 43, 9), ("scanner", "two", 0.7222, 7, 6)])
        worst = {"image": "dingo/QUOKKA_2.png", "class": "mass", "outside": 0.1, "border": 0.2}
        write_shortcut(folder, images=[worst], by_class={"mass": {"border": {"share": 0.1, "alarm": 0.5, "n": 4}}})
    return run


def spread_cases(folder: Path) -> None:
    """Forty cases of every class by twenty patients, so that there is something to show."""
    path = folder / "cases.csv"
    cases = pd.read_csv(path, dtype=str, keep_default_na=False)
    shown = [cases]
    for i in range(40):
        for label in ("mass", "ring"):
            line = cases[(cases["class"] == label) & (cases["method"] == "cam")].iloc[0].to_dict()
            sick = (i % 2 == 0) == (label == "mass")
            shown.append(pd.DataFrame([line | {
                "image": f"dingo/QUOKKA_more_{i}.png", "patient": f"numbatova-{i % 20}", "label": str(float(sick)),
                "probability": str(0.02 * i + 0.01), "dice": "0.5" if sick else "", "has_mask": str(int(sick)),
                "pointing": "1" if sick else "", "false_alarm": "" if sick else "0",
            }]))  # fmt: skip
    pd.concat(shown).to_csv(path, index=False)


@pytest.fixture(scope="module")
def shared(named_run: Path, blank_figures: pytest.MonkeyPatch) -> tuple[str, Page]:
    """With its figures rendered, since names may stand in those."""
    with rendering(blank_figures):
        path = write_report(named_run, share=True)
    assert path == named_run / "report-share.html"
    text = path.read_text()
    return text, Page(text)


def test_the_shared_page_and_figures_name_nobody(named_run, shared):
    files = [named_run / "report-share.html", *sorted((named_run / "share").iterdir())]
    assert {path.suffix for path in files} == {".html", ".svg", ".png"}
    hidden = [*NAMES, "digest-5f3a", "slice_", "/home", "/mnt", str(named_run.parent), "03:04"]
    for path in files:
        content = path.read_bytes().lower()
        assert [name for name in hidden if name.lower().encode() in content] == []


def test_the_full_page_would_have_named_them(named_run):
    text = write_report(named_run).read_text()
    found = [name for name in NAMES if name in text]
    assert {"QUOKKA", "wombatius", "numbatova", "cassowary", "kookaburra"} <= set(found)


def test_it_holds_no_picture_and_no_case(shared):
    text, page = shared
    assert not page.all("img")
    assert not page.all("article")
    assert "base64" not in text
    assert "Gallery" not in page.text


def test_readers_are_numbered(shared):
    _, page = shared
    assert "reader 1" in page.text
    assert "reader 2" in page.text


def test_what_is_not_small_is_shown(named_run, shared):
    _, page = shared
    metrics = pd.read_csv(named_run / "evaluate/test/metrics.csv")
    own = metrics[(metrics["method"] == "cam") & (metrics["metric"] == "auroc") & (metrics["class"] == "mass")]
    assert f"{own['value'].iloc[0]:.3f}" in page.text
    assert "2025-01-02" in page.text
    assert "ROC, with area under the curve" in "".join(page.words)
    assert "lesioncam run … -o … --classes … --size …" in page.text


def test_small_cells_are_hidden_with_the_reason(shared):
    _, page = shared
    assert "0.777" not in page.text
    assert "0.722" not in page.text
    assert "0.811" in page.text
    assert "not shown: fewer than 10 images or 5 patients" in page.text
    assert "about 40 images, about 10 patients" in page.text
    assert "<10 images" in page.text
    assert "all but <10 of 50 images; <10 without a lesion mask" in page.text
    assert "n 41 of 50" not in page.text
    assert "about 200" in page.text


def test_links_of_the_shared_page_arrive(named_run, shared):
    _, page = shared
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    for link in page.all("a"):
        target = str(link["href"])
        assert target.removeprefix("#") in ids or (named_run / target).is_file()
    assert "wombatius" not in (named_run / "share/checklist.html").read_text()


def test_sharing_twice_gives_the_same_and_leaves_the_full_report_alone(named_run, shared, blank_figures):
    before = write_report(named_run).read_bytes()
    with rendering(blank_figures):
        assert write_report(named_run, share=True).read_text() == shared[0]
    assert (named_run / "report.html").read_bytes() == before


def test_a_class_with_few_positives_is_hidden_with_the_mean_that_gives_it_away(named_run, tmp_path):
    run = read_run(named_run)
    one = run.evaluations[0]
    few = (one.cases["class"] == "ring") & (one.cases["label"] == 1)
    rare = one.cases.assign(label=np.where(few & (np.cumsum(few) > 9), 0.0, one.cases["label"]))
    found = shareable(type(run)(**{**run.__dict__, "evaluations": (type(one)(**{**fields(one), "cases": rare}),)}))
    metrics = found.evaluations[0].metrics
    auroc = metrics[metrics["metric"] == "auroc"].set_index("class")
    assert np.isfinite(auroc.loc["mass", "value"])
    assert np.isnan(auroc.loc["ring", "value"])
    assert np.isnan(auroc.loc["macro", "value"])
    assert "other classes" in auroc.loc["macro", "hidden"]
    assert "roc/mass/fpr" in found.evaluations[0].curves
    assert not [key for key in found.evaluations[0].curves if "/ring/" in key]
    assert found.evaluations[0].cases.query("`class` == 'ring'")["label"].isna().all()


def fields(one: object) -> dict[str, object]:
    return {name: getattr(one, name) for name in type(one).__dataclass_fields__}


def test_few_patients_hide_a_number_however_many_images(named_run):
    run = read_run(named_run)
    one = run.evaluations[0]
    lonely = type(one)(**{**fields(one), "cases": one.cases.assign(patient="the same")})
    found = shareable(type(run)(**{**run.__dict__, "evaluations": (lonely,)}))
    assert found.evaluations[0].metrics["value"].isna().all()
    assert not found.evaluations[0].curves


@pytest.mark.parametrize("small", [1, 9])
def test_counts(small):
    assert suppressed(small) == "<10"
    assert suppressed(10) == "10"
    assert suppressed(100 - small, 100) == "all but <10"
    assert suppressed_row({"a": small, "b": 64}) == {"a": "<10", "b": "about 60"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("lesioncam evaluate runs/anna --split test", "lesioncam evaluate … --split …"),
        ("python -m lesioncam anna.csv", "lesioncam … -m …"),
        ("lesioncam anna", "lesioncam …"),
        ("lesioncam run 'unclosed", "lesioncam …"),
        ("", "lesioncam"),
    ],
)
def test_commands_lose_every_value(command, said):
    found = bare_command(command)
    assert "anna" not in found
    if not command.startswith("python"):
        assert found == said


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_command_line_is_kept(verb):
    assert bare_command(f"lesioncam {verb} /home/anna") == f"lesioncam {verb} …"


def test_settings_keep_numbers_and_words_of_fixed_lists():
    config = {"size": 128, "flip": 0.5, "fractions": [0.7, 0.3], "backbone": {"name": "densenet121"}, "label": "anna",
              "kind": "/home/anna", "columns": {"patient": "anna"}, "negative": ["anna"], "crop": True}  # fmt: skip
    assert bare_config(config) == {"size": 128, "flip": 0.5, "fractions": [0.7, 0.3],
                                   "backbone": {"name": "densenet121"}, "label": "…", "kind": "…", "columns": "…",
                                   "negative": "…", "crop": True}  # fmt: skip


def test_provenance_keeps_what_is_on_its_list():
    content = {"user": "anna", "hardware": "8 CPU cores (x86_64), NVIDIA H200, anna's machine", "table_digest": "1f",
               "created": "2025-01-02T03:04:05", "new": "anna"}  # fmt: skip
    found = bare_provenance(Provenance.model_validate(content))
    assert found == Provenance(hardware="8 CPU cores (x86_64), NVIDIA H200", created="2025-01-02")


def test_no_number_stands_in_the_page_that_is_hidden_in_the_data(named_run, shared):
    """Every value printed in the shared page is one that may be shown."""
    _, page = shared
    allowed = set()
    for one in shareable(read_run(named_run)).evaluations:
        for values in (one.metrics["value"], one.subgroups["value"]):
            allowed |= {round(float(v), 9) for v in values.dropna()}
        for key in ("classifier_auroc", "border_auroc", "statistics_auroc"):
            allowed |= {round(auroc.value, 9) for auroc in getattr(one.shortcut, key).values()}
    printed = {round(float(str(a["value"])), 9) for a in page.all("data")}
    assert printed <= allowed
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


@pytest.mark.usefixtures("without_figures")
def test_a_panel_that_was_not_measured_is_not_called_clean(make_run):
    run = make_run()
    assert "no sign that anything" not in write_report(run, share=True).read_text()
    write_shortcut(run / "evaluate" / "val")
    assert "no sign that anything" in write_report(run, share=True).read_text()
