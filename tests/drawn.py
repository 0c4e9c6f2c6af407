"""Drawn bodies that several tests use."""

import numpy as np


def disc(size, centre, radius):
    grid = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def head(size=(160, 140), centre=(85, 66), noise=0.05, seed=0):
    """Brain, dark bone, a scalp that is open at one place; air with the noise of a magnitude image."""
    rng = np.random.default_rng(seed)
    image = 0.6 * disc(size, centre, 40) + 1.0 * (disc(size, centre, 54) & ~disc(size, centre, 48))
    image[centre[0] - 3 : centre[0] + 3, centre[1] + 45 :] = 0.0
    return np.hypot(image + rng.normal(0, noise, size), rng.normal(0, noise, size))
