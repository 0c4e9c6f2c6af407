"""What ``predict --write`` can write, by name: a writer takes one predicted image and a folder.

Of a volume, maps and masks are NIfTI files on the grid of the file they belong to, overlays show one slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncam.data.io.nifti import save_nifti
from lesioncam.data.preprocess import display_image
from lesioncam.export.crops import Rows, write_crops
from lesioncam.export.predicted_image import PredictedImage, gated_masks
from lesioncam.files import write_arrays, write_with
from lesioncam.functional.overlay import overlay
from lesioncam.functional.slices import boxes_in, picture

Writer = Callable[[PredictedImage, Path], Rows]
"""``(image, folder)`` -> rows of crops.csv; a kind that has none returns an empty list."""


def _write_maps(image: PredictedImage, out: Path) -> Rows:
    """Raw evidence at its own resolution and the shown map in the file's own pixels; of a volume a file per class."""
    heatmap, wanted = image.result.heatmap, image.wanted
    if image.grid is not None:
        for k in wanted:
            place = out / "maps" / f"{image.file_stem(k)}.nii.gz"
            save_nifti(place, image.maps[k].astype(np.float32), image.grid)
        return []
    content = {
        image.scale: image.maps[wanted].astype(np.float16),
        "raw": heatmap.raw[wanted],
        "classes": np.array([heatmap.classes[k] for k in wanted]),
        "method": np.array(heatmap.method),
        "layer": np.array(heatmap.layer),
    }
    write_arrays(out / "maps" / f"{image.name}.npz", content)
    return []


def _write_masks(image: PredictedImage, out: Path) -> Rows:
    masks = gated_masks(image.result)
    for k in image.wanted:
        place = out / "masks" / image.file_stem(k)
        if image.grid is not None:
            save_nifti(place.with_name(f"{place.name}.nii.gz"), masks[k], image.grid)
        else:
            shown = Image.fromarray(masks[k].astype(np.uint8) * 255)
            write_with(place.with_name(f"{place.name}.png"), shown.save)
    return []


def _write_overlays(image: PredictedImage, out: Path) -> Rows:
    shown, masks = display_image(image.picture.pixels), gated_masks(image.result)
    for k in image.wanted:
        boxes: Sequence[Sequence[float]] = image.boxes(k)
        pixels, heat, mask = shown, image.maps[k], masks[k]
        if (cut := image.slice(k)) is not None:
            boxes = boxes_in(boxes, cut, len(mask))
            pixels, heat, mask = (picture(each, cut) for each in (pixels, heat, mask))
        painted = Image.fromarray(overlay(pixels, heat, mask=mask, boxes=boxes))
        write_with(out / "overlays" / f"{image.file_stem(k)}.png", painted.save)
    return []


def _in_table(_image: PredictedImage, _out: Path) -> Rows:
    """Boxes stand in predictions.csv, asked for or not."""
    return []


WRITERS: dict[str, Writer] = {
    "maps": _write_maps,
    "boxes": _in_table,
    "masks": _write_masks,
    "overlay": _write_overlays,
    "crops": write_crops,
}
"""What can be written, by name."""
