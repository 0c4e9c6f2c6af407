"""Numbers: hand-computed, against scikit-learn, and against rows repeated as often as they were drawn."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from lesioncam.errors import OptionError
from lesioncam.functional.metrics import (
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    expected_calibration_error,
    f1_score,
    interval,
    kappa_quadratic,
    nan_mean,
    oracle_max_f1,
    patient_weights,
    pr_curve,
    probabilistic_f1,
    reliability_curve,
    roc_curve,
    sensitivity_at_specificity,
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


# ---- one point of the curve --------------------------------------------------------------------------------------


def sensitivity_at_90(scores, labels, weights=None):
    return sensitivity_at_specificity(scores, labels, 0.9, weights)


def sensitivity_at_half(scores, labels, weights=None):
    return sensitivity_at_specificity(scores, labels, 0.5, weights)


def decided_f1(scores, labels, weights=None):
    return f1_score(scores >= 0.5, labels, weights)


def pf2(scores, labels, weights=None):
    return probabilistic_f1(scores, labels, weights, beta=2.0)


POINTS = [sensitivity_at_90, sensitivity_at_half, decided_f1, oracle_max_f1, probabilistic_f1, pf2, brier]


@pytest.mark.parametrize("metric", POINTS)
def test_every_point_counts_a_weight_as_a_repetition(metric):
    for rng, scores, labels in trials(30, seed=6):
        p = scores / 30
        weights = rng.integers(0, 3, size=(6, len(p))).astype(np.uint16)
        weights[0] = 0
        weights[1] = 1
        values = metric(p, labels, weights)
        assert values.shape == (6,)
        assert math.isnan(values[0])
        assert values[1] == pytest.approx(metric(p, labels), abs=1e-14)
        for value, weight in zip(values, weights, strict=True):
            rows = np.repeat(np.arange(len(p)), weight)
            assert value == pytest.approx(metric(p[rows], labels[rows]), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", POINTS)
def test_every_point_leaves_unknown_rows_out(metric):
    p, labels = np.array([0.9, 0.6, 0.55, 0.1]), np.array([1, 0, 1, 0])
    more_p, more_labels = np.append(p, [0.95, 0.01, 0.3, NAN]), np.append(labels, [NAN, NAN, 0.5, 1])
    if metric is decided_f1:  # NaN >= .5 is a decision: the caller's own
        more_p, more_labels = more_p[:-1], more_labels[:-1]
    assert metric(more_p, more_labels) == metric(p, labels)
    assert metric(more_p, more_labels, np.ones((1, len(more_p)))) == [metric(p, labels)]


@pytest.mark.parametrize("metric", [m for m in POINTS if m is not brier])
def test_no_point_without_a_positive(metric):
    assert math.isnan(metric(np.array([0.1, 0.9]), np.array([0, 0])))
    assert math.isnan(metric(np.array([0.1, 0.9]), np.array([0, NAN])))
    assert math.isnan(metric(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.5, 0.55, 0.9, 1.0])
def test_sensitivity_at_specificity_equals_a_loop_over_thresholds(wanted):
    for _, scores, labels in trials(40, seed=7):
        best = 0.0
        for t in [*np.unique(scores), np.inf]:
            if (scores[labels == 0] < t).mean() >= wanted:
                best = max(best, (scores[labels == 1] >= t).mean())
        assert sensitivity_at_specificity(scores, labels, wanted) == best


def test_a_specificity_that_is_just_reached_counts():
    """.55 * 100 is above 55 in floating point: nothing may be lost to that."""
    for part, of in [(55, 100), (9, 10), (7, 10), (29, 100), (57, 100), (3, 10)]:
        scores = np.concatenate([np.zeros(part), np.full(of - part, 2.0), [1.0]])
        labels = np.concatenate([np.zeros(of), [1]])
        assert sensitivity_at_specificity(scores, labels, part / of) == 1
        assert sensitivity_at_specificity(scores, labels, part / of + 1e-9) == 0


def test_sensitivity_at_specificity_of_the_ends_and_of_one_class():
    scores, labels = np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1])
    assert sensitivity_at_specificity(scores, labels, 1.0) == 0  # only "nobody" spares the hottest
    assert sensitivity_at_specificity(scores, labels, 0.0) == 1
    assert sensitivity_at_specificity(np.full(3, 0.5), labels, 0.5) == 0  # constant scores know no middle
    assert math.isnan(sensitivity_at_specificity(scores, np.ones(3), 0.5))
    for wrong in (-0.1, 90, NAN):
        with pytest.raises(OptionError, match=r"expected a share"):
            sensitivity_at_specificity(scores, labels, wrong)


# ---- F1 ----------------------------------------------------------------------------------------------------------


def test_f1_equals_scikit_learn():
    for rng, _, labels in trials(40, seed=8):
        guess = rng.integers(0, 2, size=len(labels))
        expected = oracle.f1_score(labels, guess, zero_division=0)
        assert f1_score(guess, labels) == pytest.approx(expected, abs=1e-15)
        assert f1_score(guess.astype(bool), labels.astype(bool)) == pytest.approx(expected, abs=1e-15)
        assert f1_score(np.append(guess, [NAN, 2, 0.5]), np.append(labels, [1, 1, 1])) == f1_score(guess, labels)


def test_oracle_max_f1_is_the_best_of_all_decisions():
    for _, scores, labels in trials(40, seed=9):
        every = [oracle.f1_score(labels, scores >= t, zero_division=0) for t in np.unique(scores)]
        assert oracle_max_f1(scores, labels) == pytest.approx(max(every), abs=1e-15)
        assert oracle_max_f1(scores, labels) >= 2 * labels.mean() / (1 + labels.mean()) - 1e-15
        assert oracle_max_f1(scores, labels) >= f1_score(scores >= 5, labels)


def test_f1_without_negatives_and_without_a_hit():
    assert oracle_max_f1(np.array([0.1, 0.2]), np.array([1, 1])) == 1
    assert f1_score(np.array([0, 0]), np.array([1, 1])) == 0
    assert f1_score(np.array([0, 1]), np.array([1, 0])) == 0


@pytest.mark.parametrize("c", [0.02, 0.3, 1.0])
def test_probabilistic_f1_of_a_constant(c):
    labels = np.append(np.ones(2), np.zeros(98))
    assert probabilistic_f1(np.full(100, c), labels) == pytest.approx(2 * 0.02 * c / (0.02 + c), rel=1e-12)
    if c == 1:
        assert round(probabilistic_f1(np.full(100, c), labels), 4) == 0.0392


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_probabilistic_f_is_built_of_precision_and_recall(beta):
    for rng, _, labels in trials(20, seed=10):
        p = rng.random(len(labels))
        caught, alarms = (p * labels).sum(), (p * (1 - labels)).sum()
        precision, recall = caught / (caught + alarms), caught / labels.sum()
        expected = (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
        assert probabilistic_f1(p, labels, beta=beta) == pytest.approx(expected, rel=1e-12)
        guess = (p > 0.4).astype(float)
        plain = oracle.fbeta_score(labels, guess, beta=beta, zero_division=0)
        assert probabilistic_f1(guess, labels, beta=beta) == pytest.approx(plain, abs=1e-12)


def test_probabilistic_f1_edges():
    labels = np.array([1, 0, 0])
    assert probabilistic_f1(labels, labels) == 1
    assert probabilistic_f1(np.array([0, 0.5, 0]), labels) == 0
    assert probabilistic_f1(np.zeros(3), labels) == probabilistic_f1(np.zeros(3), labels, beta=0.0) == 0
    p = np.array([0.8, 0.6, 0.2])
    assert probabilistic_f1(p, labels) == pytest.approx(1.6 / 2.6)
    assert probabilistic_f1(p / 2, labels) == pytest.approx(0.8 / 1.8)  # the scale matters, unlike for the AUROC
    assert auroc(p / 2, labels) == auroc(p, labels)


# ---- ordered grades ----------------------------------------------------------------------------------------------


def slow_kappa(a, b, grades):
    observed = expected = 0.0
    for i in range(grades):
        for j in range(grades):
            cost = (i - j) ** 2 / (grades - 1) ** 2
            observed += cost * ((a == i) & (b == j)).mean()
            expected += cost * (a == i).mean() * (b == j).mean()
    return 1 - observed / expected if expected else NAN


def test_kappa_equals_scikit_learn_and_the_confusion_matrix():
    rng = np.random.default_rng(11)
    for _ in range(60):
        grades = int(rng.integers(2, 6))
        a, b = rng.integers(0, grades, size=(2, int(rng.integers(2, 40))))
        value = kappa_quadratic(a, b, grades)
        assert value == pytest.approx(slow_kappa(a, b, grades), abs=1e-12, nan_ok=True)
        if len(np.union1d(a, b)) > 1:
            theirs = oracle.cohen_kappa_score(a, b, weights="quadratic", labels=range(grades))
            assert value == pytest.approx(theirs, abs=1e-12)
        weights = rng.integers(0, 3, size=(5, len(a)))
        for found, weight in zip(kappa_quadratic(a, b, grades, weights), weights, strict=True):
            rows = np.repeat(np.arange(len(a)), weight)
            assert found == pytest.approx(kappa_quadratic(a[rows], b[rows], grades), abs=1e-12, nan_ok=True)


def test_a_constant_grade_earns_nothing():
    """Always grade 0 where 73.48 % are: accurate, and worthless."""
    truth = np.repeat([0, 1, 2, 3, 4], [7348, 700, 1500, 240, 212])
    always = np.zeros_like(truth)
    assert (always == truth).mean() == 0.7348
    assert balanced_accuracy(always, truth) == pytest.approx(0.2)
    assert kappa_quadratic(always, truth, 5) == 0


def test_kappa_edges():
    up = np.array([0, 1, 2])
    assert kappa_quadratic(up, up, 3) == 1
    assert kappa_quadratic(up, up[::-1], 3) == -1
    assert kappa_quadratic(np.full(3, 2), up, 3) == 0
    assert kappa_quadratic(up, np.full(3, 2), 3) == 0
    assert kappa_quadratic(np.zeros(3), np.ones(3), 3) == 0
    assert math.isnan(kappa_quadratic(np.ones(3), np.ones(3), 3))
    assert math.isnan(kappa_quadratic(np.zeros(0), np.zeros(0), 3))
    assert kappa_quadratic(up, up, 3) == kappa_quadratic(up, up, 9)  # grades that nobody gives change nothing


def test_unknown_grades_take_no_part_and_impossible_ones_are_refused():
    a, b = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    more = kappa_quadratic(np.append(a, [0, 0, NAN, -1]), np.append(b, [NAN, -1, 0, 0]), 3)
    assert more == kappa_quadratic(a, b, 3)
    for wrong in (3.0, 0.5, math.inf):
        with pytest.raises(OptionError, match=r"whole numbers from 0 to 2"):
            kappa_quadratic(np.array([0, wrong]), np.array([0, 1]), 3)


# ---- probabilities -----------------------------------------------------------------------------------------------


def test_brier_equals_scikit_learn():
    for rng, _, labels in trials(20, seed=12):
        p = rng.random(len(labels))
        assert brier(p, labels) == pytest.approx(oracle.brier_score_loss(labels, p), abs=1e-12)
    assert brier(np.array([0.25, 0.75]), np.array([0, 0])) == (0.25**2 + 0.75**2) / 2
    assert math.isnan(brier(np.array([0.5]), np.array([NAN])))


def slow_bins(p, bins):
    """Fill bins in ascending order; a run of equals goes to the bin its middle rank falls in."""
    order = sorted(p)
    place = {}
    for value in set(p.tolist()):
        ranks = [i for i, other in enumerate(order) if other == value]
        place[value] = math.floor(bins * (sum(ranks) / len(ranks) + 0.5) / len(order) + 1e-12)
    return np.array([place[value] for value in p.tolist()], dtype=int)


def slow_error(p, labels, weight, place):
    rows = np.repeat(np.arange(len(p)), weight)
    p, labels, place = p[rows], labels[rows], place[rows]
    total = 0.0
    for b in set(place.tolist()):
        here = place == b
        total += here.mean() * abs(p[here].mean() - labels[here].mean())
    return total if len(rows) else NAN


@pytest.mark.parametrize("bins", [1, 2, 7, 15])
def test_calibration_error_equals_a_loop_over_bins(bins):
    for rng, scores, labels in trials(20, seed=13):
        p = scores / 30
        place = slow_bins(p, bins)
        weights = rng.integers(0, 3, size=(4, len(p)))
        weights[0] = 0
        once = np.ones(len(p), dtype=int)
        plain = slow_error(p, labels, once, place)
        assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(plain, abs=1e-12)
        found = expected_calibration_error(p, labels, weights, bins)
        for value, weight in zip(found, weights, strict=True):
            assert value == pytest.approx(slow_error(p, labels, weight, place), abs=1e-12, nan_ok=True)


def test_bins_hold_equally_many_and_keep_equals_together():
    rng = np.random.default_rng(14)
    p, labels = rng.random(300), rng.integers(0, 2, size=300)
    curve = reliability_curve(p, labels)
    assert curve.count.tolist() == [20] * 15
    order = np.argsort(p).reshape(15, 20)
    np.testing.assert_allclose(curve.mean, p[order].mean(1), rtol=1e-12)
    np.testing.assert_allclose(curve.frequency, labels[order].mean(1), rtol=1e-12)
    uneven = reliability_curve(p[:100], labels[:100]).count
    assert (uneven.sum(), set(uneven.tolist())) == (100, {6, 7})

    tied = reliability_curve(np.repeat([0.1, 0.2, 0.9], [90, 3, 7]), np.zeros(100))
    assert tied.count.tolist() == [90, 3, 7]
    assert (np.diff(tied.mean) > 0).all()


def test_calibration_error_and_curve_agree():
    for _, scores, labels in trials(20, seed=15):
        p = scores / 30
        mean, frequency, count = reliability_curve(p, labels, bins=5)
        expected = (count * np.abs(mean - frequency)).sum() / len(p)
        assert expected_calibration_error(p, labels, bins=5) == pytest.approx(expected, abs=1e-12)
        worst = np.append(p, [NAN, 0.2]), np.append(labels, [1, NAN])
        assert expected_calibration_error(*worst, bins=5) == pytest.approx(expected, abs=1e-12)
        assert reliability_curve(*worst, bins=5).count.tolist() == count.tolist()


def test_calibration_error_of_a_constant_and_of_the_truth():
    labels = np.repeat([1, 0], [30, 70])
    assert expected_calibration_error(np.full(100, 0.5), labels) == pytest.approx(0.2)
    assert expected_calibration_error(labels, labels) == 0
    assert expected_calibration_error(1 - labels, labels) == 1
    rng = np.random.default_rng(16)
    p = rng.random(60_000)
    drawn = rng.random(60_000) < p
    assert expected_calibration_error(p, drawn) < 0.02
    assert expected_calibration_error(p**2, drawn) > 0.1


def test_calibration_of_nothing_is_undefined():
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))
    assert np.isnan(expected_calibration_error(np.array([NAN]), np.array([1]), np.ones((3, 1)))).all()
    assert [len(part) for part in reliability_curve(np.array([0.5]), np.array([NAN]))] == [0, 0, 0]
    for call in (expected_calibration_error, reliability_curve):
        with pytest.raises(OptionError, match=r"at least 1"):
            call(np.array([0.5]), np.array([1]), bins=0)
