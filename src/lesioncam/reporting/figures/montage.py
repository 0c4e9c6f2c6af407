"""Pictures of single cases from a run folder: the four panels of the gallery, and the row of the README."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lesioncam.errors import RunError
from lesioncam.files import write_with
from lesioncam.functional.overlay import PREDICTED, TRUTH, color_bar, heat_layer, line_layer, shrink
from lesioncam.functional.slices import boxes_in
from lesioncam.reporting.report.read import Case, read_run
from lesioncam.runs.arrays import CaseArrays

__all__ = ["HEAT", "Panel", "Row", "data_uri", "montage_row", "read_row", "readme_row"]

REPORT_SIDE, LINE_SIDE = 384, 512
"""Longest side of an image in the report, and the side from which on lines are drawn, pixels."""
SIDE = 2.05
"""Inches of one panel of the README picture."""
HEAT = "Heat map"
TITLES = ("Image", HEAT, "Predicted boxes", "Predicted and true mask")


@dataclass(frozen=True)
class Panel:
    """What is painted over the image, (H, W, 4), with its title and the words for those who do not see it."""

    title: str
    layer: np.ndarray
    note: str


@dataclass(frozen=True)
class Row:
    """One image ``(H, W[, 3])`` and the panels painted over it; colour turns grey under a heat map."""

    image: np.ndarray
    panels: tuple[Panel, ...]

    @property
    def pictures(self) -> list[np.ndarray]:
        """Every panel over its image, ``(H, W, 3)`` uint8 each."""
        return [_composed(self.image, panel) for panel in self.panels]


def read_row(case: Case) -> Row | None:
    """Image, heat map, boxes, masks of one gallery case, all on the one colour scale; None if no arrays were kept."""
    if case.arrays is None:
        return None
    arrays = CaseArrays.read(case.arrays)
    layers = _layers(arrays, case.label)
    boxes = _boxes(case.row.get("boxes", ""))
    if arrays.picture is not None and arrays.picture.slice is not None:  # of a volume
        boxes = [list(box) for box in boxes_in(boxes, arrays.picture.slice, arrays.geometry.native[0])]
    return montage_row(_small(layers), _scaled(boxes, layers["image"].shape))


def montage_row(layers: Mapping[str, Any], boxes: Sequence[Sequence[float]]) -> Row:
    """The four panels of one image and class.

    Args:
        layers: ``image`` (H, W[, 3]) uint8, ``probability`` (H, W), ``mask`` (H, W) bool, ``truth`` (H, W)
            bool or None.
        boxes: predicted, half-open, in pixels of the image.

    Example:
        >>> grey, nothing = np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool)
        >>> row = montage_row({"image": grey, "probability": nothing * 0.0, "mask": nothing, "truth": None}, [])
        >>> [panel.note for panel in row.panels]
        ['', 'hottest 0.00', 'no box', 'no predicted mask; true mask not known']
    """
    image, mask, truth = layers["image"], layers["mask"], layers["truth"]
    shape = image.shape[:2]
    zoom = -(-LINE_SIDE // max(shape))
    painted = (
        np.zeros((*shape, 4), np.uint8),
        heat_layer(layers["probability"]),
        line_layer(shape, boxes=boxes, zoom=zoom),
        line_layer(shape, mask, truth, zoom=zoom),
    )
    hottest = float(np.nanmax(layers["probability"], initial=0.0))
    notes = ("", f"hottest {hottest:.2f}", _box_note(len(boxes)), _mask_note(mask, truth))
    return Row(image, tuple(Panel(*each) for each in zip(TITLES, painted, notes, strict=True)))


def readme_row(run: Path, out: Path, split: str = "test") -> Path:
    """One PNG for a README: a typical case of each class and a healthy one, which must look cold.

    Args:
        run: run folder.
        out: the PNG to write.
        split: which evaluation; its gallery arrays are used.

    Raises:
        RunError: if that split was not evaluated or kept no pictures.
    """
    evaluations = {evaluation.split: evaluation for evaluation in read_run(run).evaluations}
    if split not in evaluations or not (chosen := _typical(evaluations[split].gallery)):
        raise RunError(f"{run} has no gallery of {split!r}; run `lesioncam evaluate {run} --split {split}` first.")
    picture = _draw_rows(chosen)
    return write_with(out, lambda path: Image.fromarray(picture).save(path, "PNG", optimize=True))


def data_uri(pixels: np.ndarray) -> str:
    """A picture, grey, colour or with transparency, as text that stands in the page itself."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _layers(arrays: CaseArrays, label: str) -> dict[str, Any]:
    if label not in arrays.classes:
        held = ", ".join(arrays.classes)
        raise RunError(f"the gallery shows class {label!r}, but its arrays hold {held}; evaluate again.")
    shown = arrays.map_of(label)
    if arrays.picture is None or shown is None:
        raise RunError(f"the gallery shows class {label!r}, but its map was not kept; evaluate again.")
    return {
        "image": arrays.picture.image,
        "probability": shown,
        "mask": arrays.picture.masks[arrays.classes.index(label)].astype(bool),
        "truth": arrays.truth_of(label),
    }


def _small(layers: Mapping[str, Any]) -> dict[str, Any]:
    planes = {name: layers[name] for name in ("probability", "mask", "truth") if layers[name] is not None}
    small = {name: shrink(plane[None], REPORT_SIDE)[0] for name, plane in planes.items()}
    return {"truth": None, **small, "image": shrink(layers["image"], REPORT_SIDE)}


def _boxes(text: Any) -> list[list[float]]:
    """Boxes of a cell of cases.csv: a JSON list of four numbers each, or of ``{"box": [...]}``."""
    try:
        found = json.loads(str(text) or "[]")
    except json.JSONDecodeError:
        return []
    if not isinstance(found, list):
        return []
    return [list(map(float, one["box"] if isinstance(one, dict) else one)) for one in found]


def _scaled(boxes: list[list[float]], shape: Sequence[int]) -> list[list[float]]:
    scale = min(1.0, REPORT_SIDE / max(shape[:2]))
    return [[value * scale for value in box] for box in boxes]


def _composed(image: np.ndarray, panel: Panel) -> np.ndarray:
    layer = Image.fromarray(panel.layer)
    below = Image.fromarray(image)
    below = below.convert("L") if panel.title == HEAT else below
    below = below.convert("RGBA").resize(layer.size, Image.Resampling.BICUBIC)
    return np.asarray(Image.alpha_composite(below, layer).convert("RGB"))


def _box_note(count: int) -> str:
    return {0: "no box", 1: "1 box"}.get(count, f"{count} boxes")


def _mask_note(mask: np.ndarray, truth: np.ndarray | None) -> str:
    said = "predicted (solid)" if mask.any() else "no predicted mask"
    if truth is None:
        return f"{said}; true mask not known"
    return f"{said}, true (dashed)" if truth.any() else f"{said}; truth: no such lesion"


def _typical(gallery: Sequence[Case]) -> list[Case]:
    """The median case of every class (else its best), at most two, then one healthy image."""
    found: dict[str, Case] = {}
    for group in ("median", "best", "worst", "missed"):
        for case in gallery:
            if case.group == group and case.arrays is not None:
                found.setdefault(case.label, case)
    healthy = [case for case in gallery if case.group == "healthy" and case.arrays is not None]
    return [*list(found.values())[:2], *healthy[:1]]


def _draw_rows(cases: Sequence[Case]) -> np.ndarray:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in map(read_row, cases) if row is not None]
    tallest = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    height, below = SIDE * tallest * len(cases) + 0.3, 0.75
    with rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(SIDE * len(TITLES) + 0.35, height + below), dpi=110, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        grid = figure.subplots(len(cases), len(TITLES), squeeze=False)
        for line, case, row in zip(grid, cases, rows, strict=True):
            _draw_row(line, row)
            line[0].set_ylabel("healthy" if case.group == "healthy" else case.label)
        for axes, title in zip(grid[0], TITLES, strict=True):
            axes.set_title(title, fontsize=9)
        bottom, top = below / (height + below), 1 - 0.27 / (height + below)
        figure.subplots_adjust(left=0.04, right=0.998, top=top, bottom=bottom, wspace=0.03, hspace=0.03)
        _draw_legend(figure, height + below)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_row(line: Sequence[Any], row: Row) -> None:
    for axes, picture in zip(line, row.pictures, strict=True):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])


def _draw_legend(figure: Any, height: float) -> None:
    bar = figure.add_axes((0.04, 0.48 / height, 0.36, 0.14 / height))
    bar.imshow(color_bar(), extent=(0, 1, 0, 1), aspect="auto")
    bar.set(yticks=[], xlabel="probability of the finding, one scale for all")
    lines = figure.add_axes((0.47, 0.08 / height, 0.53, 0.54 / height), xlim=(0, 1), ylim=(0, 1))
    lines.axis("off")
    for y, color, style, words in ((0.8, PREDICTED, "-", "predicted"), (0.25, TRUTH, "--", "true mask")):
        lines.plot([0, 0.09], [y, y], color="black", linewidth=4)
        lines.plot([0, 0.09], [y, y], color=np.array(color) / 255, linestyle=style, linewidth=2)
        lines.text(0.11, y, words, va="center")
