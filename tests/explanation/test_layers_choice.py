"""Which layer is taken, on the networks people bring, and how its activations lie on the image."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from monai.networks import nets as monai
from torch import nn

import lesioncam as lc
from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.capture import capture, quiet, run_to_layer
from lesioncam.explanation.layers import ActivationLayout, choose_layer, layout_of
from lesioncam.functional.cam import hirescam
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config

SMALL = {"patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 3}


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def timm_net(name, **options):
    return lambda: timm.create_model(name, num_classes=4, **options)


def vision_net(name, **options):
    return lambda: getattr(torchvision.models, name)(num_classes=4, **options)


def small_swin():
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4], num_classes=4
    )


def small_vit():
    net = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=4
    )
    nn.init.normal_(net.heads.head.weight)
    return net


NETS = {
    "torchvision densenet": (vision_net("densenet121"), (64, 96), "input of adaptive_avg_pool2d", (2, 3)),
    "torchvision resnet": (vision_net("resnet18"), (64, 96), "input of avgpool", (2, 3)),
    "torchvision vgg": (vision_net("vgg11"), (224, 256), "input of avgpool", (7, 8)),
    "torchvision efficientnet": (vision_net("efficientnet_b0"), (64, 96), "input of avgpool", (2, 3)),
    "torchvision shufflenet": (vision_net("shufflenet_v2_x0_5"), (64, 96), "input of mean", (2, 3)),
    "torchvision convnext": (vision_net("convnext_tiny"), (64, 96), "input of avgpool", (2, 3)),
    "torchvision swin": (small_swin, (64, 96), "input of avgpool", (8, 12)),
    "torchvision vit": (small_vit, (64, 64), "input of encoder.layers.encoder_layer_2", (4, 4)),
    "timm resnet": (timm_net("resnet18"), (64, 96), "input of global_pool.pool", (2, 3)),
    "timm densenet": (timm_net("densenet121"), (64, 96), "input of global_pool.pool", (2, 3)),
    "timm vgg": (timm_net("vgg11"), (224, 256), "input of pre_logits", (7, 8)),
    "timm efficientnet": (timm_net("efficientnet_b0"), (64, 96), "input of global_pool.pool", (2, 3)),
    "timm mobilenet": (timm_net("mobilenetv3_small_050"), (64, 96), "input of global_pool.pool", (2, 3)),
    "timm convnext": (timm_net("convnext_atto"), (64, 96), "input of head.global_pool.pool", (2, 3)),
    "timm swin": (
        timm_net("swin_tiny_patch4_window7_224", img_size=(64, 96), window_size=4, depths=(1, 1), num_heads=(2, 2)),
        (64, 96),
        "input of head.global_pool.pool",
        (8, 12),
    ),
    "timm vit": (timm_net("vit_tiny_patch16_224", img_size=(64, 96), **SMALL), (64, 96), "input of blocks.2", (4, 6)),
    "timm deit": (
        timm_net("deit_tiny_distilled_patch16_224", img_size=(64, 96), **SMALL),
        (64, 96),
        "input of blocks.2",
        (4, 6),
    ),
    "timm vit, mean of tokens": (
        timm_net("vit_tiny_patch16_224", img_size=(64, 96), global_pool="avg", fc_norm=False, **SMALL),
        (64, 96),
        "input of mean",
        (4, 6),
    ),
    "timm vit with registers": (
        timm_net("vit_tiny_patch16_224", img_size=(64, 96), reg_tokens=4, **SMALL),
        (64, 96),
        "input of blocks.2",
        (4, 6),
    ),
    "monai densenet": (lambda: monai.DenseNet121(2, 3, 4), (64, 96), "input of class_layers.pool", (2, 3)),
    "monai densenet 3d": (lambda: monai.DenseNet121(3, 1, 4), (32, 64, 96), "input of class_layers.pool", (1, 2, 3)),
    "monai resnet 3d": (
        lambda: monai.ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 8], spatial_dims=3, n_input_channels=1, num_classes=4),
        (32, 64, 96),
        "input of avgpool",
        (2, 4, 6),
    ),
    "monai seresnet 3d": (
        lambda: monai.SEResNet50(layers=(1, 1, 1, 1), spatial_dims=3, in_channels=1, num_classes=4),
        (32, 64, 96),
        "input of adaptive_avg_pool",
        (1, 2, 3),
    ),
    "monai efficientnet 3d": (
        lambda: monai.EfficientNetBN("efficientnet-b0", spatial_dims=3, in_channels=1, num_classes=4, pretrained=False),
        (32, 64, 96),
        "input of _avg_pooling",
        (1, 2, 3),
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NETS)
def test_the_last_grid_is_found_and_said(name):
    """And the pass with a cut in it gives the scores of the model itself."""
    make, size, layer, grid = NETS[name]
    net = seeded(make)
    channels = 1 if len(size) == 3 else 3
    images = seeded(lambda: torch.randn(2, channels, *size))
    maps = lc.explain(net.train(), images, "hirescam")
    assert (maps.layer, tuple(maps.raw.shape)) == (layer, (2, 4, *grid))
    assert not maps.flat.any()
    with torch.no_grad():
        expected = net.eval()(images)
    torch.testing.assert_close(maps.scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision densenet", "timm resnet", "timm swin", "monai densenet 3d"])
def test_class_maps_are_exact_where_the_network_ends_in_a_mean(name):
    make, size, _, grid = NETS[name]
    net, images = seeded(make), torch.randn(2, 1 if len(size) == 3 else 3, *size)
    cam, gradient = lc.explain(net, images, "cam"), lc.explain(net, images, "hirescam")
    places = torch.Size(grid).numel()
    torch.testing.assert_close(cam.raw.flatten(2).mean(-1), cam.scores, rtol=1e-5, atol=1e-5)
    bias = list(net.parameters())[-1].detach().view(1, -1, *[1] * len(grid))
    assert (places * gradient.raw - (cam.raw - bias)).abs().max() < 1e-5 * cam.raw.abs().max()


def pooled(pool, channels=6):
    """A network whose end is a function."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(inplace=True))
            self.head = nn.LazyLinear(3)

        def forward(self, x):
            return self.head(pool(self.stem(x)))

    net = seeded(Net)
    net(torch.zeros(2, 1, 6, 10))
    return net


POOLS = {
    "mean of two axes": lambda f: f.mean((2, 3)),
    "mean of the last two": lambda f: torch.mean(f, dim=[-2, -1]),
    "one mean after the other": lambda f: f.mean(-1).mean(-1),
    "one after the other, kept": lambda f: f.mean(3, keepdim=True).mean(2, keepdim=True).flatten(1),
    "flatten, then mean": lambda f: f.flatten(2).mean(2),
    "view, then mean": lambda f: f.view(len(f), f.shape[1], -1).mean(-1),
    "adaptive": lambda f: F.adaptive_avg_pool2d(f, 1).flatten(1),
    "adaptive by keyword": lambda f: F.adaptive_avg_pool2d(input=f, output_size=1).squeeze((2, 3)),
    "average over all": lambda f: F.avg_pool2d(f, f.shape[2:])[..., 0, 0],
    "maximum": lambda f: f.amax((2, 3)),
    "maximum of pairs": lambda f: f.max(3).values.max(2).values,
    "maximum and mean": lambda f: torch.cat([f.amax((2, 3)), f.mean((2, 3))], 1),
    "adaptive maximum": lambda f: F.adaptive_max_pool2d(f, 1).flatten(1),
    "power mean": lambda f: F.avg_pool2d(f.clamp(min=1e-6).pow(3), (6, 10)).pow(1 / 3).flatten(1),
    "smooth maximum": lambda f: f.flatten(2).logsumexp(2),
    "all places to the head": lambda f: f.flatten(1),
    "sum": lambda f: f.sum((2, 3)),
    "squeezed first": lambda f: (f * f.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)),
    "squeezed in place first": lambda f: f.clone().mul_(f.mean((2, 3), keepdim=True)).mean((2, 3)),
    "deviation beside the mean": lambda f: torch.cat([f.mean((2, 3)), f.std((2, 3))], 1),
    "channels last": lambda f: f.permute(0, 2, 3, 1).mean((1, 2)),
    "tokens": lambda f: f.flatten(2).transpose(1, 2).mean(1),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_that_is_a_function_is_found(name):
    """Against a graph through the whole network: HiResCAM's gradient at what the stem gives."""
    net, images = pooled(POOLS[name]), torch.rand(2, 1, 6, 10)
    got = capture(net, images)
    assert got.activations.shape[2:] == (6, 10)
    features = net.stem(images).detach().requires_grad_()
    given = features
    if "squeezed" in name:
        given = features * features.mean((2, 3), keepdim=True)
        given = given if "in place" in name else features * features.mean((2, 3), keepdim=True).sigmoid()
    if name == "power mean":
        given = features.clamp(min=1e-6).pow(3)
    scores = net(images)
    torch.testing.assert_close(got.activations, given.detach())
    torch.testing.assert_close(got.scores, scores.detach())
    for k in range(3):
        if "squeezed" in name:
            after = given.detach().requires_grad_()
            (expected,) = torch.autograd.grad(net.head(after.mean((2, 3)))[:, k].sum(), after)
        elif name == "power mean":
            after = given.detach().requires_grad_()
            (expected,) = torch.autograd.grad(
                net.head(F.avg_pool2d(after, (6, 10)).pow(1 / 3).flatten(1))[:, k].sum(), after
            )
        else:
            (expected,) = torch.autograd.grad(net.head(POOLS[name](features))[:, k].sum(), features)
        torch.testing.assert_close(got.gradients[:, k], expected)


def test_squeeze_and_excitation_is_not_the_end():
    """Each squeeze looks like the global pooling until the network goes on; the graph holds nothing of it."""
    net = seeded(timm_net("seresnet50", layers=(1, 1, 1, 1)))
    with quiet(torch.rand(1)):
        cut = run_to_layer(net, torch.randn(1, 3, 64, 64))
    assert cut.layer == "input of global_pool.pool"
    steps, waiting = 0, [cut.scores.grad_fn]
    while waiting:
        node = waiting.pop()
        steps += 1
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    assert steps < 10


def test_a_pooling_by_attention_takes_a_second_pass_and_is_right():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.ask, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 2), nn.Linear(12, 3)

        def forward(self, x):
            tokens = self.stem(x).relu().flatten(2).transpose(1, 2)
            weights = self.ask(tokens).transpose(1, 2).softmax(-1)
            return self.head((weights[:, :, None] @ tokens[:, None]).flatten(1))

    net, images = seeded(Net), torch.rand(2, 1, 6, 10)
    got = capture(net, images)
    assert got.layer == "input of flatten"
    features = net.stem(images).relu().detach().requires_grad_()
    weights = net.ask(features.flatten(2).transpose(1, 2)).transpose(1, 2).softmax(-1)
    scores = net.head((weights[:, :, None] @ features.flatten(2).transpose(1, 2)[:, None]).flatten(1))
    (expected,) = torch.autograd.grad(scores[:, 1].sum(), features)
    torch.testing.assert_close(got.gradients[:, 1], expected)


def test_our_own_classifiers_are_cut_at_the_features_that_head_and_pooling_see():
    net = build_classifier(make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", pooling="pcam"), 2)
    maps = lc.explain(net, torch.rand(2, net.backbone.network.conv1[0].in_channels, 64, 96), "hirescam")
    assert maps.layer == "backbone"
    assert tuple(maps.raw.shape[2:]) == (64 // net.backbone.stride, 96 // net.backbone.stride)


def test_a_dotted_name_and_its_module_are_the_same():
    net, images = seeded(timm_net("resnet18")), torch.randn(2, 3, 64, 96)
    by_name = lc.explain(net, images, layer="layer3")
    by_module = lc.explain(net, images, layer=net.layer3)
    torch.testing.assert_close(by_name.raw, by_module.raw)
    assert by_name.layer == by_module.layer == "layer3"


def test_names_are_the_same_with_and_without_wrappers():
    inner = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    net = nn.Sequential(nn.DataParallel(inner), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in ("0.1", "0.module.1", inner[1]):
        assert choose_layer(nn.DataParallel(net), layer).name == "0.1"
    assert choose_layer(net, inner).name == choose_layer(net, net[0]).name == "0"
    vit = seeded(NETS["timm vit"][0])
    wrapped = nn.DataParallel(nn.Sequential(nn.DataParallel(vit)))
    maps = lc.explain(wrapped, torch.rand(1, 3, 64, 96))
    assert maps.layer == "input of 0.blocks.2"


def test_what_goes_in_is_what_comes_out_before():
    net, images = seeded(timm_net("resnet18")), torch.randn(2, 3, 64, 96)
    one, two = lc.explain(net, images, layer="layer3"), lc.explain(net, images, layer="input of layer4")
    torch.testing.assert_close(one.raw, two.raw)
    assert two.layer == "input of layer4"


def test_near_names_are_suggested():
    net = timm.create_model("resnet18", num_classes=2)
    with pytest.raises(OptionError, match=r"no layer 'layr4'. Did you mean 'layer4'"):
        choose_layer(net, "layr4")
    with pytest.raises(OptionError, match=r"Did you mean 'layer\d.\d.conv1' or"):
        choose_layer(net, "stage1.conv1")
    with pytest.raises(OptionError, match="no part of this model"):
        choose_layer(net, nn.ReLU())


@pytest.mark.parametrize("layer", ["fc", "global_pool"])
def test_a_layer_without_a_grid(layer):
    with pytest.raises(ModelError, match=r"no spatial axes: it gives \(2, "):
        lc.explain(timm.create_model("resnet18", num_classes=2), torch.randn(2, 3, 64, 64), layer=layer)


def test_a_small_image_is_explained_at_the_last_grid_it_has():
    """At 32 x 32 a ResNet pools a single place; the last grid goes into two convolutions of the last stage."""
    net, images = seeded(timm_net("resnet18")), torch.randn(2, 3, 32, 32)
    got, expected = capture(net, images), capture(net, images, "layer3")
    assert got.layer.startswith("input of layer4.0")
    torch.testing.assert_close(got.gradients, expected.gradients)


def test_too_small_an_image_for_any_grid():
    with pytest.raises(ModelError, match="too small"):
        lc.explain(timm.create_model("resnet18", num_classes=2), torch.randn(2, 3, 1, 1))


def test_an_unknown_transformer_asks_for_a_layer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(1, 8, 8, 8)
            self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(6))
            self.token, self.head = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(8, 2)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for layer in self.layers:
                x = layer(x)
            return self.head(x[:, 0])

    net, images = seeded(Net), torch.rand(2, 1, 32, 48)
    with pytest.raises(ModelError, match="Name the layer"):
        lc.explain(net, images)
    maps = lc.explain(net, images, layer="input of layers.5")
    assert maps.raw.shape == (2, 2, 4, 6)
    assert not maps.flat.any()


@pytest.mark.parametrize(
    ("shape", "size", "seen", "expected"),
    [
        ((2, 8, 7, 9), (224, 288), None, ActivationLayout("first", (7, 9))),
        ((2, 7, 9, 768), (224, 288), None, ActivationLayout("last", (7, 9))),
        ((2, 56, 72, 96), (224, 288), (56, 72), ActivationLayout("last", (56, 72))),
        ((2, 64, 32, 64), (512, 256), (32, 64), ActivationLayout("first", (32, 64))),  # other steps along each axis
        ((2, 8, 4, 5, 6), (32, 40, 48), None, ActivationLayout("first", (4, 5, 6))),
        ((2, 64, 24), (64, 64), None, ActivationLayout("tokens", (8, 8))),
        ((2, 25, 24), (64, 96), None, ActivationLayout("tokens", (4, 6), 1)),
        ((2, 29, 24), (64, 96), (4, 6), ActivationLayout("tokens", (4, 6), 5)),
        ((2, 61, 24), (32, 64, 48), (4, 5, 3), ActivationLayout("tokens", (4, 5, 3), 1)),
    ],
)
def test_how_activations_lie_on_the_image(shape, size, seen, expected):
    assert layout_of(shape, size, seen, "it") == expected


def test_a_transformer_in_3d():
    """Patches, class token, blocks and a tuple as output, named as MONAI names them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embedding = nn.Conv3d(1, 8, (4, 8, 16), (4, 8, 16))
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            x = self.patch_embedding(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x = block(x)
            return self.head(x[:, 0]), x

    images = torch.rand(2, 1, 16, 32, 48)
    maps = lc.explain(seeded(Net), images, target=lambda output: output[0])
    assert (maps.layer, tuple(maps.raw.shape)) == ("input of blocks.1", (2, 2, 4, 4, 3))
    with pytest.raises(ModelError, match=r"a tuple of 2.*target="):
        lc.explain(seeded(Net), images)


def test_hirescam_of_a_channels_last_stage_is_that_of_its_transpose():
    net, images = seeded(NETS["timm swin"][0]), torch.randn(2, 3, 64, 96)
    got = capture(net, images, "layers.0")
    assert got.activations.shape == (2, 96, 16, 24)
    with quiet(images):
        cut = run_to_layer(net, images, "layers.0")
    assert cut.grid == ActivationLayout("last", (16, 24))
    torch.testing.assert_close(cut.leaf.detach().permute(0, 3, 1, 2), got.activations)
    assert hirescam(got.activations, got.gradients).shape == (2, 4, 16, 24)
