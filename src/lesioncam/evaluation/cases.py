"""``cases.csv``: one row per image, class and method; every number of a report can be recomputed from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesioncam.errors import RunError
from lesioncam.evaluation.controls import ControlMap
from lesioncam.files import write_csv
from lesioncam.functional.boxes import box_iou, component_boxes, inside_boxes
from lesioncam.functional.calibration import log_odds
from lesioncam.functional.segmentation import overlap_counts
from lesioncam.types import Box, CaseResult, Component, Heatmap, Threshold

COLUMNS: dict[str, str] = {
    "image": "text",  # id of the image
    "patient": "text",  # keyed digest
    "split": "text",
    "class": "text",
    "method": "text",  # the map method, or a control
    "state": "whole",  # as in the table: 1, 0, -1, blank
    "label": "real",  # after the policy; blank unknown
    "logit": "real",  # before the sigmoid; of a softmax, of the class against all others
    "probability": "real",
    "expected_grade": "real",  # of grades only: their places 0 ... K - 1, weighted by probability
    "decision_threshold": "real",
    "positive": "whole",
    "healthy": "whole",  # 1 if all classes are known to be negative
    "map_threshold": "real",
    "map_source": "text",  # val, default, given
    "map_p99": "real",  # 99th percentile of the probability map
    "map_max": "real",
    "area": "whole",  # predicted pixels
    "boxes": "text",  # predicted boxes, JSON, largest first
    "peaks": "text",  # of each box: [hottest probability, row, column], JSON
    "has_mask": "whole",  # 1 if a truth mask of the class was given
    "truth_area": "whole",
    "dice": "real",
    "iou": "real",
    "sensitivity": "real",
    "specificity": "real",
    "pointing": "whole",  # 1 if the hottest pixel lies inside the truth
    "truth_boxes": "whole",
    "boxes_hit": "whole",  # truth boxes met by a predicted one with IoU >= .5
    "false_alarm": "whole",  # healthy images only: 1 if the mask has any pixel
}
"""Every column and its kind; a blank cell is undefined."""

_LATER = ("expected_grade",)
"""Columns that older files lack."""

HIT = 0.5
"""The IoU from which a predicted box meets a truth box."""

NAN = float("nan")


@dataclass(frozen=True)
class Truth:
    """What is known about one image, classes in the order of the model's.

    Attributes:
        states: ``(K,)`` as in the table: 1, 0, -1 uncertain, NaN unknown.
        labels: ``(K,)`` after the run's policy: 1, 0, soft, NaN unknown.
        patient: keyed digest.
        split: where the image belongs.
        masks: class -> ``(*native)`` bool; a class without an entry has no mask.
        boxes: truth boxes of the table, native pixels.
        readers: reader -> class -> ``(*native)`` bool: what human readers drew, a benchmark and never the truth.
    """

    states: Sequence[float]
    labels: Sequence[float]
    patient: str
    split: str
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    readers: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether every class is known to be negative."""
        return all(label == 0 for label in self.labels)

    def located(self, label: str) -> bool:
        """Whether the place of this class's lesions is known: a mask that is not empty, or a box."""
        return any(box.label == label for box in self.boxes) or bool(np.any(self.masks.get(label, False)))


class View(NamedTuple):
    """One method's answer for one class of one image.

    Attributes:
        evidence: ``(*native)``, the raw map.
        mask: ``(*native)`` bool.
        parts: connected regions of the mask, largest first.
        threshold: that made the mask.
        probability: raw values to probabilities, for single numbers.
    """

    evidence: np.ndarray
    mask: np.ndarray
    parts: Sequence[Component]
    threshold: Threshold
    probability: Callable[[np.ndarray], np.ndarray]


CaseRow = dict[str, str | float | None]
"""A row of ``cases.csv`` by column; None is a blank cell."""

Watch = Callable[[tuple[str, str, str], View, "Truth"], None]
"""Called with (image, class, method), the view and the truth for every row whose lesions are located."""


def case_rows(
    result: CaseResult,
    truth: Truth,
    controls: Mapping[str, ControlMap] | None = None,
    watch: Watch | None = None,
    evidence: np.ndarray | None = None,
) -> list[CaseRow]:
    """The rows of one image: one per class for the map method, and for each control where truth allows a comparison.

    Args:
        result: the image's way through the model.
        truth: what is known about it.
        controls: name -> maps and thresholds; a control gets a row where the class's lesions are located, or where the
            image is healthy (there with its false alarm only). Controls have no image score.
        evidence: the raw maps on the image's own grid, where they are at hand already.
        watch: sees every row's maps where lesions are located, for measures that need more than this table.

    Returns:
        Rows with the keys of `COLUMNS`; NaN is undefined. Dice and its kin are not gated by the image score.

    Raises:
        GeometryError: if a mask differs in size from its image.
    """
    evidence = result.heatmap.native() if evidence is None else evidence
    rows = []
    for k, label in enumerate(result.classes):
        cut = result.segmentation
        own = View(evidence[k], cut.masks[k], cut.components[k], cut.thresholds[k], _scale(result.heatmap, k))
        context = _context(result, truth, k)
        located, boxes = truth.located(label), truth_boxes(truth, label)
        mask = truth.masks.get(label)
        rows.append(context | {"method": result.heatmap.method} | _score(result, k) | _place(own, truth, mask, boxes))
        if located and watch is not None:
            watch((result.id, label, result.heatmap.method), own, truth)
        for name, control in (controls or {}).items():
            if k not in control.maps:
                continue
            if located:
                view = _control_view(control, k)
                rows.append(context | {"method": name} | _NO_SCORE | _place(view, truth, mask, boxes))
                if watch is not None:
                    watch((result.id, label, name), view, truth)
            elif truth.healthy:
                rows.append(context | {"method": name} | _NO_SCORE | _alarm(control, k))
    return rows


def write_cases(path: Path, rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> Path:
    """Write ``cases.csv`` whole or not at all; floats come back exactly, undefined cells are blank.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_cases(Path(folder) / "cases.csv", [{"image": "007", "class": "mass", "dice": 0.1 + 0.2}])
        ...     read_cases(path)[["image", "dice"]].to_dict("list")
        {'image': ['007'], 'dice': [0.30000000000000004]}
    """
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    for name, kind in COLUMNS.items():
        if kind == "whole":
            frame[name] = pd.to_numeric(frame[name]).astype("Int64")
    return write_csv(path, frame)


def read_cases(path: Path) -> pd.DataFrame:
    """Read what `write_cases` wrote: text as text, everything else float64 with NaN undefined.

    Raises:
        RunError: if the file is missing, broken or lacks columns.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame = frame.assign(**{name: "" for name in _LATER if name not in frame.columns})
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return frame.assign(**{name: _numbers(frame[name]) for name, kind in COLUMNS.items() if kind != "text"})
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as cases ({error}); evaluate again.") from error


def _numbers(cells: pd.Series) -> np.ndarray:
    """Parsed by Python, digit by digit: readers of tables round differently from version to version."""
    return np.array([float(cell) if cell else NAN for cell in cells], dtype=np.float64)


def _scale(heatmap: Heatmap, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """The calibrated scale of one class."""
    one = heatmap.scale.of_class(k)
    return lambda raw: one.probability(np.asarray(raw, dtype=np.float32)[None])[0]


# ---- parts of a row ----------------------------------------------------------------------------------------------


def _context(result: CaseResult, truth: Truth, k: int) -> CaseRow:
    return {
        "image": result.id,
        "patient": truth.patient,
        "split": truth.split,
        "class": result.classes[k],
        "state": float(truth.states[k]),
        "label": float(truth.labels[k]),
        "healthy": int(truth.healthy),
    }


def _score(result: CaseResult, k: int) -> CaseRow:
    return {
        "logit": float((log_odds(result.logits) if result.exclusive else result.logits)[k]),
        "probability": float(result.probabilities[k]),
        "expected_grade": result.expected_grade,
        "decision_threshold": float(result.decisions[k].value),
        "positive": int(result.positive[k]),
    }


_NO_SCORE: CaseRow = dict.fromkeys(("logit", "probability", "expected_grade", "decision_threshold", "positive"), NAN)


def _control_view(control: ControlMap, k: int) -> View:
    values, threshold = control.maps[k], control.thresholds[k]
    mask, parts = control.cut(k)
    return View(values, mask, parts, threshold, lambda raw: raw)


def _alarm(control: ControlMap, k: int) -> CaseRow:
    """A control on a healthy image: whether it marks anything, and how much."""
    threshold = control.thresholds[k]
    area = control.area(k)
    return {
        "map_threshold": float(threshold.value),
        "map_source": threshold.source,
        "area": area,
        "has_mask": 0,
        "truth_boxes": 0,
        "false_alarm": int(area > 0),
    }


def _place(view: View, truth: Truth, mask: np.ndarray | None, boxes: Sequence[tuple[float, ...]]) -> CaseRow:
    """The localisation columns."""
    found = [part.box for part in view.parts]
    area = int(np.count_nonzero(view.mask))
    p99, hottest = _levels(view)
    return {
        "map_threshold": float(view.threshold.value),
        "map_source": view.threshold.source,
        "map_p99": p99,
        "map_max": hottest,
        "area": area,
        "boxes": json.dumps([list(box) for box in found]),
        "peaks": json.dumps([[_finite(part.peak), *part.place] for part in view.parts]),
        "has_mask": int(mask is not None),
        "truth_boxes": len(boxes),
        "boxes_hit": _hits(found, boxes),
        "pointing": _pointing(view.evidence, mask, boxes),
        "false_alarm": int(area > 0) if truth.healthy else NAN,
    } | _overlap(view.mask, mask)


def _levels(view: View) -> tuple[float, float]:
    """99th percentile and maximum as probabilities: ranks are found in the raw map, since the scale only rises."""
    rank = 0.99 * (view.evidence.size - 1)
    low, high = math.floor(rank), math.ceil(rank)
    ranked = np.partition(view.evidence, (low, high), axis=None)
    below, above, hottest = view.probability(np.array([ranked[low], ranked[high], ranked[high:].max()])).tolist()
    return below + (rank - low) * (above - below), hottest


def _finite(value: float) -> float:
    """JSON has no NaN; six digits order peaks well enough."""
    return round(float(value), 6) if np.isfinite(value) else 0.0


def _overlap(predicted: np.ndarray, truth: np.ndarray | None) -> CaseRow:
    """Scores of the mask, only where the truth has a lesion."""
    if truth is None:
        return {**{"truth_area": NAN} | dict.fromkeys(("dice", "iou", "sensitivity", "specificity"), NAN)}
    counts = overlap_counts(predicted, truth)
    names = ("dice", "iou", "sensitivity", "specificity")
    return {"truth_area": counts.truth} | {name: getattr(counts, name) if counts.truth else NAN for name in names}


def truth_boxes(truth: Truth, label: str) -> list[tuple[float, ...]]:
    """The table's boxes of the class; without any, those around the regions of its mask."""
    if listed := [box.box for box in truth.boxes if box.label == label]:
        return listed
    mask = truth.masks.get(label)
    return [part.box for part in component_boxes(mask)] if mask is not None else []


def _hits(predicted: Sequence[tuple[int, ...]], truth: Sequence[tuple[float, ...]]) -> float:
    if not truth:
        return NAN
    return int((box_iou(truth, predicted) >= HIT).any(axis=1).sum())


def _pointing(evidence: np.ndarray, mask: np.ndarray | None, boxes: Sequence[tuple[float, ...]]) -> float:
    """1 if the hottest pixel (the first of equals) lies in the truth; a flat or non-finite map is a miss."""
    masked = mask is not None and bool(np.any(mask))
    if not masked and not boxes:
        return NAN
    if not evidence.max() > evidence.min():
        return 0
    point = tuple(int(i) for i in np.unravel_index(evidence.argmax(), evidence.shape))
    return int(mask[point]) if mask is not None and masked else int(inside_boxes(point, boxes).any())
