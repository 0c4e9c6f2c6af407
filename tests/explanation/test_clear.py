"""CLEAR against explicit transposed convolutions, against plain gradients, and by its identities."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.budget import _Alive
from lesioncam.explanation.clear import RULES, ClearOptions, _nodes, clear
from lesioncam.explanation.twin import private
from lesioncam.functional.clear import class_scale, dominant
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


SIZES = {2: (19, 26), 3: (9, 14, 11)}
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEAN = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
GAP = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class Block(nn.Module):
    """A residual block: two convolutions, the first with groups and stride, batch norm, and a shortcut."""

    def __init__(self, axes: int, given: int, made: int, stride: int, dilation: int, act: nn.Module):
        super().__init__()
        conv, norm = CONV[axes], NORM[axes]
        self.first = conv(given, made, 3, stride, dilation, dilation, groups=2, bias=False)
        self.second = conv(made, made, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(made), norm(made)])
        self.short = conv(given, made, 1, stride, bias=False)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norms[0](self.first(x)))
        return self.act(self.norms[1](self.second(y)) + self.short(x))


def residual(
    axes: int, act: nn.Module | None = None, channels: int = 2, classes: int = 4, pool: str = "max"
) -> nn.Module:
    act = nn.ReLU(inplace=True) if act is None else act
    pooling = {"max": MAX[axes](3, 2, 1), "mean": MEAN[axes](2, 2), "none": nn.Identity()}[pool]
    return nn.Sequential(
        CONV[axes](channels, 6, 3, 1, 1, bias=False), NORM[axes](6), act, pooling,
        Block(axes, 6, 8, 2, 1, act), Block(axes, 8, 8, 1, 2, act),
        GAP[axes](1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip


def prepared(net: nn.Module, *, shift: bool = True, seed: int = 0) -> nn.Module:
    """In float64, with batch norms that do something; without shifts nothing in it is affine but linear."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            size = 0.3 if shift else 0.0
            module.running_mean = size * torch.randn(module.num_features, generator=generator)
            module.bias.data = size * torch.randn(module.num_features, generator=generator)
    return net.double().eval()


def batch(axes: int, count: int = 2, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, *SIZES[axes], generator=torch.Generator().manual_seed(seed)).double()


def exact(net: nn.Module, images: Tensor, **options) -> Tensor:
    return clear(net, images, options=ClearOptions(signed=True, **options)).signed


def class_maps(net: nn.Sequential, images: Tensor) -> Tensor:
    features = net[:-3](images.clone())
    return torch.einsum("kc,nc...->nk...", net[-1].weight, features)


class TestAdjoint:
    """The response of a network that is linear (or piecewise linear, by its gradient) pairs with the image to |z|^2."""

    @staticmethod
    def pairing(net, images, **options):
        responses = exact(net, images, **options)
        maps = class_maps(net, images)
        got = (images[:, None] * responses).flatten(2).sum(2)
        want = maps.square().flatten(2).sum(2)
        return got / want

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("rule", RULES)
    def test_without_activations(self, axes, rule):
        net = prepared(residual(axes, nn.Identity(), pool="mean"), shift=False)
        assert torch.allclose(self.pairing(net, batch(axes), rule=rule), torch.ones(2, 4).double(), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_gradient_with_relu_and_max_pooling(self, axes):
        net = prepared(residual(axes), shift=False)
        found = self.pairing(net, batch(axes), rule="gradient")
        assert torch.allclose(found, torch.ones(2, 4).double(), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("rule", ["linear", "deconvnet", "guided"])
    def test_fails_for_the_other_rules(self, axes, rule):
        net = prepared(residual(axes), shift=False)
        assert (self.pairing(net, batch(axes), rule=rule) - 1).abs().max() > 0.05

    @pytest.mark.parametrize("axes", [2, 3])
    def test_a_convolution_and_its_transpose(self, axes):
        """<conv(x), v> = <x, conv_transpose(v)>, and the transpose is a convolution with the flipped kernel."""
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 3, *(3,) * axes, generator=generator).double()
        x = torch.randn(1, 3, *SIZES[axes], generator=generator).double()
        conv, back = (F.conv2d, F.conv_transpose2d) if axes == 2 else (F.conv3d, F.conv_transpose3d)
        v = torch.randn(conv(x, weight).shape, generator=generator).double()
        assert torch.allclose((conv(x, weight) * v).sum(), (x * back(v, weight)).sum(), atol=1e-10)
        flipped = weight.transpose(0, 1).flip(tuple(range(2, axes + 2)))
        assert torch.allclose(back(v, weight), conv(v, flipped, padding=2), atol=1e-12)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_global_pooling_spreads_evenly(self, axes):
        x = torch.randn(1, 2, *SIZES[axes], requires_grad=True)
        (found,) = torch.autograd.grad(GAP[axes](1)(x).sum(), x)
        assert torch.allclose(found, torch.full_like(x, 1 / x[0, 0].numel()))


def rectified(signal: Tensor, given: Tensor, rule: str) -> Tensor:
    if rule in ("deconvnet", "guided"):
        signal = signal.clamp(min=0)
    return signal * (given > 0) if rule in ("guided", "gradient") else signal


class TestExplicit:
    """Step by step: transposed convolutions, unpooling, the scale of batch norm, and the rule."""

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("rule", RULES)
    def test_equals_a_loop(self, axes, rule):
        conv = CONV[axes]
        first, second = conv(2, 6, 3, 2, 1, bias=True), conv(6, 6, 3, 1, 2, dilation=2, groups=3)
        norm = NORM[axes](6)
        net = nn.Sequential(
            first,
            norm,
            nn.ReLU(),
            MAX[axes](2),
            second,
            nn.ReLU(inplace=True),
            GAP[axes](1),
            nn.Flatten(),
            nn.Linear(6, 3),
        )
        net = prepared(net)
        images = batch(axes)
        name = f"{axes}d"
        pool, unpool = getattr(F, f"max_pool{name}"), getattr(F, f"max_unpool{name}")
        back = getattr(F, f"conv_transpose{name}")
        with torch.no_grad():
            a = norm(first(images))
            pooled, places = pool(a.relu(), 2, return_indices=True)
            b = second(pooled)
            maps = torch.einsum("kc,nc...->nk...", net[-1].weight, b.relu())
            found = exact(net, images, rule=rule)
            for c in range(3):
                signal = maps[:, c : c + 1] * net[-1].weight[c].view(1, 6, *[1] * axes)
                signal = rectified(signal, b, rule)
                signal = back(signal, second.weight, None, 1, 2, 0, 3, 2)
                signal = unpool(signal, places, 2, output_size=a.shape[2:])
                signal = rectified(signal, a, rule)
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                signal = signal * scale.view(1, 6, *[1] * axes)
                extra = [(n + 2 - 3) % 2 for n in images.shape[2:]]
                signal = back(signal, first.weight, None, 2, 1, extra)
                assert torch.allclose(found[:, c], signal, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_gradient_equals_autograd(self, axes):
        net = prepared(residual(axes))
        images = batch(axes).requires_grad_()
        maps = class_maps(net, images)
        found = exact(net, images, rule="gradient")
        for c in range(4):
            (want,) = torch.autograd.grad((maps[:, c] * maps[:, c].detach()).sum(), images, retain_graph=True)
            assert torch.allclose(found[:, c], want, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("seed", ["max", "positive"])
    def test_seeds(self, seed):
        net = prepared(residual(2))
        images = batch(2).requires_grad_()
        maps = class_maps(net, images)
        found = exact(net, images, rule="gradient", seed=seed)
        for n in range(2):
            for c in range(4):
                flat = maps[n, c].flatten()
                value = flat.detach().clamp(min=0)
                if seed == "max":
                    value = torch.where(torch.arange(len(flat)) == flat.argmax(), flat.detach(), 0.0)
                (want,) = torch.autograd.grad((flat * value).sum(), images, retain_graph=True)
                assert torch.allclose(found[n, c], want[n], rtol=1e-10, atol=1e-13)


class TestUnpooling:
    def test_nearest_has_four_times_the_energy(self):
        net = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(1, 2, 1, bias=False), GAP[2](1), nn.Flatten()).double().eval()
        images = torch.randn(1, 1, 12, 18).double()
        energies = [exact(net, images, unpool=unpool).square().sum() for unpool in ("nearest", "switches")]
        assert (energies[0] / energies[1]).item() == pytest.approx(4, rel=1e-12)

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 3, 0), (3, 1, 1)])
    def test_nearest_repeats(self, axes, kernel, stride, padding):
        net = nn.Sequential(
            MAX[axes](kernel, stride, padding), CONV[axes](1, 1, 1, bias=False), GAP[axes](1), nn.Flatten()
        )
        net = net.double().eval()
        images = batch(axes, channels=1)
        found = exact(net, images, unpool="nearest")[:, 0]
        signal = net[0](images) * net[1].weight.item() ** 2
        for x in torch.cartesian_prod(*[torch.arange(n) for n in images.shape[2:]]).tolist():
            place = [i // stride for i in x]
            inside = all(i < n for i, n in zip(place, signal.shape[2:], strict=True))
            want = signal[(0, 0, *place)].item() if inside else 0.0
            assert found[(0, 0, *x)].item() == pytest.approx(want)

    def test_nearest_needs_plain_pooling(self):
        net = nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.Conv2d(1, 2, 1), GAP[2](1), nn.Flatten()).eval()
        with pytest.raises(ModelError, match="Take unpool='switches'"):
            clear(net, torch.randn(1, 1, 8, 8), options=ClearOptions(unpool="nearest"))


class Functional(nn.Module):
    """The same network with its ReLU called in some other way."""

    def __init__(self, net: nn.Sequential, call):
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x: Tensor) -> Tensor:
        for part in self.net:
            x = self.call(x) if isinstance(part, nn.ReLU) else part(x)
        return x


def after(call):
    """A call that works in place and whose result is thrown away."""

    def run(x: Tensor) -> Tensor:
        call(x)
        return x

    return run


CALLS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "relu_, result unused": after(lambda x: x.relu_()),
    "F.relu in place, result unused": after(lambda x: F.relu(x, True)),  # noqa: FBT003
    "module in place, result unused": after(nn.ReLU(inplace=True)),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": after(lambda x: x.clamp_(min=0)),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold in place": after(lambda x: F.threshold(x, 0.0, 0.0, inplace=True)),
    "nn.Threshold": nn.Threshold(0, 0),
}


class TestActivations:
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("rule", ["linear", "guided"])
    def test_however_it_is_called(self, call, rule):
        net = prepared(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
                          GAP[2](1), nn.Flatten(), nn.Linear(4, 3))
        )  # fmt: skip
        images = batch(2)
        assert torch.equal(exact(Functional(net, CALLS[call]).eval(), images, rule=rule), exact(net, images, rule=rule))

    @pytest.mark.parametrize(
        ("act", "spoken"),
        [(nn.GELU(), "GELU"), (nn.SiLU(), "SiLU"), (nn.Sigmoid(), "sigmoid"), (nn.Tanh(), "tanh"),
         (nn.ReLU6(), "ReLU6"),
         (nn.LeakyReLU(), "leaky ReLU"), (nn.ELU(), "ELU"), (nn.PReLU(), "PReLU"), (nn.Hardswish(), "hardswish"),
         (nn.Softplus(), "softplus"), (nn.Threshold(0.5, 0.0), "threshold"), (nn.Mish(), "Mish"),
         (nn.Hardsigmoid(), "hardsigmoid")],
    )  # fmt: skip
    def test_others_take_the_gradient_only(self, act, spoken):
        net = prepared(residual(2, act))
        images = batch(2).requires_grad_()
        for rule in ("linear", "deconvnet", "guided"):
            with pytest.raises(ModelError, match=rf"(?s){spoken}.*Take rule='gradient'"):
                exact(net, images, rule=rule)
        maps = class_maps(net, images)
        (want,) = torch.autograd.grad((maps[:, 1] * maps[:, 1].detach()).sum(), images)
        assert torch.allclose(exact(net, images, rule="gradient")[:, 1], want, rtol=1e-10, atol=1e-13)

    def test_a_relu_in_somebody_elses_function(self):
        class Own(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x.clamp(min=0)

            @staticmethod
            def backward(ctx, r):
                return r * (ctx.saved_tensors[0] > 0)

        net = Functional(residual(2)[:3].append(GAP[2](1)).append(nn.Flatten()), Own.apply).eval()
        with pytest.raises(ModelError, match="Own"):
            clear(net, batch(2).float())
        assert clear(net, batch(2).float(), options=ClearOptions(rule="gradient")).responses.max() > 0

    def test_activations_behind_the_class_maps_do_not_matter(self):
        class Probable(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = residual(2)

            def forward(self, x):
                logits = self.net(x)
                return {"logits": logits, "probability": logits.sigmoid()}

        found = clear(Probable().double().eval(), batch(2), target=lambda output: output["logits"])
        assert found.responses.shape == (2, 4, *SIZES[2])


class TestIdentities:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_permuted_classes(self, axes):
        net = prepared(residual(axes))
        order = torch.tensor([2, 0, 3, 1])
        other = copy.deepcopy(net)
        other[-1].weight.data, other[-1].bias.data = net[-1].weight.data[order], net[-1].bias.data[order]
        images = batch(axes)
        one, two = clear(net, images), clear(other, images)
        assert torch.equal(two.responses, one.responses[:, order])
        assert torch.equal(two.dominant, one.dominant)
        lit = one.dominant > 0
        assert torch.equal(order[two.dominant_class][lit], one.dominant_class[lit])

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("rule", RULES)
    def test_no_class_map_no_response(self, axes, rule):
        net = prepared(residual(axes))
        net[-1].weight.data[1] = 0
        found = clear(net, batch(axes), options=ClearOptions(rule=rule)).responses
        assert (found[:, 1] == 0).all()
        assert (found[:, [0, 2, 3]].flatten(2).amax(2) > 0).all()
        assert (found >= 0).all()

    def test_the_bias_is_no_evidence(self):
        net = prepared(residual(2))
        images = batch(2)
        one = clear(net, images).responses
        net[-1].bias.data += 7
        assert torch.equal(clear(net, images).responses, one)

    @pytest.mark.parametrize("how", ["none", "softmax", "standardise"])
    def test_dominant_maps_follow_from_the_responses(self, how):
        found = clear(prepared(residual(2)), batch(2), options=ClearOptions(class_scale=how))
        which, strength = dominant(class_scale(found.responses, found.logits.softmax(1), how))
        assert torch.equal(found.dominant_class, which)
        assert torch.equal(found.dominant, strength)

    @pytest.mark.parametrize("how", ["sum_abs", "abs_sum", "max"])
    def test_channels(self, how):
        found = clear(prepared(residual(2)), batch(2), options=ClearOptions(channel_reduce=how, signed=True))
        signed = found.signed
        want = {"sum_abs": signed.abs().sum(2), "abs_sum": signed.sum(2).abs(), "max": signed.abs().amax(2)}[how]
        assert torch.allclose(found.responses, want.float())
        assert found.responses.dtype == torch.float32

    @pytest.mark.parametrize("axes", [2, 3])
    @pytest.mark.parametrize("rule", RULES)
    def test_other_weights_other_maps(self, axes, rule):
        images = batch(axes)
        maps = [
            clear(prepared(residual(axes), seed=s), images, options=ClearOptions(rule=rule)).responses for s in (0, 1)
        ]
        both = torch.stack([each[0].flatten(1) for each in maps])
        alike = torch.stack([torch.corrcoef(both[:, k])[0, 1] for k in range(4)])
        assert (alike < 0.9).all()

    def test_flipped_image_flipped_map(self):
        net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1), GAP[2](1), nn.Flatten()).double().eval()
        images = batch(2, channels=1)
        assert torch.allclose(clear(net, images.flip(-1)).responses, clear(net, images).responses.flip(-1))


class TestRuns:
    """Batches, budgets, contexts and threads change nothing."""

    @pytest.mark.parametrize("axes", [2, 3])
    def test_batch_equals_one_by_one_and_class_by_class(self, axes, monkeypatch):
        net, images = prepared(residual(axes)), batch(axes, count=5)
        whole = clear(net, images)
        tight = clear(net, images, options=ClearOptions(memory=1))
        assert torch.allclose(tight.responses, whole.responses, rtol=1e-6)
        monkeypatch.setattr("lesioncam.explanation.clear._TOGETHER_CPU", 0)
        assert torch.allclose(clear(net, images).responses, whole.responses, rtol=1e-6)

    def test_one_class_per_image(self):
        net, images = prepared(residual(2)), batch(2, count=4)
        whole, classes = clear(net, images), torch.tensor([3, 0, 0, 2])
        found = clear(net, images, classes=classes)
        assert torch.allclose(found.responses[:, 0], whole.responses[torch.arange(4), classes], rtol=1e-6)
        assert (found.dominant_class == classes.view(4, 1, 1)).all()
        scaled = clear(net, images, classes=classes, options=ClearOptions(class_scale="softmax"))
        share = whole.logits.softmax(1)[torch.arange(4), classes].view(4, 1, 1)
        assert torch.allclose(scaled.dominant, found.responses[:, 0] * share)

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_contexts(self, context):
        net, images = prepared(residual(2)), batch(2)
        want = clear(net, images)
        with context():
            found = clear(private(net), images.clone())
        assert torch.allclose(found.responses, want.responses, rtol=1e-6)
        assert not found.responses.requires_grad

    def test_the_model_is_left_as_it_was(self):
        net, images = prepared(residual(2)), batch(2)
        net[0].weight.grad = torch.ones_like(net[0].weight)
        before = copy.deepcopy(net.state_dict())
        plain = torch.autograd.grad(net(images).sum(), net[0].weight)[0]
        given = images.clone()
        clear(net, images)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
        assert all(p.grad is None for name, p in net.named_parameters() if name != "0.weight")
        assert torch.equal(torch.autograd.grad(net(images).sum(), net[0].weight)[0], plain)
        assert torch.equal(images, given)

    def test_no_rule_outlives_an_error(self):
        class Broken(nn.Module):
            def forward(self, x):
                raise RuntimeError("broken inside")

        with pytest.raises(RuntimeError, match="broken inside"):
            clear(Broken().eval(), batch(2))
        x = torch.randn(4, requires_grad=True)
        (found,) = torch.autograd.grad(x.relu().sum(), x)
        assert torch.equal(found, (x > 0).float())

    def test_threads(self):
        """Eight threads with four rules on one network, and a thread that trains meanwhile with plain ReLUs."""
        net, images = prepared(residual(2)), batch(2)
        want = {rule: clear(net, images, options=ClearOptions(rule=rule)).responses for rule in RULES}
        x = torch.randn(100, requires_grad=True)
        wrong: list[str] = []

        def explain(rule: str) -> None:
            for _ in range(3):
                found = clear(net, images, options=ClearOptions(rule=rule)).responses
                wrong.extend([] if torch.equal(found, want[rule]) else [rule])

        def train() -> None:
            for _ in range(50):
                found = torch.autograd.grad(F.relu(x).sum(), x)[0]
                wrong.extend([] if torch.equal(found, (x > 0).float()) else ["plain"])

        threads = [threading.Thread(target=explain, args=(rule,)) for rule in RULES * 2]
        threads.append(threading.Thread(target=train))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_bfloat16(self):
        net, images = prepared(residual(2)).float(), batch(2).float()
        want = clear(net, images).responses
        with torch.autocast("cpu", torch.bfloat16):
            mixed = clear(net, images).responses
        low = clear(copy.deepcopy(net).bfloat16(), images).responses
        for found in (mixed, low):
            assert found.dtype == torch.float32
            assert torch.corrcoef(torch.stack([found.flatten(), want.flatten()]))[0, 1] > 0.99

    def test_memory_stays_in_the_budget(self):
        net = prepared(residual(2, channels=3)).float()
        images = torch.randn(24, 3, 96, 96)
        peaks = []
        for budget in (1_000_000_000, 20_000_000):
            with _Alive() as seen:
                clear(net, images, options=ClearOptions(memory=budget))
            peaks.append(seen.peak)
        assert peaks[1] < 20_000_000 < peaks[0]

    def test_the_graph_keeps_no_activations(self):
        from lesioncam.explanation.clear import _graph_bytes, _Pass

        net = prepared(residual(2, pool="none")).float()
        images = batch(2).float().requires_grad_()
        with _Pass("linear", "switches"):
            ours = net[:-3](images.clone())
        plain = net[:-3](images.clone())
        assert sum(1 for _ in _nodes(ours)) > 10
        assert _graph_bytes(ours, net) < _graph_bytes(plain, net) / 10


class TestNetworks:
    """The networks people have: every rule runs, and the gradient rule equals autograd on an untouched copy."""

    @staticmethod
    def check(net: nn.Module, images: Tensor, features, weight: Tensor, rules=RULES):
        images = images.double()
        found = {rule: clear(private(net), images, options=ClearOptions(rule=rule, signed=True)) for rule in rules}
        x = images.clone().requires_grad_()
        maps = torch.einsum("kc,nc...->nk...", weight, features(x))
        assert torch.allclose(found[rules[0]].logits, net(images).detach().float(), atol=1e-5)
        for c in range(maps.shape[1]):
            (want,) = torch.autograd.grad((maps[:, c] * maps[:, c].detach()).sum(), x, retain_graph=True)
            got = found["gradient"].signed[:, c]
            assert (got - want).abs().max() < 1e-9 * want.abs().max()
        for rule in rules:
            assert found[rule].responses.shape == (len(images), maps.shape[1], *images.shape[2:])
            assert torch.isfinite(found[rule].responses).all()
            assert found[rule].responses.max() > 0
        if len(rules) > 1:
            assert not torch.allclose(found["guided"].responses, found["linear"].responses)

    @pytest.mark.parametrize("name", ["resnet10t", "resnet26d", "densenet121", "resnext26ts", "resnet18"])
    def test_timm(self, name):
        import timm

        options = {
            "densenet121": {"block_config": (2, 2), "growth_rate": 8},
            "resnext26ts": {"act_layer": "relu"},
            "resnet18": {"output_stride": 8},
        }
        net = timm.create_model(name, num_classes=3, **options.get(name, {})).double().eval()
        self.check(net, torch.randn(2, 3, 64, 48), net.forward_features, net.get_classifier().weight)

    def test_timm_vgg(self):
        """Its fully connected layers are convolutions, so it has class maps, if small ones."""
        from timm.models.vgg import VGG

        net = VGG([8, "M", 16, "M", 16], num_classes=3, mlp_ratio=1 / 64, norm_layer=nn.BatchNorm2d).double().eval()
        images = torch.randn(2, 3, 40, 48)
        self.check(net, images, lambda x: net.pre_logits(net.features(x)), net.head.fc.weight)

    def test_efficientnet_by_its_gradient(self):
        import timm

        net = timm.create_model("efficientnet_b0", num_classes=3).double().eval()
        for module in net.modules():  # random weights of so deep a network leave nothing otherwise
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 2.0)
        self.check(net, torch.randn(1, 3, 64, 48), net.forward_features, net.classifier.weight, rules=("gradient",))

    def test_torchvision_densenet(self):
        """A functional ReLU in place and a functional pooling between features and head."""
        from torchvision.models import DenseNet

        net = DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=3).double().eval()
        self.check(net, torch.randn(2, 3, 40, 56), lambda x: net.features(x).relu(), net.classifier.weight)

    def test_torchvision_vgg_has_no_class_maps(self):
        from torchvision.models import VGG

        net = VGG(nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU()), num_classes=3).eval()
        with pytest.raises(ModelError, match="CLEAR needs class maps"):
            clear(net, torch.randn(1, 3, 24, 24))

    def test_monai_resnet_3d(self):
        from monai.networks.nets import ResNet

        net = ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 16], spatial_dims=3, n_input_channels=1, num_classes=3)

        def features(x):
            x = net.maxpool(net.act(net.bn1(net.conv1(x))))
            return net.layer4(net.layer3(net.layer2(net.layer1(x))))

        self.check(net.double().eval(), torch.randn(1, 1, 24, 32, 28), features, net.fc.weight)

    def test_monai_densenet_3d(self):
        from monai.networks.nets import DenseNet

        net = DenseNet(3, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2)).double().eval()
        images = torch.randn(2, 1, 20, 24, 16)
        self.check(net, images, lambda x: net.features(x).relu(), net.class_layers.out.weight)

    @pytest.mark.parametrize("pooling", ["pcam", "lse", "avg"])
    def test_our_own_classifiers(self, pooling):
        config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", pooling=pooling)
        net = build_classifier(config, 3).eval()
        images = torch.randn(2, config.preprocess.channels, 48, 64)
        found = clear(private(net), images, options=ClearOptions(rule="gradient", signed=True))
        x = images.clone().requires_grad_()
        output = net(x)
        maps = output.class_maps - net.head.bias.view(1, -1, 1, 1)
        assert torch.allclose(found.logits, output.logits, atol=1e-4)
        for c in range(3):
            (want,) = torch.autograd.grad((maps[:, c] * maps[:, c].detach()).sum(), x, retain_graph=True)
            assert (found.signed[:, c] - want).abs().max() < 1e-4 * want.abs().max()

    @pytest.mark.parametrize(
        "end",
        [
            lambda: nn.Sequential(nn.Conv2d(6, 3, 1), GAP[2](1), nn.Flatten()),
            lambda: nn.Sequential(GAP[2](1), nn.Conv2d(6, 3, 1), nn.Flatten()),
            lambda: nn.Sequential(Mean((2, 3)), nn.Dropout(), nn.Linear(6, 3)),
            lambda: nn.Sequential(nn.Flatten(2), Mean(-1), nn.Linear(6, 3, bias=False)),
            lambda: nn.Sequential(Move(), Mean([1, 2]), nn.Linear(6, 3)),
        ],
        ids=["conv-pool", "pool-conv", "mean", "flat", "channels-last"],
    )
    def test_heads(self, end):
        body, tail = nn.Sequential(nn.Conv2d(2, 6, 3, 2), nn.ReLU()), end()
        net = nn.Sequential(body, tail).double().eval()
        head = next(part for part in tail if hasattr(part, "weight"))
        images = batch(2).requires_grad_()
        maps = torch.einsum("kc,nchw->nkhw", head.weight.flatten(1), body(images))
        found = exact(net, images, rule="gradient")
        for c in range(3):
            (want,) = torch.autograd.grad((maps[:, c] * maps[:, c].detach()).sum(), images, retain_graph=True)
            assert torch.allclose(found[:, c], want, atol=1e-13)


class Mean(nn.Module):
    def __init__(self, axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.mean(self.axes)


class Move(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class TestRefusals:
    def test_a_head_that_is_not_linear(self):
        net = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.ReLU(), GAP[2](1), nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
        )
        with pytest.raises(ModelError, match="the scores must be the mean over all places"):
            clear(net.double().eval(), batch(2))

    def test_scores_that_are_probabilities(self):
        net = residual(2).append(nn.Sigmoid()).double().eval()
        with pytest.raises(ModelError, match="CLEAR needs class maps"):
            clear(net, batch(2))

    def test_no_gradient(self):
        class Cut(nn.Module):
            def forward(self, x):
                return x.detach()

        net = nn.Sequential(Cut(), nn.Conv2d(2, 3, 1), GAP[2](1), nn.Flatten()).double().eval()
        for part in net.parameters():
            part.requires_grad_(requires_grad=False)
        with pytest.raises(ModelError, match="no gradient at the image"):
            clear(net, batch(2))

    def test_training_mode(self):
        with pytest.raises(ModelError, match="training mode"):
            clear(residual(2).double().train(), batch(2))

    def test_classes_out_of_range(self):
        with pytest.raises(OptionError, match="class 4 does not exist: this model has 4"):
            clear(residual(2).double().eval(), batch(2), classes=torch.tensor([0, 4]))
        with pytest.raises(OptionError, match="one per image"):
            clear(residual(2).double().eval(), batch(2), classes=torch.tensor([0]))

    def test_empty_batch(self):
        with pytest.raises(OptionError, match="at least one"):
            clear(residual(2).double().eval(), batch(2)[:0])

    @pytest.mark.parametrize(
        "wrong", [{"rule": "guide"}, {"unpool": "near"}, {"seed": "maps"}, {"channel_reduce": "sum"}, {"memory": 0}]
    )
    def test_options(self, wrong):
        with pytest.raises(OptionError):
            ClearOptions(**wrong)
