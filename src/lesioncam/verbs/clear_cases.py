"""The figures of CLEAR for a run: cases of an evaluated split, chosen by rule, read, projected and drawn.

Which images are shown follows from confidence alone
(:func:`lesioncam.reporting.figures.clear_figures.median_case`), so nobody picks the pretty ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from lesioncam.data.preprocess import display_image
from lesioncam.errors import LesioncamError, OptionError, RunError
from lesioncam.explanation.cam import explain_samples
from lesioncam.files import write_csv
from lesioncam.functional.clear import class_scale, dominant
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.exam import exam_of
from lesioncam.inference.look import look
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier
from lesioncam.progress import bars
from lesioncam.reporting.figures.clear_figures import ClearCase, ClearStyle, fundus_figure, method_table, save_picture
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.table import run_table
from lesioncam.types import Record


@dataclass(frozen=True)
class ClearAsked:
    """What is drawn.

    Attributes:
        split: an evaluated one.
        rows: correct, and as many wrong cases in the table of the method's paper.
        rule: through a ReLU, see :class:`lesioncam.explanation.clear.ClearOptions`.
        class_scale: before classes compete for a pixel.
        style: colours.
    """

    split: str = "val"
    rows: int = 3
    rule: Literal["linear", "deconvnet", "guided", "gradient"] = "guided"
    class_scale: Literal["none", "softmax", "standardise"] = "none"
    style: ClearStyle = field(default_factory=ClearStyle)

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise OptionError(f"rows {self.rows}: expected 1 or more.")


class _Chosen(NamedTuple):
    """A case before its picture is made."""

    id: str
    truth: int
    correct: bool
    confidence: float
    probabilities: np.ndarray


def clear_figures(
    run: str | Path, out: str | Path, asked: ClearAsked | None = None, *, progress: bool = False
) -> tuple[Path, ...]:
    """Draw the table of the CLEAR paper and the figure of grades, correct and wrong, for a run.

    Args:
        run: a run folder, trained or adopted, with at least two classes.
        out: the folder to write ``clear_table.png``, ``clear_grades.png`` and ``clear_cases.csv``.
        asked: what is drawn.
        progress: show bars.

    Returns:
        The three files.

    Raises:
        LesioncamError: if the run is on volumes or has one class only, or no image of the split has exactly one
            positive class.
        RunError: if the split was not evaluated.

    Reference:
        Kumar, Wong & Taylor 2017, and Kumar, Taylor & Wong 2017, see :mod:`lesioncam.reporting.figures.clear_figures`.
    """
    asked, folder, place = asked or ClearAsked(), RunFolder(Path(run)), Path(out)
    classifier = load_classifier(folder.root)
    classes = classifier.classes
    _check(folder, classifier)
    rows, cells = _select(_judged(folder, classes, asked.split), len(classes), asked.rows)
    records = {record.id: record for record in run_table(folder).split(asked.split).records()}
    wanted = {one.id: one for one in [*rows, *cells]}
    drawn = {
        name: _case(classifier, records[name], one, asked)
        for name, one in bars(wanted=progress)(iter(wanted.items()), len(wanted), "CLEAR")
    }
    table = method_table([drawn[one.id] for one in rows], classes, asked.style)
    grades = fundus_figure([drawn[one.id] for one in cells], classes, asked.style)
    return (
        save_picture(table, place / "clear_table.png"),
        save_picture(grades, place / "clear_grades.png"),
        _listed(rows, cells, classes, place / "clear_cases.csv"),
    )


def _check(folder: RunFolder, classifier: TrainedClassifier) -> None:
    if classifier.card.config.backbone.axes == 3:
        raise LesioncamError(
            f"{folder.root} is a run on volumes; the figures of CLEAR are pictures. Its maps are drawn by lesioncam "
            "predict --map clear, slice by slice."
        )
    if len(classifier.classes) < 2:
        raise LesioncamError(
            f"{folder.root} knows {classifier.classes[0]!r} only; CLEAR says which of several classes responds. "
            "Its heat maps are drawn by lesioncam predict."
        )


def _select(known: Sequence[_Chosen], classes: int, count: int) -> tuple[list[_Chosen], list[_Chosen]]:
    """The rows of the table, right ones before wrong ones, and the cells of the figure, one of each class and kind."""
    rows = [one for right in (True, False) for one in _middle([k for k in known if k.correct == right], count)]
    cells = [
        one
        for truth in range(classes)
        for right in (True, False)
        for one in _middle([k for k in known if k.truth == truth and k.correct == right], 1)
    ]
    return rows, cells


def _judged(folder: RunFolder, classes: Sequence[str], split: str) -> list[_Chosen]:
    """The images of exactly one known positive class, and what the network said."""
    path = folder.evaluation(split) / "cases.csv"
    if not path.is_file():
        raise RunError(f"{folder.root} was not evaluated on {split}; lesioncam evaluate {folder.root} --split {split}.")
    table = pd.read_csv(path, usecols=["image", "class", "label", "probability"], dtype={"image": str}).dropna(
        subset="probability"
    )
    labels = table.pivot_table(index="image", columns="class", values="label")[list(classes)]
    scores = table.pivot_table(index="image", columns="class", values="probability").loc[labels.index, list(classes)]
    found = []
    for name, label, score in zip(labels.index, labels.to_numpy(), scores.to_numpy(), strict=True):
        if (label == 1).sum() == 1:
            truth, said = int((label == 1).argmax()), int(score.argmax())
            found.append(_Chosen(str(name), truth, truth == said, float(score[said]), score))
    if not found:
        raise LesioncamError(f"{path}: no image has exactly one positive class of {', '.join(classes)}.")
    return found


def _middle(cases: Sequence[_Chosen], count: int) -> list[_Chosen]:
    """The cases next to the median confidence, as many as asked, the most confident first."""
    ranked = sorted(cases, key=lambda one: (one.confidence, one.id))
    first = max(0, (len(ranked) - count) // 2)
    return ranked[first : first + count][::-1]


def _case(classifier: TrainedClassifier, record: Record, one: _Chosen, asked: ClearAsked) -> ClearCase:
    exam = exam_of(record)
    found = explain_samples(classifier, [classifier.preprocess(exam.picture)], "clear", {"rule": asked.rule})[0]
    responses = torch.from_numpy(np.maximum(found.heatmap.native(), 0))[None]
    weights = torch.from_numpy(softmax(found.logits))[None]
    which, strength = dominant(class_scale(responses, weights, asked.class_scale))
    [seen] = look(ClassifierSubject(classifier), [exam], threshold="default")
    heat = seen.result.heatmap.of_class(int(one.probabilities.argmax())).unit()[0]
    shown = display_image(exam.pixels)
    name = Path(record.image.partition("#")[0]).name
    return ClearCase(name, shown, one.truth, one.probabilities, which[0].numpy(), strength[0].numpy(), heat)


def _listed(rows: Sequence[_Chosen], cells: Sequence[_Chosen], classes: Sequence[str], path: Path) -> Path:
    """Which images are drawn where."""
    frame = pd.DataFrame(
        {
            "figure": figure,
            "image": one.id,
            "truth": classes[one.truth],
            "predicted": classes[int(one.probabilities.argmax())],
            "probability": round(one.confidence, 6),
        }
        for figure, part in (("clear_table.png", rows), ("clear_grades.png", cells))
        for one in part
    )
    return write_csv(path, frame)
