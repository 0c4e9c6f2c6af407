"""3D networks: stride by stride, where their cells look, and weights of others."""

import pytest
import torch
from torch import nn

from lesioncam.errors import LesioncamError, ModelError
from lesioncam.models.backbone import build_backbone, measure_origin
from lesioncam.models.backbone3d import BUILDERS
from lesioncam.models.strides import factor, thin_out
from lesioncam.options.networks import BackboneConfig, parse_backbone

SMALL = "monai:resnet10,widen_factor=0.25"


def build(text: str, channels: int = 1, weights: str = "none"):
    torch.manual_seed(0)
    return build_backbone(parse_backbone(text), channels, weights).eval()


WIDTHS = {
    "resnet10": 512,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "densenet121": 1024,
    "seresnet50": 2048,
    "efficientnet-b0": 1280,
}


@pytest.mark.parametrize("name", [*BUILDERS])
def test_the_grid_is_the_input_over_the_stride(name):
    backbone = build(f"monai:{name},stride=16", channels=2)
    with torch.no_grad():
        features = backbone(torch.randn(1, 2, 32, 16, 48))
    assert features.shape == (1, WIDTHS[name], 2, 1, 3)
    assert backbone.channels == WIDTHS[name]
    assert backbone.axes == 3


@pytest.mark.parametrize("name", ["resnet10", "densenet121", "seresnet50"])
def test_features_are_what_comes_out_of_the_last_relu(name):
    for stage in ("", ",stage=2"):
        with torch.no_grad():
            features = build(f"monai:{name},stride=8{stage}")(torch.randn(1, 1, 16, 16, 16))
        assert features.min() == 0
        assert features.max() > 0


def test_the_whole_network_computes_what_monai_computes():
    """At stride 32 nothing is taken out: features, pooled, through MONAI's own head."""
    from monai.networks import nets

    torch.manual_seed(3)
    whole = nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=4).eval()
    ours = build("monai:densenet121,stride=32")
    state = whole.state_dict()
    for key in ours.state_dict():
        plain = key.removeprefix("network.")
        ours.state_dict()[key].copy_(state[f"features.{plain}"])
    volume = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        expected = whole(volume)
        found = whole.class_layers.out(ours(volume).mean((2, 3, 4)))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_stride_taken_out_samples_the_same_features_more_finely():
    """Kernels spread by two over a grid twice as fine: every second cell is a cell of the coarse grid."""
    torch.manual_seed(0)
    row = [nn.Conv3d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 1, stride=2), nn.ReLU()]
    row += [nn.Conv3d(4, 2, 3, padding=1)]
    volume = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        coarse = nn.Sequential(*row)(volume)
        thin_out(row, 2)
        fine = nn.Sequential(*row)(volume)
    assert (coarse.shape[2:], fine.shape[2:]) == ((4, 4, 6), (8, 8, 12))
    assert torch.allclose(fine[..., ::2, ::2, ::2], coarse, atol=1e-6)


def test_strides_are_taken_out_from_the_deep_end():
    row = [nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, stride=2, padding=1)]
    row += [nn.Sequential(nn.Conv2d(1, 1, 1), nn.AvgPool2d(2)), nn.Conv2d(1, 1, 3, padding=1)]
    assert factor(nn.Sequential(*row)) == 16
    thin_out(row, 4)
    assert factor(nn.Sequential(*row)) == 4
    assert row[0].stride == (2, 2)
    assert row[2].stride == (1, 1)
    assert isinstance(row[3][1], nn.Identity)
    assert row[4].dilation == row[4].padding == (4, 4)


def test_compact_kernels_on_request():
    kernels = [m.dilation[0] for m in build(f"{SMALL},stride=8").modules() if isinstance(m, nn.Conv3d)]
    assert max(kernels) == 4
    plain = [m.dilation[0] for m in build(f"{SMALL},stride=8,dilate=false").modules() if isinstance(m, nn.Conv3d)]
    assert max(plain) == 1


def test_a_stride_that_is_not_there_names_those_that_are():
    with pytest.raises(ModelError, match=r"reaches stride 8 in stage 2, not 16; strides on offer: 8\."):
        build("monai:resnet10,stride=16,stage=2")
    with pytest.raises(ModelError, match="reaches stride 4 in stage 1, not 8; strides on offer: none of 8, 16, 32"):
        build("monai:resnet10,stage=1")
    with pytest.raises(ModelError, match="has 4 stages"):
        build("monai:resnet10,stage=5")


def test_slips_are_sentences():
    with pytest.raises(LesioncamError, match=r"resnet11.*Did you mean .?resnet1"):
        build("monai:resnet11")
    with pytest.raises(ModelError, match=r"does not take these options.*widen"):
        build("monai:densenet121,widen=2")
    with pytest.raises(ModelError, match="no weights on a hub"):
        build(SMALL, weights="hub")
    with pytest.raises(ModelError, match="carries no gradient"):
        build("monai:resnet18,shortcut_type=A")


def test_images_and_volumes_are_not_mixed_up():
    with pytest.raises(ModelError, match=r"takes volumes .*It was given \(1, 1, 16, 16\)"):
        build(SMALL)(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ModelError, match=r"takes images .*It was given \(1, 1, 16, 16, 16\)"):
        build_backbone(BackboneConfig(), 1)(torch.zeros(1, 1, 16, 16, 16))


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        (SMALL, 0.0),  # padded on both sides all the way
        ("monai:densenet121,stride=8", 2.0),  # one mean over two cells of stride 4
        ("monai:seresnet50,stride=8,stage=2", 2.0),  # MONAI's first pooling has no padding: centre of 3 at stride 2
        ("monai:efficientnet-b0,stride=8,stage=2", 7.0),  # padded at the far end only, three times: 1 + 2 + 4
    ],
)
def test_where_the_first_cell_looks(text, origin):
    assert measure_origin(build(text), 1, size=256) == (origin,) * 3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_measured_place_is_where_a_bright_voxel_acts(axis):
    """Independent of the measurement: which input voxel moves the middle cell most, on average over many weights."""
    backbone = build(f"{SMALL},stride=8,stage=2")
    shape = [16, 16, 16]
    shape[axis] = 128
    weight = torch.zeros(128, dtype=torch.float64)
    for seed in range(24):
        torch.manual_seed(seed)
        for module in backbone.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight)
        volume = torch.randn(1, 1, *shape, requires_grad=True)
        features = backbone(volume)
        cell = [n // 2 for n in features.shape[2:]]
        (gradient,) = torch.autograd.grad(features[(0, slice(None), *cell)].sum(), volume)
        weight += gradient[0, 0].pow(2).movedim(axis, 0).flatten(1).sum(1).double()
    place = float((weight * torch.arange(128)).sum() / weight.sum())
    assert place == pytest.approx(8 * 8 + measure_origin(backbone, 1)[axis], abs=2.5)


@pytest.mark.parametrize("name", ["resnet10,widen_factor=0.25", "densenet121"])
def test_group_norm_reaches_every_layer(name):
    """In training a volume's features then do not depend on its neighbours in the batch."""
    backbone = build(f"monai:{name},stage=2,norm=[group,{{num_groups: 4}}]").train()
    assert not any(isinstance(module, nn.BatchNorm3d) for module in backbone.modules())
    volumes = torch.randn(2, 1, 16, 16, 16)
    assert torch.allclose(backbone(volumes)[:1], backbone(volumes[:1]), atol=1e-4)
