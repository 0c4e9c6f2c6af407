"""Numbers: hand-computed, against scikit-learn, and against rows repeated as often as they were drawn."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from lesioncam.functional.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    interval,
    nan_mean,
    patient_weights,
    pr_curve,
    roc_curve,
    weighted_mean,
    weighted_ratio,
)

NAN = math.nan


def trials(count=60, seed=0):
    """Scores with many ties, both classes present."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(2, 40))
        labels = rng.integers(0, 2, size=n)
        labels[:2] = 0, 1
        yield rng, rng.integers(0, rng.integers(2, 30), size=n).astype(float), labels


def test_ranking_equals_scikit_learn():
    for _, scores, labels in trials():
        assert auroc(scores, labels) == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(scores, labels) == pytest.approx(
            oracle.average_precision_score(labels, scores), abs=1e-12
        )


def test_auroc_is_the_share_of_pairs():
    for _, scores, labels in trials(20, seed=1):
        gap = scores[labels == 1][:, None] - scores[labels == 0][None]
        assert auroc(scores, labels) == ((gap > 0) + 0.5 * (gap == 0)).mean()


def test_constant_scores():
    labels = np.array([1, 0, 0, 0])
    assert auroc(np.full(4, 0.3), labels) == 0.5
    assert average_precision(np.full(4, 0.3), labels) == 0.25


def test_step_wise_average_precision_is_not_the_trapezoid():
    scores, labels = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 0])
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], [NAN, NAN], [1, NAN], [0.3, 1]])
def test_one_class_has_no_auroc(labels):
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array(labels)))


def test_average_precision_without_positives_and_without_negatives():
    assert math.isnan(average_precision(np.array([0.1, 0.2]), np.array([0, 0])))
    assert average_precision(np.array([0.1, 0.2]), np.array([1, 1])) == 1
    assert math.isnan(average_precision(np.zeros(0), np.zeros(0)))


def test_unknown_soft_and_unscored_rows_take_no_part():
    scores, labels = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0])
    more_scores = np.append(scores, [0.95, 0.96, NAN, NAN])
    more_labels = np.append(labels, [NAN, 0.5, 0, 1])
    for metric in (auroc, average_precision):
        assert metric(more_scores, more_labels) == metric(scores, labels)
    assert roc_curve(more_scores, more_labels)[2].tolist() == [math.inf, 0.9, 0.5, 0.1]


def test_a_weight_is_a_repetition():
    for rng, scores, labels in trials(30, seed=2):
        weights = rng.integers(0, 4, size=(5, len(scores))).astype(np.uint16)
        many = {metric: metric(scores, labels, weights) for metric in (auroc, average_precision)}
        guess = rng.integers(0, 3, size=len(scores))
        many_balanced = balanced_accuracy(guess, labels, weights)
        for d, weight in enumerate(weights):
            rows = np.repeat(np.arange(len(scores)), weight)
            for metric, values in many.items():
                assert values[d] == pytest.approx(metric(scores[rows], labels[rows]), abs=1e-12, nan_ok=True)
            assert many_balanced[d] == pytest.approx(
                balanced_accuracy(guess[rows], labels[rows]), abs=1e-12, nan_ok=True
            )


def test_draws_in_chunks_equal_draws_at_once(monkeypatch):
    rng = np.random.default_rng(3)
    scores, labels = rng.random(30), rng.integers(0, 2, size=30)
    weights = rng.integers(0, 3, size=(17, 30))
    whole = auroc(scores, labels, weights), weighted_mean(scores[:, None], weights)
    monkeypatch.setattr("lesioncam.functional.metrics._CHUNK", 100)
    np.testing.assert_array_equal(auroc(scores, labels, weights), whole[0])
    np.testing.assert_allclose(weighted_mean(scores[:, None], weights), whole[1], rtol=1e-14)


def test_curves_equal_scikit_learn_and_hold_their_areas():
    for _, scores, labels in trials(30, seed=4):
        fpr, tpr, levels = roc_curve(scores, labels)
        expected = oracle.roc_curve(labels, scores, drop_intermediate=False)
        for ours, theirs in zip((fpr, tpr, levels), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(scores, labels), abs=1e-12)
        precision, recall, levels = pr_curve(scores, labels)
        p, r, t = oracle.precision_recall_curve(labels, scores)
        np.testing.assert_allclose(precision, p[::-1], atol=1e-12)
        np.testing.assert_allclose(recall, r[::-1], atol=1e-12)
        np.testing.assert_allclose(levels[1:], t[::-1])
        area = (precision[1:] * np.diff(recall)).sum()
        assert area == pytest.approx(average_precision(scores, labels), abs=1e-12)


def test_curves_of_one_class_are_undefined_not_wrong():
    fpr, tpr, _ = roc_curve(np.array([0.1, 0.2]), np.array([1, 1]))
    assert np.isnan(fpr).all()
    assert tpr.tolist() == [0, 0.5, 1]
    assert np.isnan(pr_curve(np.array([0.1, 0.2]), np.array([0, 0]))[1]).all()


def test_balanced_accuracy_by_hand_and_by_scikit_learn():
    truth, guess = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 0])
    assert balanced_accuracy(guess, truth) == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert balanced_accuracy(guess, truth) == pytest.approx(oracle.balanced_accuracy_score(truth, guess))
    assert balanced_accuracy(np.array([0, 5]), np.array([0, -1])) == 1  # the second is unknown
    assert math.isnan(balanced_accuracy(np.array([0]), np.array([NAN])))


def test_patients_are_drawn_whole():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    weights = patient_weights(patients, np.random.default_rng(0), 200)
    assert weights.shape == (200, 6)
    for name in "abc":
        assert (weights[:, patients == name] == weights[:, patients == name][:, :1]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # as many patients as there are
    assert weights[:, [0, 1, 3]].mean() == 1


def test_draws_depend_on_order_not_on_names_or_numbers_of_rows():
    def draw(patients):
        return patient_weights(patients, np.random.default_rng(7), 50)

    once = draw(["b", "a", "c"])
    np.testing.assert_array_equal(draw(["x", "y", "z"]), once)
    np.testing.assert_array_equal(draw(["b", "b", "a", "a", "c", "c"])[:, ::2], once)
    assert draw([]).shape == (50, 0)


def test_ratio_and_mean_leave_nan_out():
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3]])
    parts, wholes = np.array([[1.0], [2.0], [NAN]]), np.array([[2.0], [4.0], [5.0]])
    np.testing.assert_array_equal(weighted_ratio(parts, wholes, weights)[:, 0], [0.5, 0.5, NAN])
    np.testing.assert_array_equal(weighted_mean(parts, weights)[:, 0], [1.5, 1.0, NAN])


def test_mean_of_nothing_is_nan_without_a_warning():
    np.testing.assert_array_equal(nan_mean(np.array([[1.0, NAN, 3.0], [NAN, NAN, NAN]])), [2.0, NAN])


def test_interval_holds_the_level_and_leaves_undefined_draws_out():
    draws = np.append(np.arange(1001.0), [NAN] * 500)
    assert interval(draws) == pytest.approx((25.0, 975.0))
    assert np.isnan(interval(np.array([NAN]))).all()
    assert np.isnan(interval(np.zeros(0))).all()


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Images of a patient resemble each other: drawing patients keeps the promise, drawing images does not."""
    rng = np.random.default_rng(5)
    kept = {"patients": 0, "images": 0}
    for _ in range(200):
        values = np.repeat(rng.normal(size=40), 4)  # true mean 0, four equal images each
        owners = {"patients": np.repeat(np.arange(40), 4), "images": np.arange(160)}
        for kind, owner in owners.items():
            low, high = interval(weighted_mean(values[:, None], patient_weights(owner, rng, 200))[:, 0])
            kept[kind] += low <= 0 <= high
    assert 0.88 <= kept["patients"] / 200 <= 0.99
    assert kept["images"] / 200 < 0.75
