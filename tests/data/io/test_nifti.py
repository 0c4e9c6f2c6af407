"""Volumes from files: orientation, spacing, masks, bad headers, and the way back to the file's own voxels."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lesioncam.data.io.base import ImageInfo
from lesioncam.data.io.image import image_info, read_mask, read_picture, validate_image
from lesioncam.data.io.nifti import read_grid, save_nifti
from lesioncam.data.preprocess import Preprocess
from lesioncam.errors import ImageError, LesioncamError
from lesioncam.options.data import PreprocessConfig

MM = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
SIZES = {"R": 11, "A": 14, "S": 9}
PITCH = {"R": 2.0, "A": 1.5, "S": 4.0}


def axis_of(letter: str) -> str:
    return "RAS"[MM[letter][0]]


def affine_of(codes: str) -> np.ndarray:
    """Axes of the file point where ``codes`` say; the same body in the same place whatever they are."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, letter in enumerate(codes):
        world, sign = MM[letter]
        name = axis_of(letter)
        affine[world, i] = sign * PITCH[name]
        affine[world, 3] = 10.0 if sign > 0 else 10.0 + PITCH[name] * (SIZES[name] - 1)
    return affine


def body(codes: str, spot: dict[str, int]) -> np.ndarray:
    """Voxels ``(I, J, K)`` of a ramp of values with one hot voxel at a place of the body."""
    grid = np.meshgrid(*[np.arange(SIZES[axis_of(c)]) for c in codes], indexing="ij")
    where = {}
    for values, letter in zip(grid, codes, strict=True):
        name = axis_of(letter)
        where[name] = values if MM[letter][1] > 0 else SIZES[name] - 1 - values
    voxels = (where["R"] + 20 * where["A"] + 400 * where["S"]).astype(np.int16)
    voxels[np.logical_and.reduce([where[name] == spot[name] for name in "RAS"])] = 9999
    return voxels


def write(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    nib.Nifti1Image(voxels, affine).to_filename(path)
    return path


ALL = ["".join(p) for order in itertools.permutations(("RL", "AP", "SI")) for p in itertools.product(*order)]
SPOT = {"R": 2, "A": 12, "S": 5}


@pytest.mark.parametrize("codes", ALL)
def test_every_orientation_shows_the_same_slices(tmp_path, codes):
    """48 ways to store one body; slices go up, rows go back, columns go to the patient's left."""
    picture = read_picture(write(tmp_path / "a.nii.gz", body(codes, SPOT), affine_of(codes)))
    volume = picture.pixels
    assert volume.shape == (9, 14, 11, 1)
    assert volume.dtype == np.int16
    d, h, w, _ = (int(i[0]) for i in np.nonzero(volume == 9999))
    assert (d, h, w) == (5, 14 - 1 - 12, 11 - 1 - 2)
    assert int(volume[0, 0, 0, 0]) == 10 + 20 * 13  # foot, front, right
    assert picture.grid.spacing == (4.0, 1.5, 2.0)
    assert (picture.size, picture.channels, picture.is_volume) == ((9, 14, 11), 1, True)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIR"])
def test_the_array_affine_and_the_file_affine_name_the_same_place(tmp_path, codes):
    path = write(tmp_path / "a.nii", body(codes, SPOT), affine_of(codes))
    grid = read_grid(path)
    here = tuple(int(i[0]) for i in np.nonzero(read_picture(path).pixels[..., 0] == 9999))
    there = tuple(int(i[0]) for i in np.nonzero(body(codes, SPOT) == 9999))
    world = np.array(grid.array_affine) @ (*here, 1)
    assert world == pytest.approx(affine_of(codes) @ (*there, 1))
    assert world[:3] == pytest.approx([10 + 2 * 2.0, 10 + 12 * 1.5, 10 + 5 * 4.0])


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIR", "ASL"])
def test_there_and_back_again(tmp_path, codes):
    voxels = body(codes, SPOT)
    picture = read_picture(write(tmp_path / "a.nii.gz", voxels, affine_of(codes)))
    volume = picture.pixels[..., 0]
    assert np.array_equal(picture.grid.to_file(volume), voxels)
    saved = nib.load(save_nifti(tmp_path / "b.nii.gz", volume.astype(np.float32), picture.grid))
    assert np.array_equal(np.asarray(saved.dataobj), voxels)
    assert np.allclose(saved.affine, affine_of(codes))


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIR"])
def test_a_box_holds_the_same_voxels_in_file_and_array(tmp_path, codes):
    """A mask of one block: its box counted in the file and in the array, each by hand."""
    mask = np.zeros([SIZES[axis_of(c)] for c in codes], np.uint8)
    mask[2:5, 1:7, 3:4] = 1
    grid = read_grid(write(tmp_path / "m.nii", mask, affine_of(codes)))
    array = grid.from_file(mask)
    places = np.argwhere(array)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = (*low[::-1].tolist(), *high[::-1].tolist())
    assert grid.box_to_file(box) == (2, 1, 3, 5, 7, 4)
    assert grid.box_from_file((2, 1, 3, 5, 7, 4)) == box


def test_an_oblique_file_is_not_resampled(tmp_path):
    angle = np.deg2rad(20)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, :3] = (
        np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ (affine[:3, :3])
    )
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    picture = read_picture(write(tmp_path / "a.nii", voxels, affine))
    assert picture.grid.spacing == pytest.approx((4, 3, 2))
    assert np.array_equal(picture.pixels[..., 0], voxels.transpose(2, 1, 0)[:, ::-1, ::-1])


def test_what_the_header_says_is_what_the_file_gives(tmp_path):
    path = write(tmp_path / "a.nii.gz", body("LPI", SPOT), affine_of("LPI"))
    assert image_info(path) == ImageInfo((9, 14, 11), 1, "int16", (4.0, 1.5, 2.0)) == ImageInfo.of(read_picture(path))


def test_a_slope_in_the_header_is_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    volume = read_picture(tmp_path / "a.nii").pixels
    assert volume.dtype == np.float32
    assert image_info(tmp_path / "a.nii").dtype == "float32"
    assert sorted(np.asarray(volume).ravel()) == pytest.approx(sorted(stored.ravel()))


def test_several_volumes_need_an_index(tmp_path):
    voxels = np.zeros((3, 4, 5, 2), np.float64)
    voxels[0, 0, 0, 1] = 7.0
    path = write(tmp_path / "four.nii.gz", voxels, np.eye(4))
    with pytest.raises(ImageError, match=r"four\.nii\.gz holds 2 volumes \(3 x 4 x 5 x 2\).*four\.nii\.gz#0"):
        read_picture(path)
    second = read_picture(f"{path}#1").pixels
    assert second.shape == (5, 4, 3, 1)
    assert second.dtype == np.float32
    assert second.max() == 7
    assert image_info(f"{path}#1").size == (5, 4, 3)
    with pytest.raises(ImageError, match="no volume #2"):
        read_picture(f"{path}#2")


@pytest.mark.parametrize("spacing", [0.0, float("nan")])
def test_a_header_without_spacing_is_refused(tmp_path, spacing):
    path = write(tmp_path / "a.nii", np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([2.0, 2, 2, 1]))
    raw = bytearray(path.read_bytes())
    raw[76 + 8 : 76 + 12] = np.float32(spacing).tobytes()  # pixdim[2] of NIfTI-1
    path.write_bytes(raw)
    with pytest.raises(ImageError, match=r"spacing of \(2, .*, 2\) mm.*Repair the header"):
        read_picture(path)
    with pytest.raises(ImageError, match="spacing"):
        image_info(path)


def test_a_flat_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), None)
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(ImageError, match="places no voxels in space"):
        read_picture(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "damaged or no NIfTI"), (b"no header at all" * 40, "damaged or no NIfTI"), (None, "truncated or damaged")],
    ids=["empty", "other", "cut"],
)
def test_damaged_files_are_a_sentence(tmp_path, content, words):
    path = tmp_path / "a.nii"
    if content is None:
        write(path, np.ones((9, 9, 9), np.int16), np.eye(4))
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words):
        read_picture(path)
    with pytest.raises(ImageError, match="is missing"):
        read_picture(tmp_path / "other.nii.gz")


def test_colours_are_refused(tmp_path):
    rgb = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(ImageError, match="holds colours"):
        read_picture(tmp_path / "a.nii")


def test_masks_are_whatever_is_above_zero_in_any_orientation(tmp_path):
    labels = np.zeros((3, 4, 5))
    labels[0, 1, 2], labels[1, 1, 2], labels[2, 3, 4], labels[0, 0, 0] = 1.0, 4.0, 0.25, -1.0
    write(tmp_path / "ras.nii.gz", labels, np.eye(4))
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 2
    write(tmp_path / "las.nii.gz", labels[::-1], flipped)
    one = read_mask(tmp_path / "ras.nii.gz", (5, 4, 3))
    assert one.sum() == 3
    assert np.array_equal(one, read_mask(tmp_path / "las.nii.gz", (5, 4, 3)))
    with pytest.raises(ImageError, match=r"5 x 4 x 3 but its image is 5 x 4 x 4 \(slices x height x width\)"):
        read_mask(tmp_path / "ras.nii.gz", (5, 4, 4))


def test_constant_and_broken_volumes_are_refused(tmp_path):
    for value, words in ((0.0, "is constant"), (np.nan, "NaN or infinite")):
        voxels = np.zeros((3, 3, 3), np.float32)
        voxels[0] += value
        with pytest.raises(ImageError, match=words):
            validate_image(read_picture(write(tmp_path / f"{value}.nii", voxels, np.eye(4))))


# ---- through the network's input and back ------------------------------------------------------------------------


def blob(shape: tuple[int, ...], centre: np.ndarray, mm: np.ndarray) -> np.ndarray:
    """A ball of 6 mm standard deviation."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.exp(-0.5 * (((places - centre) * mm) ** 2).sum(axis=-1) / 6.0**2)


def centre_of(weights: np.ndarray) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), axis=-1)
    return (places * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIR"])
@pytest.mark.parametrize("size", [48, (24, 40, 56)], ids=["cube", "sides"])
def test_a_blob_comes_back_within_a_voxel_of_the_file(tmp_path, codes, size):
    """Odd, unequal sides, thick slices, turned axes: drawn in the file, seen by the network, found in the file."""
    affine = affine_of(codes)
    sides = {"R": 61, "A": 83, "S": 27}
    shape = tuple(sides[axis_of(c)] for c in codes)
    mm = np.array([PITCH[axis_of(c)] for c in codes])
    centre = np.array([0.62, 0.37, 0.55]) * shape
    voxels = 1000 * blob(shape, centre, mm)
    path = write(tmp_path / "a.nii.gz", voxels.astype(np.float32), affine)
    sample = Preprocess(PreprocessConfig(size=size, crop=False))(read_picture(path))
    geometry = sample.geometry
    assert geometry.spacing == (4.0, 1.5, 2.0)
    found = np.array(geometry.scaled) / (np.array(geometry.native) * np.array(geometry.spacing))
    assert found.max() / found.min() < 1.05  # voxels of the input are cubes
    back = geometry.to_native(sample.image)[0]
    file = read_grid(path).to_file(back)
    assert np.abs(centre_of(np.clip(file - 0.02, 0, None)) - centre).max() < 1.0


def test_the_foreground_of_a_volume_is_cut_out(tmp_path):
    rng = np.random.default_rng(0)
    voxels = np.zeros((40, 50, 30), np.int16)
    voxels[8:32, 10:44, 5:25] = rng.integers(400, 900, (24, 34, 20))
    sample = Preprocess(PreprocessConfig(size=32))(read_picture(write(tmp_path / "a.nii", voxels, np.eye(4))))
    # margins of 2 % of each side: 1, 1, 1; the file is right, anterior, superior
    assert sample.geometry.crop == ((4, 26), (50 - 45, 50 - 9), (40 - 33, 40 - 7))
    inside = sample.image[0][sample.valid]
    assert 0 <= inside.min() < 0.02
    assert inside.max() <= 1
    assert not sample.valid.all()


def test_volumes_and_images_do_not_mix():
    image, volume = np.random.default_rng(0).random((9, 8)), np.random.default_rng(0).random((9, 8, 7, 1))
    with pytest.raises(ImageError, match=r"x is a volume \(9 x 8 x 7\), but this model takes images"):
        Preprocess(PreprocessConfig(size=16), axes=2)(volume, "x")
    with pytest.raises(ImageError, match=r"x is an image \(9 x 8\), but this model takes volumes"):
        Preprocess(PreprocessConfig(size=16), axes=3)(image, "x")
    assert Preprocess(PreprocessConfig(size=16), axes=3)(volume[..., 0]).image.shape == (1, 16, 16, 16)
    with pytest.raises(LesioncamError, match="three sides"):
        Preprocess(PreprocessConfig(size=(8, 8, 8)))(image)
