"""What a table says about one image: labels, masks and boxes on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lesioncam.data.io import nifti
from lesioncam.data.io.image import read_mask, split_index
from lesioncam.evaluation.cases import Truth
from lesioncam.types import Box, Record


def read_masks(
    record: Record, classes: Sequence[str], labels: Sequence[float], size: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Masks of one record by class; a plain ``mask`` belongs to every positive class of the row.

    Args:
        record: the table's row.
        classes: K names.
        labels: ``(K,)``, after the policy of the run.
        size: native size of the image, ``(H, W)`` or ``(D, H, W)``.

    Raises:
        ImageError: for a mask that cannot be read.
        GeometryError: for a mask of another size than its image.
    """
    found = {}
    for name, label in zip(classes, labels, strict=True):
        files = record.masks.get(name) or (record.masks.get("") if label == 1 else None)
        if files:
            found[name] = read_mask(files, size)
    return found


def read_truth(
    record: Record, classes: Sequence[str], labels: Sequence[float], size: tuple[int, ...], patient: str
) -> Truth:
    """All that is known about one record; ``patient`` is a keyed digest.

    Raises:
        LesioncamError: as :func:`read_masks`.
    """
    return Truth(
        states=record.labels,
        labels=labels,
        patient=patient,
        split=str(record.split),
        masks=read_masks(record, classes, labels, size),
        boxes=read_boxes(record),
        readers=read_readers(record, classes, labels, size),
    )


def read_boxes(record: Record) -> tuple[Box, ...]:
    """Truth boxes of one record; those of a volume, which the table has in the file's voxels, in the array's."""
    path, index = split_index(record.image)
    if not record.boxes or not nifti.recognises(path):
        return record.boxes
    grid = nifti.read_grid(path, index)
    return tuple(replace(box, box=grid.box_from_file(box.box)) for box in record.boxes)


def read_readers(
    record: Record, classes: Sequence[str], labels: Sequence[float], size: tuple[int, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """What each human reader drew, by class; a reader's plain mask belongs to every positive class of the row.

    Raises:
        LesioncamError: as :func:`read_masks`.
    """
    drawn = {}
    for reader, masks in record.readers.items():
        own = replace(record, masks=masks)
        if found := read_masks(own, classes, labels, size):
            drawn[reader] = found
    return drawn
