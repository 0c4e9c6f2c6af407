"""Write the report: one HTML file that holds everything it shows and opens from disk without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from lesioncam.files import write_text
from lesioncam.functional.overlay import color_bar
from lesioncam.reporting.figures.montage import HEAT
from lesioncam.reporting.figures.plot import Plot, save_plots
from lesioncam.reporting.figures.report_figures import history_plots
from lesioncam.reporting.page import render
from lesioncam.reporting.report.checklist import checklist
from lesioncam.reporting.report.checks import opened_text
from lesioncam.reporting.report.read import Run, read_run, shorten_command, without_paths
from lesioncam.reporting.report.section import Section, section_of
from lesioncam.reporting.report.share import IMAGES, PATIENTS, shareable, suppressed, suppressed_row
from lesioncam.reporting.words.words import SPLIT_WORDS, Count, plain
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.provenance import Provenance

SPLIT_TITLES = {name: words.capitalize() for name, words in SPLIT_WORDS.items()}


@dataclass(frozen=True)
class _Page:
    """What the templates of report and checklist are given; ``count`` and ``row_of_counts`` print numbers of images."""

    run: Run
    share: bool
    count: Count
    row_of_counts: Callable[..., Mapping[str, str]]
    least: Mapping[str, int]
    title: str
    question: str
    checklist: str
    first: Section
    others: Sequence[Section]
    history: Sequence[Plot]
    bar: np.ndarray
    heat_title: str
    provenance: Sequence[tuple[str, str]]
    config: str
    split_titles: Mapping[str, str]
    no_patients: bool
    foreign: bool
    opened: str


def write_report(run: Path, *, share: bool = False) -> Path:
    """Write ``report.html`` into a run folder, from what lies in that folder alone.

    Test results come first where test was opened, with validation folded away below; otherwise validation, and
    the page says that its thresholds were chosen there. Beside it lie ``checklist.html``, what a reader of a paper
    asks for, and every figure as SVG and PNG in ``evaluate/<split>/figures/``.

    Args:
        run: a run folder that has been evaluated at least once.
        share: write ``report-share.html`` and the folder ``share/`` instead, which may leave the house: no image,
            no id, no path, no name of a person or machine, no number with fewer than ten images or five patients
            behind it.

    Returns:
        The path of the report.

    Raises:
        RunError: if the folder is no run, was never evaluated, or a file in it is broken.
    """
    content = read_run(run)
    page = _page(shareable(content) if share else content, share=share)
    sheet = render("checklist.html.jinja", **vars(page), parts=checklist(page.run, page.count))
    report = render("report.html.jinja", **vars(page))
    for folder, plots in _figures(run, page):
        save_plots(plots, folder)
    write_text(run / page.checklist, sheet)
    return write_text(run / "report-share.html" if share else RunFolder(run).report, report)


def _figures(run: Path, page: _Page) -> list[tuple[Path, list[Plot]]]:
    """Which plots go into which folder: one per split, or all into one that is to be handed on."""
    groups = [(page.first.split, [*page.first.plots, *page.history])]
    groups += [(section.split, section.plots) for section in page.others]
    if page.share:
        return [(run / "share", [plot for _, plots in groups for plot in plots])]
    return [(RunFolder(run).evaluation(split) / "figures", plots) for split, plots in groups]


def _page(run: Run, *, share: bool) -> _Page:
    count = suppressed if share else plain
    first, *others = [section_of(one, count, share=share) for one in run.evaluations]
    return _Page(
        run=run,
        share=share,
        count=count,
        row_of_counts=suppressed_row if share else _plain_row,
        least={"images": IMAGES, "patients": PATIENTS},
        title="lesioncam report, shared" if share else f"{run.name}: lesioncam report",
        question=first.summary.question or "What do image-level labels teach about where the lesion is?",
        checklist="share/checklist.html" if share else "checklist.html",
        first=first,
        others=others,
        history=history_plots(run.history, run.training.best_epoch),
        bar=color_bar(),
        heat_title=HEAT,
        provenance=_provenance(run.provenance, share=share),
        config=_config(run.config),
        split_titles=SPLIT_TITLES,
        no_patients=not first.summary.knows_patients,
        foreign=first.summary.foreign,
        opened=opened_text(first.summary),
    )


def _plain_row(counts: Mapping[str, int], least: int = 0) -> dict[str, str]:  # noqa: ARG001  as a shared page asks
    return {name: str(n) for name, n in counts.items()}


def _provenance(provenance: Provenance, *, share: bool) -> list[tuple[str, str]]:
    command = provenance.command if share else shorten_command(provenance.command)  # a shared run's is bare already
    lines = {
        "lesioncam": without_paths(provenance.version),
        "Command": command,
        "Created": without_paths(provenance.created),
        "Seed": "" if provenance.seed is None else str(provenance.seed),
        "Hardware": without_paths(provenance.hardware),
        "Packages": ", ".join(f"{name} {version}" for name, version in provenance.packages.items()),
        "Digest of the table": without_paths(provenance.table_digest),
    }
    return [(name, text) for name, text in lines.items() if text]


def _config(config: Mapping[str, object]) -> str:
    return without_paths(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)) if config else ""
