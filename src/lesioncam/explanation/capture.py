"""Activations and gradients of any network, which is left exactly as it was found. The only file that registers hooks.

Nothing here works on the user's model. Every call builds a private twin of its module tree: new module objects that
share the weights. Hooks, evaluation mode and whatever a ``forward`` keeps on ``self`` go to the twin and vanish with
it, also after an exception; and as each call has its own, any number of threads may explain one model at once.

The pass runs without gradients up to the place looked at. There the activations become a leaf and gradients are
switched on, so that the graph reaches no further down, and ``autograd.grad`` is asked for that leaf alone: no weight
ever gets a gradient, a frozen network works like any other, and no module backward hook is needed (in-place layers
break those).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lesioncam.errors import ModelError
from lesioncam.explanation.layers import Grid, Head, Place, Watch, choose_layer, grid_of, spoken, unwrapped

__all__ = [
    "Captured",
    "Cut",
    "NoPoolingError",
    "Target",
    "capture",
    "output_of",
    "private",
    "quiet",
    "ready",
    "scores_of",
    "take",
]

Target = Callable[[Any], Tensor]
"""From the output of a model to scores ``(N, K)``."""


class NoPoolingError(ModelError):
    """A network in which no place suggests itself."""


class Captured(NamedTuple):
    """What :func:`capture` gives: all float32 and without a graph.

    Attributes:
        scores: ``(N, K)`` logits, or ``(N, 1)`` where one class per image was asked for.
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)`` or ``(N, 1, C, *s)``: of the scores by the activations.
        layer: where they were taken.
    """

    scores: Tensor
    activations: Tensor
    gradients: Tensor
    layer: str


def capture(
    model: nn.Module,
    images: Tensor,
    at: str | nn.Module | None = None,
    classes: Tensor | None = None,
    target: Target | None = None,
) -> Captured:
    """Activations at a layer and the gradients of the logits by them: one forward pass, the model untouched.

    Args:
        model: any; in training mode, frozen, compiled or wrapped.
        images: ``(N, C, *S)``, prepared.
        at: a layer, see :func:`lesioncam.explanation.layers.choose_layer`; None takes what goes into the pooling.
        classes: ``(N,)`` long, one class per image; None takes all K.
        target: from the model's output to ``(N, K)``; needed where that is no tensor.

    Raises:
        ModelError: if the layer is never reached, is called several times, has no spatial axes, or does not lead to
            the scores.
        OptionError: if there is no such layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
        >>> got = capture(net, torch.ones(1, 1, 4, 6))
        >>> got.activations.shape, got.gradients.shape, got.layer
        (torch.Size([1, 2, 4, 6]), torch.Size([1, 3, 2, 4, 6]), 'input of 1')
        >>> bool(torch.allclose(got.gradients[0, :, :, 0, 0], net[3].weight / 24))
        True
    """
    with quiet(images):
        cut = take(model, images, at, target)
        gradients = torch.stack(list(cut.gradients(classes)), 1)
        scores = cut.scores.detach().float()
        scores = scores if classes is None else scores.gather(1, classes[:, None])
        return Captured(scores, cut.activations, gradients, cut.layer)


@dataclass(frozen=True)
class Cut:
    """One forward pass, cut at a place: what was there, and the graph from there to the scores.

    Attributes:
        layer: where it was cut.
        leaf: the activations as the network had them.
        grid: how they are laid out.
        scores: ``(N, K)`` with the graph that begins at the leaf.
        head: the last linear step behind the place, where the place is the global pooling.
        direct: whether the place comes straight out of a convolution, without an activation in between.
    """

    layer: str
    leaf: Tensor
    grid: Grid
    scores: Tensor
    head: Head | None = None
    direct: bool = False

    @property
    def activations(self) -> Tensor:
        """``(N, C, *s)`` float32."""
        return self.grid.apply(self.leaf.detach()).float()

    def gradients(self, classes: Tensor | None = None) -> Iterator[Tensor]:
        """Gradients ``(N, C, *s)`` float32 by the activations: of one class per image, or of one class after another.

        Class by class takes three quarters of the time of batched vector-Jacobian products on a CPU, where a backward
        pass through convolutions gains nothing from a larger batch, and it works for every operation.
        """
        if not self.scores.requires_grad:
            raise self._unconnected()
        columns = [classes] if classes is not None else list(torch.arange(self.scores.shape[1]))
        for column in columns:
            seed = torch.zeros_like(self.scores)
            seed.scatter_(1, column.to(seed.device).expand(len(seed))[:, None], 1.0)
            with torch.autocast(seed.device.type, enabled=False):
                (gradient,) = torch.autograd.grad(self.scores, self.leaf, seed, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise self._unconnected()
            yield self.grid.apply(gradient).float()

    def _unconnected(self) -> ModelError:
        return ModelError(
            f"the scores do not depend on layer {self.layer!r} by a gradient: it lies beside the way to them, or the "
            "model detaches it. Choose another layer, or a method without gradients such as occlusion."
        )


def take(
    model: nn.Module,
    images: Tensor,
    layer: str | nn.Module | None = None,
    target: Target | None = None,
    place: Place | None = None,
) -> Cut:
    """Run once and cut at a layer; to be called inside :func:`quiet`.

    Args:
        model: the user's.
        images: ``(N, C, *S)``.
        layer: see :func:`lesioncam.explanation.layers.choose_layer`.
        target: from the model's output to ``(N, K)``.
        place: in place of ``layer``.

    Raises:
        ModelError: as :func:`capture`.
    """
    place = choose_layer(model, layer) if place is None else place
    if place.module is None:
        cut = _at_pooling(private(model), images, target)
        if cut is not None:
            return cut
        raise NoPoolingError(
            "found no pooling over a grid of more than one place: the images are too small for this network, or its "
            "end is not a pooling of a grid. Name a layer: layer='...'."
        )
    cut = _at_module(private(model), images, place, target)
    if cut is None:  # some modules are kept where the twin does not look for them
        cut = _at_module(_deep_twin(model), images, place, target)
    if cut is None:
        raise ModelError(f"the forward pass never reached layer {place.name!r}; choose one that is used.")
    return cut


def _at_module(twin: nn.Module, images: Tensor, place: Place, target: Target | None) -> Cut | None:
    """One forward pass of a private network, cut at a module; None if it was not met."""
    knife, hook = _Knife(), _Hook(place)
    hook.fasten(twin, knife)
    scores = _scores(twin, images, target)
    if knife.leaf is None:
        return None
    grid = grid_of(tuple(knife.leaf.shape), tuple(images.shape[2:]), hook.seen, place.name)
    return Cut(place.name, knife.leaf, grid, scores)


def _at_pooling(twin: nn.Module, images: Tensor, target: Target | None, only: int | None = None) -> Cut | None:
    """One forward pass of a private network, cut at what goes into the global pooling; None if there is none."""
    knife = _Knife()
    watch = Watch(images.ndim - 2, knife.cut, only)
    scores = _scores(twin, images, target, watch)
    if watch.met and watch.suspicious:
        raise NoPoolingError(
            "this looks like a transformer whose layout is not known here. Name the layer, best the one before its "
            "last block: layer='...'."
        )
    if watch.met and not watch.found:
        return _at_pooling(twin, images, target, only=watch.met)
    if knife.leaf is None:
        return None
    grid = _pooled_grid(watch, knife.leaf, images)
    return Cut(spoken(twin, watch.where), knife.leaf, grid, scores, watch.head, watch.direct)


def _scores(twin: nn.Module, images: Tensor, target: Target | None, watch: Watch | None = None) -> Tensor:
    given = ready(twin, images.detach())
    with torch.no_grad():  # the knife switches gradients on; leaving puts them back
        with watch or nullcontext():
            output = twin(given)
        scores = scores_of(output, target)
    if len(scores) != len(images):
        raise ModelError(f"the model gives {len(scores)} rows of scores for {len(images)} images.")
    return scores


def _pooled_grid(watch: Watch, leaf: Tensor, images: Tensor) -> Grid:
    """The layout that the pooling itself told by the axes it runs over."""
    if watch.layout == (1,):
        return grid_of(tuple(leaf.shape), tuple(images.shape[2:]), watch.seen, "pooling")
    return Grid("first" if 1 not in watch.layout else "last", tuple(leaf.shape[axis] for axis in watch.layout))


class _Knife:
    """Makes the cut: activations in, the same values out as the beginning of a graph."""

    def __init__(self) -> None:
        self.leaf: Tensor | None = None
        self._given: Tensor | None = None

    def cut(self, given: Tensor) -> Tensor:
        """A leaf in place of a tensor; the same leaf each time it is asked for the same tensor.

        The network goes on with a copy, since it may work in place, and the leaf is one, since others may hold the
        original and change it later.
        """
        if self.leaf is None or given is not self._given:
            self._given, self.leaf = given, given.detach().clone().requires_grad_()
        torch.set_grad_enabled(True)
        return self.leaf.clone()


class _Hook:
    """Brings a knife to a module of a private network.

    Attributes:
        seen: grid of the latest convolution before the place.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seen: tuple[int, ...] | None = None
        self._latest: tuple[int, ...] | None = None
        self._calls = 0

    def fasten(self, twin: nn.Module, knife: _Knife) -> None:
        """Hook the module, and the convolutions for their grids."""
        script = torch.jit.ScriptModule
        module = twin if isinstance(twin, script) else twin.get_submodule(self.place.module or "")
        if isinstance(module, script):
            raise ModelError(
                f"layer {self.place.name!r} is scripted, and no layer of a script can be looked at; give the Python "
                "module it was made of, or use a method over pixels such as occlusion."
            )
        for part in twin.modules():
            if isinstance(part, _CONVOLUTION):
                part.register_forward_hook(self._note)
        if self.place.before:
            module.register_forward_pre_hook(lambda _, args: (knife.cut(self._once(*args[:1])), *args[1:]))
        else:
            module.register_forward_hook(lambda _, __, output: knife.cut(self._once(output)))

    def _note(self, _: nn.Module, __: object, output: Tensor) -> None:
        self._latest = tuple(output.shape[2:])

    def _once(self, given: object = None) -> Tensor:
        self._calls, self.seen = self._calls + 1, self._latest
        if self._calls > 1:
            raise ModelError(
                f"layer {self.place.name!r} is called more than once in a pass, so it is no one place; choose a layer "
                "that is used once, for instance the block it stands in."
            )
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise ModelError(
                f"layer {self.place.name!r} gives {_kind(given)} and not one tensor of activations; choose a layer "
                "inside it or next to it."
            )
        return given


@contextmanager
def quiet(images: Tensor) -> Iterator[None]:
    """No gradients and no inference mode, whatever the caller runs under; autocast goes on, without its cache.

    The cache would keep weights that were cast without a graph, and a training step inside the same autocast would use
    them and lose its gradients.
    """
    kind = images.device.type
    mixed = torch.is_autocast_enabled(kind)
    cast = torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False) if mixed else nullcontext()
    with torch.inference_mode(mode=False), torch.no_grad(), cast:
        yield


def ready(model: nn.Module, images: Tensor) -> Tensor:
    """A copy of the images (layers may work in place) in the type of the weights, which autocast sees to itself."""
    images = images.clone()
    if torch.is_autocast_enabled(images.device.type):
        return images
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
    return images.to(kind)


def scores_of(output: Any, target: Target | None = None) -> Tensor:
    """Scores ``(N, K)`` from whatever a model gives, with their graph.

    Args:
        output: a tensor, or something with a tensor ``logits`` (our own classifiers).
        target: from the output to scores; None takes the output itself.

    Raises:
        ModelError: if that gives no tensor ``(N, K)``.

    Example:
        >>> scores_of(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
        >>> scores_of((torch.zeros(2, 3), "more"), target=lambda output: output[0]).shape
        torch.Size([2, 3])
    """
    found = output if target is None else target(output)
    if target is None and not isinstance(found, Tensor):
        found = getattr(output, "logits", None)
        if not isinstance(found, Tensor):
            raise ModelError(
                f"the model gives {_kind(output)} and not a tensor of scores; say where they are, for instance "
                "target=lambda output: output[0]."
            )
    if not isinstance(found, Tensor):
        raise ModelError(f"target gives {_kind(found)}; it must give a tensor of scores (N, K).")
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.is_floating_point():
        raise ModelError(
            f"scores must be (N, K) logits, one row per image; the model{' and target' if target else ''} gave "
            f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}. Say which, for instance "
            "target=lambda output: output.mean((2, 3)) for a segmentation network."
        )
    return found


def output_of(model: nn.Module, inner: str, images: Tensor) -> tuple[Any, Any]:
    """What a private network gives and what one of its modules gives, from one pass."""
    kept: list[Any] = []
    handle = model.get_submodule(inner).register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        output = model(ready(model, images))
    finally:
        handle.remove()
    if not kept:
        raise ModelError(f"the forward pass never reached {inner!r}.")
    return output, kept[-1]


def private(model: nn.Module) -> nn.Module:
    """A twin of a model in evaluation mode, which shares its weights and nothing that changes.

    New module objects with copied attributes, in the same tree; weights are the same memory without their gradients;
    buffers are copies, except those of batch norms, which evaluation only reads. Where modules know each other
    outside the tree (lists, bound methods, closures, hooks) the twin's know the twin's. Wrappers of ``torch.compile``
    and of data parallel training are left out.

    Args:
        model: any; only looked at.

    Raises:
        ModelError: if it was never run (lazy modules), or is a script in training mode.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
        >>> twin = private(net)
        >>> twin.training, net.training, twin[0].weight.data_ptr() == net[0].weight.data_ptr()
        (False, True, True)
    """
    with torch.inference_mode(mode=False):
        twins = _Twins()
        made = twins.of(model)
        for each in twins.switched:  # those that do more than others when they are switched
            each.eval()
        return made


def _deep_twin(model: nn.Module) -> nn.Module:
    """As :func:`private`, by copying all that the model holds but its weights; slower, and reaches further."""
    inner = unwrapped(model)
    kept: dict[int, Any] = {
        id(weight): nn.Parameter(_shared(weight), requires_grad=False) for weight in inner.parameters()
    }
    kept.update((id(buffer), buffer.detach().clone()) for buffer in inner.buffers())
    return copy.deepcopy(inner, kept).eval()


_ATOMS = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size, type})
_CONTAINERS = frozenset({list, set, dict, OrderedDict})
_UNUSED = frozenset(nn.Module().__dict__) - {"_forward_hooks", "_forward_pre_hooks"}
"""What no forward pass looks at or changes, hooks of the user's backward passes among it, and the tree itself, which is
made anew. Compiled code, which knows the user's modules, is left out."""
_CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001 (the common base of convolutions has no public name)
_READING = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm})
"""Modules that do no more than read their buffers in evaluation; those who build on them may do anything."""


class _Twins:
    """Makes twins of modules and of whatever refers to them; each thing once."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self.switched: list[nn.Module] = []

    def of(self, module: nn.Module) -> nn.Module:
        """The twin of a module and all below it."""
        module = unwrapped(module)
        if id(module) in self._made:
            twin: nn.Module = self._made[id(module)]
            return twin
        if isinstance(module, torch.jit.ScriptModule):
            return self._script(module)
        kind = type(module)
        twin = object.__new__(kind)
        self._made[id(module)] = twin
        state = twin.__dict__
        state.update(module.__dict__, training=False, _compiled_call_impl=None)
        state.update(_backward_hooks=OrderedDict(), _backward_pre_hooks=OrderedDict())
        for name in state.keys() - _UNUSED:
            if type(state[name]) not in _ATOMS:
                state[name] = self.value(state[name])
        below, weights, buffers = module._modules, module._parameters, module._buffers  # noqa: SLF001
        state["_modules"] = {name: None if each is None else self.of(each) for name, each in below.items()}
        state["_parameters"] = {name: None if each is None else self.weight(each) for name, each in weights.items()}
        copied = kind not in _READING
        state["_buffers"] = {name: None if b is None else self.buffer(b, copied) for name, b in buffers.items()}
        if kind.train is not nn.Module.train or kind.eval is not nn.Module.eval:
            self.switched.append(twin)
        return twin

    def weight(self, weight: Tensor) -> Tensor:
        """The same memory without gradients."""
        if id(weight) not in self._made:
            if type(weight) is not nn.Parameter and is_lazy(weight):
                raise ModelError("the model has lazy modules that were never run; pass one batch through it first.")
            self._made[id(weight)] = nn.Parameter(_shared(weight), requires_grad=False)
        made: Tensor = self._made[id(weight)]
        return made

    def buffer(self, buffer: Tensor, copied: bool) -> Tensor:
        """A copy, or the same where it is only read."""
        if id(buffer) not in self._made:
            self._made[id(buffer)] = buffer.detach().clone() if copied else _shared(buffer)
        made: Tensor = self._made[id(buffer)]
        return made

    def value(self, value: Any) -> Any:
        """An attribute, with twins in place of modules; containers are new, all else is shared."""
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, nn.Module):
            return self.of(value)
        move = _MOVES.get(type(value))
        return value if move is None else move(self, value)

    def container(self, value: Any) -> Any:
        """A list, set or dict."""
        made = self._made[id(value)] = type(value)()
        if not value:
            return made
        if isinstance(value, Mapping):
            made.update((key, each if type(each) in _ATOMS else self.value(each)) for key, each in value.items())
        else:
            (made.extend if isinstance(value, list) else made.update)(map(self.value, value))
        return made

    def row(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        """A tuple, which in most cases holds numbers."""
        return value if _ATOMS.issuperset(map(type, value)) else tuple(map(self.value, value))

    def method(self, value: MethodType) -> MethodType:
        """A method bound to a module becomes the same method of its twin."""
        owner = self.value(value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)

    def call(self, value: partial[Any]) -> partial[Any]:
        """A function with some arguments given."""
        return partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))

    def function(self, function: FunctionType) -> FunctionType:
        """A closure over modules, as a patched ``forward`` is."""
        filled = [cell for cell in function.__closure__ or () if _filled(cell)]
        moved = {id(cell): self.value(cell.cell_contents) for cell in filled}
        if all(moved[id(cell)] is cell.cell_contents for cell in filled):
            return function
        own = tuple(CellType(moved[id(cell)]) if id(cell) in moved else cell for cell in function.__closure__ or ())
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, own)
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def _script(self, module: torch.jit.ScriptModule) -> nn.Module:
        """A script is one sealed piece: shared as it is, and only in evaluation mode."""
        if any(part.training for part in module.modules()):
            raise ModelError(
                "a scripted module cannot be copied and is in training mode; call .eval() on it first, or give the "
                "Python module it was made of."
            )
        return module


_MOVES: dict[type, Callable[[_Twins, Any], Any]] = {
    **dict.fromkeys(_CONTAINERS, _Twins.container),
    tuple: _Twins.row,
    MethodType: _Twins.method,
    partial: _Twins.call,
    FunctionType: _Twins.function,
}
"""What can refer to modules from outside the tree, and how it comes to refer to their twins."""


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is bound later
        return False


def _shared(tensor: Tensor) -> Tensor:
    """The same memory without a graph; what was made inside inference mode cannot enter one and is copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _kind(thing: object) -> str:
    """What something is, in words."""
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    if isinstance(thing, Mapping):
        return f"a {type(thing).__name__} with {', '.join(map(repr, list(thing)[:5]))}"
    return "nothing" if thing is None else f"a {type(thing).__name__}"
