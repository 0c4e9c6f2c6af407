"""Class maps of several stages: their sum is what is pooled, each stage at the place where its cells look."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lesioncam.errors import ModelError
from lesioncam.models.backbone import MultiscaleBackbone, build_backbone, measure_origin
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import RunConfig, make_config

SLIM = "slim,stride=8,multiscale=1,channels=[8,8,16,16],stem_width=8"


class Samples(nn.Module):
    """Stages that show the image itself: every 4th and every 8th pixel, or the means of such tiles."""

    def __init__(self, *, mean):
        super().__init__()
        self.mean = mean

    def forward(self, images):
        return [F.avg_pool2d(images, n) if self.mean else images[..., ::n, ::n] for n in (4, 8)]


@pytest.mark.parametrize(("mean", "origins"), [(False, (0.0, 0.0)), (True, (1.5, 3.5))], ids=["pixels", "means"])
def test_a_coarser_stage_lies_where_its_cells_look(mean, origins):
    """On an even ramp linear interpolation is exact, so both stages show the same, but beyond the outer cells."""
    down, right = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    net = MultiscaleBackbone(Samples(mean=mean), [1, 1], [4, 8], [(o, o) for o in origins])
    fine, coarse = net((2 * down - right)[None, None]).unbind(1)
    torch.testing.assert_close(coarse[:, 1:-1, 1:-1], fine[:, 1:-1, 1:-1])
    assert net.channels == 2
    assert net.stride == 4


def test_the_sum_of_the_stages_maps_is_what_is_pooled():
    net = build_classifier(make_config(backbone=SLIM), 2).eval()
    nn.init.normal_(net.head.weight)
    images = torch.rand(2, 1, 64, 80)
    out = net(images)
    assert out.class_maps.shape == (2, 2, 8, 10)
    torch.testing.assert_close(net.pool(out.class_maps, out.features, out.valid), out.logits)
    fine, coarse = net.backbone.network(images)
    assert [fine.shape[1:], coarse.shape[1:]] == [(8, 8, 10), (16, 4, 5)]
    maps = [
        F.conv2d(part, w, b)
        for part, w, b in zip((fine, coarse), net.head.weight.split([8, 16], 1), (net.head.bias, None), strict=True)
    ]
    even = maps[0][:, :, ::2, ::2] + maps[1]  # cell 2 i of the finer stage looks where cell i of the coarser does
    torch.testing.assert_close(out.class_maps[:, :, ::2, ::2], even, atol=1e-5, rtol=1e-4)
    between = maps[0][:, :, 1:-1:2, ::2] + (maps[1][:, :, 1:] + maps[1][:, :, :-1]) / 2
    torch.testing.assert_close(out.class_maps[:, :, 1:-1:2, ::2], between, atol=1e-5, rtol=1e-4)


def test_all_stages_learn_and_the_origin_stays():
    net = build_classifier(make_config(backbone=SLIM), 1).train()
    net(torch.rand(2, 1, 64, 64)).logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert measure_origin(net.backbone, 1) == (0.0, 0.0)
    grown = build_backbone(make_config(backbone="resnet18,stride=16,multiscale=1").backbone, 3)
    assert grown(torch.zeros(1, 3, 64, 64)).shape == (1, 256 + 512, 4, 4)


def test_what_cannot_be_had_is_said():
    with pytest.raises(ModelError, match="2 stages coarser than stride 8"):
        build_backbone(make_config(backbone="resnet18,multiscale=3").backbone, 1)
    with pytest.raises(ModelError, match="for images"):
        build_backbone(make_config(backbone="monai:resnet10,multiscale=1").backbone, 1)
    content = RunConfig().model_dump()
    del content["backbone"]["multiscale"]
    assert RunConfig.model_validate(content) == RunConfig()  # an old run
