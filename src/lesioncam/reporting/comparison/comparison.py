"""``lesioncam compare``: finished runs side by side, as a page, as tables for a paper, and as figures."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lesioncam.errors import OptionError, RunError
from lesioncam.evaluation.compare import (
    COMPARED,
    Common,
    Comparison,
    Contender,
    agreement,
    compare,
    contenders_of,
    spread,
)
from lesioncam.evaluation.metric import is_lower_better, title_of
from lesioncam.files import write_text, write_with
from lesioncam.functional.overlay import color_bar
from lesioncam.reporting.comparison.compared import (
    Compared,
    pairs_of,
    read_compared,
    repetitions,
    settings_of,
    split_of,
)
from lesioncam.reporting.comparison.side_by_side import (
    PICK_RULE,
    TITLES,
    Lineup,
    Maps,
    lineups,
    mask_agreement,
    sampled_masks,
)
from lesioncam.reporting.figures.comparison_figures import difference_plots, heading, signed, value_plots, verdict
from lesioncam.reporting.figures.figures import Plot, save_plots
from lesioncam.reporting.figures.montage import data_uri
from lesioncam.reporting.words.methods_text import Described, Protocol, bibliography, methods_text
from lesioncam.reporting.words.words import number

__all__ = ["compare_runs", "latex_table"]

PAGE = "comparison.html"
CORRECTION = (
    "For each metric and class, the intervals of all pairs hold together at 95 % (simultaneous percentile intervals of "
    "Mandel and Betensky, 2008, never wider than Bonferroni's); p values are two-sided bootstrap values with Holm's "
    "correction over the same pairs. The verdict goes by the corrected interval; Holm's stepwise p can be a little "
    "less strict. With two runs there is one pair, and nothing to correct. Nothing is corrected across metrics or "
    "classes."
)
"""What is corrected, and how, in words."""

MAIN = (
    "Labels and split (digest of the table)",
    "Backbone",
    "Initial weights",
    "Pooling",
    "Input: size",
    "Order of images and augmentation",
    "Epochs planned",
    "Images seen in training",
    "Validation images",
    "Configurations that opened them",
    "Test labels opened, times",
)
"""Settings that are named first where they were equal."""


class _Result(NamedTuple):
    """Everything the page and the files show."""

    runs: Sequence[Compared]
    contenders: Sequence[Contender]
    comparison: Comparison | None
    estimates: pd.DataFrame
    differences: pd.DataFrame
    spreads: pd.DataFrame
    agreements: Sequence[Mapping[str, Any]]
    pictures: Sequence[Lineup]
    seed: int
    draws: int


def compare_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    split: str | None = None,
    seed: int = 0,
    draws: int = 2000,
    overwrite: bool = False,
) -> Path:
    """Compare finished runs on the images they share, and write a folder with everything, whole or not at all.

    In it: ``comparison.html`` (one file, no network), ``comparison.csv``, ``differences.csv``, ``comparison.tex``,
    ``methods.txt``, ``references.bib`` and ``figures/`` as SVG and PNG. Absolute paths appear nowhere.

    Args:
        folders: two or more run folders, those of another tool's maps included.
        out: the folder to write.
        split: ``test`` or ``val``; by default test where all runs were evaluated on it, otherwise val.
        seed: of the bootstrap over patients, which is the same for all runs.
        draws: of the bootstrap.
        overwrite: replace an earlier comparison; anything else in the way stays.

    Returns:
        The path of the page.

    Raises:
        OptionError: for fewer than two runs, one named twice, or too few draws.
        RunError: for a folder that is no run, a split that is missing, runs without a common image, or a folder in the
            way.
        LesioncamError: if the runs disagree about the truth.
    """
    if draws < 1:
        raise OptionError(f"{draws} draws were asked for, expected at least 1; 2000 is usual.")
    _expect_free(out, folders, overwrite=overwrite)
    runs = read_compared(folders, split_of(folders, split))
    result = _result(runs, seed, draws)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        _write(result, partial)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / PAGE


def _expect_free(out: Path, folders: Sequence[Path], *, overwrite: bool) -> None:
    place = out.resolve()
    if any(place == folder.resolve() or place in folder.resolve().parents for folder in folders):
        raise RunError(f"{out} holds a run that is compared; give a folder of its own for the comparison.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PAGE).is_file():
        raise RunError(f"{out} exists and holds no earlier comparison; give another folder, nothing was touched.")
    if not overwrite:
        raise RunError(f"{out} holds an earlier comparison; use --overwrite to replace it, or give another folder.")


# ---- the numbers -------------------------------------------------------------------------------------------------


def _result(runs: Sequence[Compared], seed: int, draws: int) -> _Result:
    contenders = contenders_of({run.name: run.cases for run in runs})
    exclusive = all(run.summary.exclusive for run in runs)
    groups = repetitions(runs)
    ordinal = all(run.summary.task == "ordinal" for run in runs)
    options: dict[str, Any] = {"exclusive": exclusive, "ordinal": ordinal, "draws": draws, "seed": seed}
    if _only_folds(runs, groups):
        parts = [compare([one], **options) for one in contenders]
        estimates = pd.concat([part.estimates for part in parts], ignore_index=True)
        estimates = estimates.assign(rank_first=math.nan, rank_last=math.nan, letters="")
        comparison, differences = None, parts[0].differences
    else:
        comparison = compare(contenders, **options)
        estimates, differences = comparison.estimates, comparison.differences
    spreads = spread(estimates, {name: [run.name for run in members] for name, members in groups.items()})
    sources = {one.name: Maps.of(_run_of(one, runs), str(one.cases["method"].iloc[0])) for one in contenders}
    agreements = [] if comparison is None else _agreements(runs, contenders, sources, comparison.common)
    pictures = [] if comparison is None else lineups(sources, comparison.common)
    return _Result(runs, contenders, comparison, estimates, differences, spreads, agreements, pictures, seed, draws)


def _only_folds(runs: Sequence[Compared], groups: Mapping[str, Sequence[Compared]]) -> bool:
    """Whether there is nothing to compare on, and need not be: folds of one configuration share no image."""
    shared = frozenset.intersection(*(run.images for run in runs))
    return not shared and any(len(members) == len(runs) for members in groups.values())


def _run_of(contender: Contender, runs: Sequence[Compared]) -> Compared:
    return next(run for run in runs if contender.name == run.name or contender.name.startswith(f"{run.name}: "))


def _agreements(
    runs: Sequence[Compared], contenders: Sequence[Contender], sources: Mapping[str, Maps], common: Common
) -> list[dict[str, Any]]:
    """How alike the answers of every two runs are; of runs with several map methods, those of the first."""
    first = {run.name: next(i for i, one in enumerate(contenders) if _run_of(one, runs) is run) for run in runs}
    positive = np.argwhere(common.tables[0].column["label"] == 1)
    cases = [(common.images[i], common.classes[k]) for i, k in positive]
    masks = {run.name: sampled_masks(sources[contenders[first[run.name]].name], cases) for run in runs}
    found = []
    for a, b, kind in pairs_of(runs):
        alike = agreement(common.tables[first[a.name]], common.tables[first[b.name]])
        overlap, looked_at = mask_agreement(masks[a.name], masks[b.name])
        found.append({"first": a.name, "second": b.name, "kind": kind, "masks": overlap, "n": looked_at, **alike})
    return found


# ---- files -------------------------------------------------------------------------------------------------------


def _write(result: _Result, out: Path) -> None:
    values, gaps = value_plots(result.estimates), difference_plots(result.differences)
    text = _methods(result)
    _write_csv(out / "comparison.csv", result.estimates)
    _write_csv(out / "differences.csv", result.differences)
    write_text(out / "comparison.tex", latex_table(result.estimates, _caption(result)))
    write_text(out / "methods.txt", text)
    write_text(out / "references.bib", bibliography(text))
    save_plots([*values, *gaps], out / "figures")
    write_text(out / PAGE, _environment().get_template(f"{PAGE}.jinja").render(_page(result, values, gaps, text)))


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    whole = frame.assign(
        **{name: frame[name].astype("Int64") for name in ("n", "rank_first", "rank_last", "tie") if name in frame}
    )
    write_with(path, lambda partial: whole.to_csv(partial, index=False, lineterminator="\n"))


def _methods(result: _Result) -> str:
    defined = set(result.estimates[result.estimates["value"].notna()]["metric"])
    common = None if result.comparison is None else result.comparison.common
    first = result.runs[0]
    protocol = Protocol(
        split=first.split,
        images=len(common.images) if common else len(first.images),
        patients=_people(result),
        metrics=[metric for metric in COMPARED if metric in defined],
        draws=result.draws,
        seed=result.seed,
        version=_version(),
        exclusive=_is_arg_max(result.estimates),
        paired=common is not None,
        repeated=any(one["kind"].startswith("rep") for one in result.agreements),
    )
    runs = [Described(run.name, {} if run.foreign else run.config, run.summary, run.foreign) for run in result.runs]
    return methods_text(runs, protocol)


def _version() -> str:
    try:
        return version("lesioncam")
    except PackageNotFoundError:
        return "of unknown version"


def _is_arg_max(estimates: pd.DataFrame) -> bool:
    """Balanced accuracy of the arg-max has no value per class."""
    own = estimates[(estimates["metric"] == "balanced_accuracy") & estimates["value"].notna()]
    return not own.empty and set(own["class"]) == {"macro"}


# ---- LaTeX -------------------------------------------------------------------------------------------------------

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}


def latex_table(estimates: pd.DataFrame, caption: str = "") -> str:
    r"""A booktabs table: a metric per line, a run per column, the mean of the classes with its interval below.

    Bold are the runs of which no other is better beyond chance; equal letters mark ties.

    Args:
        estimates: with the columns of ``comparison.csv``.
        caption: plain text.

    Example:
        >>> row = {"metric": "dice", "class": "macro", "run": "my_run", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
        >>> table = latex_table(pd.DataFrame([row | {"rank_first": 1, "rank_last": 1, "letters": "a"}]))
        >>> [line for line in table.splitlines() if "my" in line or "Dice" in line]
        [' & my\\_run \\\\', 'Dice & \\textbf{0.500} \\\\']
    """
    names = list(dict.fromkeys(estimates["run"]))
    rows = estimates[(estimates["class"] == "macro") & estimates["value"].notna()]
    lines = []
    for metric in [metric for metric in COMPARED if metric in set(rows["metric"])]:
        own = {row["run"]: row for row in rows[rows["metric"] == metric].to_dict("records")}
        arrow = r" $\downarrow$" if is_lower_better(metric) else ""
        cells = [_tex_value(own.get(name), single=len(names) == 1) for name in names]
        lines += [
            " & ".join([_tex(title_of(metric)) + arrow, *cells]) + r" \\",
            " & ".join(["", *(_tex_interval(own.get(name)) for name in names)]) + r" \\",
        ]
    head = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{_tex(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{l{'c' * len(names)}}}",
        r"\toprule",
        " & ".join(["", *map(_tex, names)]) + r" \\",
        r"\midrule",
    ]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _tex(text: str) -> str:
    return "".join(SPECIAL.get(mark, mark) for mark in text)


def _tex_value(row: Mapping[Any, Any] | None, *, single: bool) -> str:
    if row is None:
        return "--"
    value = number(row["value"])
    best = rf"\textbf{{{value}}}" if row["rank_first"] == 1 else value
    return best if single or not row["letters"] else rf"{best}\textsuperscript{{{_tex(row['letters'])}}}"


def _tex_interval(row: Mapping[Any, Any] | None) -> str:
    if row is None or not math.isfinite(row["low"] + row["high"]):
        return ""
    return rf"{{\footnotesize {number(row['low'])} to {number(row['high'])}}}"


def _people(result: _Result) -> int | None:
    """How many patients stand behind the images; None where a run does not know who is who."""
    if any(not run.summary.knows_patients for run in result.runs):
        return None
    common = None if result.comparison is None else result.comparison.common
    return int(common.patients.max()) + 1 if common else int(result.runs[0].cases["patient"].nunique())


def _caption(result: _Result) -> str:
    where = {"test": "test", "val": "validation (thresholds were chosen here, optimistic)"}[result.runs[0].split]
    if result.comparison is None:
        unit = "images" if _people(result) is None else "patients"
        return f"Folds of one configuration, each on its own {where} images; 95 % intervals over {unit}."
    common = result.comparison.common
    people = _people(result)
    behind, drawn = ("", "images") if people is None else (f" of {people} patients", "patients")
    return (
        f"Mean of classes on {len(common.images)} {where} images{behind}, with 95 % intervals "
        f"({result.draws} bootstrap draws of {drawn}). Bold: no other is better beyond chance; runs that share a "
        "letter tie (simultaneous paired intervals). Arrow: the lower, the better."
    )


# ---- the page ----------------------------------------------------------------------------------------------------


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lesioncam", "reporting/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    grey = lambda image: data_uri(np.asarray(Image.fromarray(image).convert("L")))  # noqa: E731
    environment.filters |= {"metric": title_of, "number": number, "uri": data_uri, "grey_uri": grey}
    environment.filters |= {"class_name": heading, "verdict": verdict, "signed": signed}
    return environment


def _page(result: _Result, values: Sequence[Plot], gaps: Sequence[Plot], text: str) -> dict[str, Any]:
    settings = settings_of(result.runs)
    names = [one.name for one in result.contenders]
    return {
        "title": f"Comparison of {', '.join(run.name for run in result.runs)}",
        "runs": result.runs,
        "names": names,
        "split": result.runs[0].split,
        "common": None if result.comparison is None else result.comparison.common,
        "left_out": _left_out(result),
        "draws": result.draws,
        "seed": result.seed,
        "answers": _answers(result),
        "means": _table(result.estimates, names, means=True),
        "classes": _table(result.estimates, names, means=False),
        "lower": [name for name in COMPARED if is_lower_better(name)],
        "arg_max": _is_arg_max(result.estimates),
        "differences": _difference_rows(result.differences),
        "correction": CORRECTION,
        "value_plots": values,
        "difference_plots": gaps,
        "people": _people(result),
        "one_recipe": any(len(members) == len(result.runs) for members in repetitions(result.runs).values()),
        "main_equal": [line.name for line in settings if not line.differs and line.name in MAIN],
        "different": [line for line in settings if line.differs],
        "equal": [(line, _unknown(line.said, result.runs)) for line in settings if not line.differs],
        "spreads": _spreads(result.spreads),
        "agreements": result.agreements,
        "cases": _cases(result.pictures),
        "pick_rule": PICK_RULE,
        "bar": color_bar(),
        "methods": text.strip().split("\n\n"),
        "version": _version(),
    }


def _left_out(result: _Result) -> list[str]:
    """What is not compared, in sentences."""
    if result.comparison is None:
        return []
    common, found = result.comparison.common, []
    for name, count in common.left_out.items():
        if count:
            found.append(f"{count} images of {name} are left out: not all others were measured on them.")
    for name, classes in common.classes_left_out.items():
        if classes:
            found.append(f"Of {name} the classes {', '.join(classes)} are left out: not all others know them.")
    for name, count in common.without_score.items():
        if count:
            found.append(f"{name} has no score for {count} images; classification leaves them out for all runs.")
    silent = [c.name for c, t in zip(result.contenders, common.tables, strict=True) if np.isnan(t.score).all()]
    found += [f"{name} has no image scores at all, and no part in classification." for name in silent]
    return found


def _answers(result: _Result) -> list[dict[str, str]]:
    """The first thing to read: who is ahead, by metric."""
    rows = result.estimates[(result.estimates["class"] == "macro") & result.estimates["value"].notna()]
    found = []
    for metric in COMPARED:
        own = rows[rows["metric"] == metric]
        ranked = own[own["rank_first"].notna()]
        if len(ranked) > 1:
            ahead = ranked[ranked["rank_first"] == 1]["run"].tolist()
            found.append({"metric": title_of(metric), "said": _ahead(ahead, len(ranked))})
    return found


def _ahead(ahead: Sequence[str], of: int) -> str:
    if len(ahead) == of:
        return "all tie" if of > 2 else "a tie"
    return f"{ahead[0]} is ahead" if len(ahead) == 1 else f"{', '.join(ahead)} are ahead, and tie or cannot be ordered"


def _table(estimates: pd.DataFrame, names: Sequence[str], *, means: bool) -> list[dict[str, Any]]:
    """Lines: a metric and class, and a cell per run (None where there is nothing)."""
    wanted = estimates["class"].eq("macro") if means else estimates["class"].ne("macro")
    lines = []
    for (metric, label), part in estimates[wanted].groupby(["metric", "class"], sort=False):
        own = {row["run"]: row for row in part.to_dict("records") if math.isfinite(row["value"])}
        if own:
            cells = [_cell(own.get(name)) for name in names]
            lines.append({"metric": metric, "label": label, "cells": cells, "n": int(part["n"].max())})
    return lines


def _cell(row: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    known = math.isfinite(row["rank_first"])
    first, last = (int(row[key]) if known else 0 for key in ("rank_first", "rank_last"))
    return {
        "value": row["value"],
        "text": number(row["value"]),
        "interval": f"{number(row['low'])} to {number(row['high'])}" if math.isfinite(row["low"]) else "no interval",
        "rank": (f"rank {first}" if first == last else f"rank {first} to {last}") if known else "",
        "letters": row["letters"],
        "best": known and first == 1,
    }


def _difference_rows(differences: pd.DataFrame) -> list[dict[str, Any]]:
    known = differences[differences["difference"].notna()]
    return [
        {
            **{str(key): value for key, value in row.items()},
            "plain": _ends(row["low"], row["high"]),
            "corrected": _ends(row["low_corrected"], row["high_corrected"]),
            "p_said": _p(row["p"]),
            "p_holm_said": _p(row["p_holm"]),
        }
        for row in known.to_dict("records")
    ]


def _ends(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}" if math.isfinite(low + high) else "no interval"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _unknown(said: Sequence[str | None], runs: Sequence[Compared]) -> tuple[str, list[str]]:
    """The one value, and which runs do not know."""
    value = next(one for one in said if one is not None)
    return value, [run.name for one, run in zip(said, runs, strict=True) if one is None]


def _spreads(spreads: pd.DataFrame) -> list[tuple[str, list[dict[Any, Any]]]]:
    rows = spreads[spreads["class"] == "macro"]
    return [(str(group), part.to_dict("records")) for group, part in rows.groupby("group", sort=False)]


def _cases(pictures: Sequence[Lineup]) -> list[tuple[str, list[Lineup]]]:
    groups: dict[str, list[Lineup]] = {}
    for one in pictures:
        groups.setdefault(TITLES[one.pick.group], []).append(one)
    return list(groups.items())
