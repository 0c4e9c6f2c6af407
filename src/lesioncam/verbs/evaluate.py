"""``lesioncam evaluate`` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lesioncam.errors import OptionError, RunError
from lesioncam.measurement.measure import measure
from lesioncam.measurement.options import MeasureOptions
from lesioncam.progress import bars
from lesioncam.reporting.report.html import write_report
from lesioncam.verbs.result import Run, folder_of


def evaluate(
    run: str | Path | Run,
    split: str = "val",
    *,
    progress: bool = False,
    **asked: Any,
) -> pd.DataFrame:
    """Measure a run on one split and rebuild its report; looking at test is counted.

    Args:
        run: the run, or its folder.
        split: ``val`` or ``test``.
        progress: show a bar.
        asked: fields of :class:`lesioncam.measurement.options.MeasureOptions`: ``threshold`` (``val``, ``default`` or a
            probability), ``metrics`` (``default`` or ``all``), ``by`` (columns of the table), ``leaks`` (``refuse`` or
            ``drop``), ``bound`` (folder of a supervised model's maps), ``device`` (``auto``, ``cpu`` or ``cuda``),
            ``pooling`` (your own callable).

    Returns:
        The tidy table of ``metrics.csv``.

    Raises:
        RunError: if the folder is no run, or has no thresholds.
    """
    folder = folder_of(run)
    if not folder.is_run():
        raise RunError(f"{folder.root} is no run folder (state.json is missing); give one that `lesioncam run` wrote.")
    if split not in ("val", "test"):
        raise OptionError(f"Unknown split {split!r}. Available: val, test.")
    measure(folder, split, MeasureOptions(**asked), progress=bars(wanted=progress))
    write_report(folder.root)
    return Run(folder.root).metrics(split)
