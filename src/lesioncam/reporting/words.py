"""Say numbers in words: values with intervals, why one is undefined, and the lights of the first screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lesioncam.reporting.read import Evaluation, without_paths

__all__ = ["Estimate", "Light", "counted", "estimate", "lights", "method_name", "metric_name", "number"]

METRICS = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "dice": "Dice",
    "iou": "IoU",
    "pointing_game": "Pointing game",
    "box_hit_rate": "Box hit rate",
    "false_alarm_rate": "False alarm rate",
}
METHODS = {
    "cam": "CAM",
    "random_map": "random map",
    "centre_prior": "centre prior",
    "mean_mask": "mean mask",
    "uniform_map": "uniform map",
    "brightness_map": "brightness map",
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
COLD_ENOUGH, NEARLY_COLD = 0.95, 0.80

State = Literal["ok", "warn", "fail", "none"]


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

    @property
    def known(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    @property
    def text(self) -> str:
        """The value, or why there is none."""
        return number(self.value) if self.known else f"undefined: {self.why}"

    @property
    def interval(self) -> str:
        """The interval, or nothing where there is none."""
        return f"{number(self.low)} to {number(self.high)}" if math.isfinite(self.low + self.high) else ""


@dataclass(frozen=True)
class Light:
    """One check of the first screen; the word says what the colour says."""

    state: State
    name: str
    text: str

    @property
    def word(self) -> str:
        """The state in a word."""
        return {"ok": "OK", "warn": "Warning", "fail": "Fail", "none": "Not measured"}[self.state]


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
        >>> metric_name("auroc"), metric_name("hd95")
        ('AUROC', 'hd95')
    """
    return METRICS.get(metric, metric)


def method_name(method: str) -> str:
    """How a map method or a control is called in print.

    Example:
        >>> method_name("mean_mask")
        'mean mask'
    """
    return METHODS.get(method, method)


def estimate(evaluation: Evaluation, task: str, metric: str, label: str, method: str | None = None) -> Estimate | None:
    """One number of metrics.csv; None if that line does not exist."""
    line = evaluation.numbers.get((task, metric, label, method or evaluation.method))
    return None if line is None else _estimate(line)


def counted(estimates: Iterable[Estimate], task: str) -> list[str]:
    """Over how many images numbers were taken, in words; numbers with the same count share a line.

    Example:
        >>> e = Estimate("dice", 0.6, 0.5, 0.7, 41, 9, "")
        >>> counted([e], "segmentation")
        ['Dice over 41 of 50 images; 9 without a lesion mask']
    """
    groups: dict[str, list[str]] = {}
    for one in estimates:
        groups.setdefault(_behind(one, task), []).append(metric_name(one.metric))
    return [f"{_listed(names)} {said}" for said, names in groups.items()]


def lights(evaluation: Evaluation) -> list[Light]:
    """The checks of the first screen, in a fixed order."""
    summary = evaluation.summary
    return [
        _leak_light(summary),
        _patient_light(summary),
        _threshold_light(evaluation),
        _cold_light(summary),
        _mask_light(summary),
        _test_light(summary),
    ]


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    metric, pixel = row["metric"], row["task"] != "classification"
    why = UNDEFINED | (UNDEFINED_PIXEL if pixel else UNDEFINED_IMAGE)
    return Estimate(
        metric=metric,
        value=row["value"],
        low=row["low"],
        high=row["high"],
        counted=_whole(row["n"]),
        undefined=_whole(row["undefined"]),
        why=why.get(metric, "nothing to measure"),
    )


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else 0


def _behind(one: Estimate, task: str) -> str:
    if not one.known:
        return f"undefined: {one.why}"
    return "over " + _of(
        one.counted, one.undefined, "not healthy" if one.metric == "false_alarm_rate" else LEFT_OUT[task]
    )


def _listed(names: list[str]) -> str:
    """Only the first begins with a capital, and an abbreviation keeps its own."""
    rest = [name if name[1:2].isupper() or name == "IoU" else name[:1].lower() + name[1:] for name in names[1:]]
    return ", ".join([*names[:1], *rest])


def _of(n: int, undefined: int, left_out: str) -> str:
    if not undefined:
        return f"{n} {'image' if n == 1 else 'images'}"
    return f"{n} of {n + undefined} images; {undefined} {left_out}"


def _leak_light(summary: Mapping[str, Any]) -> Light:
    leaks = [without_paths(str(leak)) for leak in summary.get("leaks", [])]
    if leaks:
        return Light("fail", "Leak between splits", "; ".join(leaks))
    if summary.get("patient_rule") in (None, "", "none"):
        return Light("none", "Leak between splits", "nobody can tell without knowing the patients")
    return Light("ok", "Leak between splits", "none found; no patient is in two splits")


def _patient_light(summary: Mapping[str, Any]) -> Light:
    rule = str(summary.get("patient_rule") or "none")
    if rule == "none":
        return Light("fail", "Patients", "not known: one patient may lie on both sides of the split")
    if rule.startswith("blocks"):
        return Light("warn", "Patients", f"assumed: {rule.partition(':')[2]} images in a row count as one patient")
    return Light("ok", "Patients", f"kept in one split each ({without_paths(rule)})")


def _threshold_light(evaluation: Evaluation) -> Light:
    name, sources = "Map thresholds", {source for _, source in evaluation.thresholds.values()}
    people = evaluation.summary.get("threshold_patients")
    if "default" in sources:
        default = [label for label, (_, source) in evaluation.thresholds.items() if source == "default"]
        which = "" if len(sources) == 1 else f" for {', '.join(default)}"
        return Light("warn", name, f"0.5 by default{which}, not chosen on validation (it takes lesion masks there)")
    if sources != {"val"}:
        return Light("warn", name, "given by the user; how they were chosen is not known")
    if evaluation.split == "val":
        return Light("warn", name, "chosen on these very images, so Dice and IoU below are optimistic")
    return Light("ok", name, f"chosen on validation{f' ({people} patients)' if people else ''}, none on this split")


def _cold_light(summary: Mapping[str, Any]) -> Light:
    cold = summary.get("healthy_cold")
    if not cold or not cold.get("n"):
        return Light("none", "Healthy images stay cold", "there is no healthy image in this split")
    share, n = float(cold["share"]), int(cold["n"])
    state: State = "ok" if share >= COLD_ENOUGH else "warn" if share >= NEARLY_COLD else "fail"
    return Light(
        state, "Healthy images stay cold", f"{share:.0%} of {n} (99th percentile of the map below the threshold)"
    )


def _mask_light(summary: Mapping[str, Any]) -> Light:
    n, images = int(summary.get("images_with_masks", 0)), int(summary.get("images", 0))
    if n:
        return Light("ok", "Lesion masks to measure with", f"{n} of {images} images")
    return Light("warn", "Lesion masks to measure with", "none")


def _test_light(summary: Mapping[str, Any]) -> Light:
    opened, by = int(summary.get("test_opened", 0)), int(summary.get("configurations", 0))
    if not opened:
        return Light("ok", "Test labels", "not opened yet")
    text = f"opened {_times(opened)} by {by} {'configuration' if by == 1 else 'configurations'}"
    if max(opened, by) > 1:
        return Light("warn", "Test labels", f"{text}; whoever chose among them chose on the test set")
    return Light("ok", "Test labels", text)


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
