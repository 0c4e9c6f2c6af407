"""What is measured (a classifier of ours, or maps of another tool), and one split of a table to measure it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np

from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import targets_of
from lesioncam.evaluation.cases import Truth
from lesioncam.evaluation.protocol import patient_digest
from lesioncam.inference.exam import exam_of
from lesioncam.inference.look import Look
from lesioncam.inference.stream import Failed, Way, stream
from lesioncam.inference.subject import Subject
from lesioncam.measurement.truth import read_truth
from lesioncam.picture import Picture
from lesioncam.types import CaseResult, Exam, Record, Validation

R = TypeVar("R")


@dataclass(frozen=True)
class Seen:
    """One image beside its truth: the table's row, the file's picture, what came out, the maps on its grid."""

    record: Record
    picture: Picture
    result: CaseResult
    evidence: np.ndarray
    truth: Truth


class Row(NamedTuple):
    """A row of the table, its labels after the run's policy, its patient as a keyed digest."""

    record: Record
    labels: tuple[float, ...]
    patient: str


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
        return digests_of(self.table, self.key)

    def validation(self) -> Validation:
        """These images, to choose on.

        Raises:
            LesioncamError: unless every one of them is of split ``val``.
        """
        frame = self.table.frame
        return Validation(tuple(frame["id"]), tuple(self.digests), tuple(map(str, frame["split"])))

    def rows(self) -> list[Row]:
        """Each row with its labels and patient digest; the truth of unverified rows is set aside."""
        verified = self.table.verified()
        rows = []
        for i, (record, labels, patient) in enumerate(
            zip(self.table.records(), self.labels, self.digests, strict=True)
        ):
            known = verified is None or bool(verified[i])
            told = record if known else replace(record, masks={}, boxes=(), readers={})
            rows.append(Row(told, tuple(float(label) for label in labels), patient))
        return rows

    def each(self, threshold: str | float, work: Callable[[Seen], R]) -> Iterator[R]:
        """What ``work`` makes of every image beside its truth, in order.

        Args:
            threshold: of the maps, see :func:`lesioncam.inference.look.look`.
            work: called from several threads, so it changes nothing that others see, and returns no full-size maps.

        Raises:
            ImageError: for the first image that cannot be used.
        """
        for result in stream(Way(self.subject, threshold), self.rows(), _opened, lambda *seen: work(self._see(*seen))):
            if isinstance(result, Failed):
                raise result.error
            yield result

    def _see(self, row: Row, looked: Look) -> Seen:
        truth = read_truth(row.record, self.table.classes, row.labels, looked.evidence.shape[1:], row.patient)
        return Seen(row.record, looked.exam.picture, looked.result, looked.evidence, truth)


def _opened(row: Row) -> Exam:
    return exam_of(row.record)


def digests_of(table: Table, key: bytes) -> list[str]:
    """The patient of each row."""
    return [patient_digest(key, str(patient)) for patient in table.patients()]
