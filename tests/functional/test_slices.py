"""The slice of a volume that is shown: which one, which way up, and which boxes it cuts."""

import numpy as np
import pytest

from lesioncam.functional.slices import Slice, boxes_in, picture, shown_slice

BLOCK = (2, 3, 4, 5, 9, 6)  # x0 y0 z0 x1 y1 z1


def block() -> np.ndarray:
    mask = np.zeros((8, 12, 7), bool)
    mask[4:6, 3:9, 2:5] = True
    return mask


@pytest.mark.parametrize(("axis", "place", "size"), [(0, 4, (12, 7)), (1, 8, (8, 7)), (2, 2, (8, 12))])
def test_the_box_frames_the_block_in_every_picture(axis, place, size):
    cut = Slice(axis, place)
    shown = picture(block(), cut)
    assert shown.shape == size
    ((x0, y0, x1, y1),) = boxes_in([BLOCK], cut, slices=8)
    framed = np.zeros(size, bool)
    framed[y0:y1, x0:x1] = True
    assert np.array_equal(shown, framed)
    assert boxes_in([BLOCK], Slice(axis, 0), slices=8) == []


def test_the_head_is_up_where_slices_run_along_the_body():
    volume = np.broadcast_to(np.arange(8)[:, None, None], (8, 12, 7))  # d grows from foot to head
    assert picture(volume, Slice(1, 0))[:, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert picture(volume, Slice(2, 0))[:, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert np.unique(picture(volume, Slice(0, 3))).tolist() == [3]


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [(None, 0), ((1, 1, 1), 0), ((3, 1, 1), 0), ((1, 1, 1.2), 0), ((1, 4, 1), 1), ((0.9, 0.9, 5), 2)],
)
def test_slices_are_cut_as_the_scanner_cut_them(spacing, axis):
    assert shown_slice(np.zeros((3, 4, 5)), spacing=spacing).axis == axis


def test_truth_comes_before_the_mask_and_the_mask_before_the_map():
    evidence, mask, truth = (np.zeros((5, 4, 4)) for _ in range(3))
    evidence[0, 0, 0], mask[1, :2], truth[3, 1, 1], truth[4, 1, :2] = 1, 1, 1, 1
    assert shown_slice(evidence, mask > 0, truth > 0) == Slice(0, 4, "largest lesion")
    assert shown_slice(evidence, mask > 0, truth > 9) == Slice(0, 1, "largest predicted region")
    assert shown_slice(evidence, mask > 9) == Slice(0, 0, "highest response")
    evidence[2, 1, 1] = np.nan
    assert shown_slice(evidence).place == 0
