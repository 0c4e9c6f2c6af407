"""The members of each kind: a new one joins the project's own dict, and a line here only where a law is not for it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import tifffile
import torch
from PIL import Image
from torch import nn

from lesioncam.data.io.image import read_picture
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.export.predicted_image import PredictedImage
from lesioncam.export.writers import WRITERS
from lesioncam.geometry import Geometry
from lesioncam.models.pooling import Pool, PoolInput, build_pool
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.picture import Picture
from lesioncam.segmentation.mask import segment
from lesioncam.types import Calibration, CaseResult, Heatmap, Threshold

# ---- poolings ----------------------------------------------------------------------------------------------------

POOLINGS = sorted(POOLING_TYPES)

COUNTS_LOCATIONS = {"noisy_or"}
"""Of a constant map these give more than the constant."""

KNOWS_AXES = {"acam"}
"""These read the grid row by row: locations may not change places, and one more axis is one more term."""

NOT_MONOTONE = {"exp", "linear", "pcam"}
"""Raising a location that is below the others may lower the logit: it takes weight from them."""


def pooling(name: str, channels: int = 4, classes: int = 3, axes: int = 2) -> Pool:
    """A pooling with its default options in double precision; weights of its own are drawn with one seed."""
    pool = build_pool(POOLING_TYPES[name](), given=PoolInput(channels, classes, axes)).double()
    for i, weight in enumerate(pool.parameters()):
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(i))
    return pool


# ---- map methods -------------------------------------------------------------------------------------------------

METHOD_NAMES = sorted(MAP_METHODS)

METHOD_OPTIONS: dict[str, dict[str, int]] = {"rise": {"masks": 64}, "smoothgrad": {"samples": 4}}
"""Options that keep the slower methods short."""

SAME_FOR_ALL_CLASSES = {"eigencam"}
"""Methods that do not look at the class."""

EQUALS_CAM = {"gradcam", "hirescam", "xgradcam"}
"""On a network that ends in a mean and a linear layer: the class map without its bias over the number of cells."""

NOT_QUITE_FLAT = {"rise": 0.5, "eigencam": 1e-6}
"""Of a network that sees nothing: the spread of the map against its size. RISE shows how often its random masks covered
a place (64 of them here), Eigen-CAM the rounding of a singular vector."""

NEEDS_NO_LAYER = {"cam", "clear", "integrated_gradients", "occlusion", "rise", "smoothgrad"}
"""Methods that take no ``layer``."""

# ---- readers -----------------------------------------------------------------------------------------------------

Writer = Callable[[Path, np.ndarray], object]


@dataclass(frozen=True)
class FileKind:
    """A kind of image file: its suffix, an array it holds exactly, how another library writes it and how it is read."""

    suffix: str
    array: np.ndarray
    write: Writer
    as_read: Callable[[np.ndarray], np.ndarray] = lambda array: array


def pixels_of(path: Path) -> np.ndarray:
    """What the readers make of a file."""
    return read_picture(path).pixels


def _noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == "float32":
        return rng.normal(0, 1000, shape).astype(np.float32)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def _pillow(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def _jpeg(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path, quality=100)


def _pgm16(path: Path, array: np.ndarray) -> None:
    path.write_bytes(b"P5\n%d %d\n65535\n" % array.shape[::-1] + array.astype(">u2").tobytes())


def _matlab(path: Path, array: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["cjdata/image"] = array.T  # MATLAB stores columns


def _idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(">4B3I", 0, 0, 8, 3, 1, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _nifti(path: Path, array: np.ndarray) -> None:
    """Voxels ``(i, j, k)`` = right, anterior, superior, 1 x 2 x 3 mm."""
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)


def _as_radiologists(voxels: np.ndarray) -> np.ndarray:
    """Slices from foot to head, anterior at the top, the patient's right on the left: ``(D, H, W, 1)``."""
    return voxels.transpose(2, 1, 0)[:, ::-1, ::-1, None]


FILE_KINDS: dict[str, FileKind] = {
    "png grey": FileKind(".png", _noise(9, 7), _pillow),
    "png colour": FileKind(".png", _noise(9, 7, 3), _pillow),
    "png 16 bit": FileKind(".png", _noise(9, 7, dtype="uint16"), _pillow),
    "jpeg": FileKind(".jpg", np.kron(_noise(2, 3), np.ones((8, 8), np.uint8)), _jpeg),
    "jpeg, long suffix": FileKind(".jpeg", np.full((8, 16), 77, np.uint8), _jpeg),
    "bmp": FileKind(".bmp", _noise(9, 7, 3), _pillow),
    "pgm": FileKind(".pgm", _noise(9, 7), _pillow),
    "pgm 16 bit": FileKind(".pgm", _noise(9, 7, dtype="uint16"), _pgm16),
    "ppm": FileKind(".ppm", _noise(9, 7, 3), _pillow),
    "tiff 8 bit": FileKind(".tif", _noise(9, 7), tifffile.imwrite),
    "tiff 16 bit": FileKind(".tiff", _noise(9, 7, dtype="uint16"), tifffile.imwrite),
    "tiff signed": FileKind(".tif", _noise(9, 7, dtype="int16"), tifffile.imwrite),
    "tiff float": FileKind(".tif", _noise(9, 7, dtype="float32"), tifffile.imwrite),
    "tiff colour": FileKind(".tif", _noise(9, 7, 3), tifffile.imwrite),
    "matlab": FileKind(".mat", _noise(9, 7, dtype="int16"), _matlab),
    "idx": FileKind("-idx3-ubyte", _noise(9, 7), _idx),
    "idx, gz": FileKind("-idx3-ubyte.gz", _noise(9, 7), _idx),
    "nifti 8 bit": FileKind(".nii", _noise(6, 5, 4), _nifti, _as_radiologists),
    "nifti 16 bit": FileKind(".nii.gz", _noise(6, 5, 4, dtype="int16"), _nifti, _as_radiologists),
    "nifti float": FileKind(".nii.gz", _noise(6, 5, 4, dtype="float32"), _nifti, _as_radiologists),
}

# ---- what a case is ----------------------------------------------------------------------------------------------

CLASSES = ("mass", "ring")


def case_of(
    maps: np.ndarray, probabilities: Sequence[float], name: str = "a", *, threshold: float = 0.5, decision: float = 0.5
) -> CaseResult:
    """What a classifier would say; maps are logits ``(K, *size)`` on the grid of the file: each pixel is known."""
    raw = np.asarray(maps, np.float32)
    geometry = Geometry.letterbox(raw.shape[1:], raw.shape[1:])
    heatmap = Heatmap(raw, CLASSES[: len(raw)], "cam", "head", geometry, Calibration.of_classifier(len(raw)))
    p = np.clip(np.asarray(probabilities, np.float64), 1e-12, 1 - 1e-12)
    logits = np.log(p / (1 - p)).astype(np.float32)
    decisions = tuple(Threshold(decision, "val") for _ in raw)
    cut = segment(heatmap, [Threshold(threshold, "val")] * len(raw))
    return CaseResult(name, f"{name}.png", heatmap.classes, logits, p.astype(np.float32), decisions, heatmap, cut)


# ---- writers -----------------------------------------------------------------------------------------------------

WRITER_NAMES = sorted(WRITERS)


def write_one(name: str, result: CaseResult, picture: Picture, out: Path) -> None:
    """Let one writer of `predict` write what it writes of a result."""
    WRITERS[name](PredictedImage(result, picture, result.heatmap.native(), "a"), out)


# ---- metrics -----------------------------------------------------------------------------------------------------

SIGNED = {"volume_difference"}
"""Best at 0, worse on both sides."""

DISTANCES = {"hausdorff", "hd95", "assd"}
"""Without a worst value."""
