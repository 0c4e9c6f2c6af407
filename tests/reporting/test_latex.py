"""The table of a comparison in LaTeX."""

from __future__ import annotations

import re
from dataclasses import replace

from lesioncam.reporting.comparison.latex import latex_table
from lesioncam.reporting.comparison.rows import RunEstimate

NAN = float("nan")
FIRST = RunEstimate("dice", "macro", "my_run 50%", 0.5, 0.4, 0.6, 9, 1, 2, "a")
SECOND = replace(FIRST, run="b&c", value=0.52)
WORSE = replace(FIRST, run="worse", value=0.1, rank_first=3, rank_last=3, letters="b")
ROWS = [FIRST, SECOND, WORSE]
NAMES = [one.run for one in ROWS]


def test_names_are_escaped_and_ties_printed_in_bold():
    table = latex_table(ROWS, NAMES, "A 95 % interval, a_b ~ c^2 \\ {x}")
    assert r" & my\_run 50\% & b\&c & worse \\" in table
    assert (
        r"Dice & \textbf{0.500}\textsuperscript{a} & \textbf{0.520}\textsuperscript{a} & 0.100\textsuperscript{b} \\"
        in table
    )
    assert r"\caption{A 95 \% interval, a\_b \textasciitilde{} c\textasciicircum{}2 \textbackslash{} \{x\}}" in table
    assert table.count(r"\begin{tabular}{lccc}") == table.count(r"\end{tabular}") == 1
    for line in table.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 3


def test_the_whole_table_line_by_line():
    assert latex_table([replace(WORSE, metric="false_alarm_rate")], ["worse"]).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lc}",
        r"\toprule",
        r" & worse \\",
        r"\midrule",
        r"False alarm rate $\downarrow$ & 0.100 \\",
        r" & {\footnotesize 0.400 to 0.600} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_what_is_undefined_is_a_dash():
    table = latex_table([replace(one, low=NAN, high=NAN) for one in (SECOND, WORSE)], NAMES)
    assert "Dice & -- & " in table
    assert "nan" not in table


def test_classes_stay_out():
    assert "0.900" not in latex_table([*ROWS, replace(FIRST, label="mass", value=0.9)], NAMES)
