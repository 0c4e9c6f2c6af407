"""Reports of a run folder are written as in the room of reports."""

from tests.reporting.conftest import without_figures

__all__ = ["without_figures"]
