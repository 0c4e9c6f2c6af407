"""Roles: seeded attempts to leak are all caught."""

import numpy as np
import pytest

from lesioncam.errors import LesioncamError
from lesioncam.evaluation.protocol import check_roles, patient_digest
from lesioncam.types import Threshold

PEOPLE = {"train": ["t1", "t2"], "val": ["v1", "v2"], "test": ["x1", "x2"]}
TUNED = Threshold(0.3, "val", frozenset({"v1", "v2"}))


def test_clean_roles():
    assert check_roles(PEOPLE, "test", [TUNED, Threshold(0.5)]) is False
    assert check_roles(PEOPLE, "train", [TUNED]) is False
    assert check_roles(PEOPLE, "val", [TUNED]) is True  # allowed, but optimistic
    assert check_roles(PEOPLE, "val", [Threshold(0.5)]) is False


def test_a_threshold_that_has_seen_a_test_patient():
    with pytest.raises(LesioncamError, match="chosen on 1 of these patients"):
        check_roles(PEOPLE, "test", [Threshold(0.5), Threshold(0.3, "val", frozenset({"v1", "x2"}))])


def test_every_leak_is_caught():
    rng = np.random.default_rng(0)
    names = list(PEOPLE)
    for _ in range(50):
        people = {name: list(members) for name, members in PEOPLE.items()}
        source, target = rng.permutation(names)[:2]
        people[target].append(rng.choice(people[source]))
        with pytest.raises(LesioncamError, match=r"1 patient\(s\)"):
            check_roles(people, rng.choice(names), [])


def test_a_split_that_is_not_there():
    with pytest.raises(LesioncamError, match="train, val, test"):
        check_roles(PEOPLE, "fold1", [])


def test_digests_are_keyed_short_and_stable():
    assert patient_digest(b"key", "P0031") == "6d173073ff7e283a"
    assert len({patient_digest(key, name) for key in (b"a", b"b") for name in ("P1", "P2", "ü")}) == 6
    with pytest.raises(ValueError, match="secret"):
        patient_digest(b"", "P1")
