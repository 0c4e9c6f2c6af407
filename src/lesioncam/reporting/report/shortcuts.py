"""The section on shortcuts: does anything but the disease decide, and how do we know?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lesioncam.evaluation.shortcut import PROBE_ALARM
from lesioncam.reporting.report.read import short_name
from lesioncam.reporting.words.words import Count, Estimate, number
from lesioncam.runs.shortcut import EvidenceShare, ProbeAuroc, ShortcutPanel, SuspectImage

State = Literal["ok", "warn", "fail", "none"]

NO_AIR = "no air in these images; not applicable"
"""Said in the place of a share outside the body where there are no dark surroundings."""

AS_GOOD = 0.05
"""A classifier that sees no lesion and comes this near to the model's own AUROC is as good as the model."""


@dataclass(frozen=True)
class PlaceShare:
    """How much of the positive evidence lies in a place, beside its level of alarm in per cent; all in words."""

    where: str
    share: str
    alarm: str
    n: str
    state: State


@dataclass(frozen=True)
class ProbeRow:
    """AUROC of the model, of the border alone, of size and brightness alone, for one class."""

    label: str
    cells: Sequence[Estimate | None]


@dataclass(frozen=True)
class ShortcutSection:
    """What the section shows; ``why`` names what is suspicious, most serious first."""

    state: State
    why: Sequence[str]
    shares: Sequence[PlaceShare]
    rows: Sequence[ProbeRow]
    images: Sequence[str]


def shortcut_section(panel: ShortcutPanel, classes: Sequence[str], count: Count, *, names: bool) -> ShortcutSection:
    """What the section shows.

    Args:
        panel: of an evaluation.
        classes: in the table's order.
        count: how a number of images is printed.
        names: whether images may be named.
    """
    state, why = shortcut_state(panel)
    shares = [
        _place_share("outside the body", panel.outside_body, count, NO_AIR if panel.no_air else "undefined"),
        _place_share("within 5 % of the image border", panel.border, count),
    ]
    images = [f"{short_name(one.image)} ({one.label}: {_places(one)})" for one in panel.images if names]
    return ShortcutSection(state, why, shares, _probe_rows(panel, classes), images)


def _places(one: SuspectImage) -> str:
    shares = {"outside": one.outside, "along the border": one.border}
    return ", ".join(f"{share:.0%} {where}" for where, share in shares.items() if share is not None)


def shortcut_state(panel: ShortcutPanel) -> tuple[State, list[str]]:
    """How suspicious the evidence and the acquisition are, and why, most serious first."""
    found = [
        *_share_alarms(panel),
        *_probe_alarms("the image border alone", panel.border_auroc, panel.classifier_auroc),
        *_probe_alarms("size and brightness alone", panel.statistics_auroc, panel.classifier_auroc),
    ]
    worst: State = "fail" if any(state == "fail" for state, _ in found) else "warn" if found else "ok"
    return worst, [text for _, text in sorted(found, key=lambda pair: pair[0] != "fail")]


def _share_alarms(panel: ShortcutPanel) -> list[tuple[State, str]]:
    found: list[tuple[State, str]] = []
    places = (
        ("outside_body", panel.outside_body, "outside the body"),
        ("border", panel.border, "along the image border"),
    )
    for key, one, where in places:
        classes = [name for name, parts in panel.by_class.items() if key in parts and parts[key].alarming]
        if one.alarming:
            said = f"{one.share:.0%} of the positive evidence lies {where} (alarm above {one.alarm:.0%})"
            found.append(("fail", said))
        elif classes:
            found.append(("warn", f"of {', '.join(classes)}, too much of the positive evidence lies {where}"))
    return found


def _probe_alarms(what: str, probe: Mapping[str, ProbeAuroc], own: Mapping[str, ProbeAuroc]) -> list[tuple[State, str]]:
    """A classifier that cannot see the lesion and tells the classes apart all the same."""
    above = {
        label: _real(one.value) for label, one in probe.items() if label != "macro" and _real(one.low) > PROBE_ALARM
    }
    if not above:
        return []
    equal = any(value > _real(own[label].value) - AS_GOOD for label, value in above.items() if label in own)
    top = max(above, key=lambda label: above[label])
    said = f"{what} tells {top} with AUROC {number(above[top])}"
    return [("fail", f"{said}, as well as the model")] if equal else [("warn", f"{said}, far above chance")]


def _place_share(where: str, one: EvidenceShare, count: Count, undefined: str = "undefined") -> PlaceShare:
    hidden = count(one.n) != str(one.n)
    text = "not shown" if hidden else undefined if one.share is None else f"{one.share:.1%}"
    state: State = "none" if hidden or one.share is None else "fail" if one.alarming else "ok"
    return PlaceShare(where, text, number(_real(one.alarm) * 100, 0), count(one.n), state)


def _probe_rows(panel: ShortcutPanel, classes: Sequence[str]) -> list[ProbeRow]:
    columns = (panel.classifier_auroc, panel.border_auroc, panel.statistics_auroc)
    labels = classes if len(classes) == 1 else (*classes, "macro")
    return [
        ProbeRow(label, [_estimate(column.get(label)) for column in columns])
        for label in labels
        if any(label in column for column in columns)
    ]


def _estimate(one: ProbeAuroc | None) -> Estimate | None:
    if one is None:
        return None
    value, low, high = map(_real, (one.value, one.low, one.high))
    return Estimate("auroc", value, low, high, one.n, 0, "one class only", one.hidden)


def _real(value: float | None) -> float:
    return math.nan if value is None else value
