"""What every reader of image files must obey."""

import numpy as np
import pytest
from tests.laws.kinds import FILE_KINDS, pixels_of

from lesioncam.data.io.image import IMAGE_SUFFIXES, READERS, image_info
from lesioncam.errors import ImageError

every = pytest.mark.parametrize("name", FILE_KINDS)
pytestmark = pytest.mark.filterwarnings("ignore")  # decoders warn about what they can read all the same


def written(name, folder):
    kind = FILE_KINDS[name]
    path = folder / f"a{kind.suffix}"
    kind.write(path, kind.array)
    return path


def test_every_suffix_that_is_searched_for_is_read_here():
    assert set(IMAGE_SUFFIXES) <= {kind.suffix for kind in FILE_KINDS.values()}


def test_every_reader_has_a_file_here(tmp_path):
    """The first that recognises a file reads it."""
    paths = [written(name, tmp_path) for name in FILE_KINDS]
    assert {next(key for key, reader in READERS.items() if reader.recognises(path)) for path in paths} == set(READERS)


@every
def test_what_another_library_wrote_comes_back_exactly(name, tmp_path):
    kind, path = FILE_KINDS[name], written(name, tmp_path)
    expected, read = kind.as_read(kind.array), pixels_of(path)
    assert (read.dtype, read.shape) == (kind.array.dtype, expected.shape)
    np.testing.assert_array_equal(read, expected)
    assert read.flags.writeable


@every
def test_the_header_says_what_the_pixels_are(name, tmp_path):
    path = written(name, tmp_path)
    info, read = image_info(path), pixels_of(path)
    sides = 3 if read.ndim == 4 else 2
    assert (info.size, info.dtype) == (read.shape[:sides], read.dtype.name)
    assert info.channels == (read.shape[sides] if read.ndim > sides else 1)


@every
def test_a_damaged_file_is_read_or_refused_in_one_sentence_with_its_name(name, tmp_path):
    """Half of the damage is in the first hundred bytes, where headers are."""
    path, rng = written(name, tmp_path), np.random.default_rng(0)
    whole = path.read_bytes()
    for i in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(min(100, len(whole)) if i % 2 else len(whole)))
            damaged[place] ^= int(rng.integers(1, 256))
        check(path, bytes(damaged))


@every
def test_a_truncated_file_is_read_or_refused_in_one_sentence_with_its_name(name, tmp_path):
    path = written(name, tmp_path)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.1, 0.3, 0.5, 0.8, 0.95):
        check(path, whole[: int(share * len(whole))])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=path.name):
        pixels_of(path)


def refusal(read, path):
    """The sentence in which a file is refused, or None."""
    try:
        read(path)
    except ImageError as error:
        return str(error)
    return None


def check(path, content):
    path.write_bytes(content)
    for read in (image_info, pixels_of):
        if (said := refusal(read, path)) is not None:
            assert path.name in said
            assert "\n" not in said


@every
def test_the_content_of_another_kind_is_read_as_what_it_is_or_refused(name, tmp_path):
    kind = FILE_KINDS[name]
    content, expected = written(name, tmp_path).read_bytes(), kind.as_read(kind.array)
    for other in {*IMAGE_SUFFIXES, ".dat"} - {kind.suffix}:
        path = tmp_path / f"wrong{other}"
        path.write_bytes(content)
        if (said := refusal(pixels_of, path)) is not None:
            assert path.name in said
        else:
            np.testing.assert_array_equal(pixels_of(path), expected)


@every
def test_a_missing_file_and_a_folder_are_named(name, tmp_path):
    path = tmp_path / f"gone{FILE_KINDS[name].suffix}"
    with pytest.raises(ImageError, match=path.name):
        pixels_of(path)
    path.mkdir()
    with pytest.raises(ImageError, match=path.name):
        pixels_of(path)
