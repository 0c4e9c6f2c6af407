import numpy as np
import pytest

from lesioncam.data.preprocess import display_image
from lesioncam.errors import ImageError
from lesioncam.picture import Picture, VolumeGrid, as_picture


def test_the_slice_has_its_number_in_the_file():
    up = VolumeGrid.of((4, 5, 6), np.diag([1.0, 1, 1, 1]))
    down = VolumeGrid.of((4, 5, 6), np.diag([1.0, 1, -1, 1]))
    assert (up.slice_name(0, 1), down.slice_name(0, 1)) == ("k=1", "k=4")
    assert (up.slice_name(1, 0), up.slice_name(2, 0)) == ("j=4", "i=3")  # front, right


def test_an_array_becomes_a_volume_of_one_millimetre():
    volume = Picture(np.zeros((4, 5, 6)), source="x").as_volume()
    assert (volume.size, volume.channels, volume.source) == ((4, 5, 6), 1, "x")
    assert volume.grid == VolumeGrid.of_array((4, 5, 6))
    assert volume.grid.spacing == (1.0, 1.0, 1.0)
    assert display_image(volume.pixels).shape == (4, 5, 6)
    with pytest.raises(ImageError, match=r"a volume is \(D, H, W\)"):
        Picture(np.zeros((4, 5))).as_volume()


def test_a_volume_keeps_its_own_grid():
    grid = VolumeGrid.of((4, 5, 6), np.diag([2.0, 3.0, 4.0, 1.0]))
    assert Picture(np.zeros((*grid.size, 1)), grid).as_volume().grid is grid


def test_pictures_stay_and_arrays_get_a_name():
    picture = Picture(np.zeros((4, 5, 3)))
    assert as_picture(picture, "other") is picture
    assert (as_picture(np.zeros((4, 5)), "mine").source, picture.size, picture.channels) == ("mine", (4, 5), 3)


def test_what_stands_for_a_volume_is_its_middle_slice():
    voxels = np.arange(3 * 2 * 2.0).reshape(3, 2, 2, 1)
    np.testing.assert_array_equal(Picture(voxels).plane, [[4, 5], [6, 7]])
    assert Picture(np.zeros((3, 4, 5, 3))).plane.shape == (4, 5, 3)  # colour stays
