"""Calibration: known parameters come back, the likelihood never gets worse, and extreme data stay finite."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lesioncam.functional.calibration import EPSILON, fit_isotonic, fit_platt, fit_temperature

NAN = math.nan
FITS = [fit_temperature, fit_platt, fit_isotonic]


def loss(u, target, weights=None):
    """Mean cross-entropy of ``sigmoid(u)``."""
    return float(np.average(np.logaddexp(0, u) - target * u, weights=weights))


def likelihood(p, labels):
    return float(-np.where(labels == 1, np.log(p), np.log1p(-p)).mean())


def platt_targets(labels):
    positive, negative = (labels == 1).sum(), (labels == 0).sum()
    return np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))


def trials(count, seed):
    """Logits of many scales, some with ties or one far outlier, and labels that follow them more or less."""
    rng = np.random.default_rng(seed)
    for trial in range(count):
        n = int(rng.integers(3, 200))
        z = rng.normal(size=n)
        labels = (rng.random(n) < expit(rng.normal(1, 2) * z - rng.uniform(-3, 3))).astype(float)
        labels[:2] = 0, 1
        z = z * 10 ** rng.uniform(-3, 3) + (rng.normal() if trial % 2 else 0)
        if trial % 3 == 1:
            z = np.round(z)
        if trial % 3 == 2:
            z[-1] *= 1e4
        yield rng, z, labels


# ---- temperature -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 40.0])
def test_the_temperature_comes_back(true):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2 * true, size=200_000)
    labels = rng.random(len(z)) < expit(z / true)
    assert fit_temperature(z, labels) == pytest.approx(true, rel=0.02)


def test_temperature_of_one_size_of_logit_in_closed_form():
    """All logits +-c and a share q right: sigmoid(c / T) = q."""
    for c, right, n in [(4.0, 3, 4), (0.01, 9, 10), (500.0, 7, 8), (2.0, 999, 1000)]:
        labels = np.ones(n)
        labels[right:] = 0
        z, y = np.concatenate([np.full(n, c), np.full(n, -c)]), np.concatenate([labels, 1 - labels])
        assert fit_temperature(z, y) == pytest.approx(c / logit(right / n), rel=1e-9)


def test_no_other_temperature_is_better():
    for _, z, labels in trials(60, seed=1):
        found = fit_temperature(z, labels)
        others = found * np.array([0.5, 0.9, 0.999, 1.001, 1.1, 2.0])
        separate = (z[labels == 1] >= 0).all() and (z[labels == 0] <= 0).all()
        if separate or found >= 99 * np.abs(z).max():  # no minimum: see the tests of these cases
            continue
        assert loss(z / found, labels) <= min(loss(z / t, labels) for t in others) + 1e-12


def test_temperature_is_never_worse_than_none():
    for _, z, labels in trials(60, seed=2):
        assert loss(z / fit_temperature(z, labels), labels) <= loss(z, labels) + 1e-12


def test_separable_logits_have_a_finite_temperature():
    z, labels = np.array([-3.0, -1.0, 1.0, 3.0]), np.array([0, 0, 1, 1])
    found = fit_temperature(z, labels)
    targets = platt_targets(labels)  # 3/4 and 1/4
    assert found == 1  # at T = 1 the smoothed labels are passed already
    assert fit_temperature(z / 100, labels) == pytest.approx(
        min(np.geomspace(0.001, 1, 20_000), key=lambda t: loss(z / 100 / t, targets)), rel=1e-3
    )
    for scale in (1e-30, 1e-3, 1e3, 1e30):
        again = fit_temperature(z * scale, labels)
        assert 0 < again <= 1
        assert loss(z * scale / again, labels) <= loss(z * scale, labels)


def test_logits_worse_than_chance_become_one_half():
    z, labels = np.array([-3.0, 1.0, 3.0, -1.0]), np.array([1, 0, 0, 1])
    found = fit_temperature(z, labels)
    assert found == 300
    np.testing.assert_allclose(expit(z / found), 0.5, atol=0.003)
    assert fit_temperature(z * 1e-6, labels) == 1


def test_constant_logits_have_a_temperature():
    assert fit_temperature(np.zeros(4), np.array([0, 1, 1, 1])) == 1
    assert fit_temperature(np.full(4, 7.0), np.array([0, 1, 1, 1])) == pytest.approx(7 / math.log(3))
    assert fit_temperature(np.full(4, -7.0), np.array([0, 1, 1, 1])) == 700  # wrong side


# ---- Platt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.4, -3.0), (5.0, 2.0), (0.01, 1.0)])
def test_scale_and_offset_come_back(scale, offset):
    rng = np.random.default_rng(3)
    z = rng.normal(-offset / scale, 1.5 / scale, size=200_000)
    labels = rng.random(len(z)) < expit(scale * z + offset)
    found = fit_platt(z, labels)
    assert found[0] == pytest.approx(scale, rel=0.03)
    assert found[1] == pytest.approx(offset, abs=0.03 * max(1, abs(offset)))


def test_two_logits_in_closed_form():
    """With two values of the logit the fit goes through the mean target of each."""
    z, labels = np.repeat([-1.0, 3.0], 10), np.array([1] * 2 + [0] * 8 + [1] * 7 + [0] * 3)
    targets = platt_targets(labels)
    low, high = logit(targets[:10].mean()), logit(targets[10:].mean())
    scale, offset = fit_platt(z, labels)
    assert scale == pytest.approx((high - low) / 4, rel=1e-7)
    assert offset == pytest.approx(low + scale, rel=1e-7)


def test_the_normal_equations_hold_and_the_scale_is_not_negative():
    seen = {"rising": 0, "flat": 0}
    for _, z, labels in trials(90, seed=4):
        scale, offset = fit_platt(z, labels)
        targets = platt_targets(labels)
        missing = expit(scale * z + offset) - targets
        assert missing.mean() == pytest.approx(0, abs=1e-6)
        if scale > 0:
            seen["rising"] += 1
            assert (missing * z).mean() / np.abs(z).max() == pytest.approx(0, abs=1e-6)
        else:
            seen["flat"] += 1
            assert scale == 0
            assert (missing * z).mean() >= -1e-9 * np.abs(z).max()  # only a falling line would be better
        assert loss(scale * z + offset, targets) <= loss(z, targets) + 1e-12
    assert min(seen.values()) > 10


def test_platt_equals_logistic_regression_on_many_rows():
    """With many rows the targets are almost the labels."""
    rng = np.random.default_rng(5)
    z = rng.normal(1, 3, size=50_000)
    labels = (rng.random(len(z)) < expit(0.7 * z - 1)).astype(int)
    theirs = LogisticRegression(C=np.inf, tol=1e-8).fit(z[:, None], labels)
    assert fit_platt(z, labels) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=2e-3)


def test_separable_logits_stay_finite():
    z, labels = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1])
    scale, offset = fit_platt(z, labels)
    assert 0 < scale < 2
    assert offset == pytest.approx(0, abs=1e-9)
    p = expit(scale * z + offset)
    assert ((p > 0.5) == labels).all()


def test_constant_logits_give_the_mean_target():
    labels = np.array([0, 1, 1, 1])
    for value in (0.0, 5.0, 1e30):
        assert fit_platt(np.full(4, value), labels) == (0, pytest.approx(logit((3 * 4 / 5 + 1 / 3) / 4)))


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_platt_follows_the_unit(size):
    rng = np.random.default_rng(6)
    z = rng.normal(size=300)
    labels = rng.random(300) < expit(2 * z + 1)
    scale, offset = fit_platt(z, labels)
    again = fit_platt(z * size, labels)
    assert again[0] * size == pytest.approx(scale, rel=1e-6)
    assert again[1] == pytest.approx(offset, rel=1e-6)


def test_rare_positives_are_fitted_as_exactly():
    rng = np.random.default_rng(7)
    z = rng.normal(-9, 2, size=100_000)
    labels = rng.random(len(z)) < expit(z)
    assert labels.mean() < 0.002
    scale, offset = fit_platt(z, labels)
    missing = expit(scale * z + offset) - platt_targets(labels)
    assert abs(missing.sum()) / labels.sum() < 1e-6
    assert abs((missing * z).sum()) / labels.sum() < 1e-5


# ---- isotonic ----------------------------------------------------------------------------------------------------


def test_isotonic_equals_scikit_learn_everywhere():
    for rng, z, labels in trials(60, seed=8):
        x, y = fit_isotonic(z, labels)
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(z, labels)
        probe = np.concatenate([z, rng.normal(size=50) * np.abs(z).max(), [-1e9, 1e9]])
        np.testing.assert_allclose(np.interp(probe, x, y), fitted.predict(probe), atol=2 * EPSILON)


def test_isotonic_knots_rise_are_few_and_stay_off_the_ends():
    for _, z, labels in trials(60, seed=9):
        x, y = fit_isotonic(z, labels)
        assert (np.diff(x) > 0).all()
        assert (np.diff(y) >= 0).all()
        assert EPSILON <= y.min() <= y.max() <= 1 - EPSILON
        runs = np.split(y, np.flatnonzero(np.diff(y)) + 1)
        assert max(len(run) for run in runs) <= 2  # a level needs its two ends only


def test_isotonic_is_at_least_as_likely_as_any_other_calibration():
    for _, z, labels in trials(60, seed=10):
        p = np.interp(z, *fit_isotonic(z, labels))
        scale, offset = fit_platt(z, labels)
        temperature = fit_temperature(z, labels)
        allowed = 2 * EPSILON
        assert likelihood(p, labels) <= loss(z, labels) + allowed
        assert likelihood(p, labels) <= loss(scale * z + offset, labels) + allowed
        assert likelihood(p, labels) <= loss(z / temperature, labels) + allowed


def test_isotonic_recovers_a_crooked_line():
    rng = np.random.default_rng(11)
    z = rng.uniform(-3, 3, size=100_000)
    truth = np.interp(z, [-1, 0, 2], [0.1, 0.6, 0.7])
    x, y = fit_isotonic(z, rng.random(len(z)) < truth)
    assert np.abs(np.interp(z, x, y) - truth).mean() < 0.01


def test_isotonic_of_separable_constant_and_reversed_logits():
    x, y = fit_isotonic(np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert (x.tolist(), y.tolist()) == ([-2, -1, 1, 2], [EPSILON, EPSILON, 1 - EPSILON, 1 - EPSILON])
    x, y = fit_isotonic(np.full(4, 3.0), np.array([0, 1, 1, 1]))
    assert np.interp([-9, 3, 9], x, y).tolist() == [0.75] * 3
    x, y = fit_isotonic(np.array([-1.0, 0.0, 1.0]), np.array([1, 1, 0]))
    np.testing.assert_allclose(np.interp([-9, 0.3, 9], x, y), 2 / 3)


# ---- all three ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("logits", "labels", "weights"),
    [
        ([], [], None),
        ([1.0], [1], None),
        ([1.0, 2.0], [1, 1], None),
        ([1.0, 2.0, 3.0], [0, 0, 0], None),
        ([1.0, 2.0], [1, NAN], None),
        ([1.0, 2.0], [1, 0.5], None),
        ([1.0, NAN], [1, 0], None),
        ([1.0, -np.inf], [1, 0], None),
        ([1.0, 2.0], [1, 0], [1, 0]),
    ],
)
def test_too_little_data_is_none(fit, logits, labels, weights):
    given = None if weights is None else np.array(weights)
    assert fit(np.array(logits), np.array(labels), given) is None


@pytest.mark.parametrize("fit", FITS)
def test_a_weight_is_a_repetition(fit):
    for rng, z, labels in trials(20, seed=12):
        weights = rng.integers(0, 4, size=len(z))
        weights[:2] = 1
        rows = np.repeat(np.arange(len(z)), weights)
        for ours, theirs in zip(
            np.atleast_1d(fit(z, labels, weights)), np.atleast_1d(fit(z[rows], labels[rows])), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fit", FITS)
def test_a_share_is_a_row_of_each_side(fit):
    """As cells of a map are fitted: covered by a third counts a third as lesion and two thirds as none."""
    z = np.array([-1.0, 0.5, 2.0])
    share = np.array([0.0, 1 / 3, 1.0])
    halves = np.tile(z, 2), np.repeat([1.0, 0.0], 3), np.concatenate([share, 1 - share]) * 3
    whole = np.repeat(z, 3), np.array([0, 0, 0, 1, 0, 0, 1, 1, 1]), None
    for ours, theirs in zip(np.atleast_1d(fit(*halves)), np.atleast_1d(fit(*whole)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("fit", FITS)
def test_unknown_rows_take_no_part_and_inputs_are_left_alone(fit):
    z, labels = np.array([-1.0, 2.0, 0.5, -0.5, 1.0]), np.array([0, 1, 0, 1, 1.0])
    more_z, more_labels = np.append(z, [9.0, 9.0, NAN, np.inf]), np.append(labels, [NAN, 0.5, 1, 0])
    copies = more_z.copy(), more_labels.copy()
    np.testing.assert_array_equal(fit(more_z, more_labels), fit(z, labels))
    np.testing.assert_array_equal(more_z, copies[0])
    np.testing.assert_array_equal(more_labels, copies[1])


@pytest.mark.parametrize("fit", FITS)
def test_huge_logits_stay_finite(fit):
    z, labels = np.array([-1e30, 1e30, 1e30, -1.0, 1.0, 0.0]), np.array([0, 1, 0, 0, 1, 1])
    assert all(np.isfinite(part).all() for part in np.atleast_1d(fit(z, labels)))
    assert all(np.isfinite(part).all() for part in np.atleast_1d(fit(z.astype(np.float32), labels)))
