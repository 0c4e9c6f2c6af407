"""The ledger of the test labels: how often they were opened, and by how many configurations. The report prints it.

It is kept beside the user's table (``labels.csv`` has ``labels.csv.ledger.json``), so that every run on these labels
counts, and once more in the run folder, so that a run that travels takes its history along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from filelock import FileLock, Timeout
from pydantic import ValidationError

from lesioncam.errors import RunError
from lesioncam.files import read_json
from lesioncam.runs.json_file import JsonFile


@dataclass(frozen=True)
class Opening:
    """One look at the test labels.

    Attributes:
        when: UTC, ISO 8601, to the second.
        configuration: digest of the resolved options and weights.
        split: always ``test``.
        table: digest of the labels.
        key: makes two openings in one second two.
    """

    when: str
    configuration: str
    split: str
    table: str
    key: str = ""


@dataclass(frozen=True)
class Ledger:
    """Every opening so far.

    Attributes:
        openings: in order.
        shared: kept beside the table, where every run on these labels counts; otherwise this run's alone.
    """

    openings: tuple[Opening, ...] = ()
    shared: bool = False

    @property
    def times(self) -> int:
        """How often the test labels were opened."""
        return len(self.openings)

    @property
    def configurations(self) -> int:
        """By how many different configurations."""
        return len({opening.configuration for opening in self.openings})


def side_file(table: Path) -> Path:
    """Where the ledger of a table lies.

    Example:
        >>> side_file(Path("data/labels.csv")).as_posix()
        'data/labels.csv.ledger.json'
    """
    return table.with_name(f"{table.name}.ledger.json")


def open_split(places: Sequence[Path], split: str, configuration: str, labels: str) -> Ledger:
    """Note that the labels of a split are about to be looked at; only ``test`` is counted. Call it before looking.

    Args:
        places: ledgers, JSON: the run's own first, then the table's side file if the table is still there. Openings
            known to one are added to the other; a side file in a folder that may not be written is passed over.
        split: which split.
        configuration: digest of what is evaluated.
        labels: digest of the labels, for the record: another split of the same table counts on.

    Returns:
        The ledger of this table, this opening included.

    Raises:
        RunError: if a ledger exists but cannot be read (it is never started afresh in silence), or stays locked.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledgers = [open_split([Path(folder) / "ledger.json"], s, "c1", "t1") for s in ("val", "test", "test")]
        >>> [ledger.times for ledger in ledgers], ledgers[-1].configurations
        ([0, 1, 2], 1)
    """
    known: dict[Opening, None] = {}
    for place in places:
        known |= dict.fromkeys(read_ledger(place).openings)
    shared = len(places) > 1
    if split != "test":
        return Ledger(_in_order(known), shared)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    known[Opening(now, configuration, split, labels, token_hex(4))] = None
    for place in places:
        try:
            known |= dict.fromkeys(_append(place, tuple(known)).openings)
        except PermissionError:
            if place == places[0]:
                raise
            shared = False
    return Ledger(_in_order(known), shared)


class _LedgerFile(JsonFile):
    openings: tuple[Opening, ...]


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; one that was never written is empty.

    Raises:
        RunError: if it exists but cannot be read.
    """
    if not path.exists():
        return Ledger()
    content = read_json(path)
    try:
        return Ledger(_LedgerFile.model_validate(content).openings)
    except ValidationError as error:
        raise RunError(
            f"{path} is no ledger ({error.errors()[0]['msg']}); restore it: it says how often test was opened."
        ) from error


def _append(path: Path, openings: tuple[Opening, ...]) -> Ledger:
    """Add what the file does not know yet; one writer at a time (the lock stays: removing it would race)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock")
    try:
        with FileLock(lock, timeout=30):
            merged = tuple(dict.fromkeys((*read_ledger(path).openings, *openings)))
            _LedgerFile(openings=merged).write(path)
    except Timeout as error:
        raise RunError(f"{path} is locked by another evaluation; try again when it has ended.") from error
    return Ledger(merged)


def _in_order(openings: Iterable[Opening]) -> tuple[Opening, ...]:
    return tuple(sorted(openings, key=lambda one: one.when))
