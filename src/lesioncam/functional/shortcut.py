"""Signs of a shortcut that need no mask: where the evidence lies, and what the mere acquisition betrays.

A classifier that reads the diagnosis off the frame, the file's size or the scanner's grey scale can reach a high AUROC
without a look at the lesion. Two questions are asked here: which share of the evidence lies where no lesion can be, and
how well the labels follow from facts that say nothing of the patient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lesioncam.errors import GeometryError
from lesioncam.functional.body import band_width, border_band, finite_planes

MARGIN = 0.05
"""Width of the border, as a share of each side."""

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 32
STRIPS = {2: 8, 3: 3}
"""Into how many cells, per axis, one side of the border is averaged: lines of 8 in 2D, squares of 3 x 3 in 3D."""


class Shares(NamedTuple):
    """Shares of the positive evidence, one per class; NaN where there is none."""

    outside: np.ndarray  # (K,) off the body; NaN where there is no air
    border: np.ndarray  # (K,) on the border band


def evidence_shares(evidence: np.ndarray, body: np.ndarray | None, margin: float = MARGIN) -> Shares:
    r"""Which share of the positive evidence lies outside the body, and which on the border of the image.

    .. math:: s = \sum_{p \in R} \max(e_p, 0) \Big/ \sum_p \max(e_p, 0)

    Args:
        evidence: ``(K, *S)`` raw maps in any unit whose zero means "no evidence".
        body: ``(*S)`` bool; None where there is no air: then no share outside is told.
        margin: width of the border, as a share of each side.

    Returns:
        Shares in [0, 1]; NaN for a map without positive evidence, or with a value that is NaN or infinite; outside
        also where there is no air.

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
    if body is not None and np.shape(evidence)[1:] != np.shape(body):
        raise GeometryError(
            f"the maps are {np.shape(evidence)[1:]} but the body is {np.shape(body)}; bring both to the image's own "
            "grid."
        )
    band = border_band(np.shape(evidence)[1:], margin)
    outside = [np.nan if body is None else _share(one, ~body) for one in evidence]
    return Shares(np.array(outside), np.array([_share(one, band) for one in evidence]))


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
    planes = _unit(finite_planes(image, axes), np.asarray(image).dtype)
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
    raw = finite_planes(image, axes)
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


def _flat(values: np.ndarray) -> bool:
    """One value, up to rounding: nothing a histogram could part."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


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
        width = min(side, band_width(side, margin))
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
