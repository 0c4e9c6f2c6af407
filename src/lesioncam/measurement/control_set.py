"""The controls of a run: what they know of validation, their maps, their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import TypeAdapter

from lesioncam.data.preprocess import display_image
from lesioncam.evaluation.controls import CONTROLS, STILL, ControlMap, Cut, MeanMask, Scene
from lesioncam.evaluation.few_shot import FewShotHead
from lesioncam.files import write_json
from lesioncam.measurement.part import Seen
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.json_file import read_as
from lesioncam.runs.summary import MapThreshold
from lesioncam.types import Heatmap, Threshold

_THRESHOLDS = TypeAdapter(dict[str, tuple[MapThreshold, ...]])
"""The content of ``controls.json``: control -> K thresholds."""

_SIZES = 3
"""Of so many image sizes at a time the still maps are kept."""


@dataclass(frozen=True)
class ControlSet:
    """What the controls know of validation.

    Attributes:
        means: mean masks.
        head: the few-shot head; None without features or masks.
        seed: of the run.
        thresholds: control -> K thresholds.
        still: maps of controls that are the same for every image of one size, drawn once.
        cuts: their masks and regions, by class.
    """

    means: MeanMask
    head: FewShotHead | None
    seed: int
    thresholds: dict[str, tuple[Threshold, ...]] = field(default_factory=dict)
    still: dict[tuple[str, tuple[int, ...]], np.ndarray] = field(default_factory=dict)
    cuts: dict[tuple[str, tuple[int, ...]], dict[int, Cut]] = field(default_factory=dict)

    def scene(self, seen: Seen, wanted: Sequence[int]) -> Scene:
        """All that a control may know of an image."""
        result = seen.result
        few = None if self.head is None or result.features is None else self.head.maps(result.features)
        grey = _grey(seen.picture.pixels, result.heatmap)
        return Scene(result.id, result.heatmap, self.means, self.seed, grey, few, tuple(wanted))

    def maps(self, seen: Seen, wanted: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
        """The maps of every control, by class index."""
        scene = self.scene(seen, wanted)
        drawn = {}
        for name in CONTROLS:
            if name in STILL:
                drawn[name] = {k: self._still(name, scene)[k] for k in wanted}
            elif name != "few_shot" or scene.few_shot is not None:
                drawn[name] = dict(zip(wanted, CONTROLS[name](scene), strict=True))
        return drawn

    def draw(self, seen: Seen, wanted: Sequence[int]) -> dict[str, ControlMap]:
        """Every control that has thresholds."""
        maps = self.maps(seen, wanted) if self.thresholds else {}
        size = seen.result.heatmap.geometry.native
        return {
            name: ControlMap(maps[name], chosen, self.cuts.setdefault((name, size), {}) if name in STILL else {})
            for name, chosen in self.thresholds.items()
            if name in maps
        }

    def _still(self, name: str, scene: Scene) -> np.ndarray:
        key = name, scene.heatmap.geometry.native
        found = self.still.get(key)
        if found is None:
            found = CONTROLS[name](replace(scene, wanted=None))
            if len(self.still) >= len(STILL) * _SIZES:
                self.still.clear()
                self.cuts.clear()
            self.still[key] = found
        return found

    def save(self, folder: RunFolder, thresholds: dict[str, tuple[Threshold, ...]]) -> None:
        """Write everything beside the evaluations."""
        self.means.save(folder.mean_masks)
        if self.head is not None:
            self.head.save(folder.few_shot)
        else:
            folder.few_shot.unlink(missing_ok=True)
        chosen = {name: tuple(MapThreshold(t.value, t.source) for t in each) for name, each in thresholds.items()}
        write_json(folder.controls, _THRESHOLDS.dump_python(chosen))

    @classmethod
    def load(cls, folder: RunFolder, seed: int) -> ControlSet:
        """Read it back; without thresholds for a model that was never calibrated."""
        if not folder.controls.is_file():
            return cls(MeanMask(()), None, seed)
        chosen = read_as(_THRESHOLDS, folder.controls)
        given = {name: tuple(Threshold(t.value, t.source) for t in each) for name, each in chosen.items()}
        head = FewShotHead.load(folder.few_shot) if folder.few_shot.is_file() else None
        return cls(MeanMask.load(folder.mean_masks), head, seed, given)


def _grey(pixels: np.ndarray, heatmap: Heatmap) -> np.ndarray:
    """Brightness of the image, [0, 1]."""
    shown = display_image(pixels)
    grey = shown.mean(axis=-1) if shown.ndim > len(heatmap.geometry.native) else shown
    return np.asarray(grey / np.float32(255), dtype=np.float32)
