"""`make montage`: every map method on images of one run, side by side, `python -m benchmarks.montage RUN OUT.png`.

Rows are the first test image of each class and the first healthy one; nothing is chosen by hand. Every map is stretched
to its own range, so brightness says nothing between panels; of signed evidence the part for the class is drawn. A cross
marks the hottest pixel.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import lesioncam as lc
from lesioncam.data.io.image import read_picture
from lesioncam.data.preprocess import display_image
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.files import write_with
from lesioncam.functional.overlay import overlay
from lesioncam.inference.look import look
from lesioncam.measurement.truth import read_masks
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.table import run_table
from lesioncam.types import Calibration, Record

SIDE = 1.02
"""Inches of a panel."""
WHOLE = ("cam", "rise")
"""Maps on the scale of the score, whose zero means nothing by itself."""
COLORS = 200
"""Of the picture's palette."""


@dataclass(frozen=True)
class Row:
    """An image, the class whose maps are drawn, and its lesion ``(H, W)`` bool."""

    record: Record
    label: str
    name: str
    pixels: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class Panel:
    """What one method shows, and where it is hottest."""

    picture: np.ndarray
    peak: tuple[int, int]
    words: str
    seconds: float


def main(words: Sequence[str]) -> int:
    run, out = Path(words[0]), Path(words[1])
    classifier = lc.load(run)
    rows = list(chosen(run, classifier))
    panels = [[panel(classifier, row, method) for method in MAP_METHODS] for row in rows]
    write_with(out, lambda place: draw(rows, panels, place))
    for method, each in zip(MAP_METHODS, zip(*panels, strict=True), strict=True):
        print(f"{method:22s} {np.median([one.seconds for one in each]):7.2f} s   " + ", ".join(p.words for p in each))
    return 0


def chosen(run: Path, classifier: TrainedClassifier) -> Iterator[Row]:
    """The first test image of each class with a mask, and the first without any lesion."""
    records = run_table(RunFolder(run)).split("test").records()
    for k, label in enumerate(classifier.classes):
        found = next((r for r in records if r.labels[k] == 1 and r.masks), None)
        if found is not None:
            yield row(found, label, label, classifier)
    healthy = next((r for r in records if all(value == 0 for value in r.labels)), None)
    if healthy is not None:
        yield row(healthy, classifier.classes[0], "healthy", classifier)


def row(record: Record, label: str, name: str, classifier: TrainedClassifier) -> Row:
    pixels = read_picture(record.image).pixels
    truth = read_masks(record, classifier.classes, record.labels, pixels.shape[:2]).get(label)
    return Row(record, label, name, pixels, truth if truth is not None and truth.any() else None)


def panel(classifier: TrainedClassifier, row: Row, method: str) -> Panel:
    begin = time.perf_counter()
    [seen] = look(ClassifierSubject(classifier), [exam_of(row.record)], threshold="default", method=method)
    seconds = time.perf_counter() - begin
    k = classifier.classes.index(row.label)
    raw = seen.evidence[k : k + 1] if method in WHOLE else np.maximum(seen.evidence[k : k + 1], 0)
    one = np.nan_to_num(Calibration.own_range(raw, seen.result.heatmap.geometry).probability(raw))[0]
    picture = overlay(display_image(row.pixels), one, truth=row.truth)
    y, x = np.unravel_index(one.argmax(), one.shape)
    factor = picture.shape[0] / one.shape[0]
    return Panel(picture, (int((x + 0.5) * factor), int((y + 0.5) * factor)), where(row, int(y), int(x)), seconds)


def where(row: Row, y: int, x: int) -> str:
    """The hottest pixel against the lesion."""
    if row.truth is None:
        return ""
    if row.truth[y, x]:
        return "hit"
    return f"off by {np.hypot(*(np.argwhere(row.truth) - (y, x)).T).min():.0f} px"


def draw(rows: Sequence[Row], panels: Sequence[Sequence[Panel]], place: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    count = len(MAP_METHODS) + 1
    with rc_context({"font.size": 5.5}):
        figure = Figure(figsize=(SIDE * count + 0.25, (SIDE + 0.13) * len(rows) + 0.25), dpi=130, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), count, squeeze=False)
        for line, row, each in zip(grid, rows, panels, strict=True):
            line[0].imshow(overlay(display_image(row.pixels), None, truth=row.truth))
            line[0].set_ylabel(row.name, fontsize=7)
            for axes, one in zip(line[1:], each, strict=True):
                axes.imshow(one.picture)
                axes.plot(*one.peak, marker="+", color="white", markersize=6, markeredgewidth=1.6)
                axes.plot(*one.peak, marker="+", color="black", markersize=5, markeredgewidth=0.7)
                axes.set_xlabel(one.words, labelpad=1.5)
        for axes, title in zip(grid[0], ("image", *MAP_METHODS), strict=True):
            axes.set_title(title.replace("integrated_gradients", "integrated grad."), fontsize=6.5, pad=2)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
        figure.subplots_adjust(left=0.016, right=0.999, top=0.955, bottom=0.035, wspace=0.03, hspace=0.12)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    picture.quantize(COLORS).save(place, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
