"""A private twin of any network: it shares the weights and nothing that changes.

`copy.deepcopy` with the weights kept out makes one too, but takes six times as long (31 ms of a DenseNet-121 against 5,
where a forward pass of two images takes 250), copies whatever a module holds (a trainer, a history of tensors), and
refuses tensors with a graph. So it is only the last resort, :func:`deep_twin`.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lesioncam.errors import ModelError
from lesioncam.explanation.layers import unwrapped

_ATOMS = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size, type})
_CONTAINERS = frozenset({list, set, dict, OrderedDict})
_UNUSED = frozenset(nn.Module().__dict__) - {"_forward_hooks", "_forward_pre_hooks"}
"""What no forward pass looks at or changes, hooks of the user's backward passes among it, and the tree itself, which is
made anew. Compiled code, which knows the user's modules, is left out."""
_READING = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm})
"""Modules that do no more than read their buffers in evaluation; those who build on them may do anything."""


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
        made = twins.module(model)
        for each in twins.switched:  # those that do more than others when they are switched
            each.eval()
        return made


def deep_twin(model: nn.Module) -> nn.Module:
    """As :func:`private`, by copying all that the model holds but its weights; slower, and reaches further."""
    inner = unwrapped(model)
    kept: dict[int, Any] = {id(weight): _weight(weight) for weight in inner.parameters()}
    kept.update((id(buffer), buffer.detach().clone()) for buffer in inner.buffers())
    return copy.deepcopy(inner, kept).eval()


class _Twins:
    """Makes twins of modules and of whatever refers to them; each thing once."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self.switched: list[nn.Module] = []

    def module(self, module: nn.Module) -> nn.Module:
        """The twin of a module and all below it."""
        module = unwrapped(module)
        if id(module) in self._made:
            twin: nn.Module = self._made[id(module)]
            return twin
        if isinstance(module, torch.jit.ScriptModule):
            return _script(module)
        kind = type(module)
        twin = self._made[id(module)] = object.__new__(kind)
        state = twin.__dict__
        state.update(module.__dict__, training=False, _compiled_call_impl=None)
        state.update(_backward_hooks=OrderedDict(), _backward_pre_hooks=OrderedDict())
        for name in state.keys() - _UNUSED:
            if type(state[name]) not in _ATOMS:
                state[name] = self.value(state[name])
        state.update(self._tree(module))
        if kind.train is not nn.Module.train or kind.eval is not nn.Module.eval:
            self.switched.append(twin)
        return twin

    def _tree(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """What a module has below it: modules, weights and buffers by name."""
        buffer = _shared if type(module) in _READING else _copied
        below, weights, buffers = module._modules, module._parameters, module._buffers  # noqa: SLF001
        return {
            "_modules": {name: None if each is None else self.module(each) for name, each in below.items()},
            "_parameters": {name: None if w is None else self._once(w, _weight) for name, w in weights.items()},
            "_buffers": {name: None if b is None else self._once(b, buffer) for name, b in buffers.items()},
        }

    def _once(self, tensor: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """What stands in a tensor's place, the same wherever it stands."""
        made: Tensor | None = self._made.get(id(tensor))
        if made is None:
            made = self._made[id(tensor)] = make(tensor)
        return made

    def value(self, value: Any) -> Any:
        """An attribute, with twins in place of modules; containers and closures are new, all else is shared."""
        if type(value) in _ATOMS or id(value) in self._made:
            return self._made.get(id(value), value)
        if isinstance(value, nn.Module):
            return self.module(value)
        return self._container(value) if type(value) in _CONTAINERS else self._reference(value)

    def _reference(self, value: Any) -> Any:
        """What may hold modules without being a container."""
        kind = type(value)
        if kind is tuple and not _ATOMS.issuperset(map(type, value)):
            return tuple(map(self.value, value))
        if kind is MethodType:
            return MethodType(value.__func__, self.value(value.__self__))
        if kind is partial:
            return partial(self.value(value.func), *map(self.value, value.args), **self.value(value.keywords))
        return self._closure(value) if kind is FunctionType and value.__closure__ else value

    def _container(self, value: Any) -> Any:
        """A list, set or dict, known before it is filled, since it may hold itself."""
        made = self._made[id(value)] = type(value)()
        if isinstance(value, dict):
            made.update((key, self.value(each)) for key, each in value.items())
        else:
            (made.extend if isinstance(value, list) else made.update)(map(self.value, value))
        return made

    def _closure(self, function: FunctionType) -> FunctionType:
        """A function that holds modules, as a patched ``forward`` does."""
        cells = tuple(map(self._cell, function.__closure__ or ()))
        made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def _cell(self, cell: CellType) -> CellType:
        """A variable of a closure, which several functions may share."""
        if id(cell) not in self._made:
            made = self._made[id(cell)] = CellType()
            with suppress(ValueError):  # a name that is bound later
                made.cell_contents = self.value(cell.cell_contents)
        found: CellType = self._made[id(cell)]
        return found


def _script(module: torch.jit.ScriptModule) -> nn.Module:
    """A script is one sealed piece: shared as it is, and only in evaluation mode."""
    if any(part.training for part in module.modules()):
        raise ModelError(
            "a scripted module cannot be copied and is in training mode; call .eval() on it first, or give the "
            "Python module it was made of."
        )
    return module


def _weight(weight: Tensor) -> nn.Parameter:
    """The same memory without gradients."""
    if type(weight) is not nn.Parameter and is_lazy(weight):
        raise ModelError("the model has lazy modules that were never run; pass one batch through it first.")
    return nn.Parameter(_shared(weight), requires_grad=False)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _shared(tensor: Tensor) -> Tensor:
    """The same memory without a graph; what was made inside inference mode cannot enter one and is copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
