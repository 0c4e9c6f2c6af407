"""What is measured (a classifier of ours, or maps of another tool), and one split of a table to measure it on."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from lesioncam.data.io import read_image
from lesioncam.data.policy import targets_of
from lesioncam.data.table import Table
from lesioncam.errors import RunError
from lesioncam.evaluation.cases import Truth
from lesioncam.evaluation.protocol import Remembers, patient_digest
from lesioncam.files import RunFolder, write_with
from lesioncam.models.checkpoint import ModelCard
from lesioncam.pipeline.truth import read_truth
from lesioncam.types import CaseResult, Record, Validation

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["Part", "Progress", "Seen", "Subject", "bars", "run_key", "silent"]

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


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        card: classes, options, and everything that was chosen.
        method: name of the map method in every table.
        analyse: one record, its pixels and where thresholds come from, to a result and its native raw maps.
        digest: of weights and choices, or of another tool's files: one configuration of the ledger.
        foreign: no model of ours.
        gaps: how many maps were missing, and how many held values that are not finite, in what was walked so far.
    """

    card: ModelCard
    method: str
    analyse: Callable[[Record, np.ndarray, str | float], tuple[CaseResult, np.ndarray]]
    digest: str
    foreign: bool = False
    gaps: Callable[[], tuple[int, int]] = lambda: (0, 0)

    @property
    def chosen(self) -> tuple[Remembers, ...]:
        """Everything chosen on some patients, and applied to others."""
        scales = (self.card.calibration, self.card.image_calibration)
        return (
            *(self.card.thresholds or ()),
            *(self.card.decisions or ()),
            *(scale for scale in scales if scale is not None),
            *self.card.chosen,
        )


@dataclass(frozen=True)
class Seen:
    """One image on its way: the table's row, the file's pixels, what came out, the maps on its grid, and the truth."""

    record: Record
    pixels: np.ndarray
    result: CaseResult
    evidence: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Part:
    """One split of a table, ready to be walked through."""

    table: Table
    subject: Subject
    key: bytes

    @cached_property
    def labels(self) -> np.ndarray:
        """``(n, K)`` after the run's policy; what nobody verified says nothing, where the table knows who checked."""
        config = self.subject.card.config
        labels = targets_of(self.table, config.table, config.task).middle()
        verified = self.table.verified()
        if verified is not None:
            labels = np.where(verified[:, None], labels, np.float32(np.nan))
        return labels

    @cached_property
    def digests(self) -> list[str]:
        """The patient of each row."""
        return [patient_digest(self.key, str(patient)) for patient in self.table.patients()]

    def validation(self) -> Validation:
        """These images, to choose on.

        Raises:
            LesioncamError: unless every one of them is of split ``val``.
        """
        frame = self.table.frame
        return Validation(tuple(frame["id"]), tuple(self.digests), tuple(map(str, frame["split"])))

    def records(self) -> Iterator[tuple[Record, list[float], str]]:
        """Each row with its labels and patient digest; the truth of unverified rows is set aside."""
        verified = self.table.verified()
        for i, (record, labels, patient) in enumerate(
            zip(self.table.records(), self.labels, self.digests, strict=True)
        ):
            known = verified is None or bool(verified[i])
            told = record if known else replace(record, masks={}, boxes=(), readers={})
            yield told, [float(label) for label in labels], patient

    def walk(self, threshold: str | float) -> Iterator[Seen]:
        """Each image through the whole path, beside its truth."""
        yield from self.each(threshold, lambda seen: seen, 1)

    def each(self, threshold: str | float, work: Callable[[Seen], R], workers: int) -> Iterator[R]:
        """What ``work`` makes of every image, in order; ``workers`` images at a time, so ``work`` changes nothing."""
        yield from ahead(self.records(), lambda row: work(self._see(*row, threshold)), workers)

    def _see(self, record: Record, labels: Sequence[float], patient: str, threshold: str | float) -> Seen:
        pixels = read_image(record.image)
        result, evidence = self.subject.analyse(record, pixels, threshold)
        return Seen(record, pixels, result, evidence, self.truth(record, labels, patient, evidence.shape[1:]))

    def truth(self, record: Record, labels: Sequence[float], patient: str, size: tuple[int, ...]) -> Truth:
        """What is known about one row."""
        return read_truth(record, self.table.classes, labels, size, patient)


def ahead(items: Iterable[T], work: Callable[[T], R], workers: int = 1) -> Iterator[R]:
    """Results in order, the next ones being worked on while the last one is used; never more than ``workers`` + 1.

    Matrix products stay on one thread each meanwhile: their waiting threads would take the cores from the workers.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    waiting: deque[Future[R]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def run_key(folder: RunFolder) -> bytes:
    """The run's secret for patient digests, made on first use.

    Raises:
        RunError: if it is empty.
    """
    if not folder.key.is_file():
        write_with(folder.key, lambda p: p.write_text(secrets.token_hex(16)))
    key = folder.key.read_text().strip().encode()
    if not key:
        raise RunError(f"{folder.key} is empty; restore it: without it nobody can tell whom the model has seen.")
    return key
