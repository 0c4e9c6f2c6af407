"""An image looked at more than once: mirrored, or as ten crops; each view's maps come home to the file's own pixels.

A mirrored view shows the heart on the right. Where a finding has a side (laterality, situs), or the network could have
learnt one, mirrored views are a trap: it was trained with mirrors only if its augmentation had them (``flip``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from lesioncam.data.preprocess import Prepares, Preprocess, ResizeCrop
from lesioncam.errors import ImageError, ModelError
from lesioncam.geometry import Geometry
from lesioncam.lookup import find
from lesioncam.picture import Picture
from lesioncam.types import Heatmap, Sample

Views = Literal["none", "flip", "ten-crop"]
VIEWS: tuple[str, ...] = get_args(Views)
"""Ways to look at an image."""

ENLARGED = 256 / 224
"""The shorter side of what the ten crops are cut from, over their own side."""

_LONGEST = 4.0
"""Proportions above which four corners and the centre leave most of the image out."""


@dataclass(frozen=True)
class View:
    """One look at an image.

    Attributes:
        sample: what the network is shown.
        geometry: of the whole prepared image, from which this was cut.
        place: where the first pixel of the view lies in it, array order.
        mirrored: left and right are exchanged.
    """

    sample: Sample
    geometry: Geometry
    place: tuple[int, ...]
    mirrored: bool = False

    def native(self, heatmap: Heatmap) -> np.ndarray:
        """The maps of this view on the image's own grid, ``(K, *native)`` float32; exact, nothing is resampled twice.

        Beyond the view they go on as at its edge: see :meth:`seen`.
        """
        grid = heatmap.raw.shape[1:]
        own = Geometry.letterbox(self.sample.image.shape[1:], self.sample.image.shape[1:])
        pitch = own.pitch(grid, heatmap.origin)
        first = list(heatmap.origin) if heatmap.origin is not None else [(step - 1) / 2 for step in pitch]
        raw = heatmap.raw
        if self.mirrored:  # the last cell comes first, and lies where its mirror image lay
            raw = raw[..., ::-1]
            first[-1] = own.input[-1] - 1 - first[-1] - pitch[-1] * (grid[-1] - 1)
        origin = [start + offset for start, offset in zip(first, self.place, strict=True)]
        return self.geometry.to_native(raw, origin=origin, pitch=pitch)

    def seen(self) -> np.ndarray:
        """The native pixels whose centres lie in this view, ``(*native)`` bool."""
        inside = np.ones(self.geometry.native, dtype=bool)
        for axis, (start, size) in enumerate(zip(self.place, self.sample.image.shape[1:], strict=True)):
            points = np.zeros((self.geometry.native[axis], inside.ndim))
            points[:, axis] = np.arange(self.geometry.native[axis])
            places = self.geometry.to_input_points(points)[:, axis]
            begin, end = self.geometry.crop[axis]
            shown = (places >= start - 0.5) & (places < start + size - 0.5)
            shown[:begin] = False
            shown[end:] = False
            inside &= shown.reshape([-1 if a == axis else 1 for a in range(inside.ndim)])
        return inside


def make_views(prepare: Prepares, picture: Picture, how: str) -> tuple[View, ...]:
    """Every look at one image.

    Args:
        prepare: how the network's images are prepared.
        picture: the decoded image.
        how: ``none``: the image; ``flip``: and its left-right mirror; ``ten-crop``: four corners and the centre, each
            and its mirror, of the image enlarged until its shorter side is 256/224 of the network's input.

    Raises:
        OptionError: for another way.
        ImageError: for an image that cannot be used; of more than two axes, or long and narrow, for ten crops.
        ModelError: for ten crops where nobody knows how the network's images are enlarged.

    Reference:
        Ten crops: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NIPS 2012; so
        is CheXNet (Rajpurkar et al., arXiv:1711.05225, 2017) evaluated in its usual re-implementations.
    """
    find(how, dict.fromkeys(VIEWS), "kind of views")
    sample = prepare(picture)
    if how == "ten-crop":
        whole = _enlarged(prepare, picture, sample)
        plain = [_cut(whole, place, sample.image.shape[1:]) for place in _corners(whole, sample.image.shape[1:])]
    else:
        plain = [View(sample, sample.geometry, (0,) * len(sample.geometry.input))]
    return tuple(plain) if how == "none" else tuple(view for one in plain for view in (one, _mirror(one)))


def _mirror(view: View) -> View:
    image, valid = (np.ascontiguousarray(part[..., ::-1]) for part in (view.sample.image, view.sample.valid))
    return View(Sample(image, valid, view.sample.geometry), view.geometry, view.place, mirrored=True)


def _enlarged(prepare: Prepares, picture: Picture, sample: Sample) -> Sample:
    """The image prepared as always, but with a shorter side of 256/224 of the network's input."""
    geometry = sample.geometry
    if len(geometry.native) != 2:
        raise ImageError(f"{picture.source} is a volume; ten crops are for images, use --views flip.")
    extent = geometry.extent if geometry.whole is None else geometry.native
    if max(extent) > _LONGEST * min(extent):
        raise ImageError(
            f"{picture.source} is {extent[0]} x {extent[1]}: ten crops would leave out most; use --views flip."
        )
    scale = max(-(-round(side * ENLARGED * 1e6) // 10**6) for side in geometry.input) / min(extent)
    if isinstance(prepare, Preprocess):
        side = round(max(extent) * scale)
        return replace(prepare, config=prepare.config.model_copy(update={"size": side}))(picture)
    if isinstance(prepare, ResizeCrop):
        size = tuple(round(side * scale) for side in extent)
        way = {"size": size, "crop_pct": 1.0, "crop_mode": "squash"}
        return replace(prepare, config=prepare.config.model_copy(update=way))(picture)
    raise ModelError(f"ten crops need to know how images are enlarged, which {type(prepare).__name__} does not say.")


def _corners(whole: Sample, size: Sequence[int]) -> list[tuple[int, ...]]:
    """First pixels of the four corners and the centre, inside what shows image."""
    rows, columns = (
        (max(0, offset), max(0, offset) + scaled - side)
        for offset, scaled, side in zip(whole.geometry.offset, whole.geometry.scaled, size, strict=True)
    )
    corners = [(row, column) for row in rows for column in columns]
    return [*corners, ((rows[0] + rows[1]) // 2, (columns[0] + columns[1]) // 2)]


def _cut(whole: Sample, place: tuple[int, ...], size: Sequence[int]) -> View:
    window: Any = tuple(slice(start, start + side) for start, side in zip(place, size, strict=True))
    image, valid = np.ascontiguousarray(whole.image[(slice(None), *window)]), whole.valid[window]
    own = Geometry.letterbox(tuple(size), tuple(size))
    return View(Sample(image, np.ascontiguousarray(valid), own), whole.geometry, place)
