"""What the report shows of one split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lesioncam.evaluation.controls import READER
from lesioncam.reporting.figures.plot import Plot
from lesioncam.reporting.figures.report_figures import (
    cascade_plots,
    control_plots,
    curve_plots,
    reliability_plots,
    subgroup_plots,
)
from lesioncam.reporting.report.checklist import calibration_text
from lesioncam.reporting.report.checks import Check, checks_of
from lesioncam.reporting.report.gallery import GalleryGroup, gallery_groups
from lesioncam.reporting.report.read import Evaluation
from lesioncam.reporting.report.share import IMAGES
from lesioncam.reporting.report.shortcuts import ShortcutSection, shortcut_section
from lesioncam.reporting.report.tables import (
    ControlTable,
    FamilyTable,
    Headline,
    ShortTable,
    SubgroupTable,
    all_metrics,
    control_tables,
    headlines,
    is_localised,
    leak_rows,
    short_table,
    subgroup_tables,
)
from lesioncam.reporting.words.words import Count, number
from lesioncam.runs.summary import Sanity, Summary


@dataclass(frozen=True)
class SanitySection:
    """Likeness of the maps to those of random weights; rows: a question, the map's answer, a random map's."""

    similarity: str
    maps: int
    rows: Sequence[tuple[str, str, str]]
    images: int


@dataclass(frozen=True)
class Section:
    """Everything that the pages show of one split; None or empty where something was not measured."""

    evaluation: Evaluation
    curves: Sequence[Plot]
    reliability: Sequence[Plot]
    subgroup_plots: Sequence[Plot]
    control_plots: Sequence[Plot]
    cascade: Sequence[Plot]
    localised: bool
    readers: int
    headlines: Sequence[Headline]
    checks: Sequence[Check]
    thresholds: Sequence[tuple[str, str, str]]
    calibration: str
    table: ShortTable | None
    all_metrics: Sequence[FamilyTable]
    subgroups: Sequence[SubgroupTable]
    shortcut: ShortcutSection | None
    sanity: SanitySection | None
    control_tables: Sequence[ControlTable]
    gallery: Sequence[GalleryGroup]
    leaks: tuple[Sequence[str], int]
    small: str

    @property
    def split(self) -> str:
        """Its name."""
        return self.evaluation.split

    @property
    def summary(self) -> Summary:
        """Of the evaluation."""
        return self.evaluation.summary

    @property
    def plots(self) -> list[Plot]:
        """All of them."""
        return [*self.curves, *self.reliability, *self.subgroup_plots, *self.control_plots, *self.cascade]


def section_of(evaluation: Evaluation, count: Count, *, share: bool) -> Section:
    """Gather it.

    Args:
        evaluation: of one split; of a run that is to be shared, the shareable form.
        count: how a number of images is printed.
        share: nothing is named, and no curve is drawn through a few images.
    """
    panel = evaluation.shortcut
    return Section(
        evaluation=evaluation,
        curves=curve_plots(evaluation),
        reliability=reliability_plots(evaluation, IMAGES if share else 1),
        subgroup_plots=subgroup_plots(evaluation),
        control_plots=control_plots(evaluation),
        cascade=cascade_plots(evaluation),
        localised=is_localised(evaluation),
        readers=sum(name.startswith(READER) for name in evaluation.bounds),
        headlines=headlines(evaluation),
        checks=checks_of(evaluation, count=count, names=not share),
        thresholds=_thresholds(evaluation),
        calibration=calibration_text(evaluation.summary),
        table=short_table(evaluation, count),
        all_metrics=all_metrics(evaluation, count),
        subgroups=subgroup_tables(evaluation, count),
        shortcut=None if panel is None else shortcut_section(panel, evaluation.classes, count, names=not share),
        sanity=_sanity(evaluation.summary.sanity),
        control_tables=control_tables(evaluation),
        gallery=gallery_groups(evaluation.gallery),
        leaks=([], 0) if share else leak_rows(evaluation),
        small=_small_note(evaluation) if share else "",
    )


def _thresholds(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    where = {"val": "validation", "default": "default, not fitted", "given": "given by the user"}
    return [
        (label, number(value), where.get(source, source)) for label, (value, source) in evaluation.thresholds.items()
    ]


_QUESTIONS = (
    ("deletion", "Probability while pixels are taken away, hottest first (area; low is good)"),
    ("insertion", "Probability while pixels are put into a blurred image, hottest first (area; high is good)"),
    ("road", "Pixels filled in from around: coldest first minus hottest first (ROAD; high is good)"),
)


def _sanity(sanity: Sanity | None) -> SanitySection | None:
    """What randomised weights do to the maps, and what the places they name do to the score."""
    if sanity is None:
        return None
    tried = sanity.faithfulness
    rows = [
        (text, number(_real(getattr(tried.map, key))), number(_real(getattr(tried.random_map, key))))
        for key, text in _QUESTIONS
        if tried is not None and tried.images
    ]
    images = 0 if tried is None else tried.images
    return SanitySection(number(_real(sanity.similarity), 2), sanity.maps, rows, images)


def _real(value: float | None) -> float:
    return math.nan if value is None else value


def _small_note(evaluation: Evaluation) -> str:
    hidden = int(evaluation.metrics["hidden"].ne("").sum())
    return f"{hidden} {'number is' if hidden == 1 else 'numbers are'} not shown" if hidden else ""
