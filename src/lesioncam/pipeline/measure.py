"""Thresholds from validation, and the measurement of one split: the only place where a model meets the truth."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lesioncam.data.io import read_image
from lesioncam.data.preprocess import display_image
from lesioncam.data.table import SPLITS, Table, digest, read_table
from lesioncam.errors import RunError
from lesioncam.evaluation.cases import Truth, case_rows, read_cases, write_cases
from lesioncam.evaluation.controls import CONTROLS, ControlMap, MeanMask, Scene, control_maps
from lesioncam.evaluation.gallery import RULE, pick_gallery
from lesioncam.evaluation.ledger import open_split
from lesioncam.evaluation.protocol import check_roles, patient_digest, require_validation
from lesioncam.evaluation.summary import curves, summarise
from lesioncam.files import RunFolder, read_json, write_json, write_with
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier, update_card
from lesioncam.pipeline.case import analyse
from lesioncam.pipeline.truth import read_masks, read_truth
from lesioncam.segmentation.threshold import DEFAULT, DiceSearch, decision_threshold, fitted_thresholds
from lesioncam.types import Calibration, CaseResult, Record, Threshold

__all__ = ["Progress", "calibrate", "measure", "run_table"]

logger = logging.getLogger(__name__)

Progress = Callable[[Iterator[Any], int, str], Iterator[Any]]
"""Wraps a stream to show how far it is: (stream, length, what)."""


def silent(stream: Iterator[Any], _length: int, _what: str) -> Iterator[Any]:
    """Show nothing."""
    return stream


@dataclass(frozen=True)
class _Part:
    """One split of a run, ready to be walked through."""

    table: Table
    classifier: TrainedClassifier
    key: bytes

    @property
    def labels(self) -> np.ndarray:
        policy = self.classifier.card.config.table
        return self.table.labels(uncertain=policy.uncertain, blank=policy.blank)

    @property
    def digests(self) -> list[str]:
        return [patient_digest(self.key, str(patient)) for patient in self.table.patients()]

    def walk(self, threshold: str | float) -> Iterator[tuple[CaseResult, Truth]]:
        """Each image through the whole path, beside its truth."""
        for record, labels, patient in zip(self.table.records(), self.labels, self.digests, strict=True):
            result = analyse(self.classifier, record.image, name=record.id, threshold=threshold)
            yield result, self.truth(record, labels, patient, result.heatmap.geometry.native)

    def truth(self, record: Record, labels: np.ndarray, patient: str, size: tuple[int, ...]) -> Truth:
        return read_truth(record, self.table.classes, [float(v) for v in labels], size, patient)

    def mean_masks(self) -> MeanMask:
        """Mean mask of each class; each image is only opened for its size where it has a mask."""
        mean = MeanMask(self.table.classes)
        for record, labels in zip(self.table.records(), self.labels, strict=True):
            if record.masks:
                size = read_image(record.image).shape[:2]
                for name, mask in read_masks(record, self.table.classes, labels, size).items():
                    mean.add(self.table.classes.index(name), mask)
        return mean


def run_table(folder: RunFolder) -> Table:
    """The run's own copy of its table, read as it was read at first.

    Raises:
        RunError: if the folder is no run.
    """
    if not folder.table.is_file():
        raise RunError(f"{folder.root} holds no table.csv; give a folder that `lesioncam run` wrote.")
    return read_table(folder.table)


def calibrate(
    folder: RunFolder, *, pooling: Callable[..., Tensor] | None = None, progress: Progress = silent
) -> TrainedClassifier:
    """Choose thresholds and the controls' means on validation, and write them beside the model.

    Map thresholds maximise the mean per-image Dice of each class (resize, then threshold); a class without masks gets
    .5, called ``default``. Image thresholds maximise Youden's J.

    Raises:
        RunError: if the run has no model.
    """
    classifier = load_classifier(folder.root, pooling=pooling)
    part = _Part(run_table(folder).split(require_validation("val")), classifier, _key(folder))
    means = part.mean_masks()
    seed = classifier.card.config.seed
    searches = {name: DiceSearch(len(classifier.classes)) for name in (classifier.card.config.map, *CONTROLS)}
    scores = []
    for result, truth in progress(part.walk("default"), len(part.table), "thresholds on val"):
        scores.append(result.probabilities)
        if not truth.masks:
            continue
        maps = {result.heatmap.method: result.heatmap.probability()}
        maps |= control_maps(Scene(result.id, result.heatmap, means, seed))
        for name, mask in truth.masks.items():
            k = classifier.classes.index(name)
            for method, search in searches.items():
                search.add(k, maps[method][k], mask)
    tuned = frozenset(part.digests)
    asked = classifier.card.config.threshold
    thresholds = {name: fitted_thresholds(search.best(), tuned) for name, search in searches.items()}
    if asked != "val":
        own = Threshold(DEFAULT, "default") if asked == "default" else Threshold(float(asked), "given")
        thresholds[classifier.card.config.map] = (own,) * len(classifier.classes)
    decisions = tuple(
        Threshold(decision_threshold(column, truth), "val", tuned)
        for column, truth in zip(np.array(scores).T, part.labels.T, strict=True)
    )
    means.save(_controls(folder).with_suffix(".npz"))
    chosen = {name: [{"value": t.value, "source": t.source} for t in thresholds[name]] for name in CONTROLS}
    write_json(_controls(folder), chosen)
    update_card(
        folder,
        thresholds=thresholds[classifier.card.config.map],
        decisions=decisions,
        calibration=Calibration.of_classifier(len(classifier.classes)),
    )
    return load_classifier(folder.root, pooling=pooling)


def measure(
    folder: RunFolder,
    split: str = "val",
    *,
    threshold: str | float = "val",
    pooling: Callable[..., Tensor] | None = None,
    progress: Progress = silent,
) -> Path:
    """Measure one split and write cases.csv, metrics.csv, curves.npz, gallery.csv, arrays and summary.json.

    Args:
        folder: a calibrated run.
        split: ``val`` or ``test``; opening test is counted in the ledger before anything is read.
        threshold: ``val`` (chosen on validation), ``default`` (.5) or a probability.
        pooling: the user's own callable, where the run was trained with one.
        progress: how to show how far it is.

    Raises:
        RunError: for a split without images, or a run without thresholds.
        LesioncamError: if a patient would play two roles.
    """
    table = run_table(folder)
    classifier = load_classifier(folder.root, pooling=pooling)
    part = _Part(table.split(split), classifier, _key(folder))
    if not len(part.table):
        present = ", ".join(name for name in SPLITS if len(table.split(name))) or "none"
        raise RunError(f"the table has no images in split {split!r}; splits with images: {present}.")
    if classifier.card.thresholds is None and threshold == "val":
        raise RunError(
            f"{folder.root} has no thresholds yet; finish it with --resume, or use --threshold default (.5)."
        )
    members = {name: _Part(table.split(name), classifier, part.key).digests for name in SPLITS}
    applied = (*(classifier.card.thresholds or ()), *(classifier.card.decisions or ()))
    optimistic = check_roles(members, split, applied)
    ledger = open_split(folder.ledger, split, _configuration(folder), digest(table))

    place = folder.evaluation(split)
    rows, names = _measure_cases(part, folder, place, threshold, progress)
    write_cases(place / "cases.csv", rows)
    cases = read_cases(place / "cases.csv")
    config = classifier.card.config
    metrics = summarise(cases, exclusive=table.exclusive, draws=config.draws, seed=config.seed)
    write_with(place / "metrics.csv", lambda p: metrics.to_csv(p, index=False, lineterminator="\n"))
    points = curves(cases)
    write_with(place / "curves.npz", lambda p: np.savez_compressed(p, **points))  # type: ignore[arg-type]
    _write_gallery(part, cases, names, place, threshold)
    facts = _facts(part, table, cases, members) | {
        "thresholds_chosen_here": optimistic,
        "test_opened": ledger.times,
        "configurations": ledger.configurations,
    }
    write_json(place / "summary.json", facts)
    return place


def _measure_cases(
    part: _Part, folder: RunFolder, place: Path, threshold: str | float, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of cases.csv, and the array file of each image."""
    means, given = _chosen_controls(folder)
    seed = part.classifier.card.config.seed
    rows: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for result, truth in progress(part.walk(threshold), len(part.table), f"measuring {truth_name(part)}"):
        controls = {}
        if given and (truth.masks or truth.boxes or truth.healthy):
            maps = control_maps(Scene(result.id, result.heatmap, means, seed))
            controls = {name: ControlMap(maps[name], given[name]) for name in maps}
        rows += case_rows(result, truth, controls)
        names[result.id] = f"{_slug(result.id)}.npz"
        _write_arrays(place / "arrays" / names[result.id], result)
    return rows, names


def _chosen_controls(folder: RunFolder) -> tuple[MeanMask, dict[str, list[Threshold]]]:
    """The controls' mean masks and thresholds; none for a model that was never calibrated."""
    if not _controls(folder).is_file():
        return MeanMask(()), {}
    chosen = read_json(_controls(folder))
    given = {name: [Threshold(t["value"], t["source"]) for t in chosen[name]] for name in CONTROLS}
    return MeanMask.load(_controls(folder).with_suffix(".npz")), given


def truth_name(part: _Part) -> str:
    """The split's name."""
    return str(part.table.frame["split"].iloc[0])


def _write_arrays(path: Path, result: CaseResult, **extra: np.ndarray) -> None:
    geometry = result.heatmap.geometry
    write_with(
        path,
        lambda p: np.savez_compressed(
            p,
            raw=result.heatmap.raw,
            logits=result.logits,
            classes=np.array(result.classes),
            native=np.array(geometry.native),
            crop=np.array(geometry.crop),
            **extra,  # type: ignore[arg-type]
        ),
    )


def _write_gallery(
    part: _Part, cases: pd.DataFrame, names: dict[str, str], place: Path, threshold: str | float
) -> None:
    """The chosen images once more, with pixels, for a report that needs the run folder only."""
    gallery = pick_gallery(cases)
    wanted = set(gallery["image"])
    rows = [i for i, name in enumerate(part.table.frame["id"]) if name in wanted]
    few = _Part(part.table.take(rows), part.classifier, part.key)
    paths = dict(zip(few.table.frame["id"], few.table.frame["image"], strict=True))
    for result, truth in few.walk(threshold):
        native = result.heatmap.geometry.native
        masks = [truth.masks.get(name, np.zeros(native, dtype=bool)) for name in result.classes]
        known = [name in truth.masks or label == 0 for name, label in zip(result.classes, truth.labels, strict=True)]
        _write_arrays(
            place / "arrays" / names[result.id],
            result,
            image=display_image(read_image(paths[result.id])),
            probability=result.heatmap.probability().astype(np.float16),
            masks=result.segmentation.masks,
            truth=np.stack(masks),
            truth_known=np.array(known),
        )
    gallery = gallery.assign(file=[names[image] for image in gallery["image"]])
    write_with(place / "gallery.csv", lambda p: gallery.to_csv(p, index=False, lineterminator="\n"))


def _facts(part: _Part, table: Table, cases: pd.DataFrame, members: dict[str, list[str]]) -> dict[str, Any]:
    card = part.classifier.card
    own = cases[cases["method"] == card.config.map]
    images = own.drop_duplicates("image")
    masked = own[own["has_mask"] == 1]
    thresholds = card.thresholds or ()
    return {
        "split": truth_name(part),
        "method": card.config.map,
        "pooling": card.config.pooling.kind,
        "classes": list(card.classes),
        "negative": list(table.negative),
        "exclusive": table.exclusive,
        "images": len(images),
        "patients": int(images["patient"].nunique()),
        "healthy_images": int((images["healthy"] == 1).sum()),
        "images_with_masks": int(masked["image"].nunique()),
        "images_by_split": {name: len(table.split(name)) for name in SPLITS},
        "patients_by_split": {name: len(set(members[name])) for name in SPLITS},
        "label_counts": _label_counts(table),
        "patient_rule": table.patient_rule,
        "thresholds": {
            n: {"value": t.value, "source": t.source} for n, t in zip(card.classes, thresholds, strict=False)
        },
        "threshold_patients": len(thresholds[0].tuned_on) if thresholds else 0,
        "seed": card.config.seed,
        "draws": card.config.draws,
        "leaks": [],  # a patient in two splits never gets this far; near-copies are another check's business
        "healthy_cold": _healthy_cold(own),
        "question": _question(card.classes),
        "gallery_rule": RULE,
    }


def _healthy_cold(own: pd.DataFrame) -> dict[str, float] | None:
    """Share of healthy images whose 99th percentile stays below the threshold for every class."""
    healthy = own[own["healthy"] == 1]
    if healthy.empty:
        return None
    cold = (healthy["map_p99"] < healthy["map_threshold"]).groupby(healthy["image"]).all()
    return {"share": float(cold.mean()), "n": len(cold)}


def _label_counts(table: Table) -> dict[str, dict[str, int]]:
    counts = {}
    for name, states in zip(table.classes, table.states.T, strict=True):
        counts[name] = {
            "positive": int((states == 1).sum()),
            "negative": int((states == 0).sum()),
            "uncertain": int((states == -1).sum()),
            "unknown": int(np.isnan(states).sum()),
        }
    return counts


def _question(classes: Sequence[str]) -> str:
    return f"Which images show {', '.join(classes)}, and where?"


def _controls(folder: RunFolder) -> Path:
    return folder.root / "evaluate" / "controls.json"


def _key(folder: RunFolder) -> bytes:
    """The run's secret for patient digests, made on first use."""
    if not folder.key.is_file():
        write_with(folder.key, lambda p: p.write_text(secrets.token_hex(16)))
    return folder.key.read_text().strip().encode()


def _configuration(folder: RunFolder) -> str:
    """Digest of what is evaluated: card and weights."""
    content = folder.model.read_bytes() + folder.weights.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _slug(name: str) -> str:
    """A file name for an image id: readable, and unique by a digest."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._")[:60]
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
