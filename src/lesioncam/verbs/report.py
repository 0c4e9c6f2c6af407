"""``lesioncam report``."""

from __future__ import annotations

from pathlib import Path

from lesioncam.reporting.report.html import write_report
from lesioncam.verbs.result import Run, folder_of


def report(run: str | Path | Run, *, share: bool = False) -> Path:
    """Rebuild the HTML report from the run folder alone; ``share`` writes the version to give away."""
    return write_report(folder_of(run).root, share=share)
