"""`lesioncam.explain`: every method by one call, class maps that are checked, errors that help, `Heatmaps`."""

import pytest
import timm
import torch
from tests.networks import gap_net, seeded
from torch import nn

import lesioncam as lc
from lesioncam.errors import ModelError, OptionError
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config
from lesioncam.runs.card import ClassifierCard
from lesioncam.types import Heatmaps


@pytest.fixture
def images():
    return seeded(lambda: torch.rand(3, 1, 12, 16))


# --- class maps


def test_class_maps_carry_their_bias():
    net, images = gap_net(), torch.rand(2, 1, 12, 16)
    maps = lc.explain(net, images, "cam")
    features, head = net[:2](images).detach(), net[5]
    expected = torch.einsum("kc,nchw->nkhw", head.weight, features) + head.bias[:, None, None]
    torch.testing.assert_close(maps.raw, expected.detach())


HEADS = {
    "mean, linear": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)],
    "mean, linear without bias": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3, bias=False)],
    "mean, dropout, linear": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 3)],
    "mean, 1x1": lambda: [nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Flatten()],
    "1x1, mean": lambda: [nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "1x1, dropout, mean": lambda: [nn.Conv2d(6, 3, 1), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_whose_class_maps_are_exact(name, images):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), *HEADS[name]()))
    maps = lc.explain(net, images, "cam")
    torch.testing.assert_close(maps.raw.mean((2, 3)), maps.scores, rtol=1e-5, atol=1e-6)
    assert maps.raw.shape == (3, 3, 10, 14)


REFUSED = {
    "activation after the class maps": lambda: [
        nn.Conv2d(6, 3, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ],
    "two layers": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)],
    "norm behind the mean": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 3)],
    "softmax": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3), nn.Softmax(1)],
    "maximum": lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 3)],
    "all places": lambda: [nn.Flatten(), nn.LazyLinear(3)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_heads_without_class_maps_are_refused(name, images):
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), *REFUSED[name]()))
    net(images)
    with pytest.raises(ModelError, match=r"no class activation maps: .*Use gradcam"):
        lc.explain(net, images, "cam")
    assert not lc.explain(net, images, "hirescam").flat.all()


@pytest.mark.parametrize("setting", ["bf16", "autocast"])
def test_class_maps_in_half_precision(setting, images):
    net = gap_net()
    expected = lc.explain(net, images, "cam").raw
    if setting == "bf16":
        found = lc.explain(net.bfloat16(), images.bfloat16(), "cam").raw
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = lc.explain(net, images, "cam").raw
    assert (found - expected).abs().max() < 2e-2 * expected.abs().max()


@pytest.mark.parametrize("pooling", ["avg", "max", "lse", "pcam", "topq,fraction=0.1"])
def test_our_own_class_maps_pool_to_the_logits(pooling):
    net = build_classifier(make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", pooling=pooling), 2)
    nn.init.normal_(net.head.weight)
    x = torch.rand(2, 1, 64, 48) if net.backbone.network.conv1[0].in_channels == 1 else torch.rand(2, 3, 64, 48)
    maps = lc.explain(net, x, "cam")
    output = net.eval()(x)
    torch.testing.assert_close(maps.raw, output.class_maps.detach())
    torch.testing.assert_close(maps.scores, output.logits.detach())
    assert maps.layer == "head"
    one = lc.explain(net, x, "cam", classes=[1, 0])
    torch.testing.assert_close(one.raw[:, 0], maps.raw[[0, 1], [1, 0]])


def test_a_trained_classifier_knows_where_its_cells_look():
    config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8")
    trained = TrainedClassifier(build_classifier(config, 1), ClassifierCard(("mass",), config, origin=(0.0, 0.0)))
    x = torch.rand(1, config.preprocess.channels, 64, 48)
    for method in ("cam", "gradcam"):
        assert lc.explain(trained, x, method).origin == (0.0, 0.0)
    assert lc.explain(trained, x, "gradcam", layer="network.backbone.network.layer1").origin is None


# --- what a user may type


def test_an_unknown_method_suggests_the_right_one(images):
    with pytest.raises(OptionError, match=r"Unknown map method 'grad-cam'. Did you mean 'gradcam'"):
        lc.explain(gap_net(), images, "grad-cam")


def test_an_unknown_option_suggests_the_right_one(images):
    with pytest.raises(OptionError, match=r"Unknown option of rise 'mask'. Did you mean 'masks'"):
        lc.explain(gap_net(), images, "rise", mask=3)
    with pytest.raises(OptionError, match=r"gradcam takes no options; got 'relu'"):
        lc.explain(gap_net(), images, relu=True)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([0, 1], r"\(2,\) for 3"),
        ([[0, 1, 2]], r"\(1, 3\) for 3"),
        ([0.5, 1.0, 2.0], "whole numbers"),
        ("mass", "whole numbers"),
        ([True, False, True], "whole numbers"),
        ([[0], [1, 2]], "whole numbers"),
    ],
)
def test_classes_that_are_none(classes, sentence, images):
    with pytest.raises(OptionError, match=sentence):
        lc.explain(gap_net(), images, classes=classes)


def test_no_module_is_no_model(images):
    with pytest.raises(ModelError, match=r"must be a torch.nn.Module, got a function"):
        lc.explain(lambda x: x, images)


# --- identities on a real network


@pytest.fixture(scope="module")
def resnet():
    return seeded(lambda: timm.create_model("resnet18", num_classes=5)).eval()


def test_the_family_agrees_at_the_last_grid(resnet):
    x = seeded(lambda: torch.randn(2, 3, 64, 96))
    cam = lc.explain(resnet, x, "cam").raw - resnet.fc.bias.detach()[:, None, None]
    for method in ("gradcam", "hirescam", "xgradcam"):
        found = lc.explain(resnet, x, method).raw
        assert (6 * found - cam).abs().max() < 1e-5 * cam.abs().max()


def test_class_permutation(resnet):
    x, order = torch.randn(1, 3, 64, 64), torch.tensor([3, 1, 4, 0, 2])
    plain = lc.explain(resnet, x, layer="layer3")
    mixed = lc.explain(resnet, x, layer="layer3", target=lambda scores: scores[:, order])
    torch.testing.assert_close(mixed.raw, plain.raw[:, order])


def test_many_classes_come_in_chunks():
    net, x = gap_net(classes=37), torch.rand(2, 1, 12, 16)
    every = lc.explain(net, x)
    for k in (0, 15, 16, 36):
        torch.testing.assert_close(every.raw[:, k], lc.explain(net, x, classes=k).raw[:, 0])


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "gradcam_pp", "xgradcam", "cam", "eigencam"])
def test_flip_the_image_flip_the_map(method):
    """A network of kernels that are their own mirror image."""
    net = seeded(gap_net).double()
    weight = net[0].weight.data
    net[0].weight.data = weight + weight.flip(-1)
    x = seeded(lambda: torch.rand(2, 1, 12, 16, dtype=torch.float64))
    plain, flipped = lc.explain(net, x, method), lc.explain(net, x.flip(-1), method)
    near = 1e-4 if method == "eigencam" else 1e-5  # a singular vector in float32 moves with the order of the rows
    torch.testing.assert_close(flipped.raw, plain.raw.flip(-1), rtol=1e-5, atol=near * float(plain.raw.abs().max()))


# --- peers, where they are installed


def bottlenecks():
    net = seeded(lambda: timm.create_model("resnet26", num_classes=3)).eval()
    return net, seeded(lambda: torch.rand(3, 3, 64, 96))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", ["layer1", "layer3", "layer4"])
def test_captum_agrees(layer):
    attribution = pytest.importorskip("captum.attr")
    net, x = bottlenecks()
    classes = torch.tensor([0, 2, 1])
    theirs = attribution.LayerGradCam(net, net.get_submodule(layer)).attribute(x, target=classes)
    ours = lc.explain(net, x, layer=layer, classes=classes).raw
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "theirs"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM"), ("cam", "CAM")]
)
def test_torchcam_agrees(method, theirs):
    methods = pytest.importorskip("torchcam.methods")
    net, x = bottlenecks()
    classes = torch.tensor([0, 2, 1])
    options = {"fc_layer": "fc"} if method == "cam" else {}
    with getattr(methods, theirs)(net, target_layer="layer4", **options) as extractor:
        [found] = extractor(classes.tolist(), net(x), normalized=False)
    ours = lc.explain(net, x, method, classes=classes).raw[:, 0]
    if method == "cam":
        ours = ours - net.fc.bias.detach()[classes][:, None, None]  # theirs has none
    ours = ours.relu()
    found = found.relu()
    assert (ours - found).abs().max() < 1e-5 * found.abs().max()


# --- Heatmaps


def heatmaps(raw, size, **more):
    raw = torch.as_tensor(raw, dtype=torch.float32)
    return Heatmaps(raw, "cam", "head", torch.zeros(raw.shape[:2]), size, **more)


@pytest.mark.parametrize("grid", [(6, 9), (6, 9, 5)])
def test_a_cell_stays_where_it_is(grid):
    raw, cell, step = torch.zeros(1, 1, *grid), tuple(n // 2 for n in grid), 8
    raw[(0, 0, *cell)] = 1.0
    big = heatmaps(raw, tuple(step * n for n in grid)).native()[0, 0]
    places = torch.stack(torch.meshgrid(*map(torch.arange, big.shape), indexing="ij"))
    centre = (places * big).flatten(1).sum(1) / big.sum()
    assert centre.tolist() == pytest.approx([step * i + (step - 1) / 2 for i in cell], abs=1e-3)
    assert 0 <= big.min() <= big.max() <= 1


def test_a_known_origin_is_kept():
    raw = torch.zeros(1, 1, 8, 8)
    raw[0, 0, 3, 5] = 1.0
    maps = heatmaps(raw, (64, 64), origin=(0.0, 0.0))  # convolutions padded on both sides
    peak = maps.native()[0, 0].argmax().item()
    assert divmod(peak, 64) == (24, 40)
    twice = maps.native((128, 128))[0, 0]
    assert divmod(twice.argmax().item(), 128) in {(48, 80), (48, 81), (49, 80), (49, 81)}


@pytest.mark.parametrize("origin", [None, (0.0, 0.0)])
def test_values_stay_inside_the_raw_range(origin):
    raw = torch.randn(3, 2, 5, 7)
    maps = heatmaps(raw, (61, 83), origin=origin)
    for size in (None, (90, 70), (3, 3)):
        out = maps.native(size)
        assert (out.amax((2, 3)) <= raw.amax((2, 3))).all()
        assert (out.amin((2, 3)) >= raw.amin((2, 3))).all()


def test_unit_is_for_display():
    maps = heatmaps([[[[0.0, 2.0], [1.0, -2.0]], [[3.0, 3.0], [3.0, 3.0]]]], (2, 2))
    torch.testing.assert_close(maps.unit()[0, 0], torch.tensor([[0.5, 1.0], [0.75, 0.0]]))
    assert maps.flat.tolist() == [[False, True]]
    assert maps.unit()[0, 1].abs().max() == 0


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1, float("nan"), float("inf")])
def test_maps_that_show_nothing_are_flagged_and_black(value):
    raw = torch.full((1, 1, 3, 4), value)
    maps = heatmaps(raw, (30, 41))
    assert maps.flat.tolist() == [[True]]
    assert maps.unit().abs().max() == 0


def test_one_bad_place_makes_a_map_black():
    raw = torch.rand(1, 2, 3, 4)
    raw[0, 0, 1, 1] = torch.nan
    maps = heatmaps(raw, (30, 41))
    assert maps.flat.tolist() == [[True, False]]
    assert torch.isfinite(maps.unit()).all()
    assert maps.unit()[0, 1].max() == 1
