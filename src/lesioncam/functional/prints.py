"""Prints of images: perceptual hashes that find candidates for copies, and aligned correlation that judges them.

A hash sees coarse shapes only and cannot tell a copy from a neighbouring slice of the same patient; the correlation of
fine detail, after the two pictures were laid over each other, can.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

SIDE = 80
"""Side of a thumbnail, pixels."""

_REDUCED = 256  # shorter side to which large images are averaged first
_COARSE = 128  # side of the grid on which the content is sought
_WHOLE = 32  # images with fewer pixels a side are taken whole
_FLAT = 0.15  # of the image's range: rows and columns that vary less are frame or air
_SMALLEST = 0.2  # of a side; less content is a spot, and the whole image is taken
_GREY = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)  # luminance of linear RGB, ITU-R BT.709
_WAVES = 12  # cosines per axis, of whose products the 64 lowest without the constant make a hash


class Print(NamedTuple):
    """What is remembered of an image to find its copies.

    Attributes:
        thumb: ``(80, 80)`` uint8, the image's content stretched to a square; constant where the image was.
        hashes: ``(19,)`` uint64, of the whole thumbnail first and then of windows of it.
        side: shorter side of the content, pixels of the image.
    """

    thumb: np.ndarray
    hashes: np.ndarray
    side: int


def _windows() -> np.ndarray:
    """``(19, 4)`` start, stop of rows and columns in thumbnail pixels: all of it; 95 % and 90 % at nine places each."""
    places = [(s, y, x) for s in (0.95, 0.9) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
    parts = [((1 - s) * y, (1 - s) * y + s, (1 - s) * x, (1 - s) * x + s) for s, y, x in places]
    return SIDE * np.array([(0.0, 1.0, 0.0, 1.0), *parts])


WINDOWS = _windows()
_ORDER = np.argsort(np.add.outer(np.arange(_WAVES) ** 2, np.arange(_WAVES) ** 2).ravel(), kind="stable")[1:65]
_ODD = np.packbits(_ORDER % _WAVES % 2 == 1).view(np.uint64)[0]  # mirrored, the odd cosines along a row change sign


# ---- from an image to its print ----------------------------------------------------------------------------------


def image_print(image: np.ndarray) -> Print:
    """The print of a decoded image.

    Flat rows and columns at the rim (air, frames) are cut off, the rest is stretched to 80 x 80. Each hash holds the
    signs of 64 low cosine coefficients of a window (a perceptual hash after Zauner, "Implementation and benchmarking of
    perceptual image hash functions", Hagenberg 2010), so that a crop of an image equals one of its windows.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, any depth; three channels are weighed as RGB, of others the mean is taken.
            Values that are not finite count as the lowest.

    Example:
        >>> image = np.random.default_rng(0).integers(0, 256, (100, 90), dtype=np.uint8)
        >>> a, b = image_print(image), image_print(image[:, ::-1])
        >>> bool((mirrored(a.hashes)[0] == b.hashes[0])), round(verify(a, b, mirror=True), 3)
        (True, 1.0)
    """
    plane = _plane(image)
    rows, columns = _content(plane)
    stretched = _resampling(len(plane), *rows, SIDE) @ plane @ _resampling(plane.shape[1], *columns, SIDE).T
    low, high = float(stretched.min()), float(stretched.max())
    scaled = (stretched - low) * (255 / (high - low)) if high - low > 1e-6 * max(abs(high), abs(low)) else 0 * stretched
    thumb = (scaled + 0.5).astype(np.uint8)
    step = max(1, round(np.shape(image)[0] / len(plane)))
    side = round(step * min(rows[1] - rows[0], columns[1] - columns[0]))
    return Print(thumb, _hashes(thumb), side)


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """The hashes the left-right mirror image would have, up to the order of windows."""
    return np.asarray(hashes ^ _ODD)


def _plane(image: np.ndarray) -> np.ndarray:
    """Grey float32, averaged in whole blocks to at least 256 pixels a side where the image is larger."""
    pixels = np.asarray(image)
    step = max(1, min(pixels.shape[:2]) // _REDUCED)
    height, width = (n // step * step for n in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // step, step, width // step, step, *pixels.shape[2:])
    with np.errstate(invalid="ignore"):  # infinite pixels of float files
        plane = blocks.mean((1, 3), dtype=np.float32)
    if plane.ndim == 3:
        plane = plane @ _GREY if plane.shape[2] == 3 else plane.mean(axis=2)
    finite = np.isfinite(plane)
    return plane if finite.all() else np.where(finite, plane, plane[finite].min() if finite.any() else 0.0)


def _content(plane: np.ndarray) -> list[tuple[float, float]]:
    """Rows and columns between the flat rims, start and stop in pixels.

    More stable than a box round Otsu's foreground: it does not move when brightness, contrast or the frame change; seen
    on a coarse grid of fixed size, so that it does not move with the resolution either.
    """
    if min(plane.shape) < _WHOLE:
        return [(0, n) for n in plane.shape]
    coarse = [_coarse(n) for n in plane.shape]
    smooth = gaussian_filter(coarse[0] @ plane @ coarse[1].T, 1.0, mode="nearest")
    low, high = np.percentile(smooth, (1, 99))
    box = [(0, _COARSE), (0, _COARSE)]
    for axis in (0, 1, 0, 1):
        inside = smooth[slice(*box[0]), slice(*box[1])]
        lively = np.flatnonzero(np.ptp(inside, axis=1 - axis) > _FLAT * (high - low))
        if len(lively) < _SMALLEST * _COARSE:
            return [(0, n) for n in plane.shape]
        start = box[axis][0]
        box[axis] = (start + int(lively[0]), start + int(lively[-1]) + 1)
    box = [(a + (a > 0), b - (b < _COARSE)) for a, b in box]  # the blur carried the picture one cell out
    return [(start * n / _COARSE, stop * n / _COARSE) for (start, stop), n in zip(box, plane.shape, strict=True)]


@lru_cache(maxsize=32)
def _coarse(size: int) -> np.ndarray:
    """To the coarse grid; images of a set often have one size."""
    return _resampling(size, 0, size, _COARSE)


def _resampling(size: int, start: float, stop: float, cells: int) -> np.ndarray:
    """``(cells, size)`` weights that average the pixels between start and stop; linear where there are fewer pixels."""
    edges = start + (stop - start) * np.arange(cells + 1) / cells
    pixels = np.arange(size)
    if stop - start >= cells:
        weights = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    else:
        centres = np.clip((edges[1:] + edges[:-1]) / 2 - 0.5, 0, size - 1)
        weights = 1 - abs(centres[:, None] - pixels)
    weights = np.clip(weights, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _cosines(start: float, stop: float) -> np.ndarray:
    """``(12, 80)`` cosines of half waves over a window; pixels cut by its edge count in part."""
    edges = np.clip(np.arange(SIDE + 1), start, stop)
    place = ((edges[1:] + edges[:-1]) / 2 - start) / (stop - start)
    return np.asarray(np.diff(edges) * np.cos(np.pi * np.arange(_WAVES)[:, None] * place))


_BASES = [(_cosines(y0, y1), _cosines(x0, x1)) for y0, y1, x0, x1 in WINDOWS.tolist()]


def _hashes(thumb: np.ndarray) -> np.ndarray:
    pixels = thumb.astype(np.float64)
    bits = []
    for rows, columns in _BASES:
        mean = rows[0] @ pixels @ columns[0] / (rows[0].sum() * columns[0].sum())
        bits.append((rows @ (pixels - mean) @ columns.T).ravel()[_ORDER] > 0)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


# ---- candidates: hashes ------------------------------------------------------------------------------------------


class Candidates(NamedTuple):
    """Pairs whose hashes are near, ``(n,)`` each: positions in both sets, whether mirrored, Hamming distance."""

    first: np.ndarray
    second: np.ndarray
    mirror: np.ndarray
    distance: np.ndarray


def hash_candidates(first: np.ndarray, second: np.ndarray, radius: int, *, below: int | None = None) -> Candidates:
    """All pairs of two sets of prints with hashes within a Hamming radius, plain or mirrored: exact, by counting bits.

    A whole image is compared with every window of the other, either way round; the least distance counts.

    Args:
        first: ``(n, 19)`` uint64.
        second: ``(m, 19)`` uint64.
        radius: bits of 64 that may differ.
        below: position of ``first[0]`` in ``second``: only pairs whose second place lies behind the first one count, as
            is right when a set is compared with itself.

    Example:
        >>> hashes = np.zeros((2, 19), np.uint64)
        >>> [part.tolist() for part in hash_candidates(hashes, hashes, 0, below=0)]
        [[0], [1], [False], [0]]
    """
    parts = [
        _near(first[i : i + _BLOCK], second[j : j + _WIDE], radius, (i, j), below)
        for i, j in _blocks(len(first), len(second), below)
    ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.empty(0, int)] * 4
    return Candidates(columns[0], columns[1], columns[2].astype(bool), columns[3])


_BLOCK, _WIDE = 16, 8192  # 1 MiB of 64-bit words stays in the processor's cache


def _blocks(rows: int, columns: int, below: int | None) -> Iterator[tuple[int, int]]:
    for i in range(0, rows, _BLOCK):
        nearest = 0 if below is None else (i + below + 1) // _WIDE * _WIDE
        yield from ((i, j) for j in range(nearest, columns, _WIDE))


def _near(
    first: np.ndarray, second: np.ndarray, radius: int, place: tuple[int, int], below: int | None
) -> tuple[np.ndarray, ...]:
    found = []
    for mirror in (False, True):
        least = _least_distance(mirrored(first) if mirror else first, second)
        i, j = np.nonzero(least <= radius)
        keep = slice(None) if below is None else j + place[1] > i + place[0] + below
        i, j = i[keep], j[keep]
        found.append((i + place[0], j + place[1], np.full(len(i), mirror), least[i, j].astype(np.int64)))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _least_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``(n, m)`` uint8: whole against windows and windows against whole."""
    differ = np.empty((len(first), len(second)), dtype=np.uint64)
    count = np.empty(differ.shape, dtype=np.uint8)
    least = np.full(differ.shape, 64, dtype=np.uint8)
    pairs = [(0, w) for w in range(first.shape[1])] + [(w, 0) for w in range(1, first.shape[1])]
    for one, other in pairs:
        np.bitwise_xor(first[:, one, None], np.ascontiguousarray(second[:, other]), out=differ)
        np.bitwise_count(differ, out=count)
        np.minimum(least, count, out=least)
    return least


# ---- judgement: aligned correlation ------------------------------------------------------------------------------


class _Level(NamedTuple):
    """One step from coarse to fine: the band of detail between two blurs, and what a copy reaches at least there."""

    shrink: int
    fine: float
    coarse: float
    steps: int
    least: float


_LEVELS = (
    _Level(2, 1.2, 5.0, 1, 0.78),
    _Level(2, 1.2, 5.0, 2, 0.85),
    _Level(2, 0.6, 2.5, 2, 0.84),
    _Level(1, 0.8, 1.8, 3, -1.0),
)
"""Neighbouring slices share the coarse band, copies every band; 997 of 1,000 planted copies pass each least value."""

_RIM = 0.03  # of a side, left out: the last of a frame or of the air may be there
_LARGEST_STEP = 2.0  # pixels a window's edge moves at once


def verify(a: Print, b: Print, *, mirror: bool = False) -> float:
    """Correlation of two prints after alignment, -1 to 1: see :func:`correlate`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> one, two = (image_print(rng.integers(0, 256, (100, 90), dtype=np.uint8)) for _ in range(2))
        >>> round(verify(one, one), 3), verify(one, two) < 0.5
        (1.0, True)
    """
    thumbs, hashes = np.stack([a.thumb, b.thumb]), np.stack([a.hashes, b.hashes])
    pair = Candidates(np.array([0]), np.array([1]), np.array([mirror]), np.array([0]))
    return float(correlate((thumbs, hashes), (thumbs, hashes), pair)[0])


def correlate(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], pairs: Candidates
) -> np.ndarray:
    """Correlation of fine detail of pairs of thumbnails, each laid over the other as well as can be.

    The window in which the hashes agree best gives the start; shift and scale of each axis are refined by Gauss-Newton
    steps from coarse to fine detail (Lucas and Kanade, IJCAI 1981). Detail is the band between two blurs, divided by
    its local strength, so that brightness, contrast and shading play no part. A pair that is unlike on a coarse level
    is not followed to the finer ones; its value is that of the level, below .85.

    Args:
        first: thumbnails ``(n, 80, 80)`` uint8 and hashes ``(n, 19)``.
        second: likewise, ``m`` of them.
        pairs: which of ``first`` with which of ``second``; where ``mirror``, the latter is mirrored.

    Returns:
        ``(pairs,)`` float, normalised cross-correlation over the common area; NaN where a thumbnail is constant.
    """
    a, b, window = _starts(first, second, pairs)
    value = np.full(len(a), np.nan)
    alive = np.flatnonzero((np.ptp(a, axis=(1, 2)) > 0) & (np.ptp(b, axis=(1, 2)) > 0))
    for level in _LEVELS:
        if not len(alive):
            break
        value[alive], window[alive] = _refine(a[alive], b[alive], window[alive], level)
        alive = alive[value[alive] >= level.least]
    return value


def _starts(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], pairs: Candidates
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thumbnails of the pairs, the second ones mirrored where they are to be, and where in them the first ones lie."""
    a, b = first[0][pairs.first], second[0][pairs.second]
    b = np.where(pairs.mirror[:, None, None], b[:, :, ::-1], b)
    one, two = first[1][pairs.first], second[1][pairs.second]
    one = np.where(pairs.mirror[:, None], mirrored(one), one)
    inner = np.bitwise_count(one[:, :1] ^ two)  # all of a is a window of b
    outer = np.bitwise_count(one ^ two[:, :1])  # a window of a is all of b
    windows = WINDOWS[inner.argmin(axis=1)].copy()
    windows[pairs.mirror, 2:] = SIDE - windows[pairs.mirror][:, [3, 2]]  # the hashes are of b as it was
    other = WINDOWS[outer.argmin(axis=1)].copy()
    turned = _turn_round(other)
    take = outer.min(axis=1) < inner.min(axis=1)
    windows[take] = turned[take]
    return a, b, windows


def _turn_round(windows: np.ndarray) -> np.ndarray:
    """If b is this window of a, the window of b (larger than b) that is all of a."""
    low, high = windows[:, 0::2], windows[:, 1::2]
    scale = SIDE / (high - low)
    turned = np.empty_like(windows)
    turned[:, 0::2], turned[:, 1::2] = -low * scale, (SIDE - low) * scale
    return turned


def _refine(a: np.ndarray, b: np.ndarray, window: np.ndarray, level: _Level) -> tuple[np.ndarray, np.ndarray]:
    """The best correlation on one level and the window that gave it."""
    a, b = (_detail(_shrunk(each, level.shrink), level.fine, level.coarse) for each in (a, b))
    place = window / level.shrink
    best, where = np.full(len(a), -1.0), place.copy()
    for last in [False] * level.steps + [True]:
        warped, valid = _warp(b, place)
        value = _correlation(a, warped, valid)
        better = value > best
        best[better], where[better] = value[better], place[better]
        if not last:
            place = place + _step(a, warped, valid, place)
    return best, where * level.shrink


def _shrunk(thumbs: np.ndarray, times: int) -> np.ndarray:
    side = thumbs.shape[-1] // times
    return thumbs.reshape(-1, side, times, side, times).mean((2, 4), dtype=np.float32)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    places = np.arange(images.shape[-1])
    weights = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(weights @ images @ weights.T)


def _detail(images: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """The band between two blurs over its local strength; a fifth of the overall strength keeps air quiet."""
    band = _blur(images, fine) - _blur(images, coarse)
    overall = np.sqrt((band * band).mean((1, 2), keepdims=True))
    return np.asarray(band / (np.sqrt(_blur(band * band, coarse)) + 0.2 * overall + 1e-6))


def _warp(images: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image's window stretched to the full side, and 1 where both show more than their rim, 0 elsewhere."""
    rows, in_rows = _linear(window[:, 0], window[:, 1], images.shape[-1])
    columns, in_columns = _linear(window[:, 2], window[:, 3], images.shape[-1])
    return rows @ images @ columns.transpose(0, 2, 1), in_rows[:, :, None] * in_columns[:, None, :]


def _linear(start: np.ndarray, stop: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    part = (np.arange(side) + 0.5) / side
    place = start[:, None] * (1 - part) + stop[:, None] * part - 0.5
    weights = 1 - abs(np.clip(place, 0, side - 1)[:, :, None] - np.arange(side))
    rim = _RIM * side
    inside = (place >= rim - 0.5) & (place <= side - rim - 0.5)
    inside &= (part * side >= rim) & (part * side <= side - rim)
    return np.clip(weights, 0, None).astype(np.float32), inside.astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    count = np.maximum(valid.sum((1, 2)), 1)
    a, b = ((each - ((each * valid).sum((1, 2)) / count)[:, None, None]) * valid for each in (a, b))
    strength = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return np.asarray((a * b).sum((1, 2)) / np.maximum(strength, 1e-9), dtype=np.float64)


def _step(a: np.ndarray, warped: np.ndarray, valid: np.ndarray, window: np.ndarray) -> np.ndarray:
    """How the window's four edges should move: least squares, with gain and offset free."""
    n, side = a.shape[0], a.shape[-1]
    part = ((np.arange(side) + 0.5) / side).astype(np.float32)
    per_pixel = (side / (window[:, 1::2] - window[:, 0::2])).astype(np.float32)
    down, along = np.gradient(warped, axis=(1, 2))
    down, along = down * per_pixel[:, 0, None, None], along * per_pixel[:, 1, None, None]
    columns = [down * (1 - part)[:, None], down * part[:, None], along * (1 - part), along * part]
    slopes = (np.stack([*columns, warped, np.ones_like(warped)], axis=1) * valid[:, None]).reshape(n, 6, -1)
    normal = slopes @ slopes.transpose(0, 2, 1)
    normal[:, range(6), range(6)] *= 1.001
    normal[:, range(6), range(6)] += 1e-3
    found = np.linalg.solve(normal, slopes @ (a * valid).reshape(n, -1, 1))[:, :, 0]
    gain = np.maximum(found[:, 4:5], 0.2)
    return np.asarray(np.clip(found[:, :4] / gain, -_LARGEST_STEP, _LARGEST_STEP), dtype=np.float64)
