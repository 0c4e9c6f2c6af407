"""Crops: squares of the file's own pixels round the hottest regions, and their rows of crops.csv."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncam.export.predicted_image import PredictedImage
from lesioncam.files import write_with
from lesioncam.segmentation.crops import Crop, hottest, square_crop
from lesioncam.types import Component

Rows = list[dict[str, str | float]]

COLUMNS = ("image", "class", "crop", "box", "region", "peak", "scale")
"""Of crops.csv."""
CROPS, CROP_SIZE = 3, 256
"""So many crops of each class at most, and their side in pixels."""


def write_crops(image: PredictedImage, out: Path) -> Rows:
    """Write the crops of the classes that are positive or asked for by name.

    Returns:
        A row of crops.csv for each.
    """
    rows, result = Rows(), image.result
    for k in image.wanted:
        label = result.classes[k]
        parts = result.segmentation.components[k] if result.positive[k] or label in image.named else ()
        for i, part in enumerate(hottest(parts, CROPS)):
            crop = _crop(image, part)
            place = out / "crops" / f"{image.file_stem(k)}_{i + 1}{_suffix(crop.pixels)}"
            write_with(place, _saver(crop.pixels))
            row: dict[str, str | float] = {"image": result.id, "class": label, "crop": place.name}
            row |= {"box": json.dumps(crop.box), "region": json.dumps(crop.region)}
            rows.append(row | {"peak": round(crop.peak, 6), "scale": image.scale})
    return rows


def _crop(image: PredictedImage, part: Component) -> Crop:
    """A square round a region; of a volume in the axial slice of its peak, boxes in the voxels of the file."""
    if image.grid is None:
        return square_crop(image.picture.pixels, part, CROP_SIZE)
    d, *place = part.place
    x0, y0, _, x1, y1, _ = part.box
    flat = replace(part, box=(x0, y0, x1, y1), place=tuple(place))
    square = square_crop(image.picture.pixels[d, ..., 0], flat, CROP_SIZE)
    around = (*square.box[:2], d, *square.box[2:], d + 1)
    return replace(square, box=image.box(around), region=image.box(part.box))


def _suffix(pixels: np.ndarray) -> str:
    """PNG where it keeps the depth, otherwise TIFF."""
    return ".png" if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and pixels.ndim == 2) else ".tif"


def _saver(pixels: np.ndarray) -> Callable[[Path], object]:
    if _suffix(pixels) == ".png":
        return Image.fromarray(pixels).save
    import tifffile

    return lambda place: tifffile.imwrite(place, pixels)
