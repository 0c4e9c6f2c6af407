"""Formulas over activations and gradients: worked values, closed forms on a GAP network, slow versions."""

import itertools

import pytest
import torch

from lesioncam.functional.cam import (
    FORMULAS,
    class_maps,
    eigencam,
    gradcam,
    gradcam_pp,
    hirescam,
    layercam,
    xgradcam,
)

GRIDS = [(7,), (4, 6), (3, 4, 5)]
SIGNED = sorted(set(FORMULAS) - {"eigencam"})


def gap_network(grid, *, classes=3, channels=5, batch=2, seed=0):
    """Features after a ReLU, a linear head, and the gradients that a mean in between gives: W / P everywhere."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, *grid, generator=generator, dtype=torch.float64).relu()
    weight = torch.randn(classes, channels, generator=generator, dtype=torch.float64)
    places = features[0, 0].numel()
    gradients = (weight / places)[None].expand(batch, -1, -1).reshape(batch, classes, channels, *[1] * len(grid))
    return features, weight, gradients.expand(-1, -1, -1, *grid), places


def random_pair(grid, *, classes=3, channels=4, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, channels, *grid, generator=generator, dtype=torch.float64)
    g = torch.randn(batch, classes, channels, *grid, generator=generator, dtype=torch.float64)
    return a, g


@pytest.mark.parametrize("grid", GRIDS)
def test_the_mean_of_a_class_map_is_the_logit(grid):
    features, weight, _, _ = gap_network(grid)
    bias = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    logits = features.flatten(2).mean(-1) @ weight.T + bias
    torch.testing.assert_close(class_maps(features, weight, bias).flatten(2).mean(-1), logits, rtol=0, atol=1e-12)


def test_class_maps_equal_a_triple_loop():
    features, weight, _, _ = gap_network((3, 4))
    maps = class_maps(features, weight)
    for n, k, row, column in itertools.product(range(2), range(3), range(3), range(4)):
        expected = sum(weight[k, c] * features[n, c, row, column] for c in range(5))
        assert abs(maps[n, k, row, column] - expected) < 1e-12


def test_a_class_without_weights_has_a_map_of_zeros():
    features, weight, _, _ = gap_network((3, 4))
    weight[1] = 0
    assert class_maps(features, weight)[:, 1].abs().max() == 0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("formula", [gradcam, hirescam, xgradcam])
def test_three_methods_are_cam_over_the_number_of_places_on_a_gap_network(formula, grid):
    features, weight, gradients, places = gap_network(grid)
    expected = class_maps(features, weight) / places
    torch.testing.assert_close(formula(features, gradients), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_layercam_keeps_positive_weights_on_a_gap_network(grid):
    features, weight, gradients, places = gap_network(grid)
    torch.testing.assert_close(
        layercam(features, gradients), class_maps(features, weight.relu()) / places, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_gradcam_pp_on_a_gap_network(grid):
    features, weight, gradients, _ = gap_network(grid)
    means = features.flatten(2).mean(-1)
    for n in range(2):
        share = weight.relu() / (2 + weight * means[n])
        expected = torch.einsum("kc,c...->k...", share, features[n])
        torch.testing.assert_close(gradcam_pp(features, gradients)[n], expected, rtol=0, atol=1e-12)


def test_gradcam_pp_weights_are_the_derivatives_of_the_exponential():
    """The paper's alpha from autograd: second and third derivatives of exp(logit) by each activation."""
    generator = torch.Generator().manual_seed(3)
    a = torch.rand(1, 2, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    score = (weight * a[0]).sum()
    (gradient,) = torch.autograd.grad(score, a, create_graph=True)
    first = torch.autograd.grad(score.exp(), a, create_graph=True)[0]
    expected = torch.zeros(2, dtype=torch.float64)
    for c, row, column in itertools.product(range(2), range(2), range(3)):
        (second,) = torch.autograd.grad(first[0, c, row, column], a, create_graph=True)
        (third,) = torch.autograd.grad(second[0, c, row, column], a, retain_graph=True)
        d2, d3 = second[0, c, row, column], third[0, c, row, column]
        alpha = d2 / (2 * d2 + a[0, c].sum() * d3)
        expected[c] += (alpha * gradient[0, c, row, column].relu()).detach()
    maps = gradcam_pp(a.detach(), gradient.detach()[:, None])
    torch.testing.assert_close(maps[0, 0], torch.einsum("c,c...->...", expected, a.detach()[0]), rtol=0, atol=1e-12)


def test_gradcam_pp_keeps_tiny_gradients():
    """Squares and cubes of a gradient of 1e-20 are 0 in float32; the weights must not be."""
    a, g = torch.ones(1, 1, 2), torch.full((1, 1, 1, 2), 1e-20)
    assert gradcam_pp(a, g)[0, 0, 0].item() == pytest.approx(1e-20, rel=1e-5)  # 2 places, alpha = 1/2


def test_gradcam_pp_where_the_denominator_vanishes():
    a, g = torch.tensor([[[2.0, 2.0]]]), torch.tensor([[[[-0.5, 1.0]]]])  # 2 + (-0.5) * 4 = 0
    assert torch.isfinite(gradcam_pp(a, g)).all()


@pytest.mark.parametrize("formula", [gradcam, hirescam])
def test_the_worked_example(formula):
    a = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    torch.testing.assert_close(formula(a, torch.full((1, 1, 1, 2, 2), 0.5)), a / 2)


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_slow_version_gives_the_same(name, batch):
    """One image, one class, one channel, one place at a time; the batch may equal the width (3)."""
    a, g = random_pair((2, 3), batch=batch)
    maps = FORMULAS[name](a, g)
    for n, k, row, column in itertools.product(range(batch), range(3), range(2), range(3)):
        value = 0.0
        for c in range(4):
            gc, ac = g[n, k, c], a[n, c]
            weight = {
                "gradcam": gc.mean(),
                "hirescam": gc[row, column],
                "layercam": gc[row, column].clamp(min=0),
                "xgradcam": (gc * ac).sum() / ac.sum(),
                "gradcam_pp": (gc**2 / (2 * gc**2 + ac.sum() * gc**3) * gc.clamp(min=0)).sum(),
            }[name]
            value += weight * ac[row, column]
        assert abs(maps[n, k, row, column] - value) < 1e-10


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_a_batch_is_its_images_and_classes_one_by_one(name):
    a, g = random_pair((3, 5))
    whole = FORMULAS[name](a, g)
    for n, k in itertools.product(range(2), range(3)):
        one = FORMULAS[name](a[n : n + 1], g[n : n + 1, k : k + 1])
        torch.testing.assert_close(whole[n, k], one[0, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_flipping_and_permuting(name):
    a, g = random_pair((3, 5))
    flipped = FORMULAS[name](a.flip(-1), g.flip(-1))
    torch.testing.assert_close(flipped, FORMULAS[name](a, g).flip(-1), rtol=0, atol=1e-10)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(FORMULAS[name](a, g[:, order]), FORMULAS[name](a, g)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_2d_is_3d_with_one_slice(name):
    a, g = random_pair((3, 5))
    deep = FORMULAS[name](a.unsqueeze(2), g.unsqueeze(3))
    torch.testing.assert_close(deep.squeeze(2), FORMULAS[name](a, g), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SIGNED)
def test_silent_channels_give_zeros(name):
    a, g = random_pair((3, 5))
    assert FORMULAS[name](torch.zeros_like(a), g).abs().max() == 0
    assert FORMULAS[name](a, torch.zeros_like(g)).abs().max() == 0


def test_negative_evidence_is_kept():
    a, g = torch.ones(1, 1, 2), -torch.ones(1, 1, 1, 2)
    assert gradcam(a, g).max() < 0
    assert hirescam(a, g).max() < 0


def test_eigencam_of_rank_one_gives_the_spatial_factor():
    place = torch.tensor([[1.0, -2.0], [3.0, 5.0]], dtype=torch.float64)
    channel = torch.tensor([3.0, -4.0], dtype=torch.float64)  # length 5
    a = (channel[:, None, None] * place)[None]
    maps = eigencam(a, torch.zeros(1, 3, 2, 2, 2, dtype=torch.float64))
    assert maps.shape == (1, 3, 2, 2)
    torch.testing.assert_close(maps[0, 1], 5 * place, rtol=0, atol=1e-12)


def test_eigencam_sums_to_no_less_than_zero():
    a, g = random_pair((4, 6), batch=8)
    assert (eigencam(a, g).flatten(2).sum(-1) >= 0).all()
    torch.testing.assert_close(eigencam(-a, g), eigencam(a, g))


def test_eigencam_flags_one_bad_image_and_keeps_the_others():
    a, g = random_pair((4, 6))
    a[0, 0, 0, 0] = torch.nan
    maps = eigencam(a, g)
    assert maps[0].isnan().all()
    torch.testing.assert_close(maps[1], eigencam(a[1:], g[1:])[0])
