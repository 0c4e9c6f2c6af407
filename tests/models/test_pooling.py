"""Poolings by configuration: presets, those with weights of their own, a user's own, and errors that help."""

import pytest
import torch

from lesioncam.errors import ModelError, OptionError
from lesioncam.functional.pooling import POOLINGS
from lesioncam.models.classifier import build_classifier
from lesioncam.models.pooling import LEARNABLE, PoolInput, build_pool
from lesioncam.options.poolings import (
    POOLING_TYPES,
    PRESETS,
    AcamPool,
    AttentionPool,
    CustomPool,
    LsePool,
    PcamPool,
    parse_pooling,
)
from lesioncam.options.run import RunConfig, make_config

SEEN = PoolInput(channels=6, classes=3)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- options -------------------------------------------------------------------------------------------------------


def test_presets():
    assert parse_pooling("pcam,preset=paper") == PcamPool(temperature=1.0)
    assert parse_pooling("pcam,preset=recommended") == PcamPool() == PcamPool(temperature=0.5)
    assert parse_pooling("acam,preset=paper") == AcamPool(combine="mean")
    assert parse_pooling("acam,preset=recommended") == AcamPool()
    assert parse_pooling("attention,preset=paper").gated is False
    assert parse_pooling("lse,preset=paper") == LsePool(sharpness=10.0)


@pytest.mark.parametrize("text", ["pcam,preset=paper,temperature=2", "pcam,temperature=2,preset=paper"])
def test_what_is_said_beats_the_preset(text):
    assert parse_pooling(text) == PcamPool(temperature=2.0)


@pytest.mark.parametrize("kind", sorted(POOLING_TYPES))
def test_the_recommended_preset_is_the_default(kind):
    assert set(PRESETS[kind]) == {"paper", "recommended"}
    assert parse_pooling(f"{kind},preset=recommended") == POOLING_TYPES[kind]()
    assert make_config(pooling=f"{kind},preset=paper").pooling.kind == kind


def test_erratum_untrained_noisy_or_is_certain_and_learns_nothing_from_positives():
    """Of 256 places at probability 1/2 none is free of doubt: 1 - P = 2^-256, and the gradient is that small too."""

    def start(text):
        config = make_config(pooling=text, size=128)
        network = build_classifier(config, 1).eval()
        torch.nn.init.zeros_(network.head.weight)
        logits = network(noise(2, 1, 128, 128)).logits
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(2, 1)).backward()
        return logits.sigmoid().detach(), network.head.bias.grad.item()

    paper, slope = start("noisy_or,preset=paper")
    assert (paper == 1).all()
    assert abs(slope) < 1e-30
    own, slope = start("noisy_or")
    closed = 1 - 0.997**256
    torch.testing.assert_close(own, torch.full((2, 1), closed))
    assert slope == pytest.approx(-(1 - closed) * 256 * 0.003 / closed, rel=1e-4)  # d log P / d s = (1-P)/P n p


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lse,temperature=2", "available: kind, sharpness; temperature belongs to pcam"),
        ("pcam,sharpness=2", "sharpness belongs to lse"),
        ("avg,fraction=0.1", "fraction belongs to topq"),
        ("attention,combine=min", "combine belongs to acam"),
        ("topq,shared=true", "shared belongs to acam and attention"),
        ("noisy_or,strength=2", "available: kind"),
        ("noisyor", "Did you mean 'noisy_or'"),
        ("pcam,preset=papers", "Did you mean 'paper'"),
        ("acam,combine=sum", "'mean', 'product', 'geomean' or 'min'"),
        ("attention,hidden=0", "greater than 0"),
    ],
)
def test_slips_are_answered(text, message):
    with pytest.raises(OptionError, match=message):
        parse_pooling(text)


def test_an_option_of_another_pooling_is_named_in_a_dict_too():
    with pytest.raises(OptionError, match=r"pooling\.lse\.temperature.*; temperature belongs to pcam"):
        make_config(pooling={"kind": "lse", "temperature": 2})


def test_a_file_may_say_it_in_one_line():
    assert RunConfig.model_validate({"pooling": "pcam,preset=paper"}).pooling == PcamPool(temperature=1.0)
    with pytest.raises(OptionError, match="temperature belongs to pcam"):
        make_config(pooling="lse,temperature=1")


@pytest.mark.parametrize("kind", sorted(POOLING_TYPES))
def test_options_come_back_from_a_file(kind):
    config = RunConfig(pooling=POOLING_TYPES[kind]())
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


# ---- weights of their own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(POOLINGS))
def test_options_reach_the_function(kind):
    maps = noise(2, 3, 4, 5)
    config = POOLING_TYPES[kind]()
    options = config.model_dump(exclude={"kind", "prior"})  # the prior is where the head starts
    assert torch.equal(build_pool(config)(maps, maps), POOLINGS[kind](maps, **options))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (AttentionPool(hidden=5), 5 * 6 + 5 * 6 + 3 * 5),
        (AttentionPool(hidden=5, gated=False), 5 * 6 + 3 * 5),
        (AttentionPool(hidden=5, shared=True), 5 * 6 + 5 * 6 + 5),
        (AcamPool(), 2 * 6),
        (AcamPool(shared=True), 6),
    ],
)
def test_weights_are_those_of_the_formula_and_all_are_used(config, count):
    """A weight without a gradient stops distributed training: none is built that is not used."""
    pool = build_pool(config, given=SEEN)
    assert sum(p.numel() for p in pool.parameters()) == count
    pool(noise(2, 3, 4, 5), noise(2, 6, 4, 5, seed=1)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in pool.parameters())


def test_acam_in_3d_has_one_vector_for_each_axis():
    pool = build_pool(AcamPool(), given=SEEN._replace(axes=3))
    assert [tuple(p.shape) for p in pool.parameters()] == [(3, 6)]
    maps, features = noise(2, 3, 2, 4, 5), noise(2, 6, 2, 4, 5, seed=1)
    shown = pool.attended(maps, features, torch.zeros(3))
    assert shown.shape == maps.shape
    ways = [build_pool(AcamPool(combine=way), given=SEEN._replace(axes=3)) for way in ("mean", "product")]
    for other in ways:
        other.load_state_dict(pool.state_dict())
    one, two = (each(maps, features) for each in ways)
    assert torch.equal(one, two)  # the way to combine is for the map that is shown; the logit is the same


@pytest.mark.parametrize("kind", sorted({*POOLINGS, "attention"}))
def test_only_acam_shows_other_maps(kind):
    pool = build_pool(POOLING_TYPES[kind](), given=SEEN)
    assert pool.attended(noise(1, 3, 4, 5), noise(1, 6, 4, 5), None) is None


@pytest.mark.parametrize("kind", sorted(LEARNABLE))
def test_sizes_must_be_known(kind):
    with pytest.raises(ModelError, match="weights of its own"):
        build_pool(POOLING_TYPES[kind]())


# ---- a user's own --------------------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    """The mean, times a weight that is learnt."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, class_maps):
        return self.weight * class_maps.mean((2, 3))


def test_a_users_module_is_copied():
    """Two runs with one module begin with the same weights, and loading a run leaves the user's as they are."""
    mine = Scaled()
    first = build_pool(CustomPool(name="mine"), own=mine)
    with torch.no_grad():
        first.function.weight.fill_(9.0)
    second = build_pool(CustomPool(name="mine"), own=mine)
    assert mine.weight.item() == second.function.weight.item() == 2.0


@pytest.mark.parametrize(
    ("mine", "found"), [(lambda class_maps: class_maps, r"\(2, 3, 4, 5\)"), (lambda class_maps: 1.0, "float")]
)
def test_a_pooling_that_gives_something_else_is_named(mine, found):
    maps = noise(2, 3, 4, 5)
    with pytest.raises(ModelError, match=rf"gives {found}.*one logit per image and class, \(2, 3\)"):
        build_pool(CustomPool(name="mine"), own=mine)(maps, maps)
