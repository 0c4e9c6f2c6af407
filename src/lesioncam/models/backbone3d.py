"""MONAI networks as feature extractors of a chosen stride: the same contract as timm's in 2D.

A network is taken apart into a row of named parts; the parts behind the features are dropped, and strides are taken
out from the deep end until the asked one is left. A part whose stride was taken out has its kernels spread by as much,
as in the networks MedicalNet was trained with, unless ``dilate=False`` keeps them compact.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from lesioncam.errors import ModelError
from lesioncam.lookup import find
from lesioncam.models.strides import factor, thin_out
from lesioncam.options.networks import BackboneConfig

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Parts:
    """A network in a row.

    Attributes:
        row: its parts, in the order of the forward pass.
        ends: of each of the four stages: the name of its last part, and what makes features of it (norm and ReLU) where
            the part itself ends before them.
        channels: of the features of each stage.
    """

    row: Mapping[str, nn.Module]
    ends: tuple[tuple[str, Mapping[str, nn.Module]], ...]
    channels: tuple[int, ...]


def build_trunk(name: str, config: BackboneConfig, channels: int) -> tuple[nn.Sequential, int]:
    """Build a network up to the asked stage, with the asked stride.

    Args:
        name: without ``monai:``.
        config: stride, stage, dilate and options.
        channels: of the input.

    Returns:
        A module ``(N, channels, D, H, W) -> (N, C, d, h, w)`` and C.

    Raises:
        ModelError: for an unknown name, options MONAI refuses, or a stride that is not on offer.

    Example:
        >>> import torch
        >>> trunk, width = build_trunk("resnet10", BackboneConfig(name="monai:resnet10", stage=2), 1)
        >>> trunk(torch.zeros(1, 1, 16, 24, 32)).shape, width
        (torch.Size([1, 128, 2, 3, 4]), 128)
    """
    build = find(name, BUILDERS, "3D backbone")
    try:
        parts = build(channels, dict(config.options))
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"monai:{name} does not take these options ({reason}).") from error
    stage = config.stage or len(parts.ends)
    if stage > len(parts.ends):
        raise ModelError(f"monai:{name} has {len(parts.ends)} stages; stage={stage} is not one of them.")
    last, finish = parts.ends[stage - 1]
    row: OrderedDict[str, nn.Module] = OrderedDict()
    for key, part in parts.row.items():
        row[key] = part
        if key == last:
            break
    whole = math.prod(map(factor, row.values()))
    if config.stride > whole:
        offer = ", ".join(str(stride) for stride in STRIDES if stride <= whole) or "none of 8, 16, 32"
        raise ModelError(
            f"monai:{name} reaches stride {whole} in stage {stage}, not {config.stride}; strides on offer: {offer}."
        )
    thin_out(row.values(), config.stride, spread=config.dilate is not False)
    return nn.Sequential(OrderedDict([*row.items(), *finish.items()])), parts.channels[stage - 1]


# ---- the networks ------------------------------------------------------------------------------------------------


def _resnet(depth: int, channels: int, options: dict[str, object]) -> Parts:
    from monai.networks import nets

    if options.get("shortcut_type", "B") != "B":
        raise ModelError("shortcut_type=A carries no gradient in MONAI; use B, the default.")
    settled = {"conv1_t_stride": 2, "bias_downsample": False, **options}
    network = getattr(nets, f"resnet{depth}")(spatial_dims=3, n_input_channels=channels, feed_forward=False, **settled)
    if "norm" in options:  # MONAI hands it to the stem only
        _renorm(network, options["norm"])
    stem = {"conv1": network.conv1, "bn1": network.bn1, "act": network.act}
    stem |= {} if network.no_max_pool else {"maxpool": network.maxpool}
    layers = {f"layer{i}": getattr(network, f"layer{i}") for i in range(1, 5)}
    return Parts(stem | layers, tuple((name, {}) for name in layers), tuple(map(_last_width, layers.values())))


def _renorm(network: nn.Module, norm: object) -> None:
    """Every batch norm replaced by another norm of as many channels."""
    from monai.networks.layers.utils import get_norm_layer

    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(parent, name, get_norm_layer(name=norm, spatial_dims=3, channels=child.num_features))


def _last_width(layer: nn.Module) -> int:
    """Channels a residual stage gives: those of the last normalisation on its main path."""
    block: Any = list(layer.children())[-1]
    return int(getattr(block, "conv3", block.conv2).out_channels)


def _densenet(channels: int, options: dict[str, object]) -> Parts:
    from monai.networks import nets

    network = nets.DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1, **options)
    features = dict(network.features.named_children())
    blocks = [name for name in features if name.startswith("denseblock")]
    ends: list[tuple[str, Mapping[str, nn.Module]]] = []
    widths = []
    for i, name in enumerate(blocks, start=1):
        step = features.get(f"transition{i}")
        if step is None:
            norm, relu = features.pop("norm5"), network.class_layers.relu
            finish: dict[str, nn.Module] = {"norm5": norm, "relu5": relu}
        else:  # what the transition does before its convolution
            norm = step.norm
            finish = {f"transition{i}": nn.Sequential(OrderedDict(norm=norm, relu=step.relu))}
        ends.append((name, finish))
        widths.append(_width_of(norm))
    return Parts(features, tuple(ends), tuple(widths))


def _width_of(norm: Any) -> int:
    return int(norm.num_features if hasattr(norm, "num_features") else norm.num_channels)


def _seresnet(channels: int, options: dict[str, object]) -> Parts:
    from monai.networks import nets

    network = nets.SEResNet50(spatial_dims=3, in_channels=channels, num_classes=1, **options)
    row = {f"layer{i}": getattr(network, f"layer{i}") for i in range(5)}
    names = [f"layer{i}" for i in range(1, 5)]
    return Parts(row, tuple((name, {}) for name in names), (256, 512, 1024, 2048))


_EFFICIENT_STAGES = (1, 2, 4, 6)
"""The stacks of blocks after which strides 4, 8, 16 and 32 end."""


def _efficientnet(channels: int, options: dict[str, object]) -> Parts:
    from monai.networks import nets

    network: Any = nets.EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=channels, num_classes=1, **options
    )
    network.set_swish(memory_efficient=False)  # the plain one also has second derivatives and half precision
    row = {"stem_padding": network._conv_stem_padding, "stem": network._conv_stem}  # noqa: SLF001 (MONAI's own names)
    row |= {"stem_norm": network._bn0, "stem_act": nn.SiLU()}  # noqa: SLF001
    stacks = list(network._blocks.children())  # noqa: SLF001
    row |= {f"stack{i}": stack for i, stack in enumerate(stacks)}
    head = {"head": network._conv_head, "head_norm": network._bn1, "head_act": nn.SiLU()}  # noqa: SLF001
    ends: list[tuple[str, Mapping[str, nn.Module]]] = [(f"stack{i}", {}) for i in _EFFICIENT_STAGES]
    ends[-1] = (ends[-1][0], head)
    widths = [int(list(stacks[i].children())[-1].out_channels) for i in _EFFICIENT_STAGES[:-1]]
    return Parts(row, tuple(ends), (*widths, int(network._conv_head.out_channels)))  # noqa: SLF001


BUILDERS: dict[str, Callable[[int, dict[str, object]], Parts]] = {
    "resnet10": partial(_resnet, 10),
    "resnet18": partial(_resnet, 18),
    "resnet34": partial(_resnet, 34),
    "resnet50": partial(_resnet, 50),
    "densenet121": _densenet,
    "seresnet50": _seresnet,
    "efficientnet-b0": _efficientnet,
}
"""Every 3D network, by the name behind ``monai:``."""
