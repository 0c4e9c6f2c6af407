"""Which slice of a volume is shown where only a picture will do, and everything of that slice.

Slices are cut as the scanner cut them: across the axis with the thickest ones, across the body where all are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_THICK = 1.5
"""An axis counts as that of the slices where its voxels are so much longer than along the body."""


class Slice(NamedTuple):
    """A slice of an array ``(D, H, W)``.

    Attributes:
        axis: it is cut across: 0 axial, 1 coronal, 2 sagittal.
        place: its number.
        why: ``largest lesion``, ``largest predicted region`` or ``highest response``.
    """

    axis: int
    place: int
    why: str = ""


def shown_slice(
    evidence: np.ndarray,
    mask: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
) -> Slice:
    """The slice with most of the true lesion, else with most of the mask, else with the highest response.

    Args:
        evidence: ``(D, H, W)``, any unit.
        mask: predicted, ``(D, H, W)`` bool.
        truth: ``(D, H, W)`` bool.
        spacing: mm per axis.

    Returns:
        The first of equals.

    Example:
        >>> evidence = np.zeros((4, 2, 2))
        >>> evidence[2, 0, 1] = 1.0
        >>> shown_slice(evidence), shown_slice(evidence, truth=np.arange(4)[:, None, None] == np.full((4, 2, 2), 1))
        (Slice(axis=0, place=2, why='highest response'), Slice(axis=0, place=1, why='largest lesion'))
        >>> shown_slice(evidence, spacing=(1.0, 1.0, 5.0))
        Slice(axis=2, place=1, why='highest response')
    """
    axis = 0
    if spacing is not None and max(spacing) >= _THICK * spacing[0]:
        axis = int(np.argmax(spacing))
    others = tuple(a for a in range(3) if a != axis)
    for part, why in ((truth, "largest lesion"), (mask, "largest predicted region")):
        if part is not None and np.any(part):
            return Slice(axis, int(np.count_nonzero(part, axis=others).argmax()), why)
    return Slice(axis, int(np.nan_to_num(evidence, nan=-np.inf).max(axis=others).argmax()), "highest response")


def picture(volume: np.ndarray, cut: Slice) -> np.ndarray:
    """A slice of ``(..., D, H, W)`` as a picture ``(..., rows, columns)``, the head up.

    Example:
        >>> picture(np.arange(8).reshape(2, 2, 2), Slice(2, 1)).tolist()
        [[5, 7], [1, 3]]
    """
    plane = np.take(volume, cut.place, axis=cut.axis - 3)
    return plane if cut.axis == 0 else plane[..., ::-1, :]


def boxes_in(boxes: Iterable[Sequence[float]], cut: Slice, slices: int) -> list[tuple[float, ...]]:
    """Those of boxes ``(x0, y0, z0, x1, y1, z1)`` that a slice cuts, as ``(x0, y0, x1, y1)`` of its picture.

    Args:
        boxes: half-open, voxels of the array.
        cut: the slice.
        slices: D of the array.

    Example:
        >>> boxes_in([(1, 2, 0, 3, 4, 2), (0, 0, 2, 9, 9, 9)], Slice(0, 1), slices=10)
        [(1, 2, 3, 4)]
        >>> boxes_in([(1, 2, 0, 3, 4, 2)], Slice(2, 1), slices=10)      # columns are y, rows are z from the head down
        [(2, 8, 4, 10)]
    """
    across = 2 - cut.axis
    found: list[tuple[float, ...]] = []
    for box in boxes:
        if len(box) == 6 and box[across] <= cut.place < box[across + 3]:
            x0, y0, z0, x1, y1, z1 = box
            if cut.axis == 0:
                found.append((x0, y0, x1, y1))
            else:
                left, right = (x0, x1) if cut.axis == 1 else (y0, y1)
                found.append((left, slices - z1, right, slices - z0))
    return found
