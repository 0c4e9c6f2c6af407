"""Numbers as a terminal shows them."""

from __future__ import annotations

import pandas as pd

from lesioncam.evaluation.summary import best_control

__all__ = ["headline"]

_SHOWN = (
    ("AUROC", "classification", "auroc"),
    ("average precision", "classification", "average_precision"),
    ("balanced accuracy", "classification", "balanced_accuracy"),
    ("pointing game", "localisation", "pointing_game"),
    ("Dice", "segmentation", "dice"),
    ("false alarms", "localisation", "false_alarm_rate"),
)


def headline(metrics: pd.DataFrame, split: str, method: str = "cam") -> str:
    """The means over classes, each beside its best control.

    Example:
        >>> row = {"task": "segmentation", "metric": "dice", "class": "macro", "n": 9}
        >>> rows = [row | {"method": "cam", "value": 0.5, "low": 0.4, "high": 0.6}]
        >>> rows += [row | {"method": "mean_mask", "value": 0.2, "low": 0.1, "high": 0.3}]
        >>> print(headline(pd.DataFrame(rows), "test"))
        test, mean over classes (95 % interval over patients)
          Dice               0.500 (0.400 to 0.600)   best control: mean_mask 0.200 (0.100 to 0.300)
    """
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
