"""Poolings against numbers a person can compute, their limits, order and numerics (methods sections 1 and 2)."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lesioncam.functional.pooling import (
    avg_pool,
    exp_pool,
    linear_pool,
    lse_pool,
    max_pool,
    noisy_or_pool,
    pcam_pool,
    topq_pool,
)
from lesioncam.options.poolings import POOLING_TYPES

LN3 = math.log(3.0)


def noise(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (avg_pool, 0.549306),
        (lambda s: lse_pool(s, sharpness=1.0), math.log(2)),
        (lambda s: pcam_pool(s, temperature=1.0), 0.6 * LN3),
        (max_pool, LN3),
        (lambda s: topq_pool(s, fraction=0.5), LN3),
        (lambda s: topq_pool(s, fraction=1.0), LN3 / 2),
        (exp_pool, 0.75 * LN3),
        (linear_pool, math.log(0.65 / 0.35)),
        (noisy_or_pool, math.log(7)),
        (lambda s: lse_pool(s, sharpness=2.0), math.log(5) / 2),  # log((1 + 9) / 2) / 2
        (lambda s: pcam_pool(s, temperature=0.5), LN3 * 9 / 13),  # weights (1/2)^2 and (3/4)^2
        (lambda s: pcam_pool(s, temperature=2.0), LN3 * 3**0.5 / (2**0.5 + 3**0.5)),
    ],
)
def test_worked_example(pool, expected):
    assert pool(torch.tensor([[[0.0, LN3]]])).item() == pytest.approx(expected, abs=1e-6)


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


# ---- exp, linear, noisy-or -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "scale", "n"), [(0, 1, 64), (1, 5, 64), (2, 20, 64), (3, 1, 2), (4, 5, 1), (5, 60, 9)]
)
def test_inequalities_hold_for_any_map(seed, scale, n):
    """Order and bounds of the whole family (methods, section 1)."""
    maps = noise(40, 3, n, seed=seed, scale=scale)
    pcam, lse, most = pcam_pool(maps, temperature=1.0), lse_pool(maps, sharpness=1.0), max_pool(maps)
    exp, linear, noisy = exp_pool(maps), linear_pool(maps), noisy_or_pool(maps)
    slack = 1e-9
    assert (avg_pool(maps) <= pcam + slack).all()
    assert (pcam <= exp + slack).all()
    assert (lse <= exp + slack).all()
    assert (exp <= most + slack).all()
    assert (linear <= most + slack).all()
    assert (linear >= maps.amin(-1) - slack).all()
    assert (noisy >= most - slack).all()
    assert (avg_pool(maps) <= topq_pool(maps, fraction=0.3) + slack).all()
    assert (topq_pool(maps, fraction=0.3) <= most + slack).all()


def test_exp_is_lse_and_the_distance_of_its_weights_from_even_ones():
    maps = noise(5, 2, 30, scale=2)
    weights = maps.softmax(-1)
    away = (weights * (weights * 30).log()).sum(-1)
    torch.testing.assert_close(exp_pool(maps), lse_pool(maps, sharpness=1.0) + away)


def test_linear_is_pcam_weights_on_probabilities():
    maps = noise(4, 2, 5, 6, scale=3)
    p = maps.sigmoid()
    ratio = (p**2).sum((2, 3)) / p.sum((2, 3))  # the plain formula, fine for logits of this size
    torch.testing.assert_close(linear_pool(maps).sigmoid(), ratio)


def test_noisy_or_is_one_minus_the_product():
    maps = noise(4, 2, 5, 6, scale=2) - 4
    p = 1 - (1 - maps.sigmoid()).prod(-1).prod(-1)
    torch.testing.assert_close(noisy_or_pool(maps), (p / (1 - p)).log())
    constant = torch.full((1, 1, 7), -2.0, dtype=torch.float64)
    closed = 1 - (1 - constant[0, 0, 0].sigmoid()) ** 7
    assert noisy_or_pool(constant).item() == pytest.approx((closed / (1 - closed)).log().item())


@pytest.mark.parametrize("value", [-1e4, -200.0, -20.5, -20.0, -7.5, -1.0, 0.0, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noisy_or_of_one_place_is_its_logit_at_any_size(value, dtype):
    """Through each of the three branches; where the sum of log(1 + e^s) underflows as well."""
    maps = torch.full((1, 1, 1), value, dtype=dtype, requires_grad=True)
    out = noisy_or_pool(maps)
    out.backward()
    slack = 1e-6 if dtype == torch.float32 else 1e-13
    assert out.item() == pytest.approx(value, rel=slack, abs=slack)
    assert maps.grad.item() == pytest.approx(1.0, rel=1e-5)


def test_noisy_or_of_faint_places_adds_their_probabilities():
    """Far below zero odds are probabilities, and those of n places add up."""
    maps = torch.full((1, 1, 50), -500.0)
    assert noisy_or_pool(maps).item() == pytest.approx(-500 + math.log(50), abs=1e-4)


def test_limits_of_pcam_in_the_size_of_logits():
    """All logits very low: exponential softmax. All very high: the mean."""
    maps = noise(3, 2, 20)
    torch.testing.assert_close(pcam_pool(maps - 60, temperature=1.0), exp_pool(maps) - 60)
    torch.testing.assert_close(pcam_pool(maps + 60, temperature=1.0), avg_pool(maps) + 60)


def test_a_constant_added_makes_pcam_more_even_and_exp_no_different():
    maps = noise(6, 2, 20, scale=2)
    torch.testing.assert_close(exp_pool(maps + 3), exp_pool(maps) + 3)
    assert (pcam_pool(maps + 3, temperature=1.0) < pcam_pool(maps, temperature=1.0) + 3).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_pcam_gradient_is_its_closed_form(temperature):
    maps = noise(2, 3, 17, scale=3).requires_grad_()
    logit = pcam_pool(maps, temperature=temperature)
    (found,) = torch.autograd.grad(logit.sum(), maps)
    weight = (F.logsigmoid(maps) / temperature).softmax(-1)
    closed = weight * (1 + (1 - maps.sigmoid()) * (maps - logit[..., None]) / temperature)
    torch.testing.assert_close(found, closed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sharpness", [1e-6, 0.5, 1.0, 10.0, 1e5])
def test_lse_gradient_is_a_softmax(sharpness):
    maps = noise(2, 3, 17).requires_grad_()
    (found,) = torch.autograd.grad(lse_pool(maps, sharpness=sharpness).sum(), maps)
    torch.testing.assert_close(found, (sharpness * maps).softmax(-1), rtol=0, atol=1e-10)


def test_lse_with_a_tiny_sharpness_is_the_mean_in_single_precision_too():
    """log(n) subtracted from a logsumexp leaves nothing of r = 1e-6 in float32."""
    maps = noise(3, 2, 50, dtype=torch.float32)
    torch.testing.assert_close(lse_pool(maps, sharpness=1e-6), avg_pool(maps), rtol=0, atol=1e-5)


# ---- what public implementations get wrong (methods, sections 1 and 2) ---------------------------------------------


def test_erratum_lse_stabilised_with_the_largest_size_is_minus_infinity():
    maps, r = torch.full((1, 1, 4), -100.0), 10.0
    size = maps.abs().amax(-1, keepdim=True)
    flawed = size[..., 0] + (r * (maps - size)).exp().mean(-1).log() / r
    assert flawed.item() == -math.inf
    assert lse_pool(maps, sharpness=r).item() == -100.0


def test_erratum_linear_on_features_divides_by_nothing():
    features = torch.tensor([[[1.0, -1.0, 2.0, -2.0]]])
    flawed = (features**2).sum(-1) / (features.sum(-1) + 1e-7)
    assert flawed.item() > 1e7
    assert -2.0 <= linear_pool(features).item() <= 2.0


def test_erratum_linear_as_a_ratio_is_infinite_where_probabilities_round_to_one():
    maps = torch.full((1, 1, 8), 40.0)
    p = maps.sigmoid()
    assert torch.logit((p**2).sum(-1) / p.sum(-1)).item() == math.inf
    assert linear_pool(maps).item() == 40.0


def test_erratum_noisy_or_as_a_product_is_infinite():
    maps = torch.full((1, 1, 8), 40.0)
    assert torch.logit(1 - (1 - maps.sigmoid()).prod(-1)).item() == math.inf
    assert noisy_or_pool(maps).item() == 320.0  # 1 - P = e^-320


def test_erratum_a_share_of_a_small_map_is_empty():
    maps = torch.arange(25.0).view(1, 1, 25)
    assert round(0.02 * 25) == 0
    assert maps.topk(0, dim=-1).values.mean(-1).isnan().all()
    assert topq_pool(maps, fraction=0.02).item() == 24.0


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, -104.0), (torch.float16, -18.0)])
def test_erratum_pcam_as_a_ratio_is_nan_on_a_negative_image(dtype, value):
    maps = torch.full((1, 1, 16), value, dtype=dtype)
    p = maps.sigmoid()
    assert (p / p.sum(-1, keepdim=True) * maps).sum(-1).isnan().all()
    assert pcam_pool(maps, temperature=1.0).item() == value


def test_erratum_pooling_features_is_another_function():
    """Feature-space variants (PCAM authors' code): only for the mean the same as pooling the class map."""
    features, weight, bias = noise(2, 5, 12), noise(3, 5, seed=1), noise(3, seed=2)
    maps = torch.einsum("kc,ncx->nkx", weight, features) + bias[:, None]
    torch.testing.assert_close(avg_pool(features) @ weight.T + bias, avg_pool(maps))
    for pool in (lse_pool, exp_pool, linear_pool):
        assert (pool(features) @ weight.T + bias - pool(maps)).abs().max() > 0.1


def test_small_lesions_are_diluted_as_published():
    """One location at logit 4, the others at the background: the table of methods section 1, to three decimals."""
    table = {
        (256, -4.0): (0.019, 0.969, 0.967, 0.188, 0.083, 0.070, 0.967, 0.982, 0.982, 1.0),
        (256, -2.0): (0.122, 0.969, 0.842, 0.146, 0.310, 0.140, 0.323, 0.976, 0.982, 1.0),
        (1024, -4.0): (0.018, 0.965, 0.876, 0.067, 0.027, 0.027, 0.876, 0.982, 0.982, 1.0),
        (1024, -2.0): (0.120, 0.965, 0.425, 0.126, 0.154, 0.124, 0.164, 0.948, 0.982, 1.0),
    }
    pools = [avg_pool, lse_pool, exp_pool, linear_pool, topq_pool]
    pools += [lambda s, t=t: pcam_pool(s, temperature=t) for t in (1.0, 0.5, 0.25)] + [max_pool, noisy_or_pool]
    for (n, background), row in table.items():
        maps = torch.full((1, 1, n), background, dtype=torch.float64)
        maps[..., n // 2] = 4.0
        assert [round(pool(maps).sigmoid().item(), 3) for pool in pools] == pytest.approx(row, abs=1.1e-3)


def test_the_table_of_the_documentation_is_what_the_code_gives():
    """docs/poolings.md, made by `python -m benchmarks.pooling_table`."""
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("pooling_table", root / "benchmarks" / "pooling_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (root / "docs" / "poolings.md").read_text()
    assert script.written(page) == script.table()
    for kind in POOLING_TYPES:
        assert f"### `{kind}`" in page, f"{kind} has no card"
        assert f"`{kind}`" in script.table()
