from __future__ import annotations

import numpy as np
import pytest

from lesioncam.errors import GeometryError, ImageError
from lesioncam.functional.overlay import PREDICTED, TRUTH, auto_zoom, color_bar, heat_layer, overlay, shrink

GREY = np.arange(100, dtype=np.uint8).reshape(10, 10)


def painted(canvas: np.ndarray, colour: tuple[int, int, int]) -> set[tuple[int, int]]:
    return {(int(r), int(c)) for r, c in np.argwhere((canvas == colour).all(-1))}


def around(rows: range, columns: range) -> set[tuple[int, int]]:
    """The ring of pixels around a rectangle."""
    outer = {(r, c) for r in range(rows[0] - 1, rows[-1] + 2) for c in range(columns[0] - 1, columns[-1] + 2)}
    return outer - {(r, c) for r in rows for c in columns}


def test_a_cold_map_leaves_the_image_as_it_is():
    assert (overlay(GREY, np.zeros((10, 10)), zoom=1) == GREY[..., None]).all()
    assert (overlay(GREY, np.zeros((10, 10))) == overlay(GREY, None)).all()


def test_the_scale_is_absolute():
    """A warm pixel has one colour, whatever else is in its image."""
    mild, mixed = np.full((10, 10), 0.4), np.full((10, 10), 0.4)
    mixed[5:] = 1.0
    image = np.full((10, 10), 80, np.uint8)
    assert (overlay(image, mild, zoom=1)[0, 0] == overlay(image, mixed, zoom=1)[0, 0]).all()


def test_the_bar_is_the_scale_of_the_pictures():
    bar = color_bar(256, 256)
    image = np.full((4, 4), 55, np.uint8)
    assert (overlay(image, np.full((4, 4), 102 / 255), zoom=1)[0, 0] == bar[255 - 55, 102]).all()


def test_what_is_cold_is_not_painted_at_all():
    assert not heat_layer(np.array([0.0, 0.05, 0.1]))[:, 3].any()
    assert heat_layer(np.array([0.12]))[0, 3] > 0


def test_hotter_is_farther_from_grey():
    image = np.full((1, 11), 128, np.uint8)
    colours = overlay(image, np.linspace(0, 1, 11)[None], zoom=1)[0].astype(float)
    distance = np.abs(colours - 128).sum(-1)
    assert distance[0] == 0
    assert (np.diff(distance[1:7]) > 0).all()


def test_the_outline_lies_around_the_mask_and_hides_none_of_it():
    mask = np.zeros((10, 10), bool)
    mask[3:6, 4:8] = True
    canvas = overlay(GREY, None, mask, zoom=1)
    assert painted(canvas, PREDICTED) == around(range(3, 6), range(4, 8))
    assert (canvas[mask] == GREY[mask][:, None]).all()


def test_a_mask_at_the_edge_keeps_its_line():
    mask = np.zeros((10, 10), bool)
    mask[:3, :3] = True
    assert (0, 0) in painted(overlay(GREY, None, mask, zoom=1), PREDICTED)


def test_a_box_is_half_open():
    canvas = overlay(GREY, None, boxes=[(4, 3, 8, 6)], zoom=1)
    assert painted(canvas, PREDICTED) == around(range(3, 6), range(4, 8))


def test_boxes_move_with_the_zoom():
    canvas = overlay(GREY, None, boxes=[(4, 3, 8, 6)], zoom=10)
    rows, columns = np.nonzero((canvas == PREDICTED).all(-1))
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(45)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(60)


def test_truth_is_dashed_in_another_colour():
    truth = np.zeros((10, 10), bool)
    truth[3:7, 3:7] = True
    canvas = overlay(GREY + 100, None, truth=truth, zoom=1)
    yellow, black = painted(canvas, TRUTH), painted(canvas, (0, 0, 0))
    assert yellow | black == around(range(3, 7), range(3, 7))
    assert yellow
    assert black


def test_a_colour_image_turns_grey_under_a_map_only():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200
    assert (overlay(image, None, zoom=1) == image).all()
    under = overlay(image, np.zeros((4, 4)), zoom=1)
    assert (under == under[..., :1]).all()


def test_a_value_that_is_no_number_is_painted_as_nothing():
    assert (overlay(GREY, np.full((10, 10), np.nan), zoom=1) == GREY[..., None]).all()


@pytest.mark.parametrize(("shape", "zoom"), [((100, 60), 3), ((300, 20), 1), ((1, 1), 256)])
def test_small_images_are_enlarged(shape, zoom):
    assert auto_zoom(shape) == zoom
    assert overlay(np.zeros(shape, np.uint8), np.zeros(shape)).shape == (shape[0] * zoom, shape[1] * zoom, 3)


def test_half_precision_maps_are_welcome():
    assert overlay(GREY, np.ones((10, 10), np.float16)).dtype == np.uint8


def test_shrinking_keeps_a_lesion_of_one_pixel():
    mask = np.zeros((1, 100, 50), bool)
    mask[0, 70, 20] = True
    small = shrink(mask, 20)
    assert small.shape == (1, 20, 10)
    assert np.argwhere(small).tolist() == [[0, 14, 4]]


def test_what_cannot_be_painted_says_so():
    with pytest.raises(ImageError, match="uint8"):
        overlay(GREY.astype(float), None)
    with pytest.raises(GeometryError, match=r"\(5, 5\)"):
        overlay(GREY, np.zeros((5, 5)))
