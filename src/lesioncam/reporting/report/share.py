"""What of a run may leave the house: no image, id, path or name of a person or machine, and no small cell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from lesioncam.evaluation.controls import BOUNDS, CONTROLS, READER
from lesioncam.options.verbs import VERBS
from lesioncam.reporting.report.read import Evaluation, Run
from lesioncam.reporting.words.words import METHODS
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.shortcut import EvidenceShare, ProbeAuroc, ShortcutPanel
from lesioncam.runs.summary import Leak

IMAGES, PATIENTS = 10, 5
"""A cell with fewer of them is not shown."""
TOO_FEW = f"fewer than {IMAGES} images or {PATIENTS} patients"
DEDUCED = "could be worked out from the other classes"
WORDS_KEPT = frozenset(
    {"kind", "normalise", "uncertain", "blank", "name", "map", "threshold", "precision", "rule", "task", "select"}
)
"""Options whose words come from a fixed list; any other word may be the name of a file, a column or a person."""
PLAIN_WORD = re.compile(r"[A-Za-z0-9_.\-+=]{1,64}")


def suppressed(n: int, of: int | None = None, least: int = IMAGES) -> str:
    """A count that hides small numbers, also those that follow from the whole.

    Example:
        >>> suppressed(41), suppressed(7), suppressed(0), suppressed(41, 50), suppressed(3, least=5)
        ('41', '<10', '0', 'all but <10', '<5')
    """
    if 0 < n < least:
        return f"<{least}"
    return f"all but <{least}" if of is not None and 0 < of - n < least else str(n)


def suppressed_row(counts: Mapping[str, int], least: int = IMAGES) -> dict[str, str]:
    """Counts that add up to a known whole: where one is small, the others are rounded so that it cannot be worked out.

    Example:
        >>> suppressed_row({"positive": 92, "negative": 203, "uncertain": 4})
        {'positive': 'about 90', 'negative': 'about 200', 'uncertain': '<10'}
        >>> suppressed_row({"positive": 92, "unknown": 0})
        {'positive': '92', 'unknown': '0'}
    """
    small = any(0 < n < least for n in counts.values())
    return {name: _about(n, least) if small else str(n) for name, n in counts.items()}


def bare_command(command: str) -> str:
    """A command as its verb and the names of its options: every value may name somebody.

    Example:
        >>> bare_command("/home/anna/bin/lesioncam run '/home/anna b/brain.csv' -o runs/x --size 128 --seed=3")
        'lesioncam run … -o … --size … --seed=…'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return "lesioncam …"
    said = ["lesioncam"]
    for i, word in enumerate(words[1:]):
        if word.startswith("-") and not re.fullmatch(r"-+[\d.].*", word):
            name, sep, _ = word.partition("=")
            said.append(f"{name}=…" if sep else name)
        elif i == 0 and word in VERBS:
            said.append(word)
        elif said[-1] != "…":
            said.append("…")
    return " ".join(said)


def bare_config(config: Mapping[str, object]) -> dict[str, object]:
    """The configuration with numbers and words of fixed lists only.

    Example:
        >>> bare_config({"epochs": 3, "pooling": {"kind": "pcam"}, "cache": "/data/anna", "classes": ["mass"]})
        {'epochs': 3, 'pooling': {'kind': 'pcam'}, 'cache': '…', 'classes': '…'}
    """
    return {key: _bare(str(key), value) for key, value in config.items()}


def bare_provenance(provenance: Provenance) -> Provenance:
    """What made the run: versions, seed, hardware and the day; nothing that is not on this list."""
    return Provenance(
        version=provenance.version,
        command=provenance.command and bare_command(provenance.command),
        created=provenance.created[:10],
        seed=provenance.seed,
        hardware=provenance.hardware and (", ".join(_hardware(provenance.hardware)) or "not shown"),
        packages=provenance.packages,
    )


def shareable(run: Run) -> Run:
    """The run without anything that points at a person, and without small cells.

    A number of metrics.csv falls where fewer than ten images or five patients stand behind it; a measure of ranking
    also where either side, positives or negatives, is that small. If one class falls, so does the mean of all.
    """
    return replace(
        run,
        name="",
        config=bare_config(run.config),
        provenance=bare_provenance(run.provenance),
        evaluations=tuple(_evaluation(one) for one in run.evaluations),
    )


# ---- one evaluation ----------------------------------------------------------------------------------------------


def _evaluation(one: Evaluation) -> Evaluation:
    metrics = _metrics(one)
    names = _method_names(one)
    changes: dict[str, object] = {
        "method": names.get(one.method, one.method),
        "question": "",
        "gallery_rule": "",
        "policy": _nameless(one.summary.policy or {}),
        "patient_rule": _rule(one.summary.patient_rule),
        "leaks": (Leak(),) * len(one.summary.leaks),
    }
    kept = _kept(one)
    subgroups = _subgroups(one.subgroups)
    if len(subgroups):
        subgroups = subgroups.assign(method=subgroups["method"].replace(names))
    return replace(
        one,
        summary=one.summary.model_copy(update=changes),
        metrics=metrics.assign(method=metrics["method"].replace(names)),
        cases=_cases(one.cases, kept).assign(method=names.get(one.method, one.method)),
        gallery=(),
        curves={key: points for key, points in one.curves.items() if _class_of(key) in kept},
        subgroups=subgroups,
        shortcut=_shortcut(one.shortcut),
    )


def _nameless(policy: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What labels became, without the name of the user's column and the number of its rows.

    Example:
        >>> _nameless({"mass": {"uncertain": "0.7", "blank": "0 in 3 rows (Anna), otherwise ignored"}})
        {'mass': {'uncertain': '0.7', 'blank': '0 where no finding is noted, otherwise ignored'}}
    """
    noted = "0 where no finding is noted, otherwise ignored"
    return {
        label: {key: noted if " rows (" in said else str(said) for key, said in became.items()}
        for label, became in policy.items()
    }


def _method_names(one: Evaluation) -> dict[str, str]:
    """Methods that carry a name of somebody's: readers are numbered, a foreign tool is just that."""
    known = {*METHODS, *CONTROLS, *BOUNDS}
    strange = [m for m in dict.fromkeys(one.metrics["method"]) if m and m not in known]
    readers = [m for m in strange if m.startswith(READER)]
    tools = [m for m in strange if not m.startswith(READER)]
    named = {m: f"{READER}{i + 1}" for i, m in enumerate(readers)}
    if one.summary.foreign:
        named |= {m: "map of another tool" + (f" {i + 1}" if i else "") for i, m in enumerate(tools)}
    return named


def _metrics(one: Evaluation) -> pd.DataFrame:
    rows = one.metrics.copy()
    groups = {label: one.cases[one.cases["class"] == label] for label in one.classes}
    lines = list(zip(rows["task"], rows["metric"], rows["class"], strict=True))
    few = {line: _is_small(groups, one.cases, *line) for line in set(lines)}
    small = (rows["n"] < IMAGES).to_numpy() | np.array([few[line] for line in lines], dtype=bool)
    known = rows["value"].notna().to_numpy()
    reason = np.where(small & known, TOO_FEW, "").astype(object)
    keys = list(rows[["task", "metric", "method"]].itertuples(index=False, name=None))
    fallen = {key for key, why in zip(keys, reason, strict=True) if why}
    means = rows["class"].isin(["macro", "any"]).to_numpy() & known & (reason == "")
    reason[means & np.array([key in fallen for key in keys], dtype=bool)] = DEDUCED
    rows.loc[reason != "", ["value", "low", "high"]] = np.nan
    return rows.assign(hidden=reason)


def _is_small(groups: Mapping[str, pd.DataFrame], cases: pd.DataFrame, task: str, metric: str, label: str) -> bool:
    """Whether too few images or patients stand behind a number; those of the mean stand in its classes."""
    rows = groups.get(label)
    if rows is None:
        return _few(cases) if len(cases) else False
    if task == "classification":
        sides = {"sensitivity": (1.0,), "specificity": (0.0,)}.get(metric, (0.0, 1.0))
        return any(_few(rows[rows["label"] == side]) for side in sides)
    column = "false_alarm" if metric == "false_alarm_rate" else "pointing" if task == "localisation" else "dice"
    behind = rows[rows[column].notna()] if column in rows and rows[column].notna().any() else rows
    return _few(behind)


def _few(rows: pd.DataFrame) -> bool:
    images = rows["image"].nunique() if "image" in rows else len(rows)
    return images < IMAGES or ("patient" in rows and rows["patient"].nunique() < PATIENTS)


def _kept(one: Evaluation) -> frozenset[str]:
    """Classes of which curves may be drawn: they step once per image, so neither side may be small."""
    groups = {label: one.cases[one.cases["class"] == label] for label in one.classes}
    few = {label for label, rows in groups.items() if any(_few(rows[rows["label"] == side]) for side in (0.0, 1.0))}
    return frozenset(one.classes) - few


def _class_of(key: str) -> str:
    return key.partition("/")[2].rpartition("/")[0]


def _cases(cases: pd.DataFrame, kept: frozenset[str]) -> pd.DataFrame:
    """What plots and thresholds are drawn from, without ids; labels of small classes are forgotten."""
    wanted = ["class", "label", "probability", "positive", "map_threshold", "map_source"]
    found = cases[[name for name in wanted if name in cases]]
    return found.assign(label=found["label"].where(found["class"].isin(kept)))


def _subgroups(rows: pd.DataFrame) -> pd.DataFrame:
    """Small groups lose their numbers; beside one, the counts of the others are rounded."""
    if rows.empty:
        return rows
    small = (rows["n"] < IMAGES) | (rows["patients"] < PATIENTS)
    hidden = pd.Series(np.where(small, TOO_FEW, ""), index=rows.index)
    beside = small.groupby([rows[key] for key in ("column", "task", "metric", "class")]).transform("any")
    said = [_group_count(*line) for line in zip(rows["n"], rows["patients"], beside, strict=True)]
    found = rows.assign(hidden=hidden, said=said)
    found.loc[small, ["value", "low", "high"]] = np.nan
    return found


def _group_count(n: float, patients: float, beside: bool) -> str:
    images, people = (int(value) if np.isfinite(value) else 0 for value in (n, patients))
    if not beside:
        return ""
    return f"{_about(images, IMAGES)} images, {_about(people, PATIENTS)} patients"


def _shortcut(panel: ShortcutPanel | None) -> ShortcutPanel | None:
    """The panel without images, without classes' own shares, and without numbers of few images."""
    if panel is None:
        return None
    return ShortcutPanel(
        outside_body=_hidden_share(panel.outside_body),
        border=_hidden_share(panel.border),
        border_auroc={label: _hidden_auroc(one) for label, one in panel.border_auroc.items()},
        statistics_auroc={label: _hidden_auroc(one) for label, one in panel.statistics_auroc.items()},
        classifier_auroc={label: _hidden_auroc(one) for label, one in panel.classifier_auroc.items()},
    )


def _hidden_share(one: EvidenceShare) -> EvidenceShare:
    return replace(one, share=None, low=None, high=None) if one.n < IMAGES else one


def _hidden_auroc(one: ProbeAuroc) -> ProbeAuroc:
    return ProbeAuroc(hidden=TOO_FEW) if one.n < IMAGES else one


def _rule(rule: str) -> str:
    return rule if re.fullmatch(r"none|blocks:\d+", rule) else "known"


def _about(n: int, least: int) -> str:
    return f"<{least}" if 0 < n < least else str(n) if n == 0 else f"about {round(n / least) * least}"


def _bare(key: str, value: object) -> object:
    if isinstance(value, Mapping):
        return bare_config(value) if key != "columns" else "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if key in WORDS_KEPT and PLAIN_WORD.fullmatch(value) else "…"
    if isinstance(value, Iterable) and all(isinstance(item, bool | int | float) for item in value):
        return list(value)
    return "…"


def _hardware(text: str) -> list[str]:
    """Cores, memory, threads and a known maker's accelerator; the rest might be a machine's name."""
    wanted = r"(\d+ CPU cores \([\w]+\)|\d+ GiB memory|\d+ threads|NVIDIA [\w .\-]+|AMD [\w .\-]+|Tesla [\w .\-]+)"
    return [part for part in (piece.strip() for piece in text.split(",")) if re.fullmatch(wanted, part)]
