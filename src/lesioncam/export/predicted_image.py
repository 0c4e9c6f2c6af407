"""One image with its result on its way to the disk, in the pixels or voxels of its own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lesioncam.functional.slices import Slice, shown_slice
from lesioncam.inference.scale import shown_scale
from lesioncam.picture import Picture, VolumeGrid
from lesioncam.types import CaseResult


@dataclass(frozen=True)
class PredictedImage:
    """What the writers write of one image.

    Attributes:
        result: of the image.
        picture: of the file.
        evidence: raw maps on the image's own grid, ``(K, *native)``.
        name: stem of all its files.
        named: classes the user asked for by name; empty: all.
    """

    result: CaseResult
    picture: Picture
    evidence: np.ndarray
    name: str
    named: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[int]:
        """Indices of the classes to draw."""
        return [k for k, label in enumerate(self.result.classes) if not self.named or label in self.named]

    @property
    def grid(self) -> VolumeGrid | None:
        """Of a volume, where its voxels lie in the file."""
        return self.picture.grid if self.evidence.ndim == 4 else None

    def slice(self, k: int) -> Slice | None:
        """Of a volume, the slice that is shown of a class: most of its mask, else the highest response."""
        if self.grid is None:
            return None
        return shown_slice(self.evidence[k], gated_masks(self.result)[k], spacing=self.grid.spacing)

    def shown(self, k: int) -> dict[str, str]:
        """The cell ``slice`` of a volume's row, in the numbers of its file; an image has none."""
        cut, grid = self.slice(k), self.grid
        return {} if cut is None or grid is None else {"slice": grid.slice_name(cut.axis, cut.place)}

    def box(self, box: Sequence[float]) -> tuple[int, ...]:
        """A box in the pixels or voxels of the file."""
        return tuple(map(int, box if self.grid is None else self.grid.box_to_file(box)))

    @property
    def scale(self) -> str:
        """What the maps are shown on: ``probability``, or ``unit``, each map's own range."""
        return "unit" if self.result.heatmap.calibration is None else "probability"

    @cached_property
    def maps(self) -> np.ndarray:
        """The maps on that scale, ``(K, *native)`` float32."""
        return shown_scale(self.result.heatmap, self.evidence).probability(self.evidence)

    def boxes(self, k: int) -> Sequence[tuple[int, ...]]:
        """The boxes of a class in the array's own pixels; none where the image score is below its threshold."""
        return self.result.segmentation.boxes(self.result.classes[k]) if self.result.positive[k] else []

    def file_stem(self, k: int) -> str:
        """The name of the files of one class, without suffix."""
        return f"{self.name}_{safe_name(self.result.classes[k])}"


def gated_masks(result: CaseResult) -> np.ndarray:
    """Masks of the classes that are positive at their operating point; empty for the others, ``(K, *native)`` bool."""
    keep = np.array(result.positive).reshape(-1, *(1,) * (result.segmentation.masks.ndim - 1))
    return np.asarray(result.segmentation.masks & keep)


def safe_name(text: str) -> str:
    """A text as part of a file's name.

    Example:
        >>> safe_name("pleural effusion/left")
        'pleural_effusion_left'
    """
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
