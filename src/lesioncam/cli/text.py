"""Numbers as a terminal shows them."""

from __future__ import annotations

import pandas as pd

from lesioncam.evaluation.controls import is_method
from lesioncam.evaluation.summary import best_control

_SHOWN = (
    ("AUROC", "classification", "auroc"),
    ("average precision", "classification", "average_precision"),
    ("balanced accuracy", "classification", "balanced_accuracy"),
    ("quadratic kappa", "classification", "kappa_quadratic"),
    ("pointing game", "localisation", "pointing_game"),
    ("Dice", "segmentation", "dice"),
    ("false alarms", "localisation", "false_alarm_rate"),
)


def headline(metrics: pd.DataFrame, split: str, method: str | None = None) -> str:
    """The means over classes, each beside its best control.

    Example:
        >>> row = {"task": "segmentation", "metric": "dice", "class": "macro", "n": 9}
        >>> rows = [row | {"method": "cam", "value": 0.5, "low": 0.4, "high": 0.6}]
        >>> rows += [row | {"method": "mean_mask", "value": 0.2, "low": 0.1, "high": 0.3}]
        >>> print(headline(pd.DataFrame(rows), "test"))
        test, mean over classes (95 % interval over patients)
          Dice               0.500 (0.400 to 0.600)   best control: mean_mask 0.200 (0.100 to 0.300)
    """
    method = method or next((str(name) for name in metrics["method"] if is_method(str(name))), "")
    lines = [f"{split}, mean over classes (95 % interval over patients)"]
    means = metrics[(metrics["class"] == "macro") & metrics["value"].notna()]
    for name, task, metric in _SHOWN:
        own = means[(means["task"] == task) & (means["metric"] == metric) & (means["method"] == method)]
        if own.empty:
            continue
        control = best_control(means, metric)
        beside = "" if control is None else f"   best control: {control['method']} {_value(control)}"
        lines.append(f"  {name:<18} {_value(own.iloc[0])}{beside}")
    if "dice" not in set(means["metric"]):
        lines.append("  localisation not measured: the table has no masks for this split")
    return "\n".join(lines)


def _value(row: pd.Series) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def every_metric(metrics: pd.DataFrame) -> str:
    """Every metric of the map method, mean over classes: value, interval, images counted and left out.

    Example:
        >>> row = {"task": "segmentation", "metric": "hd95", "class": "macro", "method": "cam", "value": float("nan"),
        ...        "low": float("nan"), "high": float("nan"), "n": 0, "undefined": 9}
        >>> print(every_metric(pd.DataFrame([row])))
        every metric, mean over classes
          segmentation    hd95                         undefined                 over 0 images, 9 left out
    """
    lines = ["every metric, mean over classes"]
    own = metrics[(metrics["class"] == "macro") & metrics["method"].map(lambda name: is_method(str(name)))]
    for _, row in own.iterrows():
        value = "undefined" if pd.isna(row["value"]) else _value(row)
        counted = f"over {row['n']:.0f} images, {row['undefined']:.0f} left out"
        lines.append(f"  {row['task']:<15} {row['metric']:<28} {value:<25} {counted}")
    return "\n".join(lines)
