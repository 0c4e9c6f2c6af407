"""Write the report: one HTML file that holds everything it shows and opens from disk without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lesioncam.files import RunFolder, write_text
from lesioncam.reporting.figures import control_plots, curve_plots, history_plots
from lesioncam.reporting.montage import HEAT, data_uri, read_row
from lesioncam.reporting.overlay import color_bar
from lesioncam.reporting.read import Case, Evaluation, Run, read_run, shorten_command, without_paths
from lesioncam.reporting.words import (
    Estimate,
    counted,
    estimate,
    lights,
    method_name,
    metric_name,
    number,
)

__all__ = ["write_report"]

COLUMNS = {
    "classification": ("auroc", "average_precision", "balanced_accuracy", "sensitivity", "specificity"),
    "segmentation": ("dice", "iou", "sensitivity", "specificity"),
    "localisation": ("pointing_game", "box_hit_rate", "false_alarm_rate"),
}
TASK_TITLES = {
    "classification": "Recognising: is the finding in the image?",
    "segmentation": "Outlining: does the mask cover the lesion?",
    "localisation": "Locating: does the map point at the lesion?",
}
GROUP_TITLES = {
    "missed": "Missed: the finding is there, but was not called or not met by the mask",
    "false_alarm": "False alarms: called or marked where the finding is not",
    "worst": "Worst overlap with the true mask",
    "median": "Median overlap",
    "best": "Best overlap",
    "healthy": "Healthy: should be cold",
}
SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class Headline:
    """A number of the first screen beside the best that needs no model."""

    title: str
    own: Estimate
    beside: str
    verdict: str


@dataclass(frozen=True)
class Table:
    """Numbers of one task: a row per class, a column per metric."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...], tuple[str, ...]], ...]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, from what lies in that folder alone.

    Test results come first where test was opened, with validation folded away below; otherwise validation, and
    the page says that its thresholds were chosen there.

    Args:
        run: a run folder that has been evaluated at least once.

    Returns:
        The path of the report.

    Raises:
        RunError: if the folder is no run, was never evaluated, or a file in it is broken.
    """
    content = read_run(run)
    page = _environment().get_template("report.html.jinja").render(_page(content))
    return write_text(RunFolder(run).report, page)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lesioncam", "reporting/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "method": method_name,
        "metric": metric_name,
        "number": number,
        "uri": data_uri,
        "grey_uri": lambda image: data_uri(np.asarray(Image.fromarray(image).convert("L"))),
        "class_name": _class_name,
    }
    return environment


def _page(run: Run) -> dict[str, Any]:
    first, *others = run.evaluations
    return {
        "run": run,
        "title": f"{run.name}: lesioncam report",
        "first": _section(first),
        "others": [_section(other) for other in others],
        "history": history_plots(run.history, _best_epoch(run.model)),
        "bar": color_bar(),
        "heat_title": HEAT,
        "provenance": _provenance(run.provenance),
        "config": _config(run.config),
        "split_titles": SPLIT_TITLES,
        "no_patients": first.summary.get("patient_rule") in (None, "", "none"),
    }


def _section(evaluation: Evaluation) -> dict[str, Any]:
    tables = [table for task in COLUMNS if (table := _table(evaluation, task)) is not None]
    return {
        "evaluation": evaluation,
        "summary": evaluation.summary,
        "split": evaluation.split,
        "localised": _is_localised(evaluation),
        "headlines": _headlines(evaluation),
        "lights": lights(evaluation),
        "thresholds": _thresholds(evaluation),
        "curves": curve_plots(evaluation),
        "tables": tables,
        "control_plots": control_plots(evaluation),
        "control_tables": _control_tables(evaluation),
        "gallery": _gallery(evaluation.gallery),
    }


def _class_name(label: str) -> str:
    return {"macro": "Mean of classes", "any": "Any class"}.get(label, label)


# ---- numbers -----------------------------------------------------------------------------------------------------


def _is_localised(evaluation: Evaluation) -> bool:
    """Whether any measure of place exists: false alarms alone need no mask and do not count."""
    rows = evaluation.metrics
    place = rows["task"].isin(["segmentation", "localisation"]) & (rows["metric"] != "false_alarm_rate")
    return bool(rows[place & (rows["method"] == evaluation.method)]["value"].notna().any())


def _headlines(evaluation: Evaluation) -> list[Headline]:
    label = "macro" if (evaluation.metrics["class"] == "macro").any() else evaluation.classes[0]
    wanted = [("segmentation", "dice"), ("localisation", "pointing_game"), ("classification", "auroc")]
    found = [(task, metric, estimate(evaluation, task, metric, label)) for task, metric in wanted]
    shown = [(task, metric, own) for task, metric, own in found if own is not None and (own.known or metric == "auroc")]
    return [_headline(evaluation, task, metric, label, own) for task, metric, own in shown]


def _headline(evaluation: Evaluation, task: str, metric: str, label: str, own: Estimate) -> Headline:
    mean = "mean of classes" if label == "macro" else label
    if task == "classification":
        return Headline(f"AUROC, {mean}", own, "chance: 0.500", _verdict(own, 0.5, 0.5, "chance"))
    best = _best_control(evaluation, task, metric, label)
    if best is None:
        return Headline(f"{metric_name(metric)}, {mean}", own, "no control was measured", "")
    name, control = best
    beside = f"best control, {method_name(name)}: {control.text}" + (
        f" ({control.interval})" if control.interval else ""
    )
    verdict = _verdict(own, control.value, control.high, "the best control")
    return Headline(f"{metric_name(metric)}, {mean}", own, beside, verdict)


def _best_control(evaluation: Evaluation, task: str, metric: str, label: str) -> tuple[str, Estimate] | None:
    found = [(name, estimate(evaluation, task, metric, label, name)) for name in evaluation.controls]
    known = [(name, one) for name, one in found if one is not None and one.known]
    return max(known, key=lambda pair: pair[1].value, default=None)


def _verdict(own: Estimate, value: float, high: float, what: str) -> str:
    if not own.known:
        return ""
    if own.value <= value:
        return f"Not better than {what}."
    if own.interval and math.isfinite(high) and own.low > high:
        return f"Above {what}: the intervals do not touch." if high > value else f"Above {what}."
    return f"Above {what}, but the intervals overlap."


def _table(evaluation: Evaluation, task: str) -> Table | None:
    rows = evaluation.metrics[evaluation.metrics["task"] == task]
    if task != "classification":
        rows = rows[rows["method"] == evaluation.method]
    present = dict.fromkeys(rows["metric"])
    metrics = tuple(m for m in COLUMNS[task] if m in present) + tuple(m for m in present if m not in COLUMNS[task])
    names = [label for label in (*evaluation.classes, "macro", "any") if label in set(rows["class"])]
    lines = [_line(evaluation, task, metrics, label) for label in names]
    measured = task == "classification" or rows["value"].notna().any()
    return Table(TASK_TITLES[task], metrics, tuple(lines)) if measured and lines else None


def _line(
    evaluation: Evaluation, task: str, metrics: Iterable[str], label: str
) -> tuple[str, tuple[Estimate | None, ...], tuple[str, ...]]:
    cells = tuple(estimate(evaluation, task, metric, label) for metric in metrics)
    return label, cells, tuple(counted([cell for cell in cells if cell is not None], task))


def _control_tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    methods = (evaluation.method, *evaluation.controls)
    tables = []
    for label in (*evaluation.classes, "macro"):
        columns = [(task, m) for task in ("segmentation", "localisation") for m in COLUMNS[task]]
        cells = {m: [estimate(evaluation, *column, label, m) for column in columns] for m in methods}
        shown = [i for i in range(len(columns)) if any(line[i] is not None for line in cells.values())]
        rows = [(m, [cells[m][i] for i in shown]) for m in methods]
        if shown:
            tables.append({"label": label, "metrics": [columns[i][1] for i in shown], "rows": rows})
    return tables


def _thresholds(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    where = {"val": "validation", "default": "default, not fitted", "given": "given by the user"}
    return [
        (label, number(value), where.get(source, source)) for label, (value, source) in evaluation.thresholds.items()
    ]


# ---- gallery -----------------------------------------------------------------------------------------------------


def _gallery(cases: Iterable[Case]) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(_entry(case))
    return [{"group": g, "title": GROUP_TITLES.get(g, g), "entries": entries} for g, entries in groups.items()]


def _entry(case: Case) -> dict[str, Any]:
    return {"case": case, "row": read_row(case), "facts": _facts(case)}


def _facts(case: Case) -> list[tuple[str, str]]:
    """What stands below a picture: name and words."""
    row = case.row
    return [
        ("True labels", _true_labels(case.truth)),
        (f"Score for {case.label}", _score(row)),
        ("Map threshold", number(float(row.get("map_threshold", math.nan)))),
        ("Dice", _dice(row)),
    ]


def _true_labels(truth: Mapping[str, float]) -> str:
    states = {1.0: "", 0.0: None, -1.0: " (uncertain)"}
    said = [f"{label}{mark}" for label, value in truth.items() if (mark := states.get(value, " (unknown)")) is not None]
    return ", ".join(said) or "no finding"


def _score(row: Mapping[str, Any]) -> str:
    score, threshold = (float(row.get(key, math.nan)) for key in ("probability", "decision_threshold"))
    if not math.isfinite(score):
        return "not recorded"
    if not math.isfinite(threshold):
        return number(score)
    side = "at or above" if score >= threshold else "below"
    return f"{number(score)}, {side} the threshold {number(threshold)}"


def _dice(row: Mapping[str, Any]) -> str:
    value = float(row.get("dice", math.nan))
    why = "no such lesion here" if row.get("label") == 0 else "no lesion mask"
    return number(value) if math.isfinite(value) else f"undefined: {why}"


# ---- the rest ----------------------------------------------------------------------------------------------------


def _best_epoch(model: Mapping[str, Any]) -> int | None:
    best = model.get("training", {}).get("best_epoch")
    return int(best) if isinstance(best, int | float) else None


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    words = {
        "command": shorten_command,
        "packages": lambda packages: ", ".join(f"{name} {version}" for name, version in packages.items()),
    }
    names = {"version": "lesioncam", "table_digest": "Digest of the table"}
    said = {key: words.get(key, lambda value: without_paths(str(value)))(value) for key, value in provenance.items()}
    return [(names.get(key, key.replace("_", " ").capitalize()), text) for key, text in said.items()]


def _config(config: Mapping[str, Any]) -> str:
    return without_paths(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)) if config else ""
