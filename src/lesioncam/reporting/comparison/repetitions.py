"""Which runs repeat each other: other seeds, other folds, other architectures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from lesioncam.reporting.comparison.compared_run import ComparedRun
from lesioncam.reporting.comparison.settings import INCIDENTAL

CHANCE = ("seed",)
ARCHITECTURE = ("weights", "preprocess.size", "preprocess.channels")
"""Options that may differ between two architectures which are otherwise trained alike."""


class Pair(NamedTuple):
    """Two runs and what kind of comparison theirs is."""

    first: ComparedRun
    second: ComparedRun
    kind: str


def repetitions(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Runs of one configuration that differ in the seed or in the fold only, by what they repeat; at least two each.

    Two runs are folds of one configuration where they were measured on different images. Runs of another tool are
    never grouped: what they share is not known.
    """
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        if not run.foreign and run.config:
            groups.setdefault(_recipe(run), []).append(run)
    named = {}
    for members in groups.values():
        if len(members) > 1:
            named[f"{_what(members)}: {', '.join(run.name for run in members)}"] = members
    return named


def pairs_of(runs: Sequence[ComparedRun]) -> list[Pair]:
    """Every two runs, and whether they are a repetition, another architecture, or something else."""
    return [Pair(a, b, _kind(a, b)) for a, b in combinations(runs, 2)]


def _recipe(run: ComparedRun) -> str:
    kept = {key: value for key, value in run.config.items() if key not in (*CHANCE, *INCIDENTAL)}
    return json.dumps([kept, run.summary.method], sort_keys=True, default=str)


def _what(members: Sequence[ComparedRun]) -> str:
    seeds = len({run.config.get("seed") for run in members}) > 1
    folds = len({run.images for run in members}) > 1
    words = {(True, False): "Seeds", (False, True): "Folds", (True, True): "Seeds and folds"}
    return words.get((seeds, folds), "Repeats")


def _kind(a: ComparedRun, b: ComparedRun) -> str:
    if a.foreign or b.foreign or not (a.config and b.config):
        return "another tool" if a.foreign or b.foreign else "configuration not known"
    keys = {*a.config, *b.config} - {*CHANCE, *INCIDENTAL}
    different = {key for key in keys if a.config.get(key) != b.config.get(key)}
    if not different:
        return "repeatability (same configuration)"
    if all(key in ARCHITECTURE or key.startswith("backbone.") for key in different):
        return "reproducibility (other architecture)"
    return "other configuration"
