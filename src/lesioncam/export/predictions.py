"""What ``predict`` leaves behind: predictions.csv, maps, masks, overlays, crops; a broken image is listed, not fatal.

Of a volume, maps and masks are NIfTI files on the grid of the file they belong to, boxes are in its voxels
``[i0, j0, k0, i1, j1, k1]``; overlays show one slice, which the column ``slice`` names, crops that of each peak.

Maps without a calibrated scale (a method the run has no thresholds for) are shown on their own range, which every file
says: ``unit`` in place of ``probability``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from lesioncam.data.io.nifti import VolumeGrid, as_volume, save_nifti, stem_of
from lesioncam.data.preprocess import display_image
from lesioncam.errors import ImageError, LesioncamError, OptionError, RunError
from lesioncam.explanation.cam import METHODS
from lesioncam.files import write_json, write_with
from lesioncam.functional.overlay import overlay
from lesioncam.functional.slices import Slice, boxes_in, picture, shown_slice
from lesioncam.inference.ensemble import Ensemble
from lesioncam.inference.exam import open_exam
from lesioncam.inference.look import Look
from lesioncam.inference.scale import shown_scale
from lesioncam.inference.stream import Failed, Way, stream
from lesioncam.lookup import find
from lesioncam.progress import Progress
from lesioncam.segmentation.crops import Crop, hottest, square_crop
from lesioncam.types import CaseResult, Component, Exam

__all__ = ["WRITERS", "Prediction", "write_predictions"]

logger = logging.getLogger(__name__)


CROPS, CROP_SIZE = 3, 256
"""So many crops of each class at most, and their side in pixels."""


@dataclass(frozen=True)
class Prediction:
    """Where predictions go and what is written.

    Attributes:
        out: folder.
        write: names of `WRITERS`.
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


@dataclass(frozen=True)
class Drawn:
    """One result on its way to the disk.

    Attributes:
        result: of the image.
        pixels: of the file.
        evidence: raw maps on the image's own grid, ``(K, *native)``.
        name: stem of all its files.
        named: classes the user asked for by name; empty: all.
    """

    result: CaseResult
    pixels: np.ndarray
    evidence: np.ndarray
    name: str
    named: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[int]:
        """Indices of the classes to draw."""
        return [k for k, label in enumerate(self.result.classes) if not self.named or label in self.named]

    @property
    def grid(self) -> VolumeGrid | None:
        """Of a volume, where its voxels lie in the file."""
        return as_volume(self.pixels).grid if self.evidence.ndim == 4 else None

    def slice(self, k: int) -> Slice | None:
        """Of a volume, the slice that is shown of a class: most of its mask, else the highest response."""
        if self.grid is None:
            return None
        return shown_slice(self.evidence[k], gated_masks(self.result)[k], spacing=self.grid.spacing)

    def shown(self, k: int) -> dict[str, str]:
        """The cell ``slice`` of a volume's row, in the numbers of its file; an image has none."""
        cut, grid = self.slice(k), self.grid
        return {} if cut is None or grid is None else {"slice": grid.slice_name(cut.axis, cut.place)}

    def box(self, box: Sequence[float]) -> tuple[int, ...]:
        """A box in the pixels or voxels of the file."""
        return tuple(map(int, box if self.grid is None else self.grid.box_to_file(box)))

    @property
    def scale(self) -> str:
        """What the maps are shown on: ``probability``, or ``unit``, each map's own range."""
        return "unit" if self.result.heatmap.calibration is None else "probability"

    @cached_property
    def maps(self) -> np.ndarray:
        """The maps on that scale, ``(K, *native)`` float32."""
        return shown_scale(self.result.heatmap, self.evidence).probability(self.evidence)


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
    for name in asked.write:
        if name not in WRITERS:
            raise OptionError(f"Unknown output {name!r}. Available: {', '.join(WRITERS)}.")
    for label in asked.classes:
        find(label, dict.fromkeys(classifier.classes), "class")
    if asked.method is not None:
        find(asked.method, METHODS, "map method")
    if (asked.out / "predictions.csv").exists() and not asked.overwrite:
        raise RunError(f"{asked.out} holds an earlier prediction; replace it with --overwrite or choose another -o.")
    written, failed = [], list[dict[str, str]]()
    way = Way(classifier.simplest(), asked.threshold, asked.method)
    items = [_Item(image, name) for image, name in zip(images, _unique_names(images), strict=True)]
    for one in progress(stream(way, items, _Item.open, lambda *seen: _write(asked, *seen)), len(items), "predict"):
        if isinstance(one, Failed):
            logger.warning("%s", one.error)
            failed.append({"image": one.item.label, "reason": str(one.error)})
        else:
            written.append(one)
    _write_csv(asked.out / "failed.csv", failed, ["image", "reason"])
    if not written:
        raise ImageError(f"none of the {len(images)} images could be used; {asked.out / 'failed.csv'} says why.")
    members = asked.out / "members.json"
    if classifier.plain:
        members.unlink(missing_ok=True)
    else:
        write_json(members, classifier.describe())
    rows, crops = [row for one in written for row in one.rows], [row for one in written for row in one.crops]
    _write_csv(asked.out / "crops.csv", crops, ["image", "class", "crop", "box", "region", "peak", "scale"])
    _write_csv(asked.out / "predictions.csv", rows, list(rows[0]))
    return [one.result for one in written]


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
    rows: list[dict[str, Any]]
    crops: list[dict[str, Any]]


def _write(asked: Prediction, item: _Item, looked: Look) -> _Written:
    """Everything of one image but the tables."""
    pixels = looked.exam.pixels
    pixels = as_volume(pixels) if looked.evidence.ndim == 4 else pixels
    drawn = Drawn(looked.result, pixels, looked.evidence, item.name, asked.classes)
    crops = [row for kind in asked.write for row in WRITERS[kind](drawn, asked.out)]
    return _Written(looked.result, list(_rows(drawn)), crops)


def gated_masks(result: CaseResult) -> np.ndarray:
    """Masks of the classes that are positive at their operating point; empty for the others, ``(K, *native)`` bool."""
    keep = np.array(result.positive).reshape(-1, *(1,) * (result.segmentation.masks.ndim - 1))
    return np.asarray(result.segmentation.masks & keep)


def _rows(drawn: Drawn) -> Iterator[dict[str, Any]]:
    result = drawn.result
    masks = gated_masks(result)
    graded = {"expected_grade": round(result.expected_grade, 6)} if result.task == "ordinal" else {}
    for k, name in enumerate(result.classes):
        found = result.segmentation.boxes(name) if result.positive[k] else []
        likeliest = {"predicted": int(k == result.probabilities.argmax()), **graded}
        yield {
            "image": result.id,
            "class": name,
            "probability": round(float(result.probabilities[k]), 6),
            **(likeliest if result.exclusive else {}),
            "positive": int(result.positive[k]),
            "threshold": float(result.decisions[k].value),
            "map_threshold": float(result.segmentation.thresholds[k].value),
            "map_source": result.segmentation.thresholds[k].source,
            "area": int(masks[k].sum()),
            "boxes": json.dumps([list(drawn.box(box)) for box in found]),
            **drawn.shown(k),
            "map": result.heatmap.method,
            "map_scale": drawn.scale,
        }


Rows = list[dict[str, Any]]


def _write_maps(drawn: Drawn, out: Path) -> Rows:
    """Raw evidence at its own resolution and the shown map in the file's own pixels."""
    heatmap, wanted = drawn.result.heatmap, drawn.wanted
    content: dict[str, Any] = {
        drawn.scale: drawn.maps[wanted].astype(np.float16),
        "raw": heatmap.raw[wanted],
        "classes": np.array([heatmap.classes[k] for k in wanted]),
        "method": np.array(heatmap.method),
        "layer": np.array(heatmap.layer),
    }
    if drawn.grid is not None:
        for k in wanted:
            place = out / "maps" / f"{drawn.name}_{_safe(heatmap.classes[k])}.nii.gz"
            save_nifti(place, drawn.maps[k].astype(np.float32), drawn.grid)
        return []
    write_with(out / "maps" / f"{drawn.name}.npz", lambda p: np.savez_compressed(p, **content))
    return []


def _write_masks(drawn: Drawn, out: Path) -> Rows:
    masks = gated_masks(drawn.result)
    for k in drawn.wanted:
        if drawn.grid is not None:
            place = out / "masks" / f"{drawn.name}_{_safe(drawn.result.classes[k])}.nii.gz"
            save_nifti(place, masks[k], drawn.grid)
            continue
        picture = Image.fromarray(masks[k].astype(np.uint8) * 255)
        write_with(out / "masks" / f"{drawn.name}_{_safe(drawn.result.classes[k])}.png", picture.save)
    return []


def _write_overlays(drawn: Drawn, out: Path) -> Rows:
    shown, masks = display_image(drawn.pixels), gated_masks(drawn.result)
    for k in drawn.wanted:
        label = drawn.result.classes[k]
        boxes: Sequence[Sequence[float]] = drawn.result.segmentation.boxes(label) if drawn.result.positive[k] else []
        image, heat, mask = shown, drawn.maps[k], masks[k]
        if (cut := drawn.slice(k)) is not None:
            boxes = boxes_in(boxes, cut, len(mask))
            image, heat, mask = (picture(each, cut) for each in (image, heat, mask))
        painted = overlay(image, heat, mask=mask, boxes=boxes)
        write_with(out / "overlays" / f"{drawn.name}_{_safe(label)}.png", Image.fromarray(painted).save)
    return []


def _write_crops(drawn: Drawn, out: Path) -> Rows:
    """Squares of the file's own pixels round the hottest regions of the classes that are positive or asked for."""
    rows, result = [], drawn.result
    for k in drawn.wanted:
        label = result.classes[k]
        parts = result.segmentation.components[k] if result.positive[k] or label in drawn.named else ()
        for i, part in enumerate(hottest(parts, CROPS)):
            crop = _crop(drawn, part)
            place = out / "crops" / f"{drawn.name}_{_safe(label)}_{i + 1}{_suffix(crop.pixels)}"
            write_with(place, _saver(crop.pixels))
            row = {"image": result.id, "class": label, "crop": place.name, "peak": round(crop.peak, 6)}
            rows.append(row | {"box": json.dumps(crop.box), "region": json.dumps(crop.region), "scale": drawn.scale})
    return rows


def _crop(drawn: Drawn, part: Component) -> Crop:
    """A square round a region; of a volume in the axial slice of its peak, boxes in the voxels of the file."""
    if drawn.grid is None:
        return square_crop(drawn.pixels, part, CROP_SIZE)
    d, *place = part.place
    x0, y0, _, x1, y1, _ = part.box
    flat = replace(part, box=(x0, y0, x1, y1), place=tuple(place))
    square = square_crop(np.asarray(drawn.pixels)[d, ..., 0], flat, CROP_SIZE)
    around = (*square.box[:2], d, *square.box[2:], d + 1)
    return replace(square, box=drawn.box(around), region=drawn.box(part.box))


def _suffix(pixels: np.ndarray) -> str:
    """PNG where it keeps the depth, otherwise TIFF."""
    return ".png" if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2) else ".tif"


def _saver(pixels: np.ndarray) -> Callable[[Path], object]:
    if _suffix(pixels) == ".png":
        return Image.fromarray(pixels).save
    import tifffile

    return lambda place: tifffile.imwrite(place, pixels)


def _in_table(_drawn: Drawn, _out: Path) -> Rows:
    """Boxes stand in predictions.csv, asked for or not."""
    return []


WRITERS: dict[str, Callable[[Drawn, Path], Rows]] = {
    "maps": _write_maps,
    "boxes": _in_table,
    "masks": _write_masks,
    "overlay": _write_overlays,
    "crops": _write_crops,
}
"""What can be written, by name; each returns its rows of crops.csv."""


def _unique_names(images: Sequence[str | Path | np.ndarray]) -> list[str]:
    """File names for outputs: the image's own stem, its folder before it where two would collide."""
    paths = [Path(f"image{i:04d}") if isinstance(image, np.ndarray) else Path(image) for i, image in enumerate(images)]
    stems = [_safe(path.name if "#" in path.name else stem_of(path)) for path in paths]
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
