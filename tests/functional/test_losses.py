"""Losses: closed forms, exact silence of unknown labels, and lessons from batches without a positive."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lesioncam.functional.losses import (
    aucpr_loss,
    balanced_weights,
    bce_loss,
    cross_entropy_loss,
    effective_weights,
    focal_loss,
    negative_map_loss,
    positive_weights,
    reverse_gradient,
    softmax_weights,
)

NAN = float("nan")


def aucpr(logits, labels, multiplier=1.0, bias=0.0, prior=0.5, anchors=20):
    k = logits.shape[1]
    full = torch.full((k, anchors), multiplier, dtype=logits.dtype)
    return aucpr_loss(logits, labels, full, torch.full_like(full, bias), torch.full((k,), prior, dtype=logits.dtype))


BINARY = {
    "bce": bce_loss,
    "weighted": lambda z, y: bce_loss(z, y, torch.tensor([3.0, 0.5], dtype=z.dtype)),
    "focal": focal_loss,
    "focal_steep": lambda z, y: focal_loss(z, y, 0.5, (0.25, 0.75)),
    "aucpr": aucpr,
}


def test_unknown_labels_get_exactly_zero_gradient():
    logits = torch.tensor([[1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    loss = bce_loss(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    loss.backward()
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-4.0))) / 2
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0


@pytest.mark.parametrize("name", BINARY)
def test_no_loss_listens_to_an_unknown_label(name):
    labels = torch.tensor([[1.0, NAN], [NAN, 0.0], [0.0, NAN]])
    logits = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 1e4]], requires_grad=True)
    BINARY[name](logits, labels).backward()
    unknown = labels.isnan()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    other = torch.where(unknown, -7.0, logits.detach())
    assert BINARY[name](other, labels) == BINARY[name](logits.detach(), labels)


@pytest.mark.parametrize("name", BINARY)
def test_a_batch_without_a_positive_still_teaches(name):
    logits = torch.zeros(4, 2, requires_grad=True)
    BINARY[name](logits, torch.zeros(4, 2)).backward()
    assert (logits.grad > 0).all()  # every score is pushed down


@pytest.mark.parametrize("name", BINARY)
def test_nothing_known_is_zero_with_a_graph(name):
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = BINARY[name](logits, torch.full((2, 2), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_huge_logits_stay_finite(name, size, kind):
    logits = torch.full((3, 2), size, dtype=kind, requires_grad=True)
    loss = BINARY[name](logits, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, NAN]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", BINARY)
def test_gradients_are_those_of_the_formula(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([[1, 0], [0, NAN], [1, 1], [0.3, 0], [0, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: BINARY[name](z, labels), (logits,))


def test_soft_labels_and_positive_weight():
    logits = torch.zeros(1, 1)
    assert math.isclose(bce_loss(logits, torch.tensor([[0.5]])).item(), math.log(2), rel_tol=1e-6)
    weighted = bce_loss(logits, torch.tensor([[1.0]]), torch.tensor([3.0]))
    assert math.isclose(weighted.item(), 3 * math.log(2), rel_tol=1e-6)


def test_weights_are_counted_over_the_set_and_capped():
    labels = torch.tensor([[1.0, 0.0, 1.0]] + [[0.0, 0.0, NAN]] * 39)
    assert positive_weights(labels).tolist() == [10.0, 1.0, 1.0]  # 39 capped; no positive; no negative


def test_a_soft_label_counts_by_its_share_on_both_sides():
    labels = torch.tensor([[0.75], [0.0], [0.0]])
    assert positive_weights(labels).item() == pytest.approx(2.25 / 0.75)


# ---- focal ---------------------------------------------------------------------------------------------------------


def test_focal_without_focus_is_cross_entropy():
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(20, 3, dtype=torch.float64, generator=generator)
    labels = torch.rand(20, 3, dtype=torch.float64, generator=generator).round()
    labels[0, 0], labels[1, 1] = NAN, 0.3
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), bce_loss(logits, labels), rtol=1e-12, atol=0)


def test_focal_is_its_formula():
    p, gamma = 0.9, 2.0
    logit = torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)
    hit = focal_loss(logit, torch.ones(1, 1, dtype=torch.float64), gamma, (0.25, 0.75))
    alarm = focal_loss(logit, torch.zeros(1, 1, dtype=torch.float64), gamma, (0.25, 0.75))
    assert hit.item() == pytest.approx(0.25 * 0.1**2 * -math.log(0.9), rel=1e-12)
    assert alarm.item() == pytest.approx(0.75 * 0.9**2 * -math.log(0.1), rel=1e-12)


# ---- class-balanced ------------------------------------------------------------------------------------------------


def test_balanced_weights_without_beta_are_ones():
    labels = torch.tensor([[1.0], [0.0], [0.0], [NAN]])
    for side in effective_weights(labels, beta=0.0):
        assert side.tolist() == [1.0]


def test_balanced_weights_are_the_effective_number():
    labels = torch.cat([torch.ones(4, 1), torch.zeros(96, 1)])
    yes, no = effective_weights(labels, beta=0.99)
    expected = [(1 - 0.99) / (1 - 0.99**n) for n in (4, 96)]
    assert yes.item() / no.item() == pytest.approx(expected[0] / expected[1], rel=1e-6)
    assert yes.item() + no.item() == pytest.approx(2)
    yes, no = effective_weights(labels, beta=1 - 1e-9)  # towards 1: the inverse counts
    assert yes.item() / no.item() == pytest.approx(24, rel=1e-4)


def test_balanced_weights_of_an_empty_side_are_finite():
    yes, no = effective_weights(torch.zeros(10, 1), beta=0.9)
    assert yes.isfinite().all()
    assert no.isfinite().all()


# ---- AUCPR ---------------------------------------------------------------------------------------------------------


def test_aucpr_without_multipliers_is_the_loss_of_positives():
    logits = torch.tensor([[2.0], [-1.0], [0.5]], dtype=torch.float64)
    labels = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    expected = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-0.5))) / 3
    assert aucpr(logits, labels, multiplier=0.0).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("anchors", [1, 5, 20])
def test_aucpr_of_a_perfect_ranking(anchors):
    logits = torch.tensor([[1e3], [-1e3], [-1e3]], dtype=torch.float64)
    labels = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    found = aucpr(logits, labels, prior=1 / 3, anchors=anchors).item()
    assert found == pytest.approx(-0.5 * math.log(2) / 3, rel=1e-12)


def test_aucpr_equals_a_loop_over_the_formula():
    rng, anchors = np.random.default_rng(0), 7
    z, y = rng.normal(size=(9, 2)), (rng.random((9, 2)) < 0.4).astype(float)
    y[0, 0] = NAN
    lam, b, prior = rng.random((2, anchors)), rng.normal(size=(2, anchors)), np.array([0.3, 0.6])
    total = 0.0
    for k in range(2):
        known = np.flatnonzero(~np.isnan(y[:, k]))
        for a in range(anchors):
            alpha, delta = (a + 1) / (anchors + 1), 1 / (anchors + 1)
            terms = [
                (1 + lam[k, a] * (1 - alpha)) * y[i, k] * np.logaddexp(0, -(z[i, k] + b[k, a]))
                + lam[k, a] * alpha * (1 - y[i, k]) * np.logaddexp(0, z[i, k] + b[k, a])
                for i in known
            ]
            total += delta / (1 - delta) * (np.mean(terms) - lam[k, a] * (1 - alpha) * prior[k] * math.log(2))
    found = aucpr_loss(*(torch.from_numpy(each) for each in (z, y, lam, b, prior)))
    assert found.item() == pytest.approx(total / 2, rel=1e-12)


def test_multipliers_rise_where_the_bound_is_broken_and_stay_above_zero():
    """Minimising through the reversed gradient maximises; a sign that flipped would let them collapse to 0."""
    logits, labels = torch.zeros(4, 1), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    multipliers = torch.ones(1, 20, requires_grad=True)
    for scale in (0.1, 1.0):
        multipliers.grad = None
        reversed_ = reverse_gradient(multipliers, scale)
        aucpr_loss(logits, labels, reversed_, torch.zeros(1, 20), torch.tensor([0.25])).backward()
        level = torch.arange(1, 21) / 21
        # log 2 (mean of (1 - a) y + a (1 - y), less (1 - a) times the prior) / A, turned round
        expected = -scale * math.log(2) * ((1 - level) / 4 + level * 3 / 4 - (1 - level) / 4) / 20
        torch.testing.assert_close(multipliers.grad[0], expected)
    below = torch.full((1, 20), -0.5)
    same = [aucpr_loss(logits, labels, each, torch.zeros(1, 20), torch.tensor([0.25])) for each in (below, -below)]
    assert same[0] == same[1]


# ---- maps of negative images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 2)])
def test_maps_of_absent_classes_are_pushed_down_everywhere(grid):
    maps = torch.zeros(3, 2, *grid, requires_grad=True)
    labels = torch.tensor([[0.0, 1.0], [NAN, 0.0], [1.0, 0.7]])
    loss = negative_map_loss(maps, labels)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    cold = labels == 0
    assert (maps.grad[~cold] == 0).all()
    cells = math.prod(grid)
    torch.testing.assert_close(maps.grad[cold], torch.full((2, *grid), 0.5 / cells / 2))  # sigmoid(0) / n, two pairs


@pytest.mark.parametrize("soft", [0.001, 0.3, 0.5, 0.9])
def test_an_uncertain_class_is_not_pushed_down(soft):
    """Only a label of exactly 0 says that a class is nowhere: of logits 0 and 3 the first alone counts, log 2."""
    maps = torch.tensor([0.0, 3.0]).view(2, 1, 1, 1).requires_grad_()
    loss = negative_map_loss(maps, torch.tensor([[0.0], [soft]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert maps.grad.flatten().tolist() == [0.5, 0.0]


def test_padding_is_no_negative_image():
    maps = torch.tensor([[[[1.0, 9.0]]]])
    valid = torch.tensor([[[[True, False]]]])
    assert negative_map_loss(maps, torch.zeros(1, 1), valid).item() == pytest.approx(math.log1p(math.e))


# ---- softmax -------------------------------------------------------------------------------------------------------


def test_softmax_cross_entropy_is_torch_s_over_the_known():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, requires_grad=True)
    groups = torch.tensor([0, 3, 2, 1, 0, 2])
    labels = F.one_hot(groups, 4).float()
    labels[4] = NAN
    known = [0, 1, 2, 3, 5]
    loss = cross_entropy_loss(logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[known], groups[known]))
    loss.backward()
    assert (logits.grad[4] == 0).all()
    assert (logits.grad[known] != 0).all()


def test_softmax_focus_is_its_formula_and_finite_at_certainty():
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    labels = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    found = cross_entropy_loss(p.log(), labels, weights, gamma=2.0)
    assert found.item() == pytest.approx(2 * 0.5**2 * math.log(2), rel=1e-12)
    certain = torch.tensor([[0.0, 1e4, 0.0]], requires_grad=True)
    cross_entropy_loss(certain, labels.float(), gamma=0.5).backward()
    assert certain.grad.isfinite().all()


def test_nothing_known_of_a_softmax_is_zero_with_a_graph():
    logits = torch.zeros(2, 3, requires_grad=True)
    cross_entropy_loss(logits, torch.full((2, 3), NAN)).backward()
    assert (logits.grad == 0).all()


def test_balanced_weights_of_a_softmax_have_mean_one_over_the_images():
    groups = torch.tensor([0] * 6 + [1] * 3 + [2])
    labels = F.one_hot(groups, 3).float()
    weights = balanced_weights(labels)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    assert weights[groups].mean().item() == pytest.approx(1)
    assert softmax_weights(labels, beta=0.0).tolist() == [1.0, 1.0, 1.0]


def test_equivariance_of_probabilities_where_both_are_known():
    """Sigmoids .5 and .75 differ by .25; softmaxes of (0, 0) and (log 3, 0) too, in either class; unknown is silent."""
    from lesioncam.functional.losses import equivariance_loss

    maps = torch.zeros(1, 2, 1, 1, 2, requires_grad=True)
    warped = torch.zeros(1, 2, 1, 1, 2)
    warped[0, 0] = math.log(3.0)
    warped[..., 1] = float("nan")
    known = torch.tensor([[[[[True, False]]]]])
    assert equivariance_loss(maps, warped, known).item() == pytest.approx(0.125)  # .25 and 0, over two classes
    loss = equivariance_loss(maps, warped, known, exclusive=True)
    assert loss.item() == pytest.approx(0.25)
    loss.backward()
    assert equivariance_loss(maps, warped, ~known & known).item() == 0
    assert (maps.grad[..., 1] == 0).all()
