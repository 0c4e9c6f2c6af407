"""Pictures of CLEAR: which case stands where, what is printed, colours, the red box, nothing over anything else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lesioncam.errors import GeometryError, LesioncamError, OptionError
from lesioncam.functional.clear import palette
from lesioncam.reporting.figures import clear_figures
from lesioncam.reporting.figures.clear_figures import (
    ClearCase,
    ClearStyle,
    clear_picture,
    fundus_figure,
    median_case,
    method_table,
    save_picture,
)

GRADES = ["0 none", "1 mild", "2 moderate", "3 severe", "4 proliferative"]


def case(
    truth: int, predicted: int, confidence: float = 0.6, name: str = "eye_1_right.jpeg", size=(48, 60), classes: int = 5
) -> ClearCase:
    """A grey image whose map is the predicted class in a drawn block and class 0, weak, elsewhere."""
    probabilities = np.full(classes, (1 - confidence) / (classes - 1))
    probabilities[predicted] = confidence
    which, response = np.zeros(size, int), np.full(size, 0.01)
    which[10:22, 30:45], response[10:22, 30:45] = predicted, 2.0
    which[30:34, 5:9], response[30:34, 5:9] = (predicted + 1) % classes, 1.0
    return ClearCase(name, np.full(size, 120, np.uint8), truth, probabilities, which, response)


@pytest.fixture
def drawn(monkeypatch):
    """The last page drawn: every text with its extent, every axes, and boxes."""
    pages = []
    render = clear_figures._Page.pixels

    def keep(page):
        pixels = render(page)
        pages.append((page.figure, page.figure.canvas.get_renderer()))
        return pixels

    monkeypatch.setattr(clear_figures._Page, "pixels", keep)
    return pages


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def overlapping(figure, renderer) -> list[tuple[str, str]]:
    """Texts over other texts or over pictures, and texts that leave the page."""
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in figure.texts]
    frames = [("picture", axes.get_window_extent(renderer)) for axes in figure.axes]
    found = []
    for i, (words, box) in enumerate(boxes):
        for other, place in [*boxes[:i], *frames]:
            over_x = min(box.x1, place.x1) - max(box.x0, place.x0)
            over_y = min(box.y1, place.y1) - max(box.y0, place.y0)
            if over_x > 1.5 and over_y > 1.5 and words != "no case":
                found.append((words, other))
        if box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1:
            found.append((words, "the edge of the page"))
    return found


MANY = [f"class number {k}" for k in range(14)]


class TestLayout:
    @pytest.mark.parametrize("size", [(60, 60), (40, 110), (110, 40)])
    @pytest.mark.parametrize("classes", [GRADES, GRADES[:2], MANY])
    def test_nothing_lies_over_anything_else(self, drawn, size, classes):
        count = len(classes)
        cases = [
            case(0, 0, 0.9, size=(60, 60), classes=count),
            case(1, 0, 0.5, "a_very_long_name_of_a_file_of_a_patient_and_a_study_000017.png", (60, 60), count),
        ]
        cases = [shaped(one, size) for one in cases]
        method_table(cases, classes)
        fundus_figure(cases, classes)
        fundus_figure(cases, classes, ClearStyle(peak=3.0, box="window"), images=False)
        assert len(drawn) == 3
        for figure, renderer in drawn:
            assert overlapping(figure, renderer) == []

    def test_legend_is_always_drawn(self, drawn):
        for draw in (method_table, fundus_figure):
            draw([case(0, 0)], GRADES)
            words = texts(drawn[-1][0])
            assert all(grade in words for grade in GRADES)
            assert any("below 5% black" in line for line in words)

    def test_the_same_bytes_each_time(self, tmp_path):
        paths = [save_picture(fundus_figure([case(1, 1)], GRADES), tmp_path / f"{i}.png") for i in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        with Image.open(paths[0]) as picture:
            assert picture.mode == "RGB"


def shaped(one: ClearCase, size) -> ClearCase:
    which, response = np.zeros(size, int), np.random.default_rng(0).random(size)
    return ClearCase(one.name, np.full((*size, 3), 90, np.uint8), one.truth, one.probabilities, which, response)


class TestFundus:
    def test_cells(self, drawn):
        """Grade by truth, panel by whether it was right, the median of each cell, and empty cells."""
        cases = [case(1, 1, p, f"right_{i}.png") for i, p in enumerate((0.9, 0.5, 0.7))]
        cases += [case(2, 3, p, f"wrong_{i}.png") for i, p in enumerate((0.8, 0.4, 0.6, 0.5))]
        fundus_figure(cases, GRADES)
        words = texts(drawn[-1][0])
        assert [w for w in words if w.endswith(".png")] == ["right_2.png", "wrong_3.png"]
        assert words.count("no case") == 8
        assert {"true: 1 mild", "predicted: 1 mild, 0.70", "predicted: 3 severe, 0.50"} <= set(words)
        assert {"(a) correct", "(b) misclassified"} <= set(words)

    def test_median(self):
        of = [case(0, 0, p, name) for p, name in ((0.9, "a"), (0.5, "b"), (0.7, "d"), (0.7, "c"))]
        assert median_case(of).name == "c"
        assert median_case(of[:1]).name == "a"
        assert median_case([]) is None

    def test_names_with_markup_are_printed_as_they_are(self, drawn):
        fundus_figure([case(0, 0, name="$x_1$ \\alpha.png")], GRADES)
        assert "$x_1$ \\alpha.png" in texts(drawn[-1][0])

    def test_the_box_lies_round_the_drawn_block(self, drawn):
        fundus_figure([case(2, 2)], GRADES, images=False)
        figure = drawn[-1][0]
        (box,) = [patch for axes in figure.axes for patch in axes.patches]
        (x0, y0), x1, y1 = box.get_xy(), box.get_x() + box.get_width(), box.get_y() + box.get_height()
        line = 29.5 - x0
        assert 0 < line < 3
        assert (x0, y0, x1, y1) == pytest.approx((29.5 - line, 9.5 - line, 44.5 + line, 21.5 + line))
        assert box.get_edgecolor()[:3] == pytest.approx((1, 31 / 255, 31 / 255))

    def test_the_line_hides_nothing_of_the_block(self):
        """All pixels of the block keep their colour in the picture, and red lies around them."""
        pixels = fundus_figure([case(3, 3)], GRADES, images=False).astype(int)
        colour = np.rint(255 * palette("hue", 5)[3])
        inside = (np.abs(pixels - colour) <= 2).all(-1)
        inside[-150:] = False  # the legend
        inside[:40] = False  # the grade's patch
        share = inside.sum() / (12 * 15) / (1.75 * 150 / 60) ** 2
        assert share == pytest.approx(1, abs=0.06)
        assert (np.abs(pixels - (255, 31, 31)) <= 2).all(-1).sum() > 100

    def test_a_region_that_is_black_gets_no_box(self, drawn):
        """The predicted class dominates dark pixels only: the box goes where something is to be seen."""
        which, response = np.zeros((40, 40), int), np.full((40, 40), 0.001)
        which[20:30, 5:15], response[20:30, 5:15] = 1, 1.0
        one = ClearCase("a", np.zeros((40, 40), np.uint8), 0, np.array([0.9, 0.1]), which, response)
        fundus_figure([one], ["a", "b"], images=False)
        (box,) = [patch for axes in drawn[-1][0].axes for patch in axes.patches]
        assert 4 < box.get_x() + box.get_width() / 2 < 15
        flat = ClearCase("a", np.zeros((40, 40), np.uint8), 0, np.array([0.9, 0.1]), which, response * 0)
        fundus_figure([flat], ["a", "b"], images=False)
        assert not [patch for axes in drawn[-1][0].axes for patch in axes.patches]


class TestTable:
    def test_columns_and_readings(self, drawn):
        method_table([case(1, 1, 0.8, "good.png"), case(3, 2, 0.5, "bad.png")], GRADES)
        words = texts(drawn[-1][0])
        assert {"Input", "Output", "Heat map", "CLEAR map", "Reading", "good.png", "bad.png"} <= set(words)
        whole = " ".join(words)
        assert "1 mild 0.80 (predicted, true)" in whole.replace("  ", " ")
        assert "Output: correct." in whole
        assert "Output: wrong, 2 moderate in place of 3 severe." in whole
        # 12 x 15 pixels at full brightness and 4 x 4 at half: 180 of 188, the rest black
        assert "brightest at the top (1 mild)" in whole
        assert "96% 1 mild (predicted and true), 4% 2 moderate" in whole
        assert "96% 2 moderate (predicted), 4% 3 severe (true)" in whole
        assert "93% of the image is black" in whole

    def test_heat_map_reading_counts_its_own_pixels(self, drawn):
        one = case(0, 0)
        heat = np.full((48, 60), -5.0)
        heat[40:48, 0:15] = 3.0
        method_table(
            [ClearCase(one.name, one.image, 0, one.probabilities, one.dominant_class, one.dominant, heat)], GRADES
        )
        whole = " ".join(texts(drawn[-1][0]))
        assert "strongest at the bottom left" in whole
        assert "half of that or more on 4% of the image" in whole

    def test_nothing_responds(self, drawn):
        one = case(0, 0)
        method_table([ClearCase("a", one.image, 0, one.probabilities, one.dominant_class, one.dominant * 0)], GRADES)
        whole = " ".join(texts(drawn[-1][0]))
        assert "flat; it shows nothing" in whole
        assert "black; no response is strong enough" in whole

    def test_the_true_class_has_a_bar_among_many(self, drawn):
        one = case(13, 0, 0.9, classes=14)
        method_table([one], MANY)
        words = texts(drawn[-1][0])
        assert any("class number 13 0.01" in line and "true" in line for line in words)
        assert "and 8 more" in words

    def test_a_long_class_name_keeps_its_probability(self, drawn):
        names = ["a finding with a rather long description of what it is and where it lies", "b"]
        method_table([case(0, 0, 0.75, classes=2)], names)
        fundus_figure([case(0, 0, 0.75, classes=2)], names)
        assert any("…" in line and line.endswith("0.75  (predicted, true)") for line in texts(drawn[0][0]))
        assert any("…" in line and line.endswith(", 0.75") for line in texts(drawn[1][0]))
        for figure, renderer in drawn:
            assert overlapping(figure, renderer) == []


class TestColours:
    def test_low_evidence_is_black(self):
        picture = clear_picture(case(1, 1))
        assert (picture[:8] == 0).all()
        assert picture[15, 35].tolist() == np.rint(255 * palette("hue", 5)[1]).tolist()
        assert picture[31, 6].tolist() == np.rint(127.5 * palette("hue", 5)[2]).tolist()

    def test_one_peak_for_all_keeps_a_cold_image_dark(self):
        assert clear_picture(case(1, 1), ClearStyle(peak=100.0)).max() == 0

    def test_safe_palette(self):
        picture = clear_picture(case(1, 1), ClearStyle(palette="safe"))
        assert picture[15, 35].tolist() == [0x56, 0xB4, 0xE9]
        with pytest.raises(OptionError, match="tells 7 classes apart"):
            method_table([case(0, 0, classes=14)], MANY, ClearStyle(palette="safe"))


class TestRefusals:
    def test_maps_on_another_grid(self):
        one = case(0, 0)
        with pytest.raises(GeometryError, match=r"dominant is \(3, 3\) and the image \(48, 60\)"):
            ClearCase("a", one.image, 0, one.probabilities, one.dominant_class, np.zeros((3, 3)))

    def test_names_and_probabilities(self):
        with pytest.raises(OptionError, match="5 probabilities, but there are 2 names"):
            fundus_figure([case(0, 0)], ["a", "b"])
        with pytest.raises(LesioncamError, match="true class 7"):
            case(7, 0)
        with pytest.raises(LesioncamError, match="no case to draw"):
            method_table([], GRADES)

    def test_unknown_box(self):
        with pytest.raises(OptionError, match="Did you mean 'window'"):
            ClearStyle(box="windows")
