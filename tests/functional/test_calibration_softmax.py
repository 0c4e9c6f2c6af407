"""One temperature for all classes, log-odds of a softmax: identities, a grid search, data of a known temperature."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from lesioncam.functional.calibration import fit_softmax_temperature, fit_temperature, log_odds
from lesioncam.inference.scale import image_probabilities
from lesioncam.types import Calibration


def test_two_classes_are_the_sigmoid_of_their_difference():
    rng = np.random.default_rng(0)
    z = rng.normal(scale=4, size=300)
    y = (rng.random(300) < expit(z / 3)).astype(int)
    other = rng.normal(size=300)  # a shift of both logits changes nothing
    pairs = np.column_stack([other, other + z])
    assert fit_softmax_temperature(pairs, y) == pytest.approx(fit_temperature(z, y), rel=1e-6)
    np.testing.assert_allclose(log_odds(pairs)[:, 1], z, atol=1e-12)


def test_the_temperature_is_the_best_of_a_grid_and_the_one_the_data_had():
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=3, size=(4000, 4))
    drawn = softmax(logits / 2.5, axis=1).cumsum(axis=1)
    groups = (rng.random((4000, 1)) > drawn).sum(axis=1)
    groups[::10] = -1  # unknown
    logits[5] = np.nan
    found = fit_softmax_temperature(logits, groups)
    assert found == pytest.approx(2.5, rel=0.06)
    known = (groups >= 0) & np.isfinite(logits).all(axis=1)

    def cost(temperature):
        return -log_softmax(logits[known] / temperature, axis=1)[np.arange(known.sum()), groups[known]].mean()

    grid = np.linspace(0.5, 6, 551)
    assert cost(found) <= min(map(cost, grid))


def test_right_answers_stay_as_sure_as_they_are_and_chance_becomes_even():
    right = np.eye(3)[[0, 1, 2, 0, 1]] * 2.0
    assert 0 < fit_softmax_temperature(right, np.array([0, 1, 2, 0, 1])) <= 1
    wrong = fit_softmax_temperature(right, np.array([1, 2, 0, 1, 2]))
    np.testing.assert_allclose(softmax(right / wrong, axis=1), 1 / 3, atol=0.01)


def test_too_little_to_fit():
    assert fit_softmax_temperature(np.eye(3), np.array([1, 1, 1])) is None
    assert fit_softmax_temperature(np.eye(3), np.array([-1, -1, 2])) is None
    assert fit_softmax_temperature(np.zeros((3, 3)), np.array([0, 1, 2])) == 1.0


def test_log_odds_are_exact_where_the_softmax_rounds():
    logits = np.array([[1e4, 0.0, -1e4], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(log_odds(logits)[0], [1e4, -1e4, -2e4])
    np.testing.assert_allclose(expit(log_odds(logits)[1]), 1 / 3)
    rng = np.random.default_rng(2)
    values = rng.normal(size=(7, 5))
    np.testing.assert_allclose(expit(log_odds(values)), softmax(values, axis=1), atol=1e-12)
    assert log_odds(values.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_of_one_image_are_those_of_many(exclusive):
    logits = np.random.default_rng(3).normal(size=(6, 4))
    scale = Calibration((0.5,) * 4, (0.0,) * 4, "val", kind="temperature")
    for each in (None, scale):
        many = image_probabilities(logits, each, softmax=exclusive)
        sharp = logits * (1.0 if each is None else 0.5)
        np.testing.assert_allclose(many, softmax(sharp, axis=1) if exclusive else expit(sharp), atol=1e-6)
        for one, row in zip(logits, many, strict=True):
            np.testing.assert_array_equal(image_probabilities(one, each, softmax=exclusive), row)
