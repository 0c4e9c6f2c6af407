"""The files of a phantom, as a user's data would lie on a disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

from lesioncam.data.phantom.anatomy import Array, PhantomPatient
from lesioncam.data.phantom.draw import draw_slice, draw_volume
from lesioncam.data.phantom.recipe import Phantom, patient
from lesioncam.files import write_csv

logger = logging.getLogger(__name__)


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
    return write_csv(folder / "labels.csv", pd.DataFrame(rows))


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
    return write_csv(folder / "labels.csv", pd.DataFrame(rows))


def _row(phantom: Phantom, someone: PhantomPatient, image: str, masks: Mapping[str, str]) -> dict[str, str | int]:
    row: dict[str, str | int] = {"image": image, "patient": someone.id, "split": someone.split}
    row |= {name: int(name in masks) for name in phantom.classes}
    return row | {f"mask:{name}": masks.get(name, "") for name in phantom.classes}


def _save_nifti(path: Path, array: Array, affine: Array) -> None:
    nib.as_closest_canonical(nib.Nifti1Image(array, affine)).to_filename(path)
