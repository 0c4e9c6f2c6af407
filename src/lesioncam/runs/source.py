"""``log/source.json``: where the table and the maps of a run came from."""

from __future__ import annotations

from lesioncam.runs.json_file import JsonFile


class Source(JsonFile):
    """Paths relative to the run folder; private, like the rest of ``log``."""

    table: str | None = None
    """The user's own table, where it was a file: the ledger of the test labels lies beside it."""
    maps: str | None = None
    """Another tool's maps."""
