"""``subgroups.csv``: the same metrics for the women, the old, the one scanner; and by lesion size and confidence.

Groups are made of any column of the table. Small ones are merged, for the sake of the numbers and of the people behind
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lesioncam.errors import TableError
from lesioncam.evaluation.metric import shown_in
from lesioncam.evaluation.summary import own_method, summarise
from lesioncam.lookup import find

SUBGROUPS = (
    "column",
    "group",
    "task",
    "metric",
    "class",
    "method",
    "value",
    "low",
    "high",
    "n",
    "patients",
    "flag",
)
"""Columns of ``subgroups.csv``."""

NOT_GIVEN, OTHER = "not given", "other"
MOST = 12
"""A column with more distinct values than this is banded (numbers) or cut (text)."""


class _Group(NamedTuple):
    """Some rows of the cases under one name."""

    column: str
    name: str
    rows: np.ndarray  # (rows of the cases,) bool
    members: np.ndarray  # (rows of the cases,) bool: those that are meant; others stand by for comparison
    size: int  # images, or pairs of image and class
    metrics: Sequence[str]


class _Setting(NamedTuple):
    exclusive: bool
    draws: int
    seed: int
    smallest: int


def subgroup_table(
    cases: pd.DataFrame,
    about: pd.DataFrame,
    columns: Sequence[str],
    *,
    exclusive: bool,
    draws: int = 200,
    seed: int = 0,
    smallest: int = 10,
) -> pd.DataFrame:
    """The short list of metrics of the own method, for every group of some columns of the table.

    Text is grouped as it stands; of more than 12 values the 11 largest are kept, the others become ``other``. Numbers
    of more than 12 values are banded: ages (a column whose name says so, or cells like ``058Y``) by decades, others in
    four bands of about equal counts. Dates become years. Blank cells are the group ``not given``. Groups of fewer
    than ``smallest`` images or of one patient are merged; what is still too small is listed without values.

    Args:
        cases: as `read_cases` returns it.
        about: any facts, one row per image, indexed by the image's id.
        columns: which columns of ``about``.
        exclusive: as `summarise` takes it.
        draws: bootstrap draws per group; fewer than for the whole split, since there are many groups.
        seed: of the draws.
        smallest: number of images below which a group is not shown alone.

    Returns:
        Table with `SUBGROUPS`, groups in their natural order. ``n`` counts the images behind a number (of a group too
        small, its images), ``patients`` those of the group. ``flag`` says ``below overall`` or ``above overall`` (as a
        number, not as a judgement: more false alarms are above) where the interval excludes the value of all images
        even after Bonferroni's correction for all groups in the table; that interval is the 95 % one, stretched by
        the ratio of the quantiles of Student's t and the normal law, so that few patients have to differ by much. No
        flag where the interval has no width, where fewer than ``smallest`` images or patients stand behind the number,
        nor on a macro mean over other classes than the overall one.

    Raises:
        OptionError: if ``about`` lacks a column; it suggests the nearest.
        TableError: if ``about`` has two rows for one image.

    Reference:
        Dunn, "Multiple comparisons among means", JASA 1961 (the correction).

    Example:
        >>> one = {"class": "mass", "method": "cam", "patient": "p", "label": 1.0, "dice": 0.5}
        >>> cases = pd.DataFrame([one | {"image": f"i{i}", "patient": f"p{i}"} for i in range(20)])
        >>> from lesioncam.evaluation.cases import COLUMNS
        >>> about = pd.DataFrame({"sex": ["F"] * 12 + ["M"] * 8}, index=cases["image"])
        >>> table = subgroup_table(cases.reindex(columns=list(COLUMNS)), about, ["sex"], exclusive=False)
        >>> chosen = table[(table["metric"] == "dice") & (table["class"] == "mass")]
        >>> chosen[["group", "value", "n"]].to_numpy().tolist()
        [['F', 0.5, 12], ['fewer than 10 each (merged)', nan, 8]]
    """
    own = cases[cases["method"] == own_method(cases)]
    if about.index.has_duplicates:
        twice = about.index[about.index.duplicated()][0]
        raise TableError(f"the facts about image {twice!r} are given twice; keep one row per image.")
    facts = about.set_axis(about.index.map(str), axis=0)
    images = pd.Index(own["image"].unique())
    metrics = [metric for _, metric in shown_in("groups")]
    groups = []
    for column in columns:
        find(column, dict.fromkeys(map(str, facts.columns)), "column")
        names = _merged(_bands(facts[column].reindex(images), column), own, smallest)
        of_row = names.reindex(own["image"]).to_numpy(dtype=object)
        for name, size in names.value_counts(sort=False).items():
            groups.append(_Group(column, str(name), of_row == name, of_row == name, int(size), metrics))
    return _evaluate(own, groups, _Setting(exclusive, draws, seed, smallest))


def strata_table(
    cases: pd.DataFrame, *, exclusive: bool, draws: int = 200, seed: int = 0, smallest: int = 10
) -> pd.DataFrame:
    """Metrics of the own method by thirds of lesion size and of confidence, in the format of `subgroup_table`.

    ``lesion size``: pairs of image and class with a truth mask that is not empty, by its area in native pixels;
    AUROC sets the lesions of a third against all images without the class. ``confidence``: pairs of which the place
    of the lesion is known, by the image probability of the class. Boundaries are those of all classes together and
    stand in the group's name; a third is at or below its upper boundary.

    Args:
        cases: as `read_cases` returns it.
        exclusive: as `summarise` takes it.
        draws: bootstrap draws per stratum.
        seed: of the draws.
        smallest: number of pairs below which a stratum is listed without values.

    Returns:
        Table with `SUBGROUPS`; empty if no lesion is located.

    Reference:
        Saporta et al., "Benchmarking saliency methods for chest X-ray interpretation", Nature Machine Intelligence
        2022 (size and confidence explain where localisation fails).

    Example:
        >>> from lesioncam.evaluation.cases import COLUMNS
        >>> one = {"class": "mass", "method": "cam", "label": 1.0}
        >>> rows = [one | {"image": i, "patient": i, "truth_area": i + 1.0, "dice": i / 30} for i in range(30)]
        >>> table = strata_table(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), exclusive=False)
        >>> chosen = table[(table["metric"] == "dice") & (table["class"] == "mass")]
        >>> [(row.group, round(row.value, 2)) for row in chosen.itertuples()][0]
        ('small (up to 10 pixels)', 0.15)
    """
    own = cases[cases["method"] == own_method(cases)]
    area = own["truth_area"].where(own["truth_area"] > 0).to_numpy(dtype=float)
    located = own[["dice", "pointing"]].notna().any(axis=1).to_numpy() & (own["label"] == 1).to_numpy()
    trust = np.where(located, own["probability"].to_numpy(dtype=float), np.nan)
    negative = (own["label"] == 0).to_numpy()
    groups = [
        _Group("lesion size", name, rows | negative, rows, int(rows.sum()), [metric for _, metric in shown_in("sizes")])
        for name, rows in _thirds(area, ("small", "medium", "large"), "{:.0f}", " pixels")
    ]
    groups += [
        _Group("confidence", name, rows, rows, int(rows.sum()), [metric for _, metric in shown_in("confidences")])
        for name, rows in _thirds(trust, ("low", "middle", "high"), "{:.3g}", "")
    ]
    return _evaluate(own, groups, _Setting(exclusive, draws, seed, smallest))


# ---- numbers of groups -------------------------------------------------------------------------------------------


def _evaluate(own: pd.DataFrame, groups: Sequence[_Group], setting: _Setting) -> pd.DataFrame:
    if not groups:
        return pd.DataFrame(columns=list(SUBGROUPS))
    overall = _short(summarise(own, exclusive=setting.exclusive, draws=1, seed=setting.seed))
    tables = [_one_group(own, group, overall, setting) for group in groups]
    judged = sum(bool(table["low"].notna().any()) for table in tables)
    flagged = [table.assign(flag=_flags(table, overall, judged, setting.smallest)) for table in tables]
    return pd.concat(flagged, ignore_index=True)[list(SUBGROUPS)]


def _short(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics of the short list, in the order of ``metrics.csv``."""
    wanted = pd.MultiIndex.from_frame(metrics[["task", "metric"]]).isin(shown_in("groups"))
    return metrics[wanted].reset_index(drop=True)


def _one_group(own: pd.DataFrame, group: _Group, overall: pd.DataFrame, setting: _Setting) -> pd.DataFrame:
    patients = own.loc[group.members, "patient"].nunique()
    if group.size < setting.smallest or patients < 2:
        table = overall.assign(value=np.nan, low=np.nan, high=np.nan, n=group.size)
    else:
        table = _short(summarise(own[group.rows], exclusive=setting.exclusive, draws=setting.draws, seed=setting.seed))
    table = table[table["metric"].isin(group.metrics)]
    return table.assign(column=group.column, group=group.name, patients=patients)


_KEY = ["task", "metric", "class"]


def _flags(table: pd.DataFrame, overall: pd.DataFrame, groups: int, smallest: int) -> np.ndarray:
    """Which values differ from those of all images by more than chance, with so many groups looked at."""
    both = table[[*_KEY, "value", "low", "high", "n", "patients"]].merge(
        overall[[*_KEY, "value"]], on=_KEY, how="left", suffixes=("", "_all")
    )
    count = np.maximum(2, both[["n", "patients"]].to_numpy().min(axis=1))
    stretch = stats.t.ppf(1 - 0.025 / max(1, groups), count - 1) / stats.norm.ppf(0.975)
    stretch = stretch * np.sqrt(count / (count - 1))  # a bootstrap takes the spread by n, not by n - 1
    value, whole = both["value"].to_numpy(dtype=float), both["value_all"].to_numpy(dtype=float)
    low = value - stretch * (value - both["low"].to_numpy(dtype=float))
    high = value + stretch * (both["high"].to_numpy(dtype=float) - value)
    fair = (high > low) & (count >= smallest) & _same_classes(table, overall)
    return np.select([fair & (high < whole), fair & (low > whole)], ["below overall", "above overall"], "")


def _same_classes(table: pd.DataFrame, overall: pd.DataFrame) -> np.ndarray:
    """Whether a row compares like with like: a macro mean has to be over the classes of the overall one."""
    here, there = _defined(table), _defined(overall)
    return np.array(
        [
            label != "macro" or here.get((task, metric)) == there.get((task, metric))
            for task, metric, label in zip(table["task"], table["metric"], table["class"], strict=True)
        ],
        dtype=bool,
    )


def _defined(table: pd.DataFrame) -> dict[tuple[str, str], frozenset[str]]:
    known = table[table["value"].notna() & ~table["class"].isin(["macro", "any"])]
    return {
        (str(task), str(metric)): frozenset(map(str, rows))
        for (task, metric), rows in known.groupby(["task", "metric"])["class"]
    }


# ---- groups of a column ------------------------------------------------------------------------------------------


def _merged(names: pd.Series, own: pd.DataFrame, smallest: int) -> pd.Series:
    """Groups that are too small under one name, at the end."""
    pairs = pd.DataFrame({"group": names.reindex(own["image"]).to_numpy(), "image": own["image"].to_numpy(),
                          "patient": own["patient"].to_numpy()})  # fmt: skip
    size = pairs.groupby("group", observed=True)[["image", "patient"]].nunique()
    small = set(size.index[(size["image"] < smallest) | (size["patient"] < 2)])
    together = f"fewer than {smallest} each (merged)"
    order = [name for name in names.cat.categories if name not in small and name in size.index]
    plain = names.astype(object)
    merged = plain.where(~plain.isin(list(small)), together)
    return merged.astype(pd.CategoricalDtype([*order, together] if small else order))


def _bands(cells: pd.Series, column: str) -> pd.Series:
    """The group of each image as a category, in natural order."""
    text = cells.astype(object).where(cells.notna(), "").map(_plain)
    given = text[text != ""]
    years, ages, numbers = given.map(_year), given.map(_age), given.map(_number)
    if len(given) and years.notna().all():
        named = _numeric(years.astype(float), _quarters)
    elif len(given) and ages.notna().all():
        named = _numeric(ages.astype(float), _decades)
    elif len(given) and numbers.notna().all():
        named = _numeric(numbers.astype(float), _decades if _is_age(column) else _quarters)
    else:
        named = _texts(given)
    order = [*named.cat.categories, *([NOT_GIVEN] if NOT_GIVEN not in named.cat.categories else [])]
    whole = named.astype(object).reindex(text.index).fillna(NOT_GIVEN)
    return whole.astype(pd.CategoricalDtype(order))


def _plain(cell: object) -> str:
    """Numbers that are whole lose their point; a time stamp becomes its ISO form."""
    return f"{cell:.15g}" if isinstance(cell, float) else str(cell).strip()


_NUMERIC_DATE = re.compile(r"((?:19|20)\d\d)([-/.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?:[T ].*)?")
_SPOKEN_DATE = re.compile(r"\d{1,2}([-/.])\d{1,2}\1((?:19|20)\d\d)")
_DICOM_AGE = re.compile(r"(\d{1,3})([YMWD])", re.IGNORECASE)
_PER_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


def _year(cell: str) -> float:
    """2021 of ``2021-03-04``, ``20210304``, ``04.03.2021``; NaN for anything else."""
    if match := _NUMERIC_DATE.fullmatch(cell):
        return float(match.group(1))
    match = _SPOKEN_DATE.fullmatch(cell)
    return float(match.group(2)) if match else float("nan")


def _age(cell: str) -> float:
    """Years of DICOM's ``058Y``, ``018M``; NaN for anything else."""
    match = _DICOM_AGE.fullmatch(cell)
    return int(match.group(1)) / _PER_YEAR[match.group(2).upper()] if match else float("nan")


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return float("nan")
    return value if np.isfinite(value) else float("nan")


def _is_age(column: str) -> bool:
    """``age``, ``patient_age``, ``PatientAge``, but not ``image`` or ``stage``."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)
    return "age" in [word.lower() for word in words]


def _numeric(values: pd.Series, banded: Callable[[pd.Series], pd.Series]) -> pd.Series:
    """As they are up to 12 distinct values, else in bands."""
    if values.nunique() > MOST:
        return banded(values)
    distinct = np.sort(values.unique())
    names = _written([(value, value) for value in distinct])
    return values.map(dict(zip(distinct, names, strict=True))).astype(pd.CategoricalDtype(names))


def _decades(ages: pd.Series) -> pd.Series:
    decade = (ages // 10).astype(int)
    order = [f"{10 * d} to {10 * d + 9}" for d in np.sort(decade.unique())]
    return decade.map(lambda d: f"{10 * d} to {10 * d + 9}").astype(pd.CategoricalDtype(order))


def _quarters(values: pd.Series) -> pd.Series:
    """Four bands of about equal counts, named by the smallest and largest value they hold."""
    band = pd.Series(_equal_counts(values.to_numpy(), 4), index=values.index)
    ends = values.groupby(band).agg(["min", "max"])
    names = _written(list(ends.itertuples(index=False, name=None)))
    return band.map(dict(zip(ends.index, names, strict=True))).astype(pd.CategoricalDtype(names))


def _written(bands: Sequence[tuple[float, float]]) -> list[str]:
    """A name for each band, with as few digits as keep them apart."""
    for digits in (4, 9, 17):
        ends = [tuple(f"{v:.0f}" if v == round(v) else f"{v:.{digits}g}" for v in band) for band in bands]
        names = [low if low == high else f"{low} to {high}" for low, high in ends]
        if len(set(names)) == len(names):
            break
    return names


def _texts(values: pd.Series) -> pd.Series:
    """Values by their frequency, then by name; beyond twelve the rare ones become one group."""
    count = values.value_counts()
    order = sorted(count.index, key=lambda name: (-count[name], name))
    if len(order) <= MOST:
        return values.astype(pd.CategoricalDtype(order))
    kept = [name for name in order[: MOST - 1] if name != OTHER]
    return values.where(values.isin(kept), OTHER).astype(pd.CategoricalDtype([*kept, OTHER]))


def _equal_counts(values: np.ndarray, bands: int) -> np.ndarray:
    """Band number of each value; equal values stay together, so that there may be fewer bands."""
    inner = np.quantile(values, np.arange(1, bands) / bands, method="inverted_cdf")
    return np.searchsorted(np.unique(inner), values, side="left")


def _thirds(values: np.ndarray, names: Sequence[str], form: str, unit: str) -> list[tuple[str, np.ndarray]]:
    """Name with boundaries, and rows, of each third of the values that are known."""
    known = ~np.isnan(values)
    if not known.any():
        return []
    edges = np.quantile(values[known], (1 / 3, 2 / 3), method="inverted_cdf")
    low, high = (form.format(edge) for edge in edges)
    ends = (f"up to {low}", f"above {low}, up to {high}", f"above {high}")
    third = np.searchsorted(edges, values, side="left")
    rows = [known & (third == i) for i in range(3)]
    return [(f"{names[i]} ({ends[i]}{unit})", rows[i]) for i in range(3) if rows[i].any()]
