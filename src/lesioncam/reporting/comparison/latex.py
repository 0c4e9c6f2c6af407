"""The table of a comparison in LaTeX, for a paper."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lesioncam.evaluation.compare import COMPARED
from lesioncam.evaluation.metric import is_lower_better, title_of
from lesioncam.reporting.comparison.rows import RunEstimate

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\n": " ",
}


def latex_table(estimates: Sequence[RunEstimate], names: Sequence[str], caption: str = "") -> str:
    r"""A booktabs table: a metric per line, a run per column, the mean of the classes with its interval below.

    Bold are the runs of which no other is better beyond chance; equal letters mark ties.

    Args:
        estimates: of all runs and classes.
        names: of the runs, in the order of the columns.
        caption: plain text.

    Example:
        >>> one = RunEstimate("dice", "macro", "my_run", 0.5, 0.4, 0.6, 9, 1, 1, "a")
        >>> [line for line in latex_table([one], ["my_run"]).splitlines() if "my" in line or "Dice" in line]
        [' & my\\_run \\\\', 'Dice & \\textbf{0.500} \\\\']
    """
    means = {(one.metric, one.run): one for one in estimates if one.label == "macro"}
    titles, cells = list[str](), list[list[str]]()
    for metric in [metric for metric in COMPARED if any((metric, name) in means for name in names)]:
        own = [means.get((metric, name)) for name in names]
        arrow = r" $\downarrow$" if is_lower_better(metric) else ""
        titles += [_tex(title_of(metric)) + arrow, ""]
        cells += [[_tex_value(one, single=len(names) == 1) for one in own], [_tex_interval(one) for one in own]]
    table = pd.DataFrame(cells, index=titles, columns=[_tex(name) for name in names])
    tex = table.style.to_latex(
        hrules=True,
        column_format="l" + "c" * len(names),
        position_float="centering",
        caption=_tex(caption) if caption else None,
    )
    return "% needs \\usepackage{booktabs}\n" + tex


def _tex(text: str) -> str:
    return "".join(SPECIAL.get(mark, mark) for mark in text)


def _tex_value(one: RunEstimate | None, *, single: bool) -> str:
    if one is None:
        return "--"
    best = rf"\textbf{{{one.text}}}" if one.best else one.text
    return best if single or not one.letters else rf"{best}\textsuperscript{{{_tex(one.letters)}}}"


def _tex_interval(one: RunEstimate | None) -> str:
    return rf"{{\footnotesize {one.interval}}}" if one is not None and one.interval else ""
