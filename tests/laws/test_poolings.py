"""What every pooling must obey, with weights of its own or without."""

import pytest
import torch
from tests.laws.kinds import COUNTS_LOCATIONS, KNOWS_AXES, NOT_MONOTONE, POOLINGS, pooling

from lesioncam.functional.pooling import POOLINGS as FUNCTIONS
from lesioncam.functional.pooling import avg_pool
from lesioncam.models.pooling import LEARNABLE
from lesioncam.options.poolings import POOLING_TYPES, PRESETS

GRIDS = [(7,), (5, 6), (3, 4, 5)]
every = pytest.mark.parametrize("name", POOLINGS)


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scene(*grid, images=2, scale=1.0):
    """Class maps ``(N, 3, *grid)`` and the features ``(N, 4, *grid)`` beside them."""
    return noise(images, 3, *grid, scale=scale), noise(images, 4, *grid, seed=1)


def changed(maps, place, by):
    maps = maps.clone()
    maps[(..., *place)] += by
    return maps


def test_the_tables_hold_the_same_names():
    assert {*FUNCTIONS, *LEARNABLE} == set(POOLING_TYPES) == set(PRESETS)
    assert not set(FUNCTIONS) & set(LEARNABLE)
    assert set(POOLINGS) >= COUNTS_LOCATIONS | KNOWS_AXES | NOT_MONOTONE
    for kind, options in POOLING_TYPES.items():
        assert options.model_fields["kind"].default == kind


@every
@pytest.mark.parametrize("grid", GRIDS)
def test_padding_takes_no_part(name, grid):
    maps, features = scene(*grid)
    pool, window = pooling(name, axes=len(grid)), (..., *(slice(1, 1 + n) for n in grid))
    wide, valid = [], torch.zeros(2, 1, *(n + 3 for n in grid), dtype=torch.bool)
    valid[window] = True
    for i, inner in enumerate((maps, features)):
        outer = noise(*inner.shape[:2], *valid.shape[2:], seed=8 + i, scale=40)
        outer[window] = inner
        wide.append(outer)
    torch.testing.assert_close(pool(*wide, valid), pool(maps, features))


@every
@pytest.mark.parametrize("value", [-1e4, -200.0, -3.0, 0.0, 3.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_map_is_its_own_logit(name, value, dtype):
    maps, expected = torch.full((2, 3, 4, 5), value, dtype=dtype), torch.full((2, 3), value, dtype=dtype)
    if name in COUNTS_LOCATIONS:  # 1 - P = (1 - p)^20
        log_none = 20 * torch.nn.functional.logsigmoid(-expected.double())
        expected = torch.where(log_none > -1e-300, value + torch.tensor(20.0).double().log(), (-log_none).expm1().log())
        expected = torch.where(log_none < -100, -log_none, expected).to(dtype)
    pool, features = pooling(name).to(dtype), scene(4, 5)[1].to(dtype)
    torch.testing.assert_close(pool(maps, features), expected, rtol=2e-7 if dtype == torch.float32 else 1e-12, atol=0)


@every
def test_raising_the_hottest_location_never_lowers_the_logit(name):
    maps, features = scene(5, 6, images=40, scale=3)
    pool, flat = pooling(name), maps.flatten(2)
    hottest = torch.zeros_like(flat).scatter_(2, flat.argmax(-1, keepdim=True), 1.0).view_as(maps)
    for by in (1e-3, 0.5, 10.0):
        assert (pool(maps + by * hottest, features) >= pool(maps, features) - 1e-12).all()


@every
def test_raising_any_location_never_lowers_the_logit_but_where_it_is_known_to(name):
    maps, features = scene(5, 6, images=40, scale=3)
    pool, lowered = pooling(name), False
    for place in ((0, 0), (2, 3), (4, 5)):
        for by in (1e-3, 0.5, 10.0):
            lowered |= bool((pool(changed(maps, place, by), features) < pool(maps, features) - 1e-12).any())
    assert lowered == (name in NOT_MONOTONE)


@every
def test_locations_may_change_places(name):
    maps, features = scene(5, 6)
    order, pool = torch.randperm(30, generator=torch.Generator().manual_seed(2)), pooling(name)
    mixed = [t.flatten(2)[..., order].view_as(t) for t in (maps, features)]
    same = torch.allclose(pool(*mixed), pool(maps, features), rtol=1e-9)
    assert same == (name not in KNOWS_AXES)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_at_large_logits(name, dtype):
    pool = pooling(name).float()
    maps, features = (1e4 * t.sign().to(dtype) for t in scene(4, 5))
    maps[0, 0], maps[0, 1] = -1e4, 1e4
    maps.requires_grad_()
    logits = pool(maps, features)
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert maps.grad.isfinite().all()


@every
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_those_of_the_formula(name, padded):
    maps, features = (t.requires_grad_() for t in scene(3, 4))
    pool, valid = pooling(name), None
    if padded:
        valid = torch.ones(2, 1, 3, 4, dtype=torch.bool)
        valid[0, :, 0], valid[1, ..., 2:] = False, False
    own = tuple(pool.parameters())
    assert torch.autograd.gradcheck(lambda s, f, *_: pool(s, f, valid), (maps, features, *own))
    (gradient,) = torch.autograd.grad(pool(maps, features, valid).sum(), maps)
    if padded:
        assert (gradient.masked_select(~valid) == 0).all()


@every
def test_a_batch_is_its_images_one_by_one(name):
    maps, features = scene(5, 6, images=4)
    valid = torch.ones(4, 1, 5, 6, dtype=torch.bool)
    valid[1, ..., :2] = False
    pool = pooling(name)
    alone = [pool(maps[i : i + 1], features[i : i + 1], valid[i : i + 1]) for i in range(4)]
    assert alone[0].shape == (1, 3)
    torch.testing.assert_close(pool(maps, features, valid), torch.cat(alone))


@every
def test_a_volume_of_one_slice_is_an_image(name):
    maps, features = scene(5, 6)
    flat, deep = pooling(name), pooling(name, axes=3)
    with torch.no_grad():  # the weights of an image's two axes, then those of the axis of one slice, which say nothing
        for ours, theirs in zip(deep.parameters(), flat.parameters(), strict=True):
            ours[-len(theirs) :] = theirs
    image, volume = flat(maps, features), deep(maps[:, :, None], features[:, :, None])
    if name in KNOWS_AXES:  # the mean over axes has one more term: all of the one slice, the mean
        image = (2 * image + avg_pool(maps)) / 3
    torch.testing.assert_close(volume, image)


@every
def test_autocast_changes_nothing(name):
    pool = pooling(name).float()
    maps, features = (t.float() for t in scene(4, 5, scale=4))
    with torch.autocast("cpu", torch.bfloat16):
        inside = pool(maps, features)
    assert torch.equal(inside, pool(maps, features))
