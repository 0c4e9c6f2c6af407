"""Pictures of single cases from a run folder: the four panels of the gallery."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from lesioncam.errors import RunError
from lesioncam.functional.overlay import heat_layer, line_layer, shrink
from lesioncam.functional.slices import boxes_in
from lesioncam.reporting.report.read import Case
from lesioncam.runs.arrays import CaseArrays

REPORT_SIDE, LINE_SIDE = 384, 512
"""Longest side of an image in the report, and the side from which on lines are drawn, pixels."""
HEAT = "Heat map"


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


def read_row(case: Case) -> Row | None:
    """Image, heat map, boxes, masks of one gallery case, all on the one colour scale; None if no arrays were kept.

    Raises:
        RunError: if the arrays lack the class that the gallery shows.
    """
    if case.arrays is None:
        return None
    arrays = CaseArrays.read(case.arrays)
    shown = arrays.map_of(case.label) if case.label in arrays.classes else None
    if arrays.picture is None or shown is None:
        held = ", ".join(arrays.classes if arrays.picture is None else arrays.picture.shown)
        raise RunError(f"the gallery shows class {case.label!r}, but its arrays hold maps of {held}; evaluate again.")
    image, cut = arrays.picture.image, arrays.picture.slice
    mask, truth = arrays.picture.masks[arrays.classes.index(case.label)].astype(bool), arrays.truth_of(case.label)
    boxes = _boxes(str(case.row.get("boxes", "")))
    if cut is not None:  # of a volume
        boxes = [list(box) for box in boxes_in(boxes, cut, arrays.geometry.native[0])]
    scale = min(1.0, REPORT_SIDE / max(image.shape[:2]))
    boxes = [[value * scale for value in box] for box in boxes]
    return montage_row(shrink(image, REPORT_SIDE), _small(shown), _small(mask), _small(truth), boxes)


def montage_row(
    image: np.ndarray,
    probability: np.ndarray,
    mask: np.ndarray,
    truth: np.ndarray | None,
    boxes: Sequence[Sequence[float]],
) -> Row:
    """The four panels of one image and class.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        probability: ``(H, W)``.
        mask: ``(H, W)`` bool.
        truth: ``(H, W)`` bool; None is not known.
        boxes: predicted, half-open, in pixels of the image.

    Example:
        >>> grey, nothing = np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool)
        >>> [panel.note for panel in montage_row(grey, nothing * 0.0, nothing, None, []).panels]
        ['', 'hottest 0.00', 'no box', 'no predicted mask; true mask not known']
    """
    shape = image.shape[:2]
    zoom = -(-LINE_SIDE // max(shape))
    hottest = float(np.nanmax(probability, initial=0.0))
    return Row(
        image,
        (
            Panel("Image", np.zeros((*shape, 4), np.uint8), ""),
            Panel(HEAT, heat_layer(probability), f"hottest {hottest:.2f}"),
            Panel("Predicted boxes", line_layer(shape, boxes=boxes, zoom=zoom), _box_note(len(boxes))),
            Panel("Predicted and true mask", line_layer(shape, mask, truth, zoom=zoom), _mask_note(mask, truth)),
        ),
    )


@overload
def _small(plane: np.ndarray) -> np.ndarray: ...
@overload
def _small(plane: None) -> None: ...
def _small(plane: np.ndarray | None) -> np.ndarray | None:
    return None if plane is None else shrink(plane[None], REPORT_SIDE)[0]


def _boxes(text: str) -> list[list[float]]:
    """Boxes of a cell of cases.csv: a JSON list of four numbers each, or of ``{"box": [...]}``."""
    try:
        found = json.loads(text or "[]")
    except json.JSONDecodeError:
        return []
    if not isinstance(found, list):
        return []
    return [list(map(float, one["box"] if isinstance(one, dict) else one)) for one in found]


def _box_note(count: int) -> str:
    return {0: "no box", 1: "1 box"}.get(count, f"{count} boxes")


def _mask_note(mask: np.ndarray, truth: np.ndarray | None) -> str:
    said = "predicted (solid)" if mask.any() else "no predicted mask"
    if truth is None:
        return f"{said}; true mask not known"
    return f"{said}, true (dashed)" if truth.any() else f"{said}; truth: no such lesion"
