"""``lesioncam run``: check, train, choose on validation, measure, report."""

from __future__ import annotations

from pathlib import Path

from lesioncam.data.table.table import Table
from lesioncam.measurement.calibrate import calibrate
from lesioncam.measurement.load import load_subject
from lesioncam.measurement.measure import measure
from lesioncam.measurement.options import MeasureOptions
from lesioncam.options.run import RunConfig
from lesioncam.progress import bars
from lesioncam.reporting.report.html import write_report
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.begin import set_state
from lesioncam.verbs.prepare import Prepared
from lesioncam.verbs.result import Run
from lesioncam.verbs.train import split_own_pool, train


def run(
    table: Table | Prepared | str | Path | None,
    out: str | Path,
    *,
    config: RunConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: object,
) -> Run:
    """Check, train, choose thresholds, evaluate on val, report.

    Args:
        table: a table, or a file with one; None with ``resume``; or what :func:`prepare` gave, to check it only once.
        out: the run folder to make.
        config: all options; see ``options`` for single ones.
        resume: go on where an earlier run in ``out`` stopped; its own table and options are used.
        overwrite: replace an earlier run in ``out``.
        progress: show bars with the time left.
        **options: single options by name (``size=256, pooling="lse,sharpness=6"``); ``pooling`` may be your callable
            ``f(class_maps) -> logits``.

    Returns:
        The finished run.

    Raises:
        LesioncamError: for bad input; a folder that exists without ``resume`` or ``overwrite``.
    """
    trained = train(table, out, config=config, resume=resume, overwrite=overwrite, progress=progress, **options)
    own, _ = split_own_pool(options)
    folder = RunFolder(trained.folder)
    set_state(folder, "running", "calibrate")
    shown = bars(wanted=progress)
    calibrate(folder, load_subject(folder, own), progress=shown)
    if trained.interrupted:
        set_state(folder, "interrupted", "train")
        return trained
    set_state(folder, "running", "evaluate")
    measure(folder, "val", MeasureOptions(pooling=own), progress=shown)
    set_state(folder, "done", "report")
    write_report(folder.root)
    return trained
