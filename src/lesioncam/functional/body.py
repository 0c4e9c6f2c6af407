"""The patient against the air, in images and volumes whose air is dark.

An image with bright air (an inverted radiograph) has to be turned round first.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from lesioncam.errors import GeometryError
from lesioncam.picture import channels_first

_FINEST = {2: 256, 3: 128}  # pixels per side that a body is looked for on
_RIM = 0.05  # of each side: where the air is looked for
_AIR = 0.15  # of the rim is air at least, or there is none
_KNEE = 0.08  # of the image's range above the air: half way to "certainly no air"
_NOISE, _LEAST = 4.0, 0.03  # standard deviations, or share of the range, that are still air
_NOISIEST = 0.3  # of the range: air has a level
_DARK = 0.33  # of the brightest: of an image without negative values, air is darker
_GAP, _THIN = 0.03, 0.015  # of the longest side: gaps that are closed, threads that are cut, to either side
_LINE = 0.9  # of a side that a frame covers
_MARK = 0.05  # of the largest part; a smaller part is a mark in the air


def body_mask(image: np.ndarray, axes: int = 2, widened: float = 0.0) -> np.ndarray | None:
    r"""Where the body is: all that is brighter than the air around it, holes and narrow gaps filled, marks left out.

    Level and noise of the air are those of the dark end of the image's rim, what lies more than four standard
    deviations above it left out. How far a pixel lies above the air, :math:`x`, saturates as :math:`x / (x + h)` with
    :math:`h` 8 % of the image's range, or four standard deviations of noise, so that a bright lesion weighs hardly more
    than dim tissue; Otsu's threshold parts the result. Then gaps are closed, holes filled (of a volume in each slice
    along each axis), threads such as zipper artefacts cut, and parts below 5 % of the largest dropped.

    Args:
        image: ``(*S)`` grey or ``(*S, C)`` colour, any type; more than 256 pixels a side (128 of a volume) are looked
            at on a coarser grid. What is NaN or infinite counts as air.
        axes: 2 for images ``(H, W)``, 3 for volumes ``(D, H, W)``.
        widened: by this share of the longest side.

    Returns:
        ``(*S)`` bool; None where the image has no dark surroundings: it is flat, less than 15 % of its rim is
        air, or the dark end of the rim is not dark or has no level (as in ultrasound).

    Raises:
        GeometryError: if the image has neither ``axes`` nor ``axes + 1`` axes, or no pixel.

    Reference:
        Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979.

    Example:
        >>> image = np.zeros((50, 50))
        >>> image[10:40, 10:40], image[12:38, 12:38], image[2:5, 2:9] = 0.2, 0.0, 1.0      # a dim ring, a bright mark
        >>> body = body_mask(image)
        >>> bool(body[25, 25]), bool(body[3, 5]), int(body.sum())
        (True, False, 900)
        >>> body_mask(np.eye(50)[:, ::-1] + 1.0) is None
        True
    """
    grey = finite_planes(image, axes).mean(axis=0)
    step = -(-max(grey.shape) // _FINEST[axes])
    coarse = _block_means(grey, step)
    if _flat(coarse):
        return None
    body, side = _parts(coarse), max(coarse.shape)
    if body is None or (~body)[border_band(body.shape, _RIM)].mean() < _AIR:
        return None
    if widened:
        body = ndimage.distance_transform_edt(~body) <= widened * side
    for axis, n in enumerate(grey.shape):
        body = np.repeat(body, step, axis=axis).take(np.arange(n), axis=axis)
    return body


def border_band(shape: tuple[int, ...], margin: float) -> np.ndarray:
    """The pixels within ``margin`` of the image's edge: that share of each side, rounded, but one pixel at least.

    Args:
        shape: sides in pixels; a side of one or two pixels (a single slice) has no band.
        margin: share of each side, from 0 to .5.

    Returns:
        ``shape`` bool.

    Example:
        >>> border_band((3, 20), margin=0.1).astype(int)
        array([[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
               [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
               [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    """
    band = np.ones(shape, dtype=bool)
    widths = [band_width(side, margin) if side > 2 else 0 for side in shape]
    band[tuple(slice(width, side - width) for width, side in zip(widths, shape, strict=True))] = False
    return band


def band_width(side: int, margin: float) -> int:
    """Pixels of a side that a band of this share takes."""
    return max(1, int(margin * side + 0.5))


def finite_planes(image: np.ndarray, axes: int) -> np.ndarray:
    """An image as ``(C, *S)`` float64; what is NaN or infinite becomes the smallest of the other values.

    Raises:
        GeometryError: if the image has neither ``axes`` nor ``axes + 1`` axes, or no pixel.
    """
    pixels = np.asarray(image)
    if pixels.ndim not in (axes, axes + 1) or not pixels.size:
        raise GeometryError(
            f"the image is {pixels.shape}; expected {axes} axes, or {axes + 1} with colours last, and some pixels."
        )
    planes = channels_first(pixels, axes).astype(np.float64)
    usable = np.isfinite(planes)
    return planes if usable.all() else np.where(usable, planes, planes[usable].min() if usable.any() else 0.0)


# ---- parts -------------------------------------------------------------------------------------------------------


def _parts(plane: np.ndarray) -> np.ndarray | None:
    """The body on the coarse grid."""
    side = max(plane.shape)
    bright = _bright(plane)
    if bright is None:
        return None
    solid = _opened(_filled(_closed(_unframed(bright), _GAP * side)), _THIN * side)
    labels, _ = ndimage.label(solid, structure=np.ones((3,) * solid.ndim))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= max(1.0, _MARK * sizes.max()))[labels]) if sizes.any() else None


def _flat(values: np.ndarray) -> bool:
    """One value, up to rounding: nothing a histogram could part."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _block_means(plane: np.ndarray, step: int) -> np.ndarray:
    """Means of blocks of ``step`` pixels along each axis, the last ones filled up with the edge."""
    if step == 1:
        return plane
    from skimage.measure import block_reduce

    filled = np.pad(plane, [(0, -n % step) for n in plane.shape], mode="edge")
    return np.asarray(block_reduce(filled, step, np.mean))


def _bright(plane: np.ndarray) -> np.ndarray | None:
    """What is no air, of an image smoothed by a pixel at most."""
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(plane, min(1.0, max(plane.shape) / 256))
    rim = smooth[border_band(plane.shape, _RIM)]
    whole = float(np.percentile(smooth, 99.5) - rim.min()) or float(np.ptp(smooth))
    air, noise = _air(rim, _LEAST * whole)
    if _NOISE * noise > _NOISIEST * whole or (plane.min() >= 0 and air > _DARK * np.percentile(smooth, 99.5)):
        return None
    knee, above = max(_KNEE * whole, _NOISE * noise), np.maximum(smooth - air, 0.0)
    level = threshold_otsu(above / (above + knee))
    limit = knee * level / (1 - level)
    return np.asarray((above > limit) & (plane - air > limit / 2))  # smoothing reaches a pixel into the air


def _air(rim: np.ndarray, least: float) -> tuple[float, float]:
    """Median and standard deviation of the dark end of some values: what lies far above is left out, again and again.

    Args:
        rim: values.
        least: what lies less than this above the median is never left out.
    """
    limit = float(np.percentile(rim, 5)) + least
    for _ in range(50):
        dark = rim[rim <= limit]
        air, noise = float(np.median(dark)), float(dark.std())
        before, limit = limit, air + max(_NOISE * noise, least)
        if limit == before:
            break
    return air, noise


def _unframed(mask: np.ndarray) -> np.ndarray:
    """Without bright lines along the image's sides, as screen shots have them: filled, they would be all there is."""
    kept = mask.copy()
    band = math.ceil(2 * _THIN * max(mask.shape))
    for axis, n in enumerate(mask.shape):
        for way in (1, -1):
            layers, left = (np.moveaxis(of, axis, 0)[::way] for of in (mask, kept))
            shares = [layer.mean() for layer in layers[: min(band, n // 4) + 1]]
            lines = [i for i, share in enumerate(shares[:-1]) if share > _LINE]
            if lines and shares[-1] < _LINE / 2:
                left[: lines[-1] + 1] = False
    return kept


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """A morphological closing with a ball; the image's border is no obstacle."""
    wide = math.ceil(radius) + 1
    near = ndimage.distance_transform_edt(~np.pad(mask, wide)) <= radius
    inner = (slice(wide, -wide),) * mask.ndim
    return np.asarray((ndimage.distance_transform_edt(near) > radius)[inner] | mask)


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """A morphological opening with a ball; a body that runs over the image's border is not cut there."""
    core = ndimage.distance_transform_edt(mask) > radius if not mask.all() else mask
    if not core.any():
        return core
    return np.asarray((ndimage.distance_transform_edt(~core) <= radius) & mask)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Without holes; of a volume without holes in any slice, since a body is cut open where the volume ends."""
    if mask.ndim < 3:
        return np.asarray(ndimage.binary_fill_holes(mask))
    ways = (np.stack([ndimage.binary_fill_holes(cut) for cut in np.moveaxis(mask, axis, 0)], axis) for axis in range(3))
    return np.asarray(np.logical_or.reduce(list(ways)))
