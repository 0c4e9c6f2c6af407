import gzip
import struct
import warnings
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from lesioncam.data.io.base import ImageInfo
from lesioncam.data.io.image import image_info, read_cjdata, read_mask, read_picture, split_index, validate_image
from lesioncam.errors import ImageError
from lesioncam.picture import Picture

MAT = Path(__file__).parents[4] / "shared" / "data" / "figshare_brain" / "mat_sample"
RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
RGB8 = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
SIGNED = RNG.integers(-2000, 2000, (5, 7), dtype=np.int16)
FLOAT = RNG.normal(size=(5, 7)).astype(np.float32)


def same(path, expected):
    image = read_picture(path).pixels
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == expected.dtype
    assert image.flags.writeable
    assert image.flags.c_contiguous
    assert image_info(path) == ImageInfo.of(Picture(image))


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png16(path, pixels, colour):
    """A 16-bit PNG of colour type 2 (RGB), 4 (grey and alpha) or 6 (RGBA), written by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def with_alpha(array):
    return np.concatenate([array, np.full((*array.shape[:2], 1), 7, array.dtype)], axis=2)


# ---- PNG, JPEG, BMP, PGM -----------------------------------------------------------------------------------------


def test_png_keeps_depth(tmp_path):
    same(save(tmp_path / "g8.png", GREY8), GREY8)
    same(save(tmp_path / "g16.png", GREY16), GREY16)
    same(save(tmp_path / "rgb.png", RGB8), RGB8)
    same(png16(tmp_path / "rgb16.png", RGB16, 2), RGB16)


def test_alpha_is_dropped(tmp_path):
    same(save(tmp_path / "rgba.png", with_alpha(RGB8)), RGB8)
    same(png16(tmp_path / "rgba16.png", with_alpha(RGB16), 6), RGB16)
    same(png16(tmp_path / "la16.png", with_alpha(GREY16[..., None]), 4), GREY16)
    Image.merge("LA", [Image.fromarray(GREY8), Image.new("L", (7, 5), 9)]).save(tmp_path / "la.png")
    same(tmp_path / "la.png", GREY8)


def test_palette_becomes_colour_or_grey(tmp_path):
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "colour.png", transparency=b"\x00\xff\xff")
    same(tmp_path / "colour.png", np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255]]], np.uint8))
    image.putpalette([9, 9, 9, 70, 70, 70, 200, 200, 200])
    image.save(tmp_path / "grey.png")
    same(tmp_path / "grey.png", np.array([[9, 70, 200]], np.uint8))


def test_one_bit_becomes_0_and_255(tmp_path):
    bits = GREY8 > 128
    same(save(tmp_path / "bits.png", bits), np.where(bits, np.uint8(255), np.uint8(0)))


def test_bmp_and_pgm(tmp_path):
    same(save(tmp_path / "a.bmp", RGB8), RGB8)
    same(save(tmp_path / "a.pgm", GREY8), GREY8)
    same(save(tmp_path / "a.ppm", RGB8), RGB8)
    (tmp_path / "deep.pgm").write_bytes(b"P5\n7 5\n65535\n" + GREY16.astype(">u2").tobytes())
    same(tmp_path / "deep.pgm", GREY16)
    (tmp_path / "deep.ppm").write_bytes(b"P6\n7 5\n65535\n" + RGB16.astype(">u2").tobytes())
    with pytest.raises(ImageError, match="more than 8 bit, whose depth would be lost"):
        read_picture(tmp_path / "deep.ppm")


def test_jpeg_is_turned_as_exif_says(tmp_path):
    picture = np.zeros((16, 32), np.uint8)
    picture[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_picture(tmp_path / "a.jpg").pixels
    assert image.shape == (32, 16)
    assert image[:16].mean() > 250
    assert image[16:].mean() < 5
    assert image_info(tmp_path / "a.jpg") == ImageInfo((32, 16), 1, "uint8")
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert (
        image_info(tmp_path / "cmyk.jpg")
        == ImageInfo.of(read_picture(tmp_path / "cmyk.jpg"))
        == ImageInfo((5, 7), 3, "uint8")
    )


# ---- TIFF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GREY8, GREY16, SIGNED, FLOAT, RGB8, RGB16], ids=lambda a: f"{a.dtype}-{a.ndim}")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_keeps_depth(tmp_path, array, compression):
    kind = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=kind, compression=compression)
    same(tmp_path / "a.tif", array)


def test_tiff_with_alpha_many_channels_or_planes(tmp_path):
    tifffile.imwrite(tmp_path / "rgba.tif", with_alpha(RGB16), photometric="rgb", extrasamples=["unassalpha"])
    same(tmp_path / "rgba.tif", RGB16)
    tifffile.imwrite(tmp_path / "rgba8.tif", with_alpha(RGB8), photometric="rgb", extrasamples=["unassalpha"])
    same(tmp_path / "rgba8.tif", RGB8)
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(RGB16, 2, 0), photometric="rgb", planarconfig="separate")
    same(tmp_path / "planes.tif", RGB16)
    five = np.stack([GREY16 + k for k in range(5)], axis=2)
    tifffile.imwrite(tmp_path / "five.tif", five, photometric="minisblack", planarconfig="contig")
    same(tmp_path / "five.tif", five)


def test_tiff_of_other_types_becomes_float32(tmp_path):
    for dtype in (np.float64, np.uint32, np.int32):
        tifffile.imwrite(tmp_path / "a.tif", GREY16.astype(dtype))
        same(tmp_path / "a.tif", GREY16.astype(np.float32))


def test_tiff_that_is_white_at_zero_or_lies_on_its_side(tmp_path):
    tifffile.imwrite(tmp_path / "white8.tif", GREY8, photometric="miniswhite")
    same(tmp_path / "white8.tif", 255 - GREY8)
    tifffile.imwrite(tmp_path / "white16.tif", GREY16, photometric="miniswhite")
    same(tmp_path / "white16.tif", 65535 - GREY16)
    turned = {
        1: GREY16,
        3: np.rot90(GREY16, 2),
        6: np.rot90(GREY16, -1),
        8: np.rot90(GREY16),
        5: GREY16.T,
        2: GREY16[:, ::-1],
    }
    for orientation, expected in turned.items():
        tifffile.imwrite(tmp_path / "a.tif", GREY16, extratags=[(274, "H", 1, orientation, True)])
        same(tmp_path / "a.tif", expected)
        tifffile.imwrite(
            tmp_path / "b.tif", (GREY16 >> 8).astype(np.uint8), extratags=[(274, "H", 1, orientation, True)]
        )
        same(tmp_path / "b.tif", (expected >> 8).astype(np.uint8))


def test_tiff_lzw_without_imagecodecs(tmp_path):
    save(tmp_path / "grey.tif", GREY16, compression="tiff_lzw")
    same(tmp_path / "grey.tif", GREY16)
    save(tmp_path / "rgb.tif", RGB8, compression="tiff_lzw")
    same(tmp_path / "rgb.tif", RGB8)


def test_tiff_pages_by_index(tmp_path):
    pages = np.stack([GREY16, GREY16 + 1, GREY16 + 2])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    same(f"{tmp_path}/a.tif#2", pages[2])
    with pytest.raises(ImageError, match=r"a\.tif holds 3 images; say which one: a\.tif#0 to a\.tif#2\."):
        read_picture(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif has no image #3; it holds 3, #0 to #2\."):
        read_picture(f"{tmp_path}/a.tif#3")


def test_tiff_thumbnails_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY16, metadata=None)
        file.write(GREY16[::2, ::2], subfiletype=1, metadata=None)
    same(tmp_path / "a.tif", GREY16)


# ---- MATLAB and idx ----------------------------------------------------------------------------------------------


def write_mat(path, image, mask=None, label=2.0, patient="MR0017"):
    with h5py.File(path, "w") as file:
        data = file.create_group("cjdata")
        data["image"] = image.T
        data["label"] = [[label]]
        data["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        if mask is not None:
            data["tumorMask"] = mask.T.astype(np.uint8)
    return path


def test_matlab_arrays_are_turned_back(tmp_path):
    mask = GREY8 > 200
    path = write_mat(tmp_path / "1.mat", SIGNED, mask)
    same(path, SIGNED)
    np.testing.assert_array_equal(read_mask(path, (5, 7)), mask)
    data = read_cjdata(path)
    assert (data.label, data.patient) == (2, "MR0017")


def test_matlab_files_of_another_kind(tmp_path):
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ImageError, match=r"not MATLAB v7\.3 \(HDF5\); save it with save\(\.\.\., '-v7\.3'\)"):
        read_picture(tmp_path / "old.mat")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["volume"] = GREY8
    with pytest.raises(ImageError, match="no struct 'cjdata' with an image; found: volume"):
        read_picture(tmp_path / "other.mat")
    with pytest.raises(ImageError, match=r"has no cjdata/tumorMask; take it out of the mask column"):
        read_mask(write_mat(tmp_path / "1.mat", GREY8), (5, 7))


@pytest.mark.skipif(not MAT.is_dir(), reason="../shared/data/figshare_brain/mat_sample is not on this machine")
def test_published_matlab_files():
    files = sorted(MAT.glob("*.mat"))
    assert len(files) == 20
    for path in files[:5]:
        data = read_cjdata(path)
        assert image_info(path) == ImageInfo((512, 512), 1, "int16")
        assert data.mask.any()
        assert data.label in {1, 2, 3}


def write_idx(path, images, code=0x08):
    header = struct.pack(">BBBB", 0, 0, code, images.ndim) + struct.pack(f">{images.ndim}I", *images.shape)
    data = header + images.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "train-images.idx3-ubyte"])
def test_idx_by_index(tmp_path, name):
    images = np.stack([GREY8, GREY8 + 1])
    path = write_idx(tmp_path / name, images)
    same(f"{path}#1", images[1])
    with pytest.raises(ImageError, match="holds 2 images; say which one"):
        read_picture(path)
    with pytest.raises(ImageError, match="has no image #2"):
        image_info(f"{path}#2")


def test_idx_is_big_endian_and_read_again_when_changed(tmp_path):
    path = write_idx(tmp_path / "a-idx3.gz", SIGNED[None].astype(">i2"), 0x0B)
    same(f"{path}#0", SIGNED)
    write_idx(path, np.stack([SIGNED, SIGNED + 1]).astype(">i2"), 0x0B)
    same(f"{path}#1", SIGNED + 1)


def test_idx_that_is_none_or_truncated(tmp_path):
    (tmp_path / "labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 3) + b"abc")
    with pytest.raises(ImageError, match=r"is no idx file of images \(it begins with 00000801\)"):
        read_picture(tmp_path / "labels-idx1-ubyte")
    path = write_idx(tmp_path / "a-idx3-ubyte", np.stack([GREY8, GREY8]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImageError, match="is truncated: the header promises 2 images"):
        read_picture(f"{path}#0")
    path = write_idx(tmp_path / "a-idx3-ubyte.gz", RNG.integers(0, 255, (9, 50, 50), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match=r"cannot be decoded .* truncated or damaged"):
        read_picture(f"{path}#0")


# ---- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "deep.png"])
def test_truncated_files(tmp_path, name):
    path = tmp_path / name
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    png16(path, noise.astype(np.uint16) * 257, 2) if name == "deep.png" else save(path, noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on some of them besides
        with pytest.raises(ImageError, match=rf"{name} cannot be decoded \(.+\): truncated or damaged\. Copy it again"):
            read_picture(path)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageError, match=r"a\.png is damaged or of an unknown format; supported: PNG, JPEG, BMP"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"b\.png is an empty file"):
        read_picture(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"c\.png is missing; correct the path or the image folder \(--images\)"):
        read_picture(tmp_path / "c.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_picture(tmp_path)
    save(tmp_path / "d.png", GREY8)
    same(f"{tmp_path}/d.png#0", GREY8)
    with pytest.raises(ImageError, match=r"d\.png has no image #1; it holds one only, #0\."):
        read_picture(f"{tmp_path}/d.png#1")


def test_images_too_large_to_decode(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"big\.png is too large to be decoded whole \(20 pixels at most\); cut it"):
        read_picture(save(tmp_path / "big.png", GREY8))


def test_a_file_whose_name_ends_like_an_index(tmp_path):
    save(tmp_path / "scan.png", GREY8)
    (tmp_path / "scan.png").rename(tmp_path / "scan#2")
    assert split_index(tmp_path / "scan#2") == (tmp_path / "scan#2", None)
    same(tmp_path / "scan#2", GREY8)


def test_images_without_content():
    nan = np.ones((2, 2), np.float32)
    nan[0, 0] = np.nan
    with pytest.raises(
        ImageError, match=r"^a\.tif has 1 NaN or infinite pixels of 4; fill them or take its row out\.$"
    ):
        validate_image(Picture(nan, source="a.tif"))
    with pytest.raises(ImageError, match=r"^a\.tif is constant \(every pixel is 7\)"):
        validate_image(Picture(np.full((2, 2), 7, np.uint16), source="a.tif"))
    with pytest.raises(ImageError, match=r"^a\.tif is empty \(0 x 3\)"):
        validate_image(Picture(np.zeros((0, 3)), source="a.tif"))
    validate_image(Picture(GREY8))


# ---- masks -------------------------------------------------------------------------------------------------------


TRUTH = np.array([[False, True], [True, False], [False, False]])


def test_masks_of_every_kind(tmp_path):
    ones = TRUTH.astype(np.uint8)
    red = np.zeros((3, 2, 3), np.uint8)
    red[TRUTH] = [1, 0, 0]
    save(tmp_path / "grey.png", ones)
    save(tmp_path / "bit.png", TRUTH)
    save(tmp_path / "deep.png", ones.astype(np.uint16) * 300)
    save(tmp_path / "rgb.png", red)
    save(tmp_path / "rgba.png", with_alpha(red))
    tifffile.imwrite(tmp_path / "float.tif", np.where(TRUTH, 0.5, np.nan).astype(np.float32))
    tifffile.imwrite(tmp_path / "bits.tif", TRUTH)  # marked "white is zero", yet 1 is lesion
    tifffile.imwrite(tmp_path / "imagej.tif", ones * 255, photometric="miniswhite")
    save(tmp_path / "fax.tif", TRUTH, compression="group4")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_mask(path, (3, 2)), TRUTH, err_msg=path.name)


def palette_mask(path, values, colours):
    image = Image.new("P", (2, 3))
    image.putdata(values)
    image.putpalette(colours)
    image.save(path)
    return path


def test_palette_masks(tmp_path):
    values = TRUTH.astype(int).ravel().tolist()
    labels = palette_mask(tmp_path / "labels.png", values, [0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(labels, (3, 2)), TRUTH)
    swapped = palette_mask(tmp_path / "swapped.png", [1 - value for value in values], [255, 255, 255, 0, 0, 0])
    np.testing.assert_array_equal(read_mask(swapped, (3, 2)), TRUTH)


def test_jpeg_masks_begin_at_half(tmp_path):
    disc = np.hypot(*np.mgrid[-32:32, -32:32]) < 20
    save(tmp_path / "m.jpg", disc.astype(np.uint8) * 255)
    assert read_picture(tmp_path / "m.jpg").pixels[~disc].any()  # JPEG leaves a seam of values above 0
    assert (read_mask(tmp_path / "m.jpg", (64, 64)) != disc).mean() < 0.01


def test_masks_are_united_and_must_fit(tmp_path):
    one, two = np.zeros((3, 2), np.uint8), np.zeros((3, 2), np.uint8)
    one[0, 1], two[1, 0] = 1, 255
    paths = [save(tmp_path / "1.png", one), save(tmp_path / "2.png", two)]
    np.testing.assert_array_equal(read_mask(paths, (3, 2)), TRUTH)
    assert not read_mask([], (3, 2)).any()
    with pytest.raises(ImageError, match=r"1\.png is 3 x 2 but its image is 2 x 3 \(height x width\)"):
        read_mask(paths, (2, 3))
    with pytest.raises(ImageError, match=r"no\.png is missing"):
        read_mask(tmp_path / "no.png", (2, 3))
