"""What every metric must obey, from maps and scores to its line of the tables; a new metric is seen by itself."""

import numpy as np
import pandas as pd
import pytest
from tests.laws.kinds import CORRECTED, NOT_GRADED, SIGNED, WORST, case_of

from lesioncam.evaluation.cases import Truth, case_rows
from lesioncam.evaluation.extended import ExtendedCases, summarise_extended
from lesioncam.evaluation.summary import LOWER_IS_BETTER, summarise

SIZE = (24, 32)
KEYS = ["task", "metric", "class", "method"]


def block(place, size=SIZE):
    mask = np.zeros(size, bool)
    mask[place] = True
    return mask


PLACES = [np.s_[2:8, 3:11], np.s_[10:16, 12:22], np.s_[16:22, 2:9], np.s_[4:12, 20:28]]
ELSEWHERE = [np.s_[18:22, 24:30], np.s_[2:6, 2:8], np.s_[2:7, 24:30], np.s_[18:22, 4:10]]


def hot(*masks, size=SIZE):
    """A map that is hot (logit 3 and more) on the masks and cold elsewhere; one pixel of each is the hottest."""
    out = np.full(size, -3.0)
    for mask in masks:
        out[mask] = 3.0
        out[tuple(axis[len(axis) // 2] for axis in np.nonzero(mask))] = 3.5
    return out


class Scene:
    """Eight images: four with a mass, four with nothing; a ring is in none (its numbers are undefined)."""

    def __init__(self, score, drawn):
        """``score(i, sick)`` gives the probability of the mass, ``drawn(i, sick)`` its map."""
        self.images = []
        for i in range(8):
            sick = i < 4
            truth = Truth(
                (float(sick), 0.0), (float(sick), 0.0), f"p{i}", "test", {"mass": block(PLACES[i])} if sick else {}
            )
            maps = np.stack([drawn(i, sick), hot()])
            self.images.append((case_of(maps, (score(i, sick), 0.0), f"i{i}"), truth))

    def table(self, order=range(8), *, exclusive=False, ordinal=False) -> pd.Series:
        """Every metric of both tables, by its keys."""
        extended, rows = ExtendedCases(), []
        for i in order:
            rows += case_rows(*self.images[i], watch=extended.add)
        cases = pd.DataFrame(rows)
        short = summarise(cases, exclusive=exclusive, ordinal=ordinal, draws=8)
        long = summarise_extended(cases, extended.frame(), extended.sweeps(), exclusive=exclusive, draws=8)
        return pd.concat([short, long], ignore_index=True).set_index(KEYS)


def perfect():
    return Scene(lambda i, sick: float(sick), lambda i, sick: hot(block(PLACES[i])) if sick else hot())


def worst():
    """Scores the wrong way round; hot where nothing is, cold on every lesion."""
    return Scene(lambda i, sick: float(not sick), lambda i, sick: hot(block(ELSEWHERE[i % 4])))


def middling(better=0):
    """Half right: the first ``better`` sick images are drawn and scored perfectly, the others shifted and unsure."""

    def drawn(i, sick):
        if not sick:
            return hot()
        rows, columns = PLACES[i]
        shifted = np.s_[rows.start : rows.stop, columns.start + 2 : columns.stop + 2]
        return hot(block(PLACES[i] if i < better else shifted))

    return Scene(lambda i, sick: 1.0 if sick and i < better else (0.6 if sick else 0.55), drawn)


@pytest.fixture(scope="module")
def tables():
    return {name: make().table() for name, make in (("perfect", perfect), ("worst", worst), ("middling", middling))}


NAMES = sorted(set(perfect().table().index.get_level_values("metric")))
every = pytest.mark.parametrize("metric", NAMES)


def of(table, metric, label="mass"):
    rows = table.xs((metric, label, "cam"), level=("metric", "class", "method"))
    assert len(rows) == 1, (metric, label, rows)
    return rows.iloc[0]


def test_a_healthy_dozen_is_seen():
    assert len(NAMES) > 40
    assert set(NAMES) >= set(WORST) | NOT_GRADED | CORRECTED | SIGNED | LOWER_IS_BETTER


@every
def test_a_perfect_prediction_is_perfect(metric, tables):
    value = of(tables["perfect"], metric)["value"]
    if metric in NOT_GRADED:
        assert 0 <= value <= 1
    else:
        assert value == pytest.approx(0 if metric in LOWER_IS_BETTER | SIGNED else 1, abs=1e-6)


@every
def test_the_worst_prediction_is_the_worst(metric, tables):
    value = of(tables["worst"], metric)["value"]
    if metric in WORST:
        assert WORST[metric](value), value
    else:
        assert value == pytest.approx(1 if metric in LOWER_IS_BETTER else 0, abs=1e-6)


@every
def test_a_better_prediction_is_not_worse(metric, tables):
    values = [of(middling(better).table(), metric)["value"] for better in (0, 2, 4)] if metric not in CORRECTED else []
    signs = [-abs(v) if metric in SIGNED else (-v if metric in LOWER_IS_BETTER else v) for v in values]
    assert signs == sorted(signs) or np.allclose(signs, sorted(signs), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_does_not_matter(seed, tables):
    order = np.random.default_rng(seed).permutation(8)
    found, known = middling().table(order), tables["middling"]
    pd.testing.assert_frame_equal(found.sort_index(), known.sort_index(), check_exact=False, rtol=1e-12)


@every
def test_a_class_that_no_image_has_is_undefined_and_counted(metric, tables):
    """Not a number where nothing can be said, never 0 or 1, and no image behind it."""
    row, mean = of(tables["middling"], metric, "ring"), of(tables["middling"], metric, "macro")
    if np.isnan(row["value"]):
        assert row["n"] == 0
        assert row["undefined"] == 8
        assert np.isnan([row["low"], row["high"]]).all()
        assert mean["value"] == pytest.approx(of(tables["middling"], metric)["value"]), "the mean of what is defined"
        assert mean["n"] == of(tables["middling"], metric)["n"]
    else:
        assert row["n"] > 0


@every
def test_an_image_that_says_nothing_is_left_out_and_counted(metric, tables):
    row = of(tables["middling"], metric)
    assert row["n"] + row["undefined"] == 8
