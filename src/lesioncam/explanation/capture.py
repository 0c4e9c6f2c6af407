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

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lesioncam.errors import ModelError
from lesioncam.explanation.layers import (
    ActivationLayout,
    Head,
    LayerPlace,
    PoolingFinder,
    choose_layer,
    layout_of,
    spoken,
)
from lesioncam.explanation.twin import deep_twin, private

Target = Callable[[object], Tensor]
"""From the output of a model to scores ``(N, K)``."""


_CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001 (the common base of convolutions has no public name)


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
        cut = run_to_layer(model, images, at, target)
        gradients = torch.stack(list(cut.gradients(classes)), 1)
        scores = cut.scores.detach().float()
        scores = scores if classes is None else scores.gather(1, classes[:, None])
        return Captured(scores, cut.activations, gradients, cut.layer)


@dataclass(frozen=True)
class LayerPass:
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
    grid: ActivationLayout
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


def run_to_layer(
    model: nn.Module,
    images: Tensor,
    layer: str | nn.Module | None = None,
    target: Target | None = None,
    place: LayerPlace | None = None,
) -> LayerPass:
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
        cut = _at_module(deep_twin(model), images, place, target)
    if cut is None:
        raise ModelError(f"the forward pass never reached layer {place.name!r}; choose one that is used.")
    return cut


def _at_module(twin: nn.Module, images: Tensor, place: LayerPlace, target: Target | None) -> LayerPass | None:
    """One forward pass of a private network, cut at a module; None if it was not met."""
    leaf, hook = _Leaf(), _Hook(place)
    hook.fasten(twin, leaf)
    scores = _scores(twin, images, target)
    if leaf.tensor is None:
        return None
    grid = layout_of(tuple(leaf.tensor.shape), tuple(images.shape[2:]), hook.seen, place.name)
    return LayerPass(place.name, leaf.tensor, grid, scores)


def _at_pooling(twin: nn.Module, images: Tensor, target: Target | None, only: int | None = None) -> LayerPass | None:
    """One forward pass of a private network, cut at what goes into the global pooling; None if there is none."""
    leaf = _Leaf()
    finder = PoolingFinder(images.ndim - 2, leaf.cut, only)
    scores = _scores(twin, images, target, finder)
    if finder.met and finder.suspicious:
        raise NoPoolingError(
            "this looks like a transformer whose layout is not known here. Name the layer, best the one before its "
            "last block: layer='...'."
        )
    if finder.met and not finder.found:
        return _at_pooling(twin, images, target, only=finder.met)
    if leaf.tensor is None:
        return None
    grid = _pooled_layout(finder, leaf.tensor, images)
    return LayerPass(spoken(twin, finder.where), leaf.tensor, grid, scores, finder.head, finder.direct)


def _scores(twin: nn.Module, images: Tensor, target: Target | None, finder: PoolingFinder | None = None) -> Tensor:
    given = ready(twin, images.detach())
    with torch.no_grad():  # the cut switches gradients on; leaving puts them back
        with finder or nullcontext():
            output = twin(given)
        scores = scores_of(output, target)
    if len(scores) != len(images):
        raise ModelError(f"the model gives {len(scores)} rows of scores for {len(images)} images.")
    return scores


def _pooled_layout(finder: PoolingFinder, leaf: Tensor, images: Tensor) -> ActivationLayout:
    """The layout that the pooling itself told by the axes it runs over."""
    if finder.layout == (1,):
        return layout_of(tuple(leaf.shape), tuple(images.shape[2:]), finder.seen, "pooling")
    return ActivationLayout(
        "first" if 1 not in finder.layout else "last", tuple(leaf.shape[axis] for axis in finder.layout)
    )


class _Leaf:
    """Makes the cut: activations in, the same values out as the beginning of a graph."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self._given: Tensor | None = None

    def cut(self, given: Tensor) -> Tensor:
        """A leaf in place of a tensor; the same leaf each time it is asked for the same tensor.

        The network goes on with a copy, since it may work in place, and the leaf is one, since others may hold the
        original and change it later.
        """
        if self.tensor is None or given is not self._given:
            self._given, self.tensor = given, given.detach().clone().requires_grad_()
        torch.set_grad_enabled(True)
        return self.tensor.clone()


class _Hook:
    """Brings the cut to a module of a private network.

    Attributes:
        seen: grid of the latest convolution before the place.
    """

    def __init__(self, place: LayerPlace) -> None:
        self.place = place
        self.seen: tuple[int, ...] | None = None
        self._latest: tuple[int, ...] | None = None
        self._calls = 0

    def fasten(self, twin: nn.Module, leaf: _Leaf) -> None:
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
            module.register_forward_pre_hook(lambda _, args: (leaf.cut(self._once(*args[:1])), *args[1:]))
        else:
            module.register_forward_hook(lambda _, __, output: leaf.cut(self._once(output)))

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


def scores_of(output: object, target: Target | None = None) -> Tensor:
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


def output_of(model: nn.Module, inner: str, images: Tensor) -> tuple[object, object]:
    """What a private network gives and what one of its modules gives, from one pass."""
    kept: list[object] = []
    handle = model.get_submodule(inner).register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        output = model(ready(model, images))
    finally:
        handle.remove()
    if not kept:
        raise ModelError(f"the forward pass never reached {inner!r}.")
    return output, kept[-1]


def _kind(thing: object) -> str:
    """What something is, in words."""
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    if isinstance(thing, Mapping):
        return f"a {type(thing).__name__} with {', '.join(map(repr, list(thing)[:5]))}"
    return "nothing" if thing is None else f"a {type(thing).__name__}"
