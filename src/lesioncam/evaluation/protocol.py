"""Who may see what: thresholds are chosen on validation, applied to patients they have never met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from lesioncam.errors import LesioncamError
from lesioncam.types import Threshold

__all__ = ["TUNING", "check_roles", "patient_digest", "require_validation"]

TUNING = "val"
"""The only split on which a threshold, a calibration or a choice is made."""


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


def require_validation(split: str) -> str:
    """Let a choice be made on validation only.

    Raises:
        LesioncamError: for any other split.

    Example:
        >>> require_validation("val")
        'val'
    """
    if split != TUNING:
        raise LesioncamError(
            f"thresholds and choices are made on `{TUNING}` only, not on `{split}`; test is for the last look."
        )
    return split


def check_roles(patients: Mapping[str, Iterable[str]], split: str, thresholds: Iterable[Threshold]) -> bool:
    """Check before an evaluation that no patient plays two roles.

    Args:
        patients: split -> digests of its patients.
        split: which one is evaluated.
        thresholds: all that will be applied, each remembering whom it was chosen on.

    Returns:
        True if a threshold was chosen on the very patients that are evaluated, as on ``val``: its numbers are
        optimistic and the report must say so.

    Raises:
        LesioncamError: if a patient is in two splits, or if a threshold was chosen on patients of another split than
            ``val`` that is evaluated.

    Example:
        >>> seen = Threshold(0.3, "val", frozenset({"a1"}))
        >>> people = {"val": ["a1"], "test": ["b2"]}
        >>> check_roles(people, "val", [seen]), check_roles(people, "test", [seen])
        (True, False)
    """
    groups = {name: frozenset(members) for name, members in patients.items()}
    _check_disjoint(groups)
    if split not in groups:
        raise LesioncamError(f"there is no split `{split}`; this table has {', '.join(groups) or 'none'}.")
    applied = list(thresholds)
    if split == TUNING:
        return any(threshold.tuned_on & groups[split] for threshold in applied)
    for threshold in applied:
        threshold.check_unseen(sorted(groups[split]))
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
