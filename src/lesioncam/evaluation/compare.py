"""Finished evaluations side by side: the same images, the same bootstrap draws, differences with corrected intervals.

Only what all runs were measured on is compared. A difference is paired: in every draw both runs see the same patients.
For each metric and class the intervals of all pairs of runs hold together (simultaneous percentile intervals); a pair
whose interval includes 0 is a tie, and so is one that three decimals cannot tell apart. Nothing is corrected across
metrics or classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lesioncam.errors import LesioncamError, RunError
from lesioncam.evaluation.controls import is_method
from lesioncam.evaluation.metric import is_lower_better, shown_in
from lesioncam.evaluation.summary import (
    CaseTable,
    Draws,
    Grid,
    Measure,
    any_alarm,
    case_tables,
    classification_measures,
    exclusive_accuracy,
    kappa_measure,
    localisation_measures,
    patient_draws,
    segmentation_measures,
)
from lesioncam.functional.metrics import (
    interval,
    nan_mean,
)

COMPARED = tuple(metric for _, metric in shown_in("compared"))
"""The metrics that are compared, in the order of the tables."""

VALUES = ("metric", "class", "run", "value", "low", "high", "n", "rank_first", "rank_last", "letters")
"""Columns of ``comparison.csv``."""

DIFFERENCES = (
    *("metric", "class", "run_a", "run_b", "difference", "low", "high"),
    *("low_corrected", "high_corrected", "p", "p_holm", "tie"),
)
"""Columns of ``differences.csv``; ``difference`` is a minus b, ``tie`` is 1, 0, or NaN where nothing can be said."""

LEAST = 0.0005
"""A difference below this is a tie however sure it is: maps that were only rounded differ all in one direction."""

LEVEL = 0.95
NAN = float("nan")
COLUMNS = (
    *("label", "logit", "probability", "decision_threshold", "positive", "map_threshold", "dice", "iou", "pointing"),
    *("truth_boxes", "boxes_hit", "false_alarm", "has_mask", "truth_area"),
)
TRUTH = {"label": "label", "truth_area": "area of the true mask"}
"""What must be the same in all runs."""


class Contender(NamedTuple):
    """One map method of one run: a name and its rows of ``cases.csv``."""

    name: str
    cases: pd.DataFrame


class Common(NamedTuple):
    """What all contenders were measured on.

    Attributes:
        images: ids, in the order of the first contender.
        classes: in the order of the first contender.
        patients: ``(n,)``, the group of each image.
        tables: one per contender, images x classes.
        left_out: by contender, how many of its images the others do not have.
        classes_left_out: by contender, the classes the others do not have.
        without_score: by contender, images whose score is missing although it scores others of that class.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    patients: np.ndarray
    tables: tuple[CaseTable, ...]
    left_out: Mapping[str, int]
    classes_left_out: Mapping[str, tuple[str, ...]]
    without_score: Mapping[str, int]


class Comparison(NamedTuple):
    """Numbers with the columns `VALUES`, their differences with the columns `DIFFERENCES`, and on what."""

    estimates: pd.DataFrame
    differences: pd.DataFrame
    common: Common


class _Column(NamedTuple):
    """One metric of one class: value (first row) and draws per contender, ``(1 + D, R)``; images used, ``(n, R)``."""

    metric: str
    label: str
    stats: np.ndarray
    used: np.ndarray


def contenders_of(runs: Mapping[str, pd.DataFrame]) -> list[Contender]:
    """One contender per run and map method; the method is named only where a run has several.

    Raises:
        RunError: for a run without a map method.

    Example:
        >>> frame = pd.DataFrame({"method": ["cam", "random_map", "clear"]})
        >>> [one.name for one in contenders_of({"a": frame, "b": frame[:2]})]
        ['a: cam', 'a: clear', 'b']
    """
    found = []
    for name, cases in runs.items():
        methods = [str(method) for method in cases["method"].unique() if is_method(str(method))]
        if not methods:
            raise RunError(f"run {name!r} holds no row of a map method; evaluate a split that has images.")
        for method in methods:
            shown = name if len(methods) == 1 else f"{name}: {method}"
            found.append(Contender(shown, cases[cases["method"] == method]))
    return found


def compare(
    contenders: Sequence[Contender],
    *,
    exclusive: bool = False,
    ordinal: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Every metric of every contender on the images they share, and the paired difference of every two.

    Args:
        contenders: one or more, with different names.
        exclusive: as in `evaluation.summary.summarise`; only where no class is left out.
        ordinal: likewise: kappa too.
        draws: of the bootstrap over patients, the same for all.
        seed: of the draws.

    Returns:
        Values with intervals and ranks, differences with intervals as they are and corrected. A rank is a range: from
        one more than the number of contenders that are better beyond chance, to as many as are not worse. Contenders
        that share a letter tie.

    Raises:
        RunError: if the contenders share no image or no class.
        LesioncamError: if they disagree about the truth.

    Reference:
        Mandel & Betensky, "Simultaneous confidence intervals based on the percentile bootstrap approach", CSDA 2008;
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979; Piepho, "An algorithm
        for a letter-based representation of all-pairwise comparisons", JCGS 2004.
    """
    common = common_ground(contenders)
    frame = pd.DataFrame({"image": common.images, "patient": common.patients})
    draw = patient_draws(frame, draws, seed)
    whole = exclusive and not any(common.classes_left_out.values())
    names = [one.name for one in contenders]
    values, differences = [], []
    for column in _columns(common.tables, draw, exclusive=whole, ordinal=whole and ordinal):
        pairs = _differences(column, names, draw.owner)
        differences += pairs
        values += _values(column, names, draw.owner, pairs)
    return Comparison(
        pd.DataFrame(values, columns=list(VALUES)), pd.DataFrame(differences, columns=list(DIFFERENCES)), common
    )


# ---- the same images ---------------------------------------------------------------------------------------------


def common_ground(contenders: Sequence[Contender]) -> Common:
    """Bring all contenders onto the images and classes they share, and make sure that they share the truth.

    An image without a score (or a mask's Dice ...) in one contender takes part in that metric for none, so that nobody
    gains by leaving out what is hard; a contender that has no value of a metric at all does not take part in it.

    Raises:
        RunError: if nothing is shared.
        LesioncamError: naming the first image about whose truth they disagree.
    """
    grid = Grid(_shared(contenders, "image"), _shared(contenders, "class"))
    tables = []
    for one in contenders:
        kept = one.cases["image"].isin(set(grid.images)) & one.cases["class"].isin(set(grid.classes))
        tables.append(case_tables(one.cases[kept], COLUMNS, grid=grid)[0])
    for other, name in zip(tables[1:], [one.name for one in contenders[1:]], strict=True):
        _expect_same_truth(grid, tables[0], other, (contenders[0].name, name))
    images = {one.name: one.cases["image"].nunique() - len(grid.images) for one in contenders}
    labels = {
        one.name: tuple(str(c) for c in one.cases["class"].unique() if c not in grid.classes) for one in contenders
    }
    groupings = [_patients(one.cases, grid.images) for one in contenders]
    gaps = {one.name: _without_score(table) for one, table in zip(contenders, tables, strict=True)}
    return Common(grid.images, grid.classes, join_patients(groupings), _paired(tables), images, labels, gaps)


def join_patients(groupings: Sequence[np.ndarray]) -> np.ndarray:
    """The finest grouping that keeps together what any of the given ones keeps together.

    Digests of patients differ from run to run, but they group the same images; where a run knows no patients, the
    others' groups stand.

    Args:
        groupings: arrays ``(n,)``, a group per image.

    Returns:
        ``(n,)`` group numbers, in the order of first appearance.

    Example:
        >>> join_patients([np.array(["x", "x", "y", "z"]), np.array(["p", "q", "q", "r"])]).tolist()
        [0, 0, 0, 1]
    """
    n = len(groupings[0])
    links = []
    for grouping in groupings:
        _, first, owner = np.unique(grouping, return_index=True, return_inverse=True)
        links.append(first[owner])
    rows, columns = np.tile(np.arange(n), len(links)), np.concatenate(links)
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])


def _shared(contenders: Sequence[Contender], column: str) -> tuple[str, ...]:
    sets = [dict.fromkeys(one.cases[column].astype(str)) for one in contenders]
    shared = tuple(name for name in sets[0] if all(name in other for other in sets[1:]))
    if not shared:
        samples = "; ".join(f"{one.name}: {next(iter(s), 'none')} ..." for one, s in zip(contenders, sets, strict=True))
        raise RunError(
            f"these runs have no {column} in common ({samples}); compare runs that were evaluated on the same table "
            "and split, or the folds of one configuration alone."
        )
    return shared


def _expect_same_truth(grid: Grid, first: CaseTable, other: CaseTable, names: tuple[str, str]) -> None:
    for column, said in TRUTH.items():
        a, b = first.column[column], other.column[column]
        if column == "label":
            odd = (a != b) & ~(np.isnan(a) & np.isnan(b))
        else:
            odd = (first.column["has_mask"] == 1) & (other.column["has_mask"] == 1) & (a != b)
        if odd.any():
            i, k = (int(each[0]) for each in np.nonzero(odd))
            raise LesioncamError(
                f"image {grid.images[i]!r}, class {grid.classes[k]!r}: the {said} is {a[i, k]:g} in {names[0]} and "
                f"{b[i, k]:g} in {names[1]}; compare runs that were measured with the same truth (table, policy for "
                "uncertain labels, masks)."
            )


def _patients(cases: pd.DataFrame, images: Sequence[str]) -> np.ndarray:
    known = cases.drop_duplicates("image").set_index("image")["patient"]
    return known.reindex(list(images)).to_numpy(dtype=str)


def _without_score(table: CaseTable) -> int:
    missing = np.isnan(table.score)
    return int((missing & ~missing.all(axis=0)).any(axis=1).sum())


def _paired(tables: Sequence[CaseTable]) -> tuple[CaseTable, ...]:
    """Blank each value that another contender lacks, unless it lacks that column of the class altogether."""
    scores = [table.score for table in tables]
    seen = _seen(scores)
    columns = [dict(table.column) for table in tables]
    for own, score in zip(columns, scores, strict=True):
        own["logit"] = np.where(seen, score, np.nan)
        own["probability"] = own["logit"]
        own["positive"] = np.where(seen, own["positive"], np.nan)
    for name in ("dice", "iou", "pointing", "boxes_hit", "false_alarm"):
        seen = _seen([own[name] for own in columns])
        for own in columns:
            own[name] = np.where(seen, own[name], np.nan)
    return tuple(CaseTable(t.method, t.classes, own) for t, own in zip(tables, columns, strict=True))


def _seen(values: Sequence[np.ndarray]) -> np.ndarray:
    """Where every contender that has the column at all has a value."""
    known = [~np.isnan(one) for one in values]
    return np.logical_and.reduce([one | ~one.any(axis=0) for one in known])


# ---- values and their draws --------------------------------------------------------------------------------------


def _columns(tables: Sequence[CaseTable], draws: Draws, *, exclusive: bool, ordinal: bool) -> Iterator[_Column]:
    """Metrics in the order of `COMPARED`; per class, then their mean, then any class."""
    measures = [_measures(table, draws.weights, exclusive=exclusive, ordinal=ordinal) for table in tables]
    for metric in [metric for metric in COMPARED if metric in measures[0]]:
        ones = [each[metric] for each in measures]
        if metric != "kappa_quadratic" and (metric != "balanced_accuracy" or not exclusive):
            for k, label in enumerate(tables[0].classes):
                yield _column(metric, label, [one.stats[:, k] for one in ones], [one.used[:, k] for one in ones])
        means = [nan_mean(one.stats) for one in ones]
        yield _column(metric, "macro", means, [_behind_mean(one) for one in ones])
        if metric == "false_alarm_rate":
            alarms = [any_alarm(table, draws.weights) for table in tables]
            yield _column(metric, "any", [one.stats[:, 0] for one in alarms], [one.used[:, 0] for one in alarms])


def _column(metric: str, label: str, stats: Sequence[np.ndarray], used: Sequence[np.ndarray]) -> _Column:
    return _Column(metric, label, np.stack(stats, axis=1), np.stack(used, axis=1))


def _behind_mean(one: Measure) -> np.ndarray:
    defined = ~np.isnan(one.stats[0])
    return np.asarray(one.used[:, defined].any(axis=1))


def _measures(table: CaseTable, weights: np.ndarray, *, exclusive: bool, ordinal: bool) -> dict[str, Measure]:
    """The measures of `summarise` by name; where a name is used twice, that of the masks is not compared."""
    measures = [*segmentation_measures(table, weights), *localisation_measures(table, weights)]
    measures += classification_measures(table, weights, exclusive=exclusive)
    measures += [exclusive_accuracy(table, weights)] if exclusive else []
    measures += [kappa_measure(table, weights)] if ordinal else []
    return {one.metric: one for one in measures}


def _values(
    column: _Column, names: Sequence[str], owner: np.ndarray, pairs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    better, apart = _beaten(column.metric, pairs)
    letters = letter_display(_by_value(column, names), apart)
    rows = []
    for r, name in enumerate(names):
        value, used = float(column.stats[0, r]), column.used[:, r]
        known = not np.isnan(value)
        several = known and len(np.unique(owner[used])) > 1
        low, high = interval(column.stats[1:, r]) if several else (NAN, NAN)
        ranked = [other for other, one in zip(names, column.stats[0], strict=True) if not np.isnan(one)]
        first = 1 + sum((other, name) in better for other in ranked) if known else NAN
        last = len(ranked) - sum((name, other) in better for other in ranked) if known else NAN
        numbers = (value, low, high, int(used.sum()) if known else 0, first, last, letters.get(name, ""))
        rows.append(dict(zip(VALUES, (column.metric, column.label, name, *numbers), strict=True)))
    return rows


def _beaten(metric: str, pairs: Sequence[Mapping[str, Any]]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """(better, worse) beyond chance, and the same in both orders."""
    lower = is_lower_better(metric)
    better = set()
    for pair in pairs:
        if pair["tie"] == 0:
            a, b = pair["run_a"], pair["run_b"]
            better.add((a, b) if (pair["difference"] > 0) != lower else (b, a))
    return better, better | {(b, a) for a, b in better}


def _by_value(column: _Column, names: Sequence[str]) -> list[str]:
    """Contenders that have a value, the best first."""
    sign = 1 if is_lower_better(column.metric) else -1
    known = [(sign * value, r) for r, value in enumerate(column.stats[0]) if not np.isnan(value)]
    return [names[r] for _, r in sorted(known)]


# ---- differences -------------------------------------------------------------------------------------------------


def simultaneous_intervals(draws: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Percentile intervals that hold for all columns at once: a draw lies outside if it does in any column.

    Each interval cuts the same share off both tails of its column, chosen so that ``level`` of the draws lie inside
    all intervals; the share is kept between Bonferroni's and that of a single interval. One column gives the plain
    percentile interval, and columns that move together cost little.

    Args:
        draws: ``(D, m)``, NaN where a draw is undefined.
        level: share of the draws inside.

    Returns:
        ``(m, 2)``, lower and upper ends.

    Reference:
        Mandel & Betensky, "Simultaneous confidence intervals based on the percentile bootstrap approach",
        Computational Statistics & Data Analysis 2008.

    Example:
        >>> line = np.arange(101.0)
        >>> simultaneous_intervals(line[:, None], level=0.5).tolist()
        [[25.0, 75.0]]
        >>> simultaneous_intervals(np.stack([line, 2 * line], axis=1), level=0.5).round().tolist()
        [[25.0, 75.0], [50.0, 150.0]]
    """
    count = draws.shape[1]
    if not count:
        return np.empty((0, 2))
    alpha = 1 - level
    tail = float(np.quantile(_depth(draws).min(axis=1), alpha, method="lower")) if len(draws) else alpha / 2
    tail = min(alpha / 2, max(tail, alpha / (2 * count)))
    return np.array([interval(column, 1 - 2 * tail) for column in draws.T])


def _depth(draws: np.ndarray) -> np.ndarray:
    """How far each draw is from the nearer end of its column: the share of draws at or beyond it, 1 where undefined."""
    depth = np.ones(draws.shape)
    for k, column in enumerate(draws.T):
        known = ~np.isnan(column)
        ordered = np.sort(column[known])
        below = np.searchsorted(ordered, column[known], side="right")
        above = len(ordered) - np.searchsorted(ordered, column[known], side="left")
        depth[known, k] = np.minimum(below, above) / max(1, len(ordered))
    return depth


def bootstrap_p(draws: np.ndarray) -> float:
    """Two-sided p value of "no difference": twice the smaller share of draws on one side of 0, never 0 itself.

    Args:
        draws: ``(D,)`` differences; NaN is left out.

    Reference:
        Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, chapter 4 (the interval turned round).

    Example:
        >>> bootstrap_p(np.array([1.0, 2.0, 3.0, -1.0, 2.0, 4.0, 5.0])), bootstrap_p(np.zeros(9))
        (0.5, 1.0)
    """
    known = draws[~np.isnan(draws)]
    if not len(known):
        return NAN
    less = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (less + 1) / (len(known) + 1))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's correction: the smallest of m times m, the next times m - 1 ..., never falling; NaN is left out.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    out = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    scaled = values[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return out


def letter_display(names: Sequence[str], apart: set[tuple[str, str]]) -> dict[str, str]:
    """Letters such that two names share one if, and only if, they are not apart.

    Args:
        names: the best first; they get the first letters.
        apart: pairs, in both orders.

    Reference:
        Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons", JCGS 2004 (insert and
        absorb).

    Example:
        >>> letter_display(["x", "y", "z"], {("x", "z"), ("z", "x")})
        {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    groups = [frozenset(range(len(names)))] if len(names) else []
    for i, j in combinations(range(len(names)), 2):
        if (names[i], names[j]) in apart:
            split = [part for group in groups for part in ((group - {i}, group - {j}) if {i, j} <= group else (group,))]
            distinct = list(dict.fromkeys(split))
            groups = [one for one in distinct if not any(one < other for other in distinct)]
    ordered = sorted(groups, key=sorted)
    marks = [chr(ord("a") + g) if g < 26 else f"({g + 1})" for g in range(len(ordered))]
    return {
        name: "".join(mark for mark, group in zip(marks, ordered, strict=True) if i in group)
        for i, name in enumerate(names)
    }


def _differences(column: _Column, names: Sequence[str], owner: np.ndarray) -> list[dict[str, Any]]:
    """Every pair, in the order of the contenders."""
    pairs = list(combinations(range(len(names)), 2))
    found = np.array([column.stats[:, a] - column.stats[:, b] for a, b in pairs])
    defined = [i for i, one in enumerate(found) if _can_tell(one, column.used[:, pairs[i][0]], owner)]
    wide, p = np.full((len(pairs), 2), np.nan), np.full(len(pairs), np.nan)
    if defined:
        wide[defined] = simultaneous_intervals(found[defined, 1:].T)
        p[defined] = [bootstrap_p(found[i, 1:]) for i in defined]
    corrected = holm(p)
    rows = []
    for i, (a, b) in enumerate(pairs):
        plain = interval(found[i, 1:]) if i in defined else (NAN, NAN)
        even = wide[i, 0] <= 0 <= wide[i, 1] or abs(found[i, 0]) < LEAST
        tie = float(even) if i in defined else NAN
        where = (column.metric, column.label, names[a], names[b])
        numbers = (float(found[i, 0]), *plain, *map(float, wide[i]), float(p[i]), float(corrected[i]), tie)
        rows.append(dict(zip(DIFFERENCES, (*where, *numbers), strict=True)))
    return rows


def _can_tell(one: np.ndarray, used: np.ndarray, owner: np.ndarray) -> bool:
    return not np.isnan(one[0]) and not np.isnan(one[1:]).all() and len(np.unique(owner[used])) > 1


# ---- repetitions -------------------------------------------------------------------------------------------------


def spread(values: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """How much a number moves between repetitions of one configuration (other seeds, other folds).

    Args:
        values: with the columns `VALUES`.
        groups: name of the configuration -> names of its runs.

    Returns:
        Columns ``group, metric, class, runs, mean, sd, least, most``; ``sd`` with n - 1, NaN for a single run.

    Example:
        >>> rows = [{"metric": "dice", "class": "macro", "run": r, "value": v} for r, v in (("a", 0.5), ("b", 0.7))]
        >>> spread(pd.DataFrame(rows), {"cam": ["a", "b"]}).round(3).to_dict("records")[0]["sd"]
        0.141
    """
    rows = []
    for group, runs in groups.items():
        own = values[values["run"].isin(list(runs)) & values["value"].notna()]
        for (metric, label), part in own.groupby(["metric", "class"], sort=False):
            v = part["value"].to_numpy(dtype=float)
            sd = float(v.std(ddof=1)) if len(v) > 1 else NAN
            rows.append((group, metric, label, len(v), float(v.mean()), sd, float(v.min()), float(v.max())))
    return pd.DataFrame(rows, columns=["group", "metric", "class", "runs", "mean", "sd", "least", "most"])


def agreement(first: CaseTable, second: CaseTable) -> dict[str, float]:
    """How alike two contenders' answers are, case by case, whatever the truth is.

    Returns:
        ``scores``: correlation (Pearson) of the image scores, mean over classes; ``dice``: of the Dice of the cases;
        ``dice_difference``: mean absolute difference of the Dice of a case; ``cases`` behind the last two. NaN where
        one of them does not vary, or has no values.
    """
    scores = [_correlation(a, b) for a, b in zip(first.score.T, second.score.T, strict=True)]
    a, b = first.column["dice"].ravel(), second.column["dice"].ravel()
    known = ~np.isnan(a + b)
    gap = float(np.abs(a - b)[known].mean()) if known.any() else NAN
    return {
        "scores": float(nan_mean(np.array(scores))),
        "dice": _correlation(a, b),
        "dice_difference": gap,
        "cases": float(known.sum()),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = ~np.isnan(a + b)
    x, y = a[known], b[known]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NAN
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))
