"""Poolings against numbers a person can compute, their limits, order and numerics (methods sections 1 and 2)."""

import math

import pytest
import torch

from lesioncam.functional.pooling import POOLINGS, avg_pool, lse_pool, max_pool, pcam_pool, topq_pool

LN3 = math.log(3.0)
NAMES = sorted(POOLINGS)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (avg_pool, 0.549306),
        (lambda s: lse_pool(s, sharpness=1.0), math.log(2)),
        (lambda s: pcam_pool(s, temperature=1.0), 0.6 * LN3),
        (max_pool, LN3),
        (lambda s: topq_pool(s, fraction=0.5), LN3),
    ],
)
def test_worked_example(pool, expected):
    assert pool(torch.tensor([[[0.0, LN3]]])).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_a_constant_map_is_its_own_logit(name, value):
    expected = torch.full((2, 3), value)
    torch.testing.assert_close(POOLINGS[name](torch.full((2, 3, 4, 5), value)), expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_large_logits(name, dtype):
    maps = torch.tensor([[[-1e4, 1e4, -20.0, -100.0], [-1e4, -9e3, -1e4, -1e4]]], dtype=dtype).requires_grad_()
    out = POOLINGS[name](maps)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", [(7,), (5, 6), (3, 4, 5)])
def test_padding_takes_no_part(name, grid):
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(2, 3, *grid, generator=generator)
    padded = torch.full((2, 3, *(n + 2 for n in grid)), 50.0)
    valid = torch.zeros(2, 1, *(n + 2 for n in grid), dtype=torch.bool)
    window = (..., *(slice(1, 1 + n) for n in grid))
    padded[window], valid[window] = inner, True
    torch.testing.assert_close(POOLINGS[name](padded, valid), POOLINGS[name](inner))


@pytest.mark.parametrize("name", NAMES)
def test_places_may_be_shuffled_and_a_batch_of_one_keeps_its_axis(name):
    maps = torch.randn(1, 2, 36, generator=torch.Generator().manual_seed(1))
    shuffled = maps[..., torch.randperm(36, generator=torch.Generator().manual_seed(2))]
    assert POOLINGS[name](maps).shape == (1, 2)
    torch.testing.assert_close(POOLINGS[name](maps), POOLINGS[name](shuffled))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_double(name):
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(POOLINGS[name], (maps,))


def test_order_of_the_family():
    maps = 3 * torch.randn(50, 4, 64, generator=torch.Generator().manual_seed(4))
    avg, top = avg_pool(maps), max_pool(maps)
    pcams = [pcam_pool(maps, temperature=t) for t in (0.05, 0.5, 1.0, 5.0)]
    for r in (0.1, 1.0, 10.0):
        lse = lse_pool(maps, sharpness=r)
        assert (avg <= lse + 1e-5).all()
        assert (lse <= top + 1e-5).all()
        assert (lse >= top - math.log(64) / r - 1e-5).all()
    for sharper, flatter in zip(pcams, pcams[1:], strict=False):
        assert (sharper >= flatter - 1e-5).all()


def test_limits():
    maps = torch.randn(2, 2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(lse_pool(maps, sharpness=1e-6), avg_pool(maps), atol=1e-5, rtol=0)
    torch.testing.assert_close(lse_pool(maps, sharpness=1e5), max_pool(maps), atol=1e-3, rtol=0)
    torch.testing.assert_close(pcam_pool(maps, temperature=1e-4), max_pool(maps), atol=1e-3, rtol=0)
    torch.testing.assert_close(pcam_pool(maps, temperature=1e6), avg_pool(maps), atol=1e-5, rtol=0)
    torch.testing.assert_close(topq_pool(maps, fraction=1.0), avg_pool(maps))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_pcam_equals_its_slow_feature_space_form(temperature):
    """Weights p^(1/T) normalised by division, applied to features, then the shared head (the paper's text)."""
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=generator)
    weight, bias = torch.randn(3, 5, dtype=torch.float64, generator=generator), torch.randn(3, dtype=torch.float64)
    slow = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            p = torch.sigmoid(torch.einsum("c,chw->hw", weight[k], features[n]) + bias[k]) ** (1 / temperature)
            pooled = (features[n] * (p / p.sum())).sum((1, 2))
            slow[n, k] = weight[k] @ pooled + bias[k]
    maps = torch.einsum("kc,nchw->nkhw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(pcam_pool(maps, temperature=temperature), slow)


def test_pcam_gradient_identity_and_worked_contrast():
    maps = torch.tensor([[[6.0, -6.0, -6.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    logit = pcam_pool(maps, temperature=1.0)
    (gradient,) = torch.autograd.grad(logit.sum(), maps)
    assert logit.item() == pytest.approx(3.964, abs=1e-3)
    assert gradient.flatten().tolist() == pytest.approx([0.667, -0.015, -0.015, -0.327], abs=1e-3)


def test_pcam_survives_what_kills_the_ratio():
    """The published p / sum(p) is NaN below -88.7 in float32 and below -17.3 in half precision."""
    assert pcam_pool(torch.full((1, 1, 16), -200.0)).item() == -200.0
    assert pcam_pool(torch.full((1, 1, 16), -20.0, dtype=torch.float16)).item() == -20.0


def test_topq_takes_at_least_one_place_and_counts_only_valid_ones():
    maps = torch.arange(25.0).view(1, 1, 5, 5)
    assert topq_pool(maps, fraction=0.02).item() == 24.0  # round(0.5) = 0 would be an empty mean
    valid = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    valid[..., :2, :] = True  # ten places, 0 to 9
    assert topq_pool(maps, valid, fraction=0.2).item() == 8.5


@pytest.mark.parametrize(
    ("pool", "option"),
    [(lse_pool, {"sharpness": 0.0}), (pcam_pool, {"temperature": -1.0}), (topq_pool, {"fraction": 0.0})],
)
def test_impossible_options_are_named(pool, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        pool(torch.zeros(1, 1, 4), **option)


def test_wrong_shapes_fail_where_they_enter():
    """Shapes in annotations are checked in tests: a valid mask of another grid or batch is named."""
    with pytest.raises(Exception, match="valid"):
        avg_pool(torch.zeros(1, 2, 3, 4), torch.ones(2, 1, 5, 4, dtype=torch.bool))
