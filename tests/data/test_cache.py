"""Prepared images in a folder: told by file, time, size and preparation, and never of another file."""

import os

import numpy as np
import pytest
from PIL import Image

from lesioncam.data import cache
from lesioncam.data.cache import ImageCache
from lesioncam.options.data import PreprocessConfig

CONFIG = PreprocessConfig(size=32)


def write(path, seed, size=(32, 32)):
    """A bitmap: its file is as large as its picture, whatever is on it."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)
    return path


def prepared(path, folder, config=CONFIG):
    """What a process of its own finds, with nothing in memory."""
    return ImageCache(config, folder).get(str(path))[0]


def alone(path, config=CONFIG):
    return ImageCache(config).get(str(path))[0]


def test_a_file_that_stays_as_it_is_is_decoded_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.bmp", 0)
    first = prepared(path, tmp_path / "cache")
    monkeypatch.setattr(cache, "read_picture", lambda _: pytest.fail("it was decoded again"))
    np.testing.assert_array_equal(prepared(path, tmp_path / "cache"), first)


def test_a_file_of_the_same_size_and_another_time_is_another(tmp_path):
    path = write(tmp_path / "a.bmp", 0)
    os.utime(path, ns=(10**18, 10**18))
    first, size = prepared(path, tmp_path / "cache"), path.stat().st_size
    write(path, 1)
    os.utime(path, ns=(10**18, 10**18 + 1000))
    assert path.stat().st_size == size
    again = prepared(path, tmp_path / "cache")
    np.testing.assert_array_equal(again, alone(path))
    assert (again != first).any()


def test_a_file_of_the_same_time_and_another_size_is_another(tmp_path):
    path = write(tmp_path / "a.bmp", 0)
    os.utime(path, ns=(10**18, 10**18))
    first = prepared(path, tmp_path / "cache")
    write(path, 1, (40, 36))
    os.utime(path, ns=(10**18, 10**18))
    again = prepared(path, tmp_path / "cache")
    np.testing.assert_array_equal(again, alone(path))
    assert (again != first).any()


def test_another_preparation_is_another(tmp_path):
    path, other = write(tmp_path / "a.bmp", 0), CONFIG.model_copy(update={"normalise": "range"})
    prepared(path, tmp_path / "cache")
    np.testing.assert_array_equal(prepared(path, tmp_path / "cache", other), alone(path, other))
