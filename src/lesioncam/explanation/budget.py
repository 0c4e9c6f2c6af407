"""Batches that fit a memory budget: what one input costs is measured on the first one, which is part of the work."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lesioncam.errors import OptionError

T = TypeVar("T")

MEMORY = 1 << 30
"""Default budget, bytes (1 GiB)."""

_SLACK = 2
"""Convolutions also keep copies of their input and output in a layout of their own, which no tensor shows."""

_MOST = 64
"""Largest batch on a GPU, which such a batch keeps busy. On a CPU two images per thread are enough: larger batches
leave the caches and are slower (ResNet-18 at 224 pixels: 25 ms an image in batches of 4, 32 ms in batches of 32)."""


def in_batches(count: int, run: Callable[[int, int], T], memory: int) -> Iterator[T]:
    """Yield ``run(start, stop)`` over ``range(count)``, in batches whose tensors fit into a budget.

    The first batch is of one input and is watched: the bytes of all tensors that are alive at once inside it, twice
    over for the scratch space of convolutions, are the cost of an input. Convolutions copy their weights too: the bytes
    of all that was there before and is read inside are set aside, up to half of the budget. Batches are never smaller
    than one input, so a budget below its cost is exceeded by it. What ``run`` returns is the caller's to keep.

    Args:
        count: how many inputs there are.
        run: works on inputs ``start <= i < stop``.
        memory: bytes.

    Raises:
        OptionError: if the budget is not positive.

    Example:
        >>> import torch
        >>> work = lambda start, stop: torch.ones(stop - start, 1000).exp().sum(1)
        >>> [len(part) for part in in_batches(10, work, memory=50_000)]
        [1, 3, 3, 3]
    """
    if memory <= 0:
        raise OptionError(f"memory must be a positive number of bytes, got {memory}; 1 GiB is {MEMORY}.")
    if count == 0:
        return
    with _Alive() as seen:
        first = run(0, 1)
    yield first
    most = _MOST if seen.accelerated else max(8, 4 * torch.get_num_threads())
    left = memory - min(seen.given, memory // 2)
    size = _even(count - 1, min(most, left // max(1, _SLACK * seen.peak)))
    for start in range(1, count, size):
        yield run(start, min(start + size, count))


def _even(count: int, most: int) -> int:
    """Size of equal batches, none larger than ``most``, which is at least 1."""
    batches = -(-count // max(1, most))
    return -(-count // max(1, batches)) or 1


class _Alive(TorchDispatchMode):
    """Most bytes alive at once of the tensors made inside (``peak``), and bytes of older ones read (``given``).

    It sees the operations of this thread only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.given = 0
        self.accelerated = False
        self._now = 0
        self._known: dict[int, object] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        del types
        given = kwargs or {}
        self._note((args, given), new=False)
        out = func(*args, **given)
        self._note(out, new=True)
        return out

    def _note(self, tree: object, *, new: bool) -> None:
        for leaf in tree_leaves(tree):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata  # noqa: SLF001  # the address of the memory's owner: views share it
            if key not in self._known:
                size = storage.nbytes() if new else 0
                self.given += storage.nbytes() - size
                self._known[key] = weakref.ref(storage, partial(self._forget, key, size))
                self._now += size
                self.peak = max(self.peak, self._now)
                self.accelerated |= leaf.device.type != "cpu"

    def _forget(self, key: int, size: int, _: object) -> None:
        self._known.pop(key, None)
        self._now -= size
