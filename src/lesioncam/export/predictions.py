"""What ``predict`` leaves behind: predictions.csv, maps, masks, overlays, crops; a broken image is listed, not fatal.

Of a volume, maps and masks are NIfTI files on the grid of the file they belong to, boxes are in its voxels
``[i0, j0, k0, i1, j1, k1]``; overlays show one slice, which the column ``slice`` names, crops that of each peak.

Maps without a calibrated scale (a method the run has no thresholds for) are shown on their own range, which every file
says: ``unit`` in place of ``probability``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesioncam.data.io.nifti import stem_of
from lesioncam.errors import ImageError, LesioncamError, OptionError, RunError
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.export import crops
from lesioncam.export.predicted_image import PredictedImage, gated_masks, safe_name
from lesioncam.export.writers import WRITERS
from lesioncam.files import write_csv, write_json
from lesioncam.inference.ensemble import Ensemble
from lesioncam.inference.exam import open_exam
from lesioncam.inference.look import Look
from lesioncam.inference.stream import Failed, Way, stream
from lesioncam.lookup import find
from lesioncam.progress import Progress
from lesioncam.types import CaseResult, Exam

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Where predictions go and what is written.

    Attributes:
        out: folder.
        write: names of :data:`lesioncam.export.writers.WRITERS`.
        threshold: of the maps.
        overwrite: replace an earlier prediction.
        method: map method; None is the run's own.
        classes: which classes are drawn; empty draws all.
    """

    out: Path
    write: tuple[str, ...]
    threshold: str | float = "val"
    overwrite: bool = False
    method: str | None = None
    classes: tuple[str, ...] = ()


class _Item(NamedTuple):
    """What was given, and the stem of its files."""

    image: str | Path | np.ndarray
    name: str

    @property
    def label(self) -> str:
        return self.name if isinstance(self.image, np.ndarray) else str(self.image)

    def open(self) -> Exam:
        return open_exam(self.image, self.label)


class _Written(NamedTuple):
    """One result, with its rows of the tables."""

    result: CaseResult
    rows: list[dict[str, str | float]]
    crops: crops.Rows


def write_predictions(
    classifier: Ensemble, images: Sequence[str | Path | np.ndarray], asked: Prediction, progress: Progress
) -> list[CaseResult]:
    """Predict and write.

    A mask is drawn for the classes whose image score reaches its threshold; the others get an empty one, and their row
    in ``predictions.csv`` says ``positive = 0``.

    What several members or views made is said in ``members.json``.

    Raises:
        OptionError: for something that cannot be written.
        RunError: if the folder holds an earlier prediction, or a member has no thresholds.
        ImageError: if no image could be read; ``failed.csv`` says why for each.
    """
    _check(asked, classifier.classes)
    way = Way(classifier.simplest(), asked.threshold, asked.method)
    items = [_Item(image, name) for image, name in zip(images, _unique_names(images), strict=True)]
    written, failed = list[_Written](), list[Failed[_Item]]()
    for one in progress(stream(way, items, _Item.open, lambda *seen: _write(asked, *seen)), len(items), "predict"):
        if isinstance(one, Failed):
            logger.warning("%s", one.error)
            failed.append(one)
        else:
            written.append(one)
    _write_failed(asked.out / "failed.csv", failed)
    if not written:
        raise ImageError(f"none of the {len(images)} images could be used; {asked.out / 'failed.csv'} says why.")
    _write_members(asked.out / "members.json", classifier)
    _write_tables(asked.out, written)
    return [one.result for one in written]


def _check(asked: Prediction, classes: Sequence[str]) -> None:
    for name in asked.write:
        if name not in WRITERS:
            raise OptionError(f"Unknown output {name!r}. Available: {', '.join(WRITERS)}.")
    for label in asked.classes:
        find(label, dict.fromkeys(classes), "class")
    if asked.method is not None:
        find(asked.method, MAP_METHODS, "map method")
    if (asked.out / "predictions.csv").exists() and not asked.overwrite:
        raise RunError(f"{asked.out} holds an earlier prediction; replace it with --overwrite or choose another -o.")


def _write(asked: Prediction, item: _Item, looked: Look) -> _Written:
    """Everything of one image but the tables."""
    picture = looked.exam.picture
    picture = picture.as_volume() if looked.evidence.ndim == 4 else picture
    image = PredictedImage(looked.result, picture, looked.evidence, item.name, asked.classes)
    cropped = [row for kind in asked.write for row in WRITERS[kind](image, asked.out)]
    return _Written(looked.result, list(prediction_rows(image)), cropped)


# ---- tables ------------------------------------------------------------------------------------------------------


def prediction_rows(image: PredictedImage) -> Iterator[dict[str, str | float]]:
    """The rows of predictions.csv of one image, a class each."""
    result, masks = image.result, gated_masks(image.result)
    graded = {"expected_grade": round(result.expected_grade, 6)} if result.task == "ordinal" else {}
    for k, name in enumerate(result.classes):
        likeliest = {"predicted": int(k == result.probabilities.argmax()), **graded}
        threshold = result.segmentation.thresholds[k]
        yield {
            "image": result.id,
            "class": name,
            "probability": round(float(result.probabilities[k]), 6),
            **(likeliest if result.exclusive else {}),
            "positive": int(result.positive[k]),
            "threshold": float(result.decisions[k].value),
            "map_threshold": float(threshold.value),
            "map_source": threshold.source,
            "area": int(masks[k].sum()),
            "boxes": json.dumps([list(image.box(box)) for box in image.boxes(k)]),
            **image.shown(k),
            "map": result.heatmap.method,
            "map_scale": image.scale,
        }


def _write_tables(out: Path, written: Sequence[_Written]) -> None:
    rows, cropped = [row for one in written for row in one.rows], [row for one in written for row in one.crops]
    _write_csv(out / "crops.csv", cropped, crops.COLUMNS)
    _write_csv(out / "predictions.csv", rows, list(rows[0]))


def _write_failed(path: Path, failed: Sequence[Failed[_Item]]) -> None:
    rows = [{"image": one.item.label, "reason": str(one.error)} for one in failed]
    _write_csv(path, rows, ["image", "reason"])


def _write_members(path: Path, classifier: Ensemble) -> None:
    """One member without views says nothing that its run does not say."""
    if classifier.plain:
        path.unlink(missing_ok=True)
    else:
        write_json(path, classifier.describe())


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    frame = pd.DataFrame(rows, columns=list(columns))
    try:
        write_csv(path, frame)
    except OSError as error:
        raise LesioncamError(f"{path} cannot be written: {error.strerror}.") from error


# ---- names -------------------------------------------------------------------------------------------------------


def _unique_names(images: Sequence[str | Path | np.ndarray]) -> list[str]:
    """File names for outputs: the image's own stem, its folder before it where two would collide."""
    paths = [Path(f"image{i:04d}") if isinstance(image, np.ndarray) else Path(image) for i, image in enumerate(images)]
    stems = [safe_name(path.name if "#" in path.name else stem_of(path)) for path in paths]
    names: list[str] = []
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else safe_name(f"{path.parent.name}_{path.name}")
        tries = 2
        while name in names:
            name, tries = f"{stem}-{tries}", tries + 1
        names.append(name)
    return names
