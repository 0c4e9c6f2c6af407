"""The checks of the first screen, its traffic lights: what was checked, and what came of it, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lesioncam.reporting.report.read import Evaluation, short_name, without_paths
from lesioncam.reporting.report.shortcuts import State, shortcut_state
from lesioncam.reporting.words.words import Count, number, plain
from lesioncam.runs.summary import Leak, Summary

__all__ = ["SPLIT_NAMES", "Check", "checks_of", "leak_text", "opened_text"]

COLD_ENOUGH, NEARLY_COLD = 0.95, 0.80
TOO_ALIKE = 0.5
NAMED_LEAKS = 3
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Check:
    """One check of the first screen; the word says what the colour says."""

    state: State
    name: str
    text: str

    @property
    def word(self) -> str:
        """The state in a word."""
        return {"ok": "OK", "warn": "Warning", "fail": "Fail", "none": "Not measured"}[self.state]


def checks_of(evaluation: Evaluation, *, count: Count = plain, names: bool = True) -> list[Check]:
    """The checks of the first screen, in a fixed order.

    Args:
        evaluation: of one split.
        count: how a number of images is printed.
        names: whether images and columns may be named.
    """
    summary = evaluation.summary
    found = [
        _leak_check(summary, count, names=names),
        _patient_check(summary, names=names),
        _threshold_check(evaluation, count),
        _cold_check(summary, count),
        _shortcut_check(evaluation),
        _mask_check(summary, count),
        _missing_check(summary, count),
        _sanity_check(summary),
        _test_check(summary),
    ]
    return [check for check in found if check is not None]


def leak_text(leak: Leak) -> str:
    """One leak in words; files by their own names.

    Example:
        >>> leak_text(Leak("a/1.png", "train", "b/9.png", "test", "mirror", 0.9991))
        '1.png (training) and 9.png (test), mirror image, correlation 0.999'
    """
    sides = [(leak.image, leak.split), (leak.other, leak.other_split)]
    pair = " and ".join(f"{short_name(name)} ({SPLIT_NAMES.get(split, split)})" for name, split in sides)
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


def _leak_check(summary: Summary, count: Count, *, names: bool) -> Check:
    title, leaks, dropped = "Leak between splits", summary.leaks, summary.dropped or 0
    checked, known = summary.leaks_checked, summary.knows_patients
    if leaks or dropped:
        left = f"; {count(dropped)} {'image was' if dropped == 1 else 'images were'} left out because of it"
        said = _named(leaks) if names else f"{count(len(leaks))} found"
        return Check("warn" if dropped else "fail", title, f"{said}{left if dropped else ''}")
    if not known:
        looked = "; no near-identical images across splits were found" if checked else ""
        return Check("none", title, f"nobody can tell without knowing the patients{looked}")
    if checked is False:
        return Check("warn", title, "no patient is in two splits, but near-identical images were not looked for")
    looked = ", and no image in one split is a copy or mirror image of one in another" if checked else ""
    return Check("ok", title, f"none found; no patient is in two splits{looked}")


def _named(leaks: Sequence[Leak]) -> str:
    more = len(leaks) - NAMED_LEAKS
    said = [leak_text(leak) for leak in leaks[:NAMED_LEAKS]] + ([f"{more} more under Data"] if more > 0 else [])
    return "; ".join(said) or "found"


def _patient_check(summary: Summary, *, names: bool) -> Check:
    rule = summary.patient_rule
    if not summary.knows_patients:
        return Check("fail", "Patients", "not known: one patient may lie on both sides of the split")
    if rule.startswith("blocks"):
        return Check("warn", "Patients", f"assumed: {rule.partition(':')[2]} images in a row count as one patient")
    return Check("ok", "Patients", "kept in one split each" + (f" ({without_paths(rule)})" if names else ""))


def _threshold_check(evaluation: Evaluation, count: Count) -> Check:
    name, sources = "Map thresholds", {source for _, source in evaluation.thresholds.values()}
    people = evaluation.summary.threshold_patients
    if "default" in sources:
        default = [label for label, (_, source) in evaluation.thresholds.items() if source == "default"]
        which = "" if len(sources) == 1 else f" for {', '.join(default)}"
        return Check("warn", name, f"0.5 by default{which}, not chosen on validation (it takes lesion masks there)")
    if sources != {"val"}:
        return Check("warn", name, "given by the user; how they were chosen is not known")
    if evaluation.split == "val":
        return Check("warn", name, "chosen on these very images, so Dice and IoU below are optimistic")
    unit = "patients" if evaluation.summary.knows_patients else "images"
    on = f" ({count(people, least=5)} {unit})" if people else ""
    return Check("ok", name, f"chosen on validation{on}, none on this split")


def _cold_check(summary: Summary, count: Count) -> Check:
    name, cold = "Healthy images stay cold", summary.healthy_cold
    if cold is None or not cold.n:
        return Check("none", name, "there is no healthy image in this split")
    share, n = cold.share, cold.n
    if count(n) != str(n):
        return Check("none", name, f"not shown: {count(n)} healthy images")
    state: State = "ok" if share >= COLD_ENOUGH else "warn" if share >= NEARLY_COLD else "fail"
    return Check(state, name, f"{share:.0%} of {n} (99th percentile of the map below the threshold)")


def _shortcut_check(evaluation: Evaluation) -> Check | None:
    if evaluation.shortcut is None:
        return None
    state, why = shortcut_state(evaluation.shortcut)
    return Check(state, "Shortcuts", "; ".join(why) or "no sign that anything but the body decides")


def _mask_check(summary: Summary, count: Count) -> Check:
    n, images = summary.images_with_masks, summary.images
    if n:
        return Check("ok", "Lesion masks to measure with", f"{count(n, images)} of {count(images)} images")
    return Check("warn", "Lesion masks to measure with", "none")


def _missing_check(summary: Summary, count: Count) -> Check | None:
    missing, undefined = summary.missing_maps, summary.undefined_maps
    if not missing and not undefined:
        return Check("ok", "Maps", "there is one for every image and class") if summary.foreign else None
    said = [f"{count(missing)} missing, counted as misses"] if missing else []
    said += [f"{count(undefined)} without a single finite value"] if undefined else []
    return Check("warn", "Maps", "; ".join(said))


def _sanity_check(summary: Summary) -> Check | None:
    """Maps that stay the same under random weights show the image, not what was learnt."""
    likeness = None if summary.sanity is None else summary.sanity.similarity
    if likeness is None:
        return None
    text = f"likeness to those of random weights {number(likeness, 2)} (1: the same)"
    return Check("warn" if likeness > TOO_ALIKE else "ok", "Maps depend on the weights", text)


def _test_check(summary: Summary) -> Check:
    text = opened_text(summary)
    if not text:
        return Check("ok", "Test labels", "not opened yet")
    if not text.startswith("opened once by 1 "):
        return Check("warn", "Test labels", f"{text}; whoever chose among them chose on the test set")
    return Check("ok", "Test labels", text)


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
