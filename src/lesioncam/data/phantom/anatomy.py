"""What a phantom is made of: the template head, and the parts of a patient in world coordinates (mm)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import nibabel as nib
import numpy as np
from scipy import ndimage

from lesioncam.types import Split

Array = np.ndarray
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
    slices: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        """Like ``P0007``."""
        return f"P{self.number:04d}"


# ---- the head ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Head:
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
def template_head() -> Head:
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
    return Head(grey, white, _detail(grey, white, t1), hull, origin, places[keep].astype(np.float32), depth)


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
