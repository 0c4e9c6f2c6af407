"""How a split is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class MeasureOptions:
    """How a split is measured.

    Attributes:
        threshold: of the maps: ``val`` (chosen on validation), ``default`` (.5) or a probability.
        metrics: the short table, or ``all``.
        by: columns of the table by which groups are reported.
        leaks: near-copies of training or tuning images in this split: ``refuse``, or ``drop`` them, counted.
        bound: folder with the maps or masks of a supervised model, the upper mark.
        sanity: also ask whether the maps depend on the weights, and the score on the places they name.
        device: where a network works: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        pooling: the user's own callable, where the run was trained with one.
    """

    threshold: str | float = "val"
    metrics: Literal["default", "all"] = "default"
    by: tuple[str, ...] = ()
    leaks: Literal["refuse", "drop"] = "refuse"
    bound: Path | None = None
    sanity: bool = False
    device: str = "auto"
    pooling: Callable[..., Tensor] | None = None
