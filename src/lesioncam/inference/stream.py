"""Many images along the one way: read, answered in batches and worked on, a few batches at a time, in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lesioncam.errors import ImageError
from lesioncam.inference.exam import Source, open_exam
from lesioncam.inference.look import Look, look
from lesioncam.inference.subject import Subject
from lesioncam.progress import ahead
from lesioncam.types import CaseResult, Exam

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 2
"""Batches on their way at a time; each holds the pixels of its images, and the maps of one of them at full size."""


@dataclass(frozen=True)
class Way:
    """How images are looked at.

    Attributes:
        subject: where scores and maps come from.
        threshold: of the maps, see :func:`lesioncam.inference.look.look`.
        method: map method; None is the subject's own.
    """

    subject: Subject
    threshold: str | float = "val"
    method: str | None = None

    def look(self, exams: Sequence[Exam]) -> Iterator[Look]:
        """A few examinations that go together."""
        return look(self.subject, exams, threshold=self.threshold, method=self.method)


@dataclass(frozen=True)
class Failed(Generic[T]):
    """An item whose image could not be used, and why."""

    item: T
    error: ImageError


def stream(
    way: Way,
    items: Sequence[T],
    opened: Callable[[T], Exam],
    work: Callable[[T, Look], R],
    workers: int = WORKERS,
) -> Iterator[R | Failed[T]]:
    """What ``work`` makes of every item, in order.

    Args:
        way: how images are looked at.
        items: what there is to look at.
        opened: from an item to its examination.
        work: called from several threads, so it changes nothing that others see; what it returns is kept until its
            turn comes, so it holds no full-size maps.
        workers: batches at a time.

    Yields:
        Results, and :class:`Failed` for an item whose image could not be used.
    """
    size = max(1, min(way.subject.batch, math.ceil(len(items) / max(1, workers))))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    for results in ahead(parts, lambda part: _finished(way, part, opened, work), workers, _one_thread):
        yield from results


def results_of(way: Way, sources: Sequence[Source]) -> Iterator[CaseResult]:
    """The results of images that must all be usable, in order.

    Raises:
        ImageError: for the first that is not.
    """
    for result in stream(way, sources, open_exam, lambda _, seen: seen.result):
        if isinstance(result, Failed):
            raise result.error
        yield result


def _one_thread() -> None:
    """Torch and the like keep to one thread in each worker: their waiting threads would take the cores."""
    torch.get_num_threads()  # torch sets its own number at first use; ours must come after
    threadpool_limits(1, user_api="openmp")


def _finished(
    way: Way, part: Sequence[T], opened: Callable[[T], Exam], work: Callable[[T, Look], R]
) -> list[R | Failed[T]]:
    exams = [_tried(item, opened) for item in part]
    usable = [(i, exam) for i, exam in enumerate(exams) if isinstance(exam, Exam)]
    results: dict[int, R | Failed[T]] = {i: exam for i, exam in enumerate(exams) if isinstance(exam, Failed)}
    try:
        for (i, _), seen in zip(usable, way.look([exam for _, exam in usable]), strict=True):
            results[i] = work(part[i], seen)
    except ImageError as error:
        if len(part) == 1:
            return [Failed(part[0], error)]
        return [one for item in part for one in _finished(way, [item], opened, work)]
    return [results[i] for i in range(len(part))]


def _tried(item: T, opened: Callable[[T], Exam]) -> Exam | Failed[T]:
    try:
        return opened(item)
    except ImageError as error:
        return Failed(item, error)
