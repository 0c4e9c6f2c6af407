"""What a network sees in one image: maps, masks, boxes, crops and overlays in the image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lesioncam.data.preprocess import display_image
from lesioncam.errors import ImageError, OptionError
from lesioncam.explanation.receptive import Cells
from lesioncam.functional.boxes import component_boxes
from lesioncam.functional.overlay import overlay
from lesioncam.geometry import Geometry
from lesioncam.lookup import find
from lesioncam.segmentation.crops import Crop, hottest, square_crop
from lesioncam.types import Calibration, Component, Heatmap


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network sees in one image; everything is in the image's own pixels.

    Attributes:
        id: the file, or a number.
        pixels: of the image, as decoded.
        scores: ``(K,)`` float32, the logits that are explained.
        heatmap: raw evidence per class, signed, at the resolution where it was taken.
    """

    id: str
    pixels: np.ndarray
    scores: np.ndarray
    heatmap: Heatmap

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.heatmap.classes

    @property
    def raw(self) -> np.ndarray:
        """``(K, *s)`` float32, signed, at the resolution where it was taken."""
        return self.heatmap.raw

    @property
    def method(self) -> str:
        """Name of the map method."""
        return self.heatmap.method

    @property
    def layer(self) -> str:
        """Where the maps were taken."""
        return self.heatmap.layer

    @property
    def geometry(self) -> Geometry:
        """How the input was cut from the image."""
        return self.heatmap.geometry

    @property
    def calibration(self) -> Calibration | None:
        """From raw values to probabilities; None if there is no such scale."""
        return self.heatmap.calibration

    @property
    def cells(self) -> Cells | None:
        """Where the cells of the map look; None for half-pixel centres."""
        heatmap = self.heatmap
        if heatmap.origin is None:
            return None
        return Cells(heatmap.origin, heatmap.pitch or self.geometry.pitch(self.raw.shape[1:], heatmap.origin))

    @property
    def scale(self) -> Literal["probability", "unit"]:
        """What thresholds are on: ``probability`` where there is a calibration, otherwise ``unit``.

        On the unit scale each map has its own range as [0, 1]: a healthy image looks as hot as a sick one.
        """
        return "unit" if self.calibration is None else "probability"

    @property
    def flat(self) -> np.ndarray:
        """Which maps show nothing, ``(K,)`` bool: the same value everywhere, or not finite."""
        return self.heatmap.flat

    def native(self, label: str | int | None = None) -> np.ndarray:
        """Raw evidence on the image's own grid: ``(*native)`` of one class, ``(K, *native)`` of all.

        See :meth:`lesioncam.types.Heatmap.native`.
        """
        return self.heatmap.native() if label is None else self._one(label).native()[0]

    def unit(self, label: str | int | None = None) -> np.ndarray:
        """Each map's own range as [0, 1], for display; a flat map is zeros. Shapes as of :meth:`native`."""
        return self.heatmap.unit() if label is None else self._one(label).unit()[0]

    def probability(self, label: str | int | None = None) -> np.ndarray:
        """Probabilities: resize first, then the calibrated scale. Shapes as of :meth:`native`.

        Raises:
            LesioncamError: if there is no calibration.
        """
        return self.heatmap.probability() if label is None else self._one(label).probability()[0]

    def shown(self, label: str | int) -> np.ndarray:
        """The map of one class on its :attr:`scale`, ``(*native)`` float32 in [0, 1]."""
        return self.unit(label) if self.calibration is None else self.probability(label)

    def mask(self, label: str | int, threshold: float = 0.5) -> np.ndarray:
        """Where the map of one class reaches a threshold on its :attr:`scale`, ``(*native)`` bool."""
        if not 0 < threshold <= 1:
            raise OptionError(
                f"threshold {threshold:g}: expected a number above 0 and up to 1, on the {self.scale} scale."
            )
        return np.asarray(self.shown(label) >= np.float64(threshold))

    def boxes(self, label: str | int, threshold: float = 0.5) -> list[tuple[int, ...]]:
        """Half-open boxes ``(x0, y0, x1, y1)`` round the regions that reach a threshold, largest first.

        Args:
            label: a class, by name or number.
            threshold: on the map's :attr:`scale`: a probability where there is a calibration (then a healthy image has
                no box), otherwise a share of the map's own range (then every image that is not flat has one). For CAM
                the raw values are logits, so it is the probability ``sigmoid(map)`` without further ado.
        """
        return [part.box for part in self._parts(label, threshold)]

    def crops(
        self, label: str | int, size: int = 256, margin: float = 0.2, n: int = 3, threshold: float = 0.5
    ) -> list[Crop]:
        """Square cut-outs of the image round the hottest regions of a class, hottest first.

        Args:
            label: a class, by name or number.
            size: side of the result, pixels.
            margin: round the region, as a share of its longer side.
            n: so many at most.
            threshold: what a region is, as for :meth:`boxes`.

        Returns:
            Pixels in the image's own depth, with the square and the region in native pixels.
        """
        return [square_crop(self.pixels, part, size, margin) for part in hottest(self._parts(label, threshold), n)]

    def overlay(self, label: str | int, threshold: float | None = None) -> np.ndarray:
        """The map of one class painted on the image, ``(H, W, 3)`` uint8; with the boxes at a threshold, if given.

        Raises:
            ImageError: for a volume.
        """
        if len(self.geometry.native) != 2:
            raise ImageError(f"{self.id} is a volume; paint its slices, .native() has the map of each.")
        boxes = [] if threshold is None else self.boxes(label, threshold)
        return overlay(display_image(self.pixels), self.shown(label), boxes=boxes, zoom=1)

    def _parts(self, label: str | int, threshold: float) -> list[Component]:
        return component_boxes(self.mask(label, threshold), self.shown(label))

    def _one(self, label: str | int) -> Heatmap:
        if isinstance(label, str):
            return self.heatmap.of_class(find(label, {name: k for k, name in enumerate(self.classes)}, "class"))
        if not 0 <= label < len(self.classes):
            raise OptionError(f"class {label} does not exist: there are {len(self.classes)}, from 0.")
        return self.heatmap.of_class(int(label))
