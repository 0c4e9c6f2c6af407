"""Classifier, pooling by configuration, checkpoint: the identities a user relies on."""

import json

import numpy as np
import pytest
import torch

from lesioncam.config import AvgPool, CustomPool, LsePool, MaxPool, PcamPool, RunConfig, TopqPool
from lesioncam.errors import ModelError, RunError
from lesioncam.files import RunFolder
from lesioncam.models.checkpoint import ModelCard, load_classifier, save_classifier, update_card
from lesioncam.models.classifier import build_classifier, shrink_valid
from lesioncam.models.pooling import build_pool, name_of
from lesioncam.types import Calibration, Threshold

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
    card = ModelCard(("mass", "ring"), RunConfig(), exclusive=True, origin=(0.0, 0.0))
    save_classifier(RunFolder(tmp_path), net, card)
    return tmp_path, net


def test_a_checkpoint_comes_back_equal(saved):
    folder, net = saved
    chosen = (Threshold(0.25, "val", frozenset({"ab", "cd"})), Threshold(0.5))
    card = update_card(
        RunFolder(folder), thresholds=chosen, decisions=chosen[::-1], calibration=Calibration.of_classifier(2)
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
    save_classifier(RunFolder(tmp_path), build_classifier(RunConfig(), 1), ModelCard(("m",), config))
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
