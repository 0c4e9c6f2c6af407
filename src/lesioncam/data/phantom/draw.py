"""From a recipe to pixels: slices and volumes with their masks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lesioncam.data.phantom.anatomy import (
    HEAD_MM,
    MIDDLE_MM,
    VOLUME_MM,
    WHITE,
    Array,
    Contrast,
    Distractors,
    Lesion,
    PhantomPatient,
    template_head,
)
from lesioncam.data.phantom.recipe import Phantom, random_of


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
        >>> from lesioncam.data.phantom import patient
        >>> phantom = Phantom(patients=3, size=(64, 56))
        >>> someone = patient(phantom, 0)
        >>> image, masks = draw_slice(phantom, someone, z=someone.slices[0])
        >>> image.shape, image.dtype.name, sorted(masks)
        ((64, 56), 'uint16', ['mass', 'ring'])
    """
    points = plane_points(phantom.size, phantom.spacing_mm, z)
    clean, masks = _render(phantom.classes, patient, points.reshape(-1, 3))
    rng = random_of(phantom, patient.number, "draw", round(z * 1000) + 10**6)
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
        >>> from lesioncam.data.phantom import patient
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
        clean, cut = _render(phantom.classes, patient, plane_points(shape, spacing_mm, z).reshape(-1, 3))
        rng = random_of(phantom, patient.number, "draw", round(z * 1000) + 10**6, 1)
        volume[d] = _spoil(rng, patient, clean.reshape(shape)) // 2  # int16 is what scanners write
        for name, mask in cut.items():
            masks[name][d] = mask.reshape(shape)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = spacing_mm, -spacing_mm, -spacing_mm, 1
    affine[:3, 3] = plane_points(shape, spacing_mm, heights[0])[0, 0]
    return volume, masks, affine


def plane_points(size: tuple[int, ...], spacing_mm: float, z: float) -> Array:
    """World points ``(H, W, 3)`` of a slice; rows run from front to back, columns from right to left."""
    y, x = (spacing_mm * ((n - 1) / 2 - np.arange(n)) for n in size)
    points = np.empty((*size, 3), np.float32)
    points[..., 0], points[..., 1], points[..., 2] = x + MIDDLE_MM[0], y[:, None] + MIDDLE_MM[1], z
    return points


def _render(classes: tuple[str, ...], patient: PhantomPatient, points: Array) -> tuple[Array, dict[str, Array]]:
    """Brightness without noise (white matter is 1) and the masks, at points ``(N, 3)``."""
    head, places = template_head(), patient.warp(points)
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
    head = template_head()
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
