"""What finished runs say about themselves, side by side: what was equal, what differed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lesioncam.reporting.comparison.compared_run import ComparedRun
from lesioncam.reporting.report.read import short_name, without_paths
from lesioncam.reporting.words.words import number
from lesioncam.runs.card import ClassifierCard, TrainingRecord

INCIDENTAL = ("threads", "cache", "cache_gb", "draws", "tensorboard", "table.images")
"""Options that change no result."""


class Setting(NamedTuple):
    """One line of the table of settings; ``by_run`` as each run says it, None where a run does not know."""

    group: str
    name: str
    by_run: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether two runs are known to differ."""
        return len({value for value in self.by_run if value is not None}) > 1


def settings_of(runs: Sequence[ComparedRun]) -> list[Setting]:
    """Everything that could explain a difference, one line each: data, start, training, tuning, software.

    Paths are cut down to their last part. A line that no run knows is left out.
    """
    said = [dict(_lines_of(run)) for run in runs]
    keys = list(dict.fromkeys(key for each in said for key in each))
    order = {group: i for i, group in enumerate(GROUPS)}
    lines = [Setting(*key, tuple(each.get(key) for each in said)) for key in keys]
    return sorted((line for line in lines if any(v is not None for v in line.by_run)), key=lambda s: order[s.group])


GROUPS = ("Data", "Start and model", "Training", "Maps and masks", "Tuning budget", "Software and hardware")

Line = tuple[tuple[str, str], str | None]


def _lines_of(run: ComparedRun) -> Iterator[Line]:
    yield from _data(run)
    if not run.foreign:
        yield from _model(run)
        yield from _training(run)
    yield from _maps(run)
    yield from _tuning(run)
    yield from _software(run)


def _data(run: ComparedRun) -> Iterator[Line]:
    summary = run.summary
    digest = run.provenance.table_digest.removeprefix("sha256:")
    yield ("Data", "Labels and split (digest of the table)"), digest[:12] or None
    yield ("Data", "Findings"), ", ".join(summary.classes) or None
    yield ("Data", "Images in training, validation, test"), _three(summary.images_by_split)
    yield ("Data", "Patients in training, validation, test"), _three(summary.patients_by_split)
    yield ("Data", "Who is who"), _text(summary.patient_rule)
    yield ("Data", "Near-copies left out"), _text(summary.dropped)
    for key in ("uncertain", "blank", "negative", "no_finding"):
        yield ("Data", f"Policy: {key.replace('_', ' ')}"), _text(run.config.get(f"table.{key}"))
    for key in ("uncertain", "blank"):
        start = f"table.{key}_for."
        for name in [name.removeprefix(start) for name in run.config if name.startswith(start)]:
            yield ("Data", f"Policy: {key}, {name}"), _text(run.config[f"{start}{name}"])


def _model(run: ComparedRun) -> Iterator[Line]:
    config, group = run.config, "Start and model"
    yield (group, "Backbone"), _choice(config, "backbone", "name")
    yield (group, "Initial weights"), _start(config)
    yield (group, "Pooling"), _choice(config, "pooling", "kind")
    for key in config:
        if key.startswith("preprocess."):
            yield (group, f"Input: {key.removeprefix('preprocess.')}"), _text(config[key])


def _training(run: ComparedRun) -> Iterator[Line]:
    config, group = run.config, "Training"
    training = run.card.training if isinstance(run.card, ClassifierCard) else TrainingRecord()
    seed, batch = config.get("seed"), config.get("batch")
    yield (group, "Order of images and augmentation"), None if seed is None else f"seed {seed}, batch of {batch}"
    yield (group, "Epochs planned"), _text(config.get("epochs"))
    yield (group, "Epochs trained"), _text(training.epochs)
    yield (group, "Epoch kept (best on validation)"), _text(training.best_epoch)
    yield (group, "Images seen in training"), _seen(training)
    yield (group, "Stopped by hand"), _text(training.interrupted)
    for choice in ("loss", "optimizer", "schedule"):
        yield (group, choice.capitalize()), _choice(config, choice, "kind")
    known = ("seed", "batch", "epochs", "weights", "map", "threshold", "operating_point", *INCIDENTAL)
    for key in config:
        if key.startswith("augment."):
            yield (group, f"Augmentation: {key.removeprefix('augment.')}"), _text(config[key])
        elif "." not in key and key not in known and "calibration" not in key:
            yield (group, key.replace("_", " ").capitalize()), _text(config[key])


def _maps(run: ComparedRun) -> Iterator[Line]:
    kinds, thresholds, group = run.summary.calibration, run.summary.thresholds, "Maps and masks"
    yield (group, "Map method"), _text(run.summary.method)
    yield (group, "Calibration of image scores"), kinds.images or None
    yield (group, "Calibration of maps"), kinds.maps or None
    yield (group, "Decision thresholds"), kinds.rule or None
    sources = {threshold.source for threshold in thresholds.values()}
    where = {"val": "validation masks, per class", "default": "default .5", "given": "given by the user"}
    yield (group, "Map thresholds from"), ", ".join(sorted(where.get(s, s) for s in sources)) or None
    yield (group, "Map thresholds"), ", ".join(f"{k} {number(t.value)}" for k, t in thresholds.items()) or None
    yield (group, "Grid of the maps"), " x ".join(map(str, run.summary.ceiling_grid)) or None


def _tuning(run: ComparedRun) -> Iterator[Line]:
    summary, group = run.summary, "Tuning budget"
    yield (group, "Validation images"), _text(summary.images_by_split.get("val"))
    yield (group, "Patients that thresholds were chosen on"), _text(summary.threshold_patients)
    yield (group, "Test labels opened, times"), _text(summary.opened.times)
    yield (group, "Configurations that opened them"), _text(summary.opened.configurations)


def _software(run: ComparedRun) -> Iterator[Line]:
    group = "Software and hardware"
    yield (group, "lesioncam"), _text(run.provenance.version or None)
    yield (group, "Hardware"), _text(run.provenance.hardware or None)
    for name, version in run.provenance.packages.items():
        yield (group, name), _text(version)


def _text(value: object) -> str | None:
    """A value as it is printed; None for what is not known."""
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value)) or "none"
        case {}:
            return "none"
        case _:
            return without_paths(str(value))


def _three(counts: Mapping[str, int]) -> str | None:
    return ", ".join(str(counts.get(split, 0)) for split in ("train", "val", "test")) if counts else None


def _choice(config: Mapping[str, object], group: str, head: str) -> str | None:
    """``slim, stride 8``: a name and its options, those left alone not named."""
    if f"{group}.{head}" not in config:
        return None
    own = {key.removeprefix(f"{group}."): value for key, value in config.items() if key.startswith(f"{group}.")}
    name = str(own.pop(head))
    if not own.get("multiscale"):
        own.pop("multiscale", None)  # 0 is none of them
    options = [f"{k.removeprefix('options.')} {_text(v)}" for k, v in own.items() if v not in (None, {}, [])]
    return ", ".join([name, *options])


def _start(config: Mapping[str, object]) -> str | None:
    weights, seed = config.get("weights"), config.get("seed")
    if weights is None:
        return None
    if weights == "none":
        return f"random, seed {seed}"
    source = "pretrained (timm hub)" if weights == "hub" else f"file {short_name(str(weights))}"
    return f"{source}; head random, seed {seed}"


def _seen(training: TrainingRecord) -> str | None:
    epochs, images = training.epochs, training.images
    return None if epochs is None or images is None else f"{epochs * images} ({epochs} epochs of {images})"
