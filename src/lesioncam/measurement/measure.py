"""The measurement of one split: the only place where what was trained meets the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from lesioncam.data.io.image import read_picture
from lesioncam.data.table.table import SPLITS, Table, digest
from lesioncam.errors import LesioncamError, OptionError, RunError
from lesioncam.evaluation.cases import Truth, View, case_rows, read_cases, write_cases
from lesioncam.evaluation.controls import BOUNDS, READER, ControlMap, resolution_ceiling
from lesioncam.evaluation.extended import ExtendedCases, read_extended, summarise_extended
from lesioncam.evaluation.protocol import check_roles, key_mark, patient_digest, roles_digest
from lesioncam.evaluation.shortcut import Shortcut, probe_data
from lesioncam.evaluation.subgroups import strata_table, subgroup_table
from lesioncam.evaluation.summary import curves, summarise
from lesioncam.files import write_arrays, write_json, write_with
from lesioncam.inference.classifier import ClassifierSubject, best_device
from lesioncam.inference.subject import Subject
from lesioncam.measurement.control_set import ControlSet
from lesioncam.measurement.foreign import ForeignMaps, ForeignSubject
from lesioncam.measurement.gallery import write_pictures
from lesioncam.measurement.leaks import without_leaks
from lesioncam.measurement.part import Part, Seen
from lesioncam.measurement.sanity import sanity_of
from lesioncam.measurement.summary import Conduct, summary_of
from lesioncam.models.checkpoint import load_classifier
from lesioncam.progress import Progress, silent
from lesioncam.runs.arrays import CaseArrays
from lesioncam.runs.card import MapsCard, read_card
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.ledger import Ledger, open_split, side_file
from lesioncam.runs.summary import Sanity
from lesioncam.runs.table import run_table
from lesioncam.types import Threshold

__all__ = ["Asked", "digests_of", "load_subject", "measure", "table_roles"]


@dataclass(frozen=True)
class Asked:
    """How a split is measured.

    Attributes:
        threshold: of the maps: ``val`` (chosen on validation), ``default`` (.5) or a probability.
        metrics: the short table, or ``all``.
        by: columns of the table by which groups are reported.
        leaks: near-copies of training or tuning images in this split: ``refuse``, or ``drop`` them, counted.
        bound: folder with the maps or masks of a supervised model, the upper mark.
        sanity: also ask whether the maps depend on the weights, and the score on the places they name.
        pooling: the user's own callable, where the run was trained with one.
    """

    threshold: str | float = "val"
    metrics: Literal["default", "all"] = "default"
    by: tuple[str, ...] = ()
    leaks: Literal["refuse", "drop"] = "refuse"
    bound: Path | None = None
    sanity: bool = False
    pooling: Callable[..., Tensor] | None = None


def load_subject(folder: RunFolder, pooling: Callable[..., Tensor] | None = None) -> Subject:
    """What a run folder measures: its classifier, or the maps of another tool.

    Raises:
        RunError: if it holds neither.
    """
    if folder.maps.is_file():
        return _load_maps(folder)
    classifier = load_classifier(folder.root, pooling=pooling).to(best_device())
    return ClassifierSubject(classifier, _configuration(folder))


def _load_maps(folder: RunFolder) -> Subject:
    card, place = read_card(folder.maps), folder.read_source().maps
    if not isinstance(card, MapsCard) or place is None:
        raise RunError(f"{folder.maps} does not say what made the maps, or {folder.source} where they lie; begin anew.")
    return ForeignSubject(ForeignMaps((folder.root / place).resolve(), card.classes), card, card.method)


def measure(folder: RunFolder, split: str = "val", asked: Asked = Asked(), *, progress: Progress = silent) -> Path:
    """Measure one split and write cases.csv, metrics.csv, curves.npz, gallery.csv, arrays, summary.json and more.

    Args:
        folder: a calibrated run.
        split: ``val`` or ``test``; opening test is counted in the ledger before any label is looked at.
        asked: how.
        progress: how to show how far it is.

    Raises:
        RunError: for a split without images, or a run without thresholds.
        LesioncamError: if a patient or an image would play two roles.
    """
    table = run_table(folder)
    subject = load_subject(folder, asked.pooling)
    _expect_ready(folder, table, subject, split, asked)
    key = run_key(folder)
    optimistic = _check(folder, table, subject, split, key)
    part, leaks = without_leaks(folder, table, Part(table.split(split), subject, key), asked.leaks)
    _check_columns(part.table, asked.by)
    ledger = _open(folder, split, subject, table, asked.threshold)

    place = folder.evaluation(split)
    walk = _Walk(part, folder, ControlSet.load(folder, subject.card.config.seed), asked, _bound(asked, subject))
    walk.run(split, progress)
    write_cases(place / "cases.csv", walk.rows)
    cases = read_cases(place / "cases.csv")
    _write_tables(place, cases, part, walk, asked)
    _write_shortcut(place, folder, walk)
    write_pictures(folder, part, cases, asked.threshold)
    sanity = _sanity(folder, part, asked) if asked.sanity else None
    conduct = Conduct(ledger, leaks, walk.grid, asked.metrics, optimistic, sanity)
    summary_of(part, table, cases, conduct).write(folder.summary(split))
    return place


# ---- before anything is looked at --------------------------------------------------------------------------------


def _expect_ready(folder: RunFolder, table: Table, subject: Subject, split: str, asked: Asked) -> None:
    if not len(table.split(split)):
        present = ", ".join(name for name in SPLITS if len(table.split(name))) or "none"
        raise RunError(f"the table has no images in split {split!r}; splits with images: {present}.")
    if subject.card.thresholds is None and asked.threshold == "val":
        raise RunError(
            f"{folder.root} has no thresholds yet; finish it with --resume, or use --threshold default (.5)."
        )


def _check(folder: RunFolder, table: Table, subject: Subject, split: str, key: bytes) -> bool:
    """Refuse whatever could let the test set in; True if something was chosen on these very patients."""
    card = subject.card
    if card.key_mark and card.key_mark != key_mark(key):
        raise LesioncamError(
            f"{folder.key} is not the secret this model was made with, so nobody can tell whom it has seen; "
            "restore the run's log folder."
        )
    if card.roles and card.roles != table_roles(table):
        raise LesioncamError(
            f"{folder.table.name} is not the one this run began with: images, patients or splits were changed since. "
            "Restore it, or train again on the new split."
        )
    members = {name: digests_of(table.split(name), key) for name in SPLITS}
    return check_roles(members, split, subject.chosen, card.trained_on)


def table_roles(table: Table) -> str:
    """Digest of who is in which split."""
    frame = table.frame
    return roles_digest(tuple(frame["id"]), tuple(frame["split"]), tuple(table.patients()))


def digests_of(table: Table, key: bytes) -> list[str]:
    """The patient of each row."""
    return [patient_digest(key, str(patient)) for patient in table.patients()]


def _check_columns(table: Table, by: Sequence[str]) -> None:
    """Columns are known before the labels are opened."""
    known = sorted({str(name).removeprefix("extra:") for name in table.frame} - _OURS)
    if unknown := [name for name in by if name not in known]:
        raise OptionError(f"--by {unknown[0]}: the table has no such column; it has {', '.join(known)}.")


_OURS = frozenset({"row", "id", "image", "name", "patient", "negative", "masks", "boxes", "readers", "verified"})


def _open(folder: RunFolder, split: str, subject: Subject, table: Table, threshold: str | float) -> Ledger:
    """Count a look at test, in the run and beside the user's table; another threshold is another configuration."""
    named = f"{subject.digest}\0{threshold}".encode()
    configuration = hashlib.sha256(named).hexdigest()[:16]
    places = [folder.ledger]
    if given := folder.read_source().table:
        origin = (folder.root / given).resolve()
        places += [side_file(origin)] if origin.is_file() else []
    return open_split(places, split, configuration, digest(table.split("test")))


def _bound(asked: Asked, subject: Subject) -> ForeignMaps | None:
    return None if asked.bound is None else ForeignMaps(asked.bound, subject.card.classes)


# ---- the walk ----------------------------------------------------------------------------------------------------


class _Scored(NamedTuple):
    """What is kept of one image."""

    rows: list[dict[str, Any]]
    extended: ExtendedCases | None
    shortcut: Shortcut
    grid: tuple[int, ...]


@dataclass
class _Walk:
    """One pass over the images; keeps rows and vectors, no pictures."""

    part: Part
    folder: RunFolder
    beside: ControlSet
    asked: Asked
    bound: ForeignMaps | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    extended: ExtendedCases | None = None
    shortcut: Shortcut = field(init=False)
    grid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.shortcut = Shortcut(self.part.subject.card.classes)
        self.extended = ExtendedCases() if self.asked.metrics == "all" else None

    def run(self, split: str, progress: Progress) -> None:
        """Measure every image, as many at a time as there are cores to use."""
        scored = self.part.each(self.asked.threshold, self._score)
        for one in progress(scored, len(self.part.table), f"measuring {split}"):
            self.rows += one.rows
            self.grid = one.grid
            self.shortcut.extend(one.shortcut)
            if self.extended is not None:
                self.extended.extend(one.extended)

    def _score(self, seen: Seen) -> _Scored:
        """Everything about one image; called from several threads, so nothing of the walk is changed."""
        result, truth = seen.result, seen.truth
        shortcut = Shortcut(result.classes, seen.evidence.ndim - 1)
        shortcut.add(
            result.id, truth.patient, truth.labels, seen.evidence, seen.picture.pixels, scores=result.logits.tolist()
        )
        extended = None if self.extended is None else ExtendedCases()
        spacing = result.heatmap.geometry.spacing

        def watch(key: tuple[str, str, str], view: View, truth: Truth) -> None:
            if extended is not None:
                extended.add(key, view, truth, spacing)

        rows = case_rows(result, truth, self._beside(seen), watch, seen.evidence)
        CaseArrays.of(result).write(self.folder.arrays(truth.split, result.id))
        return _Scored(rows, extended, shortcut, result.heatmap.raw.shape[1:])

    def _beside(self, seen: Seen) -> dict[str, ControlMap]:
        """Controls, bounds and readers of one image, where truth allows a comparison."""
        classes, truth = seen.result.classes, seen.truth
        located = [k for k, name in enumerate(classes) if truth.located(name)]
        wanted = list(range(len(classes))) if truth.healthy else located
        if not wanted:
            return {}
        drawn = self.beside.draw(seen, wanted)
        readers = {f"{READER}{name}": _as_map(masks, classes) for name, masks in truth.readers.items()}
        return drawn | self._marks(seen, located) | readers

    def _marks(self, seen: Seen, located: Sequence[int]) -> dict[str, ControlMap]:
        """What is possible: for this grid, and for a supervised model."""
        classes, masks = seen.result.classes, seen.truth.masks
        with_mask = [k for k in located if np.any(masks.get(classes[k], False))]
        best = {k: resolution_ceiling(seen.result.heatmap, masks[classes[k]]) for k in with_mask}
        levels = {k: Threshold(one.threshold, "given") for k, one in best.items()}
        marks = {BOUNDS[0]: ControlMap({k: one.map for k, one in best.items()}, levels)}
        if self.bound is not None:
            native = seen.result.heatmap.geometry.native
            maps = enumerate(self.bound.read(seen.record.id, native))
            given = {k: _fit(one, native) for k, one in maps if one is not None}
            marks[BOUNDS[1]] = ControlMap(given, [Threshold(0.5, "given")] * len(classes))
        return marks


def _as_map(masks: Any, classes: Sequence[str]) -> ControlMap:
    maps = {classes.index(name): np.asarray(mask, dtype=np.float32) for name, mask in masks.items()}
    return ControlMap(maps, [Threshold(0.5, "given")] * len(classes))


def _fit(one: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
    """A supervised model's map on the image's own grid."""
    from lesioncam.geometry import Geometry

    return one if one.shape == native else Geometry.letterbox(native, native).to_native(one[None])[0]


# ---- tables ------------------------------------------------------------------------------------------------------


def _write_tables(place: Path, cases: pd.DataFrame, part: Part, walk: _Walk, asked: Asked) -> None:
    config = part.subject.card.config
    exclusive = part.table.exclusive or config.softmax
    options: dict[str, Any] = {"exclusive": exclusive, "draws": config.draws, "seed": config.seed}
    metrics = summarise(cases, ordinal=config.ordinal, **options)
    if walk.extended is not None:
        walk.extended.save(place)
        rest = summarise_extended(cases, *read_extended(place), ordinal=config.ordinal, **options)
        metrics = pd.concat([metrics, rest], ignore_index=True)
    else:
        for stale in ("extended.csv", "sweeps.npz"):
            (place / stale).unlink(missing_ok=True)
    _write_csv(place / "metrics.csv", metrics)
    points = curves(cases)
    write_arrays(place / "curves.npz", points)
    frame = part.table.frame.rename(columns=lambda name: str(name).removeprefix("extra:")).set_index("id")
    groups = [strata_table(cases, **options)]
    if asked.by:
        groups.insert(0, subgroup_table(cases, frame, list(asked.by), **options))
    _write_csv(place / "subgroups.csv", pd.concat(groups, ignore_index=True))


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_with(path, lambda partial: frame.to_csv(partial, index=False, lineterminator="\n"))


PROBED = 5_000
"""Training images the probes learn from at most, evenly spread over the table: they know some fifty numbers of each."""


def _write_shortcut(place: Path, folder: RunFolder, walk: _Walk) -> None:
    """What the evidence outside the body, and two classifiers that cannot see a lesion, give away."""
    config = walk.part.subject.card.config
    whole = run_table(folder).split("train")
    some = np.linspace(0, len(whole) - 1, min(PROBED, len(whole))).astype(int)
    train = replace(walk.part, table=whole.take(some))
    if len(train.table):
        images = ((read_picture(row.record.image).pixels, list(row.labels)) for row in train.rows())
        walk.shortcut.train(probe_data(images, len(walk.grid)))
    write_json(place / "shortcut.json", walk.shortcut.result(draws=config.draws, seed=config.seed))


def _sanity(folder: RunFolder, part: Part, asked: Asked) -> Sanity:
    """Whether the maps depend on what was learnt, and the score on the places they name."""
    if part.subject.foreign:
        raise OptionError("--sanity needs a model whose weights can be randomised; another tool's maps have none.")
    trained = load_classifier(folder.root, pooling=asked.pooling)
    return sanity_of(trained, part, part.subject.card.config.seed)


def _configuration(folder: RunFolder) -> str:
    """Digest of what is evaluated: card and weights."""
    content = folder.model.read_bytes() + folder.weights.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]
