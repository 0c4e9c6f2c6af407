"""Say numbers in words: values with intervals, how many images stand behind them, and why one is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lesioncam.evaluation.controls import BOUNDS, READER
from lesioncam.reporting.report.read import Evaluation

__all__ = ["Count", "Estimate", "counted", "estimate", "method_name", "metric_name", "number", "plain"]

METRICS = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "max_f1": "Highest F1",
    "pf1": "Probabilistic F1",
    "kappa_quadratic": "Quadratic-weighted kappa",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "dice": "Dice",
    "dice_pooled": "Pooled Dice",
    "dice_gated": "Dice gated by the image score",
    "iou": "IoU",
    "iou_pooled": "Pooled IoU",
    "hausdorff": "Hausdorff distance",
    "hd95": "Hausdorff distance (95th percentile)",
    "assd": "Mean surface distance (ASSD)",
    "volume_difference": "Volume difference",
    "lesion_sensitivity": "Lesions found",
    "lesion_precision": "Marks that are lesions",
    "pointing_game": "Pointing game",
    "hit_rate": "Hit rate",
    "box_hit_rate": "Box hit rate",
    "false_alarm_rate": "False alarm rate",
    "miou": "mIoU",
    "miou_true_positives": "mIoU of true positives only",
    "maxboxacc_v1": "MaxBoxAcc V1",
    "maxboxacc_v2": "MaxBoxAcc V2",
    "pxap": "PxAP",
    "cpm": "CPM",
}
WITH_LEVEL = {
    "iou_acc": "Accuracy at IoU {}",
    "iobb_acc": "Accuracy at IoBB {}",
    "afp": "False positives per image at IoU {}",
    "iobb_afp": "False positives per image at IoBB {}",
    "froc": "Sensitivity at {} false positives per image",
    "box_ap": "Average precision of boxes at IoU {}",
    "sensitivity_at_specificity": "Sensitivity at specificity {}",
    "specificity_at_sensitivity": "Specificity at sensitivity {}",
}
"""Metrics whose name ends with a level: after ``@``, or as the last part."""
ORACLE = "oracle_"
METHODS = {
    "cam": "CAM",
    "random_map": "random map",
    "centre_prior": "centre prior",
    "mean_mask": "mean mask",
    "uniform_map": "uniform map",
    "brightness_map": "brightness map",
    "few_shot": "few-shot head on validation masks",
    "resolution_ceiling": "resolution ceiling",
    "supervised_bound": "supervised bound",
}
UNDEFINED = {
    "auroc": "one class only",
    "average_precision": "one class only",
    "balanced_accuracy": "one class only",
    "dice": "no lesion mask",
    "iou": "no lesion mask",
    "pointing_game": "no lesion mask or box",
    "box_hit_rate": "no lesion mask or box",
    "false_alarm_rate": "no healthy image",
}
UNDEFINED_IMAGE = {"sensitivity": "no positive image", "specificity": "no negative image"}
UNDEFINED_PIXEL = {"sensitivity": "no lesion mask", "specificity": "no lesion mask"}
LEFT_OUT = {
    "classification": "without a known label",
    "segmentation": "without a lesion mask",
    "localisation": "without a lesion mask or box",
}
LEFT_OUT_OF = {
    ("classification", "sensitivity"): "not positive",
    ("classification", "specificity"): "not negative",
    ("localisation", "false_alarm_rate"): "not healthy",
}
PROPER = frozenset({"Dice", "Brier", "Hausdorff"})

Count = Callable[..., str]
"""``count(n, of=None, least=10)``: how a number of images is printed; a shared page hides what is below ``least``."""


def plain(n: int, of: int | None = None, least: int = 0) -> str:  # noqa: ARG001  a shared page needs them
    """A count as it is.

    Example:
        >>> plain(7, 50)
        '7'
    """
    return str(n)


@dataclass(frozen=True)
class Estimate:
    """One number of metrics.csv: value, 95 % interval, and over how many images it was taken."""

    metric: str
    value: float
    low: float
    high: float
    counted: int
    undefined: int
    why: str
    hidden: str = ""
    threshold: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    @property
    def text(self) -> str:
        """The value, or why there is none."""
        if self.hidden:
            return f"not shown: {self.hidden}"
        return number(self.value) if self.known else f"undefined: {self.why}"

    @property
    def interval(self) -> str:
        """The interval, or nothing where there is none."""
        return f"{number(self.low)} to {number(self.high)}" if math.isfinite(self.low + self.high) else ""


def number(value: float, digits: int = 3) -> str:
    """A number as it is printed, a word where there is none.

    Example:
        >>> number(0.61349), number(float("nan"))
        ('0.613', 'undefined')
    """
    return f"{value:.{digits}f}" if math.isfinite(value) else "undefined"


def metric_name(metric: str) -> str:
    """How a metric is called in print.

    Example:
        >>> metric_name("auroc"), metric_name("iou_acc@0.25"), metric_name("sensitivity_at_specificity_0.9")
        ('AUROC', 'Accuracy at IoU 0.25', 'Sensitivity at specificity 0.9')
        >>> metric_name("oracle_max_f1"), metric_name("a_measure_of_my_own")
        ('Highest F1 (oracle)', 'a_measure_of_my_own')
    """
    if metric.startswith(ORACLE):
        return f"{metric_name(metric.removeprefix(ORACLE))} (oracle)"
    for sep in ("@", "_"):
        name, _, level = metric.rpartition(sep)
        if name in WITH_LEVEL:
            return WITH_LEVEL[name].format(level)
    return METRICS.get(metric, metric)


def method_name(method: str) -> str:
    """How a map method, a control or a reader is called in print.

    Example:
        >>> method_name("mean_mask"), method_name("reader:B")
        ('mean mask', 'reader B')
    """
    if method.startswith(READER):
        return f"reader {method.removeprefix(READER)}"
    return METHODS.get(method, method)


def estimate(evaluation: Evaluation, task: str, metric: str, label: str, method: str | None = None) -> Estimate | None:
    """One number of metrics.csv; None if that line does not exist."""
    line = evaluation.numbers.get((task, metric, label, method or evaluation.method))
    return None if line is None else _estimate(line)


def counted(estimates: Iterable[tuple[str, Estimate]], count: Count = plain) -> list[str]:
    """Over how many images numbers were taken, in words; numbers with the same count share a line.

    Args:
        estimates: task and number.
        count: how a number of images is printed.

    Example:
        >>> e = Estimate("dice", 0.6, 0.5, 0.7, 41, 9, "")
        >>> counted([("segmentation", e)])
        ['Dice over 41 of 50 images; 9 without a lesion mask']
    """
    groups: dict[str, list[str]] = {}
    for task, one in estimates:
        names = groups.setdefault(_behind(one, task, count), [])
        names += [name for name in (metric_name(one.metric),) if name not in names]
    return [f"{_listed(names)} {said}" for said, names in groups.items()]


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    metric, pixel = row["metric"], row["task"] != "classification"
    why = UNDEFINED | (UNDEFINED_PIXEL if pixel else UNDEFINED_IMAGE)
    if str(row.get("method", "")).startswith((*BOUNDS, READER)):  # they are drawn where there is a lesion
        why = why | {"false_alarm_rate": "lesions only"}
    return Estimate(
        metric=metric,
        value=row["value"],
        low=row["low"],
        high=row["high"],
        counted=_whole(row["n"]),
        undefined=_whole(row["undefined"]),
        why=why.get(metric, "nothing to measure"),
        hidden=str(row.get("hidden", "")),
        threshold=row.get("threshold", math.nan),
    )


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else 0


def _behind(one: Estimate, task: str, count: Count) -> str:
    if not one.known:
        return one.text
    left_out = LEFT_OUT_OF.get((task, one.metric), LEFT_OUT[task])
    return "over " + _of(one.counted, one.undefined, left_out, count)


def _listed(names: list[str]) -> str:
    """Only the first begins with a capital; abbreviations and people keep theirs."""
    return ", ".join([*names[:1], *(_within(name) for name in names[1:])])


def _within(name: str) -> str:
    first = name.split(maxsplit=1)[0].rstrip(",")
    return name[:1].lower() + name[1:] if first[1:].islower() and first not in PROPER else name


def _of(n: int, undefined: int, left_out: str, count: Count) -> str:
    whole = n + undefined
    if not undefined:
        return f"{count(n)} {'image' if n == 1 else 'images'}"
    return f"{count(n, whole)} of {count(whole)} images; {count(undefined, whole)} {left_out}"
