"""Losses: closed forms and exact silence of unknown labels."""

import math

import torch

from lesioncam.functional.losses import bce_loss, positive_weights

NAN = float("nan")


def test_unknown_labels_get_exactly_zero_gradient():
    logits = torch.tensor([[1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    loss = bce_loss(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    loss.backward()
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-4.0))) / 2
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0


def test_nothing_known_is_zero_with_a_graph():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = bce_loss(logits, torch.full((2, 3), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_soft_labels_and_positive_weight():
    logits = torch.zeros(1, 1)
    assert math.isclose(bce_loss(logits, torch.tensor([[0.5]])).item(), math.log(2), rel_tol=1e-6)
    weighted = bce_loss(logits, torch.tensor([[1.0]]), torch.tensor([3.0]))
    assert math.isclose(weighted.item(), 3 * math.log(2), rel_tol=1e-6)


def test_weights_are_counted_over_the_set_and_capped():
    labels = torch.tensor([[1.0, 0.0, 1.0]] + [[0.0, 0.0, NAN]] * 39)
    assert positive_weights(labels).tolist() == [10.0, 1.0, 1.0]  # 39 capped; no positive; no negative
