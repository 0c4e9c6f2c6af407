"""Prepared images, kept so that each file is decoded once.

They are pictures of patients: by default they live in the memory of the process and nowhere else; a folder is used only
when the user names one. Its files are named by digests, carry no names or labels, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from lesioncam.data.io.image import read_picture
from lesioncam.data.preprocess import Preprocess
from lesioncam.files import write_with
from lesioncam.options.data import PreprocessConfig

logger = logging.getLogger(__name__)
GIB = 2**30


class ImageCache:
    """Prepared images by path: memory first, then an optional folder, then the file itself.

    Args:
        config: how images are prepared.
        folder: keep them there too, across runs; None keeps them in memory only.
        limit_gb: largest size in memory, and on disk, GiB; beyond it images are decoded again each time.
    """

    def __init__(self, config: PreprocessConfig, folder: Path | None = None, limit_gb: float = 4.0) -> None:
        self._preprocess = Preprocess(config)
        self._folder = folder
        self._limit = int(limit_gb * GIB)
        self._held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0
        self._on_disk = sum(p.stat().st_size for p in folder.glob("*.npz")) if folder and folder.is_dir() else 0

    def get(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(C, *S)`` float16 and valid ``(*S)`` bool of one file.

        Raises:
            ImageError: if the file cannot be read or used.
        """
        if path in self._held:
            return self._held[path]
        entry = self._from_disk(path)
        if entry is None:
            entry = self._prepare(path)
            self._to_disk(path, entry)
        size = entry[0].nbytes + entry[1].nbytes
        if self._bytes + size <= self._limit:
            self._held[path] = entry
            self._bytes += size
        return entry

    @property
    def full(self) -> bool:
        """Whether the next image may not fit in memory."""
        return bool(self._held) and self._bytes + self._bytes // len(self._held) > self._limit

    def _prepare(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        sample = self._preprocess(read_picture(path))
        return sample.image.astype(np.float16), sample.valid

    def _place(self, path: str) -> Path | None:
        if self._folder is None:
            return None
        stat = Path(path.split("#", maxsplit=1)[0]).stat()
        facts = f"{Path(path).resolve()}|{stat.st_mtime_ns}|{stat.st_size}|{self._preprocess.config.model_dump_json()}"
        return self._folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npz"

    def _from_disk(self, path: str) -> tuple[np.ndarray, np.ndarray] | None:
        place = self._place(path)
        if place is None or not place.is_file():
            return None
        with np.load(place, allow_pickle=False) as kept:
            return kept["image"], kept["valid"]

    def _to_disk(self, path: str, entry: tuple[np.ndarray, np.ndarray]) -> None:
        place = self._place(path)
        size = entry[0].nbytes + entry[1].nbytes
        if place is None or self._on_disk + size > self._limit:
            return
        write_with(place, lambda partial: np.savez(partial, image=entry[0], valid=entry[1]))
        self._on_disk += size
