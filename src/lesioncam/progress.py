"""Long work, shown and shared out: bars, and a few items ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[Iterator[Any], int, str], Iterator[Any]]
"""Wraps a stream to show how far it is: (stream, length, what)."""


def silent(stream: Iterator[Any], _length: int, _what: str) -> Iterator[Any]:
    """Show nothing."""
    return stream


def bars(*, wanted: bool) -> Progress:
    """Bars with the time left, or nothing."""
    return _bars if wanted else silent


def _bars(stream: Iterator[Any], length: int, what: str) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(stream, total=length, desc=what, unit="image", leave=False))


def ahead(
    items: Iterable[T], work: Callable[[T], R], workers: int = 1, begin: Callable[[], None] | None = None
) -> Iterator[R]:
    """Results in order, the next ones being worked on while the last one is used; never more than ``workers`` + 1.

    Matrix products stay on one thread each meanwhile: their waiting threads would take the cores from the workers.

    Args:
        items: to work on.
        work: called from several threads.
        workers: threads.
        begin: called once in each thread.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    waiting: deque[Future[R]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers, initializer=begin) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
