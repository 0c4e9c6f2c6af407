"""Pictures of CLEAR: the table of the method's paper, and CLEAR-DR's figure of graded images.

Both print what was given and choose nothing by hand. The legend is always drawn, low evidence is black, and in the
figure of grades every cell shows its case of median confidence; a cell without a case stays empty.

Reference:
    Kumar, Wong & Taylor, "Explaining the unexplained: a class-enhanced attentive response (CLEAR) approach to
    understanding deep neural networks", CVPR Workshops 2017; Kumar, Taylor & Wong, "Discovery radiomics with CLEAR-DR:
    interpretable computer aided diagnosis of diabetic retinopathy", 2017.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Stroke
from PIL import Image

from lesioncam.errors import GeometryError, LesioncamError, OptionError
from lesioncam.files import write_with
from lesioncam.functional.clear import BOXES, DARK, attentive_box, brightness, compose, palette
from lesioncam.lookup import find

INK, MUTED, RULE, RED = "#1a1f24", "#5a636b", "#c4cad0", "#ff1f1f"
DPI = 150
_CELL = 1.75
"""Inches of the longer side of one image."""
_LINE = 0.155
"""Inches of a line of text."""
_STEP = 0.29
"""Inches from one bar of the column of outputs to the next."""
_BARS = 6
"""Classes with a bar of their own in the column of outputs; the others are left out and counted."""


@dataclass(frozen=True)
class ClearCase:
    """One image and what the network said about it.

    Attributes:
        name: printed under the picture, for instance the file's name.
        image: ``(H, W)`` or ``(H, W, 3)`` uint8, as it should look.
        truth: index of its true class.
        probabilities: ``(K,)``, the output of the network.
        dominant_class: ``(H, W)`` integer, the class that responds most (of volumes: a projection or a slice).
        dominant: ``(H, W)``, its response, not negative.
        heatmap: ``(H, W)``, a map that knows no classes or the predicted one only; None: the dominant response.
    """

    name: str
    image: np.ndarray
    truth: int
    probabilities: np.ndarray
    dominant_class: np.ndarray
    dominant: np.ndarray
    heatmap: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.image)[:2]
        for name in ("dominant_class", "dominant", "heatmap"):
            layer = getattr(self, name)
            if layer is not None and np.shape(layer) != shape:
                raise GeometryError(
                    f"{self.name}: {name} is {np.shape(layer)} and the image {shape}; bring it to that grid first."
                )
        if not 0 <= self.truth < len(self.probabilities):
            raise LesioncamError(f"{self.name}: true class {self.truth} of {len(self.probabilities)} probabilities.")

    @property
    def predicted(self) -> int:
        """The most probable class, of equal ones the first."""
        return int(np.argmax(self.probabilities))

    @property
    def confidence(self) -> float:
        """Its probability."""
        return float(self.probabilities[self.predicted])

    @property
    def correct(self) -> bool:
        """Whether it is the true one."""
        return self.predicted == self.truth


@dataclass(frozen=True)
class ClearStyle:
    """How CLEAR maps are coloured.

    Attributes:
        palette: ``hue`` (H = c / K) or ``safe`` (for colour-blind readers, up to 7 classes).
        dark: share of full brightness below which a pixel is black.
        percentile: of the responses of an image, shown at full brightness.
        peak: response of full brightness in all images; None takes each image's own.
        box: how the most attentive region is found, ``component`` or ``window``.
        smooth: standard deviation of a Gaussian applied before, pixels; 0 takes the response as it is, single pixels
            included.
    """

    palette: Literal["hue", "safe"] = "hue"
    dark: float = DARK
    percentile: float = 100.0
    peak: float | None = None
    box: Literal["component", "window"] = "component"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        find(self.box, BOXES, "kind of box")

    def value(self, case: ClearCase) -> np.ndarray:
        """Brightness of every pixel of a case, in [0, 1]."""
        return brightness(case.dominant, peak=self.peak, percentile=self.percentile, dark=self.dark)


def clear_picture(case: ClearCase, style: ClearStyle | None = None) -> np.ndarray:
    """The CLEAR map of a case as ``(H, W, 3)`` uint8: colour says which class, brightness how strongly.

    Example:
        >>> maps = {"dominant_class": np.array([[0, 1]]), "dominant": np.array([[4.0, 0.1]])}
        >>> case = ClearCase("a", np.zeros((1, 2), np.uint8), 0, np.array([0.9, 0.1]), **maps)
        >>> clear_picture(case).tolist()
        [[[255, 0, 0], [0, 0, 0]]]
    """
    style = style or ClearStyle()
    rgb = compose(case.dominant_class, style.value(case), palette(style.palette, len(case.probabilities)))
    return np.rint(255 * rgb).astype(np.uint8)


def median_case(cases: Sequence[ClearCase]) -> ClearCase | None:
    """The case of median confidence (of an even number the lower middle one; names break ties); None of none.

    Example:
        >>> flat = np.zeros((1, 1))
        >>> of = lambda name, p: ClearCase(name, flat.astype(np.uint8), 0, np.array([p, 1 - p]), flat.astype(int), flat)
        >>> median_case([of("a", 0.9), of("b", 0.6), of("c", 0.7)]).name
        'c'
    """
    ranked = sorted(cases, key=lambda case: (case.confidence, case.name))
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def method_table(cases: Sequence[ClearCase], classes: Sequence[str], style: ClearStyle | None = None) -> np.ndarray:
    """The table of the method's paper: input, output, heat map, CLEAR map and a reading of each; one row per case.

    Args:
        cases: correct and wrong ones, drawn in the order given.
        classes: K names.
        style: colours.

    Returns:
        ``(H, W, 3)`` uint8, white page; see :func:`save_picture`.

    Raises:
        LesioncamError: without a case, or where names and probabilities do not match.

    Example:
        >>> maps = {"dominant_class": np.zeros((8, 8), int), "dominant": np.eye(8)}
        >>> case = ClearCase("a.png", np.zeros((8, 8), np.uint8), 0, np.array([0.9, 0.1]), **maps)
        >>> method_table([case], ["glioma", "none"]).shape[2]
        3
    """
    style = style or ClearStyle()
    _check(cases, classes)
    titles = ("Input", "Output", "Heat map", "CLEAR map", "Reading")
    widths = (_CELL, 2.15, _CELL, _CELL, 3.6)
    gap, left, top = 0.16, 0.12, 0.34
    readings = [_reading(case, classes, style) for case in cases]
    heights = [_row_height(case, lines) for case, lines in zip(cases, readings, strict=True)]
    width = left + sum(widths) + gap * (len(widths) - 1) + 0.1
    with _page(width, top + sum(heights) + gap * len(cases), classes, style) as page:
        for j, title in enumerate(titles):
            page.text(left + sum(widths[:j]) + gap * j, top - 0.22, title, weight="bold")
        y = top
        for case, lines, height in zip(cases, readings, heights, strict=True):
            x = [left + sum(widths[:j]) + gap * j for j in range(len(widths))]
            inner = _CELL * min(1.35, case.image.shape[0] / case.image.shape[1])
            drawn = page.picture((x[0], y, widths[0], inner), case.image)
            page.text(x[0], y + drawn + 0.04, case.name, widths[0], size=7.5, color=MUTED)
            _draw_output(page, (x[1], y, widths[1]), case, classes, palette(style.palette, len(classes)))
            page.picture((x[2], y, widths[2], inner), _heat(case), full=1)
            page.picture((x[3], y, widths[3], inner), clear_picture(case, style), box=_box(case, style))
            for i, words in enumerate(lines):
                page.text(x[4], y + i * _LINE, words, size=7.5)
            y += height + gap
        return page.pixels()


def fundus_figure(
    cases: Sequence[ClearCase], grades: Sequence[str], style: ClearStyle | None = None, *, images: bool = True
) -> np.ndarray:
    """CLEAR-DR's figure: (a) correct and (b) misclassified images, one column per true grade.

    Each cell shows the CLEAR map of its case of median confidence with a red box round the most attentive region of the
    predicted grade; a cell without a case stays empty.

    Args:
        cases: all there are; which are shown follows from their confidence.
        grades: K names.
        style: colours.
        images: show the image above its map.

    Returns:
        ``(H, W, 3)`` uint8, white page; see :func:`save_picture`.

    Raises:
        LesioncamError: without a case, or where names and probabilities do not match.

    Example:
        >>> maps = {"dominant_class": np.zeros((8, 8), int), "dominant": np.eye(8)}
        >>> case = ClearCase("a.png", np.zeros((8, 8), np.uint8), 0, np.array([0.9, 0.1]), **maps)
        >>> fundus_figure([case], ["grade 0", "grade 1"]).shape[2]
        3
    """
    style = style or ClearStyle()
    _check(cases, grades)
    tallest = max(case.image.shape[0] / case.image.shape[1] for case in cases)
    cell, high, gap, left, top = _CELL, _CELL * min(1.4, tallest), 0.1, 0.12, 0.3
    rows = 2 if images else 1
    panel = 0.32 + rows * high + (rows - 1) * 0.05 + 3 * _LINE + 0.1
    width = max(left + len(grades) * (cell + gap) + 0.05, 5.6)
    with _page(width, top + 2 * panel, grades, style) as page:
        colours = palette(style.palette, len(grades))
        for k, grade in enumerate(grades):
            x = left + k * (cell + gap)
            page.patch((x, 0.09, 0.13, 0.13), colours[k])
            page.text(x + 0.2, 0.075, f"true: {grade}", cell - 0.2, weight="bold")
        for p, (title, correct) in enumerate((("(a) correct", True), ("(b) misclassified", False))):
            y = top + p * panel
            page.text(left, y + 0.06, title, weight="bold")
            for k in range(len(grades)):
                case = median_case([one for one in cases if one.truth == k and one.correct == correct])
                frame = (left + k * (cell + gap), y + 0.32, cell, rows * high + (rows - 1) * 0.05)
                if case is None:
                    page.outline(frame)
                    page.text(frame[0] + cell / 2, frame[1] + frame[3] / 2 - 0.06, "no case", color=MUTED, ha="center")
                else:
                    _draw_cell(page, frame, case, grades, style)
        return page.pixels()


def save_picture(pixels: np.ndarray, path: Path) -> Path:
    """Write a picture as PNG, whole or not at all."""
    return write_with(path, lambda partial: Image.fromarray(pixels).save(partial, "PNG", dpi=(DPI, DPI), optimize=True))


# ---- parts -------------------------------------------------------------------------------------------------------

Frame = tuple[float, float, float, float]
"""Left, top, width and height in inches from the upper left corner of the page."""


def _draw_cell(page: _Page, frame: Frame, case: ClearCase, grades: Sequence[str], style: ClearStyle) -> None:
    x, y, width, height = frame
    if height > 1.5 * _CELL * min(1.4, case.image.shape[0] / case.image.shape[1]):  # room for image and map
        height = (height - 0.05) / 2
        page.picture((x, y, width, height), case.image)
        y += height + 0.05
    drawn = page.picture((x, y, width, height), clear_picture(case, style), box=_box(case, style))
    truth, answer = f"true: {grades[case.truth]}", f"predicted: {grades[case.predicted]}"
    for line, words in enumerate((case.name, truth, answer)):
        tail = f", {case.confidence:.2f}" if words is answer else ""
        colour = INK if line else MUTED
        page.text(x, y + drawn + 0.04 + line * _LINE, words, width, tail=tail, size=7.5, color=colour)


def _shown(case: ClearCase) -> list[int]:
    """The classes with a bar: the most probable ones, and always the true one."""
    order = [int(k) for k in np.argsort(-np.asarray(case.probabilities), kind="stable")]
    shown = order[:_BARS]
    return shown if case.truth in shown else [*shown[:-1], case.truth]


def _row_height(case: ClearCase, reading: Sequence[str]) -> float:
    image = _CELL * min(1.35, case.image.shape[0] / case.image.shape[1]) + 1.5 * _LINE
    left_out = len(case.probabilities) > _BARS
    return max(image, _STEP * len(_shown(case)) + _LINE * left_out, _LINE * len(reading))


def _draw_output(
    page: _Page, at: tuple[float, float, float], case: ClearCase, classes: Sequence[str], colours: np.ndarray
) -> None:
    """A bar per class, the most probable first; the true one is marked."""
    x, y, width = at
    shown = _shown(case)
    for i, k in enumerate(shown):
        top, share = y + i * _STEP, float(case.probabilities[k])
        marks = [mark for mark, so in (("predicted", k == case.predicted), ("true", k == case.truth)) if so]
        tail = f" {share:.2f}" + (f"  ({', '.join(marks)})" if marks else "")
        weight = "bold" if k == case.predicted else "normal"
        page.text(x, top - 0.02, classes[k], width, tail=tail, size=7.5, weight=weight)
        page.patch((x, top + 0.14, max(0.01, width * share), 0.09), colours[k], edge=MUTED)
    if len(classes) > len(shown):
        words = f"and {len(classes) - len(shown)} more"
        page.text(x, y + len(shown) * _STEP - 0.02, words, size=7.5, color=MUTED)


def _reading(case: ClearCase, classes: Sequence[str], style: ClearStyle) -> list[str]:
    """Lines that say what is to be seen in each picture."""
    verdict = "correct." if case.correct else f"wrong, {classes[case.predicted]} in place of {classes[case.truth]}."
    parts = (("Output", verdict), ("Heat map", _read_heat(case)), ("CLEAR map", _read_clear(case, classes, style)))
    found: list[str] = []
    for title, words in parts:
        found += [*textwrap.wrap(f"{title}: {words}", 62), ""]
    return found[:-1]


def _read_heat(case: ClearCase) -> str:
    heat = _heat(case)
    if not heat.any():
        return "flat; it shows nothing."
    half = _percent(float(np.mean(heat >= 0.5)))
    return (
        f"strongest {_place(heat)}, half of that or more on {half} of the image. It does not say which class the "
        "places respond to."
    )


def _read_clear(case: ClearCase, classes: Sequence[str], style: ClearStyle) -> str:
    """Whose response it is that one sees; not for or against, since the sign is lost."""
    value = style.value(case)
    if not value.any():
        return "black; no response is strong enough to be shown."
    sums = np.bincount(np.asarray(case.dominant_class).ravel(), weights=value.ravel(), minlength=len(classes))
    shares = sums / sums.sum()
    named = [case.predicted] + ([case.truth] if not case.correct else [])
    rest = [int(k) for k in np.argsort(-shares, kind="stable") if int(k) not in named and shares[k] >= 0.005]
    told = [f"{_percent(shares[k])} {classes[k]} ({_role(case, k)})" for k in named]
    told += [f"{_percent(shares[k])} {classes[k]}" for k in rest[:1]]
    return (
        f"brightest {_place(value)} ({classes[_brightest(case, value)]}); of all brightness {', '.join(told)}. "
        f"{_percent(float(np.mean(value == 0)))} of the image is black."
    )


def _percent(share: float) -> str:
    """A small share is not called none."""
    return f"{share:.0%}" if share == 0 or share >= 0.005 else "less than 1%"


def _role(case: ClearCase, k: int) -> str:
    return "predicted and true" if case.correct else "predicted" if k == case.predicted else "true"


def _brightest(case: ClearCase, value: np.ndarray) -> int:
    return int(np.asarray(case.dominant_class).ravel()[int(value.argmax())])


def _place(values: np.ndarray) -> str:
    """Where the largest value lies, in thirds of the picture."""
    thirds = [
        min(2, 3 * int(i) // n)
        for i, n in zip(np.unravel_index(int(values.argmax()), values.shape), values.shape, strict=True)
    ]
    row, column = ("at the top", "", "at the bottom")[thirds[0]], ("left", "in the middle", "right")[thirds[1]]
    if not row:
        return column if thirds[1] == 1 else f"on the {column}"
    return row if thirds[1] == 1 else f"{row} {column}"


def _heat(case: ClearCase) -> np.ndarray:
    """The heat map in [0, 1], its own largest value white; negative values are black."""
    given = case.dominant if case.heatmap is None else case.heatmap
    return brightness(np.maximum(np.nan_to_num(np.asarray(given, dtype=np.float64)), 0.0), dark=0.0)


def _box(case: ClearCase, style: ClearStyle) -> tuple[int, ...] | None:
    """Round the most attentive region of what is not black; none where all is."""
    lit = np.where(style.value(case) > 0, case.dominant, 0.0)
    return attentive_box(case.dominant_class, lit, case.predicted, style.box, style.smooth)


def _check(cases: Sequence[ClearCase], classes: Sequence[str]) -> None:
    if not cases:
        raise LesioncamError("there is no case to draw.")
    for case in cases:
        if len(case.probabilities) != len(classes):
            raise OptionError(
                f"{case.name} has {len(case.probabilities)} probabilities, but there are {len(classes)} names."
            )


# ---- the page ----------------------------------------------------------------------------------------------------


class _Page:
    """A white page measured in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.canvas = FigureCanvasAgg(figure)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        within: float | None = None,
        *,
        tail: str = "",
        size: float = 8.5,
        color: str = INK,
        weight: str = "normal",
        ha: str = "left",
    ) -> None:
        """A line whose upper left corner is here; words wider than they may be keep both ends, and the tail stays."""
        place = (x / self.width, 1 - y / self.height)
        drawn = self.figure.text(*place, words + tail, size=size, color=color, weight=weight, va="top", ha=ha)
        keep, renderer = len(words), self.canvas.get_renderer()
        while within is not None and drawn.get_window_extent(renderer).width > within * DPI and keep > 3:
            keep -= 1
            drawn.set_text(f"{words[: keep - keep // 2]}…{words[len(words) - keep // 2 :]}{tail}")

    def picture(
        self, frame: Frame, pixels: np.ndarray, box: tuple[int, ...] | None = None, *, full: float = 255
    ) -> float:
        """An image, as large as fits, in the upper left corner of a frame; gives its height.

        A box in its pixels is drawn in red, edged with white, since red is also a class; the line lies around the box
        and hides nothing of it.
        """
        x, y, width, height = frame
        rows, columns = pixels.shape[:2]
        scale = min(width / columns, height / rows)
        axes = self._axes((x, y, columns * scale, rows * scale))
        axes.imshow(pixels, interpolation="nearest", aspect="auto", cmap="gray", vmin=0, vmax=full)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=RULE, linewidth=0.6)
        if box is not None:
            line = 2.4 / 72 / 2 / scale  # half of its width, in pixels of the image
            corner = (box[0] - 0.5 - line, box[1] - 0.5 - line)
            size = (box[2] - box[0] + 2 * line, box[3] - box[1] + 2 * line)
            drawn = axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=RED, linewidth=1.2))
            drawn.set_path_effects([Stroke(linewidth=2.4, foreground="white"), Stroke(linewidth=1.2, foreground=RED)])
        return float(rows * scale)

    def patch(self, frame: Frame, colour: Sequence[float], edge: str = RULE) -> None:
        """A coloured rectangle."""
        axes = self._axes(frame)
        axes.set(xticks=[], yticks=[], facecolor=tuple(colour))
        axes.spines[:].set(color=edge, linewidth=0.5)

    def outline(self, frame: Frame) -> None:
        """A thin dashed frame with nothing in it."""
        axes = self._axes(frame)
        axes.set(xticks=[], yticks=[], facecolor="white")
        axes.spines[:].set(color=RULE, linewidth=0.6, linestyle="--")

    def ramp(self, frame: Frame, colour: np.ndarray, dark: float) -> None:
        """A colour from black to full brightness, black where maps are."""
        axes = self._axes(frame)
        value = np.linspace(0, 1, 128)
        value = np.where(value < dark, 0.0, value)
        axes.imshow(value[None, :, None] * colour, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=RULE, linewidth=0.5)

    def pixels(self) -> np.ndarray:
        """The page, ``(H, W, 3)`` uint8."""
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def _axes(self, frame: Frame) -> Axes:
        x, y, width, height = frame
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )


@contextmanager
def _page(width: float, height: float, classes: Sequence[str], style: ClearStyle) -> Iterator[_Page]:
    """A page with the legend below what is to be drawn on it."""
    across = max(1, int((width - 0.24) // 1.6))
    lines = -(-len(classes) // across)
    below = 0.12 + lines * 0.42 + 2 * _LINE + 0.12
    with rc_context({"text.parse_math": False, "font.size": 8.5}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width, height + below), dpi=DPI, facecolor="white")
        page = _Page(figure, width, height + below)
        colours = palette(style.palette, len(classes))
        for k, name in enumerate(classes):
            x, y = 0.12 + (k % across) * 1.6, height + 0.12 + (k // across) * 0.42
            page.ramp((x, y, 1.4, 0.13), colours[k], style.dark)
            page.text(x, y + 0.16, name, 1.45, size=8)
        page.text(0.12, height + 0.12 + lines * 0.42 + 0.02, _legend_words(style, width), size=7.5, color=MUTED)
        yield page


def _legend_words(style: ClearStyle, width: float) -> str:
    if style.peak is not None:
        full = f"a response of {style.peak:.3g} in every image"
    else:
        full = "the image's strongest" if style.percentile == 100 else f"percentile {style.percentile:g} of the image"
    region = {
        "component": "the most attentive region of the predicted class (of any, where it has none)",
        "window": "the window with the largest response",
    }[style.box]
    region += f", found after a Gaussian of {style.smooth:g} pixels" if style.smooth > 0 else ""
    words = (
        f"CLEAR: colour, the class with the strongest response; brightness, that response (full: {full}); below "
        f"{style.dark:.0%} black. Red box: {region}."
    )
    return "\n".join(textwrap.wrap(words, int(width * 18)))
