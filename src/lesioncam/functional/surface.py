"""How far a mask lies from the truth: surface distances, lesions found one by one, and the error of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.segmentation import components

NAN = float("nan")


class SurfaceDistances(NamedTuple):
    """Distances between two surfaces in mm (pixels where no spacing was given); NaN where a mask is empty.

    Attributes:
        hausdorff: the largest distance from one surface to the other, both directions.
        hd95: the larger of the two directed 95th percentiles (linear interpolation).
        assd: mean over the pixels of both surfaces together.
    """

    hausdorff: float
    hd95: float
    assd: float


class LesionDetection(NamedTuple):
    """Connected regions counted one by one.

    Attributes:
        lesions: regions of the truth.
        found: those that the prediction meets.
        predicted: regions of the prediction.
        false: those that meet no lesion.
    """

    lesions: int
    found: int
    predicted: int
    false: int


def mask_boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have a face neighbour outside it; beyond the edge of the image counts as outside.

    Args:
        mask: ``(*S)`` bool.

    Returns:
        ``(*S)`` bool.

    Example:
        >>> mask_boundary(np.ones((3, 4), bool)).astype(int)
        array([[1, 1, 1, 1],
               [1, 0, 0, 1],
               [1, 1, 1, 1]])
    """
    inside = np.asarray(mask, dtype=bool)
    return np.asarray(inside & ~ndimage.binary_erosion(inside))


def surface_distances(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> SurfaceDistances:
    r"""Hausdorff distance, its 95th percentile and the average symmetric surface distance of two masks.

    With the surfaces A and B (see `mask_boundary`) and :math:`d(a, B)` the distance of the centre of pixel a to the
    nearest centre of B:

    .. math:: \mathrm{HD} = \max\{d(a, B), d(b, A)\}, \quad
              \mathrm{HD95} = \max(P_{95}\,d(a, B),\, P_{95}\,d(b, A)), \quad
              \mathrm{ASSD} = \frac{\sum_a d(a, B) + \sum_b d(b, A)}{|A| + |B|}

    Distances are exact, as those of a distance transform, but found by a tree of surface pixels: their number decides
    the time, not the size of the image.

    Args:
        predicted: ``(*S)`` bool, 2D or 3D.
        truth: ``(*S)`` bool.
        spacing: mm per pixel in array order; None counts pixels and is refused in 3D, where slices are rarely as thick
            as pixels are wide.

    Returns:
        The three distances; all NaN where either mask is empty.

    Raises:
        GeometryError: if the masks differ in size.
        OptionError: for a 3D mask without spacing, or a spacing that is not one positive number per axis.

    Reference:
        Heimann et al., "Comparison and evaluation of methods for liver segmentation from CT datasets", IEEE TMI 2009.

    Example:
        >>> squares = np.zeros((2, 20, 20), bool)
        >>> squares[0, 2:12, 2:12] = squares[1, 2:12, 5:15] = True
        >>> surface_distances(squares[0], squares[1])
        SurfaceDistances(hausdorff=3.0, hd95=3.0, assd=1.5)
    """
    found, true = _masks(predicted, truth)
    scale = _spacing(spacing, found.ndim)
    region = _region(found | true)
    if not found.any() or not true.any():
        return SurfaceDistances(NAN, NAN, NAN)
    a, b = (np.argwhere(mask_boundary(mask[region])) * scale for mask in (found, true))
    forth, back = (np.asarray(KDTree(to).query(of)[0]) for of, to in ((a, b), (b, a)))
    return SurfaceDistances(
        hausdorff=float(max(forth.max(), back.max())),
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        assd=float((forth.sum() + back.sum()) / (len(forth) + len(back))),
    )


def lesion_detection(predicted: np.ndarray, truth: np.ndarray, *, share: float = 0.0) -> LesionDetection:
    """Count lesions and predicted regions as wholes; diagonal neighbours belong together.

    A lesion is found if the prediction covers at least one of its pixels and at least ``share`` of them. A predicted
    region is false if it has no pixel in common with any lesion.

    Args:
        predicted: ``(*S)`` bool, 2D or 3D.
        truth: ``(*S)`` bool.
        share: of a lesion's pixels that must be covered, 0 to 1.

    Raises:
        GeometryError: if the masks differ in size.

    Example:
        >>> truth = np.array([[1, 1, 0, 0, 1]], bool)
        >>> lesion_detection(np.array([[0, 1, 0, 1, 0]], bool), truth)
        LesionDetection(lesions=2, found=1, predicted=2, false=1)
    """
    found, true = _masks(predicted, truth)
    region = _region(found | true)
    regions, lesions = components(found[region]), components(true[region])
    sizes = np.bincount(lesions.ravel())
    covered = np.bincount(lesions[regions > 0], minlength=len(sizes))
    met = (covered[1:] > 0) & (covered[1:] >= share * sizes[1:])
    guesses = int(regions.max(initial=0))
    touching = np.unique(regions[(lesions > 0) & (regions > 0)])
    return LesionDetection(len(sizes[1:]), int(np.count_nonzero(met)), guesses, guesses - len(touching))


def volume_difference(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Signed relative error of the volume, ``(P - T) / T``: above 0 too large, -1 nothing found.

    Args:
        predicted: ``(*S)`` bool.
        truth: ``(*S)`` bool.

    Returns:
        The error; NaN for an empty truth.

    Raises:
        GeometryError: if the masks differ in size.

    Example:
        >>> volume_difference(np.array([True, True, True]), np.array([False, True, True]))
        0.5
    """
    found, true = (int(np.count_nonzero(mask)) for mask in _masks(predicted, truth))
    return (found - true) / true if true else NAN


def _masks(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(predicted) != np.shape(truth):
        raise GeometryError(
            f"the mask is {np.shape(predicted)} but the truth is {np.shape(truth)}; bring both to the image's own grid."
        )
    return np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)


def _region(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest block that holds every pixel of a mask; outside it there is nothing to be near to."""
    region = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        region.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0))
    return tuple(region)


def _spacing(spacing: Sequence[float] | None, axes: int) -> np.ndarray:
    if spacing is None:
        if axes > 2:
            raise OptionError("distances in 3D need the spacing, mm per voxel in the order of the axes; give spacing=.")
        return np.ones(axes)
    scale = np.asarray(spacing, dtype=np.float64)
    if scale.shape != (axes,) or not (np.isfinite(scale) & (scale > 0)).all():
        raise OptionError(f"spacing must be {axes} positive numbers of mm, one per axis; got {tuple(spacing)}.")
    return scale
