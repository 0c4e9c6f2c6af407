"""The ledger of the test labels: how often they were opened, and by how many configurations. The report prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lesioncam.errors import RunError
from lesioncam.files import read_json, write_json

__all__ = ["Ledger", "Opening", "open_split", "read_ledger"]


@dataclass(frozen=True)
class Opening:
    """One look at the test labels.

    Attributes:
        when: UTC, ISO 8601, to the second.
        configuration: digest of the resolved options and weights.
        split: always ``test``.
        table: digest of the table.
    """

    when: str
    configuration: str
    split: str
    table: str


@dataclass(frozen=True)
class Ledger:
    """Every opening so far."""

    openings: tuple[Opening, ...] = ()

    @property
    def times(self) -> int:
        """How often the test labels were opened."""
        return len(self.openings)

    @property
    def configurations(self) -> int:
        """By how many different configurations."""
        return len({opening.configuration for opening in self.openings})


def open_split(path: Path, split: str, configuration: str, table_digest: str) -> Ledger:
    """Note that the labels of a split are about to be looked at; only ``test`` is counted. Call it before looking.

    Args:
        path: the ledger, JSON.
        split: which split.
        configuration: digest of what is evaluated.
        table_digest: digest of the table.

    Returns:
        The ledger, this opening included.

    Raises:
        RunError: if the ledger exists but cannot be read; it is never started afresh in silence.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledgers = [open_split(Path(folder) / "ledger.json", s, "c1", "t1") for s in ("val", "test", "test")]
        >>> [ledger.times for ledger in ledgers], ledgers[-1].configurations
        ([0, 1, 2], 1)
    """
    ledger = read_ledger(path)
    if split != "test":
        return ledger
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ledger = Ledger((*ledger.openings, Opening(now, configuration, split, table_digest)))
    write_json(path, {"openings": [asdict(opening) for opening in ledger.openings]})
    return ledger


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; one that was never written is empty.

    Raises:
        RunError: if it exists but cannot be read.
    """
    if not path.exists():
        return Ledger()
    content = read_json(path)
    try:
        return Ledger(tuple(Opening(**entry) for entry in content["openings"]))
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is no ledger ({error}); restore it: it says how often test was opened.") from error
