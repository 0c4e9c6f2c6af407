"""Any timm network (images) or MONAI network (volumes) as a feature extractor of a chosen stride."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lesioncam.errors import ModelError
from lesioncam.models.backbone3d import BUILDERS, build_trunk
from lesioncam.models.strides import thin_out
from lesioncam.models.weights import fill_partly, first_line, read_weights
from lesioncam.options.networks import BackboneConfig
from lesioncam.runs.folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alias:
    """A short name of our own: a timm name, the options that make it, and how deep and how local it is by default."""

    name: str
    options: Mapping[str, object]
    stage: int | None = None
    dilate: bool = True


ALIASES = {
    "slim": Alias(
        name="resnet10t",
        # avg_down off: dilated, its one-sided padding would move every stage's shortcut by half a cell
        options={"channels": (24, 48, 96, 192), "stem_width": 16, "avg_down": False},
        stage=3,
        dilate=False,
    )
}
"""Every short name; any timm name works as well."""

_PROBE = 384
_DENSE = re.compile(r"densenet\d+(\.\w+)?")
"""Networks timm does not dilate; an earlier stage of them ends before its norm and ReLU, so the last one is taken."""
_REFUSALS = (TypeError, AssertionError, NotImplementedError, ValueError)  # how timm says "cannot dilate"


class Backbone(nn.Module):
    """Features of one stage, ``(N, C_in, *S) -> (N, C, *S / stride)``.

    Attributes:
        axes: 2 for images ``(H, W)``, 3 for volumes ``(D, H, W)``.
        channels: C.
        stride: input pixels per cell.
    """

    def __init__(
        self, network: nn.Module, channels: int, stride: int, *, channels_last: bool = False, axes: int = 2
    ) -> None:
        super().__init__()
        self.network, self.channels, self.stride, self._channels_last = network, channels, stride, channels_last
        self.axes = axes

    def forward(self, images: Tensor) -> Tensor:
        """Features after the stage's last activation.

        Raises:
            ModelError: for volumes where images are expected, and the reverse.
        """
        if images.ndim != self.axes + 2:
            takes = "images (N, C, H, W); for volumes choose a 3D one, monai:resnet10 for instance"
            if self.axes == 3:
                takes = "volumes (N, C, D, H, W); for images choose a 2D one, resnet18 for instance"
            raise ModelError(f"this backbone takes {takes}. It was given {tuple(images.shape)}.")
        try:
            found = self.network(images)
        except AssertionError as error:  # how timm's transformers refuse a size
            raise ModelError(f"the backbone does not take inputs of {tuple(images.shape[2:])}: {error}") from error
        return self._features([found] if isinstance(found, Tensor) else found)

    def _features(self, stages: list[Tensor]) -> Tensor:
        return self._laid_out(stages[-1])

    def _laid_out(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2).contiguous() if self._channels_last else features


class MultiscaleBackbone(Backbone):
    """Features of several stages at the places of the finest one, one after the other along the channels.

    A 1x1 convolution on them is the sum of one on each stage, since it commutes with interpolation: so the class maps
    of the stages are added, the coarser ones brought to the finest grid, and whatever pools sees their sum.

    Args:
        network: gives the stages, finest first.
        channels: of each stage.
        strides: input pixels per cell, of each stage.
        origins: where each stage's first cell looks (:func:`measure_origin`), input pixels per axis.
        channels_last: the network's own layout.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: list[int],
        strides: list[int],
        origins: list[tuple[float, ...]],
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__(network, sum(channels), strides[0], channels_last=channels_last, axes=len(origins[0]))
        self.strides, self.origins = tuple(strides), tuple(origins)

    def _features(self, stages: list[Tensor]) -> Tensor:
        finest, *coarser = map(self._laid_out, stages)
        return torch.cat([finest, *(self._refined(maps, i, finest) for i, maps in enumerate(coarser, start=1))], dim=1)

    def _refined(self, maps: Tensor, level: int, finest: Tensor) -> Tensor:
        """Linear interpolation at the places where the finest cells look, constant beyond the outer ones."""
        for axis, cells in enumerate(finest.shape[2:]):
            places = torch.arange(cells, device=maps.device) * self.strides[0] + self.origins[0][axis]
            places = ((places - self.origins[level][axis]) / self.strides[level]).clamp(0, maps.shape[axis + 2] - 1)
            away = (places[:, None] - torch.arange(maps.shape[axis + 2], device=maps.device)).abs()
            weights = (1 - away).clamp(min=0).to(maps.dtype)
            maps = (maps.movedim(axis + 2, -1) @ weights.T).movedim(-1, axis + 2)
        return maps


def build_backbone(config: BackboneConfig, channels: int, weights: str = "none") -> Backbone:
    """Build a network that gives features of the asked stride.

    Args:
        config: name, stride (dilated where timm dilates, else the deepest stage of that stride) and options; a name
            ``monai:resnet10`` is a network for volumes.
        channels: input channels, any number.
        weights: ``none`` (random), ``hub`` (timm's pretrained), a file (safetensors, or a state dict read with
            ``weights_only=True``; for volumes MedicalNet's, for instance), or a run folder, whose backbone is taken.

    Raises:
        ModelError: for an unknown name or option, a stride that is not on offer (it lists those that are), or weights
            that cannot be had; nothing falls back to random weights in silence.

    Example:
        >>> net = build_backbone(BackboneConfig(name="slim", stride=8), channels=1)
        >>> net(torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 96, 8, 6])
    """
    if Path(weights).is_dir():
        return _continued(build_backbone(config, channels), Path(weights))
    if config.axes == 3:
        return _build_3d(config, channels, weights)
    config, options = _resolve(config)
    name = config.name
    options = {**_FREE_SIZE.get(name.split("_", maxsplit=1)[0], {}), **options}
    pretrained = _pretrained(weights)
    if config.multiscale:
        return _multiscale(name, channels, {**options, **pretrained}, config)
    network = _dilated(name, channels, {**options, **pretrained}, config.stride, config.stage)
    if network is None or _info(network).reduction()[-1] != config.stride:
        network = _deepest_stage(name, channels, {**options, **pretrained}, config.stride)
    if not config.dilate:
        _compact(network)
    form = str(getattr(network, "output_fmt", "NCHW"))
    return Backbone(network, _info(network).channels()[-1], config.stride, channels_last="NHWC" in form)


_FREE_SIZE = {
    **{family: {"dynamic_img_size": True} for family in ("vit", "deit", "deit3", "beit", "beitv2", "eva02")},
    **{family: {"strict_img_size": False} for family in ("swin", "swinv2")},
}
"""What lets a family take inputs of any size that its patches allow, by the first part of the name."""


def _build_3d(config: BackboneConfig, channels: int, weights: str) -> Backbone:
    if config.multiscale:
        raise ModelError(f"multiscale is for images; leave it out of {config.name}, a network for volumes.")
    trunk, width = build_trunk(config.name.removeprefix("monai:"), config, channels)
    if weights == "hub":
        raise ModelError(
            f"{config.name} has no weights on a hub; save a checkpoint once (MedicalNet's for the ResNets) and pass "
            "--weights FILE, or start from random weights with --weights none."
        )
    if weights != "none":
        fill_partly(trunk, read_weights(weights), weights)
    return Backbone(trunk, width, config.stride, axes=3)


def _continued(backbone: Backbone, run: Path) -> Backbone:
    """The backbone of a run of ours."""
    weights = RunFolder(run).weights
    if not weights.is_file():
        raise ModelError(
            f"weights {str(run)!r}: no model in this folder; give a run's folder, a file, 'hub' or 'none'."
        )
    own = {name: value for name, value in read_weights(weights).items() if name.startswith("backbone.")}
    fill_partly(backbone, own, str(run), stem="backbone.")
    return backbone


def _resolve(config: BackboneConfig) -> tuple[BackboneConfig, dict[str, object]]:
    """The configuration with a timm name and nothing left open, and the options of timm."""
    import timm

    alias = ALIASES.get(config.name, Alias(config.name, {}))
    if not timm.is_model(alias.name):
        near = timm.list_models(f"*{alias.name}*")[:5] or _near(alias.name)
        raise ModelError(
            f"Unknown backbone {config.name!r}. Did you mean one of {', '.join(near)}? "
            f"Any timm name works, or {', '.join(ALIASES)}; for volumes monai: and {', '.join(BUILDERS)}."
        )
    settled = {
        "name": alias.name,
        "stage": alias.stage if config.stage is None else config.stage,
        "dilate": alias.dilate if config.dilate is None else config.dilate,
    }
    return config.model_copy(update=settled), {**alias.options, **config.options}


def _near(name: str) -> list[str]:
    from difflib import get_close_matches

    import timm

    return get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)


def _dilated(
    name: str, channels: int, options: Mapping[str, object], stride: int, stage: int | None
) -> nn.Module | None:
    """The network up to the asked stage, its last strides taken out; None where timm refuses."""
    dilation = {} if stride == 32 else {"output_stride": stride}
    stages = (-1,) if stage is None else (_stage(name, channels, options, stage),)
    try:
        if _DENSE.fullmatch(name) and stage is None:
            network = _create(name, channels, options, stages)
            thin_out(network.children(), stride)
            _info(network).info[_info(network).out_indices[-1]]["reduction"] = stride
            return network
        return _create(name, channels, {**options, **dilation}, stages)
    except _REFUSALS as refusal:
        logger.debug("%s does not dilate to stride %d (%s).", name, stride, refusal)
        return None


def _stage(name: str, channels: int, options: Mapping[str, object], stage: int) -> int:
    """Index of a stage in timm's list, which begins with the stem where there is one of its own."""
    names = _all_stages(name, channels, options).module_name()
    stems = int(not any(part in names[0] for part in ("stages", "layer", "block")))
    if stage > len(names) - stems:
        raise ModelError(f"{name} has {len(names) - stems} stages; stage={stage} is not one of them.")
    return stage - 1 + stems


def _compact(network: nn.Module) -> None:
    """Kernels without holes: a cell keeps a small field of view although the map is fine."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            module.dilation = (1, 1)
            module.padding = tuple(k // 2 for k in module.kernel_size)


def _pretrained(weights: str) -> dict[str, object]:
    if weights == "none":
        return {}
    if weights == "hub":
        return {"pretrained": True}
    if not Path(weights).is_file():
        raise ModelError(
            f"weights {weights!r}: no such file. Give a safetensors file, 'hub' for timm's pretrained, or 'none'."
        )
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}


def _create(
    name: str, channels: int, options: Mapping[str, object], stages: tuple[int, ...] | None = None
) -> nn.Module:
    import timm
    from safetensors import SafetensorError

    try:
        if stages is not None:
            options = {**options, "out_indices": stages}
        network: nn.Module = timm.create_model(name, features_only=True, in_chans=channels, **options)
    except OSError as error:
        raise ModelError(
            f"pretrained weights of {name} cannot be had ({type(error).__name__}). With network, save them once "
            "and pass --weights FILE, or start from random weights with --weights none."
        ) from error
    except (KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{name} cannot be built as a feature extractor with these options or weights: {first_line(error)}"
        ) from error
    return network


class _FeatureInfo(Protocol):
    """What timm knows of the stages of a network."""

    info: list[dict[str, object]]
    out_indices: Sequence[int]

    def reduction(self) -> list[int]: ...

    def channels(self) -> list[int]: ...

    def module_name(self) -> list[str]: ...


def _info(network: nn.Module) -> _FeatureInfo:
    return cast("_FeatureInfo", network.feature_info)


def _all_stages(name: str, channels: int, options: Mapping[str, object]) -> _FeatureInfo:
    """Of the network as it comes, without weights."""
    return _info(_create(name, channels, {k: v for k, v in options.items() if not k.startswith("pretrained")}))


def _deepest_stage(name: str, channels: int, options: dict[str, object], stride: int) -> nn.Module:
    try:
        reductions = _all_stages(name, channels, options).reduction()
    except _REFUSALS as error:
        raise ModelError(f"{name} does not take these options: {error}") from error
    if stride not in reductions:
        offer = ", ".join(str(r) for r in sorted(set(reductions)) if r in (8, 16, 32)) or "none of 8, 16, 32"
        raise ModelError(f"{name} has no stage of stride {stride} and does not dilate; strides on offer: {offer}.")
    stage = len(reductions) - 1 - reductions[::-1].index(stride)
    return _create(name, channels, options, stages=(stage,))


class _Level(nn.Module):
    """One stage of a network that gives several."""

    def __init__(self, network: nn.Module, level: int) -> None:
        super().__init__()
        self.network, self.level = network, level

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(images)[self.level]
        return found


def _multiscale(name: str, channels: int, options: dict[str, object], config: BackboneConfig) -> MultiscaleBackbone:
    """The stage of the asked stride and the next, coarser ones; nothing is dilated."""
    reductions = _all_stages(name, channels, options).reduction()
    if config.stride not in reductions:
        raise ModelError(f"{name} has no stage of stride {config.stride}; strides on offer: {reductions}.")
    first = len(reductions) - 1 - reductions[::-1].index(config.stride)
    deeper = len(reductions) - 1 - first
    if config.multiscale > deeper:
        raise ModelError(
            f"{name} has {deeper} stages coarser than stride {config.stride}; multiscale={config.multiscale} asks for "
            "more. Lower it, or the stride."
        )
    network = _create(name, channels, options, tuple(range(first, first + config.multiscale + 1)))
    widths, strides = _info(network).channels(), _info(network).reduction()
    last = "NHWC" in str(getattr(network, "output_fmt", "NCHW"))
    levels = [
        Backbone(_Level(network, i), width, stride, channels_last=last)
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True))
    ]
    origins = [measure_origin(level, channels) for level in levels]
    return MultiscaleBackbone(network, widths, strides, origins, channels_last=last)


def measure_origin(backbone: Backbone, channels: int, size: int = _PROBE) -> tuple[float, ...]:
    """Where the first cell of the features really looks: the input pixel at the centre of its receptive field.

    Convolutions padded on both sides centre cell ``i`` on input pixel ``i * stride``, not on the middle of its tile: at
    stride 32 a map resized by half-pixel centres is 15.5 pixels off. The centre is measured on a copy of the network
    whose kernels are flat and positive, so that it depends on the architecture and not on the weights: the centre of
    mass of the gradient of one cell in the middle.

    Args:
        backbone: any.
        channels: of the input.
        size: side of the probe, pixels; wide enough that the middle cell does not see the border. A volume is probed
            along one axis after the other, one cell thick in the others.

    Returns:
        Per axis (down, right; in 3D up, down, right), input pixels, to the nearest half; half-pixel centres where
        nothing can be measured (attention looks everywhere).

    Example:
        >>> net = build_backbone(BackboneConfig(name="slim", stride=16), channels=1)
        >>> measure_origin(net, 1)
        (0.0, 0.0)
    """
    axes = backbone.axes
    tile = ((backbone.stride - 1) / 2,) * axes
    if any("attention" in type(module).__name__.lower() for module in backbone.modules()):
        return tile
    probe = _flattened(backbone)
    if axes == 2:
        return _looks_at(probe, (channels, size, size)) or tile
    sides = [tuple(size if axis == long else backbone.stride for axis in range(axes)) for long in range(axes)]
    found = [_looks_at(probe, (channels, *side)) or tile for side in sides]
    return tuple(each[axis] for axis, each in enumerate(found))


def _looks_at(probe: nn.Module, shape: tuple[int, ...]) -> tuple[float, ...] | None:
    """Where the middle cell looks, less its number times the stride; None where no weight reaches the input."""
    images = torch.ones(1, *shape, requires_grad=True)
    with torch.enable_grad():
        features = probe(images)
        cells = [n // 2 for n in features.shape[2:]]
        (gradient,) = torch.autograd.grad(features[(0, slice(None), *cells)].sum(), images)
    weight = gradient.abs().sum((0, 1)).double()
    if not bool(torch.isfinite(weight).all()) or float(weight.sum()) == 0:
        return None
    centres = []
    for axis, cell in enumerate(cells):
        along = weight.movedim(axis, 0).flatten(1).sum(1)
        place = float((along * torch.arange(len(along), dtype=torch.float64)).sum() / along.sum())
        centres.append(round(2 * (place - cell * probe.stride)) / 2)
    return tuple(centres)


_GATES = frozenset({"ChannelSELayer", "ResidualSELayer"})
"""Gates of the whole map: they look everywhere, and at no place in particular."""


def _flattened(backbone: Backbone) -> nn.Module:
    """A copy with flat positive kernels, no norms and mean pooling: positive in, positive out."""
    probe = copy.deepcopy(backbone).float().eval()
    for parent in list(probe.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm) or type(module).__name__ in _GATES:
                setattr(parent, name, nn.Identity())
            elif isinstance(module, nn.MaxPool2d | nn.MaxPool3d):  # on a flat image the first place, which is no centre
                mean: type[nn.Module] = nn.AvgPool2d if isinstance(module, nn.MaxPool2d) else nn.AvgPool3d
                setattr(parent, name, mean(module.kernel_size, module.stride, module.padding, module.ceil_mode))
    for module in probe.modules():
        if hasattr(module, "has_se"):
            module.has_se = False  # type: ignore[assignment]
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (the common base has no public name)
            module.reset_running_stats()
            module.reset_parameters()
    return probe
