"""Poolings chosen by configuration, those with weights of their own among them, or a user's own callable."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from lesioncam.errors import ModelError
from lesioncam.functional.attention import Attention, acam_maps, acam_pool, attention_pool, axis_attention
from lesioncam.functional.pooling import POOLINGS
from lesioncam.lookup import find
from lesioncam.options.poolings import AcamPool, AttentionPool, CustomPool, Pooling, name_of


class PoolInput(NamedTuple):
    """What a pooling with weights of its own will be given.

    Attributes:
        channels: C of the features.
        classes: K.
        axes: of the grid, 2 or 3.
    """

    channels: int
    classes: int
    axes: int = 2


class Pool(nn.Module):
    """``pool(class_maps, features, valid) -> logits``: one signature for the shipped ones, callables and modules."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function  # a module is registered as a child, so its parameters train
        self._extras = _accepted(function)

    def forward(self, class_maps: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Image logits ``(N, K)`` of class maps ``(N, K, *grid)``.

        Raises:
            ModelError: if a user's own pooling gives something else.
        """
        given = {"features": features, "valid": valid}
        logits = self.function(class_maps, **{name: given[name] for name in self._extras})
        if not isinstance(logits, Tensor) or logits.shape != class_maps.shape[:2]:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the pooling {name_of(self.function)} gives {found} for class maps {tuple(class_maps.shape)}; "
                f"it must give one logit per image and class, {tuple(class_maps.shape[:2])}."
            )
        return logits

    def attended(
        self, class_maps: Tensor, features: Tensor, bias: Tensor | None, valid: Tensor | None = None
    ) -> Tensor | None:
        """The maps to look at, where an attention along the axes sharpens them (ACAM); None: the class maps are."""
        if not isinstance(self.function, AxisAttentionPooling):
            return None
        return self.function.attended(class_maps, features, bias, valid)


class AttentionPooling(nn.Module):
    """Attention pooling (:func:`lesioncam.functional.attention.attention_pool`) and its weights; no bias.

    Without a gate there are no weights of one: a weight that is never used would stop distributed training.
    """

    def __init__(self, config: AttentionPool, given: PoolInput) -> None:
        super().__init__()
        self.value = nn.Linear(given.channels, config.hidden, bias=False)
        self.gate = nn.Linear(given.channels, config.hidden, bias=False) if config.gated else None
        self.out = nn.Linear(config.hidden, 1 if config.shared else given.classes, bias=False)

    def forward(self, class_maps: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Image logits ``(N, K)``."""
        gate = None if self.gate is None else self.gate.weight
        return attention_pool(class_maps, features, Attention(self.value.weight, self.out.weight, gate), valid)


class AxisAttentionPooling(nn.Module):
    """ACAM (:func:`lesioncam.functional.attention.acam_pool`) and its weights: one vector per axis, or one for all."""

    def __init__(self, config: AcamPool, given: PoolInput) -> None:
        super().__init__()
        self.combine = config.combine
        self.attention = nn.Linear(given.channels, 1 if config.shared else given.axes, bias=False)

    def forward(self, class_maps: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Image logits ``(N, K)``; they do not depend on how the maps are combined."""
        return acam_pool(class_maps, features, self.attention.weight, valid)

    def attended(
        self, class_maps: Tensor, features: Tensor, bias: Tensor | None, valid: Tensor | None = None
    ) -> Tensor:
        """Attentional class activation maps ``(N, K, *grid)``, the bias spread over them."""
        return acam_maps(class_maps, axis_attention(features, self.attention.weight, valid), self.combine, bias)


LEARNABLE: dict[str, Callable[[Any, PoolInput], nn.Module]] = {
    "acam": AxisAttentionPooling,
    "attention": AttentionPooling,
}
"""Poolings with weights of their own, by name."""


def build_pool(config: Pooling, own: Callable[..., Tensor] | None = None, given: PoolInput | None = None) -> Pool:
    """The pooling a configuration names.

    Args:
        config: kind and options.
        own: the user's callable ``f(class_maps)``; if it names ``features`` or ``valid`` it is given those too. Of a
            module a copy is taken, so that two runs begin with the same weights and the user's stay as they are.
        given: sizes, which only a pooling with weights of its own needs.

    Raises:
        ModelError: if the configuration names a user's callable and none is given.

    Example:
        >>> import torch
        >>> from lesioncam.options.poolings import CustomPool, LsePool
        >>> maps = torch.tensor([[[[1.0, 3.0]]]])
        >>> build_pool(LsePool(sharpness=1000.0))(maps, maps).round(decimals=2)
        tensor([[3.]])
        >>> build_pool(CustomPool(name="mine"), own=lambda class_maps: class_maps.amin((2, 3)))(maps, maps)
        tensor([[1.]])
        >>> sum(p.numel() for p in build_pool(AcamPool(), given=PoolInput(96, 2, axes=3)).parameters())    # 3 axes
        288
    """
    if isinstance(config, CustomPool):
        if own is None:
            raise ModelError(
                f"this classifier pools with your own {config.name!r}, which no file holds; "
                "load it from Python with lesioncam.load(run, pooling=your_callable)."
            )
        return Pool(copy.deepcopy(own) if isinstance(own, nn.Module) else own)
    if config.kind in LEARNABLE:
        if given is None:
            raise ModelError(
                f"{config.kind} has weights of its own, whose sizes build_pool must know: given=PoolInput(...)."
            )
        return Pool(LEARNABLE[config.kind](config, given))
    options = config.model_dump(exclude={"kind", "prior"})  # a prior is where the head starts
    return Pool(partial(find(config.kind, POOLINGS, "pooling"), **options))


def _accepted(function: Callable[..., Tensor]) -> tuple[str, ...]:
    target = function.forward if isinstance(function, nn.Module) else function
    return tuple(name for name in ("features", "valid") if name in inspect.signature(target).parameters)
