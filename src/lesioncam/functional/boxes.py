"""Boxes: half-open, native pixels, ``x0 y0 x1 y1`` in 2D and ``x0 y0 z0 x1 y1 z1`` in 3D; width is ``x1 - x0``.

Other conventions are converted by name: `from_inclusive`, `to_inclusive`, `from_xywh`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lesioncam.errors import OptionError
from lesioncam.functional.segmentation import components
from lesioncam.types import Component

NAN = float("nan")

CONVENTIONS = ("half_open", "wsol")
"""How areas are computed; ``wsol`` takes every width and height one pixel larger, see `box_iou`."""

_MANY = 2000
"""Regions from which on a loop over them is slower than a walk over the pixels."""

Boxes = np.ndarray | Sequence[Sequence[float]]


class BoxOverlaps(NamedTuple):
    """Overlaps of m predicted with n true boxes, each ``(m, n)`` float64 in [0, 1]; 0 where the divisor is 0.

    Attributes:
        iou: intersection over union.
        iobb: intersection over the predicted box: 1 for a single pixel inside the truth, so never read it alone.
        iogt: intersection over the true box.
    """

    iou: np.ndarray
    iobb: np.ndarray
    iogt: np.ndarray


class Regions(NamedTuple):
    """The connected regions of a mask as arrays, largest first; equal sizes in scanning order.

    Attributes:
        boxes: ``(p, 4)`` or ``(p, 6)`` int64, half-open.
        areas: ``(p,)`` int64, pixels.
        peaks: ``(p,)`` float64, largest score; NaN without scores.
        places: ``(p,)`` int64, flat index of the first pixel with that score; -1 without scores.
    """

    boxes: np.ndarray
    areas: np.ndarray
    peaks: np.ndarray
    places: np.ndarray


def regions(mask: np.ndarray, scores: np.ndarray | None = None) -> Regions:
    """Boxes and sizes of the connected regions of a mask (diagonals connect), without a loop over them.

    Args:
        mask: ``(*S)`` bool, 2D or 3D; the work is in proportion to the frame of its pixels.
        scores: ``(*S)``, where peaks are read; NaN is left out.

    Example:
        >>> regions(np.array([[True, False, False], [False, False, True], [False, False, True]])).boxes
        array([[2, 1, 3, 3],
               [0, 0, 1, 1]])
    """
    drawn = np.asarray(mask, dtype=bool)
    frame = _frame(drawn)
    labels = components(drawn[frame])
    areas = np.bincount(labels.ravel())[1:]
    boxes = (_extents if len(areas) > _MANY else _slices)(labels) + np.tile([part.start for part in frame[::-1]], 2)
    peaks, places = np.full(len(areas), NAN), np.full(len(areas), -1)
    if scores is not None and len(areas):
        values = np.asarray(scores)[frame]
        pixels = np.flatnonzero(labels)
        inner = values.ravel()[pixels]
        one = len(areas) == 1
        peaks, places = _hottest(inner, pixels) if one else _peaks(labels.ravel()[pixels] - 1, inner, pixels)
        index = np.unravel_index(np.maximum(places, 0), labels.shape)
        inside = np.ravel_multi_index([i + part.start for i, part in zip(index, frame, strict=True)], drawn.shape)
        places = np.where(places >= 0, inside, -1)
    order = np.argsort(-areas, kind="stable")
    return Regions(boxes[order], areas[order], peaks[order], places[order])


def component_boxes(mask: np.ndarray, scores: np.ndarray | None = None) -> list[Component]:
    """The connected regions of a mask (diagonals connect), largest first; equal sizes in scanning order.

    Args:
        mask: ``(*S)`` bool, 2D or 3D.
        scores: ``(*S)``, where ``peak`` and ``place`` are read, NaN left out; without it ``peak`` is NaN.

    Returns:
        One `Component` per region: half-open integer box, size in pixels, largest score inside and where it is.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[1:3, 2:5] = True                       # 3 wide, 2 high
        >>> component_boxes(mask, mask * 0.5)
        [Component(box=(2, 1, 5, 3), area=6, peak=0.5, place=(1, 2))]
    """
    found, shape = regions(mask, scores), np.shape(mask)
    rows = zip(found.boxes.tolist(), found.areas.tolist(), found.peaks.tolist(), found.places.tolist(), strict=True)
    return [
        Component(tuple(box), area, peak, tuple(map(int, np.unravel_index(place, shape))) if place >= 0 else ())
        for box, area, peak, place in rows
    ]


def box_iou(a: Boxes, b: Boxes, convention: str = "half_open") -> np.ndarray:
    r"""Intersection over union of every box of one list with every box of another.

    .. math:: \mathrm{IoU} = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}

    Args:
        a: ``(m, 4)`` or ``(m, 6)``, half-open, may be fractional.
        b: ``(n, 4)`` or ``(n, 6)``.
        convention: ``half_open``; ``wsol`` adds one pixel to every width and height although the corners are
            exclusive, as wsolevaluation does: a perfect 3 x 3 box, given half-open against a truth given by its last
            pixels, scores 9/16. For parity with its published numbers only.

    Returns:
        ``(m, n)`` float64 in [0, 1]; two empty boxes give 0.

    Raises:
        ValueError: if boxes of 2D and 3D are mixed.
        OptionError: if the convention is unknown.

    Example:
        >>> box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [2, 0, 4, 2]])
        array([[0.33333333, 0.        ]])
        >>> box_iou([[0, 0, 3, 3]], [[0, 0, 2, 2]], convention="wsol")
        array([[0.5625]])
    """
    first, second = _as_boxes(a), _as_boxes(b)
    both = _intersections(first, second, convention)
    extra = _extra(convention)
    return _over(both, _area(first, extra)[:, None] + _area(second, extra)[None] - both)


def box_overlaps(predicted: Boxes, truth: Boxes) -> BoxOverlaps:
    r"""Three overlaps of every predicted with every true box; they differ in what the intersection is divided by.

    Args:
        predicted: ``(m, 4)`` or ``(m, 6)``, half-open.
        truth: ``(n, 4)`` or ``(n, 6)``.

    Raises:
        ValueError: if boxes of 2D and 3D are mixed.

    Reference:
        Wang et al., "ChestX-ray8", CVPR 2017 (IoBB).

    Example:
        >>> one = box_overlaps([[0, 0, 4, 4]], [[2, 2, 6, 6]])
        >>> one.iou[0, 0] == 1 / 7, one.iobb[0, 0], one.iogt[0, 0]
        (np.True_, np.float64(0.25), np.float64(0.25))
    """
    first, second = _as_boxes(predicted), _as_boxes(truth)
    both = _intersections(first, second)
    mine, theirs = (np.broadcast_to(x, both.shape) for x in (_area(first)[:, None], _area(second)[None]))
    return BoxOverlaps(_over(both, mine + theirs - both), _over(both, mine), _over(both, theirs))


def to_inclusive(boxes: Boxes) -> np.ndarray:
    """Half-open boxes as boxes that name their last pixel: ``x1 - 1``.

    Example:
        >>> to_inclusive([[2, 1, 5, 3]])
        array([[2., 1., 4., 2.]])
    """
    return _moved(boxes, -1.0)


def from_inclusive(boxes: Boxes) -> np.ndarray:
    """Boxes that name their last pixel as half-open ones: ``x1 + 1``.

    Example:
        >>> from_inclusive([[2, 1, 4, 2]])
        array([[2., 1., 5., 3.]])
    """
    return _moved(boxes, 1.0)


def from_xywh(boxes: Boxes) -> np.ndarray:
    """Corner and size, ``x y w h`` or ``x y z w h d``, as half-open boxes: ``x1 = x + w``.

    Example:
        >>> from_xywh([[2, 1, 3, 2]])
        array([[2., 1., 5., 3.]])
    """
    table = _as_boxes(boxes).copy()
    axes = table.shape[1] // 2
    table[:, axes:] += table[:, :axes]
    return table


def inside_boxes(point: Sequence[int], boxes: Boxes) -> np.ndarray:
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
    if not len(table):
        return np.zeros(0, dtype=bool)
    axes = len(point)
    centre = np.asarray(point, dtype=float)[::-1] + 0.5
    return np.asarray(((table[:, :axes] <= centre) & (centre < table[:, axes:])).all(axis=1))


# ---- regions -----------------------------------------------------------------------------------------------------


def _frame(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest block that holds every pixel of a mask; an empty block if it has none."""
    frame: list[slice] = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask[tuple(frame)].any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        if not len(found):
            return (slice(0, 0),) * mask.ndim
        frame.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(frame)


def _slices(labels: np.ndarray) -> np.ndarray:
    """Boxes of the regions 1, 2, ...: the quicker way for few."""
    found = ndimage.find_objects(labels) if labels.size else []
    table = [[*(s.start for s in reversed(place)), *(s.stop for s in reversed(place))] for place in found]
    return np.array(table, dtype=np.int64).reshape(-1, 2 * labels.ndim)


def _extents(labels: np.ndarray) -> np.ndarray:
    """The same for many: every pixel says how far its region reaches at least."""
    pixels = np.flatnonzero(labels)
    owner = labels.ravel()[pixels] - 1
    count = int(owner.max()) + 1
    low, high = [], []
    for size, places in zip(reversed(labels.shape), reversed(np.unravel_index(pixels, labels.shape)), strict=True):
        low.append(np.full(count, size))
        high.append(np.zeros(count, dtype=np.int64))
        np.minimum.at(low[-1], owner, places)
        np.maximum.at(high[-1], owner, places)
    return np.stack([*low, *(column + 1 for column in high)], axis=1)


def _hottest(values: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`_peaks` of a single owner."""
    known = ~np.isnan(values)
    if not known.any():
        return np.array([NAN]), np.array([-1])
    first = int(values.argmax()) if known.all() else int(np.where(known, values, -np.inf).argmax())
    return np.array([values[first]], dtype=np.float64), flat[first : first + 1]


def _peaks(owner: np.ndarray, values: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest value of each owner and the first of its pixels that has it; NaN and -1 where all values are NaN."""
    known = ~np.isnan(values)
    if not known.all():
        owners = int(owner.max()) + 1
        peaks, places = np.full(owners, NAN), np.full(owners, -1)
        left, owner = np.unique(owner[known], return_inverse=True)
        if len(left):
            peaks[left], places[left] = _peaks(owner, values[known], flat[known])
        return peaks, places
    peaks = np.full(int(owner.max()) + 1, -np.inf)
    np.maximum.at(peaks, owner, values.astype(np.float64))
    hottest = np.flatnonzero(values == peaks[owner])[::-1]
    places = np.empty(len(peaks), dtype=np.int64)
    places[owner[hottest]] = flat[hottest]  # of equal owners the last written stays: the first pixel
    return peaks, places


# ---- boxes -------------------------------------------------------------------------------------------------------


def _intersections(a: np.ndarray, b: np.ndarray, convention: str = "half_open") -> np.ndarray:
    extra = _extra(convention)
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"boxes with {a.shape[1]} and {b.shape[1]} numbers cannot be compared; 2D has 4, 3D has 6.")
    axes = a.shape[1] // 2
    both = np.ones((len(a), len(b)))
    for axis in range(axes):
        low = np.maximum(a[:, None, axis], b[None, :, axis])
        high = np.minimum(a[:, None, axes + axis], b[None, :, axes + axis])
        both *= np.maximum(high - low + extra, 0.0)
    return both


def _extra(convention: str) -> float:
    if convention not in CONVENTIONS:
        raise OptionError(f"there is no box convention {convention!r}; choose one of {', '.join(CONVENTIONS)}.")
    return float(convention == "wsol")


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def _area(boxes: np.ndarray, extra: float = 0.0) -> np.ndarray:
    axes = boxes.shape[1] // 2
    return np.asarray(np.prod(np.maximum(boxes[:, axes:] - boxes[:, :axes] + extra, 0.0), axis=-1))


def _moved(boxes: Boxes, by: float) -> np.ndarray:
    table = _as_boxes(boxes).copy()
    table[:, table.shape[1] // 2 :] += by
    return table


def _as_boxes(boxes: Boxes) -> np.ndarray:
    table = np.asarray(boxes, dtype=np.float64)
    return table if table.ndim == 2 else table.reshape(0, 4)
