"""What every map method must obey, through the one call `lesioncam.explain`."""

import numpy as np
import pytest
import torch
from tests.laws.kinds import (
    EQUALS_CAM,
    METHOD_NAMES,
    METHOD_OPTIONS,
    NEEDS_NO_LAYER,
    NOT_QUITE_FLAT,
    SAME_FOR_ALL_CLASSES,
)
from tests.networks import gap_net, seeded
from torch import nn

import lesioncam as lc
from lesioncam.errors import ImageError, ModelError, OptionError
from lesioncam.types import Heatmaps

every = pytest.mark.parametrize("method", METHOD_NAMES)


@pytest.fixture
def images():
    return seeded(lambda: torch.rand(3, 1, 12, 16))


def maps_of(net, images, method, **options) -> Heatmaps:
    return lc.explain(net, images, method, **METHOD_OPTIONS.get(method, {}), **options)


def close(found, expected, share=1e-5):
    """Equal but for the rounding of the largest value."""
    return float((found - expected).abs().max()) <= share * max(float(expected.abs().max()), 1e-30)


@every
def test_all_classes_in_one_call_are_each_class_alone(method, images):
    net = gap_net()
    together = maps_of(net, images, method)
    assert (together.raw.shape[:2], together.scores.shape) == ((3, 3), (3, 3))
    assert (together.method, together.size, together.classes) == (method, (12, 16), None)
    assert together.raw.dtype == torch.float32
    assert not together.raw.requires_grad
    torch.testing.assert_close(together.scores, net.eval()(images).detach())
    for chosen in (0, 1, 2, torch.tensor([0, 2, 1])):
        one = maps_of(net, images, method, classes=chosen)
        places = torch.arange(3), torch.as_tensor(chosen).expand(3)
        torch.testing.assert_close(one.raw[:, 0], together.raw[places], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.scores[:, 0], together.scores[places])
        assert torch.equal(one.classes, places[1])


@every
def test_a_batch_is_its_images_one_by_one(method, images):
    net = gap_net()
    together = maps_of(net, images, method).raw
    alone = torch.cat([maps_of(net, images[i : i + 1], method).raw for i in range(3)])
    assert close(alone, together)


@every
def test_another_class_has_another_map(method, images):
    raw = maps_of(gap_net(), images, method).raw
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert close(raw[:, a], raw[:, b]) == (method in SAME_FOR_ALL_CLASSES)


@every
def test_the_same_call_gives_the_same_maps(method, images):
    net = gap_net()
    assert torch.equal(maps_of(net, images, method).raw, maps_of(net, images, method).raw)


@every
@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_a_network_that_sees_nothing_has_flat_maps_and_says_so(method, bias, images):
    net = gap_net()
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, bias)
    maps = maps_of(net, images, method)
    assert maps.raw.isfinite().all()
    assert maps.native().isfinite().all()
    if method in NOT_QUITE_FLAT:
        spread = maps.raw.flatten(2).amax(-1) - maps.raw.flatten(2).amin(-1)
        assert (spread <= NOT_QUITE_FLAT[method] * maps.raw.abs().flatten(2).amax(-1)).all()
    else:
        assert maps.flat.all()
        assert (maps.unit() == 0).all()


@pytest.mark.parametrize("method", sorted(EQUALS_CAM))
@pytest.mark.parametrize("axes", [2, 3])
def test_behind_a_mean_and_a_linear_layer_it_is_the_class_map(method, axes):
    kinds = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}
    net = gap_net(*kinds[axes])
    images = seeded(lambda: torch.rand(2, 1, *(5, 6, 7)[:axes]))
    cam = maps_of(net, images, "cam").raw
    bias = net[5].bias.detach().view(-1, *(1,) * axes)
    assert close(maps_of(net, images, method).raw * cam[0, 0].numel(), cam - bias)


@every
def test_volumes_and_inference_mode(method):
    net = gap_net(nn.Conv3d, nn.AdaptiveAvgPool3d)
    with torch.inference_mode():
        volume = seeded(lambda: torch.rand(2, 1, 6, 8, 10))
        maps = maps_of(net, volume, method, classes=1)
    assert maps.native().shape == (2, 1, 6, 8, 10)
    again = maps_of(net, volume.clone(), method, classes=1)
    torch.testing.assert_close(maps.raw.clone(), again.raw)


@every
def test_the_model_is_left_as_it_was(method, images):
    net = gap_net().train()
    net[1].eval()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    modes, before = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    state, given = torch.get_rng_state(), images.clone()
    maps_of(net, images, method)
    with pytest.raises((ModelError, OptionError)):
        maps_of(net, images, method, classes=9)
    assert [m.training for m in net.modules()] == modes
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())
    assert all(not m._backward_hooks and not m._backward_pre_hooks for m in net.modules())
    assert all(p.requires_grad and torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, given)


@every
def test_a_layer_is_taken_or_refused(method, images):
    if method in NEEDS_NO_LAYER:
        with pytest.raises(OptionError, match="leave layer=None"):
            maps_of(gap_net(), images, method, layer="0")
    else:
        assert maps_of(gap_net(), images, method, layer="0").layer == "0"


@every
@pytest.mark.parametrize("classes", [3, -1, [0, 1, 7]])
def test_a_class_that_does_not_exist(method, classes, images):
    with pytest.raises(OptionError, match=r"does not exist: this model has 3, numbered 0 to 2"):
        maps_of(gap_net(), images, method, classes=classes)


@every
def test_images_that_are_none(method):
    net = gap_net()
    with pytest.raises(ImageError, match="the batch is empty"):
        maps_of(net, torch.zeros(0, 1, 6, 5), method)
    bad = torch.rand(3, 1, 6, 5)
    bad[1, 0, 2, 2] = torch.nan
    with pytest.raises(ImageError, match="image 1 of the batch holds NaN"):
        maps_of(net, bad, method)
    with pytest.raises(ImageError, match=r"one float tensor .* got \(3, 1, 6, 5\) torch.uint8"):
        maps_of(net, torch.zeros(3, 1, 6, 5, dtype=torch.uint8), method)
    with pytest.raises(ImageError, match="got ndarray"):
        maps_of(net, np.zeros((3, 1, 6, 5), np.float32), method)


@every
def test_a_model_with_several_outputs(method, images):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = gap_net()

        def forward(self, x):
            return {"scores": self.inner(x), "size": x.shape}

    with pytest.raises(ModelError, match=r"a dict with 'scores', 'size'.*target="):
        maps_of(Net(), images, method)
    maps = maps_of(Net(), images, method, target=lambda output: output["scores"])
    torch.testing.assert_close(maps.raw, maps_of(gap_net(), images, method).raw)
