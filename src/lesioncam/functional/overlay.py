"""Paint a heat map, masks and boxes on an image: one absolute colour scale, colours that survive colour blindness.

A probability has the same colour in every image, and none where it is cold, so a healthy image stays grey. What the
model says is a solid sky-blue line, what the reader said (truth) a dashed yellow and black one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from lesioncam.errors import GeometryError, ImageError

PREDICTED = (86, 180, 233)
"""Sky blue (Okabe and Ito): what the model says, solid."""
TRUTH = (240, 228, 66)
"""Yellow (Okabe and Ito): what the reader said, dashed with black."""
DISPLAY_SIDE = 256
OPACITY, COLD, HOT = 0.75, 0.1, 0.6
"""Nothing is painted below COLD; from there opacity grows evenly until HOT."""


def overlay(
    image: np.ndarray,
    probability: np.ndarray | None,
    mask: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    boxes: Iterable[Sequence[float]] = (),
    *,
    truth_boxes: Iterable[Sequence[float]] = (),
    zoom: int | None = None,
) -> np.ndarray:
    """Paint what a model saw on one image, ``(H * zoom, W * zoom, 3)`` uint8.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8, as it should look; colour turns grey under a heat map.
        probability: ``(H, W)`` in [0, 1], on a fixed scale: never stretched to the image; None paints no heat map.
        mask: ``(H, W)`` bool, predicted; its outline is solid.
        truth: ``(H, W)`` bool; its outline is dashed.
        boxes: predicted, half-open ``(x0, y0, x1, y1)`` in pixels of ``image``; solid.
        truth_boxes: the reader's, dashed.
        zoom: whole factor of enlargement; None enlarges small images until the longer side has 256 pixels.

    Raises:
        ImageError: if the image is not uint8 or has no such shape.
        GeometryError: if map or masks lie on another grid than the image.

    Example:
        >>> grey = np.full((4, 4), 90, np.uint8)
        >>> cold = overlay(grey, np.zeros((4, 4)), zoom=1)
        >>> bool((cold == 90).all())
        True
        >>> overlay(grey, np.ones((4, 4)), zoom=1)[0, 0].tolist()      # three quarters of the hottest colour
        [202, 209, 48]
    """
    _check(image, probability, mask, truth)
    factor = auto_zoom(image.shape[:2]) if zoom is None else zoom
    canvas = _enlarge_image(image, factor)
    if probability is not None:
        canvas = _blend(canvas, _enlarge_map(probability, factor))
    lines = line_layer(image.shape[:2], mask, truth, boxes, truth_boxes=truth_boxes, zoom=factor)
    return np.where(lines[..., 3:] > 0, lines[..., :3], canvas)


def line_layer(
    shape: Sequence[int],
    mask: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    boxes: Iterable[Sequence[float]] = (),
    *,
    truth_boxes: Iterable[Sequence[float]] = (),
    zoom: int = 1,
) -> np.ndarray:
    """Outlines and boxes alone, ``(H * zoom, W * zoom, 4)`` uint8, transparent elsewhere; arguments as for `overlay`.

    Example:
        >>> line_layer((5, 5), boxes=[(2, 2, 3, 3)])[..., 3].sum() // 255     # the eight pixels around the box
        np.uint64(8)
    """
    size = (shape[0] * zoom, shape[1] * zoom)
    layer = np.zeros((*size, 4), np.uint8)
    thickness = max(1, round(max(size) / 160))
    for region in _frames(truth_boxes, zoom, size) + _enlarge_masks([truth], zoom):
        _stroke_dashed(layer, region, thickness)
    for region in _frames(boxes, zoom, size) + _enlarge_masks([mask], zoom):
        layer[_rim(region, thickness)] = (*PREDICTED, 255)
    return layer


def heat_layer(probability: np.ndarray) -> np.ndarray:
    """The heat map alone, ``(..., 4)`` uint8, transparent where cold: the only colour scale there is.

    Values outside [0, 1] are clipped; a value that is not a number is painted as nothing.

    Example:
        >>> heat_layer(np.array([0.1, 0.35, 1.0]))[:, 3].tolist()
        [0, 96, 191]
    """
    colour, opacity = _heat(probability)
    return np.concatenate([colour, 255.0 * opacity[..., None]], axis=-1).round().astype(np.uint8)


def color_bar(width: int = 360, height: int = 36) -> np.ndarray:
    """The legend of every overlay, ``(height, width, 3)`` uint8: probability to the right, brighter tissue upwards.

    Example:
        >>> color_bar(4, 2)[:, 0].tolist()      # cold: the tissue itself
        [[255, 255, 255], [0, 0, 0]]
    """
    tissue = np.linspace(255, 0, height).round().astype(np.uint8)
    canvas = np.repeat(np.repeat(tissue[:, None], width, axis=1)[..., None], 3, axis=2)
    return _blend(canvas, np.broadcast_to(np.linspace(0, 1, width), (height, width)))


def auto_zoom(shape: Sequence[int]) -> int:
    """Smallest whole factor that brings the longer side to 256 pixels.

    Example:
        >>> auto_zoom((100, 60)), auto_zoom((512, 512))
        (3, 1)
    """
    return max(1, -(-DISPLAY_SIDE // max(shape)))


def shrink(array: np.ndarray, side: int) -> np.ndarray:
    """Bring the last two axes (first two of a colour image) to at most ``side`` pixels; smaller ones stay.

    Images (uint8) and maps (float) are averaged, masks (bool) keep every pixel that touches the lesion.

    Example:
        >>> shrink(np.eye(4, dtype=bool)[None], 2).astype(int).tolist()
        [[[1, 0], [0, 1]]]
    """
    if array.dtype == np.uint8:
        return _resize_image(array, side)
    if max(array.shape[-2:]) <= side:
        return array
    planes = [_resize_plane(plane, side) for plane in array]
    return np.stack(planes)


def _heat(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour ``(..., 3)`` in 0..255 and opacity ``(...)`` in 0..1, both float."""
    clipped = np.clip(np.nan_to_num(np.asarray(probability, dtype=np.float32), nan=0.0), 0.0, 1.0)
    colour = _palette()[np.rint(clipped * 255).astype(np.intp)]
    return colour, OPACITY * np.clip((clipped - COLD) / (HOT - COLD), 0.0, 1.0)


def _check(image: np.ndarray, *layers: np.ndarray | None) -> None:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ImageError(
            f"an overlay needs a uint8 image of shape (H, W) or (H, W, 3), got {image.dtype} {image.shape}; "
            "scale the image to 0..255 as it should look."
        )
    for layer in layers:
        if layer is not None and layer.shape != image.shape[:2]:
            raise GeometryError(
                f"the layer is {layer.shape} but the image is {image.shape[:2]}; bring it to that grid first."
            )


@cache
def _palette() -> np.ndarray:
    from matplotlib import colormaps

    return np.asarray(colormaps["plasma"](np.arange(256))[:, :3] * 255.0, dtype=np.float32)


def _enlarge_image(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = image.shape[:2]
    picture = Image.fromarray(image).convert("RGB")
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    return np.array(picture)


def _enlarge_map(probability: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return probability
    height, width = probability.shape
    picture = Image.fromarray(probability.astype(np.float32))
    return np.asarray(picture.resize((width * factor, height * factor), Image.Resampling.BILINEAR))


def _enlarge_masks(masks: Sequence[np.ndarray | None], factor: int) -> list[np.ndarray]:
    return [m.astype(bool).repeat(factor, 0).repeat(factor, 1) for m in masks if m is not None]


def _blend(canvas: np.ndarray, probability: np.ndarray) -> np.ndarray:
    grey = np.asarray(Image.fromarray(canvas).convert("L"), dtype=np.float32)[..., None]
    colour, opacity = _heat(probability)
    mixed = grey * (1.0 - opacity[..., None]) + colour * opacity[..., None]
    return np.rint(mixed).astype(np.uint8)


def _frames(boxes: Iterable[Sequence[float]], factor: int, shape: Sequence[int]) -> list[np.ndarray]:
    frames = []
    for x0, y0, x1, y1 in boxes:
        frame = np.zeros(shape, dtype=bool)
        rows, columns = _span(y0, y1, factor), _span(x0, x1, factor)
        frame[rows, columns] = True
        frames.append(frame)
    return frames


def _span(start: float, stop: float, factor: int) -> slice:
    first = max(0, round(start * factor))
    return slice(first, max(first + 1, round(stop * factor)))


def _rim(region: np.ndarray, thickness: int) -> np.ndarray:
    """The pixels around a region, so that the line hides nothing of it; inside it only along the image's own edge."""
    around = ndimage.binary_dilation(region, np.ones((3, 3), bool), iterations=thickness) & ~region
    edge = np.ones_like(region)
    edge[thickness:-thickness, thickness:-thickness] = False
    return np.asarray(around | (region & edge))


def _stroke_dashed(layer: np.ndarray, region: np.ndarray, thickness: int) -> None:
    parts, count = ndimage.label(region, structure=np.ones((3, 3)))
    for part in range(1, count + 1):
        rows, columns = np.nonzero(_rim(parts == part, thickness))
        angle = np.arctan2(rows - rows.mean(), columns - columns.mean()) / (2 * np.pi)
        pairs = max(4, round(len(rows) / thickness / (9 * thickness)))
        dashes = np.floor(angle * pairs * 2).astype(int) % 2 == 0
        layer[rows, columns] = np.where(dashes[:, None], (*TRUTH, 255), (0, 0, 0, 255))


def _size_within(shape: Sequence[int], side: int) -> tuple[int, int]:
    scale = side / max(shape)
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _resize_image(image: np.ndarray, side: int) -> np.ndarray:
    if max(image.shape[:2]) <= side:
        return image
    return np.array(Image.fromarray(image).resize(_size_within(image.shape[:2], side), Image.Resampling.BOX))


def _resize_plane(plane: np.ndarray, side: int) -> np.ndarray:
    picture = Image.fromarray(plane.astype(np.float32))
    small = np.asarray(picture.resize(_size_within(plane.shape, side), Image.Resampling.BOX))
    return small > 0 if plane.dtype == bool else small
