"""The few-shot head: a planted linear rule comes back; too little to learn from is no head."""

import numpy as np
import pytest

from lesioncam.errors import RunError
from lesioncam.evaluation.few_shot import FewShotFit, FewShotHead


def fitted(classes=2, images=6, seed=0):
    rng = np.random.default_rng(seed)
    fit = FewShotFit(classes)
    for _ in range(images):
        features = rng.normal(size=(4, 6, 6)) * [[[1]], [[50]], [[0.01]], [[1]]] + 3
        fit.add(0, features, (features[1] + 200 * (features[2] - 3) > 3).astype(float))
    return fit


def test_a_planted_rule_comes_back_whatever_the_scale_of_the_features():
    head = fitted().head()
    features = np.random.default_rng(1).normal(size=(4, 9, 9)) * [[[1]], [[50]], [[0.01]], [[1]]] + 3
    truth = features[1] + 200 * (features[2] - 3) > 3
    maps = head.maps(features)
    assert ((maps[0] >= 0.5) == truth).mean() > 0.97
    assert (maps[1] == 0).all()  # a class without masks
    assert maps.dtype == np.float32


def test_the_fullest_cell_stands_for_a_tiny_lesion():
    fit = FewShotFit(1)
    shares = np.zeros((1, 8))
    shares[0, 2] = 0.1
    features = np.zeros((1, 1, 8))
    features[0, 0, 2] = 1
    for _ in range(3):
        fit.add(0, features, shares)
    maps = fit.head().maps(features)
    assert maps[0].argmax() == 2
    assert maps[0, 0, 2] > 0.5 > maps[0, 0, 1]


def test_without_both_sides_there_is_no_head():
    assert FewShotFit(2).head() is None
    fit = FewShotFit(1)
    fit.add(0, np.ones((3, 2, 2)), np.zeros((2, 2)))
    assert fit.head() is None


def test_it_survives_the_disk(tmp_path):
    head = fitted().head()
    again = FewShotHead.load(head.save(tmp_path / "few_shot.npz"))
    np.testing.assert_array_equal(again.weight, head.weight)
    (tmp_path / "few_shot.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match="few-shot"):
        FewShotHead.load(tmp_path / "few_shot.npz")
