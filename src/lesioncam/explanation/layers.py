"""Where in a network a map is taken: chosen by the user, or found, and always said.

Without a choice it is the last place that still has a grid: what goes into the global pooling. Where the pooling is no
module of its own but a function inside some ``forward`` (torchvision's DenseNet: ``features``, then a ReLU, then the
mean) no hook can reach that tensor; so the operations of the pass itself are watched.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lesioncam.errors import ModelError, OptionError
from lesioncam.models.classifier import Classifier

INPUT = "input of "
"""A name that begins with it means what goes into the module, not what comes out."""

_REDUCTIONS = frozenset({"amax", "logsumexp", "max", "mean", "sum"})
_RESHAPES = frozenset({"flatten", "reshape", "view"})
_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3))
_ADAPTIVE = frozenset(f"adaptive_{pool}{tail}" for pool in _POOLS for tail in ("", "_with_indices"))
_ENDS = _REDUCTIONS | _RESHAPES | _CONVOLUTIONS | _POOLS | _ADAPTIVE
_ATTENTION = frozenset({"multi_head_attention_forward", "scaled_dot_product_attention", "softmax"})
_NOTED = _ENDS | _ATTENTION
_MOST_PREFIX = 16
_FEW = 3
_EVEN = math.log(1.5)


@dataclass(frozen=True)
class LayerPlace:
    """Where activations are taken.

    Attributes:
        name: as the result says it.
        module: dotted name in the network; None: what goes into the global pooling, found while the network runs.
        before: what goes into the module rather than what comes out.
    """

    name: str = ""
    module: str | None = None
    before: bool = False


class ActivationLayout(NamedTuple):
    """How a tensor of activations is laid out.

    Attributes:
        order: ``first`` for ``(N, C, *s)``, ``last`` for ``(N, *s, C)``, ``tokens`` for ``(N, T, C)``.
        size: ``s``, array order.
        prefix: tokens before those of the patches (class token, registers).
    """

    order: str
    size: tuple[int, ...]
    prefix: int = 0

    def apply(self, tensor: Tensor) -> Tensor:
        """Any number of leading axes, channels and grid in the given order -> ``(..., C, *s)``.

        Example:
            >>> tokens = torch.tensor([[[9.0], [0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]])   # a class token, 2 x 3
            >>> ActivationLayout("tokens", (2, 3), prefix=1).apply(tokens)
            tensor([[[[0., 1., 2.],
                      [3., 4., 5.]]]])
        """
        if self.order == "first":
            return tensor
        if self.order == "last":
            return tensor.movedim(-1, -1 - len(self.size))
        return tensor[..., self.prefix :, :].transpose(-1, -2).unflatten(-1, self.size)


class Head(NamedTuple):
    """The last linear step of a network, as it ran: its weight, bias and what came out."""

    weight: Tensor
    bias: Tensor | None
    output: Tensor


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__name__ == "OptimizedModule":
            model = model.get_submodule("_orig_mod")
        else:
            return model


def choose_layer(model: nn.Module, layer: str | nn.Module | None = None) -> LayerPlace:
    """The place a user names, or the one to take without a name.

    Args:
        model: any; it is only looked at.
        layer: dotted name of a module, ``input of NAME``, or a module of the model. None: the features of our own
            classifiers, the input of the last block of a transformer that reads its class token (behind it the other
            tokens have no gradient), and otherwise the input of the global pooling.

    Raises:
        OptionError: if the model has no such layer; it suggests the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        >>> choose_layer(net, net[1])
        LayerPlace(name='1', module='1', before=False)
    """
    model = unwrapped(model)
    if layer is None:
        return _automatic(model)
    if isinstance(layer, nn.Module):
        wanted = unwrapped(layer)
        name = next((name for name, module in named(model) if module is wanted), None)
        if name is None:
            raise OptionError(f"the layer given ({type(layer).__name__}) is no part of this model.")
        return LayerPlace(name or type(model).__name__, name)
    before = layer.startswith(INPUT)
    plain = _plain(layer.removeprefix(INPUT), "_orig_mod")
    for name in (plain, _plain(plain, "module")):
        if name and _has(model, name):
            return LayerPlace(INPUT * before + name, name, before)
    raise OptionError(_no_such_layer(layer, [name for name, _ in named(model) if name]))


def _has(model: nn.Module, name: str) -> bool:
    """Whether there is a module of this name."""
    for part in name.split("."):
        below = dict(unwrapped(model).named_children())
        if part not in below:
            return False
        model = below[part]
    return True


def named(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module by its dotted name, wrappers left out."""
    yield name, unwrapped(module)
    for child, below in unwrapped(module).named_children():
        yield from named(below, f"{name}.{child}" if name else child)


def _plain(name: str, wrapper: str) -> str:
    """A dotted name without the steps into a kind of wrapper."""
    return ".".join(part for part in name.split(".") if part != wrapper)


def _no_such_layer(layer: str, known: Sequence[str]) -> str:
    ends = [name for name in known if name.rsplit(".", 1)[-1] == layer.rsplit(".", 1)[-1]]
    near = (get_close_matches(layer, known, n=3) + ends)[:3] or known[-3:]
    return f"the model has no layer {layer!r}. Did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?"


def _automatic(model: nn.Module) -> LayerPlace:
    for name, module in named(model):
        for rule in (_own, _class_token, _convolutional_mlp):
            found = rule(module)
            if found is not None:
                part = f"{name}.{found.module}" if name else str(found.module)
                return LayerPlace(INPUT * found.before + part, part, found.before)
    return LayerPlace()


def _own(module: nn.Module) -> LayerPlace | None:
    """Our classifiers: what both the head and the pooling see."""
    return LayerPlace(module="backbone") if isinstance(module, Classifier) else None


def _class_token(module: nn.Module) -> LayerPlace | None:
    """Transformers that read a class token (timm, torchvision, MONAI) or attend to the tokens to pool them (timm)."""
    parts = module._modules  # noqa: SLF001 (a plain look-up; hundreds of modules are asked)
    blocks = parts.get("blocks")
    if blocks and ("patch_embed" in parts or "patch_embedding" in parts):
        pooled = getattr(module, "global_pool", None)
        if pooled == "map":
            return LayerPlace(module="norm")
        if pooled == "token" or (pooled is None and hasattr(module, "cls_token")):
            return LayerPlace(module=f"blocks.{_last(blocks)}", before=True)
    if "conv_proj" in parts and "encoder" in parts and hasattr(module, "class_token"):
        return LayerPlace(module=f"encoder.layers.{_last(module.get_submodule('encoder.layers'))}", before=True)
    return None


def _last(blocks: nn.Module) -> str:
    return [name for name, _ in blocks.named_children()][-1]


def _convolutional_mlp(module: nn.Module) -> LayerPlace | None:
    """The VGG of timm: fully connected layers written as a wide convolution, which leaves next to no grid."""
    head = module._modules.get("pre_logits")  # noqa: SLF001
    wide = head is not None and hasattr(head, "input_kernel_size")
    return LayerPlace(module="pre_logits", before=True) if wide else None


def layout_of(shape: Sequence[int], size: Sequence[int], seen: tuple[int, ...] | None, name: str) -> ActivationLayout:
    """How activations of a shape lie on an image.

    Args:
        shape: of the activations, batch first.
        size: of the image, array order.
        seen: grid of the latest convolution before them, if there was one: the patches of a transformer.
        name: of the layer, for the error.

    Raises:
        ModelError: if they have no spatial axes.

    Example:
        >>> layout_of((2, 8, 6, 10), (48, 80), None, "conv")
        ActivationLayout(order='first', size=(6, 10), prefix=0)
        >>> layout_of((2, 6, 10, 8), (48, 80), None, "stage")                 # channels last, as in a Swin
        ActivationLayout(order='last', size=(6, 10), prefix=0)
        >>> layout_of((2, 61, 8), (48, 80), (6, 10), "block")                 # tokens, a class token first
        ActivationLayout(order='tokens', size=(6, 10), prefix=1)
    """
    axes = len(size)
    if len(shape) == axes + 2:
        first, last = tuple(shape[2:]), tuple(shape[1:-1])
        is_last = last == seen if seen in (first, last) else _uneven(last, size) < _uneven(first, size)
        order, found = ("last", last) if is_last else ("first", first)
        if math.prod(found) > 1:
            return ActivationLayout(order, found)
    elif len(shape) == 3 and axes > 1:
        fitting = _token_grid(shape[1], size, seen)
        if fitting is not None:
            return fitting
    raise ModelError(
        f"layer {name!r} has no spatial axes: it gives {tuple(shape)} for images of {tuple(size)}. Choose one before "
        "the pooling, or leave layer=None."
    )


def _uneven(grid: Sequence[int], size: Sequence[int]) -> float:
    """How differently the axes are scaled: 0 for the same step along each."""
    steps = [math.log(max(1, n) / s) for n, s in zip(grid, size, strict=True)]
    return round(max(steps) - min(steps), 6)


def _token_grid(tokens: int, size: Sequence[int], seen: tuple[int, ...] | None) -> ActivationLayout | None:
    if seen is not None and len(seen) == len(size) and 0 <= tokens - math.prod(seen) <= _MOST_PREFIX:
        return ActivationLayout("tokens", tuple(seen), tokens - math.prod(seen))
    for prefix in (0, 1, 2):
        for patch in range(1, max(size) + 1):
            for grid in (tuple(n // patch for n in size), tuple(-(-n // patch) for n in size)):
                if math.prod(grid) == tokens - prefix > 1:
                    return ActivationLayout("tokens", grid, prefix)
    return None


class _Operation(NamedTuple):
    """One call of a function of torch."""

    name: str
    func: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    @property
    def given(self) -> Tensor | None:
        """What it works on."""
        found = self.args[0] if self.args else self.kwargs.get("input")
        return found if isinstance(found, Tensor) else None

    def uses(self, tensor: Tensor) -> bool:
        """Whether a tensor is among its arguments."""
        return any(each is tensor for each in self.args) or any(each is tensor for each in self.kwargs.values())

    def run(self, old: Tensor | None = None, new: Callable[[Tensor], Tensor] | None = None) -> object:
        """Do it; with another tensor in place of one of its arguments."""
        if old is None or new is None:
            return self.func(*self.args, **self.kwargs)
        args = [new(old) if each is old else each for each in self.args]
        return self.func(*args, **{name: new(old) if each is old else each for name, each in self.kwargs.items()})

    def reduced(self) -> tuple[int, ...]:
        """The axes that a reduction runs over, sorted; none if it runs over all."""
        asked = self.kwargs.get("dim", self.kwargs.get("axis", self.args[1] if len(self.args) > 1 else None))
        asked = (asked,) if isinstance(asked, int) else asked
        if self.given is None or not isinstance(asked, tuple | list) or not all(isinstance(a, int) for a in asked):
            return ()
        return tuple(sorted(axis % self.given.ndim for axis in asked))

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a linear step or a convolution."""
        weight = self.args[1] if len(self.args) > 1 else self.kwargs["weight"]
        bias = self.args[2] if len(self.args) > 2 else self.kwargs.get("bias")
        return cast("Tensor", weight), cast("Tensor | None", bias)


class PoolingFinder(TorchFunctionMode):
    """Watches the operations of one forward pass; finds the global pooling and cuts the pass at what goes into it.

    Any operation that takes a grid and leaves none may be the global pooling, or the squeeze of a
    squeeze-and-excitation block, which looks the same. So the pass is cut at each of them, and the cut is taken back as
    soon as an operation gives a grid again. What is left at the end is the global pooling.

    Args:
        axes: spatial axes of the image.
        cut: takes the tensor that goes in and gives what is to be used in its place, gradients on.
        only: number of the pooling to cut at, come what may; None finds the last.
    """

    def __init__(self, axes: int, cut: Callable[[Tensor], Tensor], only: int | None = None) -> None:
        super().__init__()
        self.axes, self.cut, self.only = axes, cut, only
        self._first, self._last = tuple(range(2, axes + 2)), tuple(range(1, axes + 1))
        self.seen: tuple[int, ...] | None = None
        self.head: Head | None = None
        self.direct = False
        self.met = 0
        self.layout: tuple[int, ...] = ()
        self.where: tuple[str, nn.Module | None] = ("", None)
        self.attention = 0
        self._source: Tensor | None = None
        self._convolved: tuple[weakref.ref[Tensor] | None, int] = (None, 0)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run one operation."""
        name = getattr(func, "__name__", "")
        if self._source is None and name not in _NOTED:
            return func(*args, **(kwargs or {}))
        operation = _Operation(name, func, args, kwargs or {})
        out = self._before(operation) if self._source is None else self._after(operation)
        self._note(operation, out)
        return out

    @property
    def found(self) -> bool:
        """Whether the cut stands."""
        return self._source is not None

    @property
    def suspicious(self) -> bool:
        """Whether the last that was met was no pooling but the step from patches to the tokens of a transformer."""
        return self.attention > _FEW and (not self.found or self.where[0] in _RESHAPES)

    def _before(self, operation: _Operation) -> object:
        """An operation on the way: the pass is cut if it does away with a grid."""
        out = operation.run()
        if operation.name not in _ENDS:
            return out
        layout = self._grid_axes(operation, out)
        return self._cut(operation, layout) if layout and self._chosen() else out

    def _after(self, operation: _Operation) -> object:
        """An operation behind the cut: one more use of the same tensor, the way to the scores, or a grid again."""
        if self.where[0] in _RESHAPES and operation.name in _REDUCTIONS and self.only is None:
            layout = self._grid_axes(operation, None)
            if layout == (1,) and self._chosen():  # a mean of tokens: what was reshaped before them is not the end
                return self._cut(operation, layout)
        source = self._source
        if source is None or not operation.uses(source):
            out = operation.run()
            return self._take_back(out) if self._grid_again(out) else out
        with torch.no_grad():
            out = operation.run()
        if self._grid_again(out):
            return self._take_back(out)
        return operation.run(source, self.cut) if _tensors(out) else out

    def _chosen(self) -> bool:
        self.met += 1
        return self.only in (None, self.met)

    def _cut(self, operation: _Operation, layout: tuple[int, ...]) -> object:
        given = operation.given
        assert given is not None
        self._source, self.layout, self.where, self.head = given, layout, (operation.name, _caller()), None
        tensor, version = self._convolved
        same = tensor is not None and given is tensor()
        self.direct = same and given._version == version  # noqa: SLF001 (an activation in place changes it)
        return operation.run(given, self.cut)

    def _grid_again(self, out: object) -> bool:
        if self.only is not None or self._source is None:
            return False
        same = [tuple(t.shape) for t in _tensors(out) if t.ndim == self._source.ndim]
        wide = [shape for shape in same if sum(n > 1 for n in shape[1:]) > 1]  # one axis is the channels, wherever
        return any(shape[axis] > 1 for shape in wide for axis in self.layout)

    def _take_back(self, out: object) -> object:
        self._source = None
        torch.set_grad_enabled(False)
        return out.detach() if isinstance(out, Tensor) else out

    def _grid_axes(self, operation: _Operation, out: object) -> tuple[int, ...]:
        """The axes of the grid that an operation does away with; none if it leaves one or there was none."""
        given, name = operation.given, operation.name
        if given is None:
            return ()
        found: tuple[int, ...] = ()
        if name in _REDUCTIONS:
            found = self._reduced_axes(given, operation.reduced())
        elif given.ndim == self.axes + 2 and isinstance(out, Tensor):
            if name in _RESHAPES:
                found = self._reshaped_axes(given, out)
            elif name in _ADAPTIVE or out.shape[2:].numel() == 1:
                found = self._first
        return found if any(given.shape[axis] > 1 for axis in found) else ()

    def _reduced_axes(self, given: Tensor, reduced: tuple[int, ...]) -> tuple[int, ...]:
        if given.ndim == self.axes + 2:
            if reduced and set(reduced) <= set(self._first):
                return self._first
            return self._last if reduced == self._last else ()
        return (1,) if given.ndim == 3 and self.axes > 1 and reduced == (1,) else ()

    def _reshaped_axes(self, given: Tensor, out: Tensor) -> tuple[int, ...]:
        if not 1 < out.ndim < given.ndim or len(out) != len(given):
            return ()
        found = self._last if out.shape[1:] == (given.shape[1:-1].numel(), given.shape[-1]) else self._first
        grid = tuple(given.shape[axis] for axis in found)
        known = self.seen or grid
        fits = all(n <= most for n, most in zip(grid, known, strict=True)) and _uneven(grid, known) < _EVEN
        return found if fits else ()  # else it is the heads of an attention that are put together

    def _note(self, operation: _Operation, out: object) -> None:
        """Remember the grid of convolutions, the last linear step, and how much attention there was."""
        if operation.name in _ATTENTION:
            self.attention += 1
        if not isinstance(out, Tensor) or (operation.name not in _CONVOLUTIONS and operation.name != "linear"):
            return
        weight, bias = operation.weights()
        if operation.name != "linear":
            if out.shape[2:].numel() > 1:
                self.seen = tuple(out.shape[2:])
            self._convolved = weakref.ref(out), out._version  # noqa: SLF001
        if self.found and weight.shape[2:].numel() == 1:
            self.head = Head(weight, bias, out)


def _tensors(out: object) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [each for each in out if isinstance(each, Tensor)] if isinstance(out, tuple | list) else []


def _caller() -> nn.Module | None:
    """The module whose ``forward`` is running."""
    here = inspect.currentframe()
    frame = None if here is None else here.f_back
    del here  # a frame that holds itself would keep the network until the next garbage collection
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return owner
        frame = frame.f_back
    return None


def spoken(model: nn.Module, where: tuple[str, nn.Module | None]) -> str:
    """Where a pooling was found, in words: the module that pools, or the function and the module that calls it."""
    name, owner = where
    path = next((path for path, module in model.named_modules() if module is owner), "")
    if not path:
        return INPUT + name
    if owner is not None and not any(True for _ in owner.children()):
        return INPUT + path
    return f"{INPUT}{name} in {path}"
