"""Thresholds: the search equals brute force exactly, ends included, and ties end in the middle."""

import math

import numpy as np
import pytest

from lesioncam.errors import GeometryError, OptionError
from lesioncam.options.operating_point import OperatingRule
from lesioncam.segmentation.mask import binarise
from lesioncam.segmentation.threshold import (
    THRESHOLDS,
    DiceSearch,
    decision_threshold,
    fitted_thresholds,
)
from lesioncam.types import Validation

NAN = math.nan


def search(*images):
    found = DiceSearch(1)
    for probability, truth in images:
        found.add(0, probability, truth)
    return found.best()[0]


def slow_dice(probability, truth, t):
    mask = probability >= t
    return 2 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()))


def test_thresholds_span_the_logits_and_hold_one_half():
    assert len(THRESHOLDS) == 481
    assert (np.diff(THRESHOLDS) > 0).all()
    assert THRESHOLDS[240] == 0.5
    np.testing.assert_allclose(np.log(THRESHOLDS / (1 - THRESHOLDS))[[0, 481 // 4, -1]], [-12, -6, 12], atol=0.01)


def test_single_and_double_precision_agree_on_every_threshold():
    scores = THRESHOLDS.astype(np.float32)
    for i, t in enumerate(THRESHOLDS):
        expected = np.arange(481) >= i
        np.testing.assert_array_equal(scores >= float(t), expected)
        np.testing.assert_array_equal(binarise(scores, t), expected)


def test_best_equals_brute_force_exactly():
    rng = np.random.default_rng(0)
    for _ in range(10):
        images = []
        for _ in range(5):
            logits = rng.normal(0, 4, size=(6, 9)).astype(np.float32)
            truth = logits + rng.normal(0, 2, size=(6, 9)) > rng.normal(2, 2)
            truth[0, 0] = True
            images.append((1 / (1 + np.exp(-logits)), truth))
        mean = [sum(slow_dice(p.astype(np.float64), t, x) for p, t in images) / len(images) for x in THRESHOLDS]
        fit = search(*images)
        assert fit.dice == max(mean)
        assert mean[THRESHOLDS.tolist().index(fit.value)] == max(mean)
        assert fit.images == 5


@pytest.mark.parametrize(
    ("probability", "truth", "place"),
    [([6.2e-6, 6.2e-6, 1e-7], [1, 1, 0], 0), ([1.0, 1.0, 0.9999937], [1, 1, 0], 480)],
)
def test_the_best_threshold_may_be_the_first_or_the_last(probability, truth, place):
    fit = search((np.array(probability), np.array(truth, bool)))
    assert (fit.value, fit.dice) == (THRESHOLDS[place], 1)


def test_equals_end_in_the_middle_of_the_plateau():
    fit = search((np.array([0.1, 0.1, 0.9]), np.array([False, False, True])))
    best = np.flatnonzero((THRESHOLDS > 0.1) & (THRESHOLDS <= 0.9))
    assert fit.value == THRESHOLDS[(best[0] + best[-1]) // 2] == 0.5


def test_of_two_plateaus_the_longer_one_counts():
    """Dice 2/3 for all four pixels (up to logit -6) and for the hottest alone (3 to 10), less in between."""
    probability = 1 / (1 + np.exp(-np.array([10.0, 3.0, 2.9, -6.0])))
    truth = np.array([True, False, False, True])
    assert slow_dice(probability, truth, 1e-5) == slow_dice(probability, truth, 0.99) == 2 / 3
    assert slow_dice(probability, truth, 0.5) == 2 / 5
    fit = search((probability, truth))
    assert fit.dice == 2 / 3
    assert np.log(fit.value / (1 - fit.value)) == pytest.approx(6.5, abs=0.06)


def test_a_missed_lesion_counts_and_a_healthy_image_does_not():
    good = np.array([0.9, 0.1]), np.array([True, False])
    cold = np.array([1e-9, 1e-9]), np.array([True, False])
    healthy = np.array([0.9, 0.9]), np.array([False, False])
    assert search(good, cold).dice == 0.5
    assert search(good, cold, healthy) == search(good, cold)
    assert search(good, cold).images == 2


def test_each_class_has_its_own_threshold_and_none_without_masks():
    found = DiceSearch(3)
    found.add(0, np.array([0.9, 0.6]), np.array([True, False]))
    found.add(2, np.array([0.09, 0.06]), np.array([True, False]))
    found.add(1, np.array([0.9, 0.6]), np.array([False, False]))
    first, nothing, last = found.best()
    assert nothing is None
    assert 0.6 < first.value <= 0.9
    assert 0.06 < last.value <= 0.09
    thresholds = fitted_thresholds(found.best(), Validation(("i", "j"), ("a", "b"), ("val", "val")))
    assert [t.source for t in thresholds] == ["val", "default", "val"]
    assert [t.value for t in thresholds] == [first.value, 0.5, last.value]
    assert [t.tuned_on for t in thresholds] == [{"a", "b"}, set(), {"a", "b"}]


def test_flat_maps_and_nan_maps_have_a_threshold_too():
    truth = np.array([True, False, False])
    flat = search((np.full(3, 0.3), truth))
    assert (flat.value <= 0.3, flat.dice) == (True, 0.5)  # everything: 2 / (3 + 1)
    assert search((np.full(3, NAN), truth)).dice == 0


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(GeometryError):
        DiceSearch(1).add(0, np.zeros((3, 4)), np.zeros((4, 3), bool))


# ---- decision threshold ------------------------------------------------------------------------------------------


def youden(scores, labels, t):
    positive = scores >= t
    return positive[labels == 1].mean() + (~positive)[labels == 0].mean() - 1


def test_half_way_between_neighbours():
    scores, labels = np.array([0.1, 0.2, 0.4, 0.9]), np.array([0, 0, 1, 1])
    assert decision_threshold(scores, labels) == pytest.approx(0.3)


def test_equals_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(100):
        n = int(rng.integers(2, 30))
        labels = rng.integers(0, 2, size=n)
        labels[:2] = 0, 1
        scores = (rng.integers(0, 12, size=n) / 13 + labels * rng.random() * 0.3).clip(0, 1)
        levels = np.unique(scores)
        middles = (levels[1:] + levels[:-1]) / 2
        gains = [youden(scores, labels, t) for t in middles]
        found = decision_threshold(scores, labels)
        if not gains or max(gains) <= 1e-12:
            assert found == 0.5
            continue
        lowest = next(t for t, gain in zip(middles, gains, strict=True) if gain >= max(gains) - 1e-12)
        assert found == pytest.approx(lowest, abs=1e-7)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.1, 0.2], [1, 1]),
        ([0.1, 0.2], [0, 0]),
        ([], []),
        ([NAN, 0.2], [1, 0]),
        ([0.2, 0.2], [0, 1]),
        ([0.9, 0.1], [0, 1]),
    ],
)
def test_nothing_to_choose_from_is_one_half(scores, labels):
    assert decision_threshold(np.array(scores), np.array(labels)) == 0.5


def test_unknown_rows_take_no_part():
    scores, labels = np.array([0.1, 0.4, 0.2, 0.3, NAN]), np.array([0, 1, NAN, 0.5, 1])
    assert decision_threshold(scores, labels) == pytest.approx(0.25)


def test_neighbouring_floats_stay_apart():
    """Between two adjacent float32 there is no third: the upper one must be taken, or the lower is called positive."""
    for low in np.float32([0.1, 0.3, 0.7]):
        high = np.nextafter(low, np.float32(1))
        value = decision_threshold(np.array([low, high]), np.array([0, 1]))
        assert (low >= value, high >= value) == (False, True)
        assert (float(low) >= value, float(high) >= value) == (False, True)


# ---- operating points --------------------------------------------------------------------------------------------


def candidates(scores):
    """Every decision there is: everybody, each gap between neighbours, nobody."""
    levels = np.unique(scores)
    return [levels[0], *((levels[1:] + levels[:-1]) / 2), levels[-1] + 1]


def counted(scores, labels, t):
    """Sensitivity, specificity, misses and false alarms by a loop."""
    hits = sum(s >= t for s, y in zip(scores, labels, strict=True) if y == 1)
    spared = sum(s < t for s, y in zip(scores, labels, strict=True) if y == 0)
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    return hits / positives, spared / negatives, positives - hits, negatives - spared


def slow_choice(scores, labels, kind, value):
    """The set of scores that brute force calls positive."""
    every = [(t, *counted(scores, labels, t)) for t in candidates(scores)]
    if kind == "sensitivity":
        best = max(t for t, sensitivity, *_ in every if sensitivity >= value)
    elif kind == "specificity":
        best = min(t for t, _, specificity, *_ in every if specificity >= value)
    else:
        costs = [value * misses + alarms for *_, misses, alarms in every]
        best = next(t for (t, *_), cost in zip(every, costs, strict=True) if cost <= min(costs) + 1e-9)
    return scores >= best


@pytest.mark.parametrize("kind", ["sensitivity", "specificity", "cost"])
@pytest.mark.parametrize("value", [0.1, 0.5, 0.9, 0.95, 1.0, 5.0])
def test_rules_equal_brute_force(kind, value):
    if kind != "cost" and value > 1:
        value = 0.7
    rng = np.random.default_rng(2)
    for _ in range(60):
        n = int(rng.integers(2, 30))
        labels = rng.integers(0, 2, size=n)
        labels[:2] = 0, 1
        scores = (rng.integers(0, 12, size=n) / 13 + labels * rng.random() * 0.3).clip(0, 1)
        found = decision_threshold(scores, labels, f"{kind}={value}")
        np.testing.assert_array_equal(scores >= found, slow_choice(scores, labels, kind, value))
        levels = np.unique(scores)
        inside = levels[0] < found <= levels[-1]
        if inside:  # half-way
            middles = (levels[1:] + levels[:-1]) / 2
            assert np.abs(middles - found).min() < 1e-7
        single = scores.astype(np.float32)
        again = decision_threshold(single, labels, f"{kind}={value}")
        np.testing.assert_array_equal(single >= again, single.astype(float) >= again)


def test_a_wanted_rate_is_reached_exactly_when_it_can_be():
    scores, labels = np.arange(20) / 20, np.repeat([0, 1], 10)
    assert decision_threshold(scores, labels, "sensitivity=0.9") == pytest.approx(0.525)  # 9 of 10
    assert decision_threshold(scores, labels, "sensitivity=0.91") == pytest.approx(0.475)
    assert decision_threshold(scores, labels, "specificity=0.9") == pytest.approx(0.425)
    assert decision_threshold(scores, labels, "specificity=0.91") == pytest.approx(0.475)
    for k in range(1, 11):
        found = decision_threshold(scores, labels, f"sensitivity={k / 10}")
        assert (scores[10:] >= found).mean() == k / 10


def test_a_dearer_miss_lowers_the_threshold():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, size=200)
    scores = (rng.random(200) + labels * 0.4) / 1.4
    costs = [1e-6, 0.1, 0.5, 1, 2, 10, 1e6]
    found = [decision_threshold(scores, labels, OperatingRule("cost", cost)) for cost in costs]
    assert found == sorted(found, reverse=True)
    assert not (scores[labels == 0] >= found[0]).any()
    assert (scores[labels == 1] >= found[-1]).all()


def test_cost_of_a_calibrated_score_is_the_break_even_probability():
    """With true probabilities, calling it positive pays from 1 / (1 + cost) on."""
    rng = np.random.default_rng(4)
    p = rng.random(40_000)
    labels = rng.random(40_000) < p
    for cost in (0.5, 1, 4):
        assert decision_threshold(p, labels, f"cost={cost}") == pytest.approx(1 / (1 + cost), abs=0.03)


def test_thresholds_outside_the_scores():
    hot_healthy = np.array([0.2, 0.9]), np.array([1, 0])
    everybody = decision_threshold(*hot_healthy, "sensitivity=1")
    nobody = decision_threshold(*hot_healthy, "specificity=1")
    assert everybody == np.float32(0.2) or everybody < 0.2
    assert (np.array([0.2, 0.9]) >= everybody).all()
    assert not (np.array([0.2, 0.9]) >= nobody).any()
    assert nobody == pytest.approx(0.9, abs=1e-6)
    sure = np.array([1.0, 1.0])
    above = decision_threshold(sure, np.array([0, 1]), "specificity=0.5")
    assert above == float(np.nextafter(np.float32(1), np.float32(2)))
    assert decision_threshold(sure, np.array([0, 1]), "sensitivity=0.5") == 1
    assert decision_threshold(sure, np.array([0, 1]), "cost=1") == 1  # one miss costs one alarm: the lower


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7, 0.999999999])
def test_ends_stay_at_their_side_in_single_and_double_precision(value):
    for scores in (np.array([value, value]), np.array([value, value], dtype=np.float32)):
        low = decision_threshold(scores, np.array([0, 1]), "sensitivity=1")
        high = decision_threshold(scores, np.array([0, 1]), "specificity=1")
        assert (scores.astype(float) >= low).all()
        assert not (scores.astype(float) >= high).any()
        assert (low, high) == (float(np.float32(low)), float(np.float32(high)))


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.9", "specificity=0.9", "cost=5"])
@pytest.mark.parametrize(("scores", "labels"), [([0.1, 0.2], [1, 1]), ([], []), ([NAN, 0.2], [1, 0])])
def test_one_class_only_is_one_half_by_every_rule(rule, scores, labels):
    assert decision_threshold(np.array(scores), np.array(labels), rule) == 0.5


def test_unknown_rows_take_no_part_in_any_rule():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.6]), np.array([0, 1, 0, 1])
    more = np.append(scores, [0.2, 0.9, NAN]), np.append(labels, [NAN, 0.5, 1])
    for rule in ("sensitivity=1", "specificity=0.5", "cost=2"):
        assert decision_threshold(*more, rule) == decision_threshold(scores, labels, rule)


@pytest.mark.parametrize("text", ["sensitivty=0.9", "youden=0.3", "sensitivity=90", "cost=1/0"])
def test_a_rule_that_makes_no_sense_is_refused(text):
    with pytest.raises(OptionError):
        decision_threshold(np.array([0.1, 0.9]), np.array([0, 1]), text)
