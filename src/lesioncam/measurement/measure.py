"""The measurement of one split: the only place where what was trained meets the truth."""

from __future__ import annotations

from pathlib import Path

from lesioncam.errors import OptionError
from lesioncam.evaluation.cases import read_cases, write_cases
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.measurement.control_set import ControlSet
from lesioncam.measurement.foreign import ForeignMaps
from lesioncam.measurement.gallery import write_pictures
from lesioncam.measurement.guard import check_columns, check_seen, count_look, expect_ready
from lesioncam.measurement.leaks import without_leaks
from lesioncam.measurement.load import load_subject
from lesioncam.measurement.options import MeasureOptions
from lesioncam.measurement.part import Part
from lesioncam.measurement.sanity import sanity_of
from lesioncam.measurement.summary import Conduct, summary_of
from lesioncam.measurement.tables import write_shortcut, write_tables
from lesioncam.measurement.walk import Walk
from lesioncam.progress import Progress, silent
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.summary import Sanity
from lesioncam.runs.table import run_table


def measure(
    folder: RunFolder, split: str = "val", asked: MeasureOptions | None = None, *, progress: Progress = silent
) -> Path:
    """Measure one split and write cases.csv, metrics.csv, curves.npz, gallery.csv, arrays, summary.json and more.

    Args:
        folder: a calibrated run.
        split: ``val`` or ``test``; opening test is counted in the ledger before any label is looked at.
        asked: how.
        progress: how to show how far it is.

    Raises:
        RunError: for a split without images, or a run without thresholds.
        LesioncamError: if a patient or an image would play two roles.
    """
    asked = asked or MeasureOptions()
    table = run_table(folder)
    subject = load_subject(folder, asked.pooling, asked.device)
    expect_ready(folder, table, subject, split, asked.threshold)
    key = run_key(folder)
    optimistic = check_seen(folder, table, subject, split, key)
    part, leaks = without_leaks(folder, table, Part(table.split(split), subject, key), asked.leaks)
    check_columns(part.table, asked.by)
    ledger = count_look(folder, split, subject, table, asked.threshold)

    place = folder.evaluation(split)
    controls = ControlSet.load(folder, subject.card.config.seed)
    bound = None if asked.bound is None else ForeignMaps(asked.bound, subject.classes)
    walk = Walk(part, folder, controls, asked, bound)
    walk.run(split, progress)
    write_cases(place / "cases.csv", walk.rows)
    cases = read_cases(place / "cases.csv")
    write_tables(place, cases, part, walk)
    write_shortcut(place, folder, walk)
    write_pictures(folder, part, cases, asked.threshold)
    sanity = _sanity(part) if asked.sanity else None
    conduct = Conduct(ledger, leaks, walk.grid, asked.metrics, optimistic, sanity)
    summary_of(part, table, cases, conduct).write(folder.summary(split))
    return place


def _sanity(part: Part) -> Sanity:
    """Whether the maps depend on what was learnt, and the score on the places they name."""
    if not isinstance(part.subject, ClassifierSubject):
        raise OptionError("--sanity needs a model whose weights can be randomised; another tool's maps have none.")
    return sanity_of(part.subject.classifier, part, part.subject.card.config.seed)
