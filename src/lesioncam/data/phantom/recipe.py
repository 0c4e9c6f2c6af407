"""The recipe of a patient: everything that is drawn by chance, and no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lesioncam.data.phantom.anatomy import (
    HEAD_MM,
    KINDS,
    MIDDLE_MM,
    MOST_SLICES,
    SLAB_MM,
    SMALLEST_CORE_MM2,
    SMALLEST_CUT_MM2,
    Array,
    Blob,
    Contrast,
    Distractors,
    Lesion,
    PhantomPatient,
    Warp,
    Waves,
    template_head,
)
from lesioncam.geometry import plane_rotation
from lesioncam.types import SPLITS, Split

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
    warp = _draw_warp(random_of(phantom, number, "warp"))
    contrast = _draw_contrast(random_of(phantom, number, "contrast"))
    lesions = _draw_lesions(random_of(phantom, number, "lesions"), kinds, warp)
    distractors = _draw_distractors(random_of(phantom, number, "distractors"), warp)
    slices = _choose_slices(random_of(phantom, number, "slices"), phantom.slices, warp, lesions)
    return PhantomPatient(number, split, warp, contrast, lesions, distractors, slices)


def random_of(phantom: Phantom, number: int, purpose: str, *more: int) -> np.random.Generator:
    """An own stream for each patient and purpose, so that one more draw here changes nothing there."""
    return np.random.default_rng([phantom.seed, number, _PURPOSES.index(purpose), *more])


@lru_cache(maxsize=8)
def _plan(phantom: Phantom) -> list[tuple[Split, tuple[str, ...]]]:
    """Split and lesion kinds of every patient; a third is healthy and kinds are even in every split."""
    rng = random_of(phantom, 0, "plan")
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
        result = plane_rotation(3, (axis + 1) % 3, (axis + 2) % 3, angle) @ result
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
    head = template_head()
    places = head.deep[head.depth_mm > margin_mm]
    place = places[rng.integers(len(places))] + rng.uniform(-1.5, 1.5, 3)
    return warp.inverse(place)


def _draw_distractors(rng: np.random.Generator, warp: Warp) -> Distractors:
    head = template_head()
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
    outside = template_head().distance(warp((np.array([*MIDDLE_MM[:2], z]) + reach[:, None] * ray).astype(np.float32)))
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
    depth[near] = np.minimum(depth[near], -template_head().distance(warp(points[near])))
    depth = depth.reshape(len(heights), -1)
    well = 16.0 * (depth > 0).sum(1) >= SMALLEST_CUT_MM2
    if lesion.kind == "ring":  # a cut through the rim alone looks like a mass
        well &= 16.0 * (depth > lesion.rim + 1).sum(1) >= SMALLEST_CORE_MM2
    return well, depth.max(1) < -3
