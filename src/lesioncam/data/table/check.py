"""Everything that is wrong with a table and its files, found before training and listed at once with row numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.table.check_files import SeenFiles, see_files
from lesioncam.data.table.columns import image_paths
from lesioncam.data.table.duplicates import Pair, Prints, duplicate_rows
from lesioncam.data.table.sheet import Problem
from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import policy_table, targets_of
from lesioncam.errors import TableError
from lesioncam.options.base import validated
from lesioncam.options.data import TableConfig
from lesioncam.types import NEGATIVE, POSITIVE, SPLITS, UNCERTAIN

_WARNINGS = frozenset(
    {
        "box without finding",
        "class missing in a split",
        "empty mask",
        "looks like no lesion",
        "looks like another class",
        "mask without finding",
        "near-duplicates in one split",
        "no split",
        "patients unknown",
        "unused negative",
    }
)
"""Kinds that a run can live with; every other kind makes training or evaluation meaningless and stops it."""

ONE_SIDED = "one class only"

_HEALTHY = re.compile(r"(no|non|without)[ _-]|normal|healthy|negative|control|none$", re.IGNORECASE)
_SHOWN = 20


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What ``check`` found.

    Attributes:
        source: name of the table.
        problems: stop a run.
        warnings: do not stop a run.
        counts: images, in the columns ``split`` ("all" first), ``class``, ``positive``, ``negative``, ``uncertain``,
            ``unknown``.
        sizes: images per ``(H, W)``, volumes per ``(D, H, W)``; empty when files were not opened.
        depths: images per bit depth, ``uint8 grey``; empty when files were not opened.
        images: rows of the table.
        patients: how many, or None where they are not known.
        pairs: images that are nearly the same, by position in the table; across splits and within.
        prints: of every image, in the order of the table (`table_images`); None when they were not asked for.
        spacings: volumes per spacing, mm in the order of the sizes.
        policy: what became of uncertain and blank labels, class by class (`policy_table`).
    """

    source: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    counts: pd.DataFrame
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    depths: Counter[str] = field(default_factory=Counter)
    images: int = 0
    patients: int | None = None
    pairs: tuple[Pair, ...] = ()
    prints: Prints | None = None
    policy: pd.DataFrame | None = None
    spacings: Counter[tuple[float, ...]] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of a run."""
        return not self.problems

    def text(self) -> str:
        """All of it in lines: problems, warnings, counts per class, image sizes and bit depths."""
        patients = "patients unknown" if self.patients is None else _count(self.patients, "patient")
        parts = [f"{self.source}: {_count(self.images, 'image')}, {patients}"]
        parts += [_list(self.problems, "problem"), _list(self.warnings, "warning"), self.counts.to_string(index=False)]
        parts.append(self.policy_text())
        for axes, what in ((2, "Image sizes (height x width)"), (3, "Volume sizes (slices x height x width)")):
            sizes = {" x ".join(map(str, size)): n for size, n in self.sizes.items() if len(size) == axes}
            parts.append(f"{what}: " + _commonest(sizes))
        spacings = {" x ".join(f"{mm:.3g}" for mm in spacing): n for spacing, n in self.spacings.items()}
        parts.append("Spacing of volumes (mm, in the same order): " + _commonest(spacings))
        parts.append("Bit depths: " + _commonest(self.depths))
        return "\n\n".join(part for part in parts if part and not part.endswith(": "))

    def policy_text(self) -> str:
        """What uncertain and blank labels become; nothing where there are none."""
        if self.policy is None or not (self.policy["uncertain"] + self.policy["blank"]).any():
            return ""
        shown = self.policy[["class", "uncertain", "uncertain_becomes", "blank", "blank_becomes"]]
        words = {"uncertain_becomes": "become", "blank_becomes": "become"}
        return "Uncertain (-1) and blank labels:\n" + shown.rename(columns=words).to_string(index=False)

    def problem_text(self) -> str:
        """The problems alone: one sentence if there is one, otherwise a list by kind."""
        return self.problems[0].message if len(self.problems) == 1 else _list(self.problems, "problem")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _list(problems: tuple[Problem, ...], noun: str) -> str:
    if not problems:
        return f"No {noun}s."
    lines = [f"{_count(len(problems), noun)}:"]
    for kind, group in groupby(sorted(problems, key=lambda each: each.kind), key=lambda each: each.kind):
        messages = [problem.message for problem in group]
        lines += [f"  {message}" for message in messages[:_SHOWN]]
        if len(messages) > _SHOWN:
            lines.append(f"  ... and {len(messages) - _SHOWN} more ({kind})")
    return "\n".join(lines)


def _commonest(counts: dict[str, int] | Counter[str], most: int = 8) -> str:
    shown = Counter(counts).most_common(most)
    more = f", ... and {len(counts) - most} more" if len(counts) > most else ""
    return ", ".join(f"{name} ({number:,})" for name, number in shown) + more


def check_table(
    table: Table,
    *,
    files: bool = True,
    uncertain: str | float = "ignore",
    blank: str = "ignore",
    duplicates: bool = True,
    policy: TableConfig | None = None,
) -> CheckReport:
    """Look for everything that would make a run fail or its numbers meaningless.

    Args:
        table: as read; its own ``problems`` are part of the report.
        files: also decode every image and mask in full.
        uncertain: policy of the run, to judge whether a class has positives and negatives left.
        blank: likewise.
        duplicates: also look for images that are nearly the same, mirrored or not, while they are decoded: across
            splits each is a problem, otherwise there is one warning.
        policy: the whole policy, with that of single classes, instead of ``uncertain`` and ``blank``.

    Returns:
        Problems, which stop a run, and warnings, which do not.

    Raises:
        OptionError: for a policy that cannot be, or names a class that does not exist.

    Example:
        >>> ids = ["a", "b", "c", "d"]
        >>> frame = pd.DataFrame({"row": [2, 3, 4, 5], "id": ids, "name": ids, "image": ids, "split": None})
        >>> frame = frame.assign(patient=["p", "q", "r", "r"])
        >>> table = Table(frame, ("mass",), np.float32([[1], [1], [1], [1]]), patient_rule="column patient")
        >>> check_table(table, files=False).problems[0].message
        "table: all 4 labelled images are positive for 'mass'; there is nothing to tell it from. Add images without it."
    """
    found = [*table.problems, *_duplicates(table), *_several(table), *_leaks(table), *_patients(table), *_splits(table)]
    policy = policy or validated(TableConfig, {"uncertain": uncertain, "blank": blank}, "policy")
    found += _classes(table, targets_of(table, policy).middle())
    seen = see_files(table, prints=duplicates) if files else SeenFiles()
    pairs = tuple(duplicate_rows(table, seen.prints)) if seen.prints is not None else ()
    found += [*seen.problems, *_near_duplicates(table, pairs)]
    found.sort(key=lambda problem: problem.row or 0)
    warnings = tuple(problem for problem in found if _is_warning(problem, table))
    stops = tuple(problem for problem in found if not _is_warning(problem, table))
    known = table.patient_rule not in {"", "none"}
    patients = int(table.frame["patient"].nunique()) if known else None
    return CheckReport(
        source=table.source,
        problems=stops,
        warnings=warnings,
        counts=_label_counts(table),
        sizes=seen.sizes,
        depths=seen.depths,
        spacings=seen.spacings,
        images=len(table),
        patients=patients,
        pairs=pairs,
        prints=seen.prints,
        policy=policy_table(table, policy),
    )


def require(report: CheckReport, *, learns: bool = True) -> None:
    """Stop unless the report is clean.

    Args:
        report: of :func:`check_table`.
        learns: something is to be trained; without it a class that nobody has (or that everybody has) is no obstacle:
            what cannot be measured then is undefined.

    Raises:
        TableError: with every problem and its row.
    """
    serious = [problem for problem in report.problems if learns or problem.kind != ONE_SIDED]
    if serious:
        raise TableError(replace(report, problems=tuple(serious)).problem_text())


def require_axes(report: CheckReport, axes: int) -> None:
    """Stop where the table holds volumes and the network takes images, or the reverse.

    Args:
        report: of :func:`check_table`, with files.
        axes: of the network: 2 for images, 3 for volumes.

    Raises:
        TableError: with an example and the way out.
    """
    wrong = Counter({size: count for size, count in report.sizes.items() if len(size) != axes})
    if not wrong:
        return
    size, count = " x ".join(map(str, wrong.most_common(1)[0][0])), sum(wrong.values())
    if axes == 2:
        told = f"volumes ({size}, for instance), but the backbone takes images; choose one of volumes, for instance "
        told += "--backbone monai:resnet10, or make a table of slices"
    else:
        told = f"images ({size}, for instance), but the backbone takes volumes; choose one of images, for instance "
        told += "--backbone resnet18"
    raise TableError(f"{report.source}: {count} of {_count(report.images, 'row')} are {told}.")


def _is_warning(problem: Problem, table: Table) -> bool:
    if problem.kind == "no patient":  # with a split at hand nobody has to be dealt out
        return bool(table.frame["split"].notna().all())
    return problem.kind in _WARNINGS


# ---- the table itself --------------------------------------------------------------------------------------------


def _duplicates(table: Table) -> Iterator[Problem]:
    frame = table.frame[["row", "image", "name", "id"]]
    images = frame.assign(**{name: frame[name].map(image_paths) for name in ("image", "name")})
    images = images.explode(["image", "name"]).dropna(subset="image")
    twice = images["image"].duplicated().to_numpy()
    for row, first, name in _repeats(images, "image", "name", twice):
        text = f"image {name!r} is in row {first} too. Keep one row per image; join several findings with '|'."
        yield Problem(row, "duplicate image", f"{table.source} row {row}: {text}")
    others = frame[(frame["image"] != "") & ~frame["row"].isin(images["row"][twice])]
    ids = frame["id"].duplicated().loc[others.index].to_numpy()
    for row, first, name in _repeats(frame, "id", "id", frame.index.isin(others.index[ids])):
        text = f"id {name!r} is in row {first} too. Give every image an id of its own."
        yield Problem(row, "duplicate id", f"{table.source} row {row}: {text}")


def _several(table: Table) -> Iterator[Problem]:
    """Rows with several images, which no network of today looks at."""
    for row, cell in zip(table.frame["row"], table.frame["image"], strict=True):
        if len(images := image_paths(cell)) > 1:
            text = (
                f"has {len(images)} images ({', '.join(Path(image).name for image in images)}); training and measuring"
            )
            text += " take one image per row so far. Give each image a row of its own, with the same patient."
            yield Problem(int(row), "several images", f"{table.source} row {row} {text}")


def _repeats(frame: pd.DataFrame, column: str, shown: str, repeated: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Row, the row where the same value stood first, and how the user wrote it."""
    if not repeated.any():
        return
    first = frame.drop_duplicates(column).set_index(column)["row"]
    again = frame[repeated]
    for row, key, name in zip(again["row"], again[column], again[shown], strict=True):
        yield int(row), int(first[key]), str(name)


def _leaks(table: Table) -> Iterator[Problem]:
    """Patients (studies, where the patient is not known) with images in two splits, each named once with both rows."""
    if table.patient_rule not in {"", "none"}:
        yield from _torn(table, "patient", np.ones(len(table), dtype=bool))
    if "study" in table.frame:
        unknown = table.frame["patient"].isna().to_numpy() | (table.patient_rule in {"", "none"})
        yield from _torn(table, "study", unknown)


def _torn(table: Table, what: str, rows: np.ndarray) -> Iterator[Problem]:
    frame = table.frame.loc[rows, ["row", what, "split"]].dropna()
    first = frame.drop_duplicates(what).set_index(what)
    other = frame[frame["split"].to_numpy() != first["split"].reindex(frame[what]).to_numpy()]
    for row, name, split in other.drop_duplicates(what).itertuples(index=False):
        before = first.loc[name]
        text = (
            f"{what} {name!r} is in {split!r} and in {before['split']!r} (row {before['row']}). "
            f"Keep each {what} in one split; `lesioncam split` does so."
        )
        yield Problem(int(row), f"{what} in two splits", f"{table.source} row {row}: {text}")


def _near_duplicates(table: Table, pairs: tuple[Pair, ...]) -> Iterator[Problem]:
    """Each pair across splits; those inside a split, or without one, as a number."""
    rows, names, splits = (table.frame[name].tolist() if pairs else [] for name in ("row", "name", "split"))
    across = [pair for pair in pairs if _other_split(splits[pair.first], splits[pair.second])]
    for pair in across:
        one, two = pair.first, pair.second
        mirror = "the mirror image of" if pair.kind == "mirror" else "nearly the same image as"
        text = (
            f"{names[two]!r} in {splits[two]!r} is {mirror} {names[one]!r} in {splits[one]!r} (row {rows[one]}), "
            f"correlation {pair.correlation:.3f}. Keep such images in one split; `lesioncam split` does so."
        )
        yield Problem(int(rows[two]), "near-duplicate", f"{table.source} row {rows[two]}: {text}")
    inside = [pair for pair in pairs if not _other_split(splits[pair.first], splits[pair.second])]
    if inside:
        first = inside[0]
        images = len({place for pair in inside for place in pair[:2]})
        text = (
            f"{_count(len(inside), 'pair')} of nearly the same image inside a split or without one ({images:,} images; "
            f"rows {rows[first.first]} and {rows[first.second]}, for instance). They count as several; "
            "`lesioncam split` keeps them together."
        )
        yield Problem(None, "near-duplicates in one split", f"{table.source}: {text}")


def _other_split(one: str | None, two: str | None) -> bool:
    return one in SPLITS and two in SPLITS and one != two


def _patients(table: Table) -> Iterator[Problem]:
    rule, source = table.patient_rule, table.source
    whole = bool(table.frame["split"].notna().all())
    if rule == "" and not whole:
        text = (
            "has neither a patient column nor a split for every row; a split could tear patients apart. Name "
            r"the column (--columns patient=YOUR_NAME), or use --patient-from '(P\d+)_', blocks:20 or none."
        )
        yield Problem(None, "no patient rule", f"{source} {text}")
    elif rule in {"", "none"}:
        text = "no patients are known; leaks between splits stay unseen, and intervals take images for patients."
        yield Problem(None, "patients unknown", f"{source}: {text}")
    count = int(table.frame["patient"].nunique()) if rule not in {"", "none"} else len(table)
    noun = "patient" if rule not in {"", "none"} else "image"
    if count == 1:
        text = f"has only one {noun}; training and testing need different ones. Add {noun}s."
        yield Problem(None, "one patient only", f"{source} {text}")
    elif count < len(SPLITS) and not whole and rule:
        text = f"has {count} {noun}s, too few for train, val and test. Add {noun}s."
        yield Problem(None, "too few patients", f"{source} {text}")


def _splits(table: Table) -> Iterator[Problem]:
    split = table.frame["split"]
    bad = {problem.row for problem in table.problems if problem.kind == "bad split"}
    blank = int((split.isna() & ~table.frame["row"].isin(bad)).sum())
    if not split.notna().any():
        return
    if blank:
        text = f"{_count(blank, 'row')} without a split; they take no part in a run."
        yield Problem(None, "no split", f"{table.source}: {text}")
    for name in SPLITS:
        if not (split == name).any() and not bad:
            use = {"train": "nothing can be trained", "val": "thresholds need it", "test": "nothing is left to test on"}
            yield Problem(None, "no split", f"{table.source}: no row is in {name!r}; {use[name]}.")


def _classes(table: Table, labels: np.ndarray) -> Iterator[Problem]:
    split = table.frame["split"].to_numpy(dtype=object)
    for k, name in enumerate(table.classes):
        column = labels[:, k]
        whole = _one_sided(name, column)
        if whole:
            blanks = int(np.isnan(table.states[:, k]).sum())
            hint = f" If a blank means absent ({_count(blanks, 'row')}), say --blank 0." if blanks else ""
            yield Problem(None, ONE_SIDED, f"{table.source}: {whole}{hint}")
            continue
        for part in SPLITS:
            text = _one_sided(name, column[split == part]) if (split == part).any() else ""
            if text:
                kind = ONE_SIDED if part == "train" else "class missing in a split"
                yield Problem(None, kind, f"{table.source}, split {part!r}: {text}")
        if _HEALTHY.match(name):
            text = f"class {name!r} sounds like 'no lesion'; if so, say --negative {name!r}."
            yield Problem(None, "looks like no lesion", f"{table.source}: {text}")
    yield from _slips(table)


def _one_sided(name: str, column: np.ndarray) -> str:
    known = column[~np.isnan(column)]
    if not (known > 0).any():
        return f"no image is positive for {name!r}; there is nothing to learn. Add some, or leave the class out."
    if not (known < 1).any():
        return (
            f"all {len(known)} labelled images are positive for {name!r}; there is nothing to tell it from. "
            "Add images without it."
        )
    return ""


def _slips(table: Table) -> Iterator[Problem]:
    """A rare class with nearly the name of a common one is probably a slip of the pen."""
    counts = dict(zip(table.classes, (table.states == POSITIVE).sum(axis=0).tolist(), strict=True))
    for name, count in counts.items():
        common = [other for other, number in counts.items() if number > 50 * max(1, count)]
        near = get_close_matches(name, common, n=1, cutoff=0.8)
        if near:
            text = f"class {name!r} ({_count(count, 'image')}) may be a slip for {near[0]!r} ({counts[near[0]]:,})."
            yield Problem(None, "looks like another class", f"{table.source}: {text}")


def _label_counts(table: Table) -> pd.DataFrame:
    split = table.frame["split"].to_numpy(dtype=object)
    parts = {"all": np.ones(len(table), dtype=bool)}
    parts |= {name: split == name for name in SPLITS if (split == name).any()}
    rows = []
    for part, chosen in parts.items():
        states = table.states[chosen]
        for k, name in enumerate(table.classes):
            found = {"positive": POSITIVE, "negative": NEGATIVE, "uncertain": UNCERTAIN}
            row = {key: int((states[:, k] == state).sum()) for key, state in found.items()}
            rows.append({"split": part, "class": name, **row, "unknown": int(np.isnan(states[:, k]).sum())})
    return pd.DataFrame(rows)
