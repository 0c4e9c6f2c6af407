"""What is measured (a classifier of ours, or maps of another tool), and one split of a table to measure it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from lesioncam.data.io.image import read_image
from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import targets_of
from lesioncam.evaluation.cases import Truth
from lesioncam.evaluation.protocol import patient_digest
from lesioncam.inference.subject import Subject
from lesioncam.measurement.truth import read_truth
from lesioncam.progress import ahead
from lesioncam.types import CaseResult, Record, Validation

R = TypeVar("R")

__all__ = ["Part", "Seen"]


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
