"""The one way of an image: examinations in, scores, maps, masks and boxes out, wherever the evidence comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.exam import open_exam
from lesioncam.inference.scale import shown_scale
from lesioncam.inference.subject import Answer, Subject
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.segmentation.mask import segment
from lesioncam.types import CaseResult, Exam, Segmentation


class Look(NamedTuple):
    """One examination after its way.

    Attributes:
        exam: what was looked at.
        result: scores, maps, masks and boxes.
        evidence: the raw maps on the image's own grid, ``(K, *native)`` float32, for whoever goes on with them.
    """

    exam: Exam
    result: CaseResult
    evidence: np.ndarray


def look(
    subject: Subject, exams: Sequence[Exam], *, threshold: str | float = "val", method: str | None = None
) -> Iterator[Look]:
    """Pixels -> network input -> scores and heat map -> masks and boxes in the file's own pixels.

    The subject answers for all examinations together; what follows is done one by one when it is asked for, so that
    maps of one image at a time lie in memory at full size.

    Args:
        subject: where scores and maps come from.
        exams: as many as its ``batch``, or fewer.
        threshold: of the maps: ``val`` (chosen on validation), ``default`` (.5), or a probability.
        method: map method; None is the subject's own. Thresholds and scale were chosen for that one only: masks of
            another method are cut at .5 (or the number given) of each map's own range, called ``default``.

    Raises:
        ImageError: if an image cannot be used; then none was answered for.
        RunError: if thresholds of validation are asked for and none were chosen.
    """
    levels = subject.levels(threshold, method)
    for exam, answer in zip(exams, subject.answers(exams, method), strict=True):
        evidence = answer.heatmap.native()
        scaled = replace(answer.heatmap, calibration=shown_scale(answer.heatmap, evidence))
        segmentation = segment(scaled, levels, evidence, exam.pixels)
        yield Look(exam, _case(subject, exam, answer, segmentation), evidence)


def _case(subject: Subject, exam: Exam, answer: Answer, segmentation: Segmentation) -> CaseResult:
    return CaseResult(
        id=exam.id,
        image=exam.source,
        classes=subject.classes,
        logits=answer.logits,
        probabilities=answer.probabilities,
        decisions=subject.decisions,
        heatmap=answer.heatmap,
        segmentation=segmentation,
        features=answer.features,
        task=subject.card.config.task,
    )


def analyse(
    classifier: TrainedClassifier,
    image: str | Path | np.ndarray,
    *,
    name: str | None = None,
    threshold: str | float = "val",
    method: str | None = None,
) -> CaseResult:
    """The whole way of one image; see :func:`look`.

    Args:
        classifier: from :func:`lesioncam.load`.
        image: a file (``file#index`` for one of several) or a decoded image ``(H, W)`` or ``(H, W, C)``.
        name: what to call it; by default the file's name.
        threshold: ``val`` (chosen on validation), ``default`` (.5), or a probability.
        method: map method; None is the one of the run.

    Raises:
        ImageError: if the image cannot be read or used.
        RunError: if thresholds of validation are asked for and none were chosen.
    """
    exam = open_exam(image, name)
    [seen] = look(ClassifierSubject(classifier), [exam], threshold=threshold, method=method)
    return seen.result
