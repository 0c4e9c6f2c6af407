"""Poolings chosen by configuration, or a user's own callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from lesioncam.config import CustomPool, Pooling
from lesioncam.errors import ModelError
from lesioncam.functional.pooling import POOLINGS
from lesioncam.lookup import find

__all__ = ["Pool", "build_pool", "name_of"]


class Pool(nn.Module):
    """``pool(class_maps, features, valid) -> logits``: one signature for the shipped ones, callables and modules."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function  # a module is registered as a child, so its parameters train
        self._extras = _accepted(function)

    def forward(self, class_maps: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Image logits ``(N, K)`` of class maps ``(N, K, *grid)``."""
        given: dict[str, Any] = {"features": features, "valid": valid}
        return self.function(class_maps, **{name: given[name] for name in self._extras})


def build_pool(config: Pooling, own: Callable[..., Tensor] | None = None) -> Pool:
    """The pooling a configuration names.

    Args:
        config: kind and options.
        own: the user's callable ``f(class_maps)``; if it names ``features`` or ``valid`` it is given those too.

    Raises:
        ModelError: if the configuration names a user's callable and none is given.

    Example:
        >>> import torch
        >>> from lesioncam.config import LsePool, CustomPool
        >>> maps = torch.tensor([[[[1.0, 3.0]]]])
        >>> build_pool(LsePool(sharpness=1000.0))(maps, maps).round(decimals=2)
        tensor([[3.]])
        >>> build_pool(CustomPool(name="mine"), own=lambda class_maps: class_maps.amin((2, 3)))(maps, maps)
        tensor([[1.]])
    """
    if isinstance(config, CustomPool):
        if own is None:
            raise ModelError(
                f"this classifier pools with your own {config.name!r}, which no file holds; "
                "load it from Python with lesioncam.load(run, pooling=your_callable)."
            )
        return Pool(own)
    options = config.model_dump(exclude={"kind"})
    return Pool(partial(find(config.kind, POOLINGS, "pooling"), **options))


def name_of(function: Callable[..., Tensor]) -> str:
    """For the record: module and name of a callable."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _accepted(function: Callable[..., Tensor]) -> tuple[str, ...]:
    target = function.forward if isinstance(function, nn.Module) else function
    return tuple(name for name in ("features", "valid") if name in inspect.signature(target).parameters)
