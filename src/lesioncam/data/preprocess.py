"""One object takes a decoded image to the network's input and knows the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lesioncam.config import PreprocessConfig
from lesioncam.errors import ImageError
from lesioncam.geometry import Geometry
from lesioncam.types import Sample

__all__ = ["Preprocess", "display_image", "foreground_box"]

_GREY = np.array([0.2125, 0.7154, 0.0721])  # luminance of linear RGB, ITU-R BT.709
_MARGIN = 0.02  # of the side, round a foreground crop
_SMALLEST = 0.2  # of the image; a smaller "foreground" is a bright spot, not a body


@dataclass(frozen=True)
class Preprocess:
    """Normalise, cut to the foreground (an option), letter-box.

    Example:
        >>> image = np.zeros((40, 20), np.uint8)
        >>> image[10:30, 5:15] = 200
        >>> sample = Preprocess(PreprocessConfig(size=32))(image)
        >>> sample.image.shape, sample.geometry.native, sample.geometry.crop
        ((1, 32, 32), (40, 20), ((9, 31), (5, 15)))
    """

    config: PreprocessConfig = field(default_factory=PreprocessConfig)

    def __call__(self, image: np.ndarray, name: str = "image") -> Sample:
        """Prepare one decoded image.

        Args:
            image: ``(H, W)`` or ``(H, W, C)``, any depth.
            name: for errors.

        Raises:
            ImageError: if it is constant, not finite, or has a number of channels that cannot be used.
        """
        import torch

        options = self.config
        planes = to_planes(image, options.channels, name)
        crop = foreground_box(planes[0]) if options.crop else None
        size = (options.size,) * (planes.ndim - 1)
        geometry = Geometry.letterbox(planes.shape[1:], size, crop=crop, centred=options.centred)
        window: Any = (..., *(slice(a, b) for a, b in geometry.crop))
        inside = planes[window]
        low, high = _window(inside, image.dtype, options.normalise, name)
        clipped = np.clip(planes, low, high) if options.normalise == "percentile" else planes
        scaled = _normal(clipped, inside, (low, high), options.normalise)
        tensor = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))[None]
        prepared = geometry.to_input(tensor, fill=float(scaled.min()))[0].numpy()
        return Sample(prepared, geometry.valid(), geometry)


def to_planes(image: np.ndarray, channels: int, name: str = "image") -> np.ndarray:
    """Channels first, float32, with the number of channels the network takes: grey is copied, colour is weighed.

    Raises:
        ImageError: if it cannot be done without inventing or dropping information.

    Example:
        >>> to_planes(np.full((2, 2), 10, np.uint8), 3).shape
        (3, 2, 2)
    """
    pixels = np.asarray(image, dtype=np.float32)
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if not np.isfinite(planes).all():
        bad = int((~np.isfinite(planes)).sum())
        raise ImageError(
            f"{name} has {bad} pixels that are NaN or infinite; every pixel must be a number. Repair the file."
        )
    if len(planes) == channels:
        return planes
    if len(planes) == 1:
        return np.repeat(planes, channels, axis=0)
    if len(planes) == 3 and channels == 1:
        return np.tensordot(_GREY.astype(np.float32), planes, axes=1)[None]
    raise ImageError(f"{name} has {len(planes)} channels, the network takes {channels}; set channels={len(planes)}.")


def foreground_box(plane: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Half-open ``(start, stop)`` per axis round the largest component above Otsu's threshold, with a small margin.

    The whole image where that box covers less than a fifth of it: then it is a bright spot and not a body.

    Example:
        >>> plane = np.zeros((100, 50))
        >>> plane[20:80, 10:40] = 1.0
        >>> foreground_box(plane)
        ((18, 82), (9, 41))
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    whole = tuple((0, n) for n in plane.shape)
    if plane.min() == plane.max():
        return whole
    labels, _ = ndimage.label(plane > threshold_otsu(plane), structure=np.ones((3,) * plane.ndim))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    region = ndimage.find_objects((labels == sizes.argmax()).astype(np.uint8))[0]
    margins = [round(_MARGIN * n) for n in plane.shape]
    box = tuple(
        (max(0, axis.start - m), min(n, axis.stop + m)) for axis, m, n in zip(region, margins, plane.shape, strict=True)
    )
    area = np.prod([stop - start for start, stop in box])
    return box if area >= _SMALLEST * plane.size else whole


def display_image(image: np.ndarray) -> np.ndarray:
    """An 8-bit picture of a decoded image for people, ``(H, W)`` or ``(H, W, 3)``: 0.5 to 99.5 % of its values."""
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3):
        pixels = pixels[..., 0]
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    low, high = np.percentile(pixels, (0.5, 99.5))
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max()) or 1.0
    return np.asarray(np.clip((pixels - low) / max(high - low, 1e-12), 0, 1) * 255 + 0.5).astype(np.uint8)


def _window(pixels: np.ndarray, dtype: np.dtype, how: str, name: str) -> tuple[float, float]:
    if pixels.min() == pixels.max():
        raise ImageError(
            f"{name} is one flat value ({pixels.min():g}); there is nothing to see. Remove it from the table."
        )
    if how == "range":
        if not np.issubdtype(dtype, np.integer):
            raise ImageError(
                f"{name} holds {dtype} values, which have no full range; use normalise=percentile or zscore."
            )
        limits = np.iinfo(dtype)
        return float(limits.min), float(limits.max)
    low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5)))
    return (low, high) if high > low else (float(pixels.min()), float(pixels.max()))


def _normal(planes: np.ndarray, inside: np.ndarray, window: tuple[float, float], how: str) -> np.ndarray:
    """The window becomes [0, 1]: the dark end is 0, the very value convolutions pad with, so that no border shows.

    With air at another value the zero padding of every layer is a bright frame, and networks learn to write there.
    """
    if how == "zscore":
        return np.asarray((planes - inside.mean()) / inside.std())
    low, high = window
    return np.asarray((planes - low) / (high - low))
