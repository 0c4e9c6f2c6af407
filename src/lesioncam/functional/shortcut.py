"""Signs of a shortcut that need no mask: where the evidence lies, and what the mere acquisition betrays.

A classifier that reads the diagnosis off the frame, the file's size or the scanner's grey scale can reach a high AUROC
without a look at the lesion. Two questions are asked here: which share of the evidence lies where no lesion can be, and
how well the labels follow from facts that say nothing of the patient.

Dark is taken for air. An image with bright air (an inverted radiograph) has to be turned round first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lesioncam.errors import GeometryError
from lesioncam.functional.segmentation import components

MARGIN = 0.05
"""Width of the border, as a share of each side."""

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 32
_SPOT, _CONTRAST, _LEVELS = 0.2, 0.1, 256
STRIPS = {2: 8, 3: 3}
"""Into how many cells, per axis, one side of the border is averaged: lines of 8 in 2D, squares of 3 x 3 in 3D."""


class Shares(NamedTuple):
    """Shares of the positive evidence, one per class; NaN where there is none."""

    outside: np.ndarray  # (K,) off the body
    border: np.ndarray  # (K,) on the border band


def body_mask(image: np.ndarray, axes: int = 2) -> np.ndarray:
    """The patient against the air: the largest region above Otsu's threshold, its holes filled.

    Holes are filled before the regions are compared, so that a bright scalp brings the brain with it. A region of less
    than a fifth of the image may be a bright lesion in dark tissue: then Otsu's threshold of the darker pixels is asked
    too, and believed if it parts them by a tenth of the first contrast (noise in the air does not).

    Args:
        image: ``(*S)`` grey or ``(*S, C)`` colour, any type; NaN and infinite values count as 0.
        axes: 2 for images ``(H, W)``, 3 for volumes ``(D, H, W)``.

    Returns:
        ``(*S)`` bool; all True for an image of one value.

    Raises:
        GeometryError: if the image has neither ``axes`` nor ``axes + 1`` axes, or no pixel.

    Reference:
        Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 1979.

    Example:
        >>> body_mask(np.array([[0, 0, 0, 0, 0], [0, 9, 9, 9, 0], [0, 9, 1, 9, 0], [0, 9, 9, 9, 0]])).astype(int)
        array([[0, 0, 0, 0, 0],
               [0, 1, 1, 1, 0],
               [0, 1, 1, 1, 0],
               [0, 1, 1, 1, 0]])
    """
    grey = _planes(image, axes).mean(axis=0)
    if _flat(grey):
        return np.ones(grey.shape, dtype=bool)
    level, contrast = _otsu(grey)
    body = _largest(grey >= level)
    darker = grey[grey < level]
    if body.mean() >= _SPOT or _flat(darker):
        return body
    lower, difference = _otsu(darker)
    return _largest(grey >= lower) if difference >= _CONTRAST * contrast else body


def border_band(shape: tuple[int, ...], margin: float = MARGIN) -> np.ndarray:
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
    widths = [_width(side, margin) if side > 2 else 0 for side in shape]
    band[tuple(slice(width, side - width) for width, side in zip(widths, shape, strict=True))] = False
    return band


def evidence_shares(evidence: np.ndarray, body: np.ndarray, margin: float = MARGIN) -> Shares:
    r"""Which share of the positive evidence lies outside the body, and which on the border of the image.

    .. math:: s = \sum_{p \in R} \max(e_p, 0) \Big/ \sum_p \max(e_p, 0)

    Args:
        evidence: ``(K, *S)`` raw maps in any unit whose zero means "no evidence".
        body: ``(*S)`` bool.
        margin: width of the border, as a share of each side.

    Returns:
        Shares in [0, 1]; NaN for a map without positive evidence, or with a value that is NaN or infinite.

    Raises:
        GeometryError: if maps and body differ in size.

    Example:
        >>> body = np.zeros((5, 5), bool)
        >>> body[1:4, 1:4] = True
        >>> evidence = np.full((1, 5, 5), -1.0)
        >>> evidence[0, 2, 2], evidence[0, 0, 0] = 3.0, 1.0
        >>> shares = evidence_shares(evidence, body)
        >>> float(shares.outside[0]), float(shares.border[0])
        (0.25, 0.25)
    """
    if np.shape(evidence)[1:] != np.shape(body):
        raise GeometryError(
            f"the maps are {np.shape(evidence)[1:]} but the body is {np.shape(body)}; bring both to the image's own "
            "grid."
        )
    air, band = ~np.asarray(body, dtype=bool), border_band(np.shape(body), margin)
    pairs = [(_share(one, air), _share(one, band)) for one in evidence]
    return Shares(np.array([outside for outside, _ in pairs]), np.array([border for _, border in pairs]))


def border_features(image: np.ndarray, axes: int = 2, margin: float = MARGIN) -> np.ndarray:
    """What the border alone shows, and nothing of what lies inside it.

    Args:
        image: ``(*S)`` grey or ``(*S, C)`` colour, in the file's own type and bit depth.
        axes: 2 for images, 3 for volumes.
        margin: width of the border, as a share of each side.

    Returns:
        Float64 vector of one length for all images with so many axes (46 in 2D, 68 in 3D): mean, standard deviation,
        minimum, maximum and percentiles of the band, mean of each colour, then a coarse profile of each side. Integers
        are scaled by the range of their type to [0, 1].

    Raises:
        GeometryError: if the image has neither ``axes`` nor ``axes + 1`` axes, or no pixel.

    Example:
        >>> image = np.zeros((40, 40), np.uint8)
        >>> image[:2] = 255                                                  # a bright line along the top
        >>> border_features(image)[14:].reshape(4, 8).mean(axis=1).round(2)  # top, bottom, left, right
        array([1.  , 0.  , 0.05, 0.05])
    """
    planes = _unit(_planes(image, axes), np.asarray(image).dtype)
    grey = planes.mean(axis=0)
    band = border_band(grey.shape, margin) if min(grey.shape) > 2 else np.ones(grey.shape, dtype=bool)
    colour = [float(plane[band].mean()) for plane in _three(planes)]
    return np.concatenate([_summary(grey[band]), colour, *_profiles(grey, margin)])


def statistics_features(image: np.ndarray, axes: int = 2) -> np.ndarray:
    """Size and histogram of an image: how it was acquired and stored, not what it shows where.

    Args:
        image: ``(*S)`` grey or ``(*S, C)`` colour, in the file's own type and bit depth.
        axes: 2 for images, 3 for volumes.

    Returns:
        Float64 vector of one length for all images with so many axes (58 in 2D, 59 in 3D): logarithms of the sides and
        of the aspect ratio, channels, bits of the type and bits in use, mean, standard deviation, minimum, maximum,
        percentiles, share of pixels at either end, mean and standard deviation of each colour, a histogram of 32 bins
        over the bits in use. Integers are scaled by the range of their type to [0, 1].

    Raises:
        GeometryError: if the image has neither ``axes`` nor ``axes + 1`` axes, or no pixel.

    Example:
        >>> features = statistics_features(np.array([[0, 4095], [0, 0]], np.uint16))
        >>> features[4:7]                                                    # channels, bits of the type, bits in use
        array([ 1., 16., 12.])
    """
    dtype = np.asarray(image).dtype
    raw = _planes(image, axes)
    planes = _unit(raw, dtype)
    grey = planes.mean(axis=0)
    aspect = np.log(grey.shape[-2] / grey.shape[-1])
    bits = _bits(raw, dtype)
    ends = [float((grey == end).mean()) for end in (grey.min(), grey.max())]
    colour = [statistic for plane in _three(planes) for statistic in (float(plane.mean()), float(plane.std()))]
    facts = [*np.log(grey.shape), aspect, abs(aspect), len(raw), 8.0 * dtype.itemsize, bits]
    return np.concatenate([facts, _summary(grey.ravel()), ends, colour, _histogram(raw.mean(axis=0), dtype, bits)])


def probe_scores(train_features: np.ndarray, train_labels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """A small classifier on a handful of numbers per image: the better it does, the more the acquisition betrays.

    One L2-regularised logistic regression per class on standardised features. It is a lower bound: what a linear probe
    cannot read, a network may.

    Args:
        train_features: ``(n, F)``, finite.
        train_labels: ``(n, K)``, 1 or 0; images with other values take no part.
        features: ``(m, F)``, finite, of images the probe is to be judged on.

    Returns:
        ``(m, K)`` scores, higher for positive; NaN for a class without a positive or without a negative to learn from.

    Raises:
        GeometryError: if the two sets of features differ in length.

    Reference:
        Zech et al., "Variable generalization performance of a deep learning model to detect pneumonia in chest
        radiographs", PLoS Medicine 2018 (the site read off the image).

    Example:
        >>> size, labels = np.array([[1.0], [2.0], [5.0], [6.0]]), np.array([[0.0], [0.0], [1.0], [1.0]])
        >>> probe_scores(size, labels, np.array([[1.5], [5.5]]))[:, 0] > 0
        array([False,  True])
    """
    seen, asked = np.asarray(train_features, dtype=float), np.asarray(features, dtype=float)
    if seen.shape[1:] != asked.shape[1:]:
        raise GeometryError(
            f"the probe is fitted on vectors of {seen.shape[1:]} and asked about {asked.shape[1:]}; "
            "collect both with the same number of axes."
        )
    if not len(seen) or not len(asked):
        return np.full((len(asked), np.shape(train_labels)[1]), np.nan)
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    usable = spread > 1e-9 * np.maximum(1.0, np.abs(mean))  # a constant says nothing, whatever its rounding
    scale = np.where(usable, spread, np.inf)
    inside, outside = (seen - mean) / scale, (asked - mean) / scale
    return np.stack([_probe(inside, labels, outside) for labels in np.asarray(train_labels, dtype=float).T], axis=1)


# ---- parts -------------------------------------------------------------------------------------------------------


def _planes(image: np.ndarray, axes: int) -> np.ndarray:
    """``(C, *S)`` float64, finite."""
    pixels = np.asarray(image)
    if pixels.ndim not in (axes, axes + 1) or not pixels.size:
        raise GeometryError(
            f"the image is {pixels.shape}; expected {axes} axes, or {axes + 1} with colours last, and some pixels."
        )
    planes = pixels[None] if pixels.ndim == axes else np.moveaxis(pixels, -1, 0)
    return np.nan_to_num(planes.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _flat(values: np.ndarray) -> bool:
    """One value, up to rounding: nothing a histogram could part."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _otsu(values: np.ndarray) -> tuple[float, float]:
    """Otsu's threshold of values not all equal (at or above it is bright), and how far apart both sides' means are."""
    from skimage.filters import threshold_otsu

    # the library names the middle of a bin, and what lies above it in the same bin would change sides
    level = float(threshold_otsu(values.ravel(), nbins=_LEVELS) + np.ptp(values) / (2 * _LEVELS))
    above = values >= level
    return level, float(values[above].mean() - values[~above].mean())


def _largest(bright: np.ndarray) -> np.ndarray:
    """The largest region once holes are filled."""
    regions = components(~_open_air(~bright))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return np.asarray(regions == sizes.argmax())


def _open_air(air: np.ndarray) -> np.ndarray:
    """The parts of ``air`` that reach the edge of the image, neighbours by sides only; the others are holes.

    An axis of one or two pixels (a single slice) has no edge to reach.
    """
    regions, count = ndimage.label(air)
    reaching = np.zeros(count + 1, dtype=bool)
    for axis in np.flatnonzero(np.greater(air.shape, 2)):
        for end in (0, -1):
            reaching[np.unique(np.take(regions, end, axis=axis))] = True
    reaching[0] = False
    return np.asarray(reaching[regions])


def _width(side: int, margin: float) -> int:
    return max(1, int(margin * side + 0.5))


def _share(evidence: np.ndarray, place: np.ndarray) -> float:
    positive = np.maximum(evidence, 0)
    whole = float(positive.sum(dtype=np.float64))
    if not 0 < whole < np.inf:
        return float("nan")
    return float(positive[place].sum(dtype=np.float64)) / whole


def _unit(planes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if not np.issubdtype(dtype, np.integer):
        return planes
    limits = np.iinfo(dtype)
    return (planes - limits.min) / (float(limits.max) - float(limits.min))


def _three(planes: np.ndarray) -> np.ndarray:
    """Red, green and blue; grey three times where there are no three colours."""
    return planes if len(planes) == 3 else np.broadcast_to(planes.mean(axis=0), (3, *planes.shape[1:]))


def _summary(values: np.ndarray) -> list[float]:
    """Eleven numbers: mean, standard deviation, minimum, maximum, percentiles."""
    ends = [float(number) for number in (values.mean(), values.std(), values.min(), values.max())]
    return [*ends, *np.percentile(values, PERCENTILES).tolist()]


def _profiles(grey: np.ndarray, margin: float) -> list[np.ndarray]:
    """Each side averaged over its thickness, then over a few cells along it."""
    cells = STRIPS[grey.ndim]
    profiles = []
    for axis, side in enumerate(grey.shape):
        width = min(side, _width(side, margin))
        for part in (slice(0, width), slice(side - width, side)):
            strip = np.moveaxis(grey, axis, 0)[part].mean(axis=0)
            for along in range(strip.ndim):
                strip = _coarse(strip, cells, along)
            profiles.append(strip.ravel())
    return profiles


def _coarse(values: np.ndarray, cells: int, axis: int) -> np.ndarray:
    """Means over ``cells`` stretches of almost one length; a stretch of a short axis is the pixel it begins on."""
    side = values.shape[axis]
    starts = np.arange(cells) * side // cells
    counts = np.maximum(1, np.diff(np.append(starts, side)))
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    return np.asarray(np.add.reduceat(values, starts, axis=axis) / counts.reshape(shape))


def _bits(raw: np.ndarray, dtype: np.dtype) -> float:
    """Bits that the values fill, 8 at least: a 12-bit image in a 16-bit file has 12."""
    if not np.issubdtype(dtype, np.integer):
        return 8.0 * dtype.itemsize
    return float(max(8, int(np.abs(raw).max()).bit_length()))


def _histogram(grey: np.ndarray, dtype: np.dtype, bits: float) -> np.ndarray:
    """Shares of the pixels; over the bits in use, or for real numbers over the image's own range."""
    low, high = float(grey.min()), float(grey.max())
    if np.issubdtype(dtype, np.integer):
        low, high = (-(2.0**bits) if low < 0 else 0.0), 2.0**bits
    elif _flat(grey):
        high = low + max(1.0, abs(low))
    counts, _ = np.histogram(grey, BINS, (low, high))
    return counts / grey.size


def _probe(inside: np.ndarray, labels: np.ndarray, outside: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    known = (labels == 0) | (labels == 1)
    if len(np.unique(labels[known])) < 2:
        return np.full(len(outside), np.nan)
    model = LogisticRegression(C=0.1, class_weight="balanced", solver="newton-cholesky")
    return np.asarray(model.fit(inside[known], labels[known]).decision_function(outside))
