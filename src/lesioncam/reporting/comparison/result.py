"""The numbers of a comparison: estimates, differences, spreads, and how alike the answers of every two runs are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from lesioncam.evaluation.compare import Common, Contender, agreement, compare, contenders_of, spread
from lesioncam.reporting.comparison.compared_run import ComparedRun
from lesioncam.reporting.comparison.repetitions import pairs_of, repetitions
from lesioncam.reporting.comparison.rows import Difference, RunEstimate, differences_of, estimates_of
from lesioncam.reporting.comparison.side_by_side import Lineup, RunMaps, lineups, mask_agreement, sampled_masks


@dataclass(frozen=True)
class Agreement:
    """How alike the answers of two runs are, whatever the truth is.

    Attributes:
        first: name of a run.
        second: likewise.
        kind: what kind of comparison theirs is.
        masks: mean Dice between their masks of ``n`` cases.
        n: cases.
        scores: correlation of their image scores.
        dice: correlation of the Dice of ``cases`` cases.
        dice_difference: mean absolute difference of it.
        cases: behind the last two.
    """

    first: str
    second: str
    kind: str
    masks: float
    n: int
    scores: float
    dice: float
    dice_difference: float
    cases: float


@dataclass(frozen=True)
class ComparisonResult:
    """Everything the page and the files show.

    Attributes:
        runs: in the order they were named.
        contenders: the runs, or each map method of a run that has several.
        common: what all were measured on; None for folds, which share nothing.
        estimates: with the columns of ``comparison.csv``.
        differences: with those of ``differences.csv``.
        spreads: of repetitions.
        agreements: of every two runs.
        pictures: the same cases under every run.
        seed: of the bootstrap.
        draws: likewise.
    """

    runs: Sequence[ComparedRun]
    contenders: Sequence[Contender]
    common: Common | None
    estimates: pd.DataFrame
    differences: pd.DataFrame
    spreads: pd.DataFrame
    agreements: Sequence[Agreement]
    pictures: Sequence[Lineup]
    seed: int
    draws: int

    @property
    def split(self) -> str:
        """``test`` or ``val``."""
        return self.runs[0].split

    @property
    def rows(self) -> list[RunEstimate]:
        """The estimates that have a value."""
        return estimates_of(self.estimates)

    @property
    def gaps(self) -> list[Difference]:
        """The differences that have a value."""
        return differences_of(self.differences)

    @property
    def patients(self) -> int | None:
        """How many patients stand behind the images; None where a run does not know who is who."""
        if any(not run.summary.knows_patients for run in self.runs):
            return None
        if self.common is None:
            return int(self.runs[0].cases["patient"].nunique())
        return int(self.common.patients.max()) + 1

    @property
    def is_arg_max(self) -> bool:
        """Whether balanced accuracy is that of the class with the highest score, which has no value per class."""
        return {one.label for one in self.rows if one.metric == "balanced_accuracy"} == {"macro"}


def compare_all(runs: Sequence[ComparedRun], seed: int, draws: int) -> ComparisonResult:
    """Compare runs on what they share; folds of one configuration, which share no image, stand beside each other.

    Raises:
        LesioncamError: if the runs disagree about the truth, or share no image and are no folds.
    """
    contenders = contenders_of({run.name: run.cases for run in runs})
    groups = repetitions(runs)
    measure = partial(
        compare,
        exclusive=all(run.summary.exclusive for run in runs),
        ordinal=all(run.summary.task == "ordinal" for run in runs),
        draws=draws,
        seed=seed,
    )
    common: Common | None = None
    if _only_folds(runs, groups):
        parts = [measure([one]) for one in contenders]
        estimates = pd.concat([part.estimates for part in parts], ignore_index=True)
        estimates = estimates.assign(rank_first=math.nan, rank_last=math.nan, letters="")
        differences = parts[0].differences
    else:
        estimates, differences, common = measure(contenders)
    spreads = spread(estimates, {name: [run.name for run in members] for name, members in groups.items()})
    sources = {one.name: RunMaps.of(_run_of(one, runs), str(one.cases["method"].iloc[0])) for one in contenders}
    agreements = [] if common is None else _agreements(runs, contenders, sources, common)
    pictures = [] if common is None else lineups(sources, common)
    return ComparisonResult(
        runs, contenders, common, estimates, differences, spreads, agreements, pictures, seed, draws
    )


def _only_folds(runs: Sequence[ComparedRun], groups: Mapping[str, Sequence[ComparedRun]]) -> bool:
    """Whether there is nothing to compare on, and need not be: folds of one configuration share no image."""
    shared = frozenset.intersection(*(run.images for run in runs))
    return not shared and any(len(members) == len(runs) for members in groups.values())


def _run_of(contender: Contender, runs: Sequence[ComparedRun]) -> ComparedRun:
    return next(run for run in runs if contender.name == run.name or contender.name.startswith(f"{run.name}: "))


def _agreements(
    runs: Sequence[ComparedRun], contenders: Sequence[Contender], sources: Mapping[str, RunMaps], common: Common
) -> list[Agreement]:
    """How alike the answers of every two runs are; of runs with several map methods, those of the first."""
    first = {run.name: next(i for i, one in enumerate(contenders) if _run_of(one, runs) is run) for run in runs}
    positive = np.argwhere(common.tables[0].column["label"] == 1)
    cases = [(common.images[i], common.classes[k]) for i, k in positive]
    masks = {run.name: sampled_masks(sources[contenders[first[run.name]].name], cases) for run in runs}
    found = []
    for a, b, kind in pairs_of(runs):
        alike = agreement(common.tables[first[a.name]], common.tables[first[b.name]])
        overlap, looked_at = mask_agreement(masks[a.name], masks[b.name])
        found.append(Agreement(a.name, b.name, kind, overlap, looked_at, **alike))
    return found
