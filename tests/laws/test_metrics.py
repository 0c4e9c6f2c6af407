"""What every metric must obey, from maps and scores to its line of the tables; a new metric is seen by itself."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from benchmarks.metric_table import PAGE, table
from tests.laws.kinds import DISTANCES, SIGNED, case_of

from lesioncam.evaluation.cases import Truth, case_rows
from lesioncam.evaluation.extended import ExtendedCases, summarise_extended
from lesioncam.evaluation.metric import FAMILIES, METRICS, is_lower_better, metric_of, title_of
from lesioncam.evaluation.summary import summarise

SIZE = (24, 32)
KEYS = ["task", "metric", "class", "method"]


def block(place, size=SIZE):
    mask = np.zeros(size, bool)
    mask[place] = True
    return mask


PLACES = [np.s_[2:8, 3:11], np.s_[10:16, 12:22], np.s_[16:22, 2:9], np.s_[4:12, 20:28]]
ELSEWHERE = [np.s_[18:22, 24:30], np.s_[2:6, 2:8], np.s_[2:7, 24:30], np.s_[18:22, 4:10]]
LESIONS, HOT, PIXELS = np.array([48, 60, 42, 64]), np.array([24, 24, 30, 24]), 24 * 32

WORST = {
    "average_precision": (1 / 5 + 2 / 6 + 3 / 7 + 4 / 8) / 4,  # the four positives come last
    "oracle_max_f1": 2 * 4 / (8 + 4),  # everything is called
    "pxap": LESIONS.sum() / (4 * PIXELS),  # lesions as cold as all that is not hot
    ("segmentation", "specificity"): 1 - (HOT / (PIXELS - LESIONS)).mean(),
    "volume_difference": (HOT / LESIONS).mean() - 1,
}
"""The value of a prediction that is wrong in everything, where it is not 0 (or 1 where lower is better)."""


def hot(*masks, size=SIZE):
    """A map that is hot (logit 3 and more) on the masks and cold elsewhere; one pixel of each is the hottest."""
    out = np.full(size, -3.0)
    for mask in masks:
        out[mask] = 3.0
        out[tuple(axis[len(axis) // 2] for axis in np.nonzero(mask))] = 3.5
    return out


class Scene:
    """Eight images, sick and healthy in turn: four with a mass; none with a ring, whose numbers are undefined."""

    def __init__(self, score, drawn):
        """``score(i, sick)`` gives the probability of the mass, ``drawn(i, sick)`` its map."""
        self.images = []
        for i in range(8):
            sick = i % 2 == 0
            masks = {"mass": block(PLACES[i // 2])} if sick else {}
            truth = Truth((float(sick), 0.0), (float(sick), 0.0), f"p{i}", "test", masks)
            maps = np.stack([drawn(i, sick), hot()])
            self.images.append((case_of(maps, (score(i, sick), 0.0), f"i{i}"), truth))

    def table(self, order=range(8), *, exclusive=False, ordinal=False) -> pd.DataFrame:
        """Every metric of both tables, by its keys."""
        extended, rows = ExtendedCases(), []
        for i in order:
            rows += case_rows(*self.images[i], watch=extended.add)
        cases = pd.DataFrame(rows)
        short = summarise(cases, exclusive=exclusive, ordinal=ordinal, draws=8)
        long = summarise_extended(cases, extended.frame(), extended.sweeps(), exclusive=exclusive, draws=8)
        return pd.concat([short, long], ignore_index=True).set_index(KEYS)


def graded(right: int) -> Scene:
    """The first images are scored and drawn as they are, the others the wrong way round: hot where nothing is."""

    def drawn(i, sick):
        if i >= right:
            return hot(block(ELSEWHERE[i // 2]))
        return hot(block(PLACES[i // 2])) if sick else hot()

    def score(i, sick):  # without ties, and never exactly 0 or 1
        doubt = (i + 1) * (1e-8 if i < right else 1e-5)
        return 1 - doubt if sick == (i < right) else doubt

    return Scene(score, drawn)


def blurred() -> Scene:
    """Every lesion is drawn two pixels to its right, scores are unsure, and of the last image the mass is unknown."""

    def drawn(i, sick):
        rows, columns = PLACES[i // 2]
        return hot(block(np.s_[rows, columns.start + 2 : columns.stop + 2])) if sick else hot()

    scene = Scene(lambda i, sick: 0.6 if sick else 0.1 + 0.05 * i, drawn)
    case, _ = scene.images[-1]
    scene.images[-1] = case, Truth((np.nan, 0.0), (np.nan, 0.0), "p7", "test")
    return scene


@pytest.fixture(scope="module")
def steps():
    """From everything wrong to everything right, image by image."""
    return [graded(right).table() for right in range(9)]


@pytest.fixture(scope="module")
def usual():
    return blurred().table()


NAMES = sorted({key[:2] for key in graded(8).table().index})
every = pytest.mark.parametrize(("task", "metric"), NAMES)


def of(table, task, metric, label="mass"):
    return table.loc[(task, metric, label, "cam")]


def loss(metric, value):
    """The same the other way round where lower is better."""
    return abs(value) if metric in SIGNED else (value if is_lower_better(metric) else -value)


def test_all_metrics_are_seen():
    assert len(NAMES) > 50
    assert {name for _, name in NAMES} >= DISTANCES | SIGNED


def test_every_metric_that_is_written_stands_in_the_table_and_every_row_of_it_is_written():
    written = {
        (one.task, one.name) for pair in [*NAMES, ("classification", "kappa_quadratic")] if (one := metric_of(*pair))
    }
    assert [pair for pair in NAMES if metric_of(*pair) is None] == []
    assert set(METRICS) == written


def test_a_row_of_the_table_says_all_there_is_to_say():
    assert table() in PAGE.read_text(), "run python -m benchmarks.metric_table"
    for (task, name), one in METRICS.items():
        assert (one.task, one.name) == (task, name)
        assert one.family in FAMILIES
        assert one.title
        assert one.why_undefined
        assert one.who_is_left_out


def test_a_name_has_one_title_and_one_direction_in_every_task():
    for (_, name), one in METRICS.items():
        assert title_of(name) == one.title.format("")
        assert is_lower_better(name) == one.lower_is_better


@every
def test_a_perfect_prediction_is_perfect(task, metric, steps):
    best = 0 if metric in SIGNED or is_lower_better(metric) else 1
    assert of(steps[-1], task, metric)["value"] == pytest.approx(best, abs=1e-6)


@every
def test_the_worst_prediction_is_the_worst(task, metric, steps):
    value = of(steps[0], task, metric)["value"]
    if metric in DISTANCES:
        assert value > 15
    else:
        worst = WORST.get((task, metric), WORST.get(metric, 1 if is_lower_better(metric) else 0))
        assert value == pytest.approx(worst, abs=1e-4)


@every
def test_a_better_prediction_is_never_worse(task, metric, steps):
    losses = [loss(metric, of(table, task, metric)["value"]) for table in steps]
    assert all(after <= before + 1e-9 for before, after in pairwise(losses)), losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_images_does_not_matter(seed, usual):
    """Values and counts; the intervals are drawn anew."""
    found = blurred().table(np.random.default_rng(seed).permutation(8))
    columns = ["value", "n", "undefined", "threshold"]
    pd.testing.assert_frame_equal(found.loc[usual.index, columns], usual[columns], rtol=1e-12)


@every
def test_what_is_undefined_is_not_a_number_and_counted(task, metric, usual):
    """Of a class that no image has: never 0 or 1, no image behind it, and no part of the mean and of its count."""
    mass, ring, mean = (of(usual, task, metric, label) for label in ("mass", "ring", "macro"))
    if np.isnan(ring["value"]):
        assert (ring["n"], ring["undefined"]) == (0, 8)
        assert ring[["low", "high"]].isna().all()
        assert mean[["value", "n", "undefined"]].tolist() == mass[["value", "n", "undefined"]].tolist()
    else:
        assert ring["n"] > 0
        assert mean["value"] == pytest.approx((mass["value"] + ring["value"]) / 2)


@every
def test_every_image_is_used_or_left_out(task, metric, usual):
    for label in ("mass", "ring", "macro"):
        row = of(usual, task, metric, label)
        assert row["n"] + row["undefined"] == 8


@every
def test_an_interval_holds_its_value_or_is_none(task, metric, usual):
    row = of(usual, task, metric)
    assert row["low"] <= row["high"] or np.isnan(row["low"])


def test_one_label_per_image_and_grades():
    """The two measures of classes that exclude each other, with nobody as a group of its own."""
    best, worst = (graded(right).table(exclusive=True, ordinal=True) for right in (8, 0))
    for metric in ("balanced_accuracy", "kappa_quadratic"):
        key = ("classification", metric, "macro", "cam")
        assert (best.loc[[key], "value"] == 1).all()
        assert (worst.loc[[key], "value"] <= 0).all()
