"""Who may see what: choices are made on validation, applied to patients they have never met."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Protocol

from lesioncam.errors import LesioncamError

TUNING = "val"
"""The only split on which a threshold, a calibration or a choice is made."""


class Remembers(Protocol):
    """Anything that was chosen, and knows the patients it was chosen on: `Threshold`, `Calibration`, `Chosen`."""

    @property
    def tuned_on(self) -> frozenset[str]:
        """Keyed digests."""
        ...

    def check_unseen(self, patients: Sequence[str]) -> None:
        """Raise if any of these patients was seen."""
        ...


def patient_digest(key: bytes, patient: str) -> str:
    """A patient's name in files that may leave the run folder: keyed BLAKE2b, 16 hexadecimal digits.

    Args:
        key: the run's secret, 1 to 64 bytes.
        patient: the user's own key of the patient.

    Raises:
        ValueError: if the key is empty or too long.

    Example:
        >>> len(patient_digest(b"secret", "P0031")), patient_digest(b"a", "P0031") == patient_digest(b"b", "P0031")
        (16, False)
    """
    if not key:
        raise ValueError("a digest needs a secret key; without one, names can be guessed back.")
    return blake2b(patient.encode(), key=key, digest_size=8).hexdigest()


def key_mark(key: bytes) -> str:
    """A mark by which a model knows the secret its digests were made with, without holding it.

    Example:
        >>> key_mark(b"a") == key_mark(b"a"), key_mark(b"a") == key_mark(b"b")
        (True, False)
    """
    return blake2b(b"lesioncam key mark", key=key, digest_size=16).hexdigest()


def roles_digest(images: Sequence[str], splits: Sequence[str | None], patients: Sequence[str]) -> str:
    """Digest of which image, of whom, plays which role; row order does not matter.

    Example:
        >>> roles_digest("ab", ["val", "test"], "pq") == roles_digest("ba", ["test", "val"], "qp")
        True
        >>> roles_digest("ab", ["val", "test"], "pq") == roles_digest("ab", ["test", "val"], "pq")
        False
    """
    rows = sorted((str(i), s or "", str(p)) for i, s, p in zip(images, splits, patients, strict=True))
    return sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def check_roles(
    patients: Mapping[str, Iterable[str]],
    split: str,
    chosen: Iterable[Remembers],
    trained_on: frozenset[str] = frozenset(),
) -> bool:
    """Check before an evaluation that no patient plays two roles.

    Args:
        patients: split -> digests of its patients.
        split: which one is evaluated.
        chosen: all that will be applied (thresholds, calibrations, checkpoint, ensemble ...), each remembering whom it
            was chosen on.
        trained_on: digests of the patients the weights were trained on.

    Returns:
        True if something was chosen on the very patients that are evaluated, as on ``val``: the numbers are
        optimistic and the report must say so.

    Raises:
        LesioncamError: if a patient is in two splits, was trained on, or if anything was chosen on patients of another
            split than ``val`` that is evaluated.

    Example:
        >>> from lesioncam.types import Threshold
        >>> seen = Threshold(0.3, "val", frozenset({"a1"}))
        >>> people = {"val": ["a1"], "test": ["b2"]}
        >>> check_roles(people, "val", [seen]), check_roles(people, "test", [seen])
        (True, False)
    """
    groups = {name: frozenset(members) for name, members in patients.items()}
    _check_disjoint(groups)
    if split not in groups:
        raise LesioncamError(f"there is no split `{split}`; this table has {', '.join(groups) or 'none'}.")
    if both := trained_on & groups[split]:
        raise LesioncamError(f"the model was trained on {len(both)} of the patients of `{split}`; evaluate on others.")
    applied = list(chosen)
    if split == TUNING:
        return any(one.tuned_on & groups[split] for one in applied)
    for one in applied:
        one.check_unseen(sorted(groups[split]))
    return False


def _check_disjoint(groups: Mapping[str, frozenset[str]]) -> None:
    names = list(groups)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if both := sorted(groups[first] & groups[second]):
                raise LesioncamError(
                    f"{len(both)} patient(s) are in `{first}` and in `{second}` ({both[0]}, ...); keep each patient "
                    "in one split: `lesioncam split` does so."
                )
