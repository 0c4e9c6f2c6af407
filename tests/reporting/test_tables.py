"""Tables of the report: what the first screen says of a number."""

from __future__ import annotations

import pytest
from tests.reporting.conftest import add_rows, row

from lesioncam.reporting.report.read import read_run
from lesioncam.reporting.report.tables import headlines


@pytest.fixture
def measured(make_run, tmp_path):
    """``measured(own, control)``: the verdict on Dice, each given as value and the ends of its interval."""

    def say(own, control=(0.40, 0.35, 0.45)):
        run = make_run(masks=False, folder="measured")
        folder = run / "evaluate" / "val"
        lines = []
        for method, (value, low, high) in (("cam", own), ("mean_mask", control)):
            lines.append(row("segmentation", "dice", value, method=method, low=low, high=high))
        table = folder / "metrics.csv"
        kept = [line for line in table.read_text().splitlines() if ",dice," not in line]
        table.write_text("\n".join(kept) + "\n")
        add_rows(folder, lines)
        (found,) = [one for one in headlines(read_run(run).evaluations[0]) if one.title.startswith("Dice")]
        return found

    return say


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ((0.60, 0.46, 0.70), "Above the best control: the intervals do not touch."),
        ((0.60, 0.44, 0.70), "Above the best control, but the intervals overlap."),
        ((0.90, 0.45, 0.95), "Above the best control, but the intervals overlap."),
        ((0.40, 0.39, 0.41), "Not better than the best control."),
    ],
)
def test_the_verdict_goes_by_the_lower_end_of_the_interval(measured, own, said):
    """The control ends at 0.45: whoever takes the value in place of the lower end calls all of 0.6 and 0.9 apart."""
    assert measured(own).verdict == said


@pytest.mark.parametrize(("low", "said"), [(0.51, "Above chance."), (0.49, "Above chance, but the intervals overlap.")])
def test_the_verdict_on_auroc_goes_by_the_lower_end_too(make_run, low, said):
    run = make_run(classes=("mass",))
    folder = run / "evaluate" / "val"
    table = folder / "metrics.csv"
    kept = [line for line in table.read_text().splitlines() if ",auroc," not in line]
    table.write_text("\n".join(kept) + "\n")
    add_rows(folder, [row("classification", "auroc", 0.8, low=low, high=0.9)])
    (found,) = [one for one in headlines(read_run(run).evaluations[0]) if one.title.startswith("AUROC")]
    assert found.verdict == said
