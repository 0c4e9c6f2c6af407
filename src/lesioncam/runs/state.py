"""``state.json``: how far a run is."""

from __future__ import annotations

from typing import Literal

from lesioncam.runs.json_file import JsonFile


class RunState(JsonFile):
    """How far a run is.

    Example:
        >>> RunState(state="done", step="report").done
        True
    """

    state: Literal["running", "interrupted", "done"]
    """``interrupted``: training was stopped by hand; the best weights so far are kept."""
    step: str = ""
    """The one that was begun last: ``train``, ``calibrate``, ``evaluate``, ``report`` ..."""

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return self.state == "done"
