"""Choices beyond thresholds: on validation only, and remembered."""

import numpy as np
import pytest

from lesioncam.errors import LesioncamError
from lesioncam.evaluation.choose import choose_best, choose_ensemble, macro_auroc
from lesioncam.types import Calibration, Chosen, Threshold, Validation

WHO = Validation(tuple("abcd"), ("p", "p", "q", "r"), ("val",) * 4)
LABELS = np.array([[1], [1], [0], [0]])


def test_only_validation_can_be_chosen_on():
    for split in ("test", "train", "", "None"):
        with pytest.raises(LesioncamError, match="choices are made on `val` only; image 'b'"):
            Validation(("a", "b"), ("p", "q"), ("val", split))
    with pytest.raises(ValueError, match="one patient"):
        Validation(("a", "b"), ("p",), ("val", "val"))


def test_the_best_is_chosen_and_remembers_the_patients():
    chosen = choose_best(WHO, "checkpoint", {"1": 0.5, "2": float("nan"), "3": 0.9, "4": 0.9})
    assert chosen == Chosen("checkpoint", "3", frozenset("pqr"))
    with pytest.raises(LesioncamError, match="nothing to choose by"):
        choose_best(WHO, "checkpoint", {"1": float("nan")})


def test_an_ensemble_grows_while_it_gets_better():
    first, second = np.array([[3.0], [0.0], [1.0], [0.0]]), np.array([[0.0], [3.0], [0.0], [1.0]])
    bad = np.array([[0.0], [0.0], [9.0], [9.0]])
    alone = macro_auroc(first, LABELS)  # pairs: 3 > 1, 3 > 0, 0 < 1, 0 = 0
    assert alone == (1 + 1 + 0 + 0.5) / 4
    assert choose_ensemble(WHO, {"bad": bad, "first": first, "second": second}, LABELS).value == "first+second"
    assert choose_ensemble(WHO, {"first": first}, LABELS).tuned_on == WHO.tuned_on


def test_scores_of_other_images_are_refused():
    with pytest.raises(LesioncamError, match="3 scores for 4"):
        choose_ensemble(WHO, {"a": np.zeros((3, 1))}, LABELS)
    with pytest.raises(LesioncamError, match="no member"):
        choose_ensemble(WHO, {"a": np.full((4, 1), np.nan)}, LABELS)


@pytest.mark.parametrize(
    "thing",
    [
        Threshold(0.3, "val", frozenset("pq")),
        Calibration((1.0,), (0.0,), tuned_on=frozenset("pq"), kind="platt"),
        Chosen("ensemble", "a+b", frozenset("pq")),
    ],
)
def test_whatever_was_chosen_refuses_the_patients_it_was_chosen_on(thing):
    thing.check_unseen(["r", "s"])
    with pytest.raises(LesioncamError, match="chosen on 1 of these patients"):
        thing.check_unseen(["s", "q"])
