"""``metrics.csv``: from ``cases.csv`` alone to numbers with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesioncam.errors import RunError
from lesioncam.evaluation.controls import CONTROLS, is_method
from lesioncam.evaluation.metric import is_lower_better
from lesioncam.functional.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    interval,
    kappa_quadratic,
    nan_mean,
    patient_weights,
    pr_curve,
    roc_curve,
    weighted_mean,
    weighted_ratio,
)

METRIC_COLUMNS = ("task", "metric", "class", "method", "value", "low", "high", "n", "undefined", "threshold")
"""Columns of ``metrics.csv``."""


class Grid(NamedTuple):
    """The images and classes of all tables, in the order of their first appearance."""

    images: tuple[str, ...]
    classes: tuple[str, ...]

    def place(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Image and class number of each row.

        Raises:
            RunError: for an image or a class that is not on the grid.
        """
        found = []
        for known, name in ((self.images, "image"), (self.classes, "class")):
            index = pd.Index(known).get_indexer(pd.Index(frame[name].astype(str)))
            if (index < 0).any():
                odd = frame[name].iloc[int(np.flatnonzero(index < 0)[0])]
                raise RunError(f"{name} {odd!r} is not in these cases; both files must be of one evaluation.")
            found.append(np.asarray(index))
        return found[0], found[1]


class Draws(NamedTuple):
    """Bootstrap over patients: ``weights (1 + D, n)``, the first row ones, and each image's patient, ``(n,)``."""

    weights: np.ndarray
    owner: np.ndarray


class CaseTable(NamedTuple):
    """One method's columns as matrices, images x classes; NaN where there is no row."""

    method: str
    classes: tuple[str, ...]
    column: Mapping[str, np.ndarray]

    @property
    def score(self) -> np.ndarray:
        """Logits; probabilities where a foreign table has no logits."""
        logit = self.column["logit"]
        return self.column["probability"] if np.isnan(logit).all() else logit


class Measure(NamedTuple):
    """A metric of several classes: the value (first row), the draws (other rows), and the images behind it."""

    task: str
    metric: str
    stats: np.ndarray  # (1 + D, K)
    used: np.ndarray  # (n, K) bool
    thresholds: np.ndarray  # (K,)


def summarise(
    cases: pd.DataFrame, *, exclusive: bool, ordinal: bool = False, draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Every metric of every method, per class and as macro mean, with 95 % intervals.

    Intervals are percentiles of a bootstrap over patients; all methods see the same draws, so they can be compared in
    pairs. Macro means (and their intervals, draw by draw) are over the classes that are defined. With fewer than two
    patients behind a number there is no interval.

    Args:
        cases: as `read_cases` returns it.
        exclusive: one label per image: balanced accuracy is the mean recall of the arg-max over the classes. Where
            images without any positive class exist, they are a group of their own, predicted where no class reaches
            its decision threshold.
        ordinal: the classes are grades, in order: quadratic-weighted kappa of the most likely one.
        draws: number of bootstrap draws.
        seed: of the draws.

    Returns:
        Tidy table with the columns `METRIC_COLUMNS`. ``n`` counts the images behind a number, ``undefined`` the images
        left out; a number nothing stands behind is NaN with ``n`` 0. ``threshold`` is the one the metric depends on, if
        any.

    Reference:
        Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8.
    """
    weights, owner = patient_draws(cases, draws, seed)
    rows: list[dict[str, object]] = []
    for table in case_tables(cases):
        measures = [*localisation_measures(table, weights), *segmentation_measures(table, weights)]
        if is_method(table.method):
            rows += one_row(table, exclusive_accuracy(table, weights), "macro", owner) if exclusive else []
            rows += one_row(table, kappa_measure(table, weights), "macro", owner) if ordinal else []
            measures = [*classification_measures(table, weights, exclusive=exclusive), *measures]
        rows += [row for measure in measures for row in measure_rows(table, measure, owner)]
        rows += one_row(table, any_alarm(table, weights), "any", owner)
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS))


def own_method(cases: pd.DataFrame) -> str:
    """The map method of a run: the first method that is no control, bound or reader.

    Raises:
        RunError: if there is none.

    Example:
        >>> own_method(pd.DataFrame({"method": ["random_map", "cam"]}))
        'cam'
    """
    names = [str(name) for name in cases["method"].unique() if is_method(str(name))]
    if not names:
        raise RunError("these cases hold no row of a map method; evaluate a split that has images.")
    return names[0]


def best_control(metrics: pd.DataFrame, metric: str, label: str = "macro") -> pd.Series | None:
    """The control with the best value of a metric, or None if none was measured.

    The best is the lowest for alarms, distances and errors, the highest otherwise.

    Example:
        >>> table = pd.DataFrame({"metric": "dice", "class": "macro", "method": ["cam", "random_map", "mean_mask"],
        ...                       "value": [0.6, 0.1, 0.2]})
        >>> best_control(table, "dice")["method"]
        'mean_mask'
    """
    chosen = metrics[
        (metrics["metric"] == metric) & (metrics["class"] == label) & metrics["method"].isin(list(CONTROLS))
    ]
    chosen = chosen[chosen["value"].notna()]
    if chosen.empty:
        return None
    best = chosen["value"].argmin() if is_lower_better(metric) else chosen["value"].argmax()
    return chosen.iloc[int(best)]


def curves(cases: pd.DataFrame) -> dict[str, np.ndarray]:
    """Points of the ROC and precision-recall curves per class, for ``curves.npz``.

    Returns:
        ``roc/<class>/fpr``, ``roc/<class>/tpr``, ``pr/<class>/recall``, ``pr/<class>/precision``; a class that has no
        positive or no negative image has no ROC curve, one without a positive no precision-recall curve.
    """
    points: dict[str, np.ndarray] = {}
    method = own_method(cases)
    table = next(table for table in case_tables(cases) if table.method == method)
    for k, label in enumerate(table.classes):
        scores, labels = table.score[:, k], table.column["label"][:, k]
        fpr, tpr, _ = roc_curve(scores, labels)
        precision, recall, _ = pr_curve(scores, labels)
        if not np.isnan(fpr + tpr).any():
            points |= {f"roc/{label}/fpr": fpr, f"roc/{label}/tpr": tpr}
        if not np.isnan(recall).any():
            points |= {f"pr/{label}/recall": recall, f"pr/{label}/precision": precision}
    return points


# ---- from rows to matrices ---------------------------------------------------------------------------------------

NEEDED = (
    "label",
    "logit",
    "probability",
    "decision_threshold",
    "positive",
    "map_threshold",
    "dice",
    "iou",
    "sensitivity",
    "specificity",
    "pointing",
    "truth_boxes",
    "boxes_hit",
    "false_alarm",
)
"""The columns of cases.csv that become matrices."""


def grid_of(cases: pd.DataFrame) -> Grid:
    """Images and classes of all of ``cases``, whatever the method."""
    return Grid(tuple(cases["image"].astype(str).unique()), tuple(cases["class"].astype(str).unique()))


def patient_draws(cases: pd.DataFrame, draws: int, seed: int) -> Draws:
    """The bootstrap of these cases: the same for every table made of them with the same seed."""
    patients = cases.drop_duplicates("image")["patient"].to_numpy(dtype=str)
    drawn = patient_weights(patients, np.random.default_rng(seed), draws)
    weights = np.vstack([np.ones((1, drawn.shape[1]), dtype=drawn.dtype), drawn])
    return Draws(weights, np.unique(patients, return_inverse=True)[1])


def case_tables(frame: pd.DataFrame, columns: Sequence[str] = NEEDED, *, grid: Grid | None = None) -> list[CaseTable]:
    """One table per method, in the order of their first appearance.

    Args:
        frame: rows of an image, class and method.
        columns: those to be spread, all of them numbers.
        grid: where to; the frame's own by default.

    Raises:
        RunError: for a row that is not on the grid.
    """
    target = grid or grid_of(frame)
    image, label = target.place(frame)
    tables = []
    for method in frame["method"].unique():
        own = (frame["method"] == method).to_numpy()
        spread = {}
        for name in columns:
            spread[name] = np.full((len(target.images), len(target.classes)), np.nan)
            spread[name][image[own], label[own]] = frame[name].to_numpy(dtype=float)[own]
        tables.append(CaseTable(str(method), target.classes, spread))
    return tables


# ---- from matrices to measures -----------------------------------------------------------------------------------


def classification_measures(table: CaseTable, weights: np.ndarray, *, exclusive: bool) -> list[Measure]:
    """By the image score, at the decision threshold or without one."""
    label, positive, level = (
        table.column["label"],
        table.column["positive"],
        class_thresholds(table, "decision_threshold"),
    )
    known = ((label == 0) | (label == 1)) & ~np.isnan(table.score)
    none = np.full(len(table.classes), np.nan)
    found = mean_measure("classification", "sensitivity", np.where(label == 1, positive, np.nan), weights, level)
    spared = mean_measure("classification", "specificity", np.where(label == 0, 1 - positive, np.nan), weights, level)
    both = Measure(
        "classification", "balanced_accuracy", (found.stats + spared.stats) / 2, found.used | spared.used, level
    )
    precision = per_class(average_precision, table.score, label, weights)
    return [
        Measure("classification", "auroc", per_class(auroc, table.score, label, weights), known, none),
        Measure("classification", "average_precision", precision, known, none),
        *([] if exclusive else [both]),
        found,
        spared,
    ]


def localisation_measures(table: CaseTable, weights: np.ndarray) -> list[Measure]:
    """By the place of the map's peak, of boxes and of false alarms."""
    column, level = table.column, class_thresholds(table, "map_threshold")
    boxes = np.where(column["truth_boxes"] > 0, column["truth_boxes"], np.nan)
    hits = weighted_ratio(column["boxes_hit"], boxes, weights)
    return [
        mean_measure("localisation", "pointing_game", column["pointing"], weights, np.full(len(level), np.nan)),
        Measure("localisation", "box_hit_rate", hits, ~np.isnan(boxes + column["boxes_hit"]), level),
        mean_measure("localisation", "false_alarm_rate", column["false_alarm"], weights, level),
    ]


def segmentation_measures(table: CaseTable, weights: np.ndarray) -> list[Measure]:
    """By the mask at the map threshold."""
    level = class_thresholds(table, "map_threshold")
    names = [name for name in ("dice", "iou", "sensitivity", "specificity") if name in table.column]
    return [mean_measure("segmentation", name, table.column[name], weights, level) for name in names]


def any_alarm(table: CaseTable, weights: np.ndarray) -> Measure:
    """False alarms of any class: healthy images in which something was marked."""
    alarms = np.fmax.reduce(table.column["false_alarm"], axis=1)[:, None]
    return mean_measure("localisation", "false_alarm_rate", alarms, weights, np.full(1, np.nan))


def exclusive_groups(table: CaseTable) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true group of each image where at most one class is positive, ``(n,)`` each.

    Groups are the numbers of the classes; K is "none of them", predicted (where such images exist) if no class reaches
    its decision threshold. A truth of -1 is unknown.
    """
    label, nobody = table.column["label"], len(table.classes)
    known = np.isin(label, (0, 1)).all(axis=1) & ~np.isnan(table.score).any(axis=1) & ((label == 1).sum(axis=1) <= 1)
    truth = np.where(label.max(axis=1, initial=0) > 0, label.argmax(axis=1), nobody)
    predicted = np.where(np.isnan(table.score), -np.inf, table.score).argmax(axis=1)
    if (truth[known] == nobody).any():
        predicted = np.where((table.column["positive"] == 1).any(axis=1), predicted, nobody)
    return predicted, np.where(known, truth, -1)


def exclusive_accuracy(table: CaseTable, weights: np.ndarray) -> Measure:
    """Mean recall of the arg-max; images without any positive class are one more group."""
    predicted, truth = exclusive_groups(table)
    values = balanced_accuracy(predicted, truth, weights)
    return Measure("classification", "balanced_accuracy", values[:, None], (truth >= 0)[:, None], np.full(1, np.nan))


def kappa_measure(table: CaseTable, weights: np.ndarray) -> Measure:
    """Quadratic weighted kappa of the arg-max; where images without any positive class exist, they are the grade 0."""
    predicted, truth = exclusive_groups(table)
    grades = len(table.classes) + 1
    values = kappa_quadratic((predicted + 1) % grades, np.where(truth >= 0, (truth + 1) % grades, -1), grades, weights)
    return Measure("classification", "kappa_quadratic", values[:, None], (truth >= 0)[:, None], np.full(1, np.nan))


def mean_measure(task: str, metric: str, values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> Measure:
    """Mean of a column over the images that have a value."""
    return Measure(task, metric, weighted_mean(values, weights), ~np.isnan(values), levels)


def per_class(
    metric: Callable[..., np.ndarray], scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """``metric(scores, labels, weights)`` of each column, ``(1 + D, K)``."""
    return np.stack([metric(*pair, weights) for pair in zip(scores.T, labels.T, strict=True)], axis=1)


def class_thresholds(table: CaseTable, column: str) -> np.ndarray:
    """The threshold of each class, NaN if there is none or not the same one everywhere."""
    values = table.column[column]
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    return np.where(low == high, low, np.nan)


# ---- from measures to rows ---------------------------------------------------------------------------------------


def measure_rows(table: CaseTable, measure: Measure, owner: np.ndarray) -> list[dict[str, object]]:
    """A row per class and one for their mean."""
    rows = []
    for k, label in enumerate(table.classes):
        single = Measure(measure.task, measure.metric, *_columns(measure, [k]))
        rows += one_row(table, single, label, owner)
    defined = [k for k in range(len(table.classes)) if not np.isnan(measure.stats[0, k])]
    used = np.any(measure.used[:, defined], axis=1, keepdims=True)
    macro = measure._replace(stats=nan_mean(measure.stats)[:, None], used=used, thresholds=np.full(1, np.nan))
    return rows + one_row(table, macro, "macro", owner)


def _columns(measure: Measure, k: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return measure.stats[:, k], measure.used[:, k], measure.thresholds[k]


def one_row(table: CaseTable, measure: Measure, label: str, owner: np.ndarray) -> list[dict[str, object]]:
    """The row of a measure with a single column."""
    value, used = float(measure.stats[0, 0]), measure.used[:, 0]
    n = int(used.sum()) if not np.isnan(value) else 0
    several = len(np.unique(owner[used])) > 1
    low, high = interval(measure.stats[1:, 0]) if n and several else (float("nan"), float("nan"))
    numbers = (value, low, high, n, len(used) - n, float(measure.thresholds[0]))
    return [dict(zip(METRIC_COLUMNS, (measure.task, measure.metric, label, table.method, *numbers), strict=True))]
