"""Before anything is looked at: whether a split may be measured, and the look at test counted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lesioncam.data.table.table import Table, digest
from lesioncam.errors import LesioncamError, OptionError, RunError
from lesioncam.evaluation.protocol import check_roles, key_mark, roles_digest
from lesioncam.inference.subject import Subject
from lesioncam.measurement.part import digests_of
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.ledger import Ledger, open_split, side_file
from lesioncam.types import SPLITS


def expect_ready(folder: RunFolder, table: Table, subject: Subject, split: str, threshold: str | float) -> None:
    """Images in the split, and thresholds to cut at.

    Raises:
        RunError: if one of them is missing.
    """
    if not len(table.split(split)):
        present = ", ".join(name for name in SPLITS if len(table.split(name))) or "none"
        raise RunError(f"the table has no images in split {split!r}; splits with images: {present}.")
    if subject.card.thresholds is None and threshold == "val":
        raise RunError(
            f"{folder.root} has no thresholds yet; finish it with --resume, or use --threshold default (.5)."
        )


def check_seen(folder: RunFolder, table: Table, subject: Subject, split: str, key: bytes) -> bool:
    """Refuse whatever could let the test set in; True if something was chosen on these very patients."""
    card = subject.card
    if card.key_mark and card.key_mark != key_mark(key):
        raise LesioncamError(
            f"{folder.key} is not the secret this model was made with, so nobody can tell whom it has seen; "
            "restore the run's log folder."
        )
    if card.roles and card.roles != table_roles(table):
        raise LesioncamError(
            f"{folder.table.name} is not the one this run began with: images, patients or splits were changed since. "
            "Restore it, or train again on the new split."
        )
    members: dict[str, list[str]] = {name: digests_of(table.split(name), key) for name in SPLITS}
    return check_roles(members, split, subject.chosen, card.trained_on)


def table_roles(table: Table) -> str:
    """Digest of who is in which split."""
    frame = table.frame
    return roles_digest(tuple(frame["id"]), tuple(frame["split"]), tuple(table.patients()))


def check_columns(table: Table, by: Sequence[str]) -> None:
    """Columns are known before the labels are opened."""
    known = sorted({str(name).removeprefix("extra:") for name in table.frame} - _OURS)
    if unknown := [name for name in by if name not in known]:
        raise OptionError(f"--by {unknown[0]}: the table has no such column; it has {', '.join(known)}.")


_OURS = frozenset({"row", "id", "image", "name", "patient", "negative", "masks", "boxes", "readers", "verified"})


def count_look(folder: RunFolder, split: str, subject: Subject, table: Table, threshold: str | float) -> Ledger:
    """Count a look at test, in the run and beside the user's table; another threshold is another configuration."""
    named = f"{subject.digest}\0{threshold}".encode()
    configuration = hashlib.sha256(named).hexdigest()[:16]
    places = [folder.ledger]
    if given := folder.read_source().table:
        origin = (folder.root / given).resolve()
        places += [side_file(origin)] if origin.is_file() else []
    return open_split(places, split, configuration, digest(table.split("test")))
