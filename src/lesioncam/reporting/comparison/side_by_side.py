"""The same cases under every run: chosen by a printed rule, drawn on one colour scale; and how alike masks are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from lesioncam.evaluation.compare import Common
from lesioncam.functional.overlay import heat_layer, line_layer, shrink
from lesioncam.reporting.comparison.compared_run import ComparedRun
from lesioncam.reporting.figures.montage import Panel
from lesioncam.reporting.report.read import CaseRow, short_name
from lesioncam.reporting.words.words import number
from lesioncam.runs.arrays import CaseArrays
from lesioncam.runs.gallery import read_gallery
from lesioncam.segmentation.mask import binarise
from lesioncam.types import Calibration

PICK_RULE = (
    "Cases are chosen by rule among the shared images whose picture at least one run kept in its gallery, each image "
    "once, in this order, two of each kind. Apart: positive images with the largest gap between the best and the "
    "worst Dice of the runs. All miss: the smallest best Dice. All find: the largest worst Dice. Middle: the mean Dice "
    "in the middle of its order, then its neighbours. Healthy: images without any finding with the hottest map of any "
    "run. Where there are no masks, the probability of the image stands in for Dice. Equal values go by image name."
)
"""The rule, in words, for the page."""

TITLES = {
    "apart": "Where the runs are furthest apart",
    "miss": "Where all of them miss",
    "find": "Where all of them find it",
    "middle": "The middle",
    "healthy": "Healthy: should be cold",
}
PER_GROUP = 2
SIDE, LINE_SIDE = 320, 320
"""Longest side of a picture, and the side from which on lines are drawn, pixels."""
MOST = 200
"""Cases on which masks are compared at most, evenly spread over all."""
NAN = float("nan")


class Pick(NamedTuple):
    """One case that is shown, and why."""

    image: str
    label: str
    group: str
    why: str


class Lineup(NamedTuple):
    """One case: the image ``(H, W[, 3])`` uint8; over it nothing, the truth, then one panel per run."""

    pick: Pick
    name: str
    image: np.ndarray
    panels: tuple[Panel, ...]


# ---- choosing ----------------------------------------------------------------------------------------------------


def pick_cases(common: Common, pictures: set[str], hottest: Mapping[tuple[str, str], float]) -> list[Pick]:
    """Choose the cases by `PICK_RULE`.

    Args:
        common: what all runs were measured on.
        pictures: images of which at least one run kept the picture.
        hottest: (image, class) -> hottest probability of any run's map, of healthy images.
    """
    table = _standing(common, pictures)
    shown: set[str] = set()
    picks: list[Pick] = []
    for group, order in _orders(table).items():
        picks += _take(order, group, shown)
    cold = sorted((-value, image, label) for (image, label), value in hottest.items() if image in pictures)
    return picks + _take([(i, label, f"hottest {number(-v, 2)}") for v, i, label in cold], "healthy", shown)


def _take(order: Sequence[tuple[str, str, str]], group: str, shown: set[str]) -> list[Pick]:
    """The first images of an order that are not shown yet."""
    found: list[Pick] = []
    for image, label, why in order:
        if image not in shown and len(found) < PER_GROUP:
            shown.add(image)
            found.append(Pick(image, label, group, why))
    return found


def _standing(common: Common, pictures: set[str]) -> pd.DataFrame:
    """Positive cases with the worst, best and mean number of all runs."""
    positive = common.tables[0].column["label"] == 1
    values, what = np.stack([table.column["dice"] for table in common.tables]), "Dice"
    if np.isnan(values).all():
        values, what = np.stack([_probability(table.score) for table in common.tables]), "probability"
    rows = []
    for i, k in zip(*np.nonzero(positive), strict=True):
        own = values[:, i, k]
        if common.images[i] in pictures and not np.isnan(own).any():
            rows.append((common.images[i], common.classes[k], own.min(), own.max(), own.mean(), what))
    return pd.DataFrame(rows, columns=["image", "class", "least", "most", "mean", "what"])


def _probability(score: np.ndarray) -> np.ndarray:
    """Only the order counts: logits on the scale of probabilities."""
    return np.asarray(1 / (1 + np.exp(-np.clip(score, -50, 50))))


def _orders(table: pd.DataFrame) -> dict[str, list[tuple[str, str, str]]]:
    """The cases (image, class, why) in the order of each kind."""
    if table.empty:
        return {}
    middle = table["mean"].rank(method="first")
    orders = {
        "apart": table["least"] - table["most"],
        "miss": table["most"],
        "find": -table["least"],
        "middle": (middle - (len(table) + 1) / 2).abs(),
    }
    why = [
        f"{what} {number(least, 2)} to {number(most, 2)}"
        for what, least, most in zip(table["what"], table["least"], table["most"], strict=True)
    ]
    table = table.assign(why=why)
    return {
        group: list(
            table.assign(order=order)
            .sort_values(["order", "image", "class"])[["image", "class", "why"]]
            .itertuples(index=False, name=None)
        )
        for group, order in orders.items()
    }


# ---- a run's maps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunMaps:
    """The kept arrays of one run, by image.

    Attributes:
        run: whose.
        rows: (image, class) -> line of cases.csv of the map method.
    """

    run: ComparedRun
    rows: Mapping[tuple[str, str], CaseRow] = field(default_factory=dict)

    @classmethod
    def of(cls, run: ComparedRun, method: str) -> RunMaps:
        """Find what was kept."""
        own = run.cases[run.cases["method"] == method]
        wanted = ["image", "class", "map_threshold", "dice", "probability", "positive", "label", "healthy", "map_max"]
        rows = {(r["image"], r["class"]): {str(k): v for k, v in r.items()} for r in own[wanted].to_dict("records")}
        return cls(run, rows)

    def read(self, image: str) -> CaseArrays | None:
        """The arrays of an image; None if they were not kept."""
        path = self.run.folder.arrays(self.run.split, image)
        centred = bool(self.run.config.get("preprocess.centred", True))
        return CaseArrays.read(path, centred=centred) if path.is_file() else None

    def pictures(self) -> set[str]:
        """Images of which the picture was kept."""
        return {row.image for row in read_gallery(self.run.folder.evaluation(self.run.split) / "gallery.csv")}

    def probability(self, image: str, label: str) -> np.ndarray | None:
        """The map of one class on the image's own grid, ``(*native)`` float32; None if it was not kept."""
        arrays = self.read(image)
        if arrays is None or label not in arrays.classes:
            return None
        if (kept := arrays.map_of(label)) is not None:
            return kept
        if len(arrays.geometry.native) == 3:  # of a volume only the slice of its gallery is kept
            return None
        k, card = arrays.classes.index(label), self.run.card
        evidence = arrays.geometry.to_native(arrays.raw[k : k + 1], origin=None if card is None else card.origin)
        scale = None if card is None else card.calibration
        return (Calibration.of_classifier(1) if scale is None else scale.of_class(k)).probability(evidence)[0]

    def mask(self, image: str, label: str) -> np.ndarray | None:
        """Where the map reaches the threshold of this evaluation."""
        probability = self.probability(image, label)
        return None if probability is None else binarise(probability, self._threshold(image, label))

    def _threshold(self, image: str, label: str) -> float:
        value = float(self.rows.get((image, label), {}).get("map_threshold", NAN))
        return value if np.isfinite(value) else 0.5


# ---- drawing -----------------------------------------------------------------------------------------------------


def lineups(sources: Mapping[str, RunMaps], common: Common) -> list[Lineup]:
    """The chosen cases, drawn.

    Args:
        sources: by name of the contender, in the order of the columns.
        common: what all were measured on.
    """
    pictures = set[str]().union(*(maps.pictures() for maps in sources.values()))
    found = []
    for pick in pick_cases(common, pictures, _hottest(sources, common)):
        drawn = _lineup(pick, sources)
        found += [drawn] if drawn is not None else []
    return found


def _hottest(sources: Mapping[str, RunMaps], common: Common) -> dict[tuple[str, str], float]:
    """The hottest probability of any run in healthy images."""
    known, out = set(common.images), dict[tuple[str, str], float]()
    for maps in sources.values():
        for (image, label), row in maps.rows.items():
            hottest = float(row["map_max"])
            if row["healthy"] == 1 and image in known and label in common.classes and np.isfinite(hottest):
                out[image, label] = max(out.get((image, label), 0.0), hottest)
    return out


def _lineup(pick: Pick, sources: Mapping[str, RunMaps]) -> Lineup | None:
    kept = next(_kept_pictures(pick.image, sources), None)
    if kept is None or kept.picture is None:
        return None
    image = shrink(kept.picture.image, SIDE)
    zoom = -(-LINE_SIDE // max(image.shape[:2]))
    truth = kept.truth_of(pick.label)
    bare = Panel("Image", np.zeros((1, 1, 4), np.uint8), "")
    drawn = Panel("Truth", line_layer(image.shape[:2], None, _small(truth), zoom=zoom), _truth_note(truth))
    panels = [_panel(name, maps, pick, _small(truth), zoom) for name, maps in sources.items()]
    return Lineup(pick, short_name(pick.image), image, (bare, drawn, *panels))


def _kept_pictures(image: str, sources: Mapping[str, RunMaps]) -> Iterator[CaseArrays]:
    for maps in sources.values():
        arrays = maps.read(image)
        if arrays is not None and arrays.picture is not None:
            yield arrays


def _small(plane: np.ndarray | None) -> np.ndarray | None:
    return None if plane is None else shrink(plane[None], SIDE)[0]


def _panel(name: str, maps: RunMaps, pick: Pick, truth: np.ndarray | None, zoom: int) -> Panel:
    probability = maps.probability(pick.image, pick.label)
    if probability is None:
        return Panel(name, np.zeros((1, 1, 4), np.uint8), "the map was not kept")
    small, mask = _small(probability), _small(maps.mask(pick.image, pick.label))
    if small is None or mask is None:
        return Panel(name, np.zeros((1, 1, 4), np.uint8), "the map was not kept")
    size = (small.shape[1] * zoom, small.shape[0] * zoom)
    heat = heat_layer(np.asarray(Image.fromarray(small.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)))
    lines = line_layer(small.shape, mask, truth, zoom=zoom)
    return Panel(name, np.where(lines[..., 3:] > 0, lines, heat), _panel_note(maps.rows.get(pick[:2], {}), small))


def _panel_note(row: CaseRow, probability: np.ndarray) -> str:
    hottest = f"hottest {number(float(np.nanmax(probability, initial=0.0)), 2)}"
    score, dice = (float(row.get(key, NAN)) for key in ("probability", "dice"))
    said = [f"Dice {number(dice, 2)}"] if np.isfinite(dice) else []
    said += [f"score {number(score, 2)}"] if np.isfinite(score) else []
    return ", ".join([*said, hottest])


def _truth_note(truth: np.ndarray | None) -> str:
    if truth is None:
        return "not known"
    return "dashed" if truth.any() else "no such lesion"


# ---- agreement of masks ------------------------------------------------------------------------------------------


def sampled_masks(maps: RunMaps, cases: Sequence[tuple[str, str]]) -> list[np.ndarray | None]:
    """The masks of at most `MOST` cases (image, class), evenly spread, each packed to bits; None where not kept."""
    step = max(1, -(-len(cases) // MOST))
    masks = (maps.mask(image, label) for image, label in cases[::step])
    return [None if mask is None else np.packbits(mask) for mask in masks]


def mask_agreement(first: Sequence[np.ndarray | None], second: Sequence[np.ndarray | None]) -> tuple[float, int]:
    """Mean Dice of two runs' masks of the same cases, whatever the truth is, and the number of cases behind it.

    Args:
        first: packed masks, as `sampled_masks` gives them.
        second: of another run, in the same order.

    Returns:
        NaN and 0 where nothing was kept. Two empty masks of a case say nothing and are left out.

    Example:
        >>> half, whole = np.packbits(np.eye(4, dtype=bool)[:2]), np.packbits(np.eye(4, dtype=bool)[:1])
        >>> [round(x, 3) for x in mask_agreement([half, None, half], [half, half, whole])]     # 1 and 2 * 1 / (2 + 1)
        [0.833, 2]
    """
    found = []
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None and a.shape == b.shape and (a.any() or b.any()):
            both, each = np.bitwise_count(a & b).sum(), np.bitwise_count(a).sum() + np.bitwise_count(b).sum()
            found.append(2 * int(both) / int(each))
    return (float(np.mean(found)), len(found)) if found else (NAN, 0)
