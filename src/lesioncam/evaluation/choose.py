"""Choices beyond thresholds, made on validation only: the best of several, and the members of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lesioncam.errors import LesioncamError
from lesioncam.functional.metrics import auroc, nan_mean
from lesioncam.types import Chosen, Validation

__all__ = ["choose_best", "choose_ensemble", "macro_auroc"]

Score = Callable[[np.ndarray, np.ndarray], float]
"""From scores ``(n, K)`` and labels ``(n, K)`` to a number, the larger the better."""


def macro_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUROC over the classes in which it is defined.

    Example:
        >>> macro_auroc(np.array([[0.9, 1.0], [0.1, 2.0]]), np.array([[1, 1], [0, 1]]))
        1.0
    """
    each = [auroc(s, y) for s, y in zip(scores.T, labels.T, strict=True)]
    return float(nan_mean(np.array(each)))


def choose_best(validation: Validation, what: str, values: Mapping[str, float]) -> Chosen:
    """The candidate with the highest value on validation; the first of equals.

    Args:
        validation: what the values were measured on.
        what: what is chosen: ``checkpoint``, ``method`` ...
        values: candidate -> value; NaN is never chosen.

    Raises:
        LesioncamError: if no candidate has a value.

    Example:
        >>> choose_best(Validation(("a",), ("p",), ("val",)), "checkpoint", {"epoch 1": 0.7, "epoch 2": 0.9}).value
        'epoch 2'
    """
    known = {name: value for name, value in values.items() if not np.isnan(value)}
    if not known:
        raise LesioncamError(f"no {what} has a value on validation; there is nothing to choose by.")
    return Chosen(what, max(known, key=lambda name: known[name]), validation.tuned_on)


def choose_ensemble(
    validation: Validation,
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    metric: Score = macro_auroc,
) -> Chosen:
    """Members of an ensemble by greedy forward selection: add whoever improves the mean score most, until nobody does.

    Args:
        validation: the n images, in the order of the scores.
        scores: member -> ``(n, K)``.
        labels: ``(n, K)``.
        metric: what is improved.

    Returns:
        The members joined by ``+``; their mean score is the ensemble's.

    Raises:
        LesioncamError: if there is no candidate, or numbers do not belong to these images.

    Reference:
        Caruana et al., "Ensemble selection from libraries of models", ICML 2004 (without replacement).

    Example:
        >>> who = Validation(("a", "b"), ("p", "q"), ("val", "val"))
        >>> good, bad = np.array([[0.9], [0.1]]), np.array([[0.0], [5.0]])
        >>> choose_ensemble(who, {"bad": bad, "good": good}, np.array([[1], [0]])).value
        'good'
    """
    for name, table in scores.items():
        if len(table) != len(validation.images):
            raise LesioncamError(f"{name} has {len(table)} scores for {len(validation.images)} validation images.")
    members: list[str] = []
    best = -np.inf
    while rest := [name for name in scores if name not in members]:
        values = {name: metric(np.mean([scores[m] for m in (*members, name)], axis=0), labels) for name in rest}
        known = {name: value for name, value in values.items() if not np.isnan(value)}
        if not known or max(known.values()) <= best:
            break
        name = max(known, key=lambda each: known[each])
        members, best = [*members, name], known[name]
    if not members:
        raise LesioncamError("no member has a value on validation; there is nothing to choose an ensemble by.")
    return Chosen("ensemble", "+".join(members), validation.tuned_on)
