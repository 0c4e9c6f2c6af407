"""Localisation protocols by name: ChestX-ray8, WSOL, CheXlocalize, FROC and the average precision of boxes.

Functions of one map are pure and return what a set needs; functions of a set take ``weights (D, n)``, how often each
case was drawn, and then return one value per draw. A map without any contrast locates nothing: it has no box, and its
hottest pixel is a miss. NaN in a map is left out; what is undefined is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.boxes import box_overlaps, regions
from lesioncam.functional.segmentation import overlap_counts

FALSE_POSITIVES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which CPM reads the FROC curve."""

NAN = float("nan")

_CHUNK = 4_000_000
"""Largest number of float64 held at once while going through the draws (32 MB)."""

_CHESTXRAY8 = (60 / 255, 180 / 255)


class BoxCase(NamedTuple):
    """How m true and p predicted boxes of one image and class fit each other; 0 where the other side is empty.

    At a level T a true box is found if its value is above T, and a predicted box is a false positive if it is not.

    Attributes:
        truth_iou: ``(m,)``, best IoU of any predicted box with each true one.
        truth_iobb: ``(m,)``, best IoBB.
        predicted_iou: ``(p,)``, best IoU of each predicted box with any true one.
        predicted_iobb: ``(p,)``, best IoBB.
    """

    truth_iou: np.ndarray
    truth_iobb: np.ndarray
    predicted_iou: np.ndarray
    predicted_iobb: np.ndarray


class Froc(NamedTuple):
    """Sensitivity at given numbers of false positives per image.

    Attributes:
        sensitivity: ``(A,)``, or ``(D, A)`` with weights.
        cpm: their mean (competition performance metric), ``()`` or ``(D,)``.
    """

    sensitivity: np.ndarray
    cpm: np.ndarray


# ---- ChestX-ray8 -------------------------------------------------------------------------------------------------


def chestxray8_boxes(scores: np.ndarray) -> np.ndarray:
    """The predicted boxes of the ChestX-ray8 protocol: regions at 60/255 and at 180/255 of the map's own range.

    The map is scaled to [0, 1] in float64 and compared by ``>=``; diagonals connect. The prediction is the union: a box
    that both thresholds give counts once. The paper leaves connectivity, scale and union open; these are our choices.

    Args:
        scores: ``(*S)`` on the image's own grid, any unit.

    Returns:
        ``(p, 4)`` or ``(p, 6)`` int64, half-open; none for a flat map.

    Reference:
        Wang et al., "ChestX-ray8", CVPR 2017.

    Example:
        >>> chestxray8_boxes(np.array([[0.0, 0.3, 1.0, 0.0]]))
        array([[1, 0, 3, 1],
               [2, 0, 3, 1]])
    """
    unit = wsol_unit(np.asarray(scores, dtype=np.float64))
    found = [regions(unit >= level).boxes for level in _CHESTXRAY8]
    boxes = np.concatenate(found)
    _, first = np.unique(boxes, axis=0, return_index=True)
    return np.asarray(boxes[np.sort(first)])


def chestxray8_case(scores: np.ndarray, truth_boxes: np.ndarray | Sequence[Sequence[float]]) -> BoxCase:
    """Score one map against its true boxes by the ChestX-ray8 protocol.

    Accuracy at T is the share of true boxes with a value above T over the set; AFP at T is the mean over images of the
    number of predicted boxes whose value is not above T. IoBB (intersection over the predicted box) is 1 for a single
    pixel inside the truth: read it with IoU and AFP only.

    Args:
        scores: ``(*S)`` on the image's own grid, any unit.
        truth_boxes: ``(m, 4)`` or ``(m, 6)``, half-open native pixels, may be fractional.

    Raises:
        ValueError: if map and boxes differ in the number of axes.

    Reference:
        Wang et al., "ChestX-ray8", CVPR 2017.

    Example:
        >>> case = chestxray8_case(np.array([[0.0, 0.3, 1.0, 0.0]]), [[1, 0, 3, 1]])
        >>> case.truth_iou, case.predicted_iou, case.predicted_iobb
        (array([1.]), array([1. , 0.5]), array([1., 1.]))
    """
    overlaps = box_overlaps(chestxray8_boxes(scores), truth_boxes)
    best = [table.max(axis=axis, initial=0.0) for axis in (0, 1) for table in (overlaps.iou, overlaps.iobb)]
    return BoxCase(*best)


# ---- WSOL --------------------------------------------------------------------------------------------------------


def wsol_unit(scores: np.ndarray) -> np.ndarray:
    """A map scaled to its own range, as the WSOL protocol wants it: the coldest pixel is 0, the hottest 1.

    A healthy image becomes as hot as a sick one, so the result says where, never whether.

    Args:
        scores: ``(*S)``, any unit; infinite values become 0 and 1, NaN stays.

    Returns:
        ``(*S)``, float32 for float32, otherwise float64; zeros for a flat map.

    Example:
        >>> wsol_unit(np.array([1.0, 2.0, 5.0])), wsol_unit(np.array([3.0, 3.0]))
        (array([0.  , 0.25, 1.  ]), array([0., 0.]))
    """
    values = np.asarray(scores)
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    low, high = _range(values)
    if not high > low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1, dtype=values.dtype)


@overload
def max_box_acc(iou: np.ndarray, delta: float) -> float: ...
@overload
def max_box_acc(iou: np.ndarray, delta: float, weights: np.ndarray) -> np.ndarray: ...
def max_box_acc(iou: np.ndarray, delta: float, weights: np.ndarray | None = None) -> float | np.ndarray:
    r"""Best share of images whose box fits, over one threshold for the whole set.

    .. math:: \max_\tau \frac{1}{n} \sum_i [\mathrm{IoU}_i(\tau) \ge \delta]

    The threshold is chosen on the images it is reported on: that is the protocol. On every draw it is chosen anew.

    Args:
        iou: ``(n, T)``, a curve of `box_sweep` per image; rows of NaN (no true box) take no part.
        delta: overlap that counts as found.
        weights: ``(D, n)`` multiplicities.

    Returns:
        A float, or ``(D,)`` with weights; NaN where no image counts.

    Reference:
        Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Example:
        >>> max_box_acc(np.array([[0.6, 0.2], [0.1, 0.7], [0.5, 0.5]]), 0.5)      # 2 of 3 at either threshold
        0.6666666666666666
    """
    curves = np.atleast_2d(np.asarray(iou))
    known = ~np.isnan(curves).any(axis=1)
    hits = (curves >= delta)[known]
    parts = []
    for drawn in _draws(weights, len(curves), curves.shape[1]):
        kept = drawn[:, known]
        parts.append(_divide((kept @ hits).max(axis=1, initial=0.0), kept.sum(axis=1)))
    return _result(parts, weights)


@overload
def maxboxacc_v1(largest: np.ndarray) -> float: ...
@overload
def maxboxacc_v1(largest: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def maxboxacc_v1(largest: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """MaxBoxAcc, version 1: box of the largest region, overlap .5.

    Args:
        largest: ``(n, T)``, `BoxSweep.largest` per image.
        weights: ``(D, n)`` multiplicities.

    Returns:
        A float, or ``(D,)`` with weights.

    Example:
        >>> maxboxacc_v1(np.array([[0.6, 0.2], [0.1, 0.7]]))
        0.5
    """
    return max_box_acc(largest, 0.5) if weights is None else max_box_acc(largest, 0.5, weights)


@overload
def maxboxacc_v2(best: np.ndarray) -> float: ...
@overload
def maxboxacc_v2(best: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def maxboxacc_v2(best: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """MaxBoxAcc, version 2: box of any region, mean over the overlaps .3, .5 and .7, each with its own threshold.

    Args:
        best: ``(n, T)``, `BoxSweep.best` per image.
        weights: ``(D, n)`` multiplicities.

    Returns:
        A float, or ``(D,)`` with weights.

    Example:
        >>> maxboxacc_v2(np.array([[0.6, 0.2], [0.1, 0.7]]))
        0.5
    """
    if weights is None:
        return float(np.mean([max_box_acc(best, delta) for delta in (0.3, 0.5, 0.7)]))
    return np.asarray(np.mean([max_box_acc(best, delta, weights) for delta in (0.3, 0.5, 0.7)], axis=0))


@overload
def pxap(positive_counts: np.ndarray, all_counts: np.ndarray) -> float: ...
@overload
def pxap(positive_counts: np.ndarray, all_counts: np.ndarray, weights: np.ndarray) -> np.ndarray: ...
def pxap(positive_counts: np.ndarray, all_counts: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    r"""Pixel average precision: the pixels of all images in one ranking.

    .. math:: \sum_l \mathrm{Prec}(\tau_l)\,(\mathrm{Rec}(\tau_l) - \mathrm{Rec}(\tau_{l-1}))

    from the highest threshold down.

    Args:
        positive_counts: ``(n, T)``, true pixels at or above each ascending threshold. All true pixels of an image must
            reach the first threshold (0 for a map in [0, 1]): recall is relative to the counts there.
        all_counts: ``(n, T)``, all pixels at or above it.
        weights: ``(D, n)`` multiplicities.

    Returns:
        A float, or ``(D,)`` with weights; NaN without a true pixel; equal scores give the prevalence.

    Reference:
        Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.

    Example:
        >>> found, reached = [[3, 3, 3, 2, 1, 1]], [[6, 5, 4, 3, 2, 1]]  # pixels of the lesion, of all
        >>> round(pxap(np.array(found), np.array(reached)), 6)               # (1 + 2/3 + 3/4) / 3
        0.805556
    """
    both = np.hstack([np.atleast_2d(positive_counts), np.atleast_2d(all_counts)]).astype(np.float64)
    parts = []
    for drawn in _draws(weights, len(both), both.shape[1]):
        found, reached = np.split((drawn @ both)[:, ::-1], 2, axis=1)[::-1]
        gained = np.diff(found, axis=1, prepend=0.0)
        precision = np.divide(found, reached, out=np.zeros_like(found), where=reached > 0)
        parts.append(_divide((precision * gained).sum(axis=1), gained.sum(axis=1)))
    return _result(parts, weights)


# ---- CheXlocalize ------------------------------------------------------------------------------------------------


def otsu_mask(scores: np.ndarray) -> np.ndarray:
    """The mask of the CheXlocalize protocol: Otsu's threshold on the map as bytes of its own range, contours filled.

    Filling closes holes; regions of a single pixel have no contour and vanish.

    Args:
        scores: ``(*S)`` on the image's own grid, any unit.

    Returns:
        ``(*S)`` bool; empty for a flat map.

    Reference:
        Otsu, "A threshold selection method from gray-level histograms", 1979; Saporta et al., "Benchmarking saliency
        methods for chest X-ray interpretation", 2022.

    Example:
        >>> otsu_mask(np.array([[2.0, 2.0, 7.0, 7.0]]))
        array([[False, False,  True,  True]])
    """
    levels = _bytes(scores)
    counts = np.bincount(levels.ravel(), minlength=256)
    if np.count_nonzero(counts) < 2:
        return np.zeros(levels.shape, dtype=bool)
    mask = levels > threshold_otsu(hist=(counts, np.arange(256)))
    mask |= _holes(mask)
    found = regions(mask)
    alone = found.boxes[found.areas == 1][:, : mask.ndim]
    mask[tuple(alone[:, ::-1].T)] = False
    return np.asarray(mask)


def chexlocalize_iou(predicted: np.ndarray, truth: np.ndarray, true_positives_only: bool = True) -> float:
    """IoU of two masks by the rules of CheXlocalize for empty ones.

    Args:
        predicted: ``(*S)`` bool.
        truth: ``(*S)`` bool.
        true_positives_only: their default: NaN if either mask is empty, so missed lesions do not count. Otherwise NaN
            only if both are, and 0 if one is.

    Raises:
        GeometryError: if the masks differ in size.

    Reference:
        Saporta et al., "Benchmarking saliency methods for chest X-ray interpretation", 2022.

    Example:
        >>> lesion, nothing = np.array([True, False]), np.array([False, False])
        >>> chexlocalize_iou(nothing, lesion, true_positives_only=True)
        nan
        >>> chexlocalize_iou(nothing, lesion, true_positives_only=False)
        0.0
    """
    counts = overlap_counts(predicted, truth)
    if true_positives_only and not (counts.predicted and counts.truth):
        return NAN
    return counts.iou


def hit(scores: np.ndarray, truth: np.ndarray) -> float:
    """Whether the hottest pixel lies in the mask; of equally hot ones the first counts.

    Args:
        scores: ``(*S)``, any unit; NaN is left out.
        truth: ``(*S)`` bool.

    Returns:
        1 or 0; 0 for a flat map; NaN without a true pixel.

    Raises:
        GeometryError: if map and mask differ in size.

    Reference:
        Saporta et al., "Benchmarking saliency methods for chest X-ray interpretation", 2022 (hit rate).

    Example:
        >>> hit(np.array([0.1, 0.9]), np.array([False, True])), hit(np.array([0.5, 0.5]), np.array([True, True]))
        (1.0, 0.0)
    """
    return pointing(scores, truth, 0.0)


def pointing(scores: np.ndarray, truth: np.ndarray, tolerance: float = 0.0) -> float:
    """Pointing game: whether a true pixel lies within ``tolerance`` of the hottest one.

    Args:
        scores: ``(*S)``, any unit; NaN is left out.
        truth: ``(*S)`` bool.
        tolerance: pixels, Euclidean, between pixel centres; the paper allows 15, `hit` 0.

    Returns:
        1 or 0; 0 for a flat map; NaN without a true pixel.

    Raises:
        GeometryError: if map and mask differ in size.

    Reference:
        Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016.

    Example:
        >>> scores, truth = np.array([0.1, 0.2, 0.9]), np.array([True, False, False])
        >>> pointing(scores, truth, tolerance=1.0), pointing(scores, truth, tolerance=2.0)
        (0.0, 1.0)
    """
    values, true = np.asarray(scores), np.asarray(truth, dtype=bool)
    _same(values, true)
    if not true.any():
        return NAN
    low, high = (
        f(values, initial=start, where=~np.isnan(values)) for f, start in ((np.min, np.inf), (np.max, -np.inf))
    )
    if not high > low:
        return 0.0
    place = np.unravel_index(int(np.flatnonzero(values == high)[0]), values.shape)
    reach = math.floor(tolerance)
    window = tuple(slice(max(0, int(at) - reach), int(at) + reach + 1) for at in place)
    near = np.argwhere(true[window]) + [part.start for part in window] - np.array(place)
    return float(bool((near**2).sum(axis=1).min(initial=np.iinfo(np.int64).max) <= tolerance**2))


# ---- detections --------------------------------------------------------------------------------------------------


def match_detections(
    overlaps: np.ndarray, confidences: np.ndarray, threshold: float = 0.5, *, once: bool = True
) -> np.ndarray:
    """Give each detection of an image the true lesion it found, the most confident first (greedy).

    Args:
        overlaps: ``(p, m)``, of every detection with every truth (IoU, or True where a centre lies inside).
        confidences: ``(p,)``; of equals the first goes first, NaN last.
        threshold: least overlap that counts, ``>=``.
        once: every truth is given away once, as `box_average_precision` wants it; a detection takes the best of those
            that are left. ``False``: each detection gets its best truth, found before or not, as `froc` wants it.

    Returns:
        ``(p,)`` int64, the truth's index, the lowest of equals; -1 for none.

    Example:
        >>> overlaps = np.array([[0.6, 0.1], [0.9, 0.0], [0.2, 0.3]])
        >>> match_detections(overlaps, np.array([0.7, 0.8, 0.9]))
        array([-1,  0, -1])
    """
    table = np.asarray(overlaps, dtype=np.float64)
    table = np.where(table >= threshold, table, -1.0)
    found = np.full(len(table), -1, dtype=np.int64)
    if not table.size:
        return found
    for row in np.argsort(-np.asarray(confidences, dtype=np.float64), kind="stable"):
        best = int(table[row].argmax())
        if table[row, best] >= 0:
            found[row] = best
            if once:
                table[:, best] = -1.0
    return found


def froc(
    confidences: np.ndarray,
    matched: np.ndarray,
    owner: np.ndarray,
    lesions: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    at: Sequence[float] = FALSE_POSITIVES,
) -> Froc:
    """Free-response curve: share of lesions found against false positives per image, over all cases.

    A lesion counts from its most confident detection on; further detections of it are neither hits nor false
    positives. Detections of equal confidence enter together. Between operating points, and from (0, 0) to the first
    one, the curve is linear; beyond the last it stays.

    Args:
        confidences: ``(p,)``, all detections of all cases, any monotone unit; NaN takes no part.
        matched: ``(p,)``, the lesion of its case that a detection found, numbered within the case; -1 for none.
        owner: ``(p,)``, the case of each detection, 0 to n - 1.
        lesions: ``(n,)``, lesions of each case; cases without any count for the false positives.
        weights: ``(D, n)`` multiplicities.
        at: ``A`` numbers of false positives per image.

    Returns:
        `Froc`; NaN where no lesion was drawn.

    Reference:
        Setio et al., "Validation, comparison, and combination of algorithms for automatic detection of pulmonary
        nodules in computed tomography images: the LUNA16 challenge", 2017.

    Example:
        >>> curve = froc(np.array([0.9, 0.8, 0.7]), np.array([0, -1, 1]), np.array([0, 0, 0]), np.array([2, 0]))
        >>> curve.sensitivity                      # half at once, all at half a false positive per image
        array([0.5, 0.5, 1. , 1. , 1. , 1. , 1. ])
    """
    count = np.asarray(lesions, dtype=np.float64)
    ranked = _ranked(confidences, matched, owner)
    levels = np.asarray(at, dtype=np.float64)
    parts = []
    for drawn in _draws(weights, len(count), 2 * len(ranked.owner)):
        hits, alarms = _operating_points(ranked, drawn)
        found = _read(alarms, hits, levels[None] * drawn.sum(axis=1)[:, None])
        parts.append(_divide(found, (drawn @ count)[:, None]))
    sensitivity = np.concatenate(parts) if parts else np.zeros((0, len(levels)))
    result = Froc(sensitivity, sensitivity.mean(axis=1))
    return result if weights is not None else Froc(result.sensitivity[0], result.cpm[0])


@overload
def box_average_precision(
    confidences: np.ndarray, matched: np.ndarray, owner: np.ndarray, truths: np.ndarray
) -> float: ...
@overload
def box_average_precision(
    confidences: np.ndarray, matched: np.ndarray, owner: np.ndarray, truths: np.ndarray, weights: np.ndarray
) -> np.ndarray: ...
def box_average_precision(
    confidences: np.ndarray,
    matched: np.ndarray,
    owner: np.ndarray,
    truths: np.ndarray,
    weights: np.ndarray | None = None,
) -> float | np.ndarray:
    """Average precision of boxes over all cases, interpolated at all points.

    The area under the precision that is reached at a recall or any higher one (PASCAL VOC from 2010 on; the eleven
    points of 2007 and the 101 of COCO are other numbers). Boxes of equal confidence enter together.

    Args:
        confidences: ``(p,)``, the predicted boxes of all cases, any monotone unit; NaN takes no part.
        matched: ``(p,)``, from `match_detections` per case with ``once=True``; -1 is a false positive.
        owner: ``(p,)``, the case of each box, 0 to n - 1.
        truths: ``(n,)``, true boxes of each case.
        weights: ``(D, n)`` multiplicities.

    Returns:
        A float, or ``(D,)`` with weights; 0 without a prediction, NaN without a true box.

    Reference:
        Everingham et al., "The PASCAL visual object classes challenge: a retrospective", IJCV 2015.

    Example:
        >>> confidences, matched = np.array([0.9, 0.8, 0.7]), np.array([0, -1, 1])
        >>> round(box_average_precision(confidences, matched, np.zeros(3, int), np.array([2])), 6)  # 1/2 + 2/3 * 1/2
        0.833333
    """
    count = np.asarray(truths, dtype=np.float64)
    ranked = _ranked(confidences, matched, owner)
    parts = []
    for drawn in _draws(weights, len(count), 3 * len(ranked.owner)):
        hits, alarms = _operating_points(ranked, drawn)
        size = hits + alarms
        precision = np.divide(hits, size, out=np.zeros_like(size), where=size > 0)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        parts.append(_divide((envelope * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1), drawn @ count))
    return _result(parts, weights)


class _Ranked(NamedTuple):
    """Detections from the most confident down: case, hit or false positive, and where groups of equals end."""

    owner: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray
    last: np.ndarray


def _ranked(confidences: np.ndarray, matched: np.ndarray, owner: np.ndarray) -> _Ranked:
    values, lesion, case = np.asarray(confidences, dtype=np.float64), np.asarray(matched), np.asarray(owner)
    order = np.argsort(-values, kind="stable")
    order = order[: np.count_nonzero(~np.isnan(values))]  # NaN sorts last
    values, lesion, case = values[order], lesion[order].astype(np.int64), case[order].astype(np.int64)
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.zeros(0, dtype=np.int64)
    _, first = np.unique(case * (lesion.max(initial=0) + 2) + lesion, return_index=True)
    new = np.zeros(len(values), dtype=bool)
    new[first] = True
    return _Ranked(case, (lesion >= 0) & new, lesion < 0, last)


def _operating_points(ranked: _Ranked, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of hits and of false positives down to each distinct confidence, ``(D, g)`` each."""
    columns = drawn[:, ranked.owner]
    hits = np.cumsum(columns * ranked.hits, axis=1)[:, ranked.last]
    return hits, np.cumsum(columns * ranked.alarms, axis=1)[:, ranked.last]


def _read(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Curves ``(D, g)`` that rise from (0, 0), read at ``(D, A)``: linear between points, the top of vertical parts."""
    origin = np.zeros((len(x), 1))
    x, y = np.hstack([origin, x, np.full_like(origin, np.inf)]), np.hstack([origin, y, y[:, -1:] if y.size else origin])
    out = np.empty(at.shape)
    rows = np.arange(len(x))
    for column in range(at.shape[1]):
        left = (x <= at[:, column : column + 1]).sum(axis=1) - 1
        x0, x1, y0, y1 = x[rows, left], x[rows, left + 1], y[rows, left], y[rows, left + 1]
        out[:, column] = y0 + (y1 - y0) * ((at[:, column] - x0) / (x1 - x0))
    return out


# ---- shared ------------------------------------------------------------------------------------------------------


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest finite value; 0, 0 if there is none."""
    low, high = (float(f(values)) if values.size else 0.0 for f in (np.min, np.max))
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _bytes(scores: np.ndarray) -> np.ndarray:
    """``uint8(255 s)`` of a map scaled to its own range, rounded down; NaN is 0."""
    scaled = wsol_unit(np.asarray(scores)) * 255
    return np.asarray(np.nan_to_num(scaled, copy=False).astype(np.uint8))


def _holes(mask: np.ndarray) -> np.ndarray:
    """What a mask encloses: background that no straight step leads out of."""
    labels, count = ndimage.label(~mask)
    outside = np.zeros(count + 1, dtype=bool)
    outside[0] = True
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside[np.take(labels, end, axis=axis)] = True
    return np.asarray(~outside[labels])


def _draws(weights: np.ndarray | None, cases: int, width: int) -> Iterator[np.ndarray]:
    """Weights as float64, so many draws at a time that ``width`` numbers per draw fit into memory."""
    table = np.ones((1, cases)) if weights is None else np.asarray(weights)
    if table.ndim != 2 or table.shape[1] != cases:
        raise OptionError(f"weights are {table.shape}, expected one row per draw and {cases} columns, one per case.")
    step = max(1, _CHUNK // max(1, cases, width))
    for start in range(0, len(table), step):
        yield table[start : start + step].astype(np.float64)


def _result(parts: list[np.ndarray], weights: np.ndarray | None) -> float | np.ndarray:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return values if weights is not None else float(values[0])


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.asarray(np.divide(part, whole, out=np.full(shape, NAN), where=whole > 0))


def _same(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b):
        raise GeometryError(
            f"map or mask is {np.shape(a)} but the truth is {np.shape(b)}; bring both to the image's own grid."
        )
