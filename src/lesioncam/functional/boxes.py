"""Boxes: half-open, native pixels, ``x0 y0 x1 y1`` in 2D and ``x0 y0 z0 x1 y1 z1`` in 3D; width is ``x1 - x0``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from lesioncam.functional.segmentation import components
from lesioncam.types import Component

__all__ = ["box_iou", "component_boxes", "inside_boxes"]

NAN = float("nan")


def component_boxes(mask: np.ndarray, scores: np.ndarray | None = None) -> list[Component]:
    """The connected regions of a mask (diagonals connect), largest first; equal sizes in scanning order.

    Args:
        mask: ``(*S)`` bool, 2D or 3D.
        scores: ``(*S)``, where ``peak`` is read; without it ``peak`` is NaN.

    Returns:
        One `Component` per region: half-open integer box, size in pixels, largest score inside.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[1:3, 2:5] = True                       # 3 wide, 2 high
        >>> component_boxes(mask)
        [Component(box=(2, 1, 5, 3), area=6, peak=nan)]
    """
    labels = components(mask)
    places = ndimage.find_objects(labels)
    if not places:
        return []
    inside = [labels[place] == i for i, place in enumerate(places, start=1)]
    parts = [
        Component(
            _box(place), int(np.count_nonzero(own)), float(scores[place][own].max()) if scores is not None else NAN
        )
        for place, own in zip(places, inside, strict=True)
    ]
    return sorted(parts, key=lambda part: -part.area)


def box_iou(a: np.ndarray | Sequence[Sequence[float]], b: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    r"""Intersection over union of every box of one list with every box of another.

    .. math:: \mathrm{IoU} = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}

    Args:
        a: ``(m, 4)`` or ``(m, 6)``, half-open, may be fractional.
        b: ``(n, 4)`` or ``(n, 6)``.

    Returns:
        ``(m, n)`` float64 in [0, 1]; two empty boxes give 0.

    Raises:
        ValueError: if boxes of 2D and 3D are mixed.

    Example:
        >>> box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [2, 0, 4, 2]])
        array([[0.33333333, 0.        ]])
    """
    first, second = _as_boxes(a), _as_boxes(b)
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"boxes with {first.shape[1]} and {second.shape[1]} numbers cannot be compared; 2D has 4, 3D has 6."
        )
    axes = first.shape[1] // 2
    low = np.maximum(first[:, None, :axes], second[None, :, :axes])
    high = np.minimum(first[:, None, axes:], second[None, :, axes:])
    both = np.prod(np.maximum(high - low, 0.0), axis=-1)
    union = _area(first)[:, None] + _area(second)[None] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def inside_boxes(point: Sequence[int], boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Whether the centre of a pixel lies in each box.

    Args:
        point: index of the pixel in array order, ``(y, x)`` or ``(z, y, x)``.
        boxes: ``(m, 4)`` or ``(m, 6)``.

    Returns:
        ``(m,)`` bool.

    Example:
        >>> inside_boxes((2, 4), [[2, 1, 5, 3], [2, 1, 4, 3]])
        array([ True, False])
    """
    table = _as_boxes(boxes)
    axes = len(point)
    centre = np.asarray(point, dtype=float)[::-1] + 0.5
    return np.asarray(((table[:, :axes] <= centre) & (centre < table[:, axes:])).all(axis=1))


def _box(place: tuple[slice, ...]) -> tuple[int, ...]:
    return (*(int(s.start) for s in reversed(place)), *(int(s.stop) for s in reversed(place)))


def _area(boxes: np.ndarray) -> np.ndarray:
    axes = boxes.shape[1] // 2
    return np.asarray(np.prod(np.maximum(boxes[:, axes:] - boxes[:, :axes], 0.0), axis=-1))


def _as_boxes(boxes: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    table = np.asarray(boxes, dtype=np.float64)
    return table if table.ndim == 2 else table.reshape(0, 4)
