"""Finished runs side by side: folders made with the real writers, read, compared and looked at."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lesioncam.errors import LesioncamError, OptionError, RunError
from lesioncam.evaluation.cases import Truth, case_rows, read_cases, write_cases
from lesioncam.evaluation.compare import compare, contenders_of
from lesioncam.files import write_json, write_text
from lesioncam.geometry import Geometry
from lesioncam.options.run import RunConfig, make_config
from lesioncam.reporting.comparison.compared_run import read_compared, split_of
from lesioncam.reporting.comparison.comparison import compare_runs
from lesioncam.reporting.comparison.repetitions import pairs_of, repetitions
from lesioncam.reporting.comparison.settings import settings_of
from lesioncam.reporting.comparison.side_by_side import (
    TITLES,
    RunMaps,
    lineups,
    mask_agreement,
    pick_cases,
    sampled_masks,
)
from lesioncam.runs.arrays import CaseArrays, CasePicture
from lesioncam.runs.card import ClassifierCard, MapsCard, TrainingRecord, write_card
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.gallery import Shown, write_gallery
from lesioncam.segmentation.mask import segment
from lesioncam.types import Calibration, CaseResult, Heatmap, Threshold

pytestmark = pytest.mark.rendered

NATIVE, GRID, CROP = (20, 28), (4, 4), ((2, 18), (4, 28))
CLASSES = ("mass", "ring")
SECRET = "/home/anna/secret"


@dataclass(frozen=True)
class Fake:
    """What a run folder is like; all runs share the world (images, labels, masks)."""

    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    images: range = range(24)
    shift: float = 0.0
    scores: bool = True
    foreign: bool = False
    masks: bool = True
    kept: int = 24
    classes: tuple[str, ...] = CLASSES
    colour: bool = False


def world(i: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Picture, lesion of either class, labels; every third image is healthy."""
    rng = np.random.default_rng(1000 + i)
    masks = np.zeros((2, *NATIVE), bool)
    y, x = rng.integers(4, 12), rng.integers(8, 20)
    label = int(rng.integers(2))
    if i % 3:
        masks[label, y : y + 4, x : x + 5] = True
    return rng.integers(30, 90, NATIVE).astype(np.uint8), masks, [float(m.any()) for m in masks]


def result_of(fake: Fake, i: int) -> CaseResult:
    """RunMaps that follow the lesion as well as the run can."""
    rng = np.random.default_rng([fake.seed, i])
    _, masks, labels = world(i)
    geometry = Geometry.letterbox(NATIVE, NATIVE) if fake.foreign else Geometry.letterbox(NATIVE, (32, 32), crop=CROP)
    origin = None if fake.foreign else (3.5, 3.5)
    evidence = np.stack([geometry.to_cells(m, GRID, origin) for m in masks])
    raw = (8 * evidence - 3 + fake.shift + rng.normal(0, 0.5, evidence.shape)).astype(np.float32)[: len(fake.classes)]
    count = len(fake.classes)
    heatmap = Heatmap(raw, fake.classes, "theirs" if fake.foreign else "cam", "x", geometry, SCALE(count), origin)
    logits = np.array([4 * v - 2 for v in labels[:count]], np.float32) + rng.normal(0, 1.5, count).astype(np.float32)
    logits = logits if fake.scores else np.full(count, np.nan, np.float32)
    levels = (Threshold(0.4, "val"),) * count
    probabilities = 1 / (1 + np.exp(-logits))
    return CaseResult(
        f"p{i // 2}/slice_{i:02d}.png", "", fake.classes, logits, probabilities, (Threshold(0.5),) * count, heatmap,
        segment(heatmap, levels),
    )  # fmt: skip


def SCALE(count: int) -> Calibration:
    return Calibration((1.5,) * count, (0.25,) * count)


def truth_of(fake: Fake, i: int) -> Truth:
    _, masks, labels = world(i)
    known = {name: masks[k] for k, name in enumerate(fake.classes) if fake.masks and labels[k]}
    values = labels[: len(fake.classes)]
    patient = hashlib.sha256(f"{fake.seed}{i // 2}".encode()).hexdigest()[:16]
    return Truth(values, values, patient, fake.split, known)


def write_run(root: Path, fake: Fake = Fake()) -> Path:
    """A run folder without weights, with the files a comparison reads."""
    folder = RunFolder(root)
    place = folder.evaluation(fake.split)
    rows, shown = [], []
    for i in fake.images:
        result, truth = result_of(fake, i), truth_of(fake, i)
        rows += case_rows(result, truth)
        kept = i - fake.images.start < fake.kept
        path = folder.arrays(fake.split, result.id)
        CaseArrays.of(result, picture_of(fake, i, result) if kept else None).write(path)
        shown += [Shown(result.id, "mass", "best", "", path.name)] if kept else []
    write_cases(place / "cases.csv", rows)
    write_gallery(place / "gallery.csv", shown)
    write_facts(folder, fake)
    return root


def picture_of(fake: Fake, i: int, result: CaseResult) -> CasePicture:
    picture, masks, _ = world(i)
    return CasePicture(
        image=np.stack([picture] * 3, -1) if fake.colour else picture,
        shown=fake.classes,
        probability=result.heatmap.probability().astype(np.float16),
        masks=result.segmentation.masks,
        truth=masks[: len(fake.classes)],
        truth_known=np.ones(len(fake.classes), bool),
    )


def write_facts(folder: RunFolder, fake: Fake) -> None:
    config = make_config(RunConfig(), seed=fake.seed, size=32, images=Path(SECRET) / "png", **fake.options)
    write_text(folder.config, yaml.safe_dump(config.model_dump(mode="json")))
    scale = SCALE(len(fake.classes))
    if fake.foreign:
        write_card(folder.maps, MapsCard(fake.classes, config, calibration=scale, method="theirs"))
    else:
        training = TrainingRecord(best_epoch=7, epochs=9, images=100, interrupted=False)
        card = ClassifierCard(fake.classes, config, calibration=scale, origin=(3.5, 3.5), training=training)
        write_card(folder.model, card)
    write_json(folder.state, {"state": "done", "step": "report"})
    write_json(folder.provenance, {
        "version": "0.1.0", "command": f"lesioncam run {SECRET}/brain.csv", "seed": fake.seed, "hardware": "2 cores",
        "packages": {"torch": "2.8.0"}, "table_digest": "abcdef0123456789",
    })  # fmt: skip
    write_json(folder.evaluation(fake.split) / "summary.json", {
        "split": fake.split, "method": "theirs" if fake.foreign else "cam", "foreign": fake.foreign,
        "classes": list(fake.classes), "exclusive": False,
        "images_by_split": {"train": 100, "val": 30, "test": 24},
        "patients_by_split": {"train": 50, "val": 15, "test": 12},
        "patient_rule": f"column patient of {SECRET}/brain.csv",
        "thresholds": {name: {"value": 0.4, "source": "val"} for name in fake.classes}, "threshold_patients": 15,
        "test_opened": 3, "configurations": 2, "calibration": {"images": "none", "maps": "platt", "rule": "youden"},
    })  # fmt: skip


@pytest.fixture
def without_figures(monkeypatch) -> None:
    """Comparisons are written without the files of their figures, which take most of the time."""
    monkeypatch.setattr("lesioncam.reporting.comparison.comparison.save_plots", lambda plots, folder: [])


@pytest.fixture
def without_plots(monkeypatch, without_figures) -> None:
    """Pages without any plot: they are looked at elsewhere."""
    for name in ("value_plots", "difference_plots"):
        monkeypatch.setattr(f"lesioncam.reporting.comparison.comparison.{name}", lambda table: [])


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[list[Path], Path]:
    """Two of ours and another tool's, compared."""
    root = tmp_path_factory.mktemp("three")
    folders = [
        write_run(root / "runs" / "ours_1"),
        write_run(root / "runs" / "ours_2", Fake(seed=1, options={"pooling": "avg"}, shift=-1.5)),
        write_run(root / "runs" / "theirs & co", Fake(seed=2, foreign=True, scores=False)),
    ]
    page = compare_runs(folders, root / "comparison", draws=200)
    return folders, page


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>|data:image[^\"')]+", " ", page.read_text()))


# ---- the folder --------------------------------------------------------------------------------------------------


def test_the_folder_is_whole_and_nothing_else_is_left(three):
    _, page = three
    out = page.parent
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"comparison.html", "comparison.csv", "differences.csv", "comparison.tex", "methods.txt",
            "references.bib", "figures/values-dice.svg", "figures/differences-dice.png"} <= names  # fmt: skip
    assert {path.suffix for path in (out / "figures").iterdir()} == {".svg", ".png"}
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_the_tables_are_those_of_the_comparison(three):
    folders, page = three
    runs = {folder.name: read_cases(RunFolder(folder).evaluation("test") / "cases.csv") for folder in folders}
    wanted = compare(contenders_of(runs), draws=200)
    values = pd.read_csv(page.parent / "comparison.csv")
    assert list(values)[:7] == ["metric", "class", "run", "value", "low", "high", "n"]
    np.testing.assert_allclose(values["value"], wanted.estimates["value"])
    np.testing.assert_allclose(values["low"], wanted.estimates["low"])
    differences = pd.read_csv(page.parent / "differences.csv")
    np.testing.assert_allclose(differences["low_corrected"], wanted.differences["low_corrected"])
    assert set(differences["tie"].dropna()) <= {0, 1}
    assert not values[values["run"] == "theirs & co"]["value"].isna().all()


def test_the_page_stands_alone_and_tells_no_path(three, tmp_path):
    folders, page = three
    text = page.read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]+", text)
    assert "http" not in re.sub(r"http://www\.w3\.org[^\"]*", "", text)
    for path in page.parent.rglob("*"):
        if path.suffix in {".html", ".csv", ".tex", ".txt", ".bib", ".svg"}:
            content = path.read_text()
            assert SECRET not in content
            assert "anna" not in content
            assert str(folders[0].parent) not in content
    for word in ("theirs &amp; co", "no image scores at all", "Holm", "What differed", "not known"):
        assert word in text, word


def test_pictures_show_image_truth_and_every_run(three):
    _, page = three
    text = page.read_text()
    cases = re.findall(r'<article class="case" data-group="(\w+)">(.*?)</article>', text, flags=re.DOTALL)
    assert {group for group, _ in cases} == set(TITLES)
    for _, body in cases:
        assert re.findall(r"<b>(.*?)</b>", body) == ["Image", "Truth", "ours_1", "ours_2", "theirs &amp; co"]
        assert "not kept" not in body
    names = re.findall(r"<h4>(\S+)", text)
    assert len(names) == len(set(names))


def test_the_same_numbers_give_the_same_files(three, tmp_path):
    folders, page = three
    again = compare_runs(folders, tmp_path / "again", draws=200)
    for name in ("comparison.html", "comparison.csv", "comparison.tex", "figures/values-dice.png"):
        assert (again.parent / name).read_bytes() == (page.parent / name).read_bytes()


@pytest.mark.usefixtures("without_plots")
def test_an_earlier_comparison_is_replaced_only_when_asked(tmp_path):
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", Fake(seed=1))]
    page = compare_runs(folders, tmp_path / "out", draws=20)
    (page.parent / "old.txt").write_text("of yesterday")
    with pytest.raises(RunError, match="--overwrite"):
        compare_runs(folders, tmp_path / "out", draws=20)
    compare_runs(folders, tmp_path / "out", draws=20, overwrite=True)
    assert not (tmp_path / "out" / "old.txt").exists()


@pytest.mark.usefixtures("without_plots")
def test_nothing_else_is_ever_overwritten(tmp_path):
    folders = [write_run(tmp_path / "runs/a"), write_run(tmp_path / "runs/b", Fake(seed=1))]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for out in (tmp_path / "mine", tmp_path / "runs/a", tmp_path / "runs"):
        with pytest.raises(RunError, match="another folder|of its own"):
            compare_runs(folders, out, draws=20, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


@pytest.mark.usefixtures("without_plots")
def test_a_failure_leaves_the_earlier_comparison(tmp_path, monkeypatch):
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", Fake(seed=1))]
    page = compare_runs(folders, tmp_path / "out", draws=20)
    before = page.read_bytes()
    monkeypatch.setattr("lesioncam.reporting.comparison.comparison.bibliography", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare_runs(folders, tmp_path / "out", draws=20, overwrite=True)
    assert page.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


# ---- what is asked -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_plots")
def test_bad_questions_are_refused_in_a_sentence(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", Fake(split="val"))
    with pytest.raises(OptionError, match="at least two runs, got 1"):
        compare_runs([a], tmp_path / "out")
    with pytest.raises(OptionError, match="named twice"):
        compare_runs([a, a], tmp_path / "out")
    with pytest.raises(OptionError, match="'train' cannot be compared"):
        compare_runs([a, b], tmp_path / "out", split="train")
    with pytest.raises(OptionError, match="0 draws"):
        compare_runs([a, b], tmp_path / "out", draws=0)
    with pytest.raises(RunError, match="not all evaluated on one split .a: test; b: val.*evaluate .*b --split test"):
        compare_runs([a, b], tmp_path / "out")
    with pytest.raises(RunError, match="no run folder"):
        compare_runs([a, tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_plots")
def test_val_is_compared_where_not_all_have_test_and_called_optimistic(tmp_path):
    folders = [write_run(tmp_path / n, Fake(seed=s, split="val")) for s, n in enumerate("ab")]
    assert split_of(folders) == "val"
    assert "optimistic" in text_of(compare_runs(folders, tmp_path / "out", draws=20))


@pytest.mark.usefixtures("without_plots")
def test_runs_of_one_name_are_told_apart_by_their_parents(tmp_path):
    folders = [write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run", Fake(seed=1))]
    assert [run.name for run in read_compared(folders, "test")] == ["x/run", "y/run"]
    assert "x/run" in compare_runs(folders, tmp_path / "out", draws=20).read_text()


@pytest.mark.usefixtures("without_plots")
def test_another_truth_is_refused_by_the_name_of_the_image(tmp_path):
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", Fake(seed=1))]
    path = RunFolder(folders[1]).evaluation("test") / "cases.csv"
    cases = read_cases(path)
    cases.loc[2, "label"] = 1 - cases.loc[2, "label"]
    write_cases(path, cases)
    with pytest.raises(LesioncamError, match=re.escape(cases["image"][2])):
        compare_runs(folders, tmp_path / "out", draws=20)


@pytest.mark.usefixtures("without_plots")
def test_images_and_classes_left_out_are_said(tmp_path):
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", Fake(seed=1, images=range(4, 24), classes=("mass",))),
    ]
    text = text_of(compare_runs(folders, tmp_path / "out", draws=20))
    assert "the 20 images of 10 patients" in text.replace("  ", " ").replace(" <b>", " ")
    assert "4 images of a are left out" in text
    assert "Of a the classes ring are left out" in text


@pytest.mark.usefixtures("without_plots")
def test_without_masks_the_page_still_compares_scores(tmp_path):
    folders = [write_run(tmp_path / n, Fake(seed=s, masks=False)) for s, n in enumerate("ab")]
    page = compare_runs(folders, tmp_path / "out", draws=20)
    text = text_of(page)
    assert "AUROC" in text
    assert "probability 0." in text
    assert "Dice" not in (tmp_path / "out" / "comparison.tex").read_text()


@pytest.mark.usefixtures("without_plots")
def test_a_colour_picture_turns_grey_under_heat(tmp_path):
    folders = [write_run(tmp_path / n, Fake(seed=s, colour=True)) for s, n in enumerate("ab")]
    text = compare_runs(folders, tmp_path / "out", draws=20).read_text()
    body = text[text.index('<article class="case"') :]
    assert body[: body.index("</article>")].count('<figure style="--image') == 2  # of image, truth and two runs


# ---- settings and repetitions ------------------------------------------------------------------------------------


def lines_of(folders: list[Path]) -> dict[str, tuple[tuple[str | None, ...], bool]]:
    return {line.name: (line.by_run, line.differs) for line in settings_of(read_compared(folders, "test"))}


def test_what_differed_and_what_was_equal(three):
    lines = lines_of(three[0])
    assert lines["Pooling"] == (("lse, sharpness 10.0", "avg", None), True)
    assert lines["Initial weights"] == (("random, seed 0", "random, seed 1", None), True)
    assert lines["Order of images and augmentation"][1]
    assert lines["Backbone"] == (("slim, stride 8", "slim, stride 8", None), False)
    assert lines["Images seen in training"] == (("900 (9 epochs of 100)", "900 (9 epochs of 100)", None), False)
    assert lines["Configurations that opened them"] == (("2", "2", "2"), False)
    assert lines["Labels and split (digest of the table)"] == (("abcdef012345",) * 3, False)
    assert lines["Map method"] == (("cam", "cam", "theirs"), True)
    assert lines["Calibration of maps"] == (("platt",) * 3, False)
    assert SECRET not in json.dumps(lines)


@pytest.mark.usefixtures("without_plots")
def test_seeds_are_repetitions_and_architectures_are_not(tmp_path):
    wide = {"backbone": "resnet18"}
    folders = [
        write_run(tmp_path / "s0"), write_run(tmp_path / "s1", Fake(seed=1)), write_run(tmp_path / "s2", Fake(seed=2)),
        write_run(tmp_path / "w0", Fake(seed=3, options=wide)),
        write_run(tmp_path / "avg", Fake(seed=4, options={"pooling": "avg"})),
        write_run(tmp_path / "theirs", Fake(seed=5, foreign=True)),
    ]  # fmt: skip
    runs = read_compared(folders, "test")
    groups = repetitions(runs)
    assert {name: [run.name for run in members] for name, members in groups.items()} == {
        "Seeds: s0, s1, s2": ["s0", "s1", "s2"]
    }
    kinds = {(pair.first.name, pair.second.name): pair.kind.split()[0] for pair in pairs_of(runs)}
    assert kinds["s0", "s1"] == "repeatability"
    assert kinds["s0", "w0"] == "reproducibility"
    assert kinds["s0", "avg"] == kinds["w0", "avg"] == "other"
    assert kinds["s0", "theirs"] == "another"
    text = text_of(compare_runs(folders[:4], tmp_path / "out", draws=20))
    assert "Seeds: s0, s1, s2" in text
    assert "reproducibility (other architecture)" in text
    assert "one configuration, repeated" not in text
    assert "one configuration, repeated" in text_of(compare_runs(folders[:3], tmp_path / "seeds", draws=20))


@pytest.mark.usefixtures("without_plots")
def test_folds_share_no_image_and_show_their_spread(tmp_path):
    folders = [write_run(tmp_path / f"fold{k}", Fake(images=range(24 * k, 24 * k + 24))) for k in range(3)]
    page = compare_runs(folders, tmp_path / "out", draws=50)
    text = text_of(page)
    assert "Folds: fold0, fold1, fold2" in text
    values = pd.read_csv(page.parent / "comparison.csv")
    own = values[(values["metric"] == "dice") & (values["class"] == "macro")]["value"]
    assert f"{own.mean():.3f}" in text
    assert f"{own.std():.3f}" in text
    assert pd.read_csv(page.parent / "differences.csv").empty
    assert "Differences are paired" not in (page.parent / "methods.txt").read_text()


@pytest.mark.usefixtures("without_plots")
def test_folds_of_two_configurations_have_nothing_to_compare(tmp_path):
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", Fake(images=range(30, 40), options={"pooling": "avg"})),
    ]
    with pytest.raises(RunError, match="no image in common"):
        compare_runs(folders, tmp_path / "out", draws=20)


# ---- maps and cases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreign", [False, True])
def test_maps_from_kept_raw_values_are_those_of_the_evaluation(tmp_path, foreign):
    fake = Fake(foreign=foreign, kept=3)
    run = read_compared([write_run(tmp_path / "a", fake), write_run(tmp_path / "b", Fake(seed=1))], "test")[0]
    maps = RunMaps.of(run, "theirs" if foreign else "cam")
    for i in (1, 7, 20):  # the first has its picture
        result = result_of(fake, i)
        for k, label in enumerate(CLASSES):
            found = maps.probability(result.id, label)
            np.testing.assert_allclose(found, result.heatmap.probability()[k], atol=1e-3 if i == 1 else 1e-6)
            if i > 1:
                np.testing.assert_array_equal(maps.mask(result.id, label), result.segmentation.masks[k])
    assert len(maps.pictures()) == 3
    assert maps.probability("nobody", "mass") is None
    assert maps.probability(result_of(fake, 1).id, "no such class") is None


@pytest.mark.usefixtures("without_plots")
def test_masks_agree_with_themselves_and_not_with_others(tmp_path):
    fakes = [Fake(), Fake(seed=1, shift=2.0)]
    runs = read_compared([write_run(tmp_path / n, f) for n, f in zip("ab", fakes, strict=True)], "test")
    cases = [(result_of(fakes[0], i).id, "mass") for i in range(24)]
    first, second = (sampled_masks(RunMaps.of(run, "cam"), cases) for run in runs)
    assert mask_agreement(first, first)[0] == 1
    slow = []
    for i in range(24):
        a, b = (result_of(fake, i).segmentation.masks[0] for fake in fakes)
        if a.any() or b.any():
            slow.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    value, count = mask_agreement(first, second)
    assert count == len(slow)
    assert value == pytest.approx(np.mean(slow), abs=0.02)  # pictures are kept in half precision
    assert mask_agreement([None], first[:1])[1] == 0


def common_of(dice: dict[str, tuple[float, float]]):
    """Two runs, one class, one healthy image; Dice of each image in both."""
    rows = [{"image": name, "patient": name, "class": "mass", "method": "cam", "label": 1, "logit": 0.0, "has_mask": 1,
             "truth_area": 5, "healthy": 0} for name in dice]  # fmt: skip
    rows.append({"image": "h", "patient": "h", "class": "mass", "method": "cam", "label": 0, "healthy": 1})
    frames = []
    for run in range(2):
        frame = pd.DataFrame(rows).reindex(columns=[*rows[0], "probability", "positive", "decision_threshold",
            "map_threshold", "iou", "pointing", "truth_boxes", "boxes_hit", "false_alarm"])  # fmt: skip
        frames.append(frame.assign(dice=[*(pair[run] for pair in dice.values()), np.nan]))
    return compare(contenders_of(dict(zip("ab", frames, strict=True))), draws=5).common


def test_cases_are_picked_by_the_rule_each_image_once():
    dice = {"a": (0.1, 0.9), "b": (0.2, 0.8), "c": (0.0, 0.0), "d": (0.05, 0.0), "e": (0.9, 0.9), "f": (0.8, 0.8),
            "g": (0.5, 0.5), "i": (0.45, 0.5), "j": (0.3, 0.4), "k": (0.6, 0.6)}  # fmt: skip
    picks = pick_cases(common_of(dice), {*dice, "h"}, {("h", "mass"): 0.7})
    found: dict[str, list[str]] = {}
    for pick in picks:
        found.setdefault(pick.group, []).append(pick.image)
    assert found == {
        "apart": ["a", "b"],
        "miss": ["c", "d"],
        "find": ["e", "f"],
        "middle": ["g", "i"],
        "healthy": ["h"],
    }
    assert picks[0].why == "Dice 0.10 to 0.90"


def test_equal_cases_go_by_name_and_only_where_a_picture_was_kept():
    dice = dict.fromkeys("dcba", (0.5, 0.5))
    picks = pick_cases(common_of(dice), {"b", "c", "d"}, {})
    assert [pick.image for pick in picks][:3] == ["b", "c", "d"]
    assert pick_cases(common_of(dice), set(), {}) == []


@pytest.mark.usefixtures("without_plots")
def test_lineups_use_one_colour_scale_for_all_runs(tmp_path):
    """The same probability has the same colour, however hot the rest of a run's maps is."""
    fakes = [Fake(), Fake(shift=-3.0)]
    runs = read_compared([write_run(tmp_path / n, f) for n, f in zip("ab", fakes, strict=True)], "test")
    common = compare(contenders_of({run.name: run.cases for run in runs}), draws=5).common
    drawn = lineups({run.name: RunMaps.of(run, "cam") for run in runs}, common)
    warm = [panel.layer for one in drawn for panel in one.panels[2:3] if (panel.layer[..., 3] % 255 > 0).any()]
    assert warm
    for one in drawn:
        hot, cold = (panel.layer[..., 3].astype(float).mean() for panel in one.panels[2:])
        assert cold <= hot
        assert one.panels[0].note == ""
    healthy = [one for one in drawn if one.pick.group == "healthy"]
    assert healthy
    assert healthy[0].panels[3].layer[..., 3].max() == 0  # a cold map leaves the image as it is
