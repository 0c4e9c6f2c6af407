"""What ``predict`` leaves behind: predictions.csv, maps, masks, overlays; a broken image is listed, the rest go on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lesioncam.data.io import read_image
from lesioncam.data.preprocess import display_image
from lesioncam.errors import ImageError, LesioncamError, OptionError, RunError
from lesioncam.files import write_with
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.pipeline.case import analyse
from lesioncam.pipeline.part import Progress
from lesioncam.reporting.overlay import overlay
from lesioncam.types import CaseResult

__all__ = ["WRITERS", "Prediction", "write_predictions"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Where predictions go and what is written."""

    out: Path
    write: tuple[str, ...]
    threshold: str | float = "val"
    overwrite: bool = False


def write_predictions(
    classifier: TrainedClassifier, images: Sequence[str | Path | np.ndarray], asked: Prediction, progress: Progress
) -> list[CaseResult]:
    """Predict and write.

    A mask is drawn for the classes whose image score reaches its threshold; the others get an empty one, and their row
    in ``predictions.csv`` says ``positive = 0``.

    Raises:
        OptionError: for something that cannot be written.
        RunError: if the folder holds an earlier prediction.
        ImageError: if no image could be read; ``failed.csv`` says why for each.
    """
    for name in asked.write:
        if name not in WRITERS:
            raise OptionError(f"Unknown output {name!r}. Available: {', '.join(WRITERS)}.")
    if (asked.out / "predictions.csv").exists() and not asked.overwrite:
        raise RunError(f"{asked.out} holds an earlier prediction; replace it with --overwrite or choose another -o.")
    names = _unique_names(images)
    results, rows, failed = [], list[dict[str, Any]](), list[dict[str, str]]()
    for image, name in progress(iter(zip(images, names, strict=True)), len(images), "predict"):
        label = name if isinstance(image, np.ndarray) else str(image)
        try:
            result = analyse(classifier, image, name=label, threshold=asked.threshold)
        except ImageError as error:
            logger.warning("%s", error)
            failed.append({"image": label, "reason": str(error)})
            continue
        pixels = image if isinstance(image, np.ndarray) else read_image(str(image))
        for kind in asked.write:
            WRITERS[kind](result, pixels, asked.out, name)
        rows += list(_rows(result))
        results.append(result)
    _write_csv(asked.out / "failed.csv", failed, ["image", "reason"])
    if not results:
        raise ImageError(f"none of the {len(images)} images could be used; {asked.out / 'failed.csv'} says why.")
    _write_csv(asked.out / "predictions.csv", rows, list(rows[0]))
    return results


def gated_masks(result: CaseResult) -> np.ndarray:
    """Masks of the classes that are positive at their operating point; empty for the others, ``(K, *native)`` bool."""
    keep = np.array(result.positive).reshape(-1, *(1,) * (result.segmentation.masks.ndim - 1))
    return np.asarray(result.segmentation.masks & keep)


def _rows(result: CaseResult) -> Iterator[dict[str, Any]]:
    masks = gated_masks(result)
    for k, name in enumerate(result.classes):
        found = result.segmentation.boxes(name) if result.positive[k] else []
        yield {
            "image": result.id,
            "class": name,
            "probability": round(float(result.probabilities[k]), 6),
            "positive": int(result.positive[k]),
            "threshold": float(result.decisions[k].value),
            "map_threshold": float(result.segmentation.thresholds[k].value),
            "area": int(masks[k].sum()),
            "boxes": json.dumps([list(box) for box in found]),
        }


def _write_maps(result: CaseResult, _pixels: np.ndarray, out: Path, name: str) -> None:
    """Raw evidence at the network's resolution and the probability map in the file's own pixels."""
    content: dict[str, Any] = {
        "probability": result.heatmap.probability().astype(np.float16),
        "raw": result.heatmap.raw,
        "classes": np.array(result.classes),
        "method": np.array(result.heatmap.method),
    }
    write_with(out / "maps" / f"{name}.npz", lambda p: np.savez_compressed(p, **content))


def _write_masks(result: CaseResult, _pixels: np.ndarray, out: Path, name: str) -> None:
    for k, mask in enumerate(gated_masks(result)):
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        write_with(out / "masks" / f"{name}_{_safe(result.classes[k])}.png", picture.save)


def _write_overlays(result: CaseResult, pixels: np.ndarray, out: Path, name: str) -> None:
    shown, probability, masks = display_image(pixels), result.heatmap.probability(), gated_masks(result)
    for k, label in enumerate(result.classes):
        boxes = result.segmentation.boxes(label) if result.positive[k] else []
        drawn = overlay(shown, probability[k], mask=masks[k], boxes=boxes)
        write_with(out / "overlays" / f"{name}_{_safe(label)}.png", Image.fromarray(drawn).save)


def _in_table(_result: CaseResult, _pixels: np.ndarray, _out: Path, _name: str) -> None:
    """Boxes stand in predictions.csv, asked for or not."""


WRITERS = {"maps": _write_maps, "boxes": _in_table, "masks": _write_masks, "overlay": _write_overlays}
"""What can be written, by name."""


def _unique_names(images: Sequence[str | Path | np.ndarray]) -> list[str]:
    """File names for outputs: the image's own stem, its folder before it where two would collide."""
    paths = [Path(f"image{i:04d}") if isinstance(image, np.ndarray) else Path(image) for i, image in enumerate(images)]
    stems = [
        _safe(path.name.replace("#", "_").removesuffix(path.suffix) if "#" not in path.name else path.name)
        for path in paths
    ]
    names: list[str] = []
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else _safe(f"{path.parent.name}_{path.name}")
        tries = 2
        while name in names:
            name, tries = f"{stem}-{tries}", tries + 1
        names.append(name)
    return names


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)


def _write_csv(path: Path, rows: Sequence[Any], columns: list[str]) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    frame = pd.DataFrame(rows, columns=columns)
    try:
        write_with(path, lambda p: frame.to_csv(p, index=False, lineterminator="\n"))
    except OSError as error:
        raise LesioncamError(f"{path} cannot be written: {error.strerror}.") from error
