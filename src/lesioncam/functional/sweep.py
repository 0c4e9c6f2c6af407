"""Boxes of a map at every threshold at once: what a loop over thresholds finds, without the loop.

A map is cut into stretches along its rows that rise and then fall. Stretches that meet at the height of the lower
one's top belong to the same hill, so a few hills remain, joined by passes. From the highest level down, a hill grows
pixel by pixel and two hills become one region at their pass, which is all a threshold can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from lesioncam.functional.boxes import box_iou
from lesioncam.functional.segmentation import threshold_levels


class BoxSweep(NamedTuple):
    """The best overlap with a true box at every threshold, ``(T,)`` float64 each; 0 where nothing is predicted.

    Attributes:
        largest: of the box of the largest region (WSOL V1).
        best: of the box of any region (WSOL V2).
    """

    largest: np.ndarray
    best: np.ndarray


class _Hills(NamedTuple):
    """A map as ``n`` hills and the passes between them.

    Attributes:
        owner: ``(pixels,)`` int32, the hill of each pixel.
        hills: how many there are.
        passes: ``(e, 2)`` hills that a pass joins, highest first; no two ways lead from one hill to another.
        heights: ``(e,)`` level of each pass.
    """

    owner: np.ndarray
    hills: int
    passes: np.ndarray
    heights: np.ndarray


class _Links(NamedTuple):
    """Neighbours ``a`` and ``b`` that are connected down from level ``height``; ``(e,)`` each."""

    a: np.ndarray
    b: np.ndarray
    height: np.ndarray


class _Growth(NamedTuple):
    """Pixels of one hill at one level, ``(k,)`` rows, highest level first.

    Attributes:
        hill: which hill.
        level: which level.
        area: how many pixels.
        frame: ``(k, 2 n + 1)``: lowest index per axis, minus the highest per axis, lowest flat index: all are minima.
    """

    hill: np.ndarray
    level: np.ndarray
    area: np.ndarray
    frame: np.ndarray


def box_sweep(
    scores: np.ndarray,
    thresholds: np.ndarray,
    truth: np.ndarray | Sequence[Sequence[float]],
    convention: str = "half_open",
) -> BoxSweep:
    """Overlap of the boxes of ``scores >= t`` with the true boxes, for every threshold ``t``, exact, in one pass.

    Regions connect over diagonals; of the largest regions of equal size the first in scanning order counts, as in
    `component_boxes`.

    Args:
        scores: ``(*S)``, 2D or 3D, any unit, compared in float64; NaN reaches no threshold.
        thresholds: ``(T,)`` ascending, in the unit of the scores.
        truth: ``(m, 4)`` or ``(m, 6)``, half-open native pixels.
        convention: ``half_open``; ``wsol`` computes areas as `box_iou` does under that name and ends boxes at
            ``width - 1``; the truth is then taken as those annotations give it.

    Returns:
        `BoxSweep`; all NaN without a true box.

    Raises:
        OptionError: if the thresholds do not ascend or the convention is unknown.
        ValueError: if map and boxes differ in the number of axes.

    Reference:
        Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020 (the protocol); Najman
        & Couprie, "Building the component tree in quasi-linear time", 2006 (regions as a tree over levels).

    Example:
        >>> scores = np.array([[0.9, 0.8, 0.0, 0.5], [0.7, 0.8, 0.0, 0.0]])
        >>> box_sweep(scores, np.array([0.4, 0.85]), [[0, 0, 2, 2]])
        BoxSweep(largest=array([1.  , 0.25]), best=array([1.  , 0.25]))
    """
    return box_sweep_levels(threshold_levels(scores, thresholds), len(thresholds), truth, convention)


def box_sweep_levels(
    levels: np.ndarray,
    count: int,
    truth: np.ndarray | Sequence[Sequence[float]],
    convention: str = "half_open",
) -> BoxSweep:
    """`box_sweep` of a map whose `threshold_levels` are known.

    Args:
        levels: ``(*S)`` uint16, at most ``count``.
        count: number of thresholds, T.
        truth: ``(m, 4)`` or ``(m, 6)``.
        convention: as in `box_sweep`.

    Example:
        >>> box_sweep_levels(np.array([[2, 1, 0]], np.uint16), 3, [[0, 0, 2, 1]]).best
        array([1. , 0.5, 0. ])
    """
    boxes = np.asarray(truth, dtype=np.float64)
    if not len(boxes):
        return BoxSweep(np.full(count, np.nan), np.full(count, np.nan))
    target = _Target(boxes, np.shape(levels), convention)
    grid = np.atleast_2d(levels)
    target.iou(np.zeros((1, 2 * grid.ndim + 1)))  # refuses boxes of other axes, also for an empty map
    if not grid.any():
        return BoxSweep(np.zeros(count), np.zeros(count))
    hills = _hills(grid)
    few = hills.hills * (count + 1) <= 2_000_000 and hills.hills <= 20 * count
    return (_by_tables if few else _by_levels)(grid, hills, count, target)


# ---- overlap of many frames --------------------------------------------------------------------------------------


class _Target:
    """The true boxes, and how well frames fit the best of them."""

    def __init__(self, boxes: np.ndarray, shape: Sequence[int], convention: str) -> None:
        self._boxes, self._convention = boxes, convention
        self._ends = np.array(shape[::-1], dtype=np.float64) - (convention == "wsol")

    def iou(self, frames: np.ndarray) -> np.ndarray:
        """``(k, 2 n + 1)`` frames to ``(k,)``."""
        axes = frames.shape[1] // 2
        boxes = np.empty((len(frames), 2 * axes))
        boxes[:, :axes] = frames[:, axes - 1 :: -1] if axes > 1 else frames[:, :1]
        boxes[:, axes:] = 1.0 - frames[:, 2 * axes - 1 : axes - 1 : -1]
        boxes[:, axes:] = np.minimum(boxes[:, axes:], self._ends)
        best = np.zeros(len(frames))
        for box in self._boxes:  # one at a time: memory stays small however many there are
            np.maximum(best, box_iou(boxes, box[None], self._convention)[:, 0], out=best)
        return best


# ---- hills and passes --------------------------------------------------------------------------------------------


def _hills(levels: np.ndarray) -> _Hills:
    part, first = _stretches(levels)
    tops = np.maximum.reduceat(levels.ravel(), first).astype(np.int64)
    home = np.arange(len(tops))
    links = _links(levels, part)
    while True:
        up = _climb(tops, links)
        if (up == np.arange(len(up))).all():
            break
        roots, place = np.unique(up, return_inverse=True)
        home, tops = place[home], tops[roots]
        links = _distinct(place[links.a], place[links.b], links.height)
    passes = _spanning(links, len(tops))
    return _Hills(home.astype(np.int32)[part], len(tops), np.stack([passes.a, passes.b], axis=1), passes.height)


def _stretches(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows into stretches that rise, then fall: the stretch of each pixel ``(pixels,)``, the start of each."""
    flat, width = levels.ravel(), levels.shape[-1]
    rises, falls = np.zeros(flat.size, dtype=bool), np.zeros(flat.size, dtype=bool)
    np.greater(flat[1:], flat[:-1], out=rises[1:])
    np.less(flat[1:], flat[:-1], out=falls[1:])
    rises[::width], falls[::width] = True, False
    turns = np.flatnonzero(rises | falls)
    up = rises[turns]
    starts = np.zeros(flat.size, dtype=bool)
    starts[turns[1:][up[1:] & ~up[:-1]]] = True
    starts[::width] = True
    return np.cumsum(starts, dtype=np.int32) - 1, np.flatnonzero(starts)


def _links(levels: np.ndarray, part: np.ndarray) -> _Links:
    """Which stretches touch, and from which level down they are connected."""
    parts = part.reshape(levels.shape)
    found = []
    for step in product((-1, 0, 1), repeat=levels.ndim):
        if step <= (0,) * levels.ndim:  # each pair once
            continue
        here = tuple(slice(max(0, -by), min(size, size - by)) for by, size in zip(step, levels.shape, strict=True))
        there = tuple(slice(max(0, by), min(size, size + by)) for by, size in zip(step, levels.shape, strict=True))
        height = np.minimum(levels[here], levels[there]).ravel()
        if height.size:
            found.append(_runs(parts[here].ravel(), parts[there].ravel(), height))
    a, b, height = (np.concatenate(column) for column in zip(*found, strict=True)) if found else (_NONE,) * 3
    return _distinct(a, b, height)


_NONE = np.zeros(0, dtype=np.int64)


def _runs(a: np.ndarray, b: np.ndarray, height: np.ndarray) -> _Links:
    """One link for each run of equal neighbours: along a row they come one after the other."""
    fresh = np.ones(len(a), dtype=bool)
    np.logical_or(a[1:] != a[:-1], b[1:] != b[:-1], out=fresh[1:])
    first = np.flatnonzero(fresh)
    return _Links(a[first], b[first], np.maximum.reduceat(height, first))


def _distinct(a: np.ndarray, b: np.ndarray, height: np.ndarray) -> _Links:
    """One link for each pair, the highest; none to itself."""
    other = a != b
    low, high = np.minimum(a, b)[other].astype(np.int64), np.maximum(a, b)[other].astype(np.int64)
    if not len(low):
        return _Links(_NONE, _NONE, _NONE)
    many, steps = int(high.max()) + 1, int(height.max()) + 1
    keys = np.sort((low * many + high) * steps + height[other])
    pairs = keys // steps
    last = np.append(pairs[1:] != pairs[:-1], True)
    return _Links(pairs[last] // many, pairs[last] % many, keys[last] % steps)


def _climb(tops: np.ndarray, links: _Links) -> np.ndarray:
    """For each part the one it belongs to: a higher one it meets at its own top, and on from there.

    Of equally high parts the later counts as higher, so no way leads round.
    """
    code = tops * len(tops) + np.arange(len(tops))
    best = code.copy()
    for a, b in ((links.a, links.b), (links.b, links.a)):
        joins = (links.height == tops[a]) & (code[b] > code[a])
        np.maximum.at(best, a[joins], code[b[joins]])
    up = best % max(1, len(tops))
    while True:
        further = up[up]
        if (further == up).all():
            return up
        up = further


def _spanning(links: _Links, count: int) -> _Links:
    """The passes that join what was apart, highest first."""
    ceiling = int(links.height.max()) + 1 if len(links.height) else 1
    # the sparse matrix takes 0 for "no link": depth below the ceiling is at least 1
    graph = sparse.coo_matrix(((ceiling - links.height).astype(np.float64), (links.a, links.b)), shape=(count, count))
    tree = csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    height = ceiling - tree.data.astype(np.int64)
    order = np.argsort(-height, kind="stable")
    return _Links(tree.row[order].astype(np.int64), tree.col[order].astype(np.int64), height[order])


# ---- few hills: a table of hills by levels -----------------------------------------------------------------------


def _by_tables(levels: np.ndarray, hills: _Hills, count: int, target: _Target) -> BoxSweep:
    area, frame = _tables(levels, hills, count)
    _join(area, frame, hills)
    alive = area > 0
    most = area.max(axis=0)
    leader = np.where(alive & (area == most), frame[..., -1], np.iinfo(frame.dtype).max).argmin(axis=0)
    largest = target.iou(frame[leader, np.arange(count + 1)])
    best = np.zeros(count + 1)
    hill, level = np.nonzero(alive)
    np.maximum.at(best, level, target.iou(frame[hill, level]))
    return BoxSweep(np.where(most > 0, largest, 0.0)[1:], best[1:])


def _tables(levels: np.ndarray, hills: _Hills, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(hills, T + 1)`` and frame ``(hills, T + 1, 2 n + 1)`` of each hill at and above each level."""
    steps, size = count + 1, hills.hills * (count + 1)
    key = hills.owner.astype(np.int64) * steps + levels.ravel()
    area = np.bincount(key, minlength=size).reshape(hills.hills, steps)
    frame = np.empty((hills.hills, steps, 2 * levels.ndim + 1), dtype=np.int64)
    for axis, index in enumerate(_indices(levels.shape)):
        low, high = np.full(size, levels.size), np.full(size, -1)
        np.minimum.at(low, key, index)
        np.maximum.at(high, key, index)
        frame[..., axis] = low.reshape(area.shape)
        frame[..., levels.ndim + axis] = -high.reshape(area.shape)
    low = np.full(size, levels.size)
    np.minimum.at(low, key, np.arange(levels.size))
    frame[..., -1] = low.reshape(area.shape)
    area = area[:, ::-1].cumsum(axis=1)[:, ::-1].copy()
    np.minimum.accumulate(frame[:, ::-1], axis=1, out=frame[:, ::-1])
    area[:, 0] = 0  # level 0 is below every threshold
    return area, frame


def _indices(shape: Sequence[int]) -> list[np.ndarray]:
    """Index of every pixel along each axis, ``(pixels,)`` each."""
    return [
        np.broadcast_to(np.arange(size).reshape((-1,) + (1,) * (len(shape) - axis - 1)), shape).ravel()
        for axis, size in enumerate(shape)
    ]


def _join(area: np.ndarray, frame: np.ndarray, hills: _Hills) -> None:
    """From the highest pass down, add the one hill to the other at and below their pass; the added one ends there."""
    parent = list(range(hills.hills))
    for (a, b), height in zip(hills.passes.tolist(), hills.heights.tolist(), strict=True):
        keep, gone = _root(parent, a), _root(parent, b)
        parent[gone] = keep
        below = slice(1, height + 1)
        area[keep, below] += area[gone, below]
        np.minimum(frame[keep, below], frame[gone, below], out=frame[keep, below])
        area[gone, below] = 0


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = place = parent[parent[place]]
    return place


# ---- many hills: level by level, touching only what changes ------------------------------------------------------


def _by_levels(levels: np.ndarray, hills: _Hills, count: int, target: _Target) -> BoxSweep:
    growth = _growth(levels, hills)
    state = _State(hills.hills, levels.ndim, levels.size)
    steps = np.arange(count, 0, -1)
    grown = np.searchsorted(-growth.level, -np.append(steps, 0))
    joined = np.searchsorted(-hills.heights, -np.append(steps, 0))
    largest, best = np.zeros(count), np.zeros(count)
    fit = np.zeros(hills.hills)
    leader = -1
    for i, step in enumerate(steps):
        rows, passes = slice(grown[i], grown[i + 1]), hills.passes[joined[i] : joined[i + 1]]
        gone = state.join(passes)
        touched = np.union1d(state.grow(growth, rows), state.roots(passes[:, 0]))
        if len(touched):
            fit[gone] = 0.0
            fit[touched] = target.iou(state.frame[touched])
            leader = state.leader(touched if leader < 0 else np.append(touched, state.roots(np.array([leader]))))
        largest[step - 1], best[step - 1] = (fit[leader] if leader >= 0 else 0.0), fit.max()
    return BoxSweep(largest, best)


def _growth(levels: np.ndarray, hills: _Hills) -> _Growth:
    flat = levels.ravel().astype(np.int64)
    key = (int(flat.max()) - flat) * hills.hills + hills.owner
    order = np.argsort(key, kind="stable")
    order = order[: np.count_nonzero(flat)]  # level 0 comes last
    first = np.flatnonzero(np.append(True, np.diff(key[order]) > 0))
    sides = [index[order] for index in _indices(levels.shape)]
    columns = [*sides, *(-side for side in sides), order]
    frame = np.stack([np.minimum.reduceat(column, first) for column in columns], axis=1)
    area = np.diff(np.append(first, len(order)))
    return _Growth(hills.owner[order][first].astype(np.int64), flat[order][first], area, frame)


class _State:
    """The regions at one level: which hills they hold, how large they are, and their frames."""

    def __init__(self, hills: int, axes: int, far: int) -> None:
        self.area = np.zeros(hills, dtype=np.int64)
        self.frame = np.full((hills, 2 * axes + 1), far, dtype=np.int64)
        self._parent = np.arange(hills)

    def roots(self, places: np.ndarray) -> np.ndarray:
        """The hill that stands for the region of each hill."""
        found = self._parent[places]
        while True:
            further = self._parent[found]
            if (further == found).all():
                self._parent[places] = found
                return found
            found = further

    def join(self, passes: np.ndarray) -> np.ndarray:
        """Make one region of those that passes join, under its largest member; what was absorbed is returned."""
        if not len(passes):
            return _NONE
        members, ends = np.unique(self.roots(passes.ravel()), return_inverse=True)
        a, b = ends.reshape(-1, 2).T
        graph = sparse.coo_matrix((np.ones(len(a)), (a, b)), shape=(len(members), len(members)))
        _, group = csgraph.connected_components(graph, directed=False)
        order = np.lexsort((self.area[members], group))
        last = np.append(group[order][1:] != group[order][:-1], True)
        head = members[order][last][group]
        gone, kept = members[head != members], head[head != members]
        np.add.at(self.area, kept, self.area[gone])
        np.minimum.at(self.frame, kept, self.frame[gone])
        self._parent[gone] = kept
        self.area[gone] = 0
        return gone

    def grow(self, growth: _Growth, rows: slice) -> np.ndarray:
        """Add the pixels of one level; the regions that grew are returned."""
        grown = self.roots(growth.hill[rows])
        np.add.at(self.area, grown, growth.area[rows])
        np.minimum.at(self.frame, grown, growth.frame[rows])
        return grown

    def leader(self, candidates: np.ndarray) -> int:
        """The largest region, the first in scanning order of equals."""
        areas = self.area[candidates]
        equal = candidates[areas == areas.max()]
        return int(equal[self.frame[equal, -1].argmin()])
