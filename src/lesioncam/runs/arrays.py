"""``arrays/<image>.npz``: the raw maps of one image with their way home, and for the gallery what a report draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesioncam.files import read_arrays, write_arrays
from lesioncam.functional.slices import Slice
from lesioncam.geometry import Geometry
from lesioncam.types import CaseResult


@dataclass(frozen=True)
class CasePicture:
    """What a report draws of an image; of a volume one slice.

    Attributes:
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        shown: the classes whose maps are kept.
        probability: their maps, ``(len(shown), H, W)`` float16.
        masks: predicted, ``(K, H, W)`` bool.
        truth: ``(K, H, W)`` bool.
        truth_known: ``(K,)`` bool; a class without it was neither drawn nor excluded by anybody.
        slice: of a volume, which one.
    """

    image: np.ndarray
    shown: tuple[str, ...]
    probability: np.ndarray
    masks: np.ndarray
    truth: np.ndarray
    truth_known: np.ndarray
    slice: Slice | None = None


@dataclass(frozen=True)
class CaseArrays:
    """The arrays of one image.

    Attributes:
        classes: K names.
        logits: ``(K,)`` float32.
        raw: maps ``(K, *s)`` float32, before any scale.
        geometry: how the network input was cut from the image.
        picture: None for images that are not in the gallery.
    """

    classes: tuple[str, ...]
    logits: np.ndarray
    raw: np.ndarray
    geometry: Geometry
    picture: CasePicture | None = None

    @classmethod
    def of(cls, result: CaseResult, picture: CasePicture | None = None) -> CaseArrays:
        """What is kept of a result."""
        return cls(result.classes, result.logits, result.heatmap.raw, result.heatmap.geometry, picture)

    def map_of(self, label: str) -> np.ndarray | None:
        """The probability map of one class as it is drawn, ``(H, W)`` float32; None if it was not kept."""
        if self.picture is None or label not in self.picture.shown:
            return None
        return np.asarray(self.picture.probability[self.picture.shown.index(label)], dtype=np.float32)

    def truth_of(self, label: str) -> np.ndarray | None:
        """The true mask of one class as it is drawn, ``(H, W)`` bool; None if it is not known."""
        k = self.classes.index(label)
        if self.picture is None or not self.picture.truth_known[k]:
            return None
        return self.picture.truth[k].astype(bool)

    def write(self, path: Path) -> Path:
        """Write them, whole or not at all."""
        g, picture = self.geometry, self.picture
        arrays = {"raw": self.raw, "logits": self.logits, "classes": np.array(self.classes)}
        arrays |= {"native": np.array(g.native), "crop": np.array(g.crop), "input": np.array(g.input)}
        arrays |= {"centred": np.array(g.centred)}
        if g.whole is not None and g.shift is not None:  # resized as a whole, then cut
            arrays |= {"whole": np.array(g.whole), "shift": np.array(g.shift)}
        if g.aspect is not None:
            arrays["aspect"] = np.array(g.aspect)
        if picture is not None:
            arrays |= {name: getattr(picture, name) for name in _DRAWN} | {"shown": np.array(picture.shown)}
            if picture.slice is not None:
                arrays["slice"] = np.array(picture.slice[:2])
        return write_arrays(path, arrays)

    @classmethod
    def read(cls, path: Path, *, centred: bool = True) -> CaseArrays:
        """Read what `write` wrote; nothing in the file is executed.

        Args:
            path: the file.
            centred: see :class:`Geometry`, for older files, which do not say it.

        Raises:
            RunError: if the file is missing or broken.
        """
        arrays = read_arrays(path, ("raw", "logits", "classes", "native", "crop", "input"), what="arrays of an image")
        classes = _words(arrays["classes"])
        picture = None
        if "image" in arrays:
            cut = Slice(int(arrays["slice"][0]), int(arrays["slice"][1])) if "slice" in arrays else None
            shown = _words(arrays.get("shown", arrays["classes"]))  # older files keep all maps
            picture = CasePicture(shown=shown, slice=cut, **{name: arrays[name] for name in _DRAWN})
        return cls(classes, arrays["logits"], arrays["raw"], _geometry(arrays, centred=centred), picture)


_DRAWN = ("image", "probability", "masks", "truth", "truth_known")


def _words(array: np.ndarray) -> tuple[str, ...]:
    return tuple(map(str, array))


def _geometry(arrays: dict[str, np.ndarray], *, centred: bool) -> Geometry:
    given = {name: tuple(arrays[name].tolist()) for name in ("whole", "shift", "aspect") if name in arrays}
    return Geometry(
        tuple(arrays["native"].tolist()),
        tuple(arrays["input"].tolist()),
        tuple((int(a), int(b)) for a, b in arrays["crop"]),
        centred=bool(arrays.get("centred", centred)),
        **given,
    )
