"""One pass over the images of a split: each with its controls against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lesioncam.evaluation.cases import CaseRow, Truth, View, case_rows
from lesioncam.evaluation.controls import BOUNDS, READER, ControlMap, resolution_ceiling
from lesioncam.evaluation.extended import ExtendedCases
from lesioncam.evaluation.shortcut import Shortcut
from lesioncam.geometry import Geometry
from lesioncam.measurement.control_set import ControlSet
from lesioncam.measurement.foreign import ForeignMaps
from lesioncam.measurement.options import MeasureOptions
from lesioncam.measurement.part import Part, Seen
from lesioncam.progress import Progress
from lesioncam.runs.arrays import CaseArrays
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Threshold


class _Scored(NamedTuple):
    """What is kept of one image."""

    rows: list[CaseRow]
    extended: ExtendedCases | None
    shortcut: Shortcut
    grid: tuple[int, ...]


@dataclass
class Walk:
    """One pass over the images; keeps rows and vectors, no pictures."""

    part: Part
    folder: RunFolder
    controls: ControlSet
    asked: MeasureOptions
    bound: ForeignMaps | None
    rows: list[CaseRow] = field(default_factory=list)
    extended: ExtendedCases | None = None
    shortcut: Shortcut = field(init=False)
    grid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.shortcut = Shortcut(self.part.subject.card.classes)
        self.extended = ExtendedCases() if self.asked.metrics == "all" else None

    def run(self, split: str, progress: Progress) -> None:
        """Measure every image, as many at a time as there are cores to use."""
        scored = self.part.each(self.asked.threshold, self._score)
        for one in progress(scored, len(self.part.table), f"measuring {split}"):
            self.rows += one.rows
            self.grid = one.grid
            self.shortcut.extend(one.shortcut)
            if self.extended is not None:
                self.extended.extend(one.extended)

    def _score(self, seen: Seen) -> _Scored:
        """Everything about one image; called from several threads, so nothing of the walk is changed."""
        result, truth = seen.result, seen.truth
        shortcut = Shortcut(result.classes, seen.evidence.ndim - 1)
        shortcut.add(
            result.id, truth.patient, truth.labels, seen.evidence, seen.picture.pixels, scores=result.logits.tolist()
        )
        extended = None if self.extended is None else ExtendedCases()
        spacing = result.heatmap.geometry.spacing

        def watch(key: tuple[str, str, str], view: View, truth: Truth) -> None:
            if extended is not None:
                extended.add(key, view, truth, spacing)

        rows = case_rows(result, truth, self._controls(seen), watch, seen.evidence)
        CaseArrays.of(result).write(self.folder.arrays(truth.split, result.id))
        return _Scored(rows, extended, shortcut, result.heatmap.raw.shape[1:])

    def _controls(self, seen: Seen) -> dict[str, ControlMap]:
        """Controls, bounds and readers of one image, where truth allows a comparison."""
        classes, truth = seen.result.classes, seen.truth
        located = [k for k, name in enumerate(classes) if truth.located(name)]
        wanted = list(range(len(classes))) if truth.healthy else located
        if not wanted:
            return {}
        drawn = self.controls.draw(seen, wanted)
        readers = {f"{READER}{name}": _as_map(masks, classes) for name, masks in truth.readers.items()}
        return drawn | self._marks(seen, located) | readers

    def _marks(self, seen: Seen, located: Sequence[int]) -> dict[str, ControlMap]:
        """What is possible: for this grid, and for a supervised model."""
        classes, masks = seen.result.classes, seen.truth.masks
        with_mask = [k for k in located if np.any(masks.get(classes[k], False))]
        best = {k: resolution_ceiling(seen.result.heatmap, masks[classes[k]]) for k in with_mask}
        levels = {k: Threshold(one.threshold, "given") for k, one in best.items()}
        marks = {BOUNDS[0]: ControlMap({k: one.map for k, one in best.items()}, levels)}
        if self.bound is not None:
            native = seen.result.heatmap.geometry.native
            maps = enumerate(self.bound.read(seen.record.id, native))
            given = {k: _fit(one, native) for k, one in maps if one is not None}
            marks[BOUNDS[1]] = ControlMap(given, [Threshold(0.5, "given")] * len(classes))
        return marks


def _as_map(masks: Mapping[str, np.ndarray], classes: Sequence[str]) -> ControlMap:
    maps = {classes.index(name): np.asarray(mask, dtype=np.float32) for name, mask in masks.items()}
    return ControlMap(maps, [Threshold(0.5, "given")] * len(classes))


def _fit(one: np.ndarray, native: tuple[int, ...]) -> np.ndarray:
    """A supervised model's map on the image's own grid."""
    return one if one.shape == native else Geometry.letterbox(native, native).to_native(one[None])[0]
