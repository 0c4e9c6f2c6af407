"""The run's own copy of its table."""

from __future__ import annotations

from lesioncam.data.table.table import Table, read_table
from lesioncam.errors import RunError
from lesioncam.runs.folder import RunFolder


def run_table(folder: RunFolder) -> Table:
    """The run's own copy of its table, read as it was read at first.

    Raises:
        RunError: if the folder is no run.
    """
    if not folder.table.is_file():
        raise RunError(f"{folder.root} holds no table.csv; give a folder that `lesioncam run` wrote.")
    return read_table(folder.table)
