"""Say numbers in words: values with intervals, how many images stand behind them, and why one is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lesioncam.evaluation.controls import BOUNDS, READER
from lesioncam.evaluation.metric import metric_of, title_of
from lesioncam.reporting.report.read import Evaluation

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
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}
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


def method_name(method: str) -> str:
    """How a map method, a control or a reader is called in print.

    Example:
        >>> method_name("mean_mask"), method_name("reader:B")
        ('mean mask', 'reader B')
    """
    if method.startswith(READER):
        return f"reader {method.removeprefix(READER)}"
    return METHODS.get(method, method)


def class_name(label: str) -> str:
    """How a class is called in print.

    Example:
        >>> class_name("macro"), class_name("any"), class_name("mass")
        ('Mean of classes', 'Any class', 'mass')
    """
    return {"macro": "Mean of classes", "any": "Any class"}.get(label, label)


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
        names += [name for name in (title_of(one.metric),) if name not in names]
    return [f"{_listed(names)} {said}" for said, names in groups.items()]


def _estimate(row: Mapping[Hashable, Any]) -> Estimate:
    known = metric_of(str(row["task"]), str(row["metric"]))
    why = "nothing to measure" if known is None else known.why_undefined
    if row["metric"] == "false_alarm_rate" and str(row.get("method", "")).startswith((*BOUNDS, READER)):
        why = "lesions only"  # they are drawn where there is a lesion
    return Estimate(
        metric=row["metric"],
        value=row["value"],
        low=row["low"],
        high=row["high"],
        counted=_whole(row["n"]),
        undefined=_whole(row["undefined"]),
        why=why,
        hidden=str(row.get("hidden", "")),
        threshold=row.get("threshold", math.nan),
    )


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else 0


def _behind(one: Estimate, task: str, count: Count) -> str:
    if not one.known:
        return one.text
    known = metric_of(task, one.metric)
    left_out = "left out" if known is None else known.who_is_left_out
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
