"""The private twin: it shares weights and nothing that changes, and its modules know each other only."""

import functools
import types

import pytest
import torch
from tests.explanation.test_capture import GapNet, seeded
from torch import nn

from lesioncam.errors import ModelError
from lesioncam.explanation.capture import capture
from lesioncam.explanation.twin import private


def test_a_twin_shares_weights_and_nothing_that_changes():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    net[0].register_buffer("count", torch.zeros(()))
    net.train()
    twin = private(net)
    assert [type(m) for m in twin.modules()] == [type(m) for m in net.modules()]
    assert not any(m.training for m in twin.modules())
    assert all(m.training for m in net.modules())
    assert not {id(m) for m in twin.modules()} & {id(m) for m in net.modules()}
    for name, weight in net.named_parameters():
        assert twin.get_parameter(name).data_ptr() == weight.data_ptr()
        assert not twin.get_parameter(name).requires_grad
    twin[0].count += 1
    assert net[0].count == 0
    twin[1].register_forward_hook(print)
    assert not net[1]._forward_hooks


def test_tied_weights_and_shared_modules_stay_one():
    net = nn.Module()
    net.a, net.b = nn.Linear(2, 2), nn.Linear(2, 2)
    net.b.weight = net.a.weight
    net.again = net.a
    twin = private(net)
    assert twin.again is twin.a
    assert twin.b.weight is twin.a.weight


class Hidden(nn.Module):
    """Keeps modules where the tree does not show them."""

    def __init__(self):
        super().__init__()
        self.inner = GapNet()
        self.listed = [self.inner]
        self.named = {"it": (self.inner, 1)}
        self.bound = self.inner.forward
        self.part = functools.partial(type(self.inner).forward, self.inner)
        inner = self.inner
        self.closure = lambda x: 1.0 * inner(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x: net.listed[0](x),
        lambda net, x: net.named["it"][0](x),
        lambda net, x: net.bound(x),
        lambda net, x: net.part(x),
        lambda net, x: net.closure(x),
    ],
    ids=["list", "dict of tuples", "bound method", "partial", "closure"],
)
def test_modules_kept_outside_the_tree_are_reached(call):
    class Net(Hidden):
        def forward(self, x):
            return call(self, x)

    net, images = seeded(Net).train(), torch.rand(2, 1, 6, 5)
    got = capture(net, images, "inner.features")
    torch.testing.assert_close(got.gradients, capture(net.inner, images).gradients)
    assert net.listed[0] is net.inner


def test_modules_kept_in_foreign_objects_are_reached():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = GapNet()
            self.box = types.SimpleNamespace(inside=self.inner)

        def forward(self, x):
            return self.box.inside(x)

    net, images = seeded(Net).train(), torch.rand(2, 1, 6, 5)
    got = capture(net, images, "inner.features")
    torch.testing.assert_close(got.gradients, capture(net.inner, images).gradients)
    assert all(m.training for m in net.modules())
    assert not net.inner.features._forward_hooks


def test_a_patched_forward_is_respected():
    net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    old = net.forward
    net.forward = lambda x: 2 * old(x)
    torch.testing.assert_close(capture(net, images).scores, 2 * old(images).detach())


def test_a_hook_of_the_model_that_feeds_its_own_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kept = GapNet(), None
            self.inner.features.register_forward_hook(self.keep)

        def keep(self, _, __, output):
            self.kept = output

        def forward(self, x):
            self.inner(x)
            return self.kept.mean((2, 3))

    net = seeded(Net)
    got = capture(net, torch.rand(2, 1, 6, 5))
    assert got.gradients.shape == (2, 8, 8, 6, 5)
    assert net.kept is None


def test_weight_norm_and_spectral_norm_go_along():
    net = seeded(GapNet)
    net.features[0] = nn.utils.parametrizations.weight_norm(net.features[0])
    net.head = nn.utils.parametrizations.spectral_norm(net.head)
    images = torch.rand(2, 1, 6, 5)
    vector = net.head.parametrizations.weight[0]._u.clone()
    got = capture(net.train(), images)
    torch.testing.assert_close(got.scores, net.eval()(images).detach())
    assert torch.equal(net.head.parametrizations.weight[0]._u, vector)


def test_what_a_forward_keeps_on_itself_stays_private():
    class Net(GapNet):
        def __init__(self):
            super().__init__()
            self.history, self.calls = [], 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.history.append(x)
            self.seen += len(x)
            self.extra = x
            return super().forward(x)

    net = seeded(Net)
    capture(net, torch.rand(2, 1, 6, 5))
    assert (net.calls, net.history, float(net.seen), hasattr(net, "extra")) == (0, [], 0.0, False)


def test_lazy_modules_must_have_been_run():
    with pytest.raises(ModelError, match="never run"):
        capture(nn.Sequential(nn.LazyConv2d(2, 1), nn.Flatten()), torch.rand(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_scripts_are_taken_in_evaluation_mode_only():
    script = torch.jit.script(seeded(GapNet).eval())
    assert private(script) is script
    with pytest.raises(ModelError, match="no layer of a script"):
        capture(script, torch.rand(1, 1, 6, 5), "features")
    assert not script.features._forward_hooks
    with pytest.raises(ModelError, match="scripted"):
        private(script.train())


def test_closures_that_share_a_variable_share_it_in_the_twin():
    net, calls = seeded(GapNet), 0

    def count(*_):
        nonlocal calls
        calls += 1

    def scaled(_, output):
        return calls * output

    net.features.register_forward_hook(count)
    net.head.forward, plain = lambda x: scaled(None, plain(x)), net.head.forward
    images = torch.rand(2, 1, 6, 5)
    expected = nn.functional.linear(net.features[0](images).relu().mean((2, 3)), net.head.weight, net.head.bias)
    torch.testing.assert_close(capture(net, images).scores, expected.detach())
    assert calls == 0  # the user's own variable


def test_a_closure_that_calls_itself():
    net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    old = net.forward

    def again(x, times=2):
        return old(x) if times == 0 else 1 + again(x, times - 1)

    net.forward = again
    torch.testing.assert_close(capture(net, images).scores, 2 + old(images).detach())
