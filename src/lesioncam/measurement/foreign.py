"""Maps of another tool: one file per image (and class), brought under the same protocol as our own.

Looked for, for an image ``slices/a`` and a class ``mass``, in this order: ``slices/a.mass``, ``slices/a_mass``,
``slices/a/mass``, ``mass/slices/a``, then ``slices/a`` with all classes in one file; then the same with ``a`` alone,
where that name is unique. Suffixes: ``.npz .npy .nii .nii.gz .png``. A file of all classes is ``(K, *s)``, or an
``.npz`` with an array per class, or with ``raw`` (and ``classes``), as this program writes. ``scores.csv`` beside the
maps gives image scores: columns ``image`` and one per class, or ``image, class, score``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy.special import logit

from lesioncam.data.io.image import read_picture
from lesioncam.errors import GeometryError, ImageError, RunError, TableError
from lesioncam.geometry import Geometry
from lesioncam.inference.scale import image_probabilities
from lesioncam.inference.subject import Answer, Subject
from lesioncam.runs.card import ModelCard
from lesioncam.types import Calibration, Exam, Heatmap, Record, Validation

logger = logging.getLogger(__name__)

SUFFIXES = (".npz", ".npy", ".nii.gz", ".nii", ".png")
SCORES = "scores.csv"
_SKEWED = 1.25
"""A map whose proportions differ from its image's by more than this, and fit when turned, is taken for turned."""


@dataclass(frozen=True)
class ForeignMaps:
    """A folder of maps.

    Attributes:
        root: the folder.
        classes: K names, in the table's order.
        missing: images and classes that were looked for in vain; filled while reading.
        broken: images and classes whose map holds values that are not finite; filled while reading.
    """

    root: Path
    classes: tuple[str, ...]
    missing: set[tuple[str, str]] = field(default_factory=set)
    broken: set[tuple[str, str]] = field(default_factory=set)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every map file by its name without suffix, relative to the root; a bare name only where it is unique.

        Raises:
            RunError: if there is no map at all.
        """
        full: dict[str, Path] = {}
        for path in sorted(self.root.rglob("*")):
            if (suffix := _suffix(path)) and path.is_file():
                full.setdefault(path.relative_to(self.root).as_posix().removesuffix(suffix), path)
        if not full:
            raise RunError(f"{self.root} holds no map; expected {', '.join(SUFFIXES)}, one per image and class.")
        bare: dict[str, list[Path]] = {}
        for name, path in full.items():
            folders, _, last = name.rpartition("/")
            if not set(folders.split("/")) & set(self.classes):  # below a class's folder a name is of that class only
                bare.setdefault(last, []).append(path)
        return {name: paths[0] for name, paths in bare.items() if len(paths) == 1} | full

    @cached_property
    def digest(self) -> str:
        """Of every file's name and content (of large files their size and first megabyte): one configuration."""
        state = blake2b(digest_size=8)
        for path in sorted(set(self.files.values())):
            with path.open("rb") as handle:
                state.update(f"{path.relative_to(self.root).as_posix()}\0{path.stat().st_size}\0".encode())
                state.update(handle.read(2**20))
        return state.hexdigest()

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Image scores ``(K,)`` by image as logits; empty without a file of them.

        They are probabilities if all scores of the file lie between 0 and 1, else logits: one look at a single image
        could not tell.

        Raises:
            TableError: if the file is there and cannot be used.
        """
        path = self.root / SCORES
        if not path.is_file():
            return {}
        frame = pd.read_csv(path, dtype={"image": str, "class": str})
        if {"image", "class", "score"} <= set(frame):
            frame = frame.pivot_table(index="image", columns="class", values="score", aggfunc="first").reset_index()
        wanted = [name for name in self.classes if name in frame]
        if "image" not in frame or not wanted:
            raise TableError(
                f"{path} has the columns {', '.join(map(str, frame))}; expected image and {', '.join(self.classes)}, "
                "or image, class, score."
            )
        table = frame.reindex(columns=list(self.classes)).to_numpy(dtype=np.float64)
        return dict(zip(frame["image"], _logits(table), strict=True))

    def has(self, image: str) -> bool:
        """Whether there is a map of any class of an image."""
        stems = dict.fromkeys((image, image.rpartition("/")[2]))
        return any(stem in self.files for stem in stems) or any(self._find(image, name) for name in self.classes)

    def read(self, image: str, native: Sequence[int]) -> list[np.ndarray | None]:
        """The map of each class of an image as it is stored, ``(*s)`` float32; None where there is none.

        Raises:
            RunError: for a file that cannot be read, or holds something else than one map per class.
            GeometryError: for a map that lies on its side.
        """
        whole: list[np.ndarray | None] | None = None
        found: list[np.ndarray | None] = []
        for k, name in enumerate(self.classes):
            path = self._find(image, name)
            one = None
            if path is not None:
                one = _single(path, len(native))
            else:
                whole = self._whole(image, len(native)) if whole is None else whole
                one = whole[k]
            if one is None:
                self.missing.add((image, name))
            else:
                _expect_upright(one, native, path or self.root / image)
                one = self._finite(one, image, name)
            found.append(one)
        return found

    def _finite(self, one: np.ndarray, image: str, name: str) -> np.ndarray | None:
        """NaN and the like count as the coldest value of the map; a map of nothing else as missing."""
        usable = np.isfinite(one)
        if usable.all():
            return one
        self.broken.add((image, name))
        return np.where(usable, one, one[usable].min()).astype(np.float32) if usable.any() else None

    def _find(self, image: str, name: str) -> Path | None:
        for stem in dict.fromkeys((image, image.rpartition("/")[2])):
            for form in (f"{stem}.{name}", f"{stem}_{name}", f"{stem}/{name}", f"{name}/{stem}"):
                if form in self.files:
                    return self.files[form]
        return self._below[name].get(image.rpartition("/")[2])

    @cached_property
    def _below(self) -> dict[str, dict[str, Path]]:
        """Per class the files in its folder by their bare name, where that is unique."""
        found: dict[str, dict[str, set[Path]]] = {name: {} for name in self.classes}
        for full, path in self.files.items():
            *folders, last = full.split("/")
            for name in set(folders) & set(self.classes):
                found[name].setdefault(last, set()).add(path)
        return {
            name: {last: next(iter(paths)) for last, paths in each.items() if len(paths) == 1}
            for name, each in found.items()
        }

    def _whole(self, image: str, axes: int) -> list[np.ndarray | None]:
        for stem in dict.fromkeys((image, image.rpartition("/")[2])):
            if stem in self.files:
                return _every(self.files[stem], self.classes, axes)
        return [None] * len(self.classes)


@dataclass(frozen=True)
class ForeignSubject(Subject):
    """Another tool's maps as a subject of measurement.

    A class without a map is as cold as can be, and counts as a miss where there is a lesion: leaving out what is hard
    would be a way to win.

    Attributes:
        maps: the folder.
        card: classes, scale, and everything that was chosen.
        name: of the tool, the map method in every table.
    """

    maps: ForeignMaps
    card: ModelCard
    name: str
    foreign: bool = True

    @property
    def method(self) -> str:
        """The tool's name."""
        return self.name

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of every file."""
        return self.maps.digest

    def gaps(self) -> tuple[int, int]:
        """See :meth:`Subject.gaps`."""
        return len(self.maps.missing), len(self.maps.broken)

    def answers(self, exams: Sequence[Exam], method: str | None = None) -> Iterator[Answer]:
        """See :meth:`Subject.answers`; there is one map method, so ``method`` changes nothing."""
        del method
        scale = self.card.calibration or Calibration.of_classifier(len(self.classes))
        missing = np.full(len(self.classes), np.nan, dtype=np.float32)
        for exam in exams:
            native = exam.picture.size
            heatmap = _heatmap(self.maps.read(exam.id, native), self.card, tuple(native), scale, self.name)
            logits = self.maps.scores.get(exam.id, missing)
            scores = image_probabilities(logits, self.card.image_calibration, softmax=self.card.config.softmax)
            yield Answer(logits, scores, heatmap)


def _heatmap(
    stored: Sequence[np.ndarray | None], card: ModelCard, native: tuple[int, ...], scale: Calibration, method: str
) -> Heatmap:
    """All classes on one grid, the finest that occurs; maps lie over the whole image, cells by half-pixel centres."""
    shapes = [one.shape for one in stored if one is not None]
    grid = tuple(max(sizes) for sizes in zip(*shapes, strict=True)) if shapes else (1,) * len(native)
    raw = np.empty((len(stored), *grid), dtype=np.float32)
    for k, one in enumerate(stored):
        if one is None:
            raw[k] = _coldest(scale, k)
        else:
            raw[k] = one if one.shape == grid else Geometry.letterbox(grid, grid).to_native(one[None])[0]
    return Heatmap(raw, card.classes, method, "file", Geometry.letterbox(native, native), scale)


def _coldest(scale: Calibration, k: int) -> float:
    """A raw value of probability (nearly) 0."""
    if scale.knots and scale.knots[k][0]:
        return scale.knots[k][0][0]
    return (-30.0 - scale.offset[k]) / scale.scale[k]


def _logits(scores: np.ndarray) -> np.ndarray:
    """Scores ``(n, K)``, all between 0 and 1, are probabilities; others are logits already."""
    known = scores[~np.isnan(scores)]
    if len(known) and known.min() >= 0 and known.max() <= 1:
        return np.asarray(logit(np.clip(scores, 1e-7, 1 - 1e-7)), dtype=np.float32)
    return scores.astype(np.float32)


def foreign_scale(maps: ForeignMaps, records: Sequence[Record], who: Validation | None) -> Calibration:
    """One scale for all maps of a class: values in [0, 1] stay as they are; others are laid on a sigmoid.

    Args:
        maps: the folder.
        records: validation records; only their maps are read.
        who: the same, to be remembered.
    """
    seen: list[list[np.ndarray]] = [[] for _ in maps.classes]
    for record in records:
        native = read_picture(record.image).size
        for k, one in enumerate(maps.read(record.id, native)):
            if one is not None:
                seen[k].append(one.ravel())
    values = [np.concatenate(each) if each else np.zeros(0, np.float32) for each in seen]
    count, remembered = len(values), frozenset[str]() if who is None else who.tuned_on
    if all(len(v) == 0 or (v.min() >= 0 and v.max() <= 1) for v in values):
        line = ((0.0, 1.0), (0.0, 1.0))
        return Calibration((1.0,) * count, (0.0,) * count, "val", (line,) * count, remembered)
    return Calibration.spanning(values, remembered)


# ---- files -------------------------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def _expect_upright(one: np.ndarray, native: Sequence[int], path: Path) -> None:
    if one.ndim != len(native):
        raise GeometryError(f"{path.name} is a map of {one.shape}; its image has {len(native)} axes.")
    skew = (one.shape[0] / one.shape[1]) / (native[0] / native[1])
    turned = (one.shape[1] / one.shape[0]) / (native[0] / native[1])
    if max(skew, 1 / skew) > _SKEWED > max(turned, 1 / turned):
        raise GeometryError(
            f"{path.name} is {one.shape[0]} x {one.shape[1]} (rows x columns) but its image is {native[0]} x "
            f"{native[1]}: the map lies on its side. Store rows first (in NIfTI, columns first)."
        )


def _single(path: Path, axes: int) -> np.ndarray:
    """One map of one class."""
    arrays = _arrays(path)
    one = next(iter(arrays.values())) if len(arrays) == 1 else arrays.get("raw", arrays.get("map"))
    if one is None:
        raise RunError(f"{path} holds {', '.join(arrays)}; a file of one class holds one array, `raw` or `map`.")
    squeezed = one[0] if one.ndim == axes + 1 and len(one) == 1 else one
    return np.asarray(squeezed, dtype=np.float32)


def _every(path: Path, classes: Sequence[str], axes: int) -> list[np.ndarray | None]:
    """All classes from one file."""
    arrays = _arrays(path)
    if any(name in arrays for name in classes):
        return [np.asarray(arrays[name], np.float32) if name in arrays else None for name in classes]
    stack = arrays.get("raw", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if stack is None:
        raise RunError(
            f"{path} holds {', '.join(arrays)}; expected an array per class ({', '.join(classes)}) or `raw`."
        )
    if stack.ndim == axes and len(classes) == 1:
        return [np.asarray(stack, np.float32)]
    names = [str(name) for name in arrays["classes"]] if "classes" in arrays else list(classes)
    if stack.ndim != axes + 1 or len(stack) != len(names):
        raise RunError(
            f"{path} holds an array of {stack.shape}; expected one map for each of {', '.join(names)}, classes first."
        )
    by_name = dict(zip(names, stack, strict=True))
    return [np.asarray(by_name[name], np.float32) if name in by_name else None for name in classes]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return _READERS[_suffix(path)](path)
    except (OSError, ValueError, EOFError, BadZipFile, ImageError) as error:
        raise RunError(f"{path} cannot be read as a map ({error}); write it again or take it away.") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as handle:
        return {"map": np.load(handle, allow_pickle=False)}


def _read_nifti(path: Path) -> dict[str, np.ndarray]:
    """NIfTI counts x (columns) first; ours count rows first."""
    import nibabel as nib

    values = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3:  # of a volume: turned as the volume is
        return {"map": np.asarray(read_picture(path).pixels[..., 0], dtype=np.float32)}
    return {"map": values.T}


def _read_png(path: Path) -> dict[str, np.ndarray]:
    """Grey values from 0 to the largest of their depth, as 0 to 1."""
    pixels = read_picture(path).pixels
    pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
    top = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1
    return {"map": np.asarray(pixels, dtype=np.float32) / np.float32(top)}


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".nii": _read_nifti, ".nii.gz": _read_nifti, ".png": _read_png}
