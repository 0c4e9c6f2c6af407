"""What peers get wrong about maps and we must get right: behaviours A1 to A16 and B1 to B9, each under its number."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy

import lightning
import numpy as np
import psutil
import pytest
import timm
import torch
import torchvision
from scipy.special import expit
from torch import nn
from torch.overrides import TorchFunctionMode

import lesioncam as lc
from lesioncam.errors import ImageError, LesioncamError, ModelError, OptionError
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.functional.cam import FORMULAS
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config

CLOSED = ["gradcam", "hirescam", "xgradcam"]
"""On a network that ends in a mean and a linear layer these are class map / number of places, bias left out."""


class GapNet(nn.Module):
    """Two convolutions, in-place ReLU, mean, linear."""

    def __init__(self, conv=nn.Conv2d, *, inplace=True):
        super().__init__()
        self.features = nn.Sequential(
            conv(1, 6, 3, padding=1), nn.ReLU(inplace), conv(6, 8, 3, padding=1), nn.ReLU(inplace)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        features = self.features(x)
        return self.head(features.mean(tuple(range(2, features.ndim))))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def truth(net, images):
    """Class maps without bias over the number of places, (N, K, *s)."""
    with torch.no_grad():
        features = deepcopy(net).float().features(images.detach().clone().float())
    return torch.einsum("kc,nc...->nk...", net.head.weight.detach().float(), features) / features[0, 0].numel()


def rel(found, expected):
    """The largest error over the largest true value."""
    return float((found - expected).abs().max() / expected.abs().max())


def batch(*size, seed=0):
    return seeded(lambda: torch.rand(*size), seed)


# --- maps


@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
def test_a1_own_class_per_image(method):
    """A batch with classes [0, 2, 1] equals three single calls, also with classes chosen by the model."""
    net, images = seeded(GapNet), batch(3, 1, 10, 14)
    with torch.no_grad():
        own = net(images).argmax(1)
    for classes in (torch.tensor([0, 2, 1]), own):
        together = lc.explain(net, images, method, classes=classes).raw
        for n in range(3):
            alone = lc.explain(net, images[n : n + 1], method, classes=int(classes[n])).raw
            # occlusion is a small difference of large scores
            assert rel(together[n : n + 1], alone) < (1e-4 if method == "occlusion" else 1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("method", sorted(FORMULAS))
def test_a2_batch_size_never_meets_a_spatial_size(method, width, count):
    net, images = seeded(GapNet), batch(3, 1, 4, width)[:count]
    together = lc.explain(net, images, method).raw
    assert together.shape == (count, 4, 4, width)
    for n in range(count):
        assert rel(together[n], lc.explain(net, images[n : n + 1], method).raw[0]) < 1e-5


@pytest.mark.parametrize("method", CLOSED)
def test_a3_3d_is_the_same_code(method):
    net, volume = seeded(lambda: GapNet(nn.Conv3d)), batch(2, 1, 12, 20, 28)
    maps = lc.explain(net, volume, method)
    assert rel(maps.raw, truth(net, volume)) < 1e-5
    assert maps.native().shape == (2, 4, 12, 20, 28)


@pytest.mark.parametrize("method", CLOSED)
def test_a4_frozen_parameters_plain_input(method):
    net, images = seeded(GapNet).requires_grad_(requires_grad=False), batch(3, 1, 10, 14)
    assert rel(lc.explain(net, images, method).raw, truth(net, images)) < 1e-5
    assert not any(p.requires_grad for p in net.parameters())
    assert not images.requires_grad


@pytest.mark.parametrize("layer", ["features.0", "features.1", "features.2", "features.3", None])
@pytest.mark.parametrize("method", sorted(FORMULAS))
def test_a5_in_place_layers_at_and_after_the_target(method, layer):
    in_place, plain = seeded(GapNet), seeded(lambda: GapNet(inplace=False))
    images = batch(2, 1, 10, 14)
    found, expected = (lc.explain(net, images, method, layer).raw for net in (in_place, plain))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("method", CLOSED)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_a6_under_no_grad_and_inference_mode(around, method):
    net = seeded(GapNet)
    with around():
        images = batch(3, 1, 10, 14)
        maps = lc.explain(net, images, method)
    assert rel(maps.raw, truth(net, images)) < 1e-5


@pytest.mark.parametrize("method", [*CLOSED, "cam"])
@pytest.mark.parametrize("kind", ["bf16", "autocast"])
def test_a7_bf16_model_and_autocast(kind, method):
    net, images = seeded(GapNet), batch(3, 1, 10, 14)
    expected = truth(net, images)
    if method == "cam":
        expected = expected * 140 + net.head.bias.detach()[:, None, None]
    with torch.autocast("cpu", torch.bfloat16) if kind == "autocast" else nullcontext():
        maps = lc.explain(net.bfloat16() if kind == "bf16" else net, images, method)
    assert rel(maps.raw, expected) < 2e-2
    assert maps.raw.numpy().dtype == maps.scores.numpy().dtype == np.float32


@pytest.fixture(scope="module")
def densenet():
    return seeded(lambda: torchvision.models.densenet121(num_classes=14)).eval()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a8_densenet(densenet, device):
    """Class maps equal weights times features behind the functional, in-place ReLU; Grad-CAM too."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = batch(2, 3, 96, 128)
    net = deepcopy(densenet).to(device)
    with torch.no_grad():
        features = densenet.features(images).relu()
        expected = torch.einsum("kc,nchw->nkhw", densenet.classifier.weight, features)
    tolerance = 1e-5 if device == "cpu" else 1e-3  # a GPU may convolve in TF32
    maps = lc.explain(net, images.to(device), "cam").raw.cpu()
    assert rel(maps - densenet.classifier.bias.detach()[:, None, None], expected) < tolerance
    for method in CLOSED:
        assert rel(12 * lc.explain(net, images.to(device), method).raw.cpu(), expected) < tolerance


def planted(net, images, row, column, patch):
    """Where the map changes most when one patch of the image does."""
    changed = images.clone()
    changed[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 3
    before, after = (lc.explain(net, each, "hirescam").raw[0].abs().sum(0) for each in (images, changed))
    return divmod(int((after - before).abs().argmax()), before.shape[1]), tuple(before.shape)


@pytest.mark.parametrize(
    ("name", "options", "patch", "grid"),
    [
        ("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2}, 16, (4, 6)),
        ("deit_tiny_distilled_patch16_224", {"embed_dim": 48, "depth": 2}, 16, (4, 6)),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "num_heads": (3, 6), "window_size": 4}, 8, (8, 12)),
    ],
)
def test_a9_vit_and_swin(name, options, patch, grid):
    """Prefix tokens are dropped; a planted patch on a grid that is not square lands at its place, not its transpose."""
    net = seeded(lambda: timm.create_model(name, num_classes=3, img_size=(64, 96), **options))
    for row, column in [(0, 0), (1, 4), (3, 1), (grid[0] - 1, grid[1] - 1)]:
        found, shape = planted(net, batch(1, 3, 64, 96), row, column, patch)
        assert shape == grid
        assert found == (row, column)


class Steps(TorchFunctionMode):
    """Counts convolutions."""

    def __init__(self):
        super().__init__()
        self.convolutions = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.convolutions += getattr(func, "__name__", "") == "conv2d"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("method", "backwards"), [("cam", 0), ("eigencam", 0), ("gradcam", 14), ("layercam", 14)])
def test_a10_all_maps_from_one_pass(densenet, method, backwards, monkeypatch):
    """One forward pass for all 14 labels; class maps take no backward pass, Grad-CAM no gradient of a weight."""
    images = batch(1, 3, 64, 96)
    with Steps() as plain, torch.no_grad():
        densenet(images)
    with Steps() as steps:
        lc.explain(densenet, images, method)
    assert steps.convolutions == plain.convolutions == 120
    asked, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: asked.append(a[1]) or grad(*a, **k))
    lc.explain(densenet, images, method)
    assert len(asked) == backwards
    weights = {id(p) for p in densenet.parameters()}
    assert not weights & {id(leaf) for leaf in asked}
    assert all(p.grad is None for p in densenet.parameters())


@pytest.mark.parametrize("method", ["cam", *CLOSED, "layercam"])
def test_a11_raw_maps_are_always_kept(method):
    """Twice the head is twice the map: nothing is scaled out of sight; [0, 1] comes by name only."""
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    one = lc.explain(net, images, method)
    with torch.no_grad():
        net.head.weight *= 2
        net.head.bias *= 2
    two = lc.explain(net, images, method)
    assert rel(two.raw, 2 * one.raw) < 1e-5
    assert (one.raw < 0).any() or method == "layercam"
    torch.testing.assert_close(one.unit(), two.unit(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["max", "lse,sharpness=5"])
def test_a12_absolute_scale_healthy_stays_cold(pooling):
    """A low image score bounds the map, so two images share one scale."""
    net = build_classifier(make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", pooling=pooling), 3)
    nn.init.normal_(net.head.weight)
    channels = net.backbone.network.conv1[0].in_channels
    maps = lc.explain(net, batch(4, channels, 64, 96), "cam")
    peak, places = maps.raw.amax((2, 3)), maps.raw[0, 0].numel()
    if pooling == "max":
        np.testing.assert_allclose(expit(peak.numpy()), expit(maps.scores.numpy()), rtol=1e-6)
    else:
        assert (peak <= maps.scores + np.log(places) / 5 + 1e-5).all()


@pytest.mark.parametrize("method", ["cam", *CLOSED])
def test_a13_the_right_way_up(method):
    """What speaks for the class is hot: in raw values, resized and for display."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    nn.init.ones_(net[0].weight), nn.init.ones_(net[3].weight)
    images = batch(1, 1, 9, 13)
    images[0, 0, 6, 3] = 5.0
    maps = lc.explain(net, images, method)
    for each in (maps.raw, maps.native(), maps.unit()):
        assert divmod(int(each.argmax()), 13) == (6, 3)
        assert np.corrcoef(each.flatten(), images.flatten())[0, 1] > 0.999


@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a14_flat_maps_are_zeros_not_nan(method, value):
    """A network that answers the same whatever it sees: flat maps, flagged, black, finite."""
    net = seeded(GapNet)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.head.bias += value
    maps = lc.explain(net, batch(2, 1, 16, 16), method)
    assert maps.flat.all()
    assert torch.isfinite(maps.raw).all()
    assert maps.unit((40, 50)).abs().max() == 0


def test_a14_input_that_is_not_finite_is_named():
    images = batch(3, 1, 10, 14)
    images[1, 0, 3, 3], images[2, 0, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ImageError, match=r"image 1, 2 of the batch"):
        lc.explain(seeded(GapNet), images)


@pytest.mark.parametrize(
    "classes",
    [
        2,
        np.int64(2),
        [2, 2],
        (2, 2),
        np.array([2, 2]),
        torch.tensor([2, 2]),
        torch.tensor(2),
        torch.tensor([2, 2]).int(),
    ],
    ids=["int", "numpy int", "list", "tuple", "array", "tensor", "scalar", "int32"],
)
def test_a15_class_argument(classes):
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    maps = lc.explain(net, images, classes=classes)
    assert rel(maps.raw, lc.explain(net, images).raw[:, 2:3]) < 1e-6
    assert maps.classes.tolist() == [2, 2]


@pytest.mark.parametrize("classes", [4, -1, [0, 4]])
def test_a15_out_of_range_names_the_range(classes):
    with pytest.raises(OptionError, match="numbered 0 to 3"):
        lc.explain(seeded(GapNet), batch(2, 1, 10, 14), classes=classes)


def test_a16_the_layer_choice_is_said():
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    net.unused = nn.Conv2d(1, 1, 1)
    assert lc.explain(net, images).layer == "input of mean"
    assert lc.explain(net, images, layer=net.features[1]).layer == "features.1"
    with pytest.raises(ModelError, match=r"never reached layer 'unused'"):
        lc.explain(net, images, layer="unused")


# --- the model is left as found


@pytest.mark.parametrize("method", ["gradcam", "cam"])
def test_b1_hooks_are_removed(method):
    """1,000 calls, every other one failing inside: no hook, less than 5 MB."""
    net, images, wrong = seeded(GapNet), batch(1, 1, 10, 14), batch(1, 2, 10, 14)

    def cycles(count):
        for n in range(count):
            if n % 2:
                with pytest.raises(RuntimeError):
                    lc.explain(net, wrong, method)
            else:
                lc.explain(net, images, method, layer=None if method == "cam" else "features.2")
        gc.collect()
        return psutil.Process().memory_info().rss / 2**20

    before = cycles(100)
    assert cycles(1000) - before < 5
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()) == 0


@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
def test_b2_training_flags_are_restored(method):
    net, images = seeded(GapNet).train(), batch(1, 1, 10, 14)
    net.features[1].eval()
    modes = [m.training for m in net.modules()]
    lc.explain(net, images, method)
    assert [m.training for m in net.modules()] == modes
    with pytest.raises(RuntimeError):
        lc.explain(net, batch(1, 2, 10, 14), method)
    assert [m.training for m in net.modules()] == modes


@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
def test_b3_grad_is_untouched(method):
    net = seeded(GapNet)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    before = [p.grad.clone() for p in net.parameters()]
    lc.explain(net, batch(2, 1, 10, 14), method)
    assert all(torch.equal(p.grad, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
def test_b4_nothing_else_moves(method):
    net = seeded(lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), GapNet())).train()
    net[2].head.bias.requires_grad_(requires_grad=False)
    images = batch(2, 1, 10, 14)
    given, state = images.clone(), deepcopy(net.state_dict())
    drawn, legacy = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002 (the one a user may rely on)
    attributes = [set(vars(m)) for m in net.modules()]
    lc.explain(net, images, method)
    assert [set(vars(m)) for m in net.modules()] == attributes
    assert all("forward" not in vars(m) for m in net.modules())
    assert net[2].features[1].inplace
    assert [p.requires_grad for p in net.parameters()] == [True] * (len(list(net.parameters())) - 1) + [False]
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002
    assert torch.equal(images, given)
    assert images.grad is None


@pytest.mark.parametrize("error", [IndexError, KeyError, RuntimeError, KeyboardInterrupt])
def test_b5_errors_surface(error):
    class Net(GapNet):
        def forward(self, x):
            super().forward(x)
            raise error("from inside")

    for layer in (None, "features.2"):
        with pytest.raises(error, match="from inside"):
            lc.explain(seeded(Net), batch(1, 1, 10, 14), layer=layer)


@pytest.mark.parametrize("method", ["gradcam", "cam", "eigencam", "integrated_gradients", "clear"])
@pytest.mark.parametrize("mixed", [False, True])
def test_b6_usable_inside_training(method, mixed):
    """Gradients of the weights equal with and without a map between forward and backward."""
    images = batch(2, 1, 10, 14)

    def gradients(with_map):
        net = seeded(lambda: nn.Sequential(nn.BatchNorm2d(1), GapNet())).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            if with_map:
                lc.explain(net, images, method)
            loss = net(images).float().square().sum()
            if with_map:
                lc.explain(net, images, method)
        loss.backward()
        return [p.grad for p in net.parameters()]

    for with_map, without in zip(gradients(with_map=True), gradients(with_map=False), strict=True):
        assert torch.equal(with_map, without)


class Lightning(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "lightning": Lightning,
    "parallel": nn.DataParallel,
    "distributed": nn.parallel.DistributedDataParallel,
    "compiled lightning": lambda net: torch.compile(Lightning(net), backend="eager"),
    "compiled inside": lambda net: Lightning(torch.compile(net, backend="eager")),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", sorted(set(MAP_METHODS) - {"rise", "smoothgrad"}))
def test_b7_wrapped_models(wrapper, method, process_group):
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    expected = lc.explain(net, images, method).raw
    wrapped = WRAPPERS[wrapper](net)
    assert torch.equal(lc.explain(wrapped, images, method).raw, expected)
    if method == "gradcam":
        inside = {name for name, module in wrapped.named_modules() if module is net.features}
        expected = lc.explain(net, images, layer="features").raw
        assert torch.equal(lc.explain(wrapped, images, layer=net.features).raw, expected)
        assert torch.equal(lc.explain(wrapped, images, layer=inside.pop()).raw, expected)


def test_b8_two_at_once():
    """One explanation inside another, and in any order."""
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    plain = {layer: lc.explain(net, images, layer=layer).raw for layer in ("features.0", "features.2", None)}
    inner = []

    def inside(output):
        inner.append(lc.explain(net, images, layer="features.0").raw)
        return output

    outer = lc.explain(net, images, layer="features.2", target=inside).raw
    assert torch.equal(outer, plain["features.2"])
    assert torch.equal(inner[0], plain["features.0"])
    for layer in (None, "features.2", "features.0", "features.2"):
        assert torch.equal(lc.explain(net, images, layer=layer).raw, plain[layer])


@pytest.mark.parametrize("training", [False, True])
def test_b9_one_shared_model_in_many_threads(training):
    """8 threads x 20 calls, other images, layers, methods and classes in each; modes as before."""
    net = seeded(lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), GapNet())).train(training)
    jobs = [
        (method, layer, batch(2, 1, 10, 14, seed=seed), classes)
        for seed, (method, layer, classes) in enumerate(
            [
                ("gradcam", None, None),
                ("gradcam", "2.features.2", [0, 3]),
                ("layercam", "2.features.0", None),
                ("cam", None, 1),
                ("hirescam", None, [2, 1]),
                ("integrated_gradients", None, 0),
                ("clear", None, 2),
                ("occlusion", None, None),
            ]
        )
    ]
    expected = [lc.explain(net, x, method, layer, classes).raw for method, layer, x, classes in jobs]
    start = threading.Barrier(8)

    def work(n):
        start.wait()
        method, layer, x, classes = jobs[n]
        return [torch.equal(lc.explain(net, x, method, layer, classes).raw, expected[n]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        right = [one for each in pool.map(work, range(8)) for one in each]
    assert right == [True] * 160
    assert all(m.training == training for m in net.modules())


def test_errors_are_one_family():
    """Whatever a user gets wrong is a LesioncamError: exit code 2 on the command line, never a traceback."""
    net, images = seeded(GapNet), batch(2, 1, 10, 14)
    for wrong in ({"method": "camm"}, {"layer": "nowhere"}, {"classes": 99}, {"layer": "head"}, {"relu": 1}):
        with pytest.raises(LesioncamError):
            lc.explain(net, images, **wrong)
