"""Read what a run folder says about itself: the report knows nothing else, neither images nor model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lesioncam.errors import RunError
from lesioncam.evaluation.controls import CONTROLS
from lesioncam.files import read_arrays
from lesioncam.runs.card import TrainingRecord
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.gallery import Shown, read_gallery
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.shortcut import ShortcutPanel
from lesioncam.runs.state import RunState
from lesioncam.runs.summary import Summary

GROUPS = ("missed", "false_alarm", "worst", "median", "best", "healthy")
"""The order of the gallery: what went wrong comes first."""
CASE_NUMBERS = (
    *("state", "label", "probability", "decision_threshold", "healthy", "map_threshold", "dice", "has_mask"),
    *("truth_area", "truth_boxes", "area", "pointing", "false_alarm"),
)
CASE_WORDS = ("image", "patient", "class", "method", "boxes", "positive", "map_source")
SUBGROUP_NUMBERS = ("value", "low", "high", "n", "patients")
ABSOLUTE = re.compile(r"(?<![\w.\-/])(?:~|[A-Za-z]:)?[/\\]{1,2}(?:[^\s,;:'\"]*[/\\])?([^\s,;:'\"/\\]*)")


CaseRow = Mapping[str, str | float]
"""A line of cases.csv by column: numbers as float, the rest as text."""


@dataclass(frozen=True)
class Case:
    """One picture of the gallery.

    Attributes:
        image: name of the file, without its folders.
        label: the class that is shown.
        group: why it is shown, one of ``GROUPS``.
        reason: the same in a sentence.
        arrays: file with the arrays; None if they were not kept.
        row: the line of cases.csv.
        truth: state of every class in the table: 1, 0, -1 or NaN.
    """

    image: str
    label: str
    group: str
    reason: str
    arrays: Path | None
    row: CaseRow
    truth: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` left behind for one split; ``subgroups`` is empty and ``shortcut`` None where not measured."""

    split: str
    summary: Summary
    metrics: pd.DataFrame
    cases: pd.DataFrame
    gallery: tuple[Case, ...]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    subgroups: pd.DataFrame = field(default_factory=pd.DataFrame)
    shortcut: ShortcutPanel | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The findings, in the table's order."""
        return self.summary.classes

    @property
    def method(self) -> str:
        """The map method that is reported; all others stand beside it."""
        return self.summary.method

    @property
    def controls(self) -> tuple[str, ...]:
        """What knows little or nothing of the image and is there to be beaten, in the order of metrics.csv."""
        return tuple(m for m in self._others if m in CONTROLS)

    @property
    def bounds(self) -> tuple[str, ...]:
        """Ceilings, readers and whatever else stands beside the method without being there to be beaten."""
        return tuple(m for m in self._others if m not in CONTROLS)

    @property
    def _others(self) -> tuple[str, ...]:
        return tuple(m for m in dict.fromkeys(self.metrics["method"]) if m and m != self.method)

    @property
    def mean(self) -> str:
        """The class that stands for all: their mean, or the only one."""
        return "macro" if (self.metrics["class"] == "macro").any() else self.classes[0]

    @cached_property
    def numbers(self) -> dict[tuple[str, str, str, str], dict[Hashable, Any]]:
        """Lines of metrics.csv by task, metric, class and method."""
        lines = self.metrics.to_dict("records")
        return {(line["task"], line["metric"], line["class"], line["method"]): line for line in lines}

    @property
    def thresholds(self) -> dict[str, tuple[float, str]]:
        """The map threshold of each class that was used, and where it comes from."""
        first = self.cases.drop_duplicates("class")
        rows = zip(first["class"], first["map_threshold"], first["map_source"], strict=True)
        return {str(label): (float(value), str(source)) for label, value, source in rows}


@dataclass(frozen=True)
class Run:
    """A run folder in memory."""

    name: str
    config: Mapping[str, object]
    state: RunState
    provenance: Provenance
    training: TrainingRecord
    history: pd.DataFrame
    evaluations: tuple[Evaluation, ...]


def read_run(root: Path) -> Run:
    """Read a run folder; test comes before validation.

    Raises:
        RunError: if it is no run folder, or nothing in it has been evaluated.
    """
    folder = RunFolder(root)
    if not folder.is_run():
        raise RunError(
            f"{root} is no run folder: it has no {folder.state.name}; make one with `lesioncam run TABLE -o {root}`."
        )
    splits = [split for split in ("test", "val") if folder.summary(split).is_file()]
    if not splits:
        raise RunError(
            f"{root} has not been evaluated, so there is nothing to report; run `lesioncam evaluate {root}` first."
        )
    return Run(
        name=root.resolve().name,
        config=read_options(folder.config),
        state=folder.read_state(),
        provenance=folder.read_provenance(),
        training=folder.read_training(),
        history=_read_table(folder.history) if folder.history.is_file() else pd.DataFrame(),
        evaluations=tuple(_read_evaluation(folder, split) for split in splits),
    )


def read_options(path: Path) -> dict[str, object]:
    """The options of a run as its ``config.yaml`` has them; none where there is no such file.

    Raises:
        RunError: if the file is broken.
    """
    if not path.is_file():
        return {}
    try:
        return dict(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not readable as YAML ({error}).") from error


def short_name(name: str) -> str:
    """A file's own name, without the folders it lies in.

    Example:
        >>> short_name("hospital/P0031/slice_12.png"), short_name("stack.idx#4")
        ('slice_12.png', 'stack.idx#4')
    """
    return PurePosixPath(name.replace("\\", "/")).name or name


def without_paths(text: str) -> str:
    r"""Cut absolute paths down to their last part, since they name people and machines.

    Example:
        >>> without_paths("lesioncam run /home/anna/brain.csv -o runs/x --seed 0")
        'lesioncam run …/brain.csv -o runs/x --seed 0'
        >>> without_paths("--images=C:\\data\\png, n/a and 3/4")
        '--images=…/png, n/a and 3/4'
    """
    return ABSOLUTE.sub(lambda found: f"…/{found[1]}" if found[1] else found[0], text)


def shorten_command(command: str) -> str:
    """A command without absolute paths, also where a path holds spaces.

    Example:
        >>> shorten_command("lesioncam run '/home/anna b/brain.csv' -o runs/x")
        'lesioncam run …/brain.csv -o runs/x'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return without_paths(command)
    return " ".join(_last_part(word) if _is_path(word) else shlex.quote(word) for word in words)


def _is_path(word: str) -> bool:
    return re.match(r"(~|[A-Za-z]:)?[/\\]", word.rpartition("=")[2]) is not None


def _last_part(word: str) -> str:
    name, sep, value = word.rpartition("=")
    return f"{name}{sep}…/{short_name(value)}"


def _read_table(path: Path, columns: Container[str] | None = None) -> pd.DataFrame:
    """A CSV as text: a class called "NA" or "001" keeps its name; an empty file has no rows."""
    try:
        wanted = None if columns is None else columns.__contains__
        return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=wanted)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; run `lesioncam evaluate` again.") from error
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); run `lesioncam evaluate` again.") from error


def _numbers(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    known = [column for column in columns if column in table]
    return table.assign(**{column: pd.to_numeric(table[column], errors="coerce") for column in known})


def _read_evaluation(run: RunFolder, split: str) -> Evaluation:
    summary, folder = run.read_summary(split), run.evaluation(split)
    metrics = _numbers(_read_table(folder / "metrics.csv"), ("value", "low", "high", "n", "undefined", "threshold"))
    cases = _read_cases(folder / "cases.csv", summary.method)
    return Evaluation(
        split=summary.split,
        summary=summary,
        metrics=metrics,
        cases=cases,
        gallery=tuple(_read_gallery(folder, cases)),
        curves=read_arrays(folder / "curves.npz", what="curves") if (folder / "curves.npz").is_file() else {},
        subgroups=_read_subgroups(folder / "subgroups.csv"),
        shortcut=ShortcutPanel.read(folder / "shortcut.json") if (folder / "shortcut.json").is_file() else None,
    )


def _read_subgroups(path: Path) -> pd.DataFrame:
    return _numbers(_read_table(path), SUBGROUP_NUMBERS) if path.is_file() else pd.DataFrame()


def _read_cases(path: Path, method: str) -> pd.DataFrame:
    cases = _read_table(path, CASE_WORDS + CASE_NUMBERS)
    return _numbers(cases[cases["method"] == method], CASE_NUMBERS)


def _read_gallery(folder: Path, cases: pd.DataFrame) -> list[Case]:
    shown = read_gallery(folder / "gallery.csv")
    about = cases[cases["image"].isin({row.image for row in shown})]
    rows = {(row["image"], row["class"]): {str(k): v for k, v in row.items()} for row in about.to_dict("records")}
    truth: dict[str, dict[str, float]] = {}
    for image, label in rows:
        truth.setdefault(str(image), {})[str(label)] = float(rows[image, label]["state"])
    found = [_case(folder, row, rows.get((row.image, row.label), {}), truth.get(row.image, {})) for row in shown]
    return sorted(found, key=lambda case: GROUPS.index(case.group) if case.group in GROUPS else len(GROUPS))


def _case(folder: Path, shown: Shown, row: CaseRow, truth: Mapping[str, float]) -> Case:
    arrays = folder / "arrays" / short_name(shown.file)
    return Case(
        image=short_name(shown.image),
        label=shown.label,
        group=shown.group,
        reason=shown.reason,
        arrays=arrays if arrays.is_file() else None,
        row=row,
        truth=truth,
    )
