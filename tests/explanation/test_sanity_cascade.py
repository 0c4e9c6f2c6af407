"""Cascading randomisation and the agreement of maps (behaviour D10; field.md section 5)."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lesioncam.errors import LesioncamError, ModelError, OptionError
from lesioncam.explanation.explain import explain
from lesioncam.explanation.sanity import agreement, cascade, repeatability


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Layers on purpose registered in another order than they are used, and one that never is."""

    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d):
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.late = conv(6, 6, 3, padding=1)
        self.unused = nn.Linear(3, 3)
        self.norm = norm(6)
        self.early = conv(1, 6, 3, padding=1)

    def maps(self, x):
        z = self.late(self.norm(self.early(x)).relu()).relu()
        return torch.einsum("kc,nc...->nk...", self.head.weight, z)

    def forward(self, x):
        return self.maps(x).flatten(2).mean(2)


def cam(images):
    def explain(model):
        with torch.no_grad():
            return model.maps(images)

    return explain


def gradient(images):
    def explain(model):
        inputs = images.clone().requires_grad_()
        scores = model(inputs).sum(0)
        return torch.stack([torch.autograd.grad(s, inputs, retain_graph=True)[0].sum(1) for s in scores], 1)

    return explain


@pytest.mark.parametrize(
    ("conv", "norm", "size"), [(nn.Conv2d, nn.BatchNorm2d, (14, 12)), (nn.Conv3d, nn.BatchNorm3d, (8, 9, 7))]
)
def test_layers_go_from_the_output_down_and_the_maps_change(conv, norm, size):
    torch.manual_seed(0)
    model = Net(conv, norm)
    steps = cascade(model, cam(draw(3, 1, *size)))
    assert [step.layer for step in steps] == ["", "head", "late", "norm", "early"]
    assert [step.randomised for step in steps] == [0, 1, 2, 3, 4]
    before, after = steps[0].agreement, steps[-1].agreement
    np.testing.assert_allclose(before.spearman, 1.0, atol=1e-12)
    np.testing.assert_allclose(before.ssim, 1.0, atol=1e-12)
    assert before.spearman.shape == (3, 2)
    assert np.abs(after.spearman).mean() < 0.8
    assert after.ssim.mean() < 0.8


def test_a_map_that_ignores_the_weights_is_found_out():
    images = draw(2, 1, 14, 12)
    steps = cascade(Net(), lambda model: model.early.weight.sum() * 0 + images.expand(2, 2, 14, 12))
    assert all(step.agreement.summary()["spearman"] == pytest.approx(1.0) for step in steps)


def test_a_method_with_gradients_can_be_tested():
    steps = cascade(Net(), gradient(draw(2, 1, 14, 12)))
    assert [step.layer for step in steps] == ["", "head", "late", "norm", "early"]
    assert abs(steps[-1].agreement.summary()["spearman"]) < 0.5


@pytest.mark.parametrize("method", ["gradcam", "layercam", "occlusion", "integrated_gradients"])
def test_maps_of_explain_come_from_a_twin_that_is_watched_too(method):
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    torch.manual_seed(0)
    model, images = nn.Sequential(*layers, nn.Linear(6, 2)), draw(2, 1, 16, 16)
    steps = cascade(model, lambda net: explain(net, images, method).raw)
    assert [step.layer for step in steps] == ["", "6", "2", "0"]
    np.testing.assert_allclose(steps[0].agreement.spearman, 1.0, atol=1e-6)
    assert steps[-1].agreement.summary()["spearman"] < 0.9


def test_the_model_and_the_generators_are_left_as_found():
    model = Net().train()
    model.norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    cascade(model, cam(draw(1, 1, 14, 12)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_new_weights_follow_the_seed():
    model, images = Net(), draw(2, 1, 14, 12)
    first, again, other = (cascade(model, cam(images), seed=seed)[-1].agreement.spearman for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_fewer_looks_but_all_layers():
    model = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1) for _ in range(10)])
    image = draw(1, 1, 14, 12)
    steps = cascade(model, lambda net: net(image).detach(), points=4)
    assert [step.randomised for step in steps] == [0, 2, 5, 8, 10]
    assert [step.layer for step in steps] == ["", "8", "5", "2", "0"]


def test_named_layers_only():
    steps = cascade(Net(), cam(draw(1, 1, 14, 12)), layers=["late"])
    assert [step.layer for step in steps] == ["", "late"]
    with pytest.raises(OptionError, match="Unknown layer 'lat'. Did you mean 'late'"):
        cascade(Net(), cam(draw(1, 1, 14, 12)), layers=["lat"])


def test_parameters_without_a_reset_are_drawn_anew():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pattern = nn.Parameter(3 + 2 * torch.randn(1, 1, 30, 30, generator=torch.Generator().manual_seed(0)))

        def forward(self, x):
            return x * self.pattern

    seen = []

    def explain(model):
        seen.append(model.pattern.detach().clone())
        return model(torch.ones(1, 1, 30, 30)).detach()

    steps = cascade(Scaled(), explain)
    assert steps[-1].agreement.summary()["spearman"] == pytest.approx(0.0, abs=0.1)
    assert seen[-1].mean().item() == pytest.approx(3, abs=0.3)
    assert seen[-1].std().item() == pytest.approx(2, abs=0.2)


def test_flat_maps_are_counted_and_never_crash():
    images = draw(2, 1, 14, 12)

    def explain(model):
        maps = cam(images)(model)
        maps[0, 0] = 5.0
        maps[1, 1, 0, 0] = math.nan
        return maps

    for step in cascade(Net(), explain):
        assert step.agreement.flat == 2
        assert np.isnan(step.agreement.spearman[[0, 1], [0, 1]]).all()
        assert np.isnan(step.agreement.ssim[[0, 1], [0, 1]]).all()
        assert step.agreement.summary()["maps"] == 2
    nothing = agreement(np.zeros((1, 2, 8, 8)), np.ones((1, 2, 8, 8))).summary()
    assert nothing == {"spearman": None, "ssim": None, "maps": 0, "flat": 2}


def test_agreement_equals_scipy_and_knows_opposites():
    a, b = draw(2, 3, 9, 8), draw(2, 3, 9, 8, seed=1)
    found = agreement(a, b)
    for n, k in np.ndindex(2, 3):
        assert found.spearman[n, k] == pytest.approx(spearmanr(a[n, k].flatten(), b[n, k].flatten()).statistic)
    reversed_ = agreement(a, 2 - a)
    np.testing.assert_allclose(reversed_.spearman, -1.0, atol=1e-12)
    assert (reversed_.ssim < 0).all()


@pytest.mark.parametrize("size", [(2, 9), (3, 4), (7, 7), (5, 4, 6)])
def test_small_maps_take_the_window_that_fits(size):
    maps = draw(1, 1, *size)
    value = agreement(maps, 3 * maps).ssim[0, 0]
    assert np.isnan(value) if min(size) < 3 else value == pytest.approx(1.0)


def test_maps_of_other_shapes_are_refused():
    with pytest.raises(LesioncamError, match=r"\(1, 1, 8, 8\).*resize"):
        agreement(np.zeros((1, 1, 8, 8)), np.zeros((1, 1, 4, 4)))


def test_repeatability_of_a_network_with_itself_and_with_another():
    images = draw(3, 1, 14, 12)
    torch.manual_seed(1)
    one, other = Net(), Net()
    assert repeatability(one, one, cam(images)).summary()["ssim"] == pytest.approx(1.0)
    assert repeatability(one, other, cam(images)).summary()["ssim"] < 0.8


def test_a_model_without_parameters_has_nothing_to_randomise():
    with pytest.raises(ModelError, match="nothing to randomise"):
        cascade(nn.ReLU(), lambda model: model(draw(1, 1, 8, 8)))
