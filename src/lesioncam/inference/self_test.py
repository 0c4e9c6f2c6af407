"""Try a network before believing its maps: layer, identity, traces, batches, threads, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lesioncam.explanation.receptive import Cells
from lesioncam.inference.network import NetworkSubject
from lesioncam.models.adopted import head_classes
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.runs.card import AdoptedCard
from lesioncam.types import Sample

_THREADS = 8
_REPEATS = 3


@dataclass(frozen=True)
class SelfTest:
    """What a network does when it is explained; ``print`` it.

    Attributes:
        method: name of the map method.
        layer: where maps are taken.
        grid: size of a map.
        size: of the network input.
        cells: where cells look; None for half-pixel centres.
        identity: largest difference between the mean of a class map and its logit, relative; None if there are none.
        why: if there is no identity, why not.
        logits: largest change of the logits by explaining.
        kept: whether modes, hooks and gradients are as before.
        batch: largest difference between a batch and its images one by one, relative.
        threads: largest difference between eight threads and one, relative.
        milliseconds: per image.
        tolerance: what is allowed, by the network's precision.
    """

    method: str
    layer: str
    grid: tuple[int, ...]
    size: tuple[int, ...]
    cells: Cells | None
    identity: float | None
    why: str
    logits: float
    kept: bool
    batch: float
    threads: float
    milliseconds: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether all is as it should be; no identity is no fault."""
        errors = (self.batch, self.threads, self.identity or 0.0)
        return self.kept and self.logits == 0 and all(error <= self.tolerance for error in errors)

    def __str__(self) -> str:
        """A line for each finding."""
        looks = "half-pixel centres"
        if self.cells is not None:
            looks = f"first cell at {_sizes(self.cells.origin)}, {_sizes(self.cells.pitch)} pixels apart"
        identity = f"no: {self.why}" if self.identity is None else self._verdict(self.identity)
        lines = {
            "maps": f"{self.method} at {self.layer}",
            "cells": f"{_sizes(self.grid)} of a {_sizes(self.size)} input; {looks}",
            "mean of CAM = logit": identity,
            "logits unchanged": f"{_yes(ok=self.logits == 0 and self.kept)}",
            "batch = one by one": self._verdict(self.batch),
            f"{_THREADS} threads = one": self._verdict(self.threads),
            "time": f"{self.milliseconds:.0f} ms per image",
        }
        return "\n".join(f"{name:<20} {said}" for name, said in lines.items())

    def _verdict(self, error: float) -> str:
        return f"{_yes(ok=error <= self.tolerance)}, off by {error:.1e}"


def _yes(*, ok: bool) -> str:
    return "yes" if ok else "NO"


def _sizes(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def try_network(subject: NetworkSubject, samples: Sequence[Sample]) -> SelfTest:
    """Explain prepared images of one size in every way that must give the same, and look at what is left behind.

    Raises:
        ModelError: if the number of scores is not the number of classes, or the network does not allow the method.
    """
    model = subject.model
    state, before = _state(model), subject.scores(samples)
    head_classes(before, subject.classes, type(model).__name__)
    maps = subject.maps(samples)
    alone = [subject.maps([sample]) for sample in samples]
    with ThreadPoolExecutor(_THREADS) as pool:
        shared = list(pool.map(lambda i: subject.maps([samples[i % len(samples)]]).raw, range(2 * _THREADS)))
    identity, why = _identity(subject, samples)
    grid = tuple(maps.raw.shape[2:])
    return SelfTest(
        method=subject.method,
        layer=maps.layer,
        grid=grid,
        size=tuple(samples[0].image.shape[1:]),
        cells=subject.cells(grid, samples[0]),
        identity=identity,
        why=why,
        logits=float((subject.scores(samples) - before).abs().max()),
        kept=_state(model) == state,
        batch=_off(maps.raw, torch.cat([each.raw for each in alone])),
        threads=max(_off(raw, alone[i % len(samples)].raw) for i, raw in enumerate(shared)),
        milliseconds=1000 * _median_time(lambda: subject.maps(samples[:1])),
        tolerance=1e-4 if _dtype(model) in (torch.float32, torch.float64) else 2e-2,
    )


def _identity(subject: NetworkSubject, samples: Sequence[Sample]) -> tuple[float | None, str]:
    """How exactly class maps average to logits; if there are none, why not."""
    maps, why = subject.identity(samples)
    if maps is None:
        return None, why
    if isinstance(subject.model, TrainedClassifier) and not isinstance(subject.card, AdoptedCard):
        return 0.0, ""  # our own pooling of the maps is checked there, whatever it is
    return _off(maps.raw.flatten(2).mean(-1), maps.scores), ""


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _state(model: nn.Module) -> Mapping[str, Any]:
    """What explaining must leave as it was."""
    return {
        name: (
            module.training,
            len(module._forward_hooks) + len(module._forward_pre_hooks),  # noqa: SLF001 (counted, not used)
            tuple(p.grad is None for p in module.parameters(recurse=False)),
        )
        for name, module in model.named_modules()
    }


def _off(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    span = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((found.float().cpu() - expected.float().cpu()).abs().max()) / span


def _median_time(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[_REPEATS // 2]
