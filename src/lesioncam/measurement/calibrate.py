"""Everything that is chosen, chosen on validation: scales, thresholds, operating points, and the controls' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from lesioncam.errors import OptionError
from lesioncam.evaluation.controls import CONTROLS, MeanMask
from lesioncam.evaluation.few_shot import FewShotFit
from lesioncam.explanation.cam import maps_are_logits
from lesioncam.functional.calibration import fit_isotonic, fit_platt, fit_softmax_temperature, fit_temperature
from lesioncam.functional.segmentation import dice_at_thresholds
from lesioncam.inference.scale import image_probabilities
from lesioncam.inference.subject import Subject, default_thresholds
from lesioncam.measurement.control_set import ControlSet
from lesioncam.measurement.part import Part, Seen
from lesioncam.options.run import RunConfig
from lesioncam.progress import Progress, silent
from lesioncam.runs.card import MapsCard, ModelCard, write_card
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.table import run_table
from lesioncam.segmentation.threshold import DEFAULT, THRESHOLDS, DiceSearch, decision_threshold, fitted_thresholds
from lesioncam.types import Calibration, Heatmap, Threshold, Validation

DEFAULT_THRESHOLD = "default"
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


def calibrate(folder: RunFolder, subject: Subject, *, progress: Progress = silent) -> ModelCard:
    """Choose scales, thresholds and the controls' means on validation, and write them into the run folder.

    Map thresholds maximise the mean per-image Dice of each class (resize, then threshold); a class without masks gets
    .5, called ``default``. Image thresholds follow the run's operating point. Without validation images there is
    nothing to choose on: the map thresholds are .5.

    Args:
        folder: begun, with its table.
        subject: the run's own classifier, an adopted network, or another tool's maps.
        progress: how to show how far it is.

    Returns:
        The subject's card with everything that was chosen, as it was written.
    """
    part = Part(run_table(folder).split("val"), subject, run_key(folder))
    if len(part.table):
        card = _chosen(folder, part, progress)
    else:
        card = replace(subject.card, thresholds=default_thresholds(len(subject.classes)))
    write_card(folder.maps if isinstance(card, MapsCard) else folder.model, card)
    return card


def _chosen(folder: RunFolder, part: Part, progress: Progress) -> ModelCard:
    """Everything that is chosen on validation; the controls' choices are written, the subject's returned."""
    who = part.validation()
    card = part.subject.card
    if card.calibration is None and not maps_are_logits(card, card.config.map):  # these begin without a scale
        card = replace(card, calibration=map_scale(part, progress))
        part = replace(part, subject=part.subject.with_card(card))
    gathered = _gather(part, progress)
    card = replace(
        card,
        calibration=_map_scale(card, gathered, who),
        image_calibration=_image_scale(card, gathered, who),
    )
    subject = part.subject.with_card(card)
    controls = ControlSet(gathered.means, gathered.few_shot.head(), card.config.seed)
    thresholds = _search(replace(part, subject=subject), controls, who, progress)
    controls.save(folder, {name: each for name, each in thresholds.items() if name != subject.method})
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
    maps = part.each(DEFAULT_THRESHOLD, lambda seen: seen.result.heatmap.raw)
    for raw in progress(maps, len(part.table), "scale of maps"):
        for kept, one in zip(values, raw, strict=True):
            kept.append(one[np.isfinite(one)].ravel())
    return Calibration.spanning([np.concatenate(kept) for kept in values], who.tuned_on)


# ---- one pass over validation ------------------------------------------------------------------------------------


class _Glance(NamedTuple):
    """What is chosen from, of one image: its scores and cells, and where its lesions are."""

    logits: np.ndarray
    heatmap: Heatmap
    features: np.ndarray | None
    labels: Sequence[float]
    masks: Mapping[str, np.ndarray]


def _glance(seen: Seen) -> _Glance:
    result, truth = seen.result, seen.truth
    return _Glance(result.logits, result.heatmap, result.features, truth.labels, truth.masks)


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
    gathered = _Gathered(part.labels, MeanMask(card.classes), FewShotFit(count, card.config.seed))
    gathered.cells, gathered.shares = [[] for _ in range(count)], [[] for _ in range(count)]
    for one in progress(part.each(DEFAULT_THRESHOLD, _glance), len(part.table), "looking at val"):
        gathered.logits.append(one.logits)
        for k, name in enumerate(card.classes):
            _add(gathered, one, k, one.masks.get(name))
    return gathered


def _add(gathered: _Gathered, one: _Glance, k: int, mask: np.ndarray | None) -> None:
    """A class of an image: where its lesions are, or that it has none."""
    grid = one.heatmap.raw.shape[1:]
    if mask is not None and mask.any():
        gathered.means.add(k, mask)
        share = one.heatmap.geometry.to_cells(mask, grid, one.heatmap.origin)
    elif one.labels[k] == 0:
        share = np.zeros(grid)
    else:
        return
    if one.features is not None:
        gathered.few_shot.add(k, one.features, share)
    gathered.cells[k].append(one.heatmap.raw[k].ravel())
    gathered.shares[k].append(share.ravel())


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


def _search(part: Part, controls: ControlSet, who: Validation, progress: Progress) -> dict[str, tuple[Threshold, ...]]:
    """The best Dice of every class, for the method and each control, over the images that have masks."""
    method, classes = part.subject.method, part.subject.card.classes
    searches = {name: DiceSearch(len(classes)) for name in (method, *CONTROLS)}
    masked = np.array([bool(masks) for masks in part.table.frame["masks"]], dtype=bool)
    few = replace(part, table=part.table.take(masked))
    curves = few.each(DEFAULT_THRESHOLD, lambda seen: _dice_curves(seen, controls, method))
    for one in progress(curves, len(few.table), "thresholds on val"):
        for (name, k), dice in one.items():
            searches[name].add_curve(k, dice)
    drawn = [name for name in searches if name != "few_shot" or controls.head is not None]
    return {name: fitted_thresholds(searches[name].best(), who) for name in drawn}


def _dice_curves(seen: Seen, controls: ControlSet, method: str) -> dict[tuple[str, int], np.ndarray]:
    """Dice at every threshold, of the method and each control, for each class that has a lesion."""
    masks = {seen.result.classes.index(name): mask for name, mask in seen.truth.masks.items() if mask.any()}
    if not masks:
        return {}
    own = seen.result.heatmap.scale.probability(seen.evidence)
    maps = controls.maps(seen, list(masks)) | {method: {k: own[k] for k in masks}}
    return {
        (name, k): dice_at_thresholds(drawn[k], mask, THRESHOLDS)
        for name, drawn in maps.items()
        for k, mask in masks.items()
    }


def _asked(card: ModelCard, fitted: tuple[Threshold, ...]) -> tuple[Threshold, ...]:
    """What was fitted, unless the user asked for a number."""
    asked = card.config.threshold
    if asked == "val":
        return fitted
    own = Threshold(DEFAULT, "default") if asked == "default" else Threshold(float(asked), "given")
    return (own,) * len(fitted)
