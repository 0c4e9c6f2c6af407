"""A run folder made by hand, with the quirks a report must survive."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lesioncam.geometry import Geometry
from lesioncam.runs.arrays import CaseArrays, CasePicture

GROUPS = ("missed", "false_alarm", "worst", "median", "best", "healthy")
CONTROLS = ("random_map", "centre_prior", "mean_mask")
NAN = float("nan")


@dataclass(frozen=True)
class Made:
    """What the made run is like."""

    classes: tuple[str, ...] = ("mass", "ring")
    splits: tuple[str, ...] = ("val",)
    masks: bool = True
    healthy: bool = True
    undefined: tuple[str, ...] = ()
    name: str = "P0031/slice_{:02d}.png"
    size: tuple[int, int] = (24, 32)
    images: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = None
    summary: tuple[tuple[str, object], ...] = ()


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def picture(made: Made, i: int) -> tuple[np.ndarray, np.ndarray]:
    """One image and where its lesion is."""
    if made.images is not None:
        return made.images(i)
    rng, (h, w) = np.random.default_rng(i), made.size
    lesion = disc(made.size, (h * rng.uniform(0.3, 0.7), w * rng.uniform(0.3, 0.7)), h / 7)
    return (rng.integers(40, 90, made.size) + 60 * lesion).astype(np.uint8), lesion


def heat(lesion: np.ndarray, group: str, hottest: float) -> np.ndarray:
    """A smooth blob: on the lesion, beside it, or nowhere."""
    rows, columns = np.nonzero(lesion if lesion.any() else np.ones_like(lesion))
    h, w = lesion.shape
    shift = {"worst": 0.22, "median": 0.05, "missed": 0.0}.get(group, 0.0)
    y, x = rows.mean() + shift * h, columns.mean() - shift * w
    spread = max(2.0, np.sqrt(lesion.sum()) / 1.6 if lesion.any() else h / 9)
    blob = np.exp(-((np.arange(h)[:, None] - y) ** 2 + (np.arange(w) - x) ** 2) / (2 * spread**2))
    return hottest * blob


def box_of(mask: np.ndarray) -> list[list[int]]:
    if not mask.any():
        return []
    rows, columns = np.nonzero(mask)
    return [[int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]]


def gallery_groups(made: Made) -> Iterator[tuple[str, str]]:
    for group in GROUPS:
        for label in made.classes if group != "healthy" else made.classes[:1]:
            if (made.masks or group in {"missed", "false_alarm", "healthy"}) and (made.healthy or group != "healthy"):
                yield group, label


def write_gallery(made: Made, folder: Path) -> list[dict[str, object]]:
    """Arrays and gallery.csv, in an order that is not the order of the report; returns the lines of cases.csv."""
    lines, cases = [], []
    for i, (group, label) in enumerate(gallery_groups(made)):
        image, lesion = picture(made, i)
        sick = group not in {"healthy", "false_alarm"}
        truth = lesion if sick else np.zeros_like(lesion)
        hottest = {"missed": 0.22, "healthy": 0.06}.get(group, 0.9)
        maps = np.stack([heat(truth, group, hottest if c == label else 0.05) for c in made.classes])
        masks, name = maps >= 0.4, made.name.format(i)
        k, file = made.classes.index(label), f"{i:03d}.npz"
        overlap = (masks[k] & truth).sum() * 2 / max(1, masks[k].sum() + truth.sum())
        drawn = CasePicture(
            image=image,
            shown=made.classes,
            probability=maps.astype(np.float16),
            masks=masks,
            truth=np.stack([truth & (c == label) for c in made.classes]),
            truth_known=np.full(len(made.classes), made.masks or not sick),
        )
        geometry = Geometry.letterbox(made.size, made.size)
        raw = maps.astype(np.float32)
        CaseArrays(made.classes, raw.max(axis=(1, 2)), raw, geometry, drawn).write(folder / "arrays" / file)
        reason = {"missed": "score below its threshold", "healthy": "no finding in the table"}.get(group, "")
        lines.append({"image": name, "class": label, "group": group, "reason": reason, "file": file})
        for c, other in enumerate(made.classes):
            score = float(maps[c].max())
            own = sick and other == label
            cases.append({
                "image": name, "patient": "digest-5f3a", "split": folder.name, "class": other, "method": "cam",
                "state": int(own), "label": float(own), "logit": 0.0, "probability": score, "decision_threshold": 0.5,
                "positive": int(score >= 0.5), "healthy": int(not sick), "map_threshold": 0.4,
                "map_source": "val" if made.masks else "default", "map_p99": score, "map_max": score,
                "area": int(masks[c].sum()), "boxes": json.dumps(box_of(masks[c])), "has_mask": int(made.masks and own),
                "truth_area": int(truth.sum()) if own else 0, "dice": float(overlap) if made.masks and own else NAN,
                "iou": NAN, "sensitivity": NAN, "specificity": NAN, "pointing": NAN, "truth_boxes": 0, "boxes_hit": 0,
                "false_alarm": NAN,
            })  # fmt: skip
    write_rows(folder / "gallery.csv", lines[::-1])
    return cases + [case | {"method": "mean_mask", "dice": 0.123} for case in cases]


def write_metrics(made: Made, folder: Path) -> None:
    rng, rows = np.random.default_rng(7), []

    def add(task: str, metric: str, label: str, method: str, value: float, n: int, undefined: int) -> None:
        spread = 0.04 + 0.02 * rng.random()
        low, high = (max(0.0, value - spread), min(1.0, value + spread)) if np.isfinite(value) else (NAN, NAN)
        rows.append({"task": task, "metric": metric, "class": label, "method": method, "value": value, "low": low,
                     "high": high, "n": n, "undefined": undefined, "threshold": 0.4})  # fmt: skip

    labels = (*made.classes, "macro")
    for label in labels:
        for metric in ("auroc", "average_precision", "balanced_accuracy"):
            value = NAN if label in made.undefined else float(rng.uniform(0.85, 0.99))
            add("classification", metric, label, "cam", value, 50, 0)
    place = [("segmentation", m) for m in ("dice", "iou", "sensitivity", "specificity")]
    place += [("localisation", m) for m in ("pointing_game", "box_hit_rate")]
    for label in labels:
        for method in ("cam", *CONTROLS):
            for task, metric in place:
                value = float(rng.uniform(0.55, 0.75) if method == "cam" else rng.uniform(0.05, 0.2))
                add(task, metric, label, method, value if made.masks else NAN, *((41, 9) if made.masks else (0, 50)))
    for method in ("cam", *CONTROLS):
        value = (0.03 if method == "cam" else 1.0) if made.healthy else NAN
        add("localisation", "false_alarm_rate", "any", method, value, *((20, 30) if made.healthy else (0, 50)))
    write_rows(folder / "metrics.csv", rows)


def write_curves(made: Made, folder: Path) -> None:
    x = np.linspace(0, 1, 60)
    curves = {}
    for i, label in enumerate(made.classes):
        gone = np.full_like(x, NAN) if label in made.undefined else np.zeros_like(x)
        curves |= {f"roc/{label}/fpr": x + gone, f"roc/{label}/tpr": x ** (0.08 + 0.05 * i) + gone}
        curves |= {f"pr/{label}/recall": x + gone, f"pr/{label}/precision": 1 - 0.6 * x ** (6 - i) + gone}
    np.savez(folder / "curves.npz", **curves)


def write_summary(made: Made, folder: Path) -> None:
    source = "val" if made.masks else "default"
    healthy = 20 if made.healthy else 0
    summary = {
        "split": folder.name, "method": "cam", "classes": list(made.classes), "negative": ["healthy"],
        "exclusive": True, "images": 50, "patients": 17, "healthy_images": healthy,
        "images_with_masks": 41 if made.masks else 0,
        "images_by_split": {"train": 200, "val": 50, "test": 50},
        "patients_by_split": {"train": 61, "val": 17, "test": 18},
        "label_counts": {c: {"positive": 90, "negative": 200, "uncertain": 4, "unknown": 6} for c in made.classes},
        "patient_rule": "column patient", "thresholds": {c: {"value": 0.4, "source": source} for c in made.classes},
        "threshold_patients": 17, "seed": 0, "draws": 1000, "test_opened": 0, "configurations": 0, "leaks": [],
        "healthy_cold": {"share": 0.97, "n": healthy} if made.healthy else None,
        "question": f"Do image-level labels teach where {' and '.join(made.classes)} lie?",
        "gallery_rule": "One image of each class and group, picked by rank.",
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary | dict(made.summary)))


def add_rows(folder: Path, rows: list[dict[str, object]]) -> None:
    """More lines for metrics.csv; what a line does not say is empty."""
    path = folder / "metrics.csv"
    with path.open(newline="") as stream:
        old = list(csv.DictReader(stream))
    write_rows(path, [*old, *({key: row.get(key, "") for key in old[0]} for row in rows)])


def row(task: str, metric: str, value: float, **more: object) -> dict[str, object]:
    """One line of metrics.csv, of the mean of classes unless said otherwise."""
    known = {"class": "macro", "method": "cam", "low": value - 0.01, "high": value + 0.01, "n": 50, "undefined": 0}
    return {"task": task, "metric": metric, "value": value, **known, **more}


def write_subgroups(folder: Path, lines: list[tuple[str, str, float, int, int]], metric: str = "auroc") -> None:
    """Groups of columns: column, group, value, images, patients."""
    rows = [
        {"column": column, "group": group, "task": "classification", "metric": metric, "class": "macro",
         "method": "cam", "value": value, "low": value - 0.05, "high": value + 0.05, "n": n, "patients": patients}
        for column, group, value, n, patients in lines
    ]  # fmt: skip
    write_rows(folder / "subgroups.csv", rows)


def write_shortcut(folder: Path, **parts: object) -> None:
    """A shortcut panel without any alarm, unless a part says otherwise."""
    calm = {"mass": {"value": 0.52, "low": 0.45, "high": 0.6, "n": 50}}
    own = {"mass": {"value": 0.95, "low": 0.9, "high": 0.98, "n": 50}}
    panel = {
        "outside_body": {"share": 0.1, "low": 0.06, "high": 0.14, "n": 50, "alarm": 0.2},
        "border": {"share": 0.2, "low": 0.1, "high": 0.3, "n": 50, "alarm": 0.5},
        "border_auroc": calm, "statistics_auroc": calm, "classifier_auroc": own,
        "images": [{"image": "P0031/slice_02.png", "class": "mass", "outside": 0.15, "border": 0.3}],
    }  # fmt: skip
    (folder / "shortcut.json").write_text(json.dumps(panel | parts))


def write_run(root: Path, made: Made) -> Path:
    """A whole run folder without a model."""
    (root / "model").mkdir(parents=True, exist_ok=True)
    (root / "state.json").write_text(json.dumps({"state": "done", "step": "evaluate"}))
    (root / "config.yaml").write_text("seed: 0\npooling:\n  kind: pcam\ntable:\n  images: /home/anna/png\n")
    (root / "model" / "model.json").write_text(json.dumps({"classes": made.classes, "training": {"best_epoch": 7}}))
    (root / "provenance.json").write_text(json.dumps({
        "version": "0.1.0", "command": "lesioncam run /home/anna/brain.csv -o runs/x", "created": "2025-01-02T03:04:05",
        "seed": 0, "hardware": "2 cores, no GPU", "packages": {"torch": "2.8.0"}, "table_digest": "sha256:abc",
    }))  # fmt: skip
    epochs = np.arange(12)
    write_rows(root / "log" / "history.csv", [
        {"epoch": int(e), "train_loss": 0.7 * 0.8**e + 0.05, "val_loss": 0.7 * 0.82**e + 0.1 + 0.004 * max(0, e - 7),
         "val_auroc": 1 - 0.5 * 0.75 ** (e + 1), "learning_rate": 1e-3, "seconds": 3.0} for e in epochs
    ])  # fmt: skip
    for split in made.splits:
        folder = root / "evaluate" / split
        cases = write_gallery(made, folder)
        write_rows(folder / "cases.csv", cases)
        write_metrics(made, folder)
        write_curves(made, folder)
        write_summary(made, folder)
    return root


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without the files of their figures, which take most of the time."""
    monkeypatch.setattr("lesioncam.reporting.report.html.save_plots", lambda plots, folder: [])


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(masks=False, ...)`` writes a run folder and returns it."""
    return lambda **options: write_run(tmp_path / options.pop("folder", "run"), Made(**options))


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with masks, two classes and healthy images, evaluated on val and test; not to be changed."""
    summary = (("test_opened", 2), ("configurations", 1))
    return write_run(tmp_path_factory.mktemp("plain"), Made(splits=("val", "test"), summary=summary))
