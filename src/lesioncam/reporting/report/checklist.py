"""What a reader of a paper on such a model asks for, answered where the run knows and left to the authors elsewhere.

The questions are in our own words; they cover what CLAIM and TRIPOD+AI ask of studies in medical imaging.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lesioncam.evaluation.metric import shown_in, title_of
from lesioncam.reporting.report.checks import SPLIT_NAMES, leak_text, opened_text
from lesioncam.reporting.report.read import Evaluation, Run, without_paths
from lesioncam.reporting.report.shortcuts import shortcut_state
from lesioncam.reporting.words.words import Count, estimate, method_name, number, plain
from lesioncam.runs.shortcut import ShortcutPanel
from lesioncam.runs.summary import Summary

__all__ = ["Item", "calibration_text", "checklist"]

RULES = {
    "youden": "highest sum of sensitivity and specificity",
    "sensitivity": "sensitivity at least {}",
    "specificity": "specificity at least {}",
    "cost": "lowest cost, {}",
}


class Item(NamedTuple):
    """One question, and what this run says to it; None where only the authors know."""

    question: str
    answer: str | None = None


def checklist(run: Run, count: Count = plain) -> list[tuple[str, list[Item]]]:
    """The list, part by part.

    Args:
        run: as it may be printed; of a run that is to be shared, the shareable form.
        count: how a number of images is printed.

    Reference:
        Tejani et al., *Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update*, Radiology:
        Artificial Intelligence, 2024; Collins et al., *TRIPOD+AI statement*, BMJ, 2024.
    """
    first = run.evaluations[0]
    return [
        ("Study", _study(first)),
        ("Data", _data(run, count)),
        ("Reference standard", _reference(first.summary, count)),
        ("Partition", _partition(first.summary, count)),
        ("Model", _model(run)),
        ("Training", _training(run)),
        ("Choices", _choices(first)),
        ("Evaluation", _evaluation(run)),
        ("Results", _results(first, count)),
        ("Discussion and availability", _availability(run)),
    ]


def calibration_text(summary: Summary) -> str:
    """How scores were calibrated and operating points chosen, in a sentence; empty where the run does not say.

    Example:
        >>> kinds = {"images": "platt", "maps": "none", "rule": "sensitivity=0.9"}
        >>> calibration_text(Summary(split="val", method="cam", classes=("mass",), calibration=kinds))
        'Image scores: platt; maps: none. Decision thresholds: sensitivity at least 0.9. All chosen on validation.'
    """
    kinds = summary.calibration
    if not kinds.rule:
        return ""
    name, _, value = kinds.rule.partition("=")
    rule = RULES.get(name, kinds.rule).format(value)
    return f"Image scores: {kinds.images}; maps: {kinds.maps}. Decision thresholds: {rule}. All chosen on validation."


def _study(first: Evaluation) -> list[Item]:
    return [
        Item("Clinical question and intended use, with the step of care it would serve"),
        Item("What the model decides about", ", ".join(first.classes)),
        Item("Kind of study: retrospective or prospective, exploratory or confirmatory, and its hypothesis"),
        Item("Approval by an ethics committee, consent or its waiver, registration, protocol"),
    ]


def _data(run: Run, count: Count) -> list[Item]:
    summary, table = run.evaluations[0].summary, _part(run.config, "table")
    images, dropped = summary.images_by_split, summary.dropped
    return [
        Item("Where the data come from: institutions, years, devices, public sets with their licence"),
        Item("Which patients and images were included and left out, with a flow chart"),
        Item("How many images", f"{count(sum(images.values()))} in the table" if images else None),
        Item("Images left out as copies of images in another split", None if dropped is None else count(dropped)),
        Item("Age, sex and other properties of the patients, per split"),
        Item("How images were freed of names and burnt-in text"),
        Item("How images were prepared", _settings(_part(run.config, "preprocess"))),
        Item(
            "What was made of uncertain and missing labels",
            _policies(table) if {"uncertain", "blank"} <= set(table) else None,
        ),
    ]


def _policies(table: Mapping[str, object]) -> str:
    said = []
    for name in ("uncertain", "blank"):
        single = [f"{label} {policy}" for label, policy in _part(table, f"{name}_for").items()]
        said.append(f"{name}: {table[name]}" + (f" (but {', '.join(single)})" if single else ""))
    noted = "; blanks of rows without a finding: 0, but for support devices"
    return "; ".join(said) + (noted if table.get("no_finding") else "")


def _reference(summary: Summary, count: Count) -> list[Item]:
    masks, images, verified = summary.images_with_masks, summary.images, summary.verified
    none = "none in the split measured here"
    return [
        Item("How the labels were made: by whom, with what experience, from images or from reports, how blinded"),
        Item("Agreement between readers, and how disagreement was settled"),
        Item(
            "Truth for places", f"lesion masks for {count(masks, images)} of {count(images)} images" if masks else none
        ),
        Item(
            "Truth restricted to checked labels",
            f"{count(verified.rows, verified.of)} of {count(verified.of)} rows of the table" if verified else None,
        ),
    ]


def _partition(summary: Summary, count: Count) -> list[Item]:
    known = summary.knows_patients
    level = (
        f"patient ({without_paths(summary.patient_rule)})"
        if known
        else "image: nobody knows which images share a patient"
    )
    sizes = [
        f"{SPLIT_NAMES.get(split, split)} {count(n)} images"
        + (
            f" of {count(people, least=5)} patients"
            if known and (people := summary.patients_by_split.get(split))
            else ""
        )
        for split, n in summary.images_by_split.items()
    ]
    return [
        Item("Level at which training, validation and test are kept apart", level),
        Item("Size of each part", "; ".join(sizes) or None),
        Item("Why the parts have these sizes; whether test comes from another institution or a later time"),
        Item("What was checked for leaks, and what was found", _leaks(summary, count)),
    ]


def _leaks(summary: Summary, count: Count) -> str:
    leaks = summary.leaks
    patients = "patients in two splits" if summary.knows_patients else ""
    copies = "near-identical and mirrored images across splits" if summary.leaks_checked else ""
    checked = " and ".join(what for what in (patients, copies) if what) or "nothing"
    named = "; ".join(leak_text(leak) for leak in leaks[:3] if leak.image)
    found = f"{count(len(leaks))} {'pair' if len(leaks) == 1 else 'pairs'}" if leaks else "nothing"
    return f"checked: {checked}; found: {found}" + (f" ({named})" if named else "")


def _model(run: Run) -> list[Item]:
    if run.evaluations[0].summary.foreign:
        return [Item("Architecture, inputs, outputs and weights: maps of another tool, which this run does not know")]
    backbone, pooling = _part(run.config, "backbone"), _part(run.config, "pooling")
    first = run.evaluations[0]
    return [
        Item("Architecture", _named(backbone) or None),
        Item("How the map becomes one score per image", _named(pooling) or None),
        Item("Weights the training began with", _text(run.config.get("weights"))),
        Item("How a place is shown", f"{method_name(first.method)}; the map is the classifier's own evidence"),
        Item("Software", ", ".join(f"{k} {v}" for k, v in run.provenance.packages.items()) or None),
    ]


def _training(run: Run) -> list[Item]:
    if run.evaluations[0].summary.foreign:
        return [Item("How the other tool was trained, and on which images")]
    config, best = run.config, run.training.best_epoch
    wanted = ("epochs", "batch", "learning_rate", "weight_decay", "patience", "class_weights", "precision")
    chosen = {name: _named(_part(config, name)) for name in ("loss", "optimizer", "schedule")}
    return [
        Item("Augmentation", _settings(_part(config, "augment"))),
        Item("Loss, optimiser and schedule", _settings({name: text for name, text in chosen.items() if text})),
        Item("Optimisation", _settings({key: config[key] for key in wanted if key in config})),
        Item("Seed", _text(config.get("seed") if run.provenance.seed is None else run.provenance.seed)),
        Item("Which epoch was kept, and by what", None if best is None else f"epoch {best}, chosen on validation"),
        Item("Which options were tried before these, and on which data they were compared"),
        Item("Hardware", _text(run.provenance.hardware or None)),
    ]


def _choices(first: Evaluation) -> list[Item]:
    where = {"val": "chosen on validation", "default": "default, not chosen", "given": "given by the user"}
    maps = [f"{label} {number(value)} ({where.get(s, s)})" for label, (value, s) in first.thresholds.items()]
    here = " These are the images measured here." if first.split == "val" else ""
    return [
        Item("Map thresholds, and where they were chosen", "; ".join(maps) + here if maps else None),
        Item(
            "Calibration and decision thresholds, and where they were chosen", calibration_text(first.summary) or None
        ),
        Item("How often the test labels were looked at", opened_text(first.summary) or "not opened yet"),
    ]


def _evaluation(run: Run) -> list[Item]:
    first = run.evaluations[0]
    own = first.metrics[first.metrics["method"] == first.method]["metric"]
    unit = "whole patients" if first.summary.knows_patients else "images"
    draws = f"95 %, percentile bootstrap, {first.summary.draws} draws of {unit}"
    beside = [method_name(name) for name in (*first.controls, *first.bounds)]
    columns = [] if first.subgroups.empty else [str(name) for name in dict.fromkeys(first.subgroups["column"])]
    return [
        Item("Measures", ", ".join(dict.fromkeys(map(title_of, own)))),
        Item("Intervals", draws),
        Item("What it was compared with", ", ".join(beside) or None),
        Item("Subgroups that were measured", ", ".join(columns) or None),
        Item("Reason for the size of the test set, and how missing values were treated"),
        Item("Measured on data of another institution"),
    ]


def _results(first: Evaluation, count: Count) -> list[Item]:
    said = list(_numbers(first))
    shown = sorted({case.group.replace("_", " ") for case in first.gallery})
    missing = first.summary.missing_maps
    maps = f"{count(missing)}, counted as misses" if missing else "none"
    return [
        Item("Main numbers with intervals", "; ".join(said) or None),
        *([Item("Maps that were missing", maps)] if first.summary.foreign or missing else []),
        Item("Analysis of failures", f"gallery of {', '.join(shown)} cases, chosen by rule" if shown else None),
        Item("Signs that something other than the disease decides (shortcuts)", _shortcuts(first.shortcut)),
        Item("Harm that a missed or a wrong mark would do in the intended use"),
    ]


def _shortcuts(panel: ShortcutPanel | None) -> str | None:
    if panel is None:
        return None
    _, why = shortcut_state(panel)
    return "; ".join(why) or "no sign that anything but the body decides"


def _numbers(first: Evaluation) -> Iterable[str]:
    for task, metric in shown_in("short"):
        for label in (first.mean, "any"):
            one = estimate(first, task, metric, label)
            if one is not None and one.known:
                whose = {"macro": "mean of classes", "any": "any class"}.get(label, label)
                yield f"{title_of(metric)}, {whose}: {one.text}" + (f" ({one.interval})" if one.interval else "")


def _availability(run: Run) -> list[Item]:
    return [
        Item("Limits of the study: biases of the sample, of the labels, of the reference; what was not measured"),
        Item("What the numbers mean for practice, and for whom they do not hold"),
        Item("Code", f"lesioncam {run.provenance.version}" if run.provenance.version else None),
        Item("Where data, weights and this run can be had"),
        Item("Funding and conflicts of interest"),
    ]


def _part(config: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _settings(options: Mapping[str, object]) -> str | None:
    said = [f"{key.replace('_', ' ')} {value}" for key, value in options.items() if not isinstance(value, Mapping)]
    return without_paths(", ".join(said)) or None


def _named(options: Mapping[str, object]) -> str:
    """Name first, then what was set."""
    name = options.get("name", options.get("kind", ""))
    rest = {k: v for k, v in options.items() if k not in ("name", "kind", "options") and v is not None}
    return ", ".join(filter(None, [str(name), _settings(rest)]))


def _text(value: object) -> str | None:
    return None if value is None else without_paths(str(value))
