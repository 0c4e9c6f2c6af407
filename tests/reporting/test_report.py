from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.conftest import rendering

from lesioncam.errors import RunError
from lesioncam.reporting.report.checks import checks_of
from lesioncam.reporting.report.html import write_report
from lesioncam.reporting.report.read import read_run

pytestmark = pytest.mark.usefixtures("without_figures")
VOID = {"meta", "link", "img", "br", "path", "circle", "use", "rect", "line"}


class Page(HTMLParser):
    """What stands on a page: text, elements, and a check that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]


def read(run: Path) -> tuple[str, Page]:
    text = write_report(run).read_text()
    return text, Page(text)


def order(text: str, parts: list[str]) -> None:
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def pixels(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


@pytest.fixture(scope="module")
def plain(plain_run: Path, blank_figures: pytest.MonkeyPatch) -> tuple[str, Page]:
    with rendering(blank_figures):
        return read(plain_run)


def test_the_report_lies_in_the_run_folder(make_run):
    run = make_run()
    assert write_report(run) == run / "report.html"
    assert not list(run.glob(".report*"))


def test_every_number_equals_metrics_csv(make_run):
    run = make_run()
    _, page = read(run)
    shown = {round(float(a["value"]), 12) for a in page.all("data")}
    metrics = pd.read_csv(run / "evaluate/val/metrics.csv")
    for row in metrics[metrics["value"].notna()].to_dict("records"):
        if row["method"] == "cam" or row["metric"] != "false_alarm_rate":
            assert round(row["value"], 12) in shown
            assert f"{row['value']:.3f}" in page.text
            assert f"{row['low']:.3f} to {row['high']:.3f}" in page.text


def test_sections_come_in_order(plain):
    _, page = plain
    titles = (
        "Learning curves,ROC and precision-recall,Numbers,Beside the controls,Gallery,Data,Provenance,Limits of use"
    )
    order(page.text.partition("Limits of use")[2], titles.split(","))


def test_nothing_is_fetched_from_anywhere(plain):
    text, page = plain
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http:" not in without_namespaces
    assert "https:" not in without_namespaces
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,", "data:,")) or value == "checklist.html"
    assert "@import" not in text
    assert not re.search(r"url\((?!#|data:image/png;base64,)", text)
    assert not page.all("script")


def test_the_first_screen_says_what_matters(make_run):
    _, page = read(make_run())
    first = page.text.partition("Learning curves")[0]
    for said in (
        "Do image-level labels teach where mass and ring lie?",
        "50 images of 17 patients",
        "best control, ",
        "chance: 0.500",
        "Validation: numbers on which thresholds were chosen, optimistic",
        "Leak between splits: none found",
        "Healthy images stay cold: 97% of 20",
        "Lesion masks to measure with: 41 of 50 images",
        "Test labels: not opened yet",
    ):
        assert said in first


def test_the_best_control_is_the_best(make_run):
    run = make_run()
    metrics = pd.read_csv(run / "evaluate/val/metrics.csv")
    rows = metrics[(metrics["metric"] == "dice") & (metrics["class"] == "macro") & (metrics["method"] != "cam")]
    best = rows.sort_values("value").iloc[-1]
    _, page = read(run)
    assert f"best control, {best['method'].replace('_', ' ')}: {best['value']:.3f}" in page.text


@pytest.mark.parametrize(
    ("summary", "state", "said"),
    [
        (
            {
                "leaks": [
                    {
                        "image": "a.png",
                        "split": "val",
                        "other": "b.png",
                        "other_split": "train",
                        "kind": "copy",
                        "correlation": 0.99,
                    }
                ]
            },
            "Fail",
            "Leak between splits: a.png (validation) and b.png (training)",
        ),
        ({"patient_rule": "none"}, "Fail", "Patients: not known"),
        ({"patient_rule": "none"}, "Not measured", "Leak between splits: nobody can tell"),
        ({"patient_rule": "blocks:20"}, "Warning", "Patients: assumed: 20 images in a row count as one patient"),
        ({"healthy_cold": {"share": 0.96, "n": 50}}, "OK", "Healthy images stay cold: 96% of 50"),
        ({"healthy_cold": {"share": 0.9, "n": 50}}, "Warning", "Healthy images stay cold: 90% of 50"),
        ({"healthy_cold": {"share": 0.4, "n": 50}}, "Fail", "Healthy images stay cold: 40% of 50"),
        ({"test_opened": 1, "configurations": 1}, "OK", "Test labels: opened once by 1 configuration"),
        ({"test_opened": 4, "configurations": 3}, "Warning", "Test labels: opened 4 times by 3 configurations"),
    ],
)
def test_lights_say_their_state_in_words(make_run, summary, state, said):
    found = checks_of(read_run(make_run(summary=tuple(summary.items()))).evaluations[0])
    assert any(f"{light.word} {light.name}: {light.text}".startswith(f"{state} {said}") for light in found)


def test_lights_stand_on_the_page(plain):
    _, page = plain
    assert "OK Leak between splits: none found" in page.text
    assert "Warning Test labels: opened twice by 1 configuration" in page.text


def test_unknown_patients_are_a_red_notice(make_run):
    _, page = read(make_run(summary=(("patient_rule", "none"),)))
    assert page.all("p", **{"class": "notice", "role": "note"})
    assert "No patient rule" in page.text
    assert "of 17 patients" not in page.text


def test_counts_are_said_in_words(plain):
    _, page = plain
    assert "Dice, IoU, sensitivity, specificity over 41 of 50 images; 9 without a lesion mask" in page.text
    assert "False alarm rate over 20 of 50 images; 30 not healthy" in page.text


def test_without_masks_it_says_so_and_shows_the_rest(make_run):
    _, page = read(make_run(masks=False))
    assert "Localisation not measured" in page.text
    assert "localisation not measured" in page.text.partition("Learning curves")[0]
    assert "Lesion masks to measure with: none" in page.text
    assert "0.5 by default" in page.text
    assert "AUROC" in page.text
    assert "Dice, mean of classes" not in page.text
    assert "true mask not known" in page.text
    assert page.all("img")


def test_without_healthy_images_it_says_so(make_run):
    _, page = read(make_run(healthy=False))
    assert "Not measured Healthy images stay cold" in page.text
    assert "undefined: no healthy image" in page.text


def test_one_class_has_no_mean(make_run):
    run = make_run(classes=("lesion",))
    path = run / "evaluate/val/metrics.csv"
    metrics = pd.read_csv(path)
    metrics[metrics["class"] != "macro"].to_csv(path, index=False)
    _, page = read(run)
    assert "Dice, lesion" in page.text
    assert "Mean of classes" not in page.text


@pytest.mark.parametrize("undefined", [("ring",), ("mass", "ring", "macro")])
def test_undefined_is_a_word(make_run, undefined):
    text, page = read(make_run(undefined=undefined))
    assert "undefined: one class only" in page.text
    readable = re.sub(r"data:image/png;base64,[^\")]*", "", text)
    assert not re.search(r"\bnan\b", readable, re.IGNORECASE)
    if "macro" in undefined:
        assert "No curve can be drawn" in page.text


def test_nan_stands_nowhere(make_run, plain):
    for page in (plain[1], read(make_run(masks=False, healthy=False))[1]):
        assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


@pytest.mark.usefixtures("rendered")
def test_names_are_text_and_never_markup(make_run):
    text, page = read(make_run(classes=("a<b>&$x_1$", "_肿瘤", 'q"><script>x'), name="a<b>&{}.png"))
    assert "a<b>&1.png" in page.text
    assert "a<b>&$x_1$" in page.text
    assert not page.all("script")
    assert "<b>&$x" not in text


def test_nobody_is_named(plain):
    text, page = plain
    assert "slice_01.png" in page.text
    assert "P0031" not in text
    assert "digest-5f3a" not in text
    assert "anna" not in text
    assert "lesioncam run …/brain.csv -o runs/x" in page.text
    assert "…/png" in page.text


def test_the_gallery_opens_with_what_went_wrong(plain):
    _, page = plain
    groups = [a["data-group"] for a in page.all("article")]
    assert list(dict.fromkeys(groups)) == ["missed", "false_alarm", "worst", "median", "best", "healthy"]


def test_every_picture_has_words(plain):
    _, page = plain
    assert all(a.get("alt") for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("div", role="img"))
    assert all(a.get("scope") for a in page.all("th"))


def test_ids_are_unique_and_links_arrive(plain):
    _, page = plain
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= {*ids, "checklist.html"}
    assert {a["href"][1:] for a in page.all("use")} <= set(ids)


def test_test_comes_before_validation(plain):
    _, page = plain
    order(page.text, ["Test set", "opened twice by 1 configuration", "Numbers, test", "Validation: the same numbers"])
    order(page.text, ["Gallery, test", "Numbers, validation", "Gallery, validation", "Split sizes"])
    assert page.all("details", id="val")


def test_one_colour_scale_for_all_pictures(make_run):
    """Two images, one as warm as .3 at most and one as hot as 1: where both are .3, both have the same colour."""
    run = make_run(classes=("mass",))
    folder = run / "evaluate/val"
    for path, hottest in zip(sorted((folder / "arrays").glob("*.npz"))[:2], (0.3, 1.0), strict=True):
        with np.load(path) as found:
            arrays = {key: found[key] for key in found.files}
        arrays["probability"] = np.full_like(arrays["probability"], 0.3)
        arrays["probability"][:, :5, :5] = hottest
        np.savez(path, **arrays)
    _, page = read(run)
    heat = [a for a in page.all("img") if ", heat map," in str(a["alt"])]
    first, second = (pixels(str(a["src"])) for a in heat[:2])
    assert (first[-1, -1] == second[-1, -1]).all()
    assert (first[0, 0] != second[0, 0]).any()
    assert (first[-1, -1] == first[0, 0]).all()


def test_a_large_image_is_made_smaller_with_its_boxes(make_run):
    run = make_run(classes=("mass",), size=(900, 1200))
    _, page = read(run)
    boxes = [a for a in page.all("img") if "predicted boxes" in str(a["alt"]) and "1 box" in str(a["alt"])]
    assert {a["width"] for a in boxes} == {"384"}
    assert {a["height"] for a in boxes} == {"288"}
    blue = (pixels(str(boxes[0]["src"])) == (86, 180, 233, 255)).all(-1)
    with np.load(run / "evaluate/val/arrays/001.npz") as arrays:
        rows, columns = np.nonzero(arrays["masks"][0])
    scale = blue.shape[1] / 1200
    for found, drawn in zip((rows, columns), np.nonzero(blue), strict=True):
        assert (drawn.min() + drawn.max()) / 2 == pytest.approx((found.min() + found.max()) / 2 * scale, abs=2)


def test_pieces_that_were_not_kept_are_missed_in_words(make_run):
    run = make_run()
    for path in (run / "log/history.csv", run / "evaluate/val/curves.npz", run / "evaluate/val/gallery.csv"):
        path.unlink()
    _, page = read(run)
    assert "No learning curve was recorded" in page.text
    assert "No pictures were kept" in page.text


@pytest.mark.usefixtures("rendered")
def test_the_same_run_gives_the_same_report(plain, plain_run):
    assert read(plain_run)[0] == plain[0]


def test_what_is_no_run_says_so(make_run, tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        write_report(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"state": "done"}))
    with pytest.raises(RunError, match="has not been evaluated"):
        write_report(tmp_path)
    run = make_run()
    (run / "evaluate/val/metrics.csv").unlink()
    with pytest.raises(RunError, match=r"metrics\.csv"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_broken_array_file_says_so(make_run):
    run = make_run()
    next((run / "evaluate/val/arrays").iterdir()).write_bytes(b"no zip")
    with pytest.raises(RunError, match="cannot be read"):
        write_report(run)


def test_a_colour_image_lies_grey_under_its_heat_map(make_run):
    def pink(_: int) -> tuple[np.ndarray, np.ndarray]:
        lesion = np.zeros((24, 32), bool)
        lesion[8:14, 10:18] = True
        return np.full((24, 32, 3), (200, 100, 150), np.uint8), lesion

    run = make_run(classes=("mass",), images=pink)
    _, page = read(run)
    own = [str(a["style"]) for a in page.all("figure") if "--image" in str(a.get("style"))]
    grey = pixels(own[0].partition("url(")[2].rstrip(")"))
    assert (grey[0, 0, :3] == grey[0, 0, 0]).all()
    assert len(own) == len(page.all("article"))
