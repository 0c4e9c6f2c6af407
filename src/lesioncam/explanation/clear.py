"""CLEAR: the response of every class projected back to the pixels of the input, exactly.

Every step of a network but its activations is linear, and the way back through a linear step is its transpose. So the
back-projection is a vector-Jacobian product in which only the backward of the ReLU is replaced by a rule; strides,
dilation, groups, batch norm, residual sums, average pooling and the switches of max pooling are right by themselves.

The pass runs under a mode that replaces three operations, wherever and however they are called. The ReLU gets the
rule. Convolutions keep their weights only, and batch norm becomes a product and a sum: for the way back to the input
nothing else is needed, and the graph takes a fraction of the memory. The mode belongs to one thread and ends with the
pass; the model is not changed.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.budget import MEMORY
from lesioncam.explanation.capture import Target, quiet, ready, scores_of
from lesioncam.functional.clear import CLASS_SCALES, REDUCTIONS, class_scale, dominant, reduce_channels
from lesioncam.lookup import find
from lesioncam.types import ClassifierOutput

RULES = ("linear", "deconvnet", "guided", "gradient")
UNPOOLS = ("switches", "nearest")

_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]
"""Of any operation of PyTorch."""


@dataclass(frozen=True)
class ClearOptions:
    """Options of CLEAR; ``ClearOptions(rule="linear")`` is the paper as written.

    Attributes:
        rule: what a ReLU with input ``a`` does to the signal ``r`` on its way back: ``linear`` (r), ``deconvnet``
            (max(r, 0)), ``guided`` (max(r, 0) where a > 0) or ``gradient`` (r where a > 0). Networks with other
            activations than ReLU take ``gradient`` only.
        unpool: max pooling on the way back: ``switches`` (to where the maximum was) or ``nearest`` (to the whole
            window, which multiplies the energy by 4 for windows of 2 x 2).
        seed: what is projected: ``map`` (the class map, as in the paper), ``max`` (its largest value only) or
            ``positive`` (its positive part).
        channel_reduce: ``sum_abs``, ``abs_sum`` or ``max``, see :func:`lesioncam.functional.clear.reduce_channels`.
        class_scale: ``none``, ``softmax`` or ``standardise``, before classes compete for a pixel.
        signed: keep the signed response of every channel as well.
        memory: budget for a batch with its graph, bytes; the maps that are returned are not counted.
    """

    rule: Literal["linear", "deconvnet", "guided", "gradient"] = "guided"
    unpool: Literal["switches", "nearest"] = "switches"
    seed: Literal["map", "max", "positive"] = "map"
    channel_reduce: Literal["sum_abs", "abs_sum", "max"] = "sum_abs"
    class_scale: Literal["none", "softmax", "standardise"] = "none"
    signed: bool = False
    memory: int = MEMORY

    def __post_init__(self) -> None:
        find(self.rule, dict.fromkeys(RULES), "rule")
        find(self.unpool, dict.fromkeys(UNPOOLS), "unpooling")
        find(self.seed, SEEDS, "seed")
        find(self.channel_reduce, REDUCTIONS, "channel reduction")
        find(self.class_scale, CLASS_SCALES, "class scale")
        if self.memory <= 0:
            raise OptionError(f"memory must be a positive number of bytes, got {self.memory}; 1 GiB is {MEMORY}.")


@dataclass(frozen=True)
class ClearMaps:
    """What CLEAR found, on the grid of the network input; no graph.

    Attributes:
        responses: ``(N, K, *S)`` float32, not negative: how strongly each pixel responds to each class. ``(N, 1, *S)``
            where one class per image was asked for.
        dominant_class: ``(N, *S)`` int64, the class with the strongest response after ``class_scale``; the class asked
            for where it was one per image.
        dominant: ``(N, *S)`` float32, that response.
        logits: ``(N, K)`` float32.
        signed: ``(N, K, C, *S)`` signed responses of each channel (float64 from a float64 network), where asked for.
    """

    responses: Tensor
    dominant_class: Tensor
    dominant: Tensor
    logits: Tensor
    signed: Tensor | None = None


def clear(
    model: nn.Module,
    images: Tensor,
    target: Target | None = None,
    classes: Tensor | None = None,
    options: ClearOptions | None = None,
) -> ClearMaps:
    r"""Class-enhanced attentive response of every class, and of the class that dominates each pixel.

    .. math:: R(x|c) = \big| J^T (e_c \otimes z) \big|, \quad \hat C(x) = \arg\max_c R(x|c), \quad D(x) = R(x|\hat C(x))

    with the class maps z of the network (the linear head applied to each place of the features, without its bias) and J
    the Jacobian of z by the image in which ReLU follows the rule.

    Args:
        model: a private network in evaluation mode (:func:`lesioncam.explanation.twin.private`), 2D or 3D, whose
            scores are the mean of class maps plus a bias; or a classifier of ours, with any pooling.
        images: ``(N, C, *S)``, prepared.
        target: from the model's output to logits ``(N, K)``; None for a tensor, or something with ``logits``.
        classes: ``(N,)`` int64, one class per image; None takes all K.
        options: see :class:`ClearOptions`.

    Returns:
        Responses without a graph. A strong response says that the class maps depend on the pixel; whether it speaks for
        or against the class is lost with the sign.

    Raises:
        ModelError: if there are no class maps whose mean plus bias is the score, if the network has an activation the
            rule is not defined for, or if it is in training mode.
        OptionError: for classes out of range or images that are no batch.

    Reference:
        Kumar, Wong & Taylor, "Explaining the unexplained: a class-enhanced attentive response (CLEAR) approach to
        understanding deep neural networks", CVPR Workshops 2017.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        >>> image = torch.tensor([[[[1.0, 2.0]]]])
        >>> maps = clear(net, image, options=ClearOptions(rule="linear"))    # z_c = w_c x, and back: w_c z_c = w_c^2 x
        >>> bool(torch.allclose(maps.responses, net[0].weight.detach().view(1, 2, 1, 1).square() * image))
        True
    """
    options = options or ClearOptions()
    _check(model, images, classes)
    with quiet(images), torch.enable_grad():
        per_image = images[0].numel() * images.element_size()
        parts, start, size = [], 0, _next_size(len(images), options.memory // (_AT_MOST * per_image))
        while start < len(images):
            stop = min(start + size, len(images))
            own = None if classes is None else classes[start:stop].clone()
            parts.append(_project(model, images[start:stop], target, own, options))
            start, size = stop, _next_size(len(images) - stop, options.memory // parts[0].cost)
    responses, logits = torch.cat([p.responses for p in parts]), torch.cat([p.logits for p in parts])
    probabilities = logits.softmax(1) if classes is None else logits.softmax(1).gather(1, classes[:, None])
    which, strength = dominant(class_scale(responses, probabilities, options.class_scale))
    if classes is not None:
        which = classes.view(-1, *[1] * (images.ndim - 2)).expand_as(which).clone()
    signed = torch.cat([p.signed for p in parts if p.signed is not None]) if options.signed else None
    return ClearMaps(responses, which, strength, logits, signed)


def _check(model: nn.Module, images: Tensor, classes: Tensor | None) -> None:
    if images.ndim < 3 or not len(images):
        raise OptionError(f"images must be a batch (N, C, *S) of at least one, got {tuple(images.shape)}.")
    if any(part.training for part in model.modules()):
        raise ModelError("the network is in training mode; give lesioncam.explanation.twin.private(model).")
    if classes is not None and classes.shape != (len(images),):
        raise OptionError(f"classes must be one per image, ({len(images)},), got {tuple(classes.shape)}.")


def _next_size(left: int, fitting: int) -> int:
    """Equal batches of the images that are left, none larger than what fits."""
    most = min(max(1, fitting), _MOST)
    return max(1, -(-left // max(1, -(-left // most))))


_MOST = 32
"""Larger batches are not faster."""

_AT_MOST = 1000
"""No network takes more than so many times the memory of an image: how many may go first, before one is known."""


class _Part(NamedTuple):
    """The result for some images, and what one of them takes in memory, bytes."""

    responses: Tensor
    logits: Tensor
    signed: Tensor | None
    cost: int


def _project(
    model: nn.Module, images: Tensor, target: Target | None, classes: Tensor | None, options: ClearOptions
) -> _Part:
    """One forward pass of a batch and the way back of every class."""
    leaf = ready(model, images).requires_grad_()
    with _Pass(options.rule, options.unpool) as watched:
        output = model(leaf.clone())  # a copy, since the network may work in place
    logits = scores_of(output, target)
    source = _class_maps(watched, output, logits.detach())
    _check_graph(source.root, options)
    working = _ALIVE * watched.largest
    del watched, output  # they hold tensors that the way back does not need
    kept = 2 * _graph_bytes(source.root, model)  # what was freed meanwhile lies between, in pieces
    parts = _class_chunks(_chosen(classes, logits), leaf, options.memory - kept, working)
    responses, signed = [], []
    for part in parts:
        for found in _back(source, leaf, part, options.seed):
            wide = found if found.dtype == torch.float64 else found.float()
            responses.append(reduce_channels(wide, options.channel_reduce, dim=1).float())
            signed += [wide] if options.signed else []
    cost = max(1, kept // len(images) + len(parts[0]) * working)
    return _Part(torch.stack(responses, 1), logits.detach().float(), torch.stack(signed, 1) if signed else None, cost)


def _chosen(classes: Tensor | None, logits: Tensor) -> Tensor:
    """Which class of which image is projected, ``(M, N)``: all of them in turn, or one per image."""
    count = logits.shape[1]
    if classes is None:
        return torch.arange(count, device=logits.device)[:, None].expand(count, len(logits))
    wrong = [k for k in classes.tolist() if not 0 <= k < count]
    if wrong:
        raise OptionError(f"class {wrong[0]} does not exist: this model has {count}, numbered 0 to {count - 1}.")
    return classes.to(logits.device)[None]


_TOGETHER_CPU, _TOGETHER = 40_000, 4_000_000
"""Pixels up to which several classes go back in one batched product. Above it, a processor is busy with one class, and
one after the other is faster and smaller (5 classes on a ResNet-18: up to 128 x 128 a tenth to a quarter slower than
batched, at 224 x 224 a tenth faster)."""

_ALIVE = 8
"""So many tensors of the size of the largest are alive at once on the way, scratch space of convolutions included."""


def _class_chunks(chosen: Tensor, leaf: Tensor, memory: int, cost: int) -> Sequence[Tensor]:
    most = _TOGETHER_CPU if leaf.device.type == "cpu" else _TOGETHER
    busy = most // (len(leaf) * math.prod(leaf.shape[2:]))
    return chosen.split(max(1, min(busy, memory // max(1, cost * len(leaf)))))


# ---- class maps --------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Where the way back begins.

    Attributes:
        root: a tensor of the graph, ``(N, ..., C, ...)``.
        axis: of its channels.
        weight: ``(K, C)``, from its channels to class maps.
        maps: ``(N, K, *s)``, the class maps without bias.
    """

    root: Tensor
    axis: int
    weight: Tensor
    maps: Tensor

    def seeds(self, chosen: Tensor, seed: str) -> Tensor:
        """What is projected, in the layout of the root: ``(M, *root.shape)``, for the classes ``(M, N)``."""
        index = chosen.T.view(*chosen.T.shape, *[1] * (self.maps.ndim - 2)).expand(-1, -1, *self.maps.shape[2:])
        value = SEEDS[seed](self.maps.gather(1, index)).movedim(1, 0)  # (M, N, *s)
        weight = self.weight[chosen]
        spread = value[:, :, None] * weight.view(*weight.shape, *[1] * (value.ndim - 2))
        return spread.movedim(2, self.axis + 1).to(self.root.dtype)


def _largest_only(maps: Tensor) -> Tensor:
    flat = maps.flatten(2)
    top = flat.argmax(2, keepdim=True)
    return torch.zeros_like(flat).scatter_(2, top, flat.gather(2, top)).view_as(maps)


SEEDS: dict[str, Callable[[Tensor], Tensor]] = {
    "map": lambda maps: maps,
    "max": _largest_only,
    "positive": lambda maps: maps.clamp(min=0),
}
"""What of the class maps ``(N, K, *s)`` is projected."""


def _class_maps(watched: _Pass, output: object, logits: Tensor) -> _Source:
    """The class maps of a network, checked by the identity: the mean of a map plus its bias is the logit."""
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        if isinstance(output, ClassifierOutput):
            found: _Source | None = _own_maps(watched, output.class_maps)
        else:
            found = next((one for one in _found_maps(watched, logits) if one is not None), None)
    if found is None:
        raise ModelError(
            "CLEAR needs class maps: the scores must be the mean over all places of one map per class, plus a bias "
            "(global average pooling and one linear layer, or a 1x1 convolution and global average pooling). This "
            "network's are not; take gradcam or layercam."
        )
    if not found.root.requires_grad:
        raise ModelError(
            "the class maps have no gradient at the image: the model detaches it or switches gradients off."
        )
    return found


def _own_maps(watched: _Pass, maps: Tensor) -> _Source:
    """Our own classifiers say what their class maps are; the bias is taken off where the head is found."""
    head = next((head for head in watched.heads if head.output is maps), None)
    return _Source(maps, 1, _unit(maps), _less(maps.detach(), None if head is None else head.bias))


def _found_maps(watched: _Pass, logits: Tensor) -> Iterator[_Source | None]:
    """What was pooled, the last first, with every linear step behind it, or with none."""
    for pooled in reversed(watched.pooled):
        features = _exact(pooled.tensor.movedim(pooled.axis, 1))
        for head in reversed(watched.heads):
            yield _head_behind(pooled, features, head, logits)
        yield _head_before(pooled, features, watched.heads, logits)


def _head_behind(pooled: _Pooled, features: Tensor, head: _Head, logits: Tensor) -> _Source | None:
    weight = _exact(head.weight.flatten(1)).to(features.dtype)
    if weight.shape != (logits.shape[1], features.shape[1]):
        return None
    mean = features.flatten(2).mean(2)
    bias = 0.0 if head.bias is None else head.bias.detach().to(features.dtype)
    if not _same(mean @ weight.T + bias, logits, mean.abs() @ weight.abs().T, pooled.tensor.dtype):
        return None
    return _Source(pooled.tensor, pooled.axis, weight, torch.einsum("kc,nc...->nk...", weight, features))


def _head_before(pooled: _Pooled, maps: Tensor, heads: Sequence[_Head], logits: Tensor) -> _Source | None:
    mean = maps.flatten(2).mean(2)
    if mean.shape != logits.shape or not _same(mean, logits, mean.abs(), pooled.tensor.dtype):
        return None
    head = next((head for head in heads if head.output is pooled.tensor), None)
    return _Source(pooled.tensor, pooled.axis, _unit(maps), _less(maps, None if head is None else head.bias))


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()


def _unit(maps: Tensor) -> Tensor:
    return torch.eye(maps.shape[1], dtype=_exact(maps).dtype, device=maps.device)


def _less(maps: Tensor, bias: Tensor | None) -> Tensor:
    exact = _exact(maps)
    return exact if bias is None else exact - bias.detach().to(exact.dtype).view(-1, *[1] * (maps.ndim - 2))


def _same(given: Tensor, logits: Tensor, size: Tensor, kind: torch.dtype) -> bool:
    """Equal but for rounding, of which a sum of large terms has more."""
    allowed = max(16 * torch.finfo(kind).eps, 64 * torch.finfo(logits.dtype).eps) * (size + logits.abs() + 1e-6)
    return bool(((given - logits).abs() <= allowed).all())


# ---- the pass ----------------------------------------------------------------------------------------------------


class _Pooled(NamedTuple):
    """What went into an average over all places, and the axis of its channels."""

    tensor: Tensor
    axis: int


class _Head(NamedTuple):
    """A linear layer or a 1x1 convolution, as it ran."""

    weight: Tensor
    bias: Tensor | None
    output: Tensor


_KEEP = 8
"""So many poolings and linear steps are remembered, the last ones; squeeze-and-excitation blocks have them as well."""

_CONVOLUTIONS = {f"conv{n}d": n for n in (1, 2, 3)}
_MAX_POOLS = {f"max_pool{n}d": n for n in (1, 2, 3)}
_MEAN_POOLS = {f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}


class _Pass(TorchFunctionMode):
    """Runs a network so that its way back is CLEAR's, and notes what may be its class maps."""

    def __init__(self, rule: str, unpool: str) -> None:
        super().__init__()
        self.rule, self.unpool = rule, unpool
        self.pooled: deque[_Pooled] = deque(maxlen=_KEEP)
        self.heads: deque[_Head] = deque(maxlen=_KEEP)
        self.largest = 0

    def __torch_function__(
        self, func: Callable[..., Tensor], types: object, args: _Args = (), kwargs: _Kwargs | None = None
    ) -> object:
        """Run one operation."""
        del types
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        given = args[0] if args else kwargs.get("input")
        if not isinstance(given, Tensor) or not given.is_floating_point():
            return func(*args, **kwargs)
        out = self._run(name, func, args, kwargs) if given.requires_grad and torch.is_grad_enabled() else None
        out = func(*args, **kwargs) if out is None else out
        self._note(name, given, args, kwargs, out)
        return out

    def _run(self, name: str, func: Callable[..., Tensor], args: _Args, kwargs: _Kwargs) -> Tensor | None:
        """The operation with a backward of ours; None for all others."""
        found: Tensor | None = None
        if name in _RECTIFIERS:
            found = _rectify(name, args, kwargs, self.rule)
        elif name in _CONVOLUTIONS:
            found = _convolve(func, _Call.of(_CONVOLUTION, args, kwargs))
        elif name == "batch_norm":
            found = _normalise(_Call.of(_BATCH_NORM, args, kwargs))
        elif name in _MAX_POOLS and self.unpool == "nearest":
            found = _pool(func, _MAX_POOLS[name], args, kwargs)
        return found

    def _note(self, name: str, given: Tensor, args: _Args, kwargs: _Kwargs, out: object) -> None:
        if not isinstance(out, Tensor):
            return
        self.largest = max(self.largest, out.numel() * out.element_size() // max(1, len(out)) if out.ndim else 0)
        if name in _CONVOLUTIONS or name == "linear":
            call = _Call.of(_CONVOLUTION, args, kwargs)
            if call["weight"].shape[2:].numel() == 1:
                self.heads.append(_Head(call["weight"], call["bias"], out))
        elif name in _MEAN_POOLS and out.shape[2:].numel() == 1 and given.ndim > 2:
            self.pooled.append(_Pooled(given, 1))
        elif name == "mean":
            axis = _only_channels(given, args, kwargs)
            if axis is not None:
                self.pooled.append(_Pooled(given, axis))


def _only_channels(given: Tensor, args: _Args, kwargs: _Kwargs) -> int | None:
    """The one axis a mean leaves beside the batch, if it does."""
    asked = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    asked = (asked,) if isinstance(asked, int) else asked
    if not isinstance(asked, tuple | list):
        return None
    left = set(range(given.ndim)) - {axis % given.ndim for axis in asked}
    return max(left) if len(left) == 2 and 0 in left else None


class _Call(_Kwargs):
    """Arguments by name, however they were passed."""

    @classmethod
    def of(cls, names: _Kwargs, args: _Args, kwargs: _Kwargs) -> _Call:
        """The defaults, and over them what was given."""
        return cls({**names, **dict(zip(names, args, strict=False)), **kwargs})


_CONVOLUTION = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_BATCH_NORM = {"input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None,
               "training": False, "momentum": 0.1, "eps": 1e-5}  # fmt: skip
_POOL = {"input": None, "kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False,
         "return_indices": False}  # fmt: skip


def _constant(*tensors: Tensor | None) -> bool:
    """Whether these are weights, and not themselves made from the image."""
    return all(each is None or not each.requires_grad or each.is_leaf for each in tensors)


# ---- activations -------------------------------------------------------------------------------------------------

_RECTIFIERS = {"relu", "relu_", "threshold", "threshold_", "_threshold", "clamp", "clamp_", "clamp_min", "clamp_min_"}


class _Rectified(torch.autograd.Function):
    """The ReLU, with the rule on its way back."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, rule: str, in_place: bool) -> Tensor:
        """Keep where the input was positive, if the rule asks."""
        out = given.relu_() if in_place else given.relu()
        if in_place:
            ctx.mark_dirty(out)
        ctx.rule = rule
        if rule in {"guided", "gradient"}:
            ctx.save_for_backward(out > 0)
        return out

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        """Apply the rule."""
        if ctx.rule in {"deconvnet", "guided"}:
            signal = signal.clamp(min=0)
        return (signal * ctx.saved_tensors[0] if ctx.saved_tensors else signal), None, None


def _rectify(name: str, args: _Args, kwargs: _Kwargs, rule: str) -> Tensor | None:
    """A ReLU, also where it is written as a threshold or a clamp at 0; None if it is something else."""
    stem = name.strip("_")
    rest = [*args[1:], *kwargs.values()] if stem == "clamp_min" else []
    if stem == "threshold":
        call = _Call.of({"input": None, "threshold": None, "value": None, "inplace": False}, args, kwargs)
        rest, in_place = [call["threshold"], call["value"]], bool(call["inplace"])
    elif stem == "clamp":
        call = _Call.of({"input": None, "min": None, "max": None}, args, kwargs)
        rest, in_place = [call["min"], 0 if call["max"] is None else 1], False
    else:
        in_place = stem == "relu" and bool(_Call.of({"input": None, "inplace": False}, args, kwargs)["inplace"])
    if any(isinstance(each, Tensor) or each != 0 for each in rest):
        return None
    given = args[0] if args else kwargs["input"]
    out: Tensor = _Rectified.apply(given, rule, in_place or (name.endswith("_") and name != "_threshold"))
    return out


# ---- linear steps, without what only the gradient of their weights would need -------------------------------------


class _Convolved(torch.autograd.Function):
    """A convolution whose way back to its input is all there is: it keeps the weight and not the input."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, func: Callable[..., Tensor], call: _Kwargs) -> Tensor:
        """Run it."""
        ctx.shape, ctx.call = given.shape, call
        return func(given, **call)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        """The transposed convolution."""
        call, axes = ctx.call, len(ctx.shape) - 2
        stride, padding, dilation = (_each(call[name], axes) for name in ("stride", "padding", "dilation"))
        shape = torch.empty(ctx.shape, dtype=signal.dtype, device=signal.device)  # its values are never read
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": call["groups"]}
        fixed = {"transposed": False, "output_padding": [0] * axes, "output_mask": [True, False, False]}
        back = torch.ops.aten.convolution_backward(signal, shape, call["weight"], None, **geometry, **fixed)
        return back[0], None, None


def _each(value: int | Sequence[int], axes: int) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * axes if len(given) == 1 else given


def _convolve(func: Callable[..., Tensor], call: _Call) -> Tensor | None:
    given, weight, bias = call.pop("input"), call["weight"], call["bias"]
    mixed = torch.is_autocast_enabled(given.device.type)
    if mixed or isinstance(call["padding"], str) or given.ndim != weight.ndim or not _constant(weight, bias):
        return None
    out: Tensor = _Convolved.apply(given, func, {**call, "weight": weight.detach()})
    return out


def _normalise(call: _Call) -> Tensor | None:
    """Batch norm in evaluation: a product and a sum per channel."""
    given, mean, variance, weight, bias = (call[name] for name in list(_BATCH_NORM)[:5])
    if call["training"] or mean is None or mean.dtype != given.dtype or not _constant(weight, bias):
        return None
    scale = (variance + call["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight.detach()
    shift = -mean * scale if bias is None else bias.detach() - mean * scale
    shape = (-1, *[1] * (given.ndim - 2))
    return (given * scale.view(shape)).add_(shift.view(shape))


class _Unpooled(torch.autograd.Function):
    """Max pooling whose way back fills the whole window."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, func: Callable[..., Tensor], call: _Kwargs) -> Tensor:
        """Run it."""
        ctx.size, ctx.stride = given.shape, call["stride"] or call["kernel_size"]
        return func(given, **call)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor | None, ...]:
        """Repeat each value along each axis; what no window begins on stays 0."""
        steps = _each(ctx.stride, len(ctx.size) - 2)
        for axis, step in enumerate(steps, start=2):
            before, length, behind = signal.shape[:axis], signal.shape[axis], signal.shape[axis + 1 :]
            wide = signal.unsqueeze(axis + 1).expand(*before, length, step, *behind)
            wide = wide.reshape(*before, length * step, *behind)
            signal = wide.narrow(axis, 0, min(ctx.size[axis], length * step))
        short = [size - got for size, got in zip(ctx.size[2:], signal.shape[2:], strict=True)]
        return nn.functional.pad(signal, [n for each in reversed(short) for n in (0, each)]), None, None


def _pool(func: Callable[..., Tensor], axes: int, args: _Args, kwargs: _Kwargs) -> Tensor | None:
    call = _Call.of(_POOL, args, kwargs)
    given = call.pop("input")
    if call["return_indices"] or given.ndim != axes + 2:
        return None
    return _Unpooled.apply(given, func, dict(call))


# ---- what the graph holds ----------------------------------------------------------------------------------------

_ACTIVATIONS = {
    "Clamp": "clamp", "ClampMax": "clamp", "ClampMin": "clamp", "Elu": "ELU (or SELU, CELU)", "Exp": "exp",
    "Gelu": "GELU", "Glu": "GLU", "Hardshrink": "hardshrink", "Hardsigmoid": "hardsigmoid", "Hardswish": "hardswish",
    "Hardtanh": "hardtanh (or ReLU6)", "LeakyRelu": "leaky ReLU", "LogSigmoid": "logsigmoid", "LogSoftmax": "softmax",
    "Mish": "Mish", "PreluKernel": "PReLU", "Pow": "power", "Relu": "a ReLU that could not be reached",
    "RreluWithNoise": "RReLU", "Sigmoid": "sigmoid", "Silu": "SiLU", "Softmax": "softmax", "Softplus": "softplus",
    "Softshrink": "softshrink", "Tanh": "tanh", "Threshold": "threshold",
}  # fmt: skip
"""Steps of a graph that no rule but the gradient is defined for."""
_SWITCHED = ("MaxPool", "AdaptiveMaxPool")


def _check_graph(root: Tensor, options: ClearOptions) -> None:
    """Refuse what the rule or the unpooling is not defined for; the graph knows what really stands on the way."""
    names = _steps(root)
    if options.rule != "gradient":
        met = sorted({spoken for stem, own in names if (spoken := _ACTIVATIONS.get(stem)) or (spoken := own)})
        if met:
            raise ModelError(
                f"rule={options.rule!r} is defined for ReLU networks, and this one has {', '.join(met)} on the way to "
                "its class maps. Take rule='gradient'."
            )
    if options.unpool == "nearest" and any(stem.startswith(_SWITCHED) for stem, _ in names):
        raise ModelError(
            "unpool='nearest' is defined for plain max pooling; this network has adaptive max pooling, or one that "
            "returns its indices. Take unpool='switches'."
        )


def _steps(root: Tensor) -> set[tuple[str, str]]:
    """Every kind of step of a graph, and for those that others wrote in Python what they are called."""
    found = set()
    for node in _nodes(root):
        stem = re.sub(r"Backward\w*$", "", node.name())
        foreign = isinstance(node, BackwardCFunction) and stem not in {"_Rectified", "_Convolved", "_Unpooled"}
        found.add((stem, stem if foreign else ""))
    return found


def _nodes(root: Tensor) -> Iterator[Node]:
    seen: set[Node] = set()
    waiting: list[Node | None] = [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]


def _graph_bytes(root: Tensor, model: nn.Module) -> int:
    """What a graph keeps alive, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    for node in _nodes(root):
        held = node.saved_tensors if isinstance(node, BackwardCFunction) else _saved(node)
        for storage in (tensor.untyped_storage() for tensor in held):
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in sizes.items() if place not in weights)


def _saved(node: Node) -> Iterator[Tensor]:
    for name in dir(node):
        if name.startswith("_saved_"):
            value = getattr(node, name)
            yield from (each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, Tensor))


# ---- the way back ------------------------------------------------------------------------------------------------


def _back(source: _Source, leaf: Tensor, chosen: Tensor, seed: str) -> Sequence[Tensor]:
    """Signed responses ``(N, C, *S)`` of the classes ``(M, N)``, in one product where there are several."""
    seeds = source.seeds(chosen, seed)
    together = len(seeds) > 1
    with torch.autocast(leaf.device.type, enabled=False):
        (found,) = torch.autograd.grad(
            source.root, leaf, seeds if together else seeds[0], retain_graph=True, is_grads_batched=together
        )
    return list(found) if together else [found]
