"""Activations and gradients without side effects: against the closed form of a GAP network, in every setting."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lesioncam.errors import ModelError
from lesioncam.explanation.capture import capture, quiet, run_to_layer, scores_of
from lesioncam.functional.cam import FORMULAS, hirescam


class GapNet(nn.Module):
    """Convolution, ReLU, mean, linear: Grad-CAM, HiResCAM and XGrad-CAM are all CAM / P."""

    def __init__(self, conv=nn.Conv2d, *, inplace=True):
        super().__init__()
        self.features = nn.Sequential(conv(1, 8, 3, padding=1), nn.ReLU(inplace=inplace))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.features(x).flatten(2).mean(2))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def truth(net, images, classes):
    """CAM / P of one class per image, (N, 1, *s)."""
    with torch.no_grad():
        net = net.float()
        features = net.features(images.float())
        return torch.einsum("nc,nc...->n...", net.head.weight[classes], features)[:, None] / features[0, 0].numel()


SETTINGS = {
    "2d": (GapNet, nullcontext, torch.float32, 1e-5),
    "3d": (lambda: GapNet(nn.Conv3d), nullcontext, torch.float32, 1e-5),
    "not in place": (lambda: GapNet(inplace=False), nullcontext, torch.float32, 1e-5),
    "frozen": (lambda: GapNet().requires_grad_(requires_grad=False), nullcontext, torch.float32, 1e-5),
    "training": (lambda: GapNet().train(), nullcontext, torch.float32, 1e-5),
    "no_grad": (GapNet, torch.no_grad, torch.float32, 1e-5),
    "inference": (GapNet, torch.inference_mode, torch.float32, 1e-5),
    "bf16": (lambda: GapNet().bfloat16(), nullcontext, torch.bfloat16, 2e-2),
    "fp64": (lambda: GapNet().double(), nullcontext, torch.float64, 1e-5),
    "autocast": (GapNet, lambda: torch.autocast("cpu", torch.bfloat16), torch.float32, 2e-2),
    "autocast in inference": (
        GapNet,
        lambda: _both(torch.autocast("cpu", torch.bfloat16), torch.inference_mode()),
        torch.float32,
        2e-2,
    ),
}


class _both:
    def __init__(self, *contexts):
        self.contexts = contexts

    def __enter__(self):
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error):
        for context in reversed(self.contexts):
            context.__exit__(*error)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_cam_on_a_gap_network(setting, method):
    make, around, kind, tolerance = SETTINGS[setting]
    net, classes = seeded(make), torch.tensor([0, 2, 1])
    axes = net.features[0].weight.ndim - 2
    with around():  # the images too are made inside
        images = seeded(lambda: torch.rand(3, 1, *(6, 10, 14)[:axes])).to(kind)
        got = capture(net, images, "features", classes)
    assert got.activations.dtype == got.gradients.dtype == got.scores.dtype == torch.float32
    assert not got.activations.requires_grad
    assert not got.activations.is_inference()
    expected = truth(net, images.clone(), classes)
    found = FORMULAS[method](got.activations, got.gradients)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_model_made_inside_inference_mode():
    with torch.inference_mode():
        net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    got = capture(net, images)
    with torch.inference_mode():
        expected = truth(net, images, torch.tensor([1, 1]))
    torch.testing.assert_close(hirescam(got.activations, got.gradients)[:, 1:2], expected.clone())


def test_images_in_full_precision_meet_a_model_in_half():
    net, images = seeded(lambda: GapNet().bfloat16()), torch.rand(2, 1, 6, 5)
    torch.testing.assert_close(capture(net, images).scores, capture(net, images.bfloat16()).scores)


def test_all_classes_equal_one_class_at_a_time():
    net, images = seeded(GapNet), torch.rand(3, 1, 6, 5)
    every = capture(net, images)
    for k in range(3):
        one = capture(net, images, classes=torch.full((3,), k))
        torch.testing.assert_close(every.gradients[:, k], one.gradients[:, 0])
        torch.testing.assert_close(every.scores[:, k], one.scores[:, 0])


def test_gradients_equal_plain_autograd():
    """A deeper network with everything in it, against a graph built the usual way."""
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.Conv2d(4, 6, 3, stride=2),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.LazyLinear(5),
        )
    )
    images = torch.rand(2, 1, 16, 12)
    net(images)
    net.eval()
    got = capture(net, images, "2")
    leaf = net[:3](images).detach().requires_grad_()
    scores = net[3:](leaf)
    for k in range(5):
        (expected,) = torch.autograd.grad(scores[:, k].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(got.gradients[:, k], expected)
    torch.testing.assert_close(got.activations, leaf.detach())


@pytest.mark.parametrize("layer", ["0", "1", "2", "3", "input of 1", "input of 3"])
def test_layers_in_place_equal_their_twins_out_of_place(layer):
    def make(inplace):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 4, 1), nn.SiLU(inplace), nn.Flatten(), nn.LazyLinear(3)
        )

    one, two = make(inplace=True), make(inplace=False)
    images = torch.rand(2, 1, 7, 6)
    one(images), two(images)
    two.load_state_dict(one.state_dict())
    first, second = capture(one, images, layer), capture(two, images, layer)
    torch.testing.assert_close(first.activations, second.activations)
    torch.testing.assert_close(first.gradients, second.gradients)


def test_an_in_place_first_layer_leaves_the_images_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), GapNet())
    images = torch.randn(2, 1, 6, 5)
    before = images.clone()
    capture(net, images)
    assert torch.equal(images, before)


def test_one_forward_pass_and_no_gradient_of_a_weight():
    calls = []

    class Counted(GapNet):
        def forward(self, x):
            calls.append(torch.is_grad_enabled())
            return super().forward(x)

    net = seeded(Counted)
    cut = None
    with quiet(torch.rand(1)):
        cut = run_to_layer(net, torch.rand(2, 1, 6, 5), "features")
    assert calls == [False]
    assert {name for name, p in net.named_parameters() if p.grad is not None} == set()
    leaves, waiting = set(), [cut.scores.grad_fn]
    while waiting:  # the graph ends at the activations and nowhere else
        node = waiting.pop()
        if type(node).__name__ == "AccumulateGrad":
            leaves.add(id(node.variable))
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    assert leaves == {id(cut.leaf)}


def test_the_grad_mode_of_the_caller_comes_back():
    net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    capture(net, images)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        capture(net, images)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        capture(net, images)
        assert torch.is_inference_mode_enabled()
    with pytest.raises(RuntimeError):
        capture(net, torch.rand(1, 7, 6, 5))
    assert torch.is_grad_enabled()


def test_a_training_step_under_autocast_keeps_its_gradients():
    """A map taken first must not leave cast weights without a graph in autocast's cache."""
    net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        capture(net, images)
        loss = net(images).float().sum()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("layer", [None, "features"])
def test_a_twin_is_gone_with_its_call(layer):
    """Nothing refers to itself, so memory does not wait for the garbage collector."""
    twins = []

    class Watched(GapNet):
        def forward(self, x):
            twins.append(weakref.ref(self))
            return super().forward(x)

    net = seeded(Watched)
    gc.collect()
    gc.disable()
    try:
        capture(net, torch.rand(2, 1, 6, 5), layer)
        with pytest.raises(RuntimeError):
            capture(net, torch.rand(2, 7, 6, 5), layer)
        assert [twin() for twin in twins] == [None, None]
    finally:
        gc.enable()


def test_channels_last_images_give_the_same():
    net, images = seeded(GapNet), torch.rand(2, 1, 6, 5)
    one = capture(net, images)
    two = capture(net, images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(one.gradients, two.gradients)


# --- what can go wrong


def test_a_layer_beside_the_way_to_the_scores():
    class Net(GapNet):
        def __init__(self):
            super().__init__()
            self.side = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            self.side(x)
            return super().forward(x)

    with pytest.raises(ModelError, match="do not depend"):
        capture(seeded(Net), torch.rand(1, 1, 6, 5), "side")


def test_a_model_that_detaches():
    class Net(GapNet):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ModelError, match="do not depend"):
        capture(seeded(Net), torch.rand(1, 1, 6, 5))


def test_a_layer_never_reached():
    net = seeded(GapNet)
    net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ModelError, match=r"never reached layer 'spare'"):
        capture(net, torch.rand(1, 1, 6, 5), "spare")


def test_a_layer_called_twice():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    twice = nn.Sequential(net[0], net[0], *net[1:])
    with pytest.raises(ModelError, match="more than once"):
        capture(twice, torch.rand(1, 1, 6, 5), "0")


def test_a_layer_that_gives_no_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Net(GapNet):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return super().forward(self.pair(x)[0])

    with pytest.raises(ModelError, match="a tuple of 2"):
        capture(seeded(Net), torch.rand(1, 1, 6, 5), "pair")


@pytest.mark.parametrize(
    ("output", "target", "sentence"),
    [
        ({"logits_of_a": 1, "b": 2}, None, r"a dict with 'logits_of_a', 'b'.*target="),
        ((torch.zeros(2, 3), None), None, r"a tuple of 2.*target="),
        (None, None, "nothing"),
        (torch.zeros(2, 3, 4, 4), None, r"\(2, 3, 4, 4\).*segmentation"),
        (torch.zeros(2, 3, dtype=torch.long), None, "int64"),
        (torch.zeros(2, 3), lambda output: [1.0], "target gives a list of 1"),
    ],
)
def test_outputs_that_are_no_scores(output, target, sentence):
    with pytest.raises(ModelError, match=sentence):
        scores_of(output, target)


def test_a_single_score_per_image_is_one_class():
    assert scores_of(torch.zeros(4)).shape == (4, 1)


def test_scores_of_another_batch():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(0, 2), nn.Flatten())
    with pytest.raises(ModelError, match="rows of scores for 2 images"):
        capture(net, torch.rand(2, 1, 6, 5), "0")
