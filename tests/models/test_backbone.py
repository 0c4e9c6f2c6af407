"""Backbones: any timm name, the stride that was asked for, and where each cell really looks."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from lesioncam.errors import ModelError
from lesioncam.models.backbone import build_backbone, measure_origin
from lesioncam.options.networks import BackboneConfig


@pytest.mark.parametrize(
    ("name", "stride", "dilate"),
    [
        ("slim", 8, True),
        ("slim", 16, True),
        ("slim", 32, True),
        ("slim", 8, False),
        ("resnet18", 8, False),
        ("densenet121", 16, True),  # timm cannot dilate it
        ("mobilenetv3_small_050", 8, True),
        ("swin_tiny_patch4_window7_224", 16, True),  # channels last inside
    ],
)
def test_the_stride_is_the_one_asked_for(name, stride, dilate):
    side = 224 if "swin" in name else 96
    net = build_backbone(BackboneConfig(name=name, stride=stride, dilate=dilate), channels=2).eval()
    with torch.no_grad():
        features = net(torch.rand(1, 2, side, side))
    assert features.shape == (1, net.channels, side // stride, side // stride)


def test_compact_kernels_see_less_of_the_image():
    """The share of the input that one cell depends on, by gradient: dilated, it is wider."""
    seen = []
    for dilate in (True, False):
        net = (
            build_backbone(BackboneConfig(stage=4, dilate=dilate, options={"zero_init_last": False}), channels=1)
            .double()
            .eval()
        )
        images = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(images)[0, :, 16, 16].sum(), images)
        seen.append(int((gradient != 0).sum()))
    assert seen[0] > 1.5 * seen[1]


def test_a_stage_can_be_chosen():
    three, four = (build_backbone(BackboneConfig(stage=stage), channels=1) for stage in (3, 4))
    assert (three.channels, four.channels) == (96, 192)
    with pytest.raises(ModelError, match="has 4 stages"):
        build_backbone(BackboneConfig(stage=7), channels=1)


def test_a_stride_that_is_not_on_offer_lists_those_that_are():
    with pytest.raises(ModelError, match="strides on offer: 16"):
        build_backbone(BackboneConfig(name="vit_tiny_patch16_224", stride=8), channels=1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig(name="resnet81"), "Did you mean one of"),
        (BackboneConfig(name="resnet18", options={"colour": 3}), "does not take these options"),
    ],
)
def test_slips_are_named(config, message):
    with pytest.raises(ModelError, match=message):
        build_backbone(config, channels=1)


def test_weights_come_from_a_file_and_fit_the_channels(tmp_path):
    whole = timm.create_model("resnet10t", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    net = build_backbone(
        BackboneConfig(name="resnet10t", stride=16), channels=3, weights=str(tmp_path / "w.safetensors")
    )
    torch.testing.assert_close(net.network.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    grey = build_backbone(
        BackboneConfig(name="resnet10t", stride=16), channels=1, weights=str(tmp_path / "w.safetensors")
    )
    torch.testing.assert_close(grey.network.conv1[0].weight, whole.conv1[0].weight.sum(1, keepdim=True))


def test_weights_that_are_not_there_stop_with_the_remedy(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        build_backbone(BackboneConfig(), channels=1, weights=str(tmp_path / "none.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot be built|cannot be had"):
        build_backbone(BackboneConfig(), channels=1, weights=str(tmp_path / "broken.safetensors"))


def test_hub_weights_that_cannot_be_reached_never_become_random(monkeypatch):
    def offline(*_args, **_kwargs):
        raise FileNotFoundError("cannot find the requested files")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(ModelError, match="--weights FILE"):
        build_backbone(BackboneConfig(name="resnet10t"), channels=1, weights="hub")


@pytest.mark.parametrize(
    ("name", "stride", "expected"),
    [
        ("slim", 8, 0.0),
        ("slim", 32, 0.0),
        ("resnet18", 16, 0.0),  # padded on both sides: cell i looks at pixel 16 i
        ("vgg11", 8, 3.5),  # tiles of 8 pixels: their middle
        ("vit_tiny_patch16_224", 16, 7.5),
    ],
)
def test_where_the_first_cell_looks(name, stride, expected):
    net = build_backbone(BackboneConfig(name=name, stride=stride), channels=1)
    assert measure_origin(net, 1) == (expected, expected)


def test_the_origin_agrees_with_a_drawn_dot():
    """An independent way: which input pixel changes cell (5, 5) most, averaged over random networks?"""
    centres = []
    for seed in range(12):
        torch.manual_seed(seed)
        net = (
            build_backbone(BackboneConfig(name="slim", stride=8, options={"zero_init_last": False}), channels=1)
            .double()
            .eval()
        )
        images = torch.rand(1, 1, 96, 96, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(images)[0, :, 5, 5].sum(), images)
        weight, pixels = gradient[0, 0].abs(), torch.arange(96, dtype=torch.float64)
        centres.append(float((weight.sum(1) * pixels).sum() / weight.sum()))
    assert sum(centres) / len(centres) == pytest.approx(5 * 8, abs=1.0)  # and not 5 * 8 + 3.5


def test_vgg_16_is_its_convolutions():
    """At stride 16 the features of conv5-3 as Zhou et al. average them: no fully connected layer is left."""
    net = build_backbone(BackboneConfig(name="vgg16", stride=16), channels=3).eval()
    torch.manual_seed(0)
    whole = timm.create_model("vgg16", pretrained=False)
    convolutions = whole.features[:30].eval()
    own = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    theirs = [m for m in convolutions.modules() if isinstance(m, torch.nn.Conv2d)]
    assert (len(own), len(theirs)) == (13, 13)
    for a, b in zip(own, theirs, strict=True):
        a.load_state_dict(b.state_dict())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(net(images), convolutions(images), atol=1e-6)
    assert not any(isinstance(module, torch.nn.Linear) for module in net.modules())


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_densenet_features_come_after_the_last_relu(stride):
    net = build_backbone(BackboneConfig(name="densenet121", stride=stride), channels=1).eval()
    with torch.no_grad():
        features = net(torch.randn(1, 1, 64, 96))
    assert features.shape == (1, 1024, 64 // stride, 96 // stride)
    assert features.min() == 0


def test_chexnet_is_densenet_with_a_mean_over_its_features():
    """timm's whole network, its head on our pooled features: the same scores."""
    torch.manual_seed(0)
    whole = timm.create_model("densenet121", pretrained=False, num_classes=14).eval()
    net = build_backbone(BackboneConfig(name="densenet121", stride=32), channels=3).eval()
    state = whole.state_dict()
    net.network.load_state_dict({k: state[k.replace("features_", "features.")] for k in net.network.state_dict()})
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(whole.classifier(net(images).mean((2, 3))), whole(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stride", "channels"),
    [
        ("vit_tiny_patch16_224", 16, 192),
        ("deit_tiny_patch16_224", 16, 192),
        ("convnext_atto", 8, 320),
        ("convnext_atto", 32, 320),
        ("swin_tiny_patch4_window7_224", 8, 192),
        ("swin_tiny_patch4_window7_224", 32, 768),
        ("swinv2_tiny_window8_256", 16, 384),
    ],
)
def test_newer_networks_take_other_sizes_than_they_were_made_for(name, stride, channels):
    net = build_backbone(BackboneConfig(name=name, stride=stride), channels=3).eval()
    with torch.no_grad():
        features = net(torch.rand(1, 3, 96, 160))
    assert features.shape == (1, channels, 96 // stride, 160 // stride)


def test_a_size_that_patches_do_not_divide_is_a_sentence():
    net = build_backbone(BackboneConfig(name="vit_tiny_patch16_224", stride=16), channels=1)
    with pytest.raises(ModelError, match=r"does not take inputs of \(100, 96\)"):
        net(torch.zeros(1, 1, 100, 96))
