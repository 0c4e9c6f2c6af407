import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from lesioncam.functional.prints import (
    SIDE,
    WINDOWS,
    Candidates,
    correlate,
    hash_candidates,
    image_print,
    mirrored,
    verify,
)


def draw(seed, shape=(150, 130)):
    """A smooth random picture with detail, 8-bit, on a black rim."""
    rng = np.random.default_rng(seed)
    field = sum(gaussian_filter(rng.normal(size=shape), sigma) * sigma for sigma in (1.5, 3, 6, 12))
    return np.pad(np.interp(field, (field.min(), field.max()), (30, 240)).astype(np.uint8), 12)


def jpeg(image, quality=70):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def crop(image, share=0.1):
    height, width = image.shape
    return image[round(share * height) :, : round((1 - share) * width)]


def resized(image, times):
    return np.asarray(Image.fromarray(image).resize([round(n * times) for n in image.shape[::-1]], Image.BILINEAR))


ALTERED = {
    "jpeg": jpeg,
    "crop": lambda image: crop(image[12:-12, 12:-12]),
    "brighter": lambda image: np.clip(image * 1.2 + 20, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "half": lambda image: resized(image, 0.5),
    "larger": lambda image: resized(image, 2.5),
    "black frame": lambda image: np.pad(image, ((15, 0), (7, 20))),
    "white frame": lambda image: np.pad(image[12:-12, 12:-12], 14, constant_values=255),
    "16 bit": lambda image: image.astype(np.uint16) * 257,
    "float": lambda image: image.astype(np.float64) / 255 - 0.5,
    "colour": lambda image: np.repeat(image[..., None], 3, axis=2),
    "five channels": lambda image: np.repeat(image[..., None], 5, axis=2),
}


@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("mirror", [False, True])
def test_altered_copies_agree_and_others_do_not(name, mirror):
    for seed in range(4):
        image = draw(seed)
        changed = ALTERED[name](image[:, ::-1] if mirror else image)
        a, b, other = image_print(image), image_print(changed), image_print(draw(100 + seed))
        found = hash_candidates(a.hashes[None], b.hashes[None], 12)
        assert mirror in found.mirror.tolist()
        assert verify(a, b, mirror=mirror) > 0.88
        assert verify(b, a, mirror=mirror) > 0.88
        assert verify(a, b, mirror=not mirror) < 0.6
        assert verify(other, b, mirror=mirror) < 0.6


def test_neighbours_that_share_the_coarse_picture_are_no_copies():
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.normal(size=(200, 200)), 14) * 60
    one, two = (coarse + gaussian_filter(rng.normal(size=(200, 200)), 2) * 2 for _ in range(2))
    a, b = image_print(one), image_print(two)
    assert len(hash_candidates(a.hashes[None], b.hashes[None], 12).first) == 1
    assert verify(a, b) < 0.8


def test_the_thumbnail_is_the_mean_of_blocks():
    blocks = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    blocks[0] = blocks[-1] = np.arange(SIDE) * 3
    image = np.kron(blocks, np.ones((2, 3), np.uint8))
    thumb = image_print(image).thumb
    expected = (blocks - float(blocks.min())) * 255 / (float(blocks.max()) - blocks.min())
    np.testing.assert_allclose(thumb, expected, atol=1)


def test_the_first_hash_holds_the_signs_of_the_cosine_transform():
    thumb, hashes, side = image_print(draw(3))
    waves = dctn(thumb.astype(float))[:12, :12]
    order = sorted((y * y + x * x, y, x) for y in range(12) for x in range(12))[1:65]
    bits = "".join(str(int(waves[y, x] > 0)) for _, y, x in order)
    stored = "".join(str(bit) for bit in np.unpackbits(hashes[:1].view(np.uint8)))
    assert stored == bits
    assert (hashes.shape, hashes.dtype, thumb.shape, thumb.dtype) == ((19,), np.uint64, (80, 80), np.uint8)
    assert abs(side - 130) < 4


def test_a_window_has_the_hash_of_the_cut_thumbnail():
    image = np.kron(draw(5, (56, 56)), np.ones((8, 8), np.uint8))  # 640 x 640
    whole = image_print(image)
    for place in (1, 9, 10, 14):
        y0, y1, x0, x1 = (WINDOWS[place] * 640 / SIDE).round().astype(int)
        cut = Image.fromarray(np.asarray(whole.thumb)).resize(
            (SIDE, SIDE), Image.BILINEAR, box=tuple(WINDOWS[place][[2, 0, 3, 1]])
        )
        waves = dctn(np.asarray(cut, dtype=float))
        order = sorted((y * y + x * x, y, x) for y in range(12) for x in range(12))[1:65]
        bits = np.array([waves[y, x] > 0 for _, y, x in order])
        stored = np.unpackbits(whole.hashes[place : place + 1].view(np.uint8)).astype(bool)
        assert (bits != stored).sum() <= 3, (y0, y1, x0, x1)


def test_mirrored_hashes():
    a, b = (image_print(image).hashes for image in (draw(2), draw(2)[:, ::-1]))
    np.testing.assert_array_equal(mirrored(mirrored(a)), a)
    assert np.bitwise_count(mirrored(a)[0] ^ b[0]) <= 2
    swap = [0, *(1 + 9 * s + 3 * y + (2 - x) for s in range(2) for y in range(3) for x in range(3))]
    assert np.bitwise_count(mirrored(a) ^ b[swap]).max() <= 4


def slow_candidates(first, second, radius, below):
    found = []
    for i in range(len(first)):
        for j in range(len(second)):
            for mirror in (False, True):
                one = mirrored(first[i]) if mirror else first[i]
                pairs = [(one[0], w) for w in second[j]] + [(w, second[j][0]) for w in one]
                least = min(bin(int(x) ^ int(y)).count("1") for x, y in pairs)
                if least <= radius and (below is None or j > i + below):
                    found.append((i, j, mirror, least))
    return sorted(found)


@pytest.mark.parametrize("below", [None, 0, 2])
def test_candidates_against_a_slow_search(below):
    rng = np.random.default_rng(1)
    first = rng.integers(0, 2**64, (40, 19), dtype=np.uint64)
    second = rng.integers(0, 2**64, (35, 19), dtype=np.uint64)
    second[3, 7] = first[5, 0] ^ np.uint64(0b1011)
    second[30, 0] = mirrored(first[2])[4] ^ np.uint64(1 << 63)
    for radius in (0, 3, 14):
        found = hash_candidates(first, second, radius, below=below)
        rows = sorted(zip(*(column.tolist() for column in found), strict=True))
        assert rows == slow_candidates(first, second, radius, below)
    assert len(rows) >= 1


def test_candidates_over_many_blocks_and_none():
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 2**64, (4200, 19), dtype=np.uint64)
    planted = [(0, 4199), (31, 32), (4095, 4096), (7, 4100)]
    for i, j in planted:
        hashes[j] = hashes[i]
    found = hash_candidates(hashes, hashes, 4, below=0)
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(planted)
    assert not found.mirror.any()
    assert [len(column) for column in hash_candidates(hashes[:0], hashes, 4)] == [0, 0, 0, 0]


def test_flat_and_broken_images():
    flat, image = image_print(np.full((30, 40), 7, np.uint8)), image_print(draw(0))
    assert (flat.thumb == 0).all()
    assert np.isnan(verify(flat, image))
    assert np.isnan(verify(flat, flat))
    pixels = draw(0).astype(np.float32)
    pixels[0, :3] = np.nan, np.inf, -np.inf
    assert verify(image_print(pixels), image) > 0.95
    assert np.isnan(verify(image_print(np.full((9, 9), np.nan)), image))
    for shape in ((1, 1), (1, 50), (3, 2), (300, 4)):
        tiny = image_print(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
        assert tiny.thumb.shape == (SIDE, SIDE)


def test_pairs_are_judged_one_by_one_whatever_their_company():
    prints = [image_print(draw(seed)) for seed in range(3)] + [image_print(draw(0)[:, ::-1])]
    stack = np.stack([each.thumb for each in prints]), np.stack([each.hashes for each in prints])
    pairs = Candidates(
        np.array([0, 0, 1, 3]), np.array([3, 1, 1, 0]), np.array([True, False, False, True]), np.zeros(4)
    )
    together = correlate(stack, stack, pairs)
    alone = [verify(prints[i], prints[j], mirror=m) for i, j, m in zip(*pairs[:3], strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together[0] > 0.99
    assert together[2] == pytest.approx(1, abs=1e-5)
