"""Classifier, pooling by configuration, checkpoint: the identities a user relies on."""

import json

import numpy as np
import pytest
import torch

from lesioncam.errors import ModelError, RunError
from lesioncam.explanation.cam import Padded, explain_samples
from lesioncam.functional.attention import axis_attention, combined
from lesioncam.geometry import Geometry
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier, save_classifier
from lesioncam.models.classifier import Classifier, build_classifier, shrink_valid
from lesioncam.models.pooling import PoolInput, build_pool
from lesioncam.options.networks import HeadConfig
from lesioncam.options.poolings import (
    POOLING_TYPES,
    AcamPool,
    AvgPool,
    CustomPool,
    LsePool,
    MaxPool,
    PcamPool,
    TopqPool,
    name_of,
    parse_pooling,
)
from lesioncam.options.run import RunConfig, make_config
from lesioncam.runs.card import ClassifierCard
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Calibration, Sample, Threshold

POOLS = [AvgPool(), MaxPool(), LsePool(), TopqPool(fraction=0.1), PcamPool()]


def batch(n=2, side=64):
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(n, 1, side, side, dtype=torch.bool)
    valid[..., :16] = False
    return torch.rand(n, 1, side, side, generator=generator), valid


@pytest.mark.parametrize("pooling", POOLS, ids=lambda p: p.kind)
def test_pooling_the_class_maps_gives_the_logits(pooling):
    net = build_classifier(RunConfig(pooling=pooling), 3).eval()
    images, valid = batch()
    with torch.no_grad():
        out = net(images, valid)
        again = build_pool(pooling)(out.class_maps, out.class_maps, out.valid)
    assert out.class_maps.shape == (2, 3, 8, 8)
    assert torch.equal(again, out.logits)


def test_gap_on_maps_is_gap_on_features_and_a_linear_head():
    net = build_classifier(RunConfig(pooling=AvgPool()), 3).eval()
    images, _ = batch()
    with torch.no_grad():
        features = net.backbone(images).mean((2, 3))
        linear = features @ net.head.weight.flatten(1).T + net.head.bias
        torch.testing.assert_close(net(images).logits, linear, atol=1e-6, rtol=1e-5)


def test_a_batch_gives_the_maps_of_its_images_one_by_one():
    net = build_classifier(RunConfig(), 2).eval()
    images, valid = batch(3)
    with torch.no_grad():
        together = net(images, valid)
        apart = [net(images[i : i + 1], valid[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together.class_maps, torch.cat([o.class_maps for o in apart]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.logits, torch.cat([o.logits for o in apart]), atol=1e-5, rtol=1e-4)


def test_maps_and_logits_stay_full_precision_under_autocast():
    net = build_classifier(RunConfig(), 2).eval()
    images, valid = batch()
    with torch.no_grad():
        exact = net(images, valid)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(images, valid)
    assert half.class_maps.dtype == half.logits.dtype == torch.float32
    torch.testing.assert_close(half.class_maps, exact.class_maps, atol=2e-2, rtol=2e-2)


def test_a_users_own_callable_gets_what_it_names():
    seen = {}

    def mine(class_maps, valid=None):
        seen["valid"] = valid
        return class_maps.amax((2, 3))

    net = build_classifier(RunConfig(pooling=CustomPool(name=name_of(mine))), 2, own_pool=mine).eval()
    images, valid = batch()
    with torch.no_grad():
        out = net(images, valid)
    torch.testing.assert_close(out.logits, out.class_maps.amax((2, 3)))
    assert seen["valid"].shape == (2, 1, 8, 8)


def test_a_users_own_module_trains():
    class Weighted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, class_maps, features):
            return self.weight * class_maps.mean((2, 3)) + 0 * features.sum()

    net = build_classifier(RunConfig(pooling=CustomPool(name="w")), 2, own_pool=Weighted())
    net(batch()[0]).logits.sum().backward()
    assert net.pool.function.weight.grad is not None


def test_a_callable_that_was_not_given_is_asked_for():
    with pytest.raises(ModelError, match="pooling=your_callable"):
        build_pool(CustomPool(name="notebook:mine"))


def test_cells_of_padding_do_not_count():
    valid = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    valid[..., 4:12] = True
    assert shrink_valid(valid, (2, 2)).tolist() == [[[[True, True], [True, True]]]]  # exactly half of each
    valid[..., 4:9] = False
    assert shrink_valid(valid, (2, 2)).tolist() == [[[[False, True], [False, True]]]]
    valid[:] = False
    valid[..., 15:] = True  # a sliver: its fullest cells
    assert shrink_valid(valid, (2, 2)).any()


def test_the_same_seed_builds_the_same_weights_and_leaves_the_users_random_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (build_classifier(RunConfig(seed=s), 2) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.fixture
def saved(tmp_path):
    net = build_classifier(RunConfig(), 2).eval()
    card = ClassifierCard(("mass", "ring"), RunConfig(), exclusive=True, origin=(0.0, 0.0))
    save_classifier(RunFolder(tmp_path), net, card)
    return tmp_path, net


def test_a_checkpoint_comes_back_equal(saved):
    folder, net = saved
    chosen = (Threshold(0.25, "val", frozenset({"ab", "cd"})), Threshold(0.5))
    card = RunFolder(folder).update_card(
        thresholds=chosen, decisions=chosen[::-1], calibration=Calibration.of_classifier(2)
    )
    loaded = load_classifier(folder)
    assert loaded.card == card
    assert loaded.card.thresholds == chosen
    images, valid = batch()
    with torch.no_grad():
        assert torch.equal(loaded(images, valid).logits, net(images, valid).logits)
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_card_names_no_place_of_the_users_machine(tmp_path):
    config = RunConfig.model_validate(
        {
            "table": {"images": "/home/someone/pictures"},
            "weights": "/home/someone/w.safetensors",
            "cache": "/home/someone/c",
        }
    )
    save_classifier(RunFolder(tmp_path), build_classifier(RunConfig(), 1), ClassifierCard(("m",), config))
    assert "someone" not in (tmp_path / "model" / "model.json").read_text()


def test_damage_is_named(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(RunError, match=r"holds no model/model\.json"):
        load_classifier(tmp_path / "nowhere")
    place = folder / "model" / "model.json"
    content = json.loads(place.read_text())
    place.write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(RunError, match="format 9"):
        load_classifier(folder)
    place.write_text(json.dumps({k: v for k, v in content.items() if k != "classes"}))
    with pytest.raises(RunError, match="damaged"):
        load_classifier(folder)
    place.write_text(json.dumps(content))
    weights = folder / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(RunError, match="cannot be read"):
        load_classifier(folder)


def test_nothing_in_the_weights_is_executed(saved):
    """A pickle in place of the weights is refused, not run."""
    import pickle

    folder, _ = saved

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    (folder / "model" / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="cannot be read"):
        load_classifier(folder)


def test_probabilities_are_the_sigmoid():
    raw = np.array([[[-30.0, 0.0, 30.0]]])
    expected = 1 / (1 + np.exp(-raw))
    np.testing.assert_allclose(Calibration.of_classifier(1).probability(raw), expected, atol=1e-7)


# ---- heads ---------------------------------------------------------------------------------------------------------

TINY = "slim,channels=[8,8,16,16],stem_width=8"
HEADS = [HeadConfig(), HeadConfig(norm="batch", dropout=0.5), HeadConfig(classifier="per_class", dropout=0.5)]


class Volume(torch.nn.Module):
    """A backbone over volumes, as the 3D adapter gives them."""

    channels, stride, axes = 6, 4, 3

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Conv3d(1, 6, 4, stride=4)

    def forward(self, images):
        return self.network(images).relu()


def test_dropout_takes_whole_channels_and_only_in_training():
    config = make_config(backbone=TINY, pooling="avg", dropout=0.5)
    net = build_classifier(config, 2)
    images, _ = batch(4)
    features = net(images).features.flatten(2)
    dropped = (features == 0).all(-1)
    assert 0.2 < dropped.float().mean() < 0.9
    plain = net.eval()(images)
    kept = (~dropped)[..., None].expand_as(features)
    # what is left is twice as large, so that the mean over draws is the map without dropout
    again = build_classifier(config.model_copy(update={"head": HeadConfig()}), 2).train()(images).features.flatten(2)
    torch.testing.assert_close(features[kept], 2 * again[kept])
    assert torch.equal(net(images).logits, plain.logits)


def test_per_class_draws_its_own_dropout_and_is_otherwise_the_same_function():
    shared, single = (
        build_classifier(make_config(backbone=TINY, pooling="avg", dropout=0.5, classifier=kind), 2).eval()
        for kind in ("shared", "per_class")
    )
    images, _ = batch()
    assert torch.equal(shared(images).class_maps, single(images).class_maps)
    for net in (shared, single):
        with torch.no_grad():
            net.head.weight[1], net.head.bias[1] = net.head.weight[0], net.head.bias[0]  # two classes, one classifier
        net.train()
    one, two = shared(images).class_maps, single(images).class_maps
    assert torch.equal(one[:, 0], one[:, 1])
    assert not torch.allclose(two[:, 0], two[:, 1])


def test_the_mean_over_draws_of_per_class_dropout_is_the_map_without():
    net = build_classifier(make_config(backbone=TINY, pooling="avg", dropout=0.3, classifier="per_class"), 2).eval()
    features = torch.rand(1, net.backbone.channels, 2, 2).expand(4000, -1, -1, -1)
    plain, _ = net._maps(features[:1])
    net.train()
    drawn, _ = net._maps(features)
    torch.testing.assert_close(drawn.mean(0), plain[0], atol=5e-3, rtol=0)


def test_batch_norm_stands_before_the_class_maps():
    net = build_classifier(make_config(backbone=TINY, norm="batch"), 2)
    out = net(batch(4)[0])
    torch.testing.assert_close(out.features.mean((0, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        out.class_maps, torch.nn.functional.conv2d(out.features, net.head.weight, net.head.bias), atol=1e-6, rtol=1e-5
    )


def test_whatever_pools_and_whatever_the_head_backbone_and_classifier_start_alike():
    nets = [build_classifier(make_config(backbone=TINY, pooling=p), 2) for p in ("avg", "attention", "acam")]
    nets.append(build_classifier(make_config(backbone=TINY, norm="batch", classifier="per_class", dropout=0.1), 2))
    first, *others = (net.state_dict() for net in nets)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_an_old_run_without_head_options_loads():
    content = RunConfig().model_dump(mode="json")
    del content["head"], content["dense_negative"]
    assert RunConfig.model_validate(content).head == HeadConfig()
    assert {name for name in build_classifier(RunConfig(), 2).state_dict() if "backbone" not in name} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("text", ["attention,hidden=4", "acam"])
def test_poolings_with_weights_come_back_from_a_run(tmp_path, text):
    config = make_config(backbone=TINY, pooling=text, norm="batch")
    net = build_classifier(config, 2).eval()
    with torch.no_grad():
        for parameter in net.pool.parameters():
            parameter.add_(1.0)
    save_classifier(
        RunFolder(tmp_path), net, ClassifierCard(("mass", "ring"), config, exclusive=True, origin=(0.0, 0.0))
    )
    images, valid = batch()
    loaded = load_classifier(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(images, valid).logits, net(images, valid).logits)
        assert torch.equal(loaded(images, valid).maps, net(images, valid).maps)


def test_a_users_own_module_comes_back_from_a_run(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self, start):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(start))

        def forward(self, class_maps, features, valid=None):
            return self.weight * class_maps.mean((2, 3)) + features.mean()

    config = make_config(backbone=TINY, pooling=CustomPool(name="own"))
    net = build_classifier(config, 1, own_pool=Own(3.0)).eval()
    save_classifier(RunFolder(tmp_path), net, ClassifierCard(("mass",), config))
    mine = Own(1.0)
    with torch.no_grad():
        assert torch.equal(load_classifier(tmp_path, pooling=mine)(batch()[0]).logits, net(batch()[0]).logits)
    assert mine.weight.item() == 1.0
    assert mine.weight.requires_grad


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("text", sorted(POOLING_TYPES))
def test_volumes_go_the_same_way(text, head):
    pool = build_pool(parse_pooling(text), given=PoolInput(6, 2, axes=3))
    net = Classifier(Volume(), 2, pool, head)
    volumes = torch.rand(3, 1, 8, 12, 16, generator=torch.Generator().manual_seed(3))
    valid = torch.ones(3, 1, 8, 12, 16, dtype=torch.bool)
    valid[..., :4] = False
    for mode in (True, False):
        out = net.train(mode)(volumes, valid)
        assert out.class_maps.shape == (3, 2, 2, 3, 4)
        assert torch.equal(net.pool(out.class_maps, out.features, out.valid), out.logits)


def test_what_a_user_sees_of_acam_are_its_attentional_maps():
    """With the mean they average to the logit; otherwise they have no sigmoid of their own."""
    import lesioncam as lc

    images, valid = batch()
    for combine in ("mean", "product", "geomean", "min"):
        config = make_config(backbone=TINY, pooling=AcamPool(combine=combine))
        net = build_classifier(config, 2).eval()
        with torch.no_grad():
            net.pool.function.attention.weight.mul_(20)
            net.head.bias.add_(1.0)
            out = net(images, valid)
        weight = combined(axis_attention(out.features, net.pool.function.attention.weight, out.valid), combine)
        bias = net.head.bias.view(1, -1, 1, 1)
        torch.testing.assert_close(out.maps, (out.class_maps - bias) * weight + bias)
        assert (out.maps - out.class_maps).abs().max() > 1e-4
        shown = lc.explain(Padded(net, valid), images, "cam").raw
        torch.testing.assert_close(shown, out.maps)
        if combine == "mean":
            mean = (out.maps * out.valid).sum((2, 3)) / out.valid.sum((2, 3))
            torch.testing.assert_close(mean, out.logits)
        sample = Sample(images[0].numpy(), valid[0, 0].numpy(), Geometry.letterbox((64, 64), (64, 64)))
        trained = TrainedClassifier(net, ClassifierCard(("mass", "ring"), config)).eval()
        heatmap = explain_samples(trained, [sample])[0].heatmap
        np.testing.assert_allclose(heatmap.raw, out.maps[0].detach().numpy(), rtol=1e-5, atol=1e-6)
        assert (heatmap.calibration is None) == (combine != "mean")
