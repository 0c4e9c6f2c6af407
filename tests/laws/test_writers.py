"""What every writer of `predict` must obey: another library reads what was written, and nothing is half written."""

import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.laws.kinds import CLASSES, WRITER_NAMES, case_of, write_one

from lesioncam.data.io.image import read_picture
from lesioncam.picture import Picture
from lesioncam.types import CaseResult

every = pytest.mark.parametrize("name", WRITER_NAMES)
both = pytest.mark.parametrize("axes", [2, 3], ids=["image", "volume"])
LESION = {2: np.s_[3:8, 4:10], 3: np.s_[2:4, 3:8, 4:10]}
AFFINE = np.array([[-1.0, 0, 0, 5], [0, 2, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])


def scene(axes, folder) -> tuple[CaseResult, Picture]:
    """A mass in a known place and no ring, and the picture of the file."""
    rng = np.random.default_rng(0)
    size = (16, 20) if axes == 2 else (6, 16, 20)
    maps = rng.normal(-3, 0.1, (2, *size))
    maps[0][LESION[axes]] = rng.uniform(1, 3, maps[0][LESION[axes]].shape)
    if axes == 2:
        picture = Picture(rng.integers(0, 256, size, dtype=np.uint8))
    else:
        nib.save(nib.Nifti1Image(rng.integers(0, 999, size[::-1], dtype=np.int16), AFFINE), folder / "file.nii.gz")
        picture = read_picture(folder / "file.nii.gz")
    return case_of(maps, (0.9, 0.1)), picture


def as_array(voxels):
    """File order to array order for `AFFINE`: x grows to the left, so that only rows are turned."""
    return voxels.transpose(2, 1, 0)[:, ::-1]


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def check_maps(result, picture, out, axes):
    expected = sigmoid(result.heatmap.native())
    if axes == 2:
        with np.load(out / "maps/a.npz") as content:
            np.testing.assert_allclose(content["probability"], expected, atol=1e-3)
            np.testing.assert_array_equal(content["raw"], result.heatmap.raw)
            assert content["classes"].tolist() == list(CLASSES)
            assert (str(content["method"]), str(content["layer"])) == ("cam", "head")
        return
    for k, label in enumerate(CLASSES):
        volume = nib.load(out / f"maps/a_{label}.nii.gz")
        np.testing.assert_array_equal(volume.affine, AFFINE)
        np.testing.assert_allclose(as_array(volume.get_fdata()), expected[k], atol=1e-6)


def check_masks(result, picture, out, axes):
    for k, label in enumerate(CLASSES):
        expected = result.segmentation.masks[k] & result.positive[k]
        if axes == 2:
            found = np.asarray(Image.open(out / f"masks/a_{label}.png"))
            assert set(np.unique(found)) <= {0, 255}
        else:
            volume = nib.load(out / f"masks/a_{label}.nii.gz")
            np.testing.assert_array_equal(volume.affine, AFFINE)
            assert volume.get_data_dtype() == np.uint8
            found = as_array(volume.get_fdata())
        np.testing.assert_array_equal(found > 0, expected)
    assert result.segmentation.masks[0].sum() == np.prod([s.stop - s.start for s in LESION[axes]])


def check_overlay(result, picture, out, axes):
    """Colour on the mass, grey where nothing is; enlarged by a whole number."""
    shown = [np.asarray(Image.open(out / f"overlays/a_{label}.png").convert("RGB"), int) for label in CLASSES]
    for drawn, coloured in zip(shown, (True, False), strict=True):
        zoom = len(drawn) // 16
        assert drawn.shape == (16 * zoom, 20 * zoom, 3)
        saturation = (drawn.max(-1) - drawn.min(-1)).reshape(16, zoom, 20, zoom).mean((1, 3))
        lesion = np.zeros((16, 20), bool)
        lesion[LESION[2]] = True
        assert (saturation[lesion] > 10).all() == coloured
        assert (saturation[~lesion] < 10).mean() > 0.75


def check_crops(result, picture, out, axes):
    assert list(files(out)) in (["crops/a_mass_1.png"], ["crops/a_mass_1.tif"])
    [path] = files(out).values()
    plane = picture.pixels
    if axes == 3:
        plane = plane[result.segmentation.components[0][0].place[0], ..., 0]
    square = Image.fromarray(plane[1:9, 3:11].astype(np.float32))  # 6 wide and 20 % on each side, centred
    expected = np.asarray(square.resize((256, 256), Image.Resampling.BILINEAR))
    found = np.asarray(Image.open(path)) if axes == 2 else tifffile.imread(path)
    assert found.dtype == plane.dtype
    np.testing.assert_allclose(found, expected, atol=0.51)


def check_boxes(result, picture, out, axes):
    assert files(out) == {}


CHECKS = {
    "maps": check_maps,
    "masks": check_masks,
    "overlay": check_overlay,
    "crops": check_crops,
    "boxes": check_boxes,
}
"""How another library sees that a file holds what it should: a new writer needs one."""


@every
@both
def test_another_library_reads_what_was_written(name, axes, tmp_path):
    result, picture = scene(axes, tmp_path)
    write_one(name, result, picture, tmp_path / "out")
    CHECKS[name](result, picture, tmp_path / "out", axes)


@every
@both
def test_the_same_result_gives_the_same_bytes(name, axes, tmp_path):
    result, picture = scene(axes, tmp_path)
    for folder in ("a", "b"):
        write_one(name, result, picture, tmp_path / folder)
    first, second = (
        {key: path.read_bytes() for key, path in files(tmp_path / folder).items()} for folder in ("a", "b")
    )
    assert first == second


@every
@both
def test_a_disk_that_refuses_leaves_nothing_half_written(name, axes, tmp_path, monkeypatch):
    """Whatever fails at the end of a file, when its bytes are flushed or it is moved into place."""
    result, picture = scene(axes, tmp_path)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_one(name, result, picture, tmp_path / "whole")
    for place in ("os.fsync", "pathlib.Path.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            if files(tmp_path / "whole"):
                with pytest.raises(OSError, match="No space left"):
                    write_one(name, result, picture, tmp_path / "out")
            else:
                write_one(name, result, picture, tmp_path / "out")
        assert files(tmp_path / "out") == {}
    before = {key: path.read_bytes() for key, path in files(tmp_path / "whole").items()}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        for _ in before:
            with pytest.raises(OSError, match="No space left"):
                write_one(name, result, picture, tmp_path / "whole")
    assert {key: path.read_bytes() for key, path in files(tmp_path / "whole").items()} == before


def test_boxes_are_in_the_table(tmp_path):
    """The one kind that has no file of its own."""
    from lesioncam.export.predicted_image import PredictedImage
    from lesioncam.export.predictions import prediction_rows

    result, picture = scene(2, tmp_path)
    rows = list(prediction_rows(PredictedImage(result, picture, result.heatmap.native(), "a")))
    assert [json.loads(row["boxes"]) for row in rows] == [[[4, 3, 10, 8]], []]
