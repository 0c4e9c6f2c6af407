"""What decoding the files of a table tells: sizes, depths, what cannot be read, masks and boxes that do not fit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lesioncam.data.io import nifti
from lesioncam.data.io.base import ImageInfo
from lesioncam.data.io.image import read_mask, read_picture, split_index, validate_image
from lesioncam.data.table.duplicates import Prints, one_thread_each
from lesioncam.data.table.sheet import Problem
from lesioncam.data.table.table import Table
from lesioncam.errors import ImageError
from lesioncam.functional.prints import Print, image_print
from lesioncam.picture import VolumeGrid
from lesioncam.types import POSITIVE, Record

_FAR = 0.5  # of the smallest side of a voxel


@dataclass
class SeenFiles:
    """What decoding the files told."""

    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    spacings: Counter[tuple[float, ...]] = field(default_factory=Counter)
    depths: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    prints: Prints | None = None

    def count(self, info: ImageInfo | None) -> None:
        """Take in one image that could be read."""
        if info is None:
            return
        self.sizes[info.size] += 1
        self.depths[info.depth] += 1
        if info.spacing is not None:
            self.spacings[tuple(round(mm, 3) for mm in info.spacing)] += 1


class _Image(NamedTuple):
    """What decoding one image told; nothing if it could not be read."""

    info: ImageInfo | None = None
    print: Print | None = None
    grid: VolumeGrid | None = None


def see_files(table: Table, *, prints: bool) -> SeenFiles:
    """Every image with its masks, a few at a time, so that memory stays flat."""
    look = _Look(table.source, table.classes, prints)
    records, seen, found = table.records(), SeenFiles(), []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool, one_thread_each():
        for start in range(0, len(records), 256):
            for images, problems in pool.map(look.at, records[start : start + 256]):
                seen.problems += problems
                found += [image.print for image in images]
                for image in images:
                    seen.count(image.info)
    if prints:
        seen.prints = Prints.of([record.id for record in records for _ in record.images or ("",)], found)
    return seen


@dataclass(frozen=True)
class _Look:
    """Decodes one record's files and says what is wrong with them."""

    source: str
    classes: tuple[str, ...]
    prints: bool

    def at(self, record: Record) -> tuple[list[_Image], list[Problem]]:
        problems: list[Problem] = []
        images = [self._image(record, path, problems) for path in record.images] or [_Image()]
        known = {image.info.size: image for image in images if image.info is not None}
        if len(known) == 1:  # masks and boxes lie on the grid of all its images
            problems += self._truth(record, next(iter(known.values())))
        return images, problems

    def _image(self, record: Record, path: str, problems: list[Problem]) -> _Image:
        try:
            picture = read_picture(path)
        except ImageError as error:
            missing = not split_index(path)[0].exists()
            problems.append(self._problem(record, "missing image" if missing else "unreadable image", error))
            return _Image()
        try:
            validate_image(picture)
        except ImageError as error:
            problems.append(self._problem(record, "image without content", error))
        print_ = image_print(picture.plane) if self.prints and picture.pixels.size else None
        return _Image(ImageInfo.of(picture), print_, picture.grid)

    def _truth(self, record: Record, image: _Image) -> Iterator[Problem]:
        assert image.info is not None
        size, grid = image.info.size, image.grid
        yield from self._masks(record, size)
        yield from self._reader_masks(record, size)
        yield from self._elsewhere(record, grid)
        yield from self._boxes(record, grid.shape[::-1] if grid is not None else size)

    def _problem(self, record: Record, kind: str, text: object) -> Problem:
        return Problem(record.row, kind, f"{self.source} row {record.row}: {text}")

    def _positive(self, record: Record, label: str) -> bool:
        states = dict(zip(self.classes, record.labels, strict=True))
        return states.get(label) == POSITIVE if label else POSITIVE in record.labels

    def _elsewhere(self, record: Record, grid: VolumeGrid | None) -> Iterator[Problem]:
        """Masks of the right size that lie at another place in the body than their volume."""
        drawn = [file for files in record.masks.values() for file in files]
        for file in dict.fromkeys(drawn if grid is not None else []):
            path, index = split_index(file)
            if not (nifti.recognises(path) and path.is_file()):
                continue
            try:
                own = nifti.read_grid(path, index)
            except ImageError:
                continue  # said already
            if grid is not None and own.size == grid.size and (away := own.distance(grid)) > _FAR:
                text = f"the mask {path.name} lies up to {away:.1f} voxels away from its volume; save it on its grid."
                yield self._problem(record, "mask elsewhere", text)

    def _masks(self, record: Record, size: tuple[int, ...]) -> Iterator[Problem]:
        for label, files in record.masks.items():
            try:
                lesion = bool(read_mask(files, size).any())
            except ImageError as error:
                yield self._bad_mask(record, files, error)
                continue
            whose = f"class {label!r}" if label else "any class"
            if lesion and not self._positive(record, label):
                text = f"there is a mask although the row is not positive for {whose}."
                yield self._problem(record, "mask without finding", text)
            elif not lesion and self._positive(record, label):
                text = f"the mask {Path(files[0]).name} is empty although the row is positive for {whose}."
                yield self._problem(record, "empty mask", text)

    def _reader_masks(self, record: Record, size: tuple[int, ...]) -> Iterator[Problem]:
        for files in [files for masks in record.readers.values() for files in masks.values()]:
            try:
                read_mask(files, size)
            except ImageError as error:
                yield self._bad_mask(record, files, error)

    def _bad_mask(self, record: Record, files: tuple[str, ...], error: ImageError) -> Problem:
        missing = not all(split_index(file)[0].exists() for file in files)
        return self._problem(record, "missing mask" if missing else "unusable mask", error)

    def _boxes(self, record: Record, size: tuple[int, ...]) -> Iterator[Problem]:
        """``size`` is ``(H, W)`` of an image, ``(K, J, I)`` of the file of a volume: the reverse order of its boxes."""
        axes = len(size)
        for box in record.boxes:
            numbers = [f"{value:g}" for value in box.box]
            where = f"box [{', '.join(numbers)}] of {box.label!r}"
            fits = len(box.box) == 2 * axes and min(box.box[:axes]) >= -1
            if not fits or any(end > side + 1 for end, side in zip(box.box[axes:], size[::-1], strict=True)):
                named = f"image of {size[0]} x {size[1]} (height x width). Use its own pixels."
                if axes == 3:
                    named = f"volume of {' x '.join(map(str, size[::-1]))} (i x j x k). Use the file's own voxels."
                yield self._problem(record, "box outside", f"{where} lies outside the {named}")
            elif not self._positive(record, box.label):
                yield self._problem(record, "box without finding", f"{where}, although the row is not positive for it.")
