"""What finished runs say about themselves, side by side: what was equal, what differed, what is a repetition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import yaml

from lesioncam.errors import OptionError, RunError
from lesioncam.evaluation.cases import read_cases
from lesioncam.options.removed import drop_removed
from lesioncam.reporting.report.read import short_name, without_paths
from lesioncam.reporting.words.words import number
from lesioncam.runs.card import ClassifierCard, ModelCard, TrainingRecord
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.summary import Summary

__all__ = ["Compared", "Pair", "Setting", "pairs_of", "read_compared", "repetitions", "settings_of", "split_of"]

SPLITS: tuple[Literal["test", "val"], ...] = ("test", "val")
CHANCE = ("seed",)
INCIDENTAL = ("threads", "cache", "cache_gb", "draws", "tensorboard", "table.images")
"""Options that change no result."""
ARCHITECTURE = ("weights", "preprocess.size", "preprocess.channels")
"""Options that may differ between two architectures which are otherwise trained alike."""


@dataclass(frozen=True)
class Compared:
    """One run, as far as a comparison needs it.

    Attributes:
        name: of its folder, with as many parents as it takes to tell it from the others.
        folder: where it lies.
        split: which images.
        cases: all rows of ``cases.csv``.
        config: the options, flat: ``backbone.name`` and the like.
        card: what lies beside the weights (or the scale of another tool's maps); None where there is none.
        summary: of the evaluation.
        provenance: versions and hardware.
    """

    name: str
    folder: RunFolder
    split: str
    cases: pd.DataFrame
    config: Mapping[str, object]
    card: ModelCard | None
    summary: Summary
    provenance: Provenance

    @property
    def foreign(self) -> bool:
        """Whether these are maps of another tool, of which nothing else is known."""
        return self.summary.foreign or self.folder.maps.is_file()

    @property
    def images(self) -> frozenset[str]:
        """Ids of what was measured."""
        return frozenset(self.cases["image"])


class Setting(NamedTuple):
    """One line of the table of settings; ``said`` by each run, None where a run does not know."""

    group: str
    name: str
    said: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether two runs are known to differ."""
        return len({value for value in self.said if value is not None}) > 1


class Pair(NamedTuple):
    """Two runs and what kind of comparison theirs is."""

    first: Compared
    second: Compared
    kind: str


# ---- reading -----------------------------------------------------------------------------------------------------


def split_of(folders: Sequence[Path], wanted: str | None = None) -> str:
    """The split to compare on: the wanted one, otherwise test where all have it, otherwise val.

    Raises:
        OptionError: for another name.
        RunError: for a folder that is no run, or a split that not all were evaluated on.
    """
    if wanted not in (None, *SPLITS):
        raise OptionError(f"split {wanted!r} cannot be compared; expected test or val.")
    have: dict[Path, list[str]] = {}
    for folder in folders:
        run = RunFolder(folder)
        if not run.is_run():
            raise RunError(f"{folder} is no run folder: it has no {run.state.name}; give folders of finished runs.")
        have[folder] = [split for split in SPLITS if (run.evaluation(split) / "cases.csv").is_file()]
    for split in SPLITS if wanted is None else (wanted,):
        if all(split in found for found in have.values()):
            return split
    said = "; ".join(f"{folder.name}: {', '.join(found) or 'nothing'}" for folder, found in have.items())
    missing = next(folder for folder, found in have.items() if (wanted or "test") not in found)
    raise RunError(
        f"these runs were not all evaluated on {'one split' if wanted is None else repr(wanted)} ({said}); "
        f"run `lesioncam evaluate {missing} --split {wanted or 'test'}` first."
    )


def read_compared(folders: Sequence[Path], split: str) -> list[Compared]:
    """Read every run's evaluation of one split.

    Raises:
        OptionError: for fewer than two folders, or one that is named twice.
        RunError: if a file is missing or broken.
    """
    places = [folder.resolve() for folder in folders]
    if len(places) < 2:
        raise OptionError(f"a comparison needs at least two runs, got {len(places)}; name another run folder.")
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise OptionError(f"{twice[0]} is named twice; name each run once.")
    return [_read(folder, name, split) for folder, name in zip(folders, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """The fewest last parts of the paths that tell them apart, never the whole path."""
    for depth in range(1, max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [f"run {i + 1}" for i in range(len(places))]


def _read(root: Path, name: str, split: str) -> Compared:
    folder = RunFolder(root)
    place = folder.evaluation(split)
    known = folder.maps.is_file() or folder.model.is_file()
    return Compared(
        name=name,
        folder=folder,
        split=split,
        cases=read_cases(place / "cases.csv"),
        config=_config(folder.config),
        card=folder.read_card() if known else None,
        summary=folder.read_summary(split),
        provenance=folder.read_provenance(),
    )


def _config(path: Path) -> Mapping[str, object]:
    """Options, flat; those that this version no longer has where they were used only."""
    if not path.is_file():
        return {}
    try:
        kept, used = drop_removed(dict(yaml.safe_load(path.read_text()) or {}))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not readable as YAML ({error}).") from error
    return _flat(kept) | used


def _flat(config: Mapping[str, object], before: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``; an empty group stays."""
    out: dict[str, object] = {}
    for key, value in config.items():
        out |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else {f"{before}{key}": value}
    return out


# ---- settings ----------------------------------------------------------------------------------------------------


def settings_of(runs: Sequence[Compared]) -> list[Setting]:
    """Everything that could explain a difference, one line each: data, start, training, tuning, software.

    Paths are cut down to their last part. A line that no run knows is left out.
    """
    told = [dict(_told(run)) for run in runs]
    keys = list(dict.fromkeys(key for each in told for key in each))
    order = {group: i for i, group in enumerate(GROUPS)}
    lines = [Setting(*key, tuple(each.get(key) for each in told)) for key in keys]
    return sorted((line for line in lines if any(v is not None for v in line.said)), key=lambda s: order[s.group])


GROUPS = ("Data", "Start and model", "Training", "Maps and masks", "Tuning budget", "Software and hardware")

Told = tuple[tuple[str, str], str | None]


def _told(run: Compared) -> Iterator[Told]:
    yield from _data(run)
    if not run.foreign:
        yield from _model(run)
        yield from _training(run)
    yield from _maps(run)
    yield from _tuning(run)
    yield from _software(run)


def _data(run: Compared) -> Iterator[Told]:
    summary = run.summary
    digest = run.provenance.table_digest.removeprefix("sha256:")
    yield ("Data", "Labels and split (digest of the table)"), digest[:12] or None
    yield ("Data", "Findings"), ", ".join(summary.classes) or None
    yield ("Data", "Images in training, validation, test"), _three(summary.images_by_split)
    yield ("Data", "Patients in training, validation, test"), _three(summary.patients_by_split)
    yield ("Data", "Who is who"), _said(summary.patient_rule)
    yield ("Data", "Near-copies left out"), _said(summary.dropped)
    for key in ("uncertain", "blank", "negative", "no_finding"):
        yield ("Data", f"Policy: {key.replace('_', ' ')}"), _said(run.config.get(f"table.{key}"))
    for key in ("uncertain", "blank"):
        start = f"table.{key}_for."
        for name in [name.removeprefix(start) for name in run.config if name.startswith(start)]:
            yield ("Data", f"Policy: {key}, {name}"), _said(run.config[f"{start}{name}"])


def _model(run: Compared) -> Iterator[Told]:
    config, group = run.config, "Start and model"
    yield (group, "Backbone"), _choice(config, "backbone", "name")
    yield (group, "Initial weights"), _start(config)
    yield (group, "Pooling"), _choice(config, "pooling", "kind")
    for key in config:
        if key.startswith("preprocess."):
            yield (group, f"Input: {key.removeprefix('preprocess.')}"), _said(config[key])


def _training(run: Compared) -> Iterator[Told]:
    config, group = run.config, "Training"
    training = run.card.training if isinstance(run.card, ClassifierCard) else TrainingRecord()
    seed, batch = config.get("seed"), config.get("batch")
    yield (group, "Order of images and augmentation"), None if seed is None else f"seed {seed}, batch of {batch}"
    yield (group, "Epochs planned"), _said(config.get("epochs"))
    yield (group, "Epochs trained"), _said(training.epochs)
    yield (group, "Epoch kept (best on validation)"), _said(training.best_epoch)
    yield (group, "Images seen in training"), _seen(training)
    yield (group, "Stopped by hand"), _said(training.interrupted)
    for choice in ("loss", "optimizer", "schedule"):
        yield (group, choice.capitalize()), _choice(config, choice, "kind")
    known = ("seed", "batch", "epochs", "weights", "map", "threshold", "operating_point", *INCIDENTAL)
    for key in config:
        if key.startswith("augment."):
            yield (group, f"Augmentation: {key.removeprefix('augment.')}"), _said(config[key])
        elif "." not in key and key not in known and "calibration" not in key:
            yield (group, key.replace("_", " ").capitalize()), _said(config[key])


def _maps(run: Compared) -> Iterator[Told]:
    kinds, thresholds, group = run.summary.calibration, run.summary.thresholds, "Maps and masks"
    yield (group, "Map method"), _said(run.summary.method)
    yield (group, "Calibration of image scores"), kinds.images or None
    yield (group, "Calibration of maps"), kinds.maps or None
    yield (group, "Decision thresholds"), kinds.rule or None
    sources = {threshold.source for threshold in thresholds.values()}
    where = {"val": "validation masks, per class", "default": "default .5", "given": "given by the user"}
    yield (group, "Map thresholds from"), ", ".join(sorted(where.get(s, s) for s in sources)) or None
    yield (group, "Map thresholds"), ", ".join(f"{k} {number(t.value)}" for k, t in thresholds.items()) or None
    yield (group, "Grid of the maps"), " x ".join(map(str, run.summary.ceiling_grid)) or None


def _tuning(run: Compared) -> Iterator[Told]:
    summary, group = run.summary, "Tuning budget"
    yield (group, "Validation images"), _said(summary.images_by_split.get("val"))
    yield (group, "Patients that thresholds were chosen on"), _said(summary.threshold_patients)
    yield (group, "Test labels opened, times"), _said(summary.opened.times)
    yield (group, "Configurations that opened them"), _said(summary.opened.configurations)


def _software(run: Compared) -> Iterator[Told]:
    group = "Software and hardware"
    yield (group, "lesioncam"), _said(run.provenance.version or None)
    yield (group, "Hardware"), _said(run.provenance.hardware or None)
    for name, version in run.provenance.packages.items():
        yield (group, name), _said(version)


def _said(value: object) -> str | None:
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
    options = [f"{k.removeprefix('options.')} {_said(v)}" for k, v in own.items() if v not in (None, {}, [])]
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


# ---- repetitions and pairs ---------------------------------------------------------------------------------------


def repetitions(runs: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Runs of one configuration that differ in the seed or in the fold only, by what they repeat; at least two each.

    Two runs are folds of one configuration where they were measured on different images. Runs of another tool are
    never grouped: what they share is not known.
    """
    groups: dict[str, list[Compared]] = {}
    for run in runs:
        if not run.foreign and run.config:
            groups.setdefault(_recipe(run), []).append(run)
    named = {}
    for members in groups.values():
        if len(members) > 1:
            named[f"{_what(members)}: {', '.join(run.name for run in members)}"] = members
    return named


def pairs_of(runs: Sequence[Compared]) -> list[Pair]:
    """Every two runs, and whether they are a repetition, another architecture, or something else."""
    return [Pair(a, b, _kind(a, b)) for a, b in combinations(runs, 2)]


def _recipe(run: Compared) -> str:
    kept = {key: value for key, value in run.config.items() if key not in (*CHANCE, *INCIDENTAL)}
    return json.dumps([kept, run.summary.method], sort_keys=True, default=str)


def _what(members: Sequence[Compared]) -> str:
    seeds = len({run.config.get("seed") for run in members}) > 1
    folds = len({run.images for run in members}) > 1
    words = {(True, False): "Seeds", (False, True): "Folds", (True, True): "Seeds and folds"}
    return words.get((seeds, folds), "Repeats")


def _kind(a: Compared, b: Compared) -> str:
    if a.foreign or b.foreign or not (a.config and b.config):
        return "another tool" if a.foreign or b.foreign else "configuration not known"
    keys = {*a.config, *b.config} - {*CHANCE, *INCIDENTAL}
    different = {key for key in keys if a.config.get(key) != b.config.get(key)}
    if not different:
        return "repeatability (same configuration)"
    if all(key in ARCHITECTURE or key.startswith("backbone.") for key in different):
        return "reproducibility (other architecture)"
    return "other configuration"
