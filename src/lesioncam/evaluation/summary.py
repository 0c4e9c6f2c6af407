"""``metrics.csv``: from ``cases.csv`` alone to numbers with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesioncam.errors import RunError
from lesioncam.evaluation.controls import CONTROLS
from lesioncam.functional.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    interval,
    nan_mean,
    patient_weights,
    pr_curve,
    roc_curve,
    weighted_mean,
    weighted_ratio,
)

__all__ = ["METRICS", "best_control", "curves", "own_method", "summarise"]

METRICS = ("task", "metric", "class", "method", "value", "low", "high", "n", "undefined", "threshold")
"""Columns of ``metrics.csv``."""

LOWER_IS_BETTER = frozenset({"false_alarm_rate"})
"""Metrics of which the smallest value is the best."""


class _Cases(NamedTuple):
    """One method's columns as matrices: images x classes."""

    method: str
    classes: tuple[str, ...]
    column: Mapping[str, np.ndarray]

    @property
    def score(self) -> np.ndarray:
        """Logits; probabilities where a foreign table has no logits."""
        logit = self.column["logit"]
        return self.column["probability"] if np.isnan(logit).all() else logit


class _Measure(NamedTuple):
    """A metric of several classes: the value (first row), the draws (other rows), and the images behind it."""

    task: str
    metric: str
    stats: np.ndarray  # (1 + D, K)
    used: np.ndarray  # (n, K) bool
    thresholds: np.ndarray  # (K,)


def summarise(cases: pd.DataFrame, *, exclusive: bool, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every metric of every method, per class and as macro mean, with 95 % intervals.

    Intervals are percentiles of a bootstrap over patients; all methods see the same draws, so they can be compared in
    pairs. Macro means (and their intervals, draw by draw) are over the classes that are defined. With fewer than two
    patients behind a number there is no interval.

    Args:
        cases: as `read_cases` returns it.
        exclusive: one label per image: balanced accuracy is the mean recall of the arg-max over the classes. Where
            images without any positive class exist, they are a group of their own, predicted where no class reaches
            its decision threshold.
        draws: number of bootstrap draws.
        seed: of the draws.

    Returns:
        Tidy table with the columns `METRICS`. ``n`` counts the images behind a number, ``undefined`` the images left
        out; a number nothing stands behind is NaN with ``n`` 0. ``threshold`` is the one the metric depends on, if any.

    Reference:
        Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8.
    """
    tables = _tables(cases)
    patients = cases.drop_duplicates("image")["patient"].to_numpy(dtype=str)
    drawn = patient_weights(patients, np.random.default_rng(seed), draws)
    weights = np.vstack([np.ones((1, drawn.shape[1]), dtype=drawn.dtype), drawn])
    owner = np.unique(patients, return_inverse=True)[1]
    rows: list[dict[str, Any]] = []
    for table in tables:
        measures = [*_localisation(table, weights), *_segmentation(table, weights)]
        if table.method not in CONTROLS:
            rows += _one_row(table, _exclusive_accuracy(table, weights), "macro", owner) if exclusive else []
            measures = [*_classification(table, weights, exclusive=exclusive), *measures]
        rows += [row for measure in measures for row in _rows(table, measure, owner)]
        rows += _one_row(table, _any_alarm(table, weights), "any", owner)
    return pd.DataFrame(rows, columns=list(METRICS))


def own_method(cases: pd.DataFrame) -> str:
    """The map method of a run: the first method that is no control.

    Raises:
        RunError: if there is none.

    Example:
        >>> own_method(pd.DataFrame({"method": ["random_map", "cam"]}))
        'cam'
    """
    names = [str(name) for name in cases["method"].unique() if name not in CONTROLS]
    if not names:
        raise RunError("these cases hold no row of a map method; evaluate a split that has images.")
    return names[0]


def best_control(metrics: pd.DataFrame, metric: str, label: str = "macro") -> pd.Series | None:
    """The control with the best value of a metric (the lowest for false alarms), or None if none was measured.

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
    best = chosen["value"].argmin() if metric in LOWER_IS_BETTER else chosen["value"].argmax()
    return chosen.iloc[int(best)]


def curves(cases: pd.DataFrame) -> dict[str, np.ndarray]:
    """Points of the ROC and precision-recall curves per class, for ``curves.npz``.

    Returns:
        ``roc/<class>/fpr``, ``roc/<class>/tpr``, ``pr/<class>/recall``, ``pr/<class>/precision``; a class that has no
        positive or no negative image has no ROC curve, one without a positive no precision-recall curve.
    """
    points: dict[str, np.ndarray] = {}
    method = own_method(cases)
    table = next(table for table in _tables(cases) if table.method == method)
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

_NEEDED = (
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


def _tables(cases: pd.DataFrame) -> list[_Cases]:
    """One table per method, images and classes in the order of their first appearance in all of ``cases``."""
    image, images = pd.factorize(cases["image"])
    label, labels = pd.factorize(cases["class"])
    shape = (len(images), len(labels))
    tables = []
    for method in cases["method"].unique():
        own = (cases["method"] == method).to_numpy()
        place = image[own], label[own]
        columns = {name: _spread(cases[name].to_numpy(dtype=float)[own], place, shape) for name in _NEEDED}
        tables.append(_Cases(str(method), tuple(map(str, labels)), columns))
    return tables


def _spread(values: np.ndarray, place: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    out = np.full(shape, np.nan)
    out[place] = values
    return out


# ---- from matrices to measures -----------------------------------------------------------------------------------


def _classification(table: _Cases, weights: np.ndarray, *, exclusive: bool) -> list[_Measure]:
    label, positive, level = table.column["label"], table.column["positive"], _levels(table, "decision_threshold")
    known = ((label == 0) | (label == 1)) & ~np.isnan(table.score)
    none = np.full(len(table.classes), np.nan)
    found = _mean("classification", "sensitivity", np.where(label == 1, positive, np.nan), weights, level)
    spared = _mean("classification", "specificity", np.where(label == 0, 1 - positive, np.nan), weights, level)
    both = _Measure(
        "classification", "balanced_accuracy", (found.stats + spared.stats) / 2, found.used | spared.used, level
    )
    return [
        _Measure("classification", "auroc", _ranking(auroc, table, weights), known, none),
        _Measure("classification", "average_precision", _ranking(average_precision, table, weights), known, none),
        *([] if exclusive else [both]),
        found,
        spared,
    ]


def _localisation(table: _Cases, weights: np.ndarray) -> list[_Measure]:
    column, level = table.column, _levels(table, "map_threshold")
    boxes = np.where(column["truth_boxes"] > 0, column["truth_boxes"], np.nan)
    hits = weighted_ratio(column["boxes_hit"], boxes, weights)
    return [
        _mean("localisation", "pointing_game", column["pointing"], weights, np.full(len(level), np.nan)),
        _Measure("localisation", "box_hit_rate", hits, ~np.isnan(boxes + column["boxes_hit"]), level),
        _mean("localisation", "false_alarm_rate", column["false_alarm"], weights, level),
    ]


def _segmentation(table: _Cases, weights: np.ndarray) -> list[_Measure]:
    level = _levels(table, "map_threshold")
    names = ("dice", "iou", "sensitivity", "specificity")
    return [_mean("segmentation", name, table.column[name], weights, level) for name in names]


def _any_alarm(table: _Cases, weights: np.ndarray) -> _Measure:
    """Healthy images with a mask of any class."""
    alarms = np.fmax.reduce(table.column["false_alarm"], axis=1)[:, None]
    return _mean("localisation", "false_alarm_rate", alarms, weights, np.full(1, np.nan))


def _exclusive_accuracy(table: _Cases, weights: np.ndarray) -> _Measure:
    """Mean recall of the arg-max; images without any positive class are one more group."""
    label, nobody = table.column["label"], len(table.classes)
    known = np.isin(label, (0, 1)).all(axis=1) & ~np.isnan(table.score).any(axis=1) & ((label == 1).sum(axis=1) <= 1)
    truth = np.where(label.max(axis=1, initial=0) > 0, label.argmax(axis=1), nobody)
    predicted = np.where(np.isnan(table.score), -np.inf, table.score).argmax(axis=1)
    if (truth[known] == nobody).any():
        predicted = np.where((table.column["positive"] == 1).any(axis=1), predicted, nobody)
    values = balanced_accuracy(predicted, np.where(known, truth, -1), weights)
    return _Measure("classification", "balanced_accuracy", values[:, None], known[:, None], np.full(1, np.nan))


def _mean(task: str, metric: str, values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> _Measure:
    return _Measure(task, metric, weighted_mean(values, weights), ~np.isnan(values), levels)


def _ranking(metric: Callable[..., np.ndarray], table: _Cases, weights: np.ndarray) -> np.ndarray:
    pairs = zip(table.score.T, table.column["label"].T, strict=True)
    return np.stack([metric(scores, labels, weights) for scores, labels in pairs], axis=1)


def _levels(table: _Cases, column: str) -> np.ndarray:
    """The threshold of each class, NaN if there is none or not the same one everywhere."""
    values = table.column[column]
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    return np.where(low == high, low, np.nan)


# ---- from measures to rows ---------------------------------------------------------------------------------------


def _rows(table: _Cases, measure: _Measure, owner: np.ndarray) -> list[dict[str, Any]]:
    """A row per class and one for their mean."""
    rows = []
    for k, label in enumerate(table.classes):
        single = _Measure(measure.task, measure.metric, *_columns(measure, [k]))
        rows += _one_row(table, single, label, owner)
    defined = [k for k in range(len(table.classes)) if not np.isnan(measure.stats[0, k])]
    used = np.any(measure.used[:, defined], axis=1, keepdims=True)
    macro = measure._replace(stats=nan_mean(measure.stats)[:, None], used=used, thresholds=np.full(1, np.nan))
    return rows + _one_row(table, macro, "macro", owner)


def _columns(measure: _Measure, k: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return measure.stats[:, k], measure.used[:, k], measure.thresholds[k]


def _one_row(table: _Cases, measure: _Measure, label: str, owner: np.ndarray) -> list[dict[str, Any]]:
    """The row of a measure with a single column."""
    value, used = float(measure.stats[0, 0]), measure.used[:, 0]
    n = int(used.sum()) if not np.isnan(value) else 0
    several = len(np.unique(owner[used])) > 1
    low, high = interval(measure.stats[1:, 0]) if n and several else (float("nan"), float("nan"))
    numbers = (value, low, high, n, len(used) - n, float(measure.thresholds[0]))
    return [dict(zip(METRICS, (measure.task, measure.metric, label, table.method, *numbers), strict=True))]
