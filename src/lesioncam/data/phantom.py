"""A phantom: real anatomy with planted lesions, so that the demo and the tests need no download and are not trivial.

The anatomy is the MNI152 head that the nilearn package carries (Fonov et al., "Unbiased average age-appropriate atlases
for pediatric studies", NeuroImage 2011); skull and scalp are added. Each patient gets an elastic warp, tissue contrast,
coil shading, scanner gain and noise of its own; two patients in three get one or two lesions:

* ``mass``: a solid lump, brighter than the dark swelling around it (which is no part of the mask);
* ``ring``: a bright rim around a dark core (the mask is the whole lesion, core included);
* ``infiltration``: a faint irregular stain in which the folds of the brain still show.

Sick and healthy patients alike carry things that are no lesion: vessels, calcifications, cysts without a rim, one
ventricle wider than its twin, lumps under the scalp, marker capsules, zipper and streak artefacts, ghosts. They, the
shading and the gain are what defeats a threshold on brightness.

Everything is a function of world coordinates in mm (RAS: x to the patient's right, y forward, z up), so a slice costs
one plane of points, and a volume is a stack of such planes.
"""

import csv
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lesioncam.types import SPLITS

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Split = Literal["train", "val", "test"]
KINDS = ("mass", "ring", "infiltration")

HEAD_MM = (226.0, 194.0)  # field of view (front to back, left to right) that holds every warped head
MIDDLE_MM = (0.0, -18.0, 0.0)  # centre of the field of view in MNI space
SLAB_MM = (-22.0, 54.0)  # slices are cut here: above lies little brain, below the template has no face or neck
MOST_SLICES = 12  # of a patient: so many fit between the heights that only graze a lesion
VOLUME_MM = (-60.0, 90.0)  # extent of whole volumes from foot to head
VENTRICLE_MM = 15.0  # reach of the widening of one ventricle
WHITE = 20_000.0  # 16-bit value of white matter at scanner gain 1
SMALLEST_CUT_MM2 = 260.0  # a written slice cuts a lesion at least this wide, or not at all
SMALLEST_CORE_MM2 = 64.0  # and shows at least this much of a ring's core
_PURPOSES = ("plan", "warp", "contrast", "lesions", "distractors", "slices", "draw")


@dataclass(frozen=True)
class Phantom:
    """What to make: equal settings give equal bytes.

    Args:
        patients: number of patients, at least 3 (one for each split).
        slices: slices per patient in :func:`write_phantom`, 1 to 12.
        size: ``(H, W)`` of a slice in pixels, each at least 32.
        seed: not negative; another seed gives other patients.
        classes: lesion kinds, drawn from ``mass``, ``ring`` and ``infiltration``.
        fractions: shares of the patients in train, val and test; positive, with sum 1.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> phantom = Phantom(patients=6)
        >>> phantom.size, round(phantom.spacing_mm, 2)
        ((128, 112), 1.77)
        >>> [patient(phantom, number).split for number in range(6)].count("train")
        4
    """

    patients: int = 150
    slices: int = 6
    size: tuple[int, int] = (128, 112)
    seed: int = 0
    classes: tuple[str, ...] = ("mass", "ring")
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)

    def __post_init__(self) -> None:
        for name in ("size", "classes", "fractions"):  # lists, as YAML gives them, cannot be hashed
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check(self)

    @property
    def spacing_mm(self) -> float:
        """Side of a (square) pixel in mm, so that every head fits into ``size``."""
        return max(HEAD_MM[0] / self.size[0], HEAD_MM[1] / self.size[1])


def _check(phantom: Phantom) -> None:
    """Refuse settings that no data set can be made from."""
    if phantom.patients < 3:
        raise ValueError(f"patients must be at least 3 (one for each split), got {phantom.patients}; ask for more.")
    if not 1 <= phantom.slices <= MOST_SLICES:
        raise ValueError(f"slices must be 1 to {MOST_SLICES}, got {phantom.slices}; for more, use write_volumes.")
    if len(phantom.size) != 2 or min(phantom.size) < 32:
        raise ValueError(f"size must be (H, W) with both at least 32 pixels, got {phantom.size}; lesions would vanish.")
    if phantom.seed < 0:
        raise ValueError(f"seed must not be negative, got {phantom.seed}; use 0, 1, 2, ...")
    if not phantom.classes or len(set(phantom.classes)) < len(phantom.classes) or set(phantom.classes) - set(KINDS):
        raise ValueError(f"classes must be different names out of {KINDS}, got {phantom.classes}; correct the list.")
    if len(phantom.fractions) != 3 or min(phantom.fractions) <= 0 or not math.isclose(sum(phantom.fractions), 1):
        raise ValueError(
            f"fractions must be three positive numbers with sum 1, got {phantom.fractions}; e.g. (.6, .2, .2)."
        )


# --- the recipe of a patient -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth random field: a sum of plane waves, known at every point without a grid.

    Args:
        vectors: wave vectors, ``(M, 3)``, in radians per mm.
        phases: ``(M,)``, in radians.
        amplitudes: ``(M, C)``, in the unit of the field.
    """

    vectors: Array
    phases: Array
    amplitudes: Array

    def __call__(self, points: Array) -> Array:
        """Values ``(N, C)`` at ``points (N, 3)`` in mm."""
        return np.asarray(np.cos(points @ self.vectors.T + self.phases) @ self.amplitudes)


@dataclass(frozen=True, eq=False)
class Warp:
    """Patient space to template space: ``matrix @ (x - MIDDLE_MM) + MIDDLE_MM + shift + elastic(x)``, all in mm.

    Then what lies around ``ventricle`` is magnified by up to ``1 / (1 - wider)``, which makes the head asymmetric.
    """

    matrix: Array
    shift: Array
    elastic: Waves
    ventricle: Array
    wider: float

    def __call__(self, points: Array) -> Array:
        """Template coordinates ``(N, 3)`` of patient points ``(N, 3)``, mm."""
        middle = np.asarray(MIDDLE_MM, np.float32)
        places = (points - middle) @ self.matrix.T + middle + self.shift + self.elastic(points)
        offset = places - self.ventricle
        near = np.exp(-(offset**2).sum(1, keepdims=True) / (2 * VENTRICLE_MM**2))
        return np.asarray(places - self.wider * near * offset, np.float32)

    def inverse(self, point: Array) -> Array:
        """The patient point ``(3,)`` that lands on a template point; fixed-point steps, good to about 0.1 mm."""
        guess = point.copy()
        for _ in range(30):
            guess = guess + (point - self(guess[None])[0])
        return guess


@dataclass(frozen=True)
class Contrast:
    """Brightness of tissues (white matter is 1), shading, gain and noise of one patient's scan.

    ``shell`` makes skull and scalp uneven: thickness of bone, thickness of scalp (mm), brightness of scalp.
    """

    grey: float
    fluid: float
    bone: float
    scalp: float
    detail: float
    gain: float
    noise: float
    shading: Waves
    shell: Waves


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion in patient space.

    Args:
        kind: one of ``mass``, ``ring``, ``infiltration``.
        centre: ``(3,)`` mm.
        axes: ``(3, 3)``, maps mm to radii: the lesion is about ``|axes @ (x - centre)| < 1``.
        radius: mean radius in mm.
        surface: bumps of its surface, as a share of the radius.
        level: brightness, white matter being 1.
        rim: thickness of a ring's rim in mm.
        core: brightness of a ring's core.
        halo: width of the dark swelling around it in mm; no part of the mask.
        texture: unevenness of its brightness.
    """

    kind: str
    centre: Array
    axes: Array
    radius: float
    surface: Waves
    level: float
    rim: float
    core: float
    halo: float
    texture: Waves

    def depth(self, points: Array) -> Array:
        """About how many mm each of ``points (N, 3)`` lies inside the surface; negative outside; shape ``(N,)``."""
        offset = points - self.centre
        return np.asarray(self.radius * (1 + self.surface(offset)[:, 0] - np.linalg.norm(offset @ self.axes.T, axis=1)))


@dataclass(frozen=True, eq=False)
class Blob:
    """A round distractor: a bright spot, a marker capsule, a lump under the scalp, or a dark cyst."""

    centre: Array
    radius: float
    level: float
    inside: bool


@dataclass(frozen=True, eq=False)
class Distractors:
    """What is no lesion: vessels as ``(N, 4)`` points (x, y, z, radius; mm), blobs, and the share of artefacts."""

    vessels: Array
    vessel_level: float
    blobs: tuple[Blob, ...]
    artefacts: float


@dataclass(frozen=True, eq=False)
class PhantomPatient:
    """The recipe of one patient: everything that :func:`draw_slice` needs, and no pixels.

    Args:
        number: which patient of the phantom; ``id`` is made from it.
        split: ``train``, ``val`` or ``test``; all slices of a patient share it.
        lesions: none in a healthy patient.
        slices: positions of the slices that :func:`write_phantom` writes, z in mm, from foot to head.
    """

    number: int
    split: Split
    warp: Warp
    contrast: Contrast
    lesions: tuple[Lesion, ...]
    distractors: Distractors
    slices: tuple[float, ...] = field(default=())

    @property
    def id(self) -> str:
        """Like ``P0007``."""
        return f"P{self.number:04d}"


def patient(phantom: Phantom, number: int) -> PhantomPatient:
    """The recipe of patient ``number``, made from (seed, number) alone; about 10 ms.

    Raises:
        ValueError: if there is no such patient.

    Example:
        >>> sick = patient(Phantom(seed=1), 7)
        >>> sick.id, sick.split in SPLITS, len(sick.slices)
        ('P0007', True, 6)
    """
    if not 0 <= number < phantom.patients:
        raise ValueError(f"there is no patient {number}; expected 0 to {phantom.patients - 1}, the phantom's patients.")
    split, kinds = _plan(phantom)[number]
    warp = _draw_warp(_rng(phantom, number, "warp"))
    contrast = _draw_contrast(_rng(phantom, number, "contrast"))
    lesions = _draw_lesions(_rng(phantom, number, "lesions"), kinds, warp)
    distractors = _draw_distractors(_rng(phantom, number, "distractors"), warp)
    slices = _choose_slices(_rng(phantom, number, "slices"), phantom.slices, warp, lesions)
    return PhantomPatient(number, split, warp, contrast, lesions, distractors, slices)


def _rng(phantom: Phantom, number: int, purpose: str, *more: int) -> np.random.Generator:
    """An own stream for each patient and purpose, so that one more draw here changes nothing there."""
    return np.random.default_rng([phantom.seed, number, _PURPOSES.index(purpose), *more])


@lru_cache(maxsize=8)
def _plan(phantom: Phantom) -> list[tuple[Split, tuple[str, ...]]]:
    """Split and lesion kinds of every patient; a third is healthy and kinds are even in every split."""
    rng = _rng(phantom, 0, "plan")
    bounds = np.rint(np.cumsum(phantom.fractions) * phantom.patients).astype(int)
    first = int(np.clip(bounds[0], 1, phantom.patients - 2))
    second = int(np.clip(bounds[1], first + 1, phantom.patients - 1))
    order = rng.permutation(phantom.patients)
    plan: list[tuple[Split, tuple[str, ...]]] = [("train", ())] * phantom.patients
    for split, numbers in zip(SPLITS, np.split(order, [first, second]), strict=True):
        for turn, number in enumerate(numbers):
            plan[number] = (split, _kinds(rng, phantom.classes, turn))
    return plan


def _kinds(rng: np.random.Generator, classes: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """Every third turn healthy, else the next class, sometimes with a second lesion."""
    if turn % 3 == 2:
        return ()
    first = classes[(turn - turn // 3) % len(classes)]
    return (first, str(rng.choice(classes))) if rng.random() < 0.25 else (first,)


def _draw_waves(rng: np.random.Generator, count: int, wavelength_mm: tuple[float, float], spread: Array) -> Waves:
    """Random waves; each of the ``C`` fields has about the standard deviation ``spread (C,)``."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    vectors = direction * 2 * np.pi / rng.uniform(*wavelength_mm, size=(count, 1))
    amplitudes = rng.normal(size=(count, len(spread))) * spread * math.sqrt(2 / count)
    return Waves(*(a.astype(np.float32) for a in (vectors, rng.uniform(0, 2 * np.pi, count), amplitudes)))


def _draw_warp(rng: np.random.Generator) -> Warp:
    angles = np.radians(rng.normal(0, (4, 3, 5)))
    matrix = _rotation(angles) @ np.diag(rng.uniform(0.95, 1.08, 3))  # above 1: a smaller head
    shift = rng.normal(0, 3, 3)
    elastic = _draw_waves(rng, 14, (70, 170), np.full(3, 3.2))
    ventricle = np.array([rng.choice([-16, 16]), -12, 16], np.float32)
    return Warp(matrix.astype(np.float32), shift.astype(np.float32), elastic, ventricle, rng.uniform(0, 0.4))


def _rotation(angles: Array) -> Array:
    """Rotation about x, then y, then z, radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[j, i], turn[i, j] = math.sin(angle), -math.sin(angle)
        result = turn @ result
    return result


def _draw_contrast(rng: np.random.Generator) -> Contrast:
    shading = _draw_waves(rng, 6, (140, 300), np.array([0.2]))
    return Contrast(
        grey=rng.uniform(0.62, 0.84),
        fluid=rng.uniform(0.18, 0.36),
        bone=rng.uniform(0.06, 0.16),
        scalp=rng.uniform(1.1, 1.7),
        detail=rng.uniform(0.3, 1.0),
        gain=rng.uniform(0.5, 1.0),
        noise=rng.uniform(0.02, 0.045),
        shading=shading,
        shell=_draw_waves(rng, 8, (30, 90), np.array([0.8, 1.0, 0.13])),
    )


def _draw_lesions(rng: np.random.Generator, kinds: tuple[str, ...], warp: Warp) -> tuple[Lesion, ...]:
    """One lesion for each kind, shown well at least by its middle slice; a second one without a place is left out."""
    lesions: list[Lesion] = []
    for kind in kinds:
        for _ in range(20):
            lesion = _draw_lesion(rng, kind, warp)
            apart = all(np.linalg.norm(lesion.centre - o.centre) > 1.5 * (lesion.radius + o.radius) for o in lesions)
            if apart and _shown(lesion, warp, lesion.centre[2:])[0].all():
                lesions.append(lesion)
                break
    return tuple(lesions)


def _draw_lesion(rng: np.random.Generator, kind: str, warp: Warp) -> Lesion:
    radius = rng.uniform(*{"mass": (13.0, 24.0), "ring": (15.0, 26.0), "infiltration": (17.0, 28.0)}[kind])
    stretch = np.exp(rng.normal(0, 0.14, 3))
    axes = np.diag(stretch / np.cbrt(stretch.prod()) / radius) @ _rotation(rng.uniform(0, 2 * np.pi, 3))
    bumps = 0.16 if kind == "infiltration" else 0.09
    level = {"mass": (0.96, 1.2), "ring": (0.95, 1.22), "infiltration": (0.42, 0.52)}[kind]
    return Lesion(
        kind=kind,
        centre=_draw_centre(rng, warp, 0.55 * radius).astype(np.float32),
        axes=axes.astype(np.float32),
        radius=radius,
        surface=_draw_waves(rng, 8, (1.6 * radius, 3.5 * radius), np.array([bumps])),
        level=rng.uniform(*level),
        rim=min(rng.uniform(4.5, 7.0), 0.36 * radius),
        core=rng.uniform(0.25, 0.5),
        halo=rng.uniform(5.0, 9.0) if kind == "mass" else 0.0,
        texture=_draw_waves(rng, 10, (7, 22), np.array([0.06])),
    )


def _draw_centre(rng: np.random.Generator, warp: Warp, margin_mm: float) -> Array:
    """A patient point in the slab, at least ``margin_mm`` deep in the brain."""
    head = _head()
    places = head.deep[head.depth_mm > margin_mm]
    place = places[rng.integers(len(places))] + rng.uniform(-1.5, 1.5, 3)
    return warp.inverse(place)


def _draw_distractors(rng: np.random.Generator, warp: Warp) -> Distractors:
    head = _head()
    vessels = np.concatenate(
        [_draw_vessel(rng, head.deep[rng.integers(len(head.deep))]) for _ in range(rng.integers(4, 9))]
    )
    blobs = [_inner_blob(rng, warp, (1.5, 2.6), (1.5, 2.2)) for _ in range(rng.integers(0, 4))]
    if rng.random() < 0.25:
        blobs.append(_inner_blob(rng, warp, (6, 11), (0.12, 0.3)))  # a cyst: a dark core without a rim
    blobs.extend(_outer_blob(rng, warp) for _ in range(rng.integers(0, 3)))
    return Distractors(vessels.astype(np.float32), rng.uniform(1.5, 2.2), tuple(blobs), rng.uniform(0.1, 0.6))


def _draw_vessel(rng: np.random.Generator, start: Array) -> Array:
    """A winding tube, ``(N, 4)``: points 0.8 mm apart, and its radius."""
    count = int(rng.integers(60, 160))
    heading = rng.normal(size=3) + np.cumsum(rng.normal(0, 0.12, (count, 3)), axis=0)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    path = start + np.cumsum(0.8 * heading, axis=0)
    return np.column_stack([path, np.full(count, rng.uniform(1.0, 1.9))])


def _inner_blob(rng: np.random.Generator, warp: Warp, radius: tuple[float, float], level: tuple[float, float]) -> Blob:
    size = rng.uniform(*radius)
    return Blob(_draw_centre(rng, warp, size + 1), size, rng.uniform(*level), inside=True)


def _outer_blob(rng: np.random.Generator, warp: Warp) -> Blob:
    """A lump under the scalp or a marker capsule on it."""
    angle, z = rng.uniform(0, 2 * np.pi), rng.uniform(*SLAB_MM)
    ray = np.array([math.sin(angle), math.cos(angle), 0.0])
    reach = np.arange(40.0, 130.0)
    outside = _head().distance(warp((np.array([*MIDDLE_MM[:2], z]) + reach[:, None] * ray).astype(np.float32)))
    distance = reach[np.argmax(outside > rng.uniform(6, 16))]
    return Blob(np.array([*MIDDLE_MM[:2], z]) + distance * ray, rng.uniform(4, 10), rng.uniform(1.2, 2.2), inside=False)


def _choose_slices(rng: np.random.Generator, count: int, warp: Warp, lesions: tuple[Lesion, ...]) -> tuple[float, ...]:
    """About six slices in ten through a lesion, the others clear of it; none that only grazes one."""
    heights = np.arange(SLAB_MM[0], SLAB_MM[1], 1.5) + rng.uniform(0, 1.5)
    through, usable = np.zeros(len(heights), bool), np.ones(len(heights), bool)
    for lesion in lesions:
        well, clear = _shown(lesion, warp, heights)
        through |= well
        usable &= well | clear
    sick = _spread(rng, heights[usable & through], round(0.6 * count))
    healthy = _spread(rng, heights[usable & ~through], count - len(sick))
    rest = np.setdiff1d(heights[usable], [*sick, *healthy])
    more = _spread(rng, rest, count - len(sick) - len(healthy))
    return tuple(sorted(float(z) for z in (*sick, *healthy, *more)))


def _spread(rng: np.random.Generator, heights: Array, count: int) -> Array:
    """``count`` of the heights (or all), one at random out of each of ``count`` equal stretches."""
    if count <= 0 or len(heights) <= count:
        return heights[: max(count, 0)]
    return np.array([rng.choice(stretch) for stretch in np.array_split(heights, count)])


def _shown(lesion: Lesion, warp: Warp, heights: Array) -> tuple[Array, Array]:
    """Where a slice shows the lesion well, and where it stays 3 mm clear of it; from points 4 mm apart."""
    step = np.arange(-1.7, 1.71, 4 / lesion.radius) * lesion.radius
    z, y, x = np.meshgrid(heights, lesion.centre[1] + step, lesion.centre[0] + step, indexing="ij")
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    depth = lesion.depth(points)
    near = depth > -3
    depth[near] = np.minimum(depth[near], -_head().distance(warp(points[near])))
    depth = depth.reshape(len(heights), -1)
    well = 16.0 * (depth > 0).sum(1) >= SMALLEST_CUT_MM2
    if lesion.kind == "ring":  # a cut through the rim alone looks like a mass
        well &= 16.0 * (depth > lesion.rim + 1).sum(1) >= SMALLEST_CORE_MM2
    return well, depth.max(1) < -3


# --- the head --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Head:
    """The template: grey and white matter and T1 detail on a 1 mm grid, distance to the brain's hull on a 2 mm grid."""

    grey: Array
    white: Array
    detail: Array
    hull: Array
    origin: Array
    deep: Array  # (N, 3) mm: places in the slab inside the brain
    depth_mm: Array  # (N,): how deep they lie

    def sample(self, channel: Array, points: Array, step_mm: float = 1.0, outside: float = 0.0) -> Array:
        """Linear interpolation of a channel at template points ``(N, 3)``, mm."""
        where = ((points - self.origin) / step_mm).T
        return np.asarray(ndimage.map_coordinates(channel, where, np.float32, order=1, cval=outside, prefilter=False))

    def distance(self, points: Array) -> Array:
        """Distance from the brain's hull in mm, ``(N,)``; negative inside."""
        return self.sample(self.hull, points, 2.0, outside=60.0)


@lru_cache(maxsize=1)
def _head() -> _Head:
    """Read the template once per process, about a second."""
    grey, white, t1 = (_read_template(name) for name in ("gm", "wm", "t1"))
    pad = 16  # room for skull and scalp
    origin = np.array([-98.0, -134.0, -72.0], np.float32) - pad
    grey, white, t1 = (np.pad(a, pad) for a in (grey, white, t1))
    hull = _hull_distance((t1 > 0)[::2, ::2, ::2])
    inside = np.argwhere(hull < -4)
    places = inside * 2.0 + origin
    keep = (places[:, 2] > SLAB_MM[0] + 6) & (places[:, 2] < SLAB_MM[1] - 6)
    depth = -hull[tuple(inside[keep].T)]
    return _Head(grey, white, _detail(grey, white, t1), hull, origin, places[keep].astype(np.float32), depth)


def _read_template(name: str) -> Array:
    """A template inside the installed nilearn, read as a file: importing ``nilearn.datasets`` takes seconds."""
    path = resources.files("nilearn").joinpath(
        "datasets", "data", f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    )
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed nilearn has no {path}; expected nilearn 0.10 to 0.14, install one of these."
        )
    with resources.as_file(path) as file:
        return np.asarray(nib.load(file).dataobj)


def _hull_distance(brain: Array) -> Array:
    """Signed distance in mm to the brain with its sulci closed, on the 2 mm grid."""
    near = ndimage.distance_transform_edt(~brain, 2.0) < 12
    hull = ndimage.distance_transform_edt(near, 2.0) > 12
    outside, inside = ndimage.distance_transform_edt(~hull, 2.0), ndimage.distance_transform_edt(hull, 2.0)
    return np.asarray(ndimage.gaussian_filter((outside - inside).astype(np.float32), 1.0))


def _detail(grey: Array, white: Array, t1: Array) -> Array:
    """What T1 shows beyond its tissue classes (deep nuclei, vessels), int8 around 0, in 1/128 of white matter."""
    brain = t1 > 0
    parts = np.stack([grey[brain], white[brain], 255.0 - grey[brain] - white[brain]], axis=-1) / 255.0
    levels, *_ = np.linalg.lstsq(parts[::50], t1[brain][::50].astype(float), rcond=None)
    detail = np.zeros(t1.shape, np.int8)
    detail[brain] = np.clip(128 * (t1[brain] - parts @ levels) / levels[1], -127, 127)
    return detail


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw_slice(
    phantom: Phantom, patient: PhantomPatient, z: float
) -> tuple[NDArray[np.uint16], dict[str, NDArray[np.bool_]]]:
    """One slice across the head, seen from the feet (the patient's right is on the left), front up.

    Args:
        phantom: its ``size`` and ``spacing_mm`` set the grid; pixel (0, 0) is right and front.
        patient: the recipe.
        z: height of the plane in mm.

    Returns:
        image ``(H, W)`` in arbitrary scanner units; and a mask ``(H, W)`` for each class, exact, maybe empty.

    Example:
        >>> phantom = Phantom(patients=3, size=(64, 56))
        >>> someone = patient(phantom, 0)
        >>> image, masks = draw_slice(phantom, someone, z=someone.slices[0])
        >>> image.shape, image.dtype.name, sorted(masks)
        ((64, 56), 'uint16', ['mass', 'ring'])
    """
    points = _plane(phantom.size, phantom.spacing_mm, z)
    clean, masks = _render(phantom.classes, patient, points.reshape(-1, 3))
    rng = _rng(phantom, patient.number, "draw", round(z * 1000) + 10**6)
    image = _spoil(rng, patient, clean.reshape(phantom.size))
    return image, {name: mask.reshape(phantom.size) for name, mask in masks.items()}


def draw_volume(
    phantom: Phantom, patient: PhantomPatient, spacing_mm: float = 2.0
) -> tuple[NDArray[np.int16], dict[str, NDArray[np.bool_]], NDArray[np.float64]]:
    """The whole head, as a stack of slices from foot to head on a cubic grid.

    Args:
        phantom: gives classes and seed; its ``size`` does not matter here.
        patient: the recipe.
        spacing_mm: side of a voxel, mm.

    Returns:
        volume ``(D, H, W)``, int16; a mask ``(D, H, W)`` for each class; and the affine ``(4, 4)`` from voxel
        ``(d, h, w)`` to world mm (RAS), the same world as ``z`` of :func:`draw_slice` and a lesion's ``centre``.

    Raises:
        ValueError: if ``spacing_mm`` is not between 0.5 and 8.

    Example:
        >>> phantom = Phantom(patients=3)
        >>> volume, masks, affine = draw_volume(phantom, patient(phantom, 0), spacing_mm=8.0)
        >>> volume.shape, np.diag(affine @ np.eye(4)[[2, 1, 0, 3]]).tolist()
        ((19, 29, 25), [-8.0, -8.0, 8.0, 1.0])
    """
    if not 0.5 <= spacing_mm <= 8:
        raise ValueError(f"spacing_mm must be between 0.5 and 8, got {spacing_mm}; 2.0 is a good start.")
    shape = tuple(math.ceil(mm / spacing_mm) for mm in HEAD_MM)
    heights = np.arange(VOLUME_MM[0], VOLUME_MM[1], spacing_mm)
    volume = np.zeros((len(heights), *shape), np.int16)
    masks = {name: np.zeros(volume.shape, bool) for name in phantom.classes}
    for d, z in enumerate(heights):
        clean, cut = _render(phantom.classes, patient, _plane(shape, spacing_mm, z).reshape(-1, 3))
        rng = _rng(phantom, patient.number, "draw", round(z * 1000) + 10**6, 1)
        volume[d] = _spoil(rng, patient, clean.reshape(shape)) // 2  # int16 is what scanners write
        for name, mask in cut.items():
            masks[name][d] = mask.reshape(shape)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = spacing_mm, -spacing_mm, -spacing_mm, 1
    affine[:3, 3] = _plane(shape, spacing_mm, heights[0])[0, 0]
    return volume, masks, affine


def _plane(size: tuple[int, ...], spacing_mm: float, z: float) -> Array:
    """World points ``(H, W, 3)`` of a slice; rows run from front to back, columns from right to left."""
    y, x = (spacing_mm * ((n - 1) / 2 - np.arange(n)) for n in size)
    points = np.empty((*size, 3), np.float32)
    points[..., 0], points[..., 1], points[..., 2] = x + MIDDLE_MM[0], y[:, None] + MIDDLE_MM[1], z
    return points


def _render(classes: tuple[str, ...], patient: PhantomPatient, points: Array) -> tuple[Array, dict[str, Array]]:
    """Brightness without noise (white matter is 1) and the masks, at points ``(N, 3)``."""
    head, places = _head(), patient.warp(points)
    outside = head.distance(places)
    signal = _tissue(patient.contrast, points, places, outside)
    masks = {name: np.zeros(len(points), bool) for name in classes}
    for lesion in patient.lesions:
        near = np.abs(points - lesion.centre).max(1) < 2 * lesion.radius
        depth = np.minimum(lesion.depth(points[near]), -outside[near])
        masks[lesion.kind][near] |= depth > 0
        signal[near] = _plant(lesion, depth, signal[near], points[near])
    signal = _add_distractors(patient.distractors, points, outside, signal)
    return signal * np.exp(patient.contrast.shading(points)[:, 0]), masks


def _tissue(contrast: Contrast, points: Array, places: Array, outside: Array) -> Array:
    """A head without lesions, ``(N,)``: brain, fluid, bone, scalp and air, at places in the template."""
    head = _head()
    grey, white, detail = (head.sample(c, places) for c in (head.grey, head.white, head.detail))
    grey, white, detail = grey / 255, white / 255, contrast.detail * detail / 128
    brain = contrast.grey * grey + white + contrast.fluid * np.clip(1 - grey - white, 0, 1) + detail
    signal = _blend(brain, contrast.fluid, outside - 0.5, 1.0)
    signal = _blend(signal, contrast.bone, outside - 3.0, 1.0)
    bone, scalp, bright = contrast.shell(points).T
    bone = np.maximum(8.5 + bone, 5.5)
    signal = _blend(signal, contrast.scalp * np.exp(bright), outside - bone, 1.2)
    return _blend(signal, 0.0, outside - bone - np.maximum(5.0 + scalp, 2.0), 0.8)


def _blend(inner: Array, outer: Array | float, depth: Array, width_mm: float) -> Array:
    """``inner`` where depth is negative, ``outer`` where positive, with a soft edge."""
    share = np.clip(0.5 + depth / (2 * width_mm), 0, 1)
    return np.asarray(inner * (1 - share) + outer * share)


def _plant(lesion: Lesion, depth: Array, signal: Array, points: Array) -> Array:
    """Paint one lesion over ``signal (N,)``; ``depth`` is mm inside its surface."""
    texture = lesion.texture(points)[:, 0]
    if lesion.kind == "infiltration":  # the folds of the brain still show, at a third of their contrast
        return _blend(signal, lesion.level + texture + 0.35 * (signal - 0.8), depth, 2.0)
    body = lesion.level + texture
    if lesion.kind == "ring":
        body = _blend(body, lesion.core + texture, depth - lesion.rim, 1.2)
    swelling = lesion.halo and 0.55 * np.clip(1 + depth / lesion.halo, 0, 1)
    return _blend(signal * (1 - swelling), body, depth, 1.0)


def _add_distractors(distractors: Distractors, points: Array, outside: Array, signal: Array) -> Array:
    """Blobs and vessels over ``signal``; the points must be of one plane."""
    for blob in distractors.blobs:
        near = np.abs(points - blob.centre).max(1) < blob.radius + 2
        depth = blob.radius - np.linalg.norm(points[near] - blob.centre, axis=1)
        depth = np.minimum(depth, -outside[near]) if blob.inside else np.minimum(depth, outside[near] - 5)
        signal[near] = _blend(signal[near], blob.level, depth, 1.0)
    z = points[0, 2]
    close = distractors.vessels[np.abs(distractors.vessels[:, 2] - z) < 3]
    for x, y, height, radius in close:
        near = np.flatnonzero((np.abs(points[:, 0] - x) < 4) & (np.abs(points[:, 1] - y) < 4) & (outside < 0))
        distance = np.linalg.norm(points[near] - (x, y, height), axis=1)
        lit = _blend(signal[near], distractors.vessel_level, radius - distance, 0.9)
        signal[near] = np.maximum(signal[near], lit)
    return signal


def _spoil(rng: np.random.Generator, patient: PhantomPatient, clean: Array) -> NDArray[np.uint16]:
    """Artefacts of this slice, noise and the scanner's gain, as 16-bit numbers."""
    image = _add_artefacts(rng, patient.distractors.artefacts, clean)
    real, imaginary = rng.normal(0, patient.contrast.noise, (2, *clean.shape))
    image = np.hypot(image + real, imaginary)  # magnitude images have Rician noise
    return np.clip(np.rint(image * patient.contrast.gain * WHITE), 0, 65535).astype(np.uint16)


def _add_artefacts(rng: np.random.Generator, share: float, image: Array) -> Array:
    """Each with probability ``share``: a ghost of the head, a zipper line, a short bright streak."""
    height, width = image.shape
    ghost, zipper, streak = rng.random(3) < share
    if ghost:
        image = image + rng.uniform(0.03, 0.08) * np.roll(image, height // 2, axis=0)
    if zipper:
        image = image.copy()
        image[:, rng.integers(width)] += rng.uniform(0.5, 1.5) * rng.random(height)
    if streak:
        y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        along = (
            np.linspace(-1, 1, 60)[:, None]
            * rng.uniform(0.05, 0.12)
            * height
            * np.array([math.sin(angle), math.cos(angle)])
        )
        rows, columns = np.rint(along + np.array([y, x])).astype(int).T
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        image = image.copy()
        image[rows[inside], columns[inside]] = rng.uniform(1.4, 2.2)
    return image


# --- files -----------------------------------------------------------------------------------------------------------


def write_phantom(folder: Path, phantom: Phantom) -> Path:
    """Write slices like a user's data: ``images/*.png`` (16-bit grey), ``masks/*.png``, ``labels.csv``.

    Returns:
        Path of ``labels.csv``, written last; one row per slice, with the columns ``image, patient, split``, one 0/1
        column per class and one ``mask:<class>`` per class (blank where negative); paths are relative to ``folder``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     labels = write_phantom(Path(folder), Phantom(patients=3, slices=1, size=(32, 32)))
        ...     labels.read_text().splitlines()[0]
        'image,patient,split,mass,ring,mask:mass,mask:ring'
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(phantom.patients):
        someone = patient(phantom, number)
        for index, z in enumerate(someone.slices):
            image, masks = draw_slice(phantom, someone, z)
            stem = f"{someone.id}_s{index:02d}"
            Image.fromarray(image).save(folder / "images" / f"{stem}.png")
            found = {name: mask for name, mask in masks.items() if mask.any()}
            for name, mask in found.items():
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{stem}_{name}.png")
            rows.append(_row(phantom, someone, f"images/{stem}.png", {n: f"masks/{stem}_{n}.png" for n in found}))
    logger.info("phantom: %d slices of %d patients in %s", len(rows), phantom.patients, folder)
    return _write_labels(folder, rows)


def write_volumes(folder: Path, phantom: Phantom, spacing_mm: float = 2.0) -> Path:
    """Write whole heads: ``volumes/*.nii.gz``, ``masks/*.nii.gz`` and ``labels.csv``, with the same columns.

    The files are in RAS order, as most tools write them; their affine leads to the same world as :func:`draw_volume`'s.

    Returns:
        Path of ``labels.csv``, one row per patient.
    """
    for name in ("volumes", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(phantom.patients):
        someone = patient(phantom, number)
        volume, masks, affine = draw_volume(phantom, someone, spacing_mm)
        _save_nifti(folder / "volumes" / f"{someone.id}.nii.gz", volume, affine)
        found = {name: mask for name, mask in masks.items() if mask.any()}
        for name, mask in found.items():
            _save_nifti(folder / "masks" / f"{someone.id}_{name}.nii.gz", mask.astype(np.uint8), affine)
        paths = {name: f"masks/{someone.id}_{name}.nii.gz" for name in found}
        rows.append(_row(phantom, someone, f"volumes/{someone.id}.nii.gz", paths))
    logger.info("phantom: %d volumes in %s", len(rows), folder)
    return _write_labels(folder, rows)


def _row(phantom: Phantom, someone: PhantomPatient, image: str, masks: Mapping[str, str]) -> dict[str, str | int]:
    row: dict[str, str | int] = {"image": image, "patient": someone.id, "split": someone.split}
    row |= {name: int(name in masks) for name in phantom.classes}
    return row | {f"mask:{name}": masks.get(name, "") for name in phantom.classes}


def _write_labels(folder: Path, rows: list[dict[str, str | int]]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _save_nifti(path: Path, array: Array, affine: Array) -> None:
    nib.as_closest_canonical(nib.Nifti1Image(array, affine)).to_filename(path)
