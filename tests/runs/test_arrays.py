"""Arrays come back as they were, and know their way home."""

import numpy as np
import pytest

from lesioncam.errors import RunError
from lesioncam.files import read_arrays, write_arrays
from lesioncam.functional.slices import Slice
from lesioncam.geometry import Geometry
from lesioncam.runs.arrays import CaseArrays, CasePicture

RNG = np.random.default_rng(0)
PICTURE = CasePicture(
    image=RNG.integers(0, 255, (9, 7), np.uint8),
    shown=("ring",),
    probability=RNG.random((1, 9, 7)).astype(np.float16),
    masks=RNG.random((2, 9, 7)) > 0.5,
    truth=RNG.random((2, 9, 7)) > 0.5,
    truth_known=np.array([True, False]),
    slice=Slice(1, 4),
)
GEOMETRIES = {
    "letterbox": Geometry.letterbox((9, 7), (16, 16), crop=[(1, 8), (0, 7)]),
    "padded at the far end": Geometry.letterbox((9, 7), (16, 16), centred=False),
    "thick slices": Geometry.letterbox((5, 9, 7), (16, 16, 16), aspect=(5.0, 1.0, 1.0)),
    "resized as a whole": Geometry((20, 10), (8, 8), ((4, 16), (0, 10)), whole=(16, 8), shift=(-4, 0)),
}


def arrays(geometry, picture=None):
    raw = RNG.normal(size=(2, *[4] * len(geometry.native))).astype(np.float32)
    return CaseArrays(("mass", "ring"), np.float32([0.5, -1.0]), raw, geometry, picture)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_maps_land_where_they_did(tmp_path, name):
    kept = arrays(GEOMETRIES[name])
    read = CaseArrays.read(kept.write(tmp_path / "a.npz"))
    assert read.geometry == kept.geometry
    assert (read.classes, read.picture) == (kept.classes, None)
    np.testing.assert_array_equal(read.geometry.to_native(read.raw), kept.geometry.to_native(kept.raw))
    np.testing.assert_array_equal(read.logits, kept.logits)


def test_a_picture_comes_back(tmp_path):
    read = CaseArrays.read(arrays(GEOMETRIES["letterbox"], PICTURE).write(tmp_path / "a.npz"))
    for name in ("image", "probability", "masks", "truth", "truth_known"):
        np.testing.assert_array_equal(getattr(read.picture, name), getattr(PICTURE, name))
    assert (read.picture.shown, read.picture.slice) == (("ring",), Slice(1, 4))
    np.testing.assert_array_equal(read.map_of("ring"), PICTURE.probability[0].astype(np.float32))
    assert read.map_of("mass") is None
    np.testing.assert_array_equal(read.truth_of("mass"), PICTURE.truth[0])
    assert read.truth_of("ring") is None


def test_older_files_keep_all_maps_and_do_not_say_where_the_padding_is(tmp_path):
    path = arrays(GEOMETRIES["padded at the far end"], PICTURE).write(tmp_path / "a.npz")
    content = read_arrays(path)
    del content["shown"], content["centred"]
    write_arrays(path, content | {"probability": np.repeat(content["probability"], 2, axis=0)})
    assert CaseArrays.read(path, centred=False).geometry == GEOMETRIES["padded at the far end"]
    assert CaseArrays.read(path).geometry.centred
    assert CaseArrays.read(path).map_of("mass") is not None


@pytest.mark.parametrize("content", [None, b"", b"no zip", b"PK\x03\x04cut off"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.npz cannot be read as arrays of an image"):
        CaseArrays.read(path)
    write_arrays(path, {"raw": np.zeros(1)})
    with pytest.raises(RunError, match=r"a\.npz .* lacks logits, classes"):
        CaseArrays.read(path)
