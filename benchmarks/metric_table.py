"""`python -m benchmarks.metric_table`: the table of every metric in docs/evaluation.md, from `evaluation.metric`."""

from __future__ import annotations

import re
from pathlib import Path

from lesioncam.evaluation.metric import FAMILIES, METRICS

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
BEGIN, END = "<!-- table: python -m benchmarks.metric_table -->", "<!-- end of table -->"


def table() -> str:
    """A row per metric, in the order of the report."""
    lines = ["| metric | in print | better | undefined where | convention |", "|---|---|---|---|---|"]
    for (task, name), one in METRICS.items():
        shown = f"{one.title.format('T')}" if "{}" in one.title else one.title
        better = "low" if one.lower_is_better else "high"
        family = FAMILIES[one.family].title.partition(":")[0]
        lines.append(f"| `{name}` ({task}) | {shown} | {better} | {one.why_undefined} | {family} |")
    return "\n".join(lines)


def main() -> None:
    page = PAGE.read_text()
    made = f"{BEGIN}\n\n{table()}\n\n{END}"
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
