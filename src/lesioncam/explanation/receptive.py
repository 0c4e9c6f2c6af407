"""Where the cells of a map look: measured on the architecture, with the weights taken out of it.

Convolutions padded on both sides centre cell ``i`` on input pixel ``i * stride``, patches centre it on the middle of
their tile; a map that is carried home without knowing which lands up to half a cell beside the finding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lesioncam.errors import LesioncamError
from lesioncam.explanation.capture import Target, quiet, run_to_layer
from lesioncam.explanation.layers import choose_layer, unwrapped

_LEVEL = 100.0  # bright enough for SiLU and GELU to be straight lines
_STRAIGHT = 1e-2  # largest share by which the answer to a sum may differ from the sum of the answers
_GATES = ("squeeze", "semodule", "ecamodule", "cecamodule", "effectivese", "globalcontext", "cbam")
_REFUSALS = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, AssertionError, IndexError)


class Cells(NamedTuple):
    """Where cells look: the first one's centre and the way from one to the next, input pixels per axis."""

    origin: tuple[float, ...]
    pitch: tuple[float, ...]


def measure_cells(
    model: nn.Module,
    channels: int,
    size: Sequence[int],
    layer: str | nn.Module | None = None,
    target: Target | None = None,
) -> Cells | None:
    """Measure where the cells of a layer look in the input.

    On a copy of the network whose kernels are reduced to their middle, the activation of a cell is a mean of the input
    over a few pixels, so ramps of brightness answer with the place it looks at: no gradient, and one forward pass of
    ``2 * axes + 1`` images. The middle of a kernel is the middle of its field of view, however wide that is.

    Args:
        model: any; left as it is.
        channels: of the input.
        size: of the input, array order.
        layer: as for `explain`.
        target: as for `explain`.

    Returns:
        To the nearest half pixel; None where there is no such place (attention looks everywhere, other nonlinear parts)
        or it cannot be measured, which means half-pixel centres.

    Example:
        >>> stages = [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1)]
        >>> net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> measure_cells(net, 1, (64, 48))
        Cells(origin=(0.0, 0.0), pitch=(4.0, 4.0))
    """
    bare = unwrapped(model)
    if any("attention" in type(module).__name__.lower() for module in bare.modules()):
        return None
    try:
        place = choose_layer(model, layer).name if layer is not None else None
        images = _ramps(tuple(size)).unsqueeze(1).repeat(1, channels, *(1,) * len(size))
        with quiet(images):
            answers = run_to_layer(_narrowed(bare), images, place, target).activations.double().sum(1)
    except (*_REFUSALS, LesioncamError):
        return None
    return _read(answers, tuple(size))


def _read(answers: Tensor, size: tuple[int, ...]) -> Cells | None:
    """From the answers ``(1 + 2 * axes, *grid)`` to the places of the middle cell and its neighbour."""
    whole, answers = answers[0], answers[1:].unflatten(0, (len(size), 2))
    grid = whole.shape
    middle = tuple(n // 2 for n in grid)
    if not bool(torch.isfinite(answers).all()) or float(whole[middle]) <= 0:
        return None
    origin, pitch = [], []
    for axis, (up, down) in enumerate(answers):
        if abs(float((up + down - whole)[middle] / whole[middle])) > _STRAIGHT:
            return None
        place = [float(up[at] / whole[at]) * (size[axis] - 1) for at in _pair(middle, axis, grid)]
        step = place[-1] - place[0] if len(place) == 2 else size[axis] / grid[axis]
        step = float(round(step)) if abs(step - round(step)) < 0.25 else step
        first = round(2 * (place[0] - middle[axis] * step)) / 2
        if step <= 0 or not -step <= first <= 2 * step + 16:
            return None
        origin.append(first)
        pitch.append(step)
    return Cells(tuple(origin), tuple(pitch))


def _pair(middle: tuple[int, ...], axis: int, grid: Sequence[int]) -> list[tuple[int, ...]]:
    """The cell in the middle and the next one along an axis, where there is one."""
    following = tuple(n + (i == axis) for i, n in enumerate(middle))
    return [middle, following] if following[axis] < grid[axis] else [middle]


def _ramps(size: tuple[int, ...]) -> Tensor:
    """Flat, then per axis a ramp from dark to bright and its mirror image, which add up to the flat one."""
    flat = torch.full(size, _LEVEL)
    found = [flat]
    for axis, n in enumerate(size):
        rise = torch.linspace(0, 1, n).view([-1 if i == axis else 1 for i in range(len(size))])
        found += [flat * rise, flat * (1 - rise)]
    return torch.stack(found)


def _narrowed(model: nn.Module) -> nn.Module:
    """A copy with kernels that see their middle only, no norms, and mean pooling: positive in, positive out."""
    probe = copy.deepcopy(model).float().cpu().eval()
    for parent in list(probe.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.instancenorm._InstanceNorm):  # noqa: SLF001
                setattr(parent, name, nn.Identity())
            elif isinstance(module, nn.MaxPool2d | nn.MaxPool3d):  # a maximum is not where the window is
                mean: Any = nn.AvgPool2d if isinstance(module, nn.MaxPool2d) else nn.AvgPool3d
                setattr(parent, name, mean(module.kernel_size, module.stride, module.padding, module.ceil_mode))
    with torch.no_grad():
        for module in probe.modules():
            _narrow(module)
            if any(gate in type(module).__name__.lower() for gate in _GATES):
                for weight in module.parameters():
                    weight.zero_()
    return probe


def _narrow(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        module.weight.copy_(_middle(module.weight.shape[2:]) / module.weight.shape[1])
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (the common base has no public name)
        module.reset_running_stats()
        nn.modules.batchnorm._BatchNorm.reset_parameters(module)  # noqa: SLF001
    for name in ("gamma", "layer_scale", "scale"):  # of ConvNeXt and its like
        own = getattr(module, name, None)
        if isinstance(own, nn.Parameter):
            own.fill_(1.0)


def _middle(kernel: Sequence[int]) -> Tensor:
    """A kernel that sees its middle: one place of an odd side, two of an even one; sums to 1."""
    out = torch.ones(())
    for side in kernel:
        line = torch.zeros(side)
        line[(side - 1) // 2 : side // 2 + 1] = 1.0
        out = out[..., None] * (line / line.sum())
    return out
