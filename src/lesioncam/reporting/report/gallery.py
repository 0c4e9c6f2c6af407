"""The gallery of the report: groups of cases, each with its picture and what stands below it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lesioncam.reporting.figures.montage import Row, read_row
from lesioncam.reporting.report.read import Case, CaseRow
from lesioncam.reporting.words.words import number

GROUP_TITLES = {
    "missed": "Missed: the finding is there, but was not called or not met by the mask",
    "false_alarm": "False alarms: called or marked where the finding is not",
    "worst": "Worst overlap with the true mask",
    "median": "Median overlap",
    "best": "Best overlap",
    "healthy": "Healthy: should be cold",
}


@dataclass(frozen=True)
class GalleryEntry:
    """One case: its picture (None if it was not kept), and the facts below, name and words."""

    case: Case
    row: Row | None
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class GalleryGroup:
    """Cases that are shown for one reason."""

    title: str
    entries: Sequence[GalleryEntry]


def gallery_groups(cases: Iterable[Case]) -> list[GalleryGroup]:
    """The cases by group, in their order."""
    groups: dict[str, list[GalleryEntry]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(GalleryEntry(case, read_row(case), _facts(case)))
    return [GalleryGroup(GROUP_TITLES.get(name, name), entries) for name, entries in groups.items()]


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


def _score(row: CaseRow) -> str:
    score, threshold = (float(row.get(key, math.nan)) for key in ("probability", "decision_threshold"))
    if not math.isfinite(score):
        return "not recorded"
    if not math.isfinite(threshold):
        return number(score)
    side = "at or above" if score >= threshold else "below"
    return f"{number(score)}, {side} the threshold {number(threshold)}"


def _dice(row: CaseRow) -> str:
    value = float(row.get("dice", math.nan))
    why = "no such lesion here" if row.get("label") == 0 else "no lesion mask"
    return number(value) if math.isfinite(value) else f"undefined: {why}"
