"""Attention over places and along axes (ACAM): identities, slow versions from the papers' text, numerics; 1D to 3D."""

import math

import pytest
import torch

from lesioncam.functional.attention import (
    COMBINE,
    Attention,
    acam_maps,
    acam_pool,
    attention_pool,
    attention_scores,
    axis_attention,
    combined,
)
from lesioncam.functional.cam import class_maps
from lesioncam.functional.pooling import avg_pool, max_pool

GRIDS = [(7,), (4, 6), (3, 4, 5)]
LN3 = math.log(3.0)


def noise(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def scene(grid, classes=3, channels=5, images=2):
    """Features, class maps with their weights, and axis weights."""
    features, weight, bias = noise(images, channels, *grid), noise(classes, channels, seed=1), noise(classes, seed=2)
    axes = noise(len(grid), channels, seed=3)
    return features, class_maps(features, weight, bias), weight, bias, axes


def attention(channels=5, hidden=4, out=3, gated=True):
    gate = noise(hidden, channels, seed=6) if gated else None
    return Attention(noise(hidden, channels, seed=4), noise(out, hidden, seed=5), gate)


def framed(inner, seed=8):
    """The same with a frame of hot noise as padding, and where it is valid."""
    grid = inner.shape[2:]
    wide = noise(*inner.shape[:2], *(n + 3 for n in grid), seed=seed, scale=40)
    valid = torch.zeros(len(inner), 1, *wide.shape[2:], dtype=torch.bool)
    window = (..., *(slice(1, 1 + n) for n in grid))
    wide[window], valid[window] = inner, True
    return wide, valid


# ---- attention over places -----------------------------------------------------------------------------------------


def test_attention_worked_example():
    """Scores 0 and ln 3 give weights 1/4 and 3/4."""
    features = torch.tensor([[[0.0, 50.0]]])
    weights = Attention(torch.ones(1, 1), torch.tensor([[LN3]]))  # ln 3 * tanh(F)
    assert attention_pool(torch.tensor([[[0.0, LN3]]]), features, weights).item() == pytest.approx(0.75 * LN3)
    gated = weights._replace(gate=torch.zeros(1, 1), out=torch.tensor([[2 * LN3]]))  # the gate is 1/2 everywhere
    assert attention_pool(torch.tensor([[[0.0, LN3]]]), features, gated).item() == pytest.approx(0.75 * LN3)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("out", [3, 1])
def test_attention_equals_the_paper_place_by_place(grid, gated, out):
    features, maps, *_ = scene(grid)
    weights = attention(out=out, gated=gated)
    slow = torch.zeros(2, 3, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            v = weights.out[k if out == 3 else 0]
            asked, evidence = [], []
            for h, s in zip(features[n].flatten(1).T, maps[n, k].flatten(), strict=True):
                hidden = torch.tanh(weights.value @ h)
                if gated:
                    hidden = hidden * torch.sigmoid(weights.gate @ h)
                asked.append(float(v @ hidden))
                evidence.append(float(s))
            total = sum(math.exp(a) for a in asked)
            slow[n, k] = sum(math.exp(a) / total * s for a, s in zip(asked, evidence, strict=True))
    torch.testing.assert_close(attention_pool(maps, features, weights), slow)


def test_attention_limits_are_mean_and_maximum():
    features, maps, weight, *_ = scene((4, 5))
    flat = attention()._replace(out=torch.zeros(3, 4, dtype=torch.float64))
    torch.testing.assert_close(attention_pool(maps, features, flat), avg_pool(maps))
    sharp = Attention(1e-3 * weight, 1e7 * torch.eye(3, dtype=torch.float64))  # tanh is linear: attention follows s
    torch.testing.assert_close(attention_pool(maps, features, sharp), max_pool(maps))


def test_a_shared_attention_ranks_places_alike_for_all_classes():
    features, maps, *_ = scene((4, 5))
    scores = attention_scores(features, attention(out=1))
    weight = scores.flatten(2).softmax(-1).view(2, 1, 4, 5)
    torch.testing.assert_close(attention_pool(maps, features, attention(out=1)), (weight * maps).sum((2, 3)))


# ---- ACAM ----------------------------------------------------------------------------------------------------------


def test_acam_worked_example():
    """Rows ask 0 and ln 3: attention 1/4 and 3/4; columns ask the same of both: 1/2 each."""
    features = torch.tensor([[[[0.0, 0.0], [LN3, LN3]]]])
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 8.0]]]])  # row means 1.5 and 5.5, mean 3.5
    logit = acam_pool(maps, features, torch.tensor([[1.0], [1.0]]))
    assert logit.item() == pytest.approx(((0.25 * 1.5 + 0.75 * 5.5) + 3.5) / 2)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shared", [False, True])
def test_acam_equals_its_text(grid, shared):
    """Means of the features over the other axes, softmax over slices, the head on what is attended, mean over axes."""
    features, maps, weight, bias, axes = scene(grid)
    axes = axes[:1] if shared else axes
    slow = torch.zeros(2, 3, dtype=torch.float64)
    for a in range(len(grid)):
        others = tuple(d for d in range(2, 2 + len(grid)) if d != a + 2)
        means = features.mean(others) if others else features  # (N, C, n_a)
        asked = torch.einsum("c,nci->ni", axes[0 if shared else a], means)
        attended = torch.einsum("ni,nci->nc", asked.softmax(-1), means)
        slow += (attended @ weight.T + bias) / len(grid)
    torch.testing.assert_close(acam_pool(maps, features, axes), slow)


@pytest.mark.parametrize("grid", GRIDS)
def test_acam_identities(grid):
    """mean(s^a M) = l^a - b along each axis; for `mean` the mean of C' is l - b, and its map with the bias gives l."""
    features, maps, weight, bias, axes = scene(grid)
    bare = class_maps(features, weight)
    found = axis_attention(features, axes)
    space = tuple(range(2, 2 + len(grid)))
    spread = bias[None]
    for a, each in enumerate(found):
        torch.testing.assert_close(each.mean(1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)  # sum s = 1
        alone = tuple(each if b == a else torch.ones_like(other) for b, other in enumerate(found))
        along = combined(alone, "product")
        slices = maps.mean(tuple(d for d in space if d != a + 2)) if len(grid) > 1 else maps
        logit = torch.einsum("ni,nki->nk", each / each.shape[1], slices)
        torch.testing.assert_close((along * bare).mean(space), logit - spread, rtol=0, atol=1e-12)
    logits = acam_pool(maps, features, axes)
    torch.testing.assert_close(
        acam_maps(bare, found, "mean").mean(space), logits - spread, rtol=0, atol=1e-12
    )  # without the bias
    torch.testing.assert_close(acam_maps(maps, found, "mean", bias).mean(space), logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("combine", sorted(COMBINE))
def test_an_even_attention_leaves_the_class_maps(grid, combine):
    features, maps, _, bias, axes = scene(grid)
    even = torch.zeros_like(axes)
    torch.testing.assert_close(acam_pool(maps, features, even), avg_pool(maps))
    torch.testing.assert_close(acam_maps(maps, axis_attention(features, even), combine, bias), maps)


@pytest.mark.parametrize("combine", sorted(COMBINE))
def test_the_map_that_is_shown_is_the_attention_times_the_map_without_its_bias(combine):
    features, maps, weight, bias, axes = scene((3, 4, 5))
    found = axis_attention(features, axes)
    shown = acam_maps(maps, found, combine, bias)
    bare = class_maps(features, weight)
    for place in ((0, 0, 0), (2, 1, 4), (1, 3, 2)):
        each = [float(along[1, i]) for along, i in zip(found, place, strict=True)]
        one = {
            "mean": sum(each) / 3,
            "product": math.prod(each),
            "geomean": math.prod(each) ** (1 / 3),
            "min": min(each),
        }
        expected = one[combine] * bare[1, 2][place] + bias[2]
        assert shown[1, 2][place].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_axes_may_change_places(order):
    features, maps, _, bias, axes = scene((3, 4, 5))
    moved = [t.permute(0, 1, *(2 + a for a in order)) for t in (features, maps)]
    turned = axes[list(order)]
    torch.testing.assert_close(acam_pool(moved[1], moved[0], turned), acam_pool(maps, features, axes))
    ours = acam_maps(maps, axis_attention(features, axes), "product", bias)
    theirs = acam_maps(moved[1], axis_attention(moved[0], turned), "product", bias)
    torch.testing.assert_close(theirs, ours.permute(0, 1, *(2 + a for a in order)))


@pytest.mark.parametrize("grid", GRIDS)
def test_padded_slices_change_nothing(grid):
    features, maps, _, bias, axes = scene(grid)
    (wide, valid), wide_maps = framed(features), framed(maps, seed=9)[0]
    torch.testing.assert_close(acam_pool(wide_maps, wide, axes, valid), acam_pool(maps, features, axes))
    window = (..., *(slice(1, 1 + n) for n in grid))
    for combine in COMBINE:
        outer = acam_maps(wide_maps, axis_attention(wide, axes, valid), combine, bias)
        torch.testing.assert_close(outer[window], acam_maps(maps, axis_attention(features, axes), combine, bias))
    torch.testing.assert_close(
        attention_pool(wide_maps, wide, attention(), valid), attention_pool(maps, features, attention())
    )


def test_the_identities_hold_for_a_mask_of_any_shape():
    """A head in a box: slices hold different numbers of places. Attention has mean one, even attention is the mean."""
    features, maps, _, bias, axes = scene((4, 5))
    valid = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(7)) < 0.6
    valid[:, :, 2] = False  # one row of padding
    found = axis_attention(features, axes, valid)
    assert (found[0][:, 2] == 0).all()
    one = torch.ones_like(maps[:, :1])
    for each in ((found[0], torch.ones_like(found[1])), (torch.ones_like(found[0]), found[1])):
        torch.testing.assert_close(avg_pool(one * combined(each, "product"), valid), torch.ones(2, 1).double())
    logits = acam_pool(maps, features, axes, valid)
    torch.testing.assert_close(avg_pool(acam_maps(maps, found, "mean", bias), valid), logits)
    even = torch.zeros_like(axes)
    torch.testing.assert_close(acam_pool(maps, features, even, valid), avg_pool(maps, valid))


def test_ghosts_of_each_way_to_combine():
    """Near-perfect attention: what a voxel keeps that shares 2, 1 or 0 of the lesion's three coordinates."""
    r = 3.3e-4  # of attention beside the lesion to attention on it
    on = 10 / (1 + 9 * r)
    each = torch.full((1, 10), on * r, dtype=torch.float64)
    each[0, 4] = on
    kept = {}
    for combine in COMBINE:
        weight = combined((each, each, each), combine)[0, 0]
        peak = weight[4, 4, 4]
        kept[combine] = [float(weight[place] / peak) for place in ((4, 4, 0), (4, 0, 0), (0, 0, 0))]
    assert kept["mean"] == pytest.approx([0.667, 0.334, r], abs=1e-3)
    assert kept["product"] == pytest.approx([r, r**2, r**3])
    assert kept["geomean"] == pytest.approx([0.069, 0.0048, r], abs=2e-4)
    assert kept["min"] == pytest.approx([r, r, r])


def test_erratum_attention_that_only_scales_the_map_learns_nothing():
    """As literally written the logit is the mean, on which the attention has no influence; as pooling it has."""
    features, maps, _, bias, axes = scene((3, 4, 5))
    axes = axes.requires_grad_()
    shown = acam_maps(maps, axis_attention(features, axes), "mean", bias)
    assert shown.requires_grad  # the map depends on the attention ...
    (naive,) = torch.autograd.grad(avg_pool(maps.requires_grad_()).sum(), axes, allow_unused=True)
    assert naive is None  # ... the plain logit does not
    (ours,) = torch.autograd.grad(acam_pool(maps, features, axes).sum(), axes)
    assert (ours.abs() > 1e-6).all()


@pytest.mark.parametrize("slices", [8, 32, 128])
def test_erratum_raw_attention_shrinks_with_the_number_of_slices(slices):
    """Even attention s = 1 / n puts s * C under a threshold of .1 from ten slices on; mean-one attention stays 1."""
    features = torch.zeros(1, 2, slices, 4, 4)
    (along, *_) = axis_attention(features, torch.ones(3, 2))
    assert (along / slices).max().item() == pytest.approx(1 / slices)
    assert torch.equal(along, torch.ones(1, slices))


# ---- numerics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("grid", GRIDS)
def test_finite_at_large_values(dtype, grid):
    features, maps = (noise(2, 3, *grid, seed=s).sign().mul(1e4).to(dtype).requires_grad_() for s in (0, 1))
    weights, axes = attention(channels=3), noise(len(grid), 3, seed=3)
    for out in (attention_pool(maps, features, weights), acam_pool(maps, features, axes)):
        grads = torch.autograd.grad(out.sum(), (maps, features))
        assert out.dtype == torch.float32
        assert out.isfinite().all()
        assert all(g.isfinite().all() for g in grads)
    for combine in COMBINE:
        assert acam_maps(maps, axis_attention(features, axes), combine).isfinite().all()


def test_autocast_is_kept_out():
    features, maps, *_, axes = (t.float() for t in scene((4, 5)))
    weights = Attention(*(t.float() for t in attention()))
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention_pool(maps, features, weights), acam_pool(maps, features, axes)
    assert torch.equal(inside[0], attention_pool(maps, features, weights))
    assert torch.equal(inside[1], acam_pool(maps, features, axes))


@pytest.mark.parametrize("padded", [False, True])
def test_gradients_in_double(padded):
    features, maps, _, bias, axes = scene((3, 2, 2), classes=2, channels=2, images=1)
    valid = None
    if padded:
        valid = torch.ones(1, 1, 3, 2, 2, dtype=torch.bool)
        valid[:, :, 1] = False
        valid[0, 0, 0, 0, 0] = False
    for tensor in (features, maps, axes):
        tensor.requires_grad_()
    value, out, gate = (t.requires_grad_() for t in attention(2, 2, 2))
    inputs = (maps, features, value, out, gate)
    assert torch.autograd.gradcheck(lambda s, f, v, o, g: attention_pool(s, f, Attention(v, o, g), valid), inputs)
    assert torch.autograd.gradcheck(lambda s, f, w: acam_pool(s, f, w, valid), (maps, features, axes))
    for combine in ("mean", "product", "geomean"):
        seen = torch.ones_like(features[:, :1], dtype=torch.bool) if valid is None else valid
        assert torch.autograd.gradcheck(
            lambda s, f, w, c=combine, v=seen: acam_maps(s, axis_attention(f, w, valid), c, bias)[v.expand_as(s)],
            (maps, features, axes),
        )


def test_a_batch_of_one_keeps_its_axis_and_wrong_ways_are_named():
    features, maps, *_, axes = scene((4, 5), images=1)
    assert acam_pool(maps, features, axes).shape == attention_pool(maps, features, attention()).shape == (1, 3)
    with pytest.raises(ValueError, match=r"mean, product, geomean, min; got 'sum'"):
        combined(axis_attention(features, axes), "sum")
