"""``extended.csv`` and ``sweeps.npz``: everything of ``--metrics all`` that needs the map itself, and its summary.

A row per image, class and method whose lesions are located, and the curves over all thresholds of the same rows. With
``cases.csv`` they hold enough to compute every number again without a map.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesioncam.errors import GeometryError, RunError
from lesioncam.evaluation.cases import HIT, Truth, View, truth_boxes
from lesioncam.evaluation.controls import is_method
from lesioncam.evaluation.metric import LEVELS
from lesioncam.evaluation.summary import (
    METRIC_COLUMNS,
    CaseTable,
    Grid,
    Measure,
    case_tables,
    class_thresholds,
    grid_of,
    kappa_measure,
    mean_measure,
    measure_rows,
    one_row,
    patient_draws,
    per_class,
)
from lesioncam.files import read_arrays, write_arrays, write_csv
from lesioncam.functional.boxes import box_iou, inside_boxes
from lesioncam.functional.localisation import (
    FALSE_POSITIVES,
    box_average_precision,
    chestxray8_case,
    chexlocalize_iou,
    froc,
    hit,
    match_detections,
    maxboxacc_v1,
    maxboxacc_v2,
    otsu_mask,
    pxap,
    wsol_unit,
)
from lesioncam.functional.metrics import (
    brier,
    expected_calibration_error,
    f1_score,
    oracle_max_f1,
    probabilistic_f1,
    sensitivity_at_specificity,
    weighted_ratio,
)
from lesioncam.functional.segmentation import counts_from_levels, overlap_counts, threshold_levels
from lesioncam.functional.surface import lesion_detection, surface_distances, volume_difference
from lesioncam.functional.sweep import box_sweep_levels

KEYS = ("image", "class", "method")
THRESHOLDS = np.linspace(0.0, 1.0, 1001)
"""Thresholds of the WSOL protocol, on each map's own range."""

NAN = float("nan")

_TALLIES = tuple(
    f"{kind}@{level:g}" for kind in ("iou_hits", "iobb_hits", "iou_false", "iobb_false") for level in LEVELS
)

EXTENDED: dict[str, str] = {
    "image": "text",
    "class": "text",
    "method": "text",
    "truth": "text",  # truth boxes, JSON; those of the mask's regions where none were listed
    "overlap": "whole",  # pixels in both masks
    "area": "whole",  # predicted pixels
    "truth_area": "whole",
    "precision": "real",
    "hausdorff": "real",  # mm; pixels in 2D without spacing
    "hd95": "real",
    "assd": "real",
    "volume_difference": "real",  # signed, of the true volume
    "lesions": "whole",
    "lesions_found": "whole",
    "components": "whole",
    "components_false": "whole",
    "otsu_iou": "real",  # CheXlocalize
    "otsu_iou_true_positives": "real",
    "hit": "whole",
    "truth_count": "whole",  # ChestX-ray8: truth boxes; those hit and the predicted ones that hit nothing, by level
    "predicted_count": "whole",
} | dict.fromkeys(_TALLIES, "whole")
"""Every column of ``extended.csv`` and its kind; a blank cell is undefined."""


_PLACE_COLUMNS = tuple(name for name, kind in EXTENDED.items() if kind != "text")
_CASE_COLUMNS = ("label", "logit", "probability", "decision_threshold", "positive", "map_threshold", "dice")


class Sweeps(NamedTuple):
    """Curves over `THRESHOLDS`, a row for each row of ``extended.csv``.

    Attributes:
        largest: ``(m, 1001)`` float32, IoU of the box of the largest region with its best truth box; NaN without boxes.
        best: ``(m, 1001)`` float32, the best IoU of any region's box with any truth box.
        found: ``(m, 1001)`` uint32, lesion pixels at or above each threshold; 0 without a mask.
        reached: ``(m, 1001)`` uint32, all pixels at or above it.
    """

    largest: np.ndarray
    best: np.ndarray
    found: np.ndarray
    reached: np.ndarray


class ExtendedCases:
    """Collects what ``--metrics all`` needs while the maps pass by; `add` fits the ``watch`` of `case_rows`.

    About 16 kB per row stay in memory, whatever the size of the images.

    Example:
        >>> from lesioncam.functional.boxes import component_boxes
        >>> from lesioncam.types import Threshold
        >>> values = np.float32([[0.0, 0.9, 0.8, 0.0]])
        >>> mask = values >= 0.5
        >>> seen = View(values, mask, component_boxes(mask, values), Threshold(0.5), lambda raw: raw)
        >>> collected = ExtendedCases()
        >>> collected.add(("a", "mass", "cam"), seen, Truth((1,), (1,), "p", "val", {"mass": values > 0.85}))
        >>> collected.frame()[["overlap", "precision", "hausdorff", "lesions_found", "hit"]].iloc[0].tolist()
        [1.0, 0.5, 1.0, 1.0, 1.0]
    """

    def __init__(self) -> None:
        """Start with no row."""
        self.rows: list[dict[str, Any]] = []
        self.curves: list[Sweeps] = []

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def add(self, key: tuple[str, str, str], view: View, truth: Truth, spacing: Sequence[float] | None = None) -> None:
        """Measure one map whose lesions are located.

        Args:
            key: image, class, method.
            view: the method's answer.
            truth: what is known about the image.
            spacing: mm per pixel in array order; without it distances are in pixels in 2D, and undefined in 3D.

        Raises:
            GeometryError: if a mask differs in size from the map.
        """
        boxes, mask = truth_boxes(truth, key[1]), truth.masks.get(key[1])
        if mask is not None and np.shape(mask) != np.shape(view.evidence):
            raise GeometryError(
                f"the mask of {key[0]!r} is {np.shape(mask)} but its map is {np.shape(view.evidence)}; bring both to "
                "the image's own grid."
            )
        shown = _shown(view)
        lesion = np.asarray(mask, dtype=bool) if mask is not None and np.any(mask) else None
        row = dict(zip(KEYS, key, strict=True)) | {"truth": json.dumps([list(box) for box in boxes])}
        if lesion is not None:
            row |= _mask_columns(shown, lesion, spacing) | {"hit": hit(view.evidence, lesion)}
        if boxes:
            row |= _box_columns(shown, boxes)
        self.rows.append(row)
        self.curves.append(_sweep(shown.evidence, lesion, boxes))

    def extend(self, other: ExtendedCases | None) -> None:
        """Take over what another one has collected, after the own rows."""
        if other is not None:
            self.rows += other.rows
            self.curves += other.curves

    def frame(self) -> pd.DataFrame:
        """The rows so far, as `read_extended` returns them."""
        frame = pd.DataFrame(self.rows).reindex(columns=list(EXTENDED))
        return frame.astype({name: float for name, kind in EXTENDED.items() if kind != "text"})

    def sweeps(self) -> Sweeps:
        """The curves so far."""
        if not self.curves:
            none = np.zeros((0, len(THRESHOLDS)))
            return Sweeps(
                none.astype(np.float32), none.astype(np.float32), none.astype(np.uint32), none.astype(np.uint32)
            )
        return Sweeps(*(np.stack(curves) for curves in zip(*self.curves, strict=True)))

    def save(self, folder: Path) -> Path:
        """Write ``extended.csv`` and ``sweeps.npz``, each whole or not at all."""
        frame, keys = self.frame(), {name: np.array([row[name] for row in self.rows], dtype=str) for name in KEYS}
        for name, kind in EXTENDED.items():
            if kind == "whole":
                frame[name] = frame[name].astype("Int64")
        arrays = keys | {"thresholds": THRESHOLDS} | self.sweeps()._asdict()
        write_csv(folder / "extended.csv", frame)
        write_arrays(folder / "sweeps.npz", arrays)
        return folder


def read_extended(folder: Path) -> tuple[pd.DataFrame, Sweeps]:
    """Read what `ExtendedCases.save` wrote.

    Raises:
        RunError: if a file is missing or broken, or the two do not belong together.
    """
    try:
        frame = pd.read_csv(folder / "extended.csv", dtype=str, keep_default_na=False)
        if missing := [name for name in EXTENDED if name not in frame.columns]:
            raise ValueError(f"extended.csv lacks the columns {', '.join(missing)}")
        content = read_arrays(folder / "sweeps.npz", (*Sweeps._fields, *KEYS))
        if not all(np.array_equal(content[name], frame[name].to_numpy(dtype=str)) for name in KEYS):
            raise ValueError("extended.csv and sweeps.npz have different rows")
        sweeps = Sweeps(*(content[name] for name in Sweeps._fields))
        return frame.assign(
            **{name: _numbers(frame[name]) for name, kind in EXTENDED.items() if kind != "text"}
        ), sweeps
    except (OSError, ValueError, RunError) as error:
        raise RunError(f"{folder} holds no extended measures ({error}); evaluate again with --metrics all.") from error


def summarise_extended(
    cases: pd.DataFrame,
    extended: pd.DataFrame,
    sweeps: Sweeps,
    *,
    exclusive: bool,
    ordinal: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The rest of the metrics, by the rules of `summarise` and with the same draws of patients.

    Classification needs ``cases`` alone. Localisation and segmentation are over the images whose lesions are located;
    FROC and the average precision of boxes also count the candidates in images whose label is 0, as far as their boxes
    are listed (controls list none there, so theirs are over the located images only; see ``n``). A candidate is a
    region of the mask; its score is its hottest probability, and it finds the lesion in whose box the pixel lies that
    has it. For the average precision its box must reach IoU .5 instead.

    ``dice_pooled`` and ``iou_pooled`` sum pixels over all images. ``dice_gated`` is 0 where the method's image score
    (for controls: that of the run's own method) does not reach its decision threshold. ``maxboxacc`` chooses one
    threshold for the set on the set itself, as its protocol does.

    Args:
        cases: as `read_cases` returns it.
        extended: as `read_extended` returns it.
        sweeps: the curves of the same rows.
        exclusive: one label per image: there is a kappa; its grades are "none" and then the classes in their order.
        ordinal: `summarise` has the kappa already.
        draws: number of bootstrap draws.
        seed: of the draws.

    Returns:
        Tidy table with the columns `METRIC_COLUMNS`.

    Raises:
        RunError: if ``extended`` has images, classes or methods that ``cases`` has not.

    Reference:
        Wang et al., "ChestX-ray8", CVPR 2017 (``iou_acc``, ``iobb_acc``, ``afp``); Choe et al., "Evaluating weakly
        supervised object localization methods right", CVPR 2020 (``maxboxacc``, ``pxap``); Saporta et al.,
        "Benchmarking saliency methods for chest X-ray interpretation", 2022 (``miou``, ``hit_rate``).
    """
    grid, drawn = grid_of(cases), patient_draws(cases, draws, seed)
    tables = case_tables(cases, _CASE_COLUMNS, grid=grid)
    own = next((table for table in tables if is_method(table.method)), None)
    places = {table.method: table for table in case_tables(extended, _PLACE_COLUMNS, grid=grid)}
    if odd := sorted(set(places) - {table.method for table in tables}):
        raise RunError(f"method {odd[0]!r} is not in these cases; both files must be of one evaluation.")
    swept, scenes = _by_method(extended, sweeps, grid), _scenes(cases, extended, grid)
    rows: list[dict[str, Any]] = []
    for table in tables:
        place = places.get(table.method, _nothing(table))
        measures = [
            *_protocols(place, drawn.weights),
            *_swept(swept.get(table.method, _NO_CURVES), table.column["label"].shape, drawn.weights),
            *_detection(table, scenes.get(table.method, {}), drawn.weights),
            *_segmentation(table, place, own, drawn.weights),
        ]
        if is_method(table.method):
            graded = exclusive and not ordinal
            rows += one_row(table, kappa_measure(table, drawn.weights), "macro", drawn.owner) if graded else []
            measures = [*_classification(table, drawn.weights), *measures]
        rows += [row for measure in measures for row in measure_rows(table, measure, drawn.owner)]
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))


# ---- one map -----------------------------------------------------------------------------------------------------


def _shown(view: View) -> View:
    """Protocols scale a map by its own range: they get it as it is shown, as probabilities, where cold is near 0."""
    return view._replace(evidence=np.asarray(view.probability(view.evidence), dtype=np.float32))


def _mask_columns(view: View, lesion: np.ndarray, spacing: Sequence[float] | None) -> dict[str, Any]:
    """What compares the mask, or Otsu's, with a lesion that is not empty."""
    counts = overlap_counts(view.mask, lesion)
    parts = lesion_detection(view.mask, lesion)
    known = spacing is not None or lesion.ndim == 2
    distances = surface_distances(view.mask, lesion, spacing)._asdict() if known else {}
    otsu = otsu_mask(view.evidence)
    return distances | {
        "overlap": counts.both,
        "area": counts.predicted,
        "truth_area": counts.truth,
        "precision": counts.precision,
        "volume_difference": volume_difference(view.mask, lesion),
        "lesions": parts.lesions,
        "lesions_found": parts.found,
        "components": parts.predicted,
        "components_false": parts.false,
        "otsu_iou": chexlocalize_iou(otsu, lesion, true_positives_only=False),
        "otsu_iou_true_positives": chexlocalize_iou(otsu, lesion, true_positives_only=True),
    }


def _box_columns(view: View, boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How many truth boxes are hit, and how many predicted ones hit nothing, at each level."""
    case = chestxray8_case(view.evidence, boxes)
    tallies = {"truth_count": len(boxes), "predicted_count": len(case.predicted_iou)}
    for level in LEVELS:
        tallies |= {
            f"iou_hits@{level:g}": int((case.truth_iou > level).sum()),
            f"iobb_hits@{level:g}": int((case.truth_iobb > level).sum()),
            f"iou_false@{level:g}": int((case.predicted_iou <= level).sum()),
            f"iobb_false@{level:g}": int((case.predicted_iobb <= level).sum()),
        }
    return tallies


def _sweep(evidence: np.ndarray, lesion: np.ndarray | None, boxes: Sequence[Sequence[float]]) -> Sweeps:
    """The curves of one map."""
    steps = len(THRESHOLDS)
    levels = threshold_levels(wsol_unit(evidence), THRESHOLDS)
    largest, best = box_sweep_levels(levels, steps, boxes)  # NaN without boxes
    found = reached = np.zeros(steps, dtype=np.int64)
    if lesion is not None:
        counts = counts_from_levels(levels, lesion, steps)
        found, reached = counts.both, counts.predicted
    return Sweeps(
        largest.astype(np.float32), best.astype(np.float32), found.astype(np.uint32), reached.astype(np.uint32)
    )


def _numbers(cells: pd.Series) -> np.ndarray:
    return np.array([float(cell) if cell else NAN for cell in cells], dtype=np.float64)


# ---- from tables to measures -------------------------------------------------------------------------------------


def _nothing(table: CaseTable) -> CaseTable:
    """A table of a method without any located lesion."""
    empty = np.full(table.column["label"].shape, np.nan)
    return table._replace(column=dict.fromkeys(_PLACE_COLUMNS, empty))


def _ratio_measure(
    names: tuple[str, str], parts: np.ndarray, wholes: np.ndarray, weights: np.ndarray, levels: np.ndarray
) -> Measure:
    """Sum of parts over sum of wholes, over the images that have both."""
    whole = np.where(wholes > 0, wholes, np.nan)
    return Measure(*names, weighted_ratio(parts, whole, weights), ~np.isnan(parts + whole), levels)


def _classification(table: CaseTable, weights: np.ndarray) -> list[Measure]:
    column, label = table.column, table.column["label"]
    none, level = np.full(len(table.classes), np.nan), class_thresholds(table, "decision_threshold")
    metrics: dict[str, tuple[Callable[..., np.ndarray], np.ndarray, np.ndarray]] = {
        "f1": (f1_score, column["positive"], level),
        "oracle_max_f1": (oracle_max_f1, table.score, none),
        "pf1": (probabilistic_f1, column["probability"], none),
        "sensitivity_at_specificity_0.9": (_sensitivity_at_90, table.score, none),
        "brier": (brier, column["probability"], none),
        "ece": (expected_calibration_error, column["probability"], none),
    }
    return [
        Measure(
            "classification", name, per_class(metric, scores, label, weights), _known(label) & ~np.isnan(scores), at
        )
        for name, (metric, scores, at) in metrics.items()
    ]


def _sensitivity_at_90(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return sensitivity_at_specificity(scores, labels, 0.9, weights)


def _known(label: np.ndarray) -> np.ndarray:
    return (label == 0) | (label == 1)


def _protocols(place: CaseTable, weights: np.ndarray) -> list[Measure]:
    """ChestX-ray8 and CheXlocalize: thresholds of their own, so none is named."""
    column, none = place.column, np.full(len(place.classes), np.nan)
    task = "localisation"
    measures = []
    for level in LEVELS:
        at, truth = f"@{level:g}", column["truth_count"]
        measures += [
            _ratio_measure((task, f"iou_acc{at}"), column[f"iou_hits{at}"], truth, weights, none),
            _ratio_measure((task, f"iobb_acc{at}"), column[f"iobb_hits{at}"], truth, weights, none),
            mean_measure(task, f"afp{at}", column[f"iou_false{at}"], weights, none),
            mean_measure(task, f"iobb_afp{at}", column[f"iobb_false{at}"], weights, none),
        ]
    names = {"hit_rate": "hit", "miou": "otsu_iou", "miou_true_positives": "otsu_iou_true_positives"}
    return measures + [mean_measure(task, name, column[source], weights, none) for name, source in names.items()]


def _segmentation(table: CaseTable, place: CaseTable, own: CaseTable | None, weights: np.ndarray) -> list[Measure]:
    column, level, task = place.column, class_thresholds(table, "map_threshold"), "segmentation"
    both, areas = column["overlap"], column["area"] + column["truth_area"]
    gate = (table if is_method(table.method) or own is None else own).column["positive"]
    regions = column["components"]
    means = ("precision", "hausdorff", "hd95", "assd", "volume_difference")
    return [
        *(mean_measure(task, name, column[name], weights, level) for name in means),
        _ratio_measure((task, "lesion_sensitivity"), column["lesions_found"], column["lesions"], weights, level),
        _ratio_measure((task, "lesion_precision"), regions - column["components_false"], regions, weights, level),
        _ratio_measure((task, "dice_pooled"), 2 * both, areas, weights, level),
        _ratio_measure((task, "iou_pooled"), both, areas - both, weights, level),
        mean_measure(task, "dice_gated", table.column["dice"] * gate, weights, level),
    ]


# ---- curves ------------------------------------------------------------------------------------------------------


class _Curves(NamedTuple):
    """One method's curves, with image and class number of each."""

    image: np.ndarray
    label: np.ndarray
    sweeps: Sweeps


_NO_CURVES = _Curves(np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), ExtendedCases().sweeps())


def _by_method(extended: pd.DataFrame, sweeps: Sweeps, grid: Grid) -> dict[str, _Curves]:
    image, label = grid.place(extended)
    method = extended["method"].to_numpy(dtype=str)
    return {
        str(name): _Curves(image[own], label[own], Sweeps(*(curve[own] for curve in sweeps)))
        for name, own in ((name, method == name) for name in np.unique(method))
    }


def _swept(curves: _Curves, shape: tuple[int, ...], weights: np.ndarray) -> list[Measure]:
    """The WSOL protocol: one threshold for all images of a class."""

    def v1(own: Sweeps, drawn: np.ndarray) -> np.ndarray:
        return maxboxacc_v1(own.largest, drawn)

    def v2(own: Sweeps, drawn: np.ndarray) -> np.ndarray:
        return maxboxacc_v2(own.best, drawn)

    def area(own: Sweeps, drawn: np.ndarray) -> np.ndarray:
        return pxap(own.found, own.reached, drawn)

    boxed, masked = ~np.isnan(curves.sweeps.best[:, 0]), curves.sweeps.found[:, 0] > 0
    measures = []
    for name, statistic, usable in (("maxboxacc_v1", v1, boxed), ("maxboxacc_v2", v2, boxed), ("pxap", area, masked)):
        stats, used = np.full((len(weights), shape[1]), np.nan), np.zeros(shape, dtype=bool)
        for k in range(shape[1]):
            own = usable & (curves.label == k)
            if own.any():  # only the weights of their images are looked at
                chosen = Sweeps(*(curve[own] for curve in curves.sweeps))
                stats[:, k], used[curves.image[own], k] = statistic(chosen, weights[:, curves.image[own]]), True
        measures.append(Measure("localisation", name, stats, used, np.full(shape[1], np.nan)))
    return measures


# ---- candidates --------------------------------------------------------------------------------------------------


class _Scene(NamedTuple):
    """The candidates of one image and class, and the truth.

    Attributes:
        image: number of the image.
        boxes: p candidates.
        scores: ``(p,)``, hottest probability of each.
        places: p, where that is, in array order.
        truth: m boxes.
    """

    image: int
    boxes: list[list[float]]
    scores: np.ndarray
    places: list[list[int]]
    truth: list[list[float]]

    def found(self) -> np.ndarray:
        """The true box in which each candidate's hottest pixel lies, -1 for none (FROC)."""
        if not self.truth or not self.boxes:
            return np.full(len(self.boxes), -1)
        inside = np.stack([inside_boxes(place, self.truth) for place in self.places])
        return match_detections(inside, self.scores, once=False)

    def fitted(self) -> np.ndarray:
        """The true box that each candidate's box fits, given away once, -1 for none (average precision)."""
        if not self.truth or not self.boxes:
            return np.full(len(self.boxes), -1)
        return match_detections(box_iou(self.boxes, self.truth), self.scores, HIT)


def _scenes(cases: pd.DataFrame, extended: pd.DataFrame, grid: Grid) -> dict[str, dict[int, list[_Scene]]]:
    """By method and class: images with located lesions, and those whose label is 0, where candidates are listed."""
    keys = zip(*(extended[name].astype(str) for name in KEYS), strict=True)
    located = dict(zip(keys, extended["truth"], strict=True))
    listed = cases[(cases["boxes"] != "") & (cases["peaks"] != "")]
    image, label = grid.place(listed)
    columns = (listed[name] for name in (*KEYS, "label", "boxes", "peaks"))
    scenes: dict[str, dict[int, list[_Scene]]] = {}
    for i, k, name, group, method, state, boxes, cell in zip(image, label, *columns, strict=True):
        truth = located.get((name, group, method), "[]")
        if truth != "[]" or state == 0:
            peaks = json.loads(cell)
            scores, places = np.array([peak[0] for peak in peaks], dtype=float), [peak[1:] for peak in peaks]
            scene = _Scene(int(i), json.loads(boxes), scores, places, json.loads(truth))
            scenes.setdefault(method, {}).setdefault(int(k), []).append(scene)
    return scenes


def _detection(table: CaseTable, scenes: dict[int, list[_Scene]], weights: np.ndarray) -> list[Measure]:
    """FROC at each number of false positives, its mean, and the average precision of the boxes."""
    names = [*(f"froc@{x:g}" for x in FALSE_POSITIVES), "cpm", f"box_ap@{HIT:g}"]
    shape, level = table.column["label"].shape, class_thresholds(table, "map_threshold")
    stats, used = np.full((len(names), len(weights), shape[1]), np.nan), np.zeros(shape, dtype=bool)
    for k, own in scenes.items():
        image = np.array([scene.image for scene in own])
        stats[:, :, k], used[image, k] = _detected(own, weights[:, image]), True
    return [Measure("localisation", name, values, used, level) for name, values in zip(names, stats, strict=True)]


def _detected(scenes: Sequence[_Scene], weights: np.ndarray) -> np.ndarray:
    """``(A + 2, 1 + D)``: FROC, CPM, average precision."""
    scores = np.concatenate([scene.scores for scene in scenes])
    owner = np.repeat(np.arange(len(scenes)), [len(scene.boxes) for scene in scenes])
    lesions = np.array([len(scene.truth) for scene in scenes])
    found, fitted = (np.concatenate(parts) for parts in zip(*((s.found(), s.fitted()) for s in scenes), strict=True))
    curve = froc(scores, found, owner, lesions, weights)
    precision = box_average_precision(scores, fitted, owner, lesions, weights)
    return np.vstack([curve.sensitivity.T, curve.cpm[None], precision[None]])
