"""The lights of the first screen: what was checked, and what came of it, in a word and a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lesioncam.evaluation.shortcut import PROBE_ALARM
from lesioncam.reporting.report.read import Evaluation, short_name, without_paths
from lesioncam.reporting.words.words import Count, number, plain
from lesioncam.runs.summary import Leak, Summary

__all__ = ["Light", "leak_text", "lights", "opened_text", "shortcut_state"]

COLD_ENOUGH, NEARLY_COLD = 0.95, 0.80
AS_GOOD = 0.05
"""A classifier that sees no lesion and comes this near to the model's own AUROC is as good as the model."""
TOO_ALIKE = 0.5
NAMED_LEAKS = 3
SPLITS = {"train": "training", "val": "validation", "test": "test"}

State = Literal["ok", "warn", "fail", "none"]


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


def lights(evaluation: Evaluation, *, count: Count = plain, names: bool = True) -> list[Light]:
    """The checks of the first screen, in a fixed order.

    Args:
        evaluation: of one split.
        count: how a number of images is printed.
        names: whether images and columns may be named.
    """
    summary = evaluation.summary
    found = [
        _leak_light(summary, count, names=names),
        _patient_light(summary, names=names),
        _threshold_light(evaluation, count),
        _cold_light(summary, count),
        _shortcut_light(evaluation),
        _mask_light(summary, count),
        _missing_light(summary, count),
        _sanity_light(summary),
        _test_light(summary),
    ]
    return [light for light in found if light is not None]


def leak_text(leak: Leak) -> str:
    """One leak in words; files by their own names.

    Example:
        >>> leak_text(Leak("a/1.png", "train", "b/9.png", "test", "mirror", 0.9991))
        '1.png (training) and 9.png (test), mirror image, correlation 0.999'
    """
    sides = [(leak.image, leak.split), (leak.other, leak.other_split)]
    pair = " and ".join(f"{short_name(name)} ({SPLITS.get(split, split)})" for name, split in sides)
    kind = {"mirror": "mirror image", "copy": "copy"}[leak.kind]
    return f"{pair}, {kind}, correlation {number(leak.correlation)}"


def opened_text(summary: Summary) -> str:
    """How often the test labels were looked at, and where that is counted; empty if never."""
    ledger = summary.opened
    if not ledger.times:
        return ""
    by = ledger.configurations
    text = f"opened {_times(ledger.times)} by {by} {'configuration' if by == 1 else 'configurations'}"
    if ledger.shared is None:
        return text
    where = "in the table's side file, over all its runs" if ledger.shared else "in this run's folder only"
    return f"{text}, counted {where}"


def shortcut_state(evaluation: Evaluation) -> tuple[State, list[str]]:
    """How suspicious the evidence and the acquisition are, and why, most serious first."""
    found = [*_share_alarms(evaluation.shortcut), *_blind_alarms(evaluation.shortcut)]
    worst: State = "fail" if any(state == "fail" for state, _ in found) else "warn" if found else "ok"
    return worst, [text for _, text in sorted(found, key=lambda pair: pair[0] != "fail")]


def _share_alarms(shortcut: Mapping[str, Any]) -> list[tuple[State, str]]:
    found: list[tuple[State, str]] = []
    for key, where in {"outside_body": "outside the body", "border": "along the image border"}.items():
        one = shortcut.get(key) or {}
        share, alarm = _float(one.get("share")), _float(one.get("alarm"))
        classes = [name for name, parts in (shortcut.get("by_class") or {}).items() if _alarming(parts.get(key))]
        if share > alarm:
            found.append(("fail", f"{share:.0%} of the positive evidence lies {where} (alarm above {alarm:.0%})"))
        elif classes:
            found.append(("warn", f"of {', '.join(classes)}, too much of the positive evidence lies {where}"))
    return found


def _alarming(one: Any) -> bool:
    return isinstance(one, Mapping) and _float(one.get("share")) > _float(one.get("alarm"))


def _blind_alarms(shortcut: Mapping[str, Any]) -> list[tuple[State, str]]:
    """Classifiers that cannot see the lesion and tell the classes apart all the same."""
    sources = {"border_auroc": "the image border alone", "statistics_auroc": "size and brightness alone"}
    found: list[tuple[State, str]] = []
    for key, what in sources.items():
        values = shortcut.get(key) or {}
        above = {c: one for c, one in values.items() if c != "macro" and _float(one.get("low")) > PROBE_ALARM}
        if not above:
            continue
        own = shortcut.get("classifier_auroc") or {}
        equal = any(_float(one["value"]) > _value(own.get(label)) - AS_GOOD for label, one in above.items())
        top = max(above, key=lambda label: _float(above[label]["value"]))
        said = f"{what} tells {top} with AUROC {number(_float(above[top]['value']))}"
        found.append(
            ("fail" if equal else "warn", f"{said}, {'as well as the model' if equal else 'far above chance'}")
        )
    return found


def _value(one: Any) -> float:
    return _float(one.get("value") if isinstance(one, Mapping) else one)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _leak_light(summary: Summary, count: Count, *, names: bool) -> Light:
    title, leaks, dropped = "Leak between splits", summary.leaks, summary.dropped or 0
    checked, known = summary.leaks_checked, summary.knows_patients
    if leaks or dropped:
        left = f"; {count(dropped)} {'image was' if dropped == 1 else 'images were'} left out because of it"
        said = _named(leaks) if names else f"{count(len(leaks))} found"
        return Light("warn" if dropped else "fail", title, f"{said}{left if dropped else ''}")
    if not known:
        looked = "; no near-identical images across splits were found" if checked else ""
        return Light("none", title, f"nobody can tell without knowing the patients{looked}")
    if checked is False:
        return Light("warn", title, "no patient is in two splits, but near-identical images were not looked for")
    looked = ", and no image in one split is a copy or mirror image of one in another" if checked else ""
    return Light("ok", title, f"none found; no patient is in two splits{looked}")


def _named(leaks: Sequence[Leak]) -> str:
    more = len(leaks) - NAMED_LEAKS
    said = [leak_text(leak) for leak in leaks[:NAMED_LEAKS]] + ([f"{more} more under Data"] if more > 0 else [])
    return "; ".join(said) or "found"


def _patient_light(summary: Summary, *, names: bool) -> Light:
    rule = summary.patient_rule
    if not summary.knows_patients:
        return Light("fail", "Patients", "not known: one patient may lie on both sides of the split")
    if rule.startswith("blocks"):
        return Light("warn", "Patients", f"assumed: {rule.partition(':')[2]} images in a row count as one patient")
    return Light("ok", "Patients", "kept in one split each" + (f" ({without_paths(rule)})" if names else ""))


def _threshold_light(evaluation: Evaluation, count: Count) -> Light:
    name, sources = "Map thresholds", {source for _, source in evaluation.thresholds.values()}
    people = evaluation.summary.threshold_patients
    if "default" in sources:
        default = [label for label, (_, source) in evaluation.thresholds.items() if source == "default"]
        which = "" if len(sources) == 1 else f" for {', '.join(default)}"
        return Light("warn", name, f"0.5 by default{which}, not chosen on validation (it takes lesion masks there)")
    if sources != {"val"}:
        return Light("warn", name, "given by the user; how they were chosen is not known")
    if evaluation.split == "val":
        return Light("warn", name, "chosen on these very images, so Dice and IoU below are optimistic")
    unit = "patients" if evaluation.summary.knows_patients else "images"
    on = f" ({count(people, least=5)} {unit})" if people else ""
    return Light("ok", name, f"chosen on validation{on}, none on this split")


def _cold_light(summary: Summary, count: Count) -> Light:
    name, cold = "Healthy images stay cold", summary.healthy_cold
    if cold is None or not cold.n:
        return Light("none", name, "there is no healthy image in this split")
    share, n = cold.share, cold.n
    if count(n) != str(n):
        return Light("none", name, f"not shown: {count(n)} healthy images")
    state: State = "ok" if share >= COLD_ENOUGH else "warn" if share >= NEARLY_COLD else "fail"
    return Light(state, name, f"{share:.0%} of {n} (99th percentile of the map below the threshold)")


def _shortcut_light(evaluation: Evaluation) -> Light | None:
    if not evaluation.shortcut:
        return None
    state, why = shortcut_state(evaluation)
    return Light(state, "Shortcuts", "; ".join(why) or "no sign that anything but the body decides")


def _mask_light(summary: Summary, count: Count) -> Light:
    n, images = summary.images_with_masks, summary.images
    if n:
        return Light("ok", "Lesion masks to measure with", f"{count(n, images)} of {count(images)} images")
    return Light("warn", "Lesion masks to measure with", "none")


def _missing_light(summary: Summary, count: Count) -> Light | None:
    missing, undefined = summary.missing_maps, summary.undefined_maps
    if not missing and not undefined:
        return Light("ok", "Maps", "there is one for every image and class") if summary.foreign else None
    said = [f"{count(missing)} missing, counted as misses"] if missing else []
    said += [f"{count(undefined)} without a single finite value"] if undefined else []
    return Light("warn", "Maps", "; ".join(said))


def _sanity_light(summary: Summary) -> Light | None:
    """Maps that stay the same under random weights show the image, not what was learnt."""
    likeness = None if summary.sanity is None else summary.sanity.similarity
    if likeness is None:
        return None
    text = f"likeness to those of random weights {number(likeness, 2)} (1: the same)"
    return Light("warn" if likeness > TOO_ALIKE else "ok", "Maps depend on the weights", text)


def _test_light(summary: Summary) -> Light:
    text = opened_text(summary)
    if not text:
        return Light("ok", "Test labels", "not opened yet")
    if not text.startswith("opened once by 1 "):
        return Light("warn", "Test labels", f"{text}; whoever chose among them chose on the test set")
    return Light("ok", "Test labels", text)


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
