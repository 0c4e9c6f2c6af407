"""Everything that is chosen, chosen on validation: scales, thresholds, operating points, and the controls' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lesioncam.config import RunConfig
from lesioncam.data.preprocess import display_image
from lesioncam.errors import OptionError
from lesioncam.evaluation.controls import CONTROLS, STILL, ControlMap, Cut, MeanMask, Scene
from lesioncam.evaluation.few_shot import FewShotFit, FewShotHead
from lesioncam.explanation.cam import maps_are_logits
from lesioncam.files import RunFolder, read_json, write_json
from lesioncam.functional.calibration import fit_isotonic, fit_platt, fit_softmax_temperature, fit_temperature
from lesioncam.models.checkpoint import ModelCard, TrainedClassifier, load_classifier, update_card
from lesioncam.pipeline.case import image_probabilities, look
from lesioncam.pipeline.part import Part, Progress, Seen, Subject, run_key, silent
from lesioncam.segmentation.threshold import DEFAULT, DiceSearch, decision_threshold, fitted_thresholds
from lesioncam.types import Calibration, CaseResult, Heatmap, Record, Threshold, Validation

__all__ = ["Beside", "calibrate", "check_scores", "classifier_subject", "map_scale", "settle"]

_SIZES = 3
"""Of so many image sizes at a time the still maps are kept."""

_SEARCHED = "default"
"""Where thresholds come from while they are being searched."""


def check_scores(config: RunConfig) -> None:
    """Whether scores can be calibrated, learnt and compared as asked, given the task; before anything is trained.

    Raises:
        OptionError: naming the two options that do not go together.
    """
    if config.softmax and config.calibration in {"platt", "isotonic"}:
        raise OptionError(
            f"--calibration {config.calibration} bends each class on its own, but --task {config.task} has "
            "probabilities that sum to 1; use temperature (one for all classes) or none."
        )
    if config.selects == "kappa" and not config.ordinal:
        raise OptionError("--select kappa needs grades (--task ordinal); use auroc or loss.")
    if config.softmax and config.loss.kind == "aucpr":
        raise OptionError(
            f"--loss aucpr bounds each class on its own, but --task {config.task} has classes that exclude each other; "
            "use bce, focal or class_balanced, or --task multilabel."
        )


def classifier_subject(classifier: TrainedClassifier, digest: str = "") -> Subject:
    """A classifier of ours as a subject of measurement."""

    def analysed(record: Record, pixels: np.ndarray, threshold: str | float) -> tuple[CaseResult, np.ndarray]:
        found, evidence = look(classifier, pixels, name=record.id, threshold=threshold)
        return replace(found, image=record.image), evidence

    return Subject(classifier.card, classifier.card.config.map, analysed, digest)


def calibrate(
    folder: RunFolder, *, pooling: Callable[..., Tensor] | None = None, progress: Progress = silent
) -> TrainedClassifier:
    """Choose scales, thresholds and the controls' means on validation, and write them beside the model.

    Map thresholds maximise the mean per-image Dice of each class (resize, then threshold); a class without masks gets
    .5, called ``default``. Image thresholds follow the run's operating point.

    Raises:
        RunError: if the run has no model.
    """
    from lesioncam.pipeline.measure import run_table

    classifier = load_classifier(folder.root, pooling=pooling)

    def rebuild(card: ModelCard) -> Subject:
        classifier.card = card
        return classifier_subject(classifier)

    part = Part(run_table(folder).split("val"), rebuild(classifier.card), run_key(folder))
    card = settle(folder, part, rebuild, progress)
    update_card(
        folder,
        thresholds=card.thresholds,
        decisions=card.decisions,
        calibration=card.calibration,
        image_calibration=card.image_calibration,
    )
    return load_classifier(folder.root, pooling=pooling)


def settle(folder: RunFolder, part: Part, rebuild: Callable[[ModelCard], Subject], progress: Progress) -> ModelCard:
    """Choose everything on one validation part; the controls' choices are written, the subject's returned.

    Args:
        folder: where the controls go.
        part: must be validation.
        rebuild: the subject with other choices.
        progress: how to show how far it is.

    Raises:
        LesioncamError: if the part is not validation.
    """
    who = part.validation()
    card = part.subject.card
    if card.calibration is None and not maps_are_logits(card, card.config.map):  # these begin without a scale
        card = replace(card, calibration=map_scale(part, progress))
        part = replace(part, subject=rebuild(card))
    gathered = _gather(part, progress)
    card = replace(
        card,
        calibration=_map_scale(card, gathered, who),
        image_calibration=_image_scale(card, gathered, who),
    )
    subject = rebuild(card)
    beside = Beside(gathered.means, gathered.few_shot.head(), card.config.seed)
    thresholds = _search(replace(part, subject=subject), beside, who, progress)
    beside.save(folder, {name: each for name, each in thresholds.items() if name != subject.method})
    return replace(
        card,
        thresholds=_asked(card, thresholds[subject.method]),
        decisions=_decisions(card, gathered, who),
    )


def map_scale(part: Part, progress: Progress = silent) -> Calibration:
    """One scale per class for maps that have none (:meth:`Calibration.spanning`).

    Args:
        part: validation.
        progress: how to show how far it is.
    """
    who = part.validation()
    values: list[list[np.ndarray]] = [[] for _ in part.subject.card.classes]
    for seen in progress(part.walk(_SEARCHED), len(part.table), "scale of maps"):
        for kept, one in zip(values, seen.result.heatmap.raw, strict=True):
            kept.append(one[np.isfinite(one)].ravel())
    return Calibration.spanning([np.concatenate(kept) for kept in values], who.tuned_on)


# ---- one pass over validation ------------------------------------------------------------------------------------


@dataclass
class _Gathered:
    """What one walk over the validation images leaves behind; no image is kept."""

    labels: np.ndarray
    means: MeanMask
    few_shot: FewShotFit
    logits: list[np.ndarray] = field(default_factory=list)
    cells: list[list[np.ndarray]] = field(default_factory=list)
    shares: list[list[np.ndarray]] = field(default_factory=list)


def _gather(part: Part, progress: Progress) -> _Gathered:
    card = part.subject.card
    count = len(card.classes)
    found = _Gathered(part.labels, MeanMask(card.classes), FewShotFit(count, card.config.seed))
    found.cells, found.shares = [[] for _ in range(count)], [[] for _ in range(count)]
    for seen in progress(part.walk(_SEARCHED), len(part.table), "looking at val"):
        found.logits.append(seen.result.logits)
        for k, name in enumerate(card.classes):
            _add(found, seen, k, seen.truth.masks.get(name))
    return found


def _add(found: _Gathered, seen: Seen, k: int, mask: np.ndarray | None) -> None:
    """A class of an image: where its lesions are, or that it has none."""
    heatmap = seen.result.heatmap
    grid = heatmap.raw.shape[1:]
    if mask is not None and mask.any():
        found.means.add(k, mask)
        share = heatmap.geometry.to_cells(mask, grid, heatmap.origin)
    elif seen.truth.labels[k] == 0:
        share = np.zeros(grid)
    else:
        return
    if seen.result.features is not None:
        found.few_shot.add(k, seen.result.features, share)
    found.cells[k].append(heatmap.raw[k].ravel())
    found.shares[k].append(share.ravel())


# ---- scales ------------------------------------------------------------------------------------------------------


def _image_scale(card: ModelCard, found: _Gathered, who: Validation) -> Calibration | None:
    kind = card.config.calibration
    if kind == "none":
        return None
    scores = np.array(found.logits)
    if card.config.softmax:
        return _softmax_scale(scores, found.labels, who)
    pairs = [(scores[:, k], found.labels[:, k], None) for k in range(len(card.classes))]
    return fit_scale(kind, pairs, who)


def _softmax_scale(logits: np.ndarray, labels: np.ndarray, who: Validation) -> Calibration:
    """One temperature for all classes; 1 where there is nothing to fit."""
    groups = np.where(np.isnan(labels).any(axis=1), -1, np.nan_to_num(labels).argmax(axis=1))
    sharp = 1.0 / (fit_softmax_temperature(logits, groups) or 1.0)
    count = logits.shape[1]
    return Calibration((sharp,) * count, (0.0,) * count, "val", (), who.tuned_on, "temperature")


def _map_scale(card: ModelCard, found: _Gathered, who: Validation) -> Calibration:
    """Fitted on the cells of the class maps: each counts as lesion by the share that is covered."""
    kind = card.config.map_calibration
    if kind == "none":
        return card.calibration or Calibration.of_classifier(len(card.classes))
    pairs = []
    for cells, shares in zip(found.cells, found.shares, strict=True):
        values = np.concatenate(cells) if cells else np.zeros(0)
        share = np.clip(np.concatenate(shares), 0, 1) if shares else np.zeros(0)
        sides = np.repeat([1.0, 0.0], len(values))
        pairs.append((np.tile(values, 2), sides, np.concatenate([share, 1 - share])))
    return fit_scale(kind, pairs, who)


def fit_scale(
    kind: str, pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], who: Validation
) -> Calibration:
    """A calibration of each class from (raw values, labels, weights); a class with too little keeps the sigmoid.

    Args:
        kind: ``temperature``, ``platt`` or ``isotonic``.
        pairs: per class raw values ``(n,)``, labels ``(n,)`` with NaN unknown, weights ``(n,)`` or None.
        who: the validation images it is fitted on.
    """
    scale, offset, knots = [], [], []
    for values, labels, weights in pairs:
        one, none, line = 1.0, 0.0, ((), ())
        if kind == "temperature" and (temperature := fit_temperature(values, labels, weights)) is not None:
            one = 1.0 / temperature
        elif kind == "platt" and (fitted := fit_platt(values, labels, weights)) is not None:
            one, none = fitted
        elif kind == "isotonic" and (stairs := fit_isotonic(values, labels, weights)) is not None:
            line = tuple(tuple(map(float, each)) for each in stairs)  # type: ignore[assignment]
        scale.append(float(one))
        offset.append(float(none))
        knots.append(line)
    return Calibration(
        tuple(scale), tuple(offset), "val", tuple(knots) if kind == "isotonic" else (), who.tuned_on, kind
    )


def _decisions(card: ModelCard, found: _Gathered, who: Validation) -> tuple[Threshold, ...]:
    scores = image_probabilities(np.array(found.logits), card.image_calibration, softmax=card.config.softmax)
    rule = card.config.operating_point
    return tuple(
        Threshold(decision_threshold(column, truth, rule), "val", who.tuned_on)
        for column, truth in zip(scores.astype(np.float64).T, found.labels.T, strict=True)
    )


# ---- thresholds of maps ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """What the controls know of validation.

    Attributes:
        means: mean masks.
        head: the few-shot head; None without features or masks.
        seed: of the run.
        thresholds: control -> K thresholds.
        still: maps of controls that are the same for every image of one size, drawn once.
        cuts: their masks and regions, by class.
    """

    means: MeanMask
    head: FewShotHead | None
    seed: int
    thresholds: dict[str, tuple[Threshold, ...]] = field(default_factory=dict)
    still: dict[tuple[str, tuple[int, ...]], np.ndarray] = field(default_factory=dict)
    cuts: dict[tuple[str, tuple[int, ...]], dict[int, Cut]] = field(default_factory=dict)

    def scene(self, seen: Seen, wanted: Sequence[int]) -> Scene:
        """All that a control may know of an image."""
        result = seen.result
        few = None if self.head is None or result.features is None else self.head.maps(result.features)
        grey = _grey(seen.pixels, result.heatmap)
        return Scene(result.id, result.heatmap, self.means, self.seed, grey, few, tuple(wanted))

    def maps(self, seen: Seen, wanted: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        """The maps of every control, by class index."""
        scene = self.scene(seen, wanted)
        drawn = {}
        for name in CONTROLS:
            if name in STILL:
                drawn[name] = {k: self._still(name, scene)[k] for k in wanted}
            elif name != "few_shot" or scene.few_shot is not None:
                drawn[name] = dict(zip(wanted, CONTROLS[name](scene), strict=True))
        return drawn

    def draw(self, seen: Seen, wanted: Sequence[int]) -> dict[str, ControlMap]:
        """Every control that has thresholds."""
        maps = self.maps(seen, wanted) if self.thresholds else {}
        size = seen.result.heatmap.geometry.native
        return {
            name: ControlMap(maps[name], chosen, self.cuts.setdefault((name, size), {}) if name in STILL else {})
            for name, chosen in self.thresholds.items()
            if name in maps
        }

    def _still(self, name: str, scene: Scene) -> np.ndarray:
        key = name, scene.heatmap.geometry.native
        found = self.still.get(key)
        if found is None:
            found = CONTROLS[name](replace(scene, wanted=None))
            if len(self.still) >= len(STILL) * _SIZES:
                self.still.clear()
                self.cuts.clear()
            self.still[key] = found
        return found

    def save(self, folder: RunFolder, thresholds: dict[str, tuple[Threshold, ...]]) -> None:
        """Write everything beside the evaluations."""
        self.means.save(_place(folder, "controls.npz"))
        if self.head is not None:
            self.head.save(_place(folder, "few_shot.npz"))
        else:
            _place(folder, "few_shot.npz").unlink(missing_ok=True)
        chosen = {name: [{"value": t.value, "source": t.source} for t in each] for name, each in thresholds.items()}
        write_json(_place(folder, "controls.json"), chosen)

    @classmethod
    def load(cls, folder: RunFolder, seed: int) -> Beside:
        """Read it back; without thresholds for a model that was never calibrated."""
        if not _place(folder, "controls.json").is_file():
            return cls(MeanMask(()), None, seed)
        chosen = read_json(_place(folder, "controls.json"))
        given = {name: tuple(Threshold(t["value"], t["source"]) for t in each) for name, each in chosen.items()}
        few = _place(folder, "few_shot.npz")
        head = FewShotHead.load(few) if few.is_file() else None
        return cls(MeanMask.load(_place(folder, "controls.npz")), head, seed, given)


def _place(folder: RunFolder, name: str) -> Path:
    return folder.root / "evaluate" / name


def _grey(pixels: np.ndarray, heatmap: Heatmap) -> np.ndarray:
    """Brightness of the image, [0, 1]."""
    shown = display_image(pixels)
    grey = shown.mean(axis=-1) if shown.ndim > len(heatmap.geometry.native) else shown
    return np.asarray(grey / np.float32(255), dtype=np.float32)


def _search(part: Part, beside: Beside, who: Validation, progress: Progress) -> dict[str, tuple[Threshold, ...]]:
    """The best Dice of every class, for the method and each control, over the images that have masks."""
    method, classes = part.subject.method, part.subject.card.classes
    searches = {name: DiceSearch(len(classes)) for name in (method, *CONTROLS)}
    masked = np.array([bool(masks) for masks in part.table.frame["masks"]], dtype=bool)
    few = replace(part, table=part.table.take(masked))
    for seen in progress(few.walk(_SEARCHED), len(few.table), "thresholds on val"):
        _add_searches(searches, seen, beside, method)
    drawn = [name for name in searches if name != "few_shot" or beside.head is not None]
    return {name: fitted_thresholds(searches[name].best(), who) for name in drawn}


def _add_searches(searches: dict[str, DiceSearch], seen: Seen, beside: Beside, method: str) -> None:
    masks = {seen.result.classes.index(name): mask for name, mask in seen.truth.masks.items() if mask.any()}
    if not masks:
        return
    own = seen.result.heatmap.scale.probability(seen.evidence)
    maps = beside.maps(seen, list(masks)) | {method: {k: own[k] for k in masks}}
    for name, drawn in maps.items():
        for k, mask in masks.items():
            searches[name].add(k, drawn[k], mask)


def _asked(card: ModelCard, fitted: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
    """What was fitted, unless the user asked for a number."""
    asked = card.config.threshold
    if asked == "val":
        return fitted
    own = Threshold(DEFAULT, "default") if asked == "default" else Threshold(float(asked), "given")
    return (own,) * len(fitted)
