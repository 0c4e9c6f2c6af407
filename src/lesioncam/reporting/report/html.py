"""Write the report: one HTML file that holds everything it shows and opens from disk without a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lesioncam.evaluation.controls import READER
from lesioncam.files import write_text
from lesioncam.functional.overlay import color_bar
from lesioncam.reporting.figures.montage import HEAT, read_row
from lesioncam.reporting.figures.plot import Plot, save_plots
from lesioncam.reporting.figures.report_figures import (
    cascade_plots,
    control_plots,
    curve_plots,
    history_plots,
    reliability_plots,
    subgroup_plots,
)
from lesioncam.reporting.page import render
from lesioncam.reporting.report.checklist import calibration_text, checklist
from lesioncam.reporting.report.lights import lights, opened_text, shortcut_state
from lesioncam.reporting.report.read import Case, Evaluation, Run, read_run, short_name, shorten_command, without_paths
from lesioncam.reporting.report.share import IMAGES, PATIENTS, shareable, suppressed, suppressed_row
from lesioncam.reporting.report.tables import (
    all_metrics,
    control_tables,
    headlines,
    is_localised,
    leak_rows,
    shares,
    short_table,
    shortcut_table,
    subgroup_tables,
)
from lesioncam.reporting.words.words import Count, number, plain
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.provenance import Provenance

__all__ = ["write_report"]

GROUP_TITLES = {
    "missed": "Missed: the finding is there, but was not called or not met by the mask",
    "false_alarm": "False alarms: called or marked where the finding is not",
    "worst": "Worst overlap with the true mask",
    "median": "Median overlap",
    "best": "Best overlap",
    "healthy": "Healthy: should be cold",
}
SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}


def write_report(run: Path, *, share: bool = False) -> Path:
    """Write ``report.html`` into a run folder, from what lies in that folder alone.

    Test results come first where test was opened, with validation folded away below; otherwise validation, and
    the page says that its thresholds were chosen there. Beside it lie ``checklist.html``, what a reader of a paper
    asks for, and every figure as SVG and PNG in ``evaluate/<split>/figures/``.

    Args:
        run: a run folder that has been evaluated at least once.
        share: write ``report-share.html`` and the folder ``share/`` instead, which may leave the house: no image,
            no id, no path, no name of a person or machine, no number with fewer than ten images or five patients
            behind it.

    Returns:
        The path of the report.

    Raises:
        RunError: if the folder is no run, was never evaluated, or a file in it is broken.
    """
    content = read_run(run)
    content = shareable(content) if share else content
    page = _page(content, share=share)
    parts = checklist(content, page["count"])
    sheet = render("checklist.html.jinja", **page, parts=parts)
    report = render("report.html.jinja", **page)
    for folder, plots in _figures(run, page, share=share):
        save_plots(plots, folder)
    write_text(run / page["checklist"], sheet)
    return write_text(run / "report-share.html" if share else RunFolder(run).report, report)


def _figures(run: Path, page: Mapping[str, Any], *, share: bool) -> list[tuple[Path, list[Plot]]]:
    """Which plots go into which folder: one per split, or all into one that is to be handed on."""
    sections = [page["first"], *page["others"]]
    groups = [section["plots"] + (page["history"] if section is page["first"] else []) for section in sections]
    if share:
        return [(run / "share", [plot for group in groups for plot in group])]
    folders = [RunFolder(run).evaluation(section["split"]) / "figures" for section in sections]
    return list(zip(folders, groups, strict=True))


def _page(run: Run, *, share: bool) -> dict[str, Any]:
    first, *others = run.evaluations
    count = suppressed if share else plain
    return {
        "run": run,
        "share": share,
        "count": count,
        "row_of_counts": suppressed_row if share else _plain_row,
        "least": {"images": IMAGES, "patients": PATIENTS},
        "title": "lesioncam report, shared" if share else f"{run.name}: lesioncam report",
        "question": first.summary.question or "What do image-level labels teach about where the lesion is?",
        "checklist": "share/checklist.html" if share else "checklist.html",
        "first": _section(first, share=share),
        "others": [_section(other, share=share) for other in others],
        "history": history_plots(run.history, run.training.best_epoch),
        "bar": color_bar(),
        "heat_title": HEAT,
        "provenance": _provenance(run.provenance, share=share),
        "config": _config(run.config),
        "split_titles": SPLIT_TITLES,
        "no_patients": not first.summary.knows_patients,
        "foreign": first.summary.foreign,
        "opened": opened_text(first.summary),
    }


def _section(evaluation: Evaluation, *, share: bool) -> dict[str, Any]:
    count = suppressed if share else plain
    plots = {
        "curves": curve_plots(evaluation),
        "reliability": reliability_plots(evaluation, IMAGES if share else 1),
        "subgroup_plots": subgroup_plots(evaluation),
        "control_plots": control_plots(evaluation),
        "cascade": cascade_plots(evaluation),
    }
    return {
        **plots,
        "plots": [plot for group in plots.values() for plot in group],
        "evaluation": evaluation,
        "summary": evaluation.summary,
        "split": evaluation.split,
        "localised": is_localised(evaluation),
        "readers": sum(name.startswith(READER) for name in evaluation.bounds),
        "headlines": headlines(evaluation),
        "lights": lights(evaluation, count=count, names=not share),
        "thresholds": _thresholds(evaluation),
        "calibration": calibration_text(evaluation.summary),
        "table": short_table(evaluation, count),
        "all_metrics": all_metrics(evaluation, count),
        "subgroups": subgroup_tables(evaluation, count),
        "shortcut": _shortcut(evaluation, count, share=share),
        "sanity": _sanity(evaluation),
        "control_tables": control_tables(evaluation),
        "gallery": _gallery(evaluation.gallery),
        "leaks": ([], 0) if share else leak_rows(evaluation),
        "small": _small_note(evaluation) if share else "",
    }


def _thresholds(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    where = {"val": "validation", "default": "default, not fitted", "given": "given by the user"}
    return [
        (label, number(value), where.get(source, source)) for label, (value, source) in evaluation.thresholds.items()
    ]


def _shortcut(evaluation: Evaluation, count: Count, *, share: bool) -> dict[str, Any]:
    if not evaluation.shortcut:
        return {}
    state, why = shortcut_state(evaluation)
    images = [] if share else [_worst(one) for one in evaluation.shortcut.get("images", [])]
    return {
        "state": state,
        "why": why,
        "shares": shares(evaluation, count),
        "rows": shortcut_table(evaluation),
        "images": images,
    }


_QUESTIONS = (
    ("deletion", "Probability while pixels are taken away, hottest first (area; low is good)"),
    ("insertion", "Probability while pixels are put into a blurred image, hottest first (area; high is good)"),
    ("road", "Pixels filled in from around: coldest first minus hottest first (ROAD; high is good)"),
)


def _sanity(evaluation: Evaluation) -> dict[str, Any]:
    """What randomised weights do to the maps, and what the places they name do to the score."""
    sanity = evaluation.summary.sanity
    if sanity is None:
        return {}
    tried, images = sanity.faithfulness, sanity.faithfulness.images if sanity.faithfulness else 0
    rows = [
        (text, *(number(_real(getattr(scores, key))) for scores in (tried.map, tried.random_map)))
        for key, text in _QUESTIONS
        if tried is not None and tried.images
    ]
    return {"similarity": number(_real(sanity.similarity), 2), "maps": sanity.maps, "rows": rows, "images": images}


def _real(value: float | None) -> float:
    return math.nan if value is None else value


def _worst(one: Any) -> str:
    """An image that the panel names, with its shares."""
    if not isinstance(one, Mapping):
        return short_name(str(one))
    shown = f"{float(one['outside']):.0%} outside, {float(one['border']):.0%} along the border"
    return f"{short_name(str(one['image']))} ({one['class']}: {shown})"


def _small_note(evaluation: Evaluation) -> str:
    hidden = int(evaluation.metrics["hidden"].ne("").sum())
    return f"{hidden} {'number is' if hidden == 1 else 'numbers are'} not shown" if hidden else ""


def _plain_row(counts: Mapping[str, Any], least: int = 0) -> dict[str, str]:  # noqa: ARG001  as a shared page asks
    return {name: str(n) for name, n in counts.items()}


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


def _provenance(provenance: Provenance, *, share: bool) -> list[tuple[str, str]]:
    command = provenance.command if share else shorten_command(provenance.command)  # a shared run's is bare already
    lines = {
        "lesioncam": without_paths(provenance.version),
        "Command": command,
        "Created": without_paths(provenance.created),
        "Seed": "" if provenance.seed is None else str(provenance.seed),
        "Hardware": without_paths(provenance.hardware),
        "Packages": ", ".join(f"{name} {version}" for name, version in provenance.packages.items()),
        "Digest of the table": without_paths(provenance.table_digest),
    }
    return [(name, text) for name, text in lines.items() if text]


def _config(config: Mapping[str, Any]) -> str:
    return without_paths(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)) if config else ""
