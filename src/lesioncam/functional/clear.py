"""CLEAR: from responses of all classes to one picture that shows which class (colour) and how strongly (brightness).

The responses themselves come from :mod:`lesioncam.explanation.clear`. Here is what is done with them: channels become
one number, classes compete for each pixel, the winner's hue and the strength of its response become a colour, and a box
is drawn round the region that responds most.

Reference:
    Kumar, Wong & Taylor, "Explaining the unexplained: a class-enhanced attentive response (CLEAR) approach to
    understanding deep neural networks", CVPR Workshops 2017; Kumar, Taylor & Wong, "Discovery radiomics with CLEAR-DR:
    interpretable computer aided diagnosis of diabetic retinopathy", 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lesioncam.errors import OptionError
from lesioncam.functional.segmentation import components
from lesioncam.lookup import find

Scale = Literal["none", "softmax", "standardise"]
Region = Literal["component", "window"]

DARK = 0.05
"""Pixels below this share of full brightness are black: the colour of so small a response means nothing."""

_HALF, _WINDOW = 0.5, 4
"""The component reaches down to half of its maximum; the window's side is a quarter of the image's shorter side."""

_SAFE = ("#d55e00", "#56b4e9", "#f0e442", "#cc79a7", "#009e73", "#0072b2", "#e69f00")
"""Okabe and Ito without black, in an order in which the first ones are told apart best."""

REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum_abs": lambda signed, dim: signed.abs().sum(dim),
    "abs_sum": lambda signed, dim: signed.sum(dim).abs(),
    "max": lambda signed, dim: signed.abs().amax(dim),
}
"""How the channels of a signed response become one number; of a grey image all give the same."""


def reduce_channels(signed: Tensor, how: str = "sum_abs", dim: int = 2) -> Tensor:
    """Strength of a response, whatever its sign in the single colour channels.

    Args:
        signed: ``(N, K, C, *S)``.
        how: ``sum_abs`` (the sum of the absolute values), ``abs_sum`` (the absolute value of the sum) or ``max``.
        dim: the axis of the channels.

    Returns:
        ``(N, K, *S)``, never negative. The sign is lost: a strong response is no support of the class by itself.

    Example:
        >>> signed = torch.tensor([3.0, -4.0]).view(1, 1, 2, 1)
        >>> [reduce_channels(signed, how).item() for how in REDUCTIONS]
        [7.0, 1.0, 4.0]
    """
    return find(how, REDUCTIONS, "channel reduction")(signed, dim)


def _standardised(responses: Tensor, _: Tensor) -> Tensor:
    spread = responses.flatten(2).std(2, correction=0).view(*responses.shape[:2], *[1] * (responses.ndim - 2))
    return torch.where(spread > 0, responses / spread, 0.0)


def _weighted(responses: Tensor, probabilities: Tensor) -> Tensor:
    return responses * probabilities.view(*probabilities.shape, *[1] * (responses.ndim - 2)).to(responses.dtype)


CLASS_SCALES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda responses, _: responses,
    "softmax": _weighted,
    "standardise": _standardised,
}
"""How classes of different magnitude are made comparable before they compete for a pixel."""


def class_scale(responses: Tensor, probabilities: Tensor, how: str = "none") -> Tensor:
    """Make the responses of different classes comparable; the class that wins a pixel depends on it.

    Args:
        responses: ``(N, K, *S)``, not negative.
        probabilities: ``(N, K)``, softmax of the logits.
        how: ``none`` (the paper), ``softmax`` (times the probability of the class) or ``standardise`` (each map divided
            by its own standard deviation; not centred, so that no response stays no response; a constant map gives 0).

    Returns:
        ``(N, K, *S)``, not negative.

    Example:
        >>> responses = torch.tensor([[[1.0, 3.0], [0.0, 0.5]]])
        >>> class_scale(responses, torch.tensor([[0.5, 0.5]]), "softmax")
        tensor([[[0.5000, 1.5000],
                 [0.0000, 0.2500]]])
        >>> class_scale(responses, torch.tensor([[0.5, 0.5]]), "standardise")
        tensor([[[1., 3.],
                 [0., 2.]]])
    """
    return find(how, CLASS_SCALES, "class scale")(responses, probabilities)


def dominant(responses: Tensor) -> tuple[Tensor, Tensor]:
    r"""Which class responds most at each pixel, and how strongly.

    .. math:: \hat C(x) = \arg\max_c R(x|c), \qquad D(x) = R(x|\hat C(x))

    Args:
        responses: ``(N, K, *S)``.

    Returns:
        ``(N, *S)`` int64, of equal responses the lowest class, and ``(N, *S)``.

    Example:
        >>> which, how_much = dominant(torch.tensor([[[1.0, 5.0, 2.0], [4.0, 0.0, 2.0]]]))
        >>> which.tolist(), how_much.tolist()
        ([[1, 0, 0]], [[4.0, 5.0, 2.0]])
    """
    which = responses.argmax(1)
    return which, responses.gather(1, which[:, None])[:, 0]


# ---- colours -----------------------------------------------------------------------------------------------------


def _hues(classes: int) -> np.ndarray:
    from matplotlib.colors import hsv_to_rgb

    hue = np.arange(classes) / max(classes, 1)
    return np.asarray(hsv_to_rgb(np.stack([hue, np.ones(classes), np.ones(classes)], axis=-1)))


def _safe(classes: int) -> np.ndarray:
    if classes > len(_SAFE):
        raise OptionError(
            f"the colour-blind-safe palette tells {len(_SAFE)} classes apart, not {classes}; take palette='hue', or "
            "show fewer classes in one picture."
        )
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _SAFE[:classes]]) / 255.0


PALETTES: dict[str, Callable[[int], np.ndarray]] = {"hue": _hues, "safe": _safe}
"""Colours of K classes, ``(K, 3)`` in [0, 1]: ``hue`` is H = c / K, ``safe`` survives colour blindness (K <= 7)."""


def palette(name: str, classes: int) -> np.ndarray:
    """The colour of every class at full brightness, ``(K, 3)`` float64 in [0, 1].

    Args:
        name: ``hue`` (hue ``c / K``, full saturation) or ``safe`` (Okabe and Ito, at most 7 classes).
        classes: K.

    Raises:
        OptionError: for an unknown name, or more classes than the palette tells apart.

    Example:
        >>> palette("hue", 5).round(6).tolist()[3:]
        [[0.0, 0.4, 1.0], [0.8, 0.0, 1.0]]
    """
    return find(name, PALETTES, "palette")(classes)


def brightness(
    response: np.ndarray, *, peak: float | None = None, percentile: float = 100.0, dark: float = DARK
) -> np.ndarray:
    """Brightness of each pixel in [0, 1]: the response over its peak, and black where it is low.

    Args:
        response: ``(*S)``, not negative; a value that is not a number is black.
        peak: response of full brightness; give one number for images that are to be compared. None takes it from the
            image itself, which makes every image look equally lit.
        percentile: of the responses, taken as the peak where none is given; more is clipped.
        dark: below this share of full brightness a pixel is black.

    Raises:
        OptionError: for a percentile or share out of range.

    Example:
        >>> brightness(np.array([0.0, 0.1, 2.0, 4.0])).tolist()
        [0.0, 0.0, 0.5, 1.0]
        >>> brightness(np.array([0.0, 0.1]), peak=4.0).tolist()        # a cold image stays dark
        [0.0, 0.0]
    """
    if not (0 < percentile <= 100 and 0 <= dark <= 1):
        raise OptionError(f"percentile lies in (0, 100] and dark in [0, 1]; got {percentile} and {dark}.")
    known = np.nan_to_num(np.asarray(response, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    full = float(np.percentile(known, percentile) if known.size else 0.0) if peak is None else float(peak)
    if full <= 0:
        return np.zeros_like(known)
    value = np.clip(known / full, 0.0, 1.0)
    return np.where(value < dark, 0.0, value)


def compose(dominant_class: np.ndarray, value: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The CLEAR map: the colour of the dominant class at the brightness of its response.

    Args:
        dominant_class: ``(*S)`` integer.
        value: ``(*S)`` in [0, 1], see :func:`brightness`.
        colours: ``(K, 3)``, see :func:`palette`. With ``hue`` the result is HSV with full saturation.

    Returns:
        ``(*S, 3)`` float64 in [0, 1].

    Example:
        >>> compose(np.array([0, 1]), np.array([1.0, 0.5]), palette("hue", 2)).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    """
    return np.asarray(np.asarray(colours)[np.asarray(dominant_class, dtype=np.intp)] * np.asarray(value)[..., None])


def project(dominant_class: np.ndarray, response: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A volume as a picture: along an axis, the strongest response and the class that has it.

    Args:
        dominant_class: ``(D, H, W)``.
        response: ``(D, H, W)``.
        axis: the one to look along.

    Returns:
        Both without that axis.

    Example:
        >>> which, how_much = project(np.array([[[0, 1]], [[2, 2]]]), np.array([[[1.0, 9.0]], [[5.0, 3.0]]]))
        >>> which.tolist(), how_much.tolist()
        ([[2, 1]], [[5.0, 9.0]])
    """
    where = np.expand_dims(np.argmax(np.nan_to_num(response, nan=-np.inf), axis), axis)
    taken = [np.squeeze(np.take_along_axis(np.asarray(each), where, axis), axis) for each in (dominant_class, response)]
    return taken[0], taken[1]


# ---- the most attentive region -----------------------------------------------------------------------------------


def attentive_box(
    dominant_class: np.ndarray, response: np.ndarray, predicted: int, kind: str = "component", smooth: float = 0.0
) -> tuple[int, ...] | None:
    """A box round the most attentive region.

    ``component``: of the pixels whose dominant class is the predicted one (all pixels, if it has none), those with at
    least half of the largest response among them; of their connected regions (diagonals connect) the one with the
    largest sum. ``window``: the window of fixed size, a quarter of the image's shorter side, with the largest sum.

    Args:
        dominant_class: ``(*S)``.
        response: ``(*S)``, the dominant response.
        predicted: the predicted class.
        kind: ``component`` or ``window``.
        smooth: standard deviation, pixels, of a Gaussian that joins a speckled response into regions first; 0 takes it
            as it is.

    Returns:
        Half-open ``(x0, y0, x1, y1)``, 3D ``(x0, y0, z0, x1, y1, z1)``; None where nothing responds at all.

    Raises:
        OptionError: for an unknown kind.

    Example:
        >>> response = np.zeros((6, 8))
        >>> response[1:3, 2:5] = 0.7                                   # 3 wide, 2 high
        >>> attentive_box(np.zeros((6, 8), int), response, predicted=0)
        (2, 1, 5, 3)
    """
    known = np.nan_to_num(np.asarray(response, dtype=np.float64), nan=0.0)
    draw = find(kind, BOXES, "kind of box")
    return draw(np.asarray(dominant_class), known, predicted, smooth) if known.size and known.max() > 0 else None


def _component(dominant_class: np.ndarray, response: np.ndarray, predicted: int, smooth: float) -> tuple[int, ...]:
    own = np.where(dominant_class == predicted, response, 0.0)
    own = own if own.max() > 0 else response
    own = ndimage.gaussian_filter(own, smooth, mode="constant") if smooth > 0 else own
    labels = components(own >= _HALF * own.max())
    sums = np.bincount(labels.ravel(), weights=own.ravel())
    sums[0] = -1.0  # outside
    place = ndimage.find_objects(labels)[int(sums.argmax()) - 1]
    return (*(part.start for part in reversed(place)), *(part.stop for part in reversed(place)))


def _window(_: np.ndarray, response: np.ndarray, __: int, smooth: float) -> tuple[int, ...]:
    side = max(1, min(response.shape) // _WINDOW)
    sums = ndimage.gaussian_filter(response, smooth, mode="constant") if smooth > 0 else response
    for axis in range(response.ndim):
        total = np.cumsum(sums, axis)
        zero = np.zeros_like(np.take(total, [0], axis))
        total = np.concatenate([zero, total], axis)
        length = total.shape[axis]
        sums = np.take(total, range(side, length), axis) - np.take(total, range(length - side), axis)
    start = [int(i) for i in np.unravel_index(int(sums.argmax()), sums.shape)][::-1]
    return (*start, *(i + side for i in start))


BOXES: dict[str, Callable[[np.ndarray, np.ndarray, int, float], tuple[int, ...]]] = {
    "component": _component,
    "window": _window,
}
"""How the box round the most attentive region is found."""
