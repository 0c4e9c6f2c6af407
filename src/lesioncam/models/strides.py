"""Strides taken out of a network that is a row of parts, images and volumes alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

_CONVS = (nn.Conv2d, nn.Conv3d)
_MEANS = (nn.AvgPool2d, nn.AvgPool3d)
_POOLS = (nn.MaxPool2d, nn.MaxPool3d, *_MEANS)


def factor(part: nn.Module) -> int:
    """By how much a part makes the grid coarser: a row multiplies, branches of a block stride alike.

    Example:
        >>> factor(nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2)))
        4
    """
    if isinstance(part, nn.Sequential):
        return math.prod(map(factor, part.children()))
    steps = [module.stride for module in part.modules() if isinstance(module, (*_CONVS, *_POOLS))]
    return max((step if isinstance(step, int) else max(step) for step in steps), default=1)


def thin_out(row: Iterable[nn.Module], stride: int, *, spread: bool = True) -> None:
    """Take every stride out that comes after ``stride`` is reached, in place.

    Args:
        row: the parts, in the order of the forward pass.
        stride: input pixels per cell that are left.
        spread: kernels behind reach as far over the finer grid as they did over the coarse one (dilation).
    """
    reached, rate = 1, 1
    for part in row:
        step = factor(part)
        if reached * step <= stride:
            reached *= step
        else:
            rate *= step
            _unstride(part)
        if rate > 1 and spread:
            _spread(part, rate)


def _unstride(part: nn.Module) -> None:
    for parent in list(part.modules()):
        for name, module in parent.named_children():
            if isinstance(module, _MEANS):
                setattr(parent, name, nn.Identity())
    for module in part.modules():
        if isinstance(module, _CONVS):
            module.stride = (1,) * len(module.kernel_size)
        elif isinstance(module, _POOLS):
            module.stride = 1
    _pad_evenly(part)


def _spread(part: nn.Module, rate: int) -> None:
    for module in part.modules():
        if isinstance(module, _CONVS) and max(module.kernel_size) > 1:
            module.dilation = (rate,) * len(module.kernel_size)
            if any(module.padding):
                module.padding = tuple(rate * (k // 2) for k in module.kernel_size)
    _pad_evenly(part)


def _pad_evenly(part: nn.Module) -> None:
    """MONAI's EfficientNet pads in a module of its own, by an amount that belongs to the stride and reach it had."""
    for module in part.modules():
        conv: Any = getattr(module, "_depthwise_conv", None)
        if conv is not None and max(conv.stride) == 1:
            reach = conv.dilation[0] * (conv.kernel_size[0] - 1) // 2
            module._depthwise_conv_padding = nn.ConstantPad3d(reach, 0.0)  # noqa: SLF001 (MONAI's own names)
