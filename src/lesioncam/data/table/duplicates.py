"""Images that are nearly the same: copies with another compression, size, crop, frame, brightness, or mirrored.

First the hashes name candidates, then aligned correlation of fine detail judges them; neighbouring slices of a patient
pass the first and fail the second. A volume is judged by its middle slice. The constants were chosen on planted copies
(``benchmarks/duplicates.py``).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lesioncam.data.io.image import read_picture
from lesioncam.data.table.columns import image_paths
from lesioncam.data.table.table import Table
from lesioncam.errors import ImageError, RunError
from lesioncam.files import write_with
from lesioncam.functional.prints import SIDE, WINDOWS, Candidates, Print, correlate, hash_candidates, image_print

RADIUS = 12
"""Bits of 64 in which the hashes of a candidate may differ."""
CORRELATION = 0.86
"""From this aligned correlation on two images are copies."""
SMALL, SMALL_CORRELATION = 48, 0.97
"""Images with fewer pixels a side hold little detail in which they could differ: there it takes more."""
TINY = 32
"""With fewer still, all that is alike would be a candidate: only the very same pictures, plain or mirrored, are."""

_VERSION = 1
_ROWS = 2048  # prints matched by one thread at a time
_PAIRS = 128  # candidates judged at a time: 30 MiB
_BLANK = Print(np.zeros((SIDE, SIDE), np.uint8), np.zeros(len(WINDOWS), np.uint64), 0)


class Pair(NamedTuple):
    """Two images that are nearly the same.

    Attributes:
        first: position in the (first) set of prints.
        second: position in the same set, or in the second one.
        kind: ``copy``, or ``mirror`` where one is the left-right mirror image of the other.
        correlation: of fine detail after alignment, at most 1.
    """

    first: int
    second: int
    kind: Literal["copy", "mirror"]
    correlation: float


@dataclass(frozen=True, eq=False)
class Prints:
    """Prints of n images. The thumbnails are small pictures of patients: keep them where the images may be.

    Attributes:
        names: n ids.
        hashes: ``(n, 19)`` uint64.
        thumbs: ``(n, 80, 80)`` uint8; all zero where the image could not be read, which matches nothing.
        sides: ``(n,)`` int32, shorter side of each image's content, pixels.
    """

    names: tuple[str, ...]
    hashes: np.ndarray
    thumbs: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        """Images."""
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str], prints: Sequence[Print | None]) -> Prints:
        """From single prints; None for an image that could not be read."""
        each = [_BLANK if print_ is None else print_ for print_ in prints]
        hashes = np.array([print_.hashes for print_ in each], np.uint64).reshape(-1, len(WINDOWS))
        thumbs = np.array([print_.thumb for print_ in each], np.uint8).reshape(-1, SIDE, SIDE)
        return cls(tuple(names), hashes, thumbs, np.array([print_.side for print_ in each], np.int32))

    def take(self, rows: np.ndarray | Sequence[int]) -> Prints:
        """Those of some images only, by position or as a ``(n,)`` bool mask."""
        chosen = np.asarray(rows)
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        names = tuple(self.names[place] for place in places.tolist())
        return Prints(names, self.hashes[places], self.thumbs[places], self.sides[places])

    def usable(self) -> np.ndarray:
        """``(n,)`` bool: the images that show something."""
        return np.asarray(self.thumbs.max(axis=(1, 2)) > self.thumbs.min(axis=(1, 2)))


# ---- collecting --------------------------------------------------------------------------------------------------


def collect_prints(table: Table, *, progress: Callable[[int, int], object] | None = None) -> Prints:
    """Decode the images of a table, a few at a time, and keep their prints only: 6.5 kB an image.

    Args:
        table: its images may be unreadable; ``check`` says which.
        progress: called with how many images are done, and of how many.

    Returns:
        One print per image, in the order of the table, under its row's id; a row without an image has a blank one.
    """
    images, rows = table_images(table)
    names = table.frame["id"].to_numpy(dtype=object)[rows].tolist()
    found: list[Print | None] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(images), 64):
            with one_thread_each():
                found += pool.map(_print_of, images[start : start + 64])
            if progress is not None:
                progress(len(found), len(images))
    return Prints.of(names, found)


def table_images(table: Table) -> tuple[list[str], np.ndarray]:
    """Every image of a table ("" for a row without) and the position of its row."""
    cells = [image_paths(cell) or ("",) for cell in table.frame["image"]]
    rows = np.repeat(np.arange(len(cells)), [len(images) for images in cells])
    return [image for images in cells for image in images], rows


def duplicate_rows(table: Table, prints: Prints) -> list[Pair]:
    """Rows of a table that have nearly the same image: pairs of positions in the table.

    Args:
        table: n rows.
        prints: of all its images, as :func:`collect_prints` gives them.
    """
    rows = table_images(table)[1].tolist()
    pairs: dict[tuple[int, int], Pair] = {}
    for pair in find_duplicates(prints):
        first, second = rows[pair.first], rows[pair.second]
        if first != second:  # the images of one row are meant to be alike
            pairs.setdefault((first, second), pair._replace(first=first, second=second))
    return list(pairs.values())


def _print_of(image: str) -> Print | None:
    try:
        return image_print(read_picture(image).plane) if image else None
    except ImageError:
        return None


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Threads of ours that multiply small matrices must not each start threads of the linear algebra library."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, user_api="blas"):
        yield


# ---- matching ----------------------------------------------------------------------------------------------------


def find_duplicates(
    prints: Prints,
    groups: Sequence[object] | np.ndarray | None = None,
    *,
    radius: int = RADIUS,
    correlation: float = CORRELATION,
    budget: int | None = None,
) -> list[Pair]:
    """Images of one set that are nearly the same.

    Args:
        prints: n of them.
        groups: n values, for instance the split of each image: only pairs of different groups are sought, and images of
            no group (None, NaN) are left out. By default all pairs.
        radius: bits of 64 in which the hashes of candidates may differ.
        correlation: from which on a candidate is a pair.
        budget: candidates judged at most; where there are more (thousands of images that look alike), the radius
            shrinks. By default ten per image, and at least 100,000.

    Returns:
        Pairs with ``first < second``, in that order.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 256, (3, 90, 100), dtype=np.uint8)
        >>> prints = Prints.of("abcd", [image_print(image) for image in (*images, images[0, :, ::-1])])
        >>> find_duplicates(prints)
        [Pair(first=0, second=3, kind='mirror', correlation=1.0)]
        >>> find_duplicates(prints, ["train", "train", "test", "train"])
        []
    """
    usable = prints.usable()
    parts: list[tuple[np.ndarray, np.ndarray | None]] = [(np.flatnonzero(usable), None)]
    if groups is not None:
        codes = np.asarray(pd.factorize(pd.Series(list(groups), dtype=object))[0])  # -1 where there is none
        members = [np.flatnonzero(usable & (codes == code)) for code in range(codes.max(initial=-1) + 1)]
        parts = [*combinations(members, 2)]
    near = _Nearest(radius, _budget(budget, len(prints)))
    for first, second in parts:
        _seek(near, prints, first, prints, second)
    return _judge(prints, prints, near.candidates(), correlation)


def match_prints(
    first: Prints,
    second: Prints,
    *,
    radius: int = RADIUS,
    correlation: float = CORRELATION,
    budget: int | None = None,
) -> list[Pair]:
    """Images of one set that are nearly the same as images of another, for instance a run's training and test images.

    Args:
        first: n prints.
        second: m prints.
        radius: see :func:`find_duplicates`.
        correlation: likewise.
        budget: likewise.

    Returns:
        Pairs in order: ``first`` is a position in the first set, ``second`` one in the second.
    """
    near = _Nearest(radius, _budget(budget, len(first) + len(second)))
    _seek(near, first, np.flatnonzero(first.usable()), second, np.flatnonzero(second.usable()))
    return _judge(first, second, near.candidates(), correlation)


def _budget(budget: int | None, images: int) -> int:
    return max(100_000, 10 * images) if budget is None else budget


class _Nearest:
    """Candidates found so far; the radius shrinks as soon as there are more than the budget."""

    def __init__(self, radius: int, budget: int) -> None:
        self.radius, self.budget = radius, budget
        self.parts: list[Candidates] = []

    def add(self, one: np.ndarray, first: np.ndarray, two: np.ndarray, second: np.ndarray | None) -> None:
        """Candidates between some rows of the hashes ``one`` and some of ``two``; None: among ``first`` itself."""
        left, right = one[first], two[first if second is None else second]
        other = first if second is None else second
        starts = list(range(0, len(first), _ROWS))

        def look(start: int) -> Candidates:
            below = start if second is None else None
            return hash_candidates(left[start : start + _ROWS], right, self.radius, below=below)

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for start, found in zip(starts, pool.map(look, starts), strict=True):
                place = Candidates(first[found.first + start], other[found.second], found.mirror, found.distance)
                self.parts.append(_those(place, place.distance <= self.radius))
                self._shrink()

    def _shrink(self) -> None:
        counts = sum(np.bincount(part.distance, minlength=65) for part in self.parts)
        if int(np.sum(counts)) > self.budget:
            reach = int(np.searchsorted(np.cumsum(counts), self.budget, side="right")) - 1
            self.radius = min(self.radius, max(reach, 0))
            self.parts = [_those(part, part.distance <= self.radius) for part in self.parts]

    def candidates(self) -> Candidates:
        parts = self.parts or [Candidates(*[np.empty(0, int)] * 4)]
        whole = Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        return _those(whole, np.argsort(whole.distance, kind="stable")[: self.budget])


def _seek(near: _Nearest, one: Prints, first: np.ndarray, two: Prints, second: np.ndarray | None) -> None:
    """Candidates between some rows of two sets, or among ``first`` where ``second`` is None; tiny ones by sameness."""
    tiny = first[one.sides[first] < TINY]
    large = first[one.sides[first] >= TINY]
    if second is None:
        near.add(one.hashes, large, one.hashes, None)
        near.add(one.hashes, large, one.hashes, tiny)
        near.parts.append(_same(one, tiny, one, tiny))
        return
    near.add(one.hashes, large, two.hashes, second)
    near.add(one.hashes, tiny, two.hashes, second[two.sides[second] >= TINY])
    near.parts.append(_same(one, tiny, two, second[two.sides[second] < TINY]))


def _same(one: Prints, first: np.ndarray, two: Prints, second: np.ndarray) -> Candidates:
    """Pairs whose thumbnails are equal to the bit, plain or mirrored; within one set each pair once."""
    homes: dict[bytes, list[int]] = {}
    for place in second.tolist():
        homes.setdefault(two.thumbs[place].tobytes(), []).append(place)
    found = [
        (place, other, mirror)
        for place in first.tolist()
        for mirror in (False, True)
        for other in homes.get(np.ascontiguousarray(one.thumbs[place][:, :: -1 if mirror else 1]).tobytes(), ())
        if one is not two or place < other
    ]
    columns = np.array(found, dtype=int).reshape(-1, 3).T
    return Candidates(columns[0], columns[1], columns[2].astype(bool), np.zeros(len(found), dtype=np.int64))


def _those(candidates: Candidates, chosen: np.ndarray) -> Candidates:
    return Candidates(*(column[chosen] for column in candidates))


def _judge(first: Prints, second: Prints, candidates: Candidates, least: float) -> list[Pair]:
    def value(start: int) -> np.ndarray:
        part = _those(candidates, np.arange(start, min(start + _PAIRS, len(candidates.first))))
        return correlate((first.thumbs, first.hashes), (second.thumbs, second.hashes), part)

    starts = range(0, len(candidates.first), _PAIRS)
    with one_thread_each(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        values = np.concatenate([np.empty(0), *pool.map(value, starts)])
    small = np.minimum(first.sides[candidates.first], second.sides[candidates.second]) < SMALL
    best: dict[tuple[int, int], Pair] = {}
    for place in np.flatnonzero(values >= np.where(small, max(least, SMALL_CORRELATION), least)).tolist():
        one, two = sorted((int(candidates.first[place]), int(candidates.second[place])))
        if first is not second:
            one, two = int(candidates.first[place]), int(candidates.second[place])
        kind: Literal["copy", "mirror"] = "mirror" if candidates.mirror[place] else "copy"
        pair = Pair(one, two, kind, round(min(1.0, float(values[place])), 4))
        if (one, two) not in best or pair.correlation > best[one, two].correlation:
            best[one, two] = pair
    return [best[key] for key in sorted(best)]


def duplicate_groups(pairs: Sequence[Pair], count: int) -> np.ndarray:
    """Group numbers ``(count,)`` from 0 on, in which everything joined by pairs has the same.

    Example:
        >>> duplicate_groups([Pair(0, 2, "copy", 1.0), Pair(2, 3, "mirror", 0.95)], 5).tolist()
        [0, 1, 0, 0, 2]
    """
    ends = np.array([(pair.first, pair.second) for pair in pairs], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    return np.asarray(pd.factorize(labels)[0])


# ---- the store ---------------------------------------------------------------------------------------------------


def save_prints(prints: Prints, path: str | Path) -> Path:
    """Write prints as compressed ``.npz``, whole or not at all. It holds ids and small pictures of patients."""
    names = np.array(prints.names, dtype=str)

    def write(partial: Path) -> None:
        np.savez_compressed(
            partial, version=_VERSION, names=names, hashes=prints.hashes, thumbs=prints.thumbs, sides=prints.sides
        )

    return write_with(Path(path), write)


def load_prints(path: str | Path) -> Prints:
    """Read what :func:`save_prints` wrote; nothing is unpickled.

    Raises:
        RunError: if the file is missing, damaged, or of another version.
    """
    place = Path(path)
    try:
        with place.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            version, names = int(stored["version"]), tuple(stored["names"].tolist())
            hashes, thumbs, sides = stored["hashes"], stored["thumbs"], stored["sides"]
    except FileNotFoundError as error:
        raise RunError(f"{place} is missing; collect the prints again.") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(f"{place} holds no prints of images ({error}); collect them again.") from error
    n = len(names)
    right = (hashes.shape, thumbs.shape, sides.shape) == ((n, len(WINDOWS)), (n, SIDE, SIDE), (n,))
    if version != _VERSION or not right or (hashes.dtype, thumbs.dtype) != (np.uint64, np.uint8):
        raise RunError(f"{place} holds prints of another version of lesioncam; collect them again.")
    return Prints(names, hashes, thumbs, sides)
