"""Comparison of finished evaluations: constructed cases, a brute-force Holm, coverage, and agreement with summarise."""

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from lesioncam.errors import LesioncamError, RunError
from lesioncam.evaluation.cases import COLUMNS
from lesioncam.evaluation.compare import (
    COMPARED,
    Contender,
    agreement,
    bootstrap_p,
    common_ground,
    compare,
    contenders_of,
    holm,
    join_patients,
    letter_display,
    simultaneous_intervals,
    spread,
)
from lesioncam.evaluation.summary import summarise
from lesioncam.functional.metrics import interval

NAN = math.nan


def frame_of(rows):
    """Rows of cases.csv as `read_cases` gives them."""
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    for name, kind in COLUMNS.items():
        blank = "" if kind == "text" else NAN
        frame[name] = frame[name].astype(object).where(frame[name].notna(), blank)
        frame[name] = frame[name].astype(str if kind == "text" else float)
    return frame


def run_of(images=40, classes=("mass", "ring"), seed=0, quality=0.0, noise=1.0, per_patient=2, key="p"):
    """One run on a fixed world (labels, truth); ``seed`` moves its answers, ``quality`` makes them better."""
    world, own = np.random.default_rng(99), np.random.default_rng(seed)
    rows = []
    for i in range(images):
        labels = world.integers(0, 2, len(classes))
        for name, label in zip(classes, labels, strict=True):
            base, area = world.normal(), int(world.integers(20, 200))
            logit = base + label * (1 + quality) + noise * own.normal() * 0.5
            row = {"image": f"i{i:03d}", "patient": f"{key}{i // per_patient}", "split": "test", "class": name,
                   "method": "cam", "state": label, "label": label, "healthy": int(not labels.any()), "logit": logit,
                   "probability": 1 / (1 + math.exp(-logit)), "decision_threshold": 0.5, "positive": int(logit >= 0),
                   "map_threshold": 0.4, "map_source": "val", "boxes": "[]", "peaks": "[]"}  # fmt: skip
            if label:
                dice = float(np.clip(0.4 + 0.1 * base + quality / 5 + 0.1 * noise * own.normal(), 0, 1))
                row |= {"has_mask": 1, "truth_area": area, "dice": dice, "iou": dice / (2 - dice), "truth_boxes": 1,
                        "pointing": int(dice > 0.4), "boxes_hit": int(dice > 0.5)}  # fmt: skip
            elif not labels.any():
                row["false_alarm"] = int(own.random() < 0.4 - quality / 5)
            rows.append(row)
    return frame_of(rows)


def contenders(**runs):
    return [Contender(name, cases) for name, cases in runs.items()]


def pick(table, metric, label="macro", **more):
    chosen = table[(table["metric"] == metric) & (table["class"] == label)]
    for name, value in more.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
def test_values_and_intervals_are_those_of_the_evaluation(exclusive):
    run = run_of()
    if exclusive:
        both = run.groupby("image")["label"].transform("sum") == 2
        run = run[~both].reset_index(drop=True)
    options = {"exclusive": exclusive, "ordinal": exclusive, "draws": 200, "seed": 3}
    metrics = summarise(run, **options)
    found = compare(contenders(a=run), **options).estimates
    checked = 0
    for row in found.to_dict("records"):
        wanted = metrics[(metrics["metric"] == row["metric"]) & (metrics["class"] == row["class"])]
        assert len(wanted) == 1
        for name in ("value", "low", "high", "n"):
            assert row[name] == pytest.approx(wanted[name].iloc[0], nan_ok=True), (row, name)
        checked += 1
    assert set(found["metric"]) == set(COMPARED) - (set() if exclusive else {"kappa_quadratic"})
    assert checked == (22 + 1 if exclusive else 24) + 1  # eight metrics, two classes and their mean; kappa; any alarm


@pytest.mark.parametrize(("shift", "tie"), [(0.0004, 1), (0.0006, 0)])
def test_what_three_decimals_cannot_tell_apart_is_a_tie_however_sure(shift, tie):
    one = run_of()
    other = one.assign(dice=one["dice"] - shift)
    row = pick(compare(contenders(a=one, b=other), draws=100).differences, "dice")
    assert row["low"] == pytest.approx(row["high"])
    assert row["difference"] == pytest.approx(shift)
    assert row["tie"] == tie


def test_two_identical_runs_tie_with_a_difference_of_nothing():
    run = run_of()
    found = compare(contenders(a=run, b=run.copy()), draws=100)
    defined = found.differences.dropna(subset=["difference"])
    assert len(defined) == 25
    for name in ("difference", "low", "high", "low_corrected", "high_corrected"):
        assert (defined[name] == 0).all()
    assert (defined["tie"] == 1).all()
    assert (defined["p"] == 1).all()
    own = pick(found.estimates, "dice", run="b")
    assert (own["rank_first"], own["rank_last"], own["letters"]) == (1, 2, "a")


def test_a_run_that_is_better_on_every_image_is_better_beyond_chance():
    run = run_of()
    better = run.assign(dice=run["dice"] + 0.05)
    found = compare(contenders(worse=run, better=better), draws=500)
    row = pick(found.differences, "dice")
    assert row["difference"] == pytest.approx(-0.05)
    assert row["high"] < 0
    assert row["tie"] == 0
    assert row["p"] == pytest.approx(2 / 501)  # the smallest of 500 draws
    assert [pick(found.estimates, "dice", run=r)["rank_first"] for r in ("worse", "better")] == [2, 1]
    assert [pick(found.estimates, "dice", run=r)["letters"] for r in ("worse", "better")] == ["b", "a"]


def test_of_false_alarms_the_fewer_are_the_better():
    run = run_of(images=120)
    healthy = run["healthy"] == 1
    calm = run.assign(false_alarm=np.where(healthy, 0.0, NAN))
    loud = run.assign(false_alarm=np.where(healthy, 1.0, NAN))
    found = compare(contenders(loud=loud, calm=calm), draws=100)
    for label in ("mass", "macro", "any"):
        assert pick(found.estimates, "false_alarm_rate", label, run="calm")["rank_last"] == 1
        assert pick(found.estimates, "false_alarm_rate", label, run="loud")["rank_first"] == 2


def test_listing_every_image_twice_leaves_intervals_unchanged():
    a, b = run_of(seed=1), run_of(seed=2, quality=0.3)
    twice = [pd.concat([r, r.assign(image=r["image"] + "-again")], ignore_index=True) for r in (a, b)]
    once = compare(contenders(a=a, b=b), draws=200)
    doubled = compare(contenders(a=twice[0], b=twice[1]), draws=200)
    numbers = ["difference", "low", "high", "low_corrected", "high_corrected", "p", "p_holm", "tie"]
    np.testing.assert_allclose(doubled.differences[numbers], once.differences[numbers], atol=1e-12)
    np.testing.assert_allclose(doubled.estimates["low"], once.estimates["low"], atol=1e-12)
    assert (doubled.estimates["n"] == 2 * once.estimates["n"]).all()


def test_the_order_of_two_runs_only_turns_the_sign():
    a, b = run_of(seed=1), run_of(seed=2, quality=0.3, key="other-")
    one = pick(compare(contenders(a=a, b=b), draws=200).differences, "auroc", "mass")
    two = pick(compare(contenders(b=b, a=a), draws=200).differences, "auroc", "mass")
    assert (one["difference"], one["low"], one["high"]) == pytest.approx(
        (-two["difference"], -two["high"], -two["low"])
    )


def test_with_two_runs_nothing_is_corrected():
    found = compare(contenders(a=run_of(seed=1), b=run_of(seed=2)), draws=200).differences
    np.testing.assert_array_equal(found["low"], found["low_corrected"])
    np.testing.assert_array_equal(found["high"], found["high_corrected"])
    np.testing.assert_array_equal(found["p"], found["p_holm"])


def test_with_four_runs_intervals_widen_but_not_beyond_bonferroni():
    runs = {f"r{s}": run_of(seed=s, quality=s / 10) for s in range(4)}
    found = compare(contenders(**runs), draws=1000).differences
    part = found[(found["metric"] == "dice") & (found["class"] == "macro")]
    assert len(part) == 6
    assert (part["low_corrected"] <= part["low"]).all()
    assert (part["high_corrected"] >= part["high"]).all()
    assert (part["low_corrected"] < part["low"]).any()
    assert (part["p_holm"] >= part["p"]).all()


def test_a_paired_difference_is_narrower_than_two_intervals():
    """Two runs that share the hard and the easy cases."""
    run = run_of(images=80, noise=0.0)
    other = run.assign(dice=run["dice"] + np.random.default_rng(0).normal(0, 0.01, len(run)))
    found = compare(contenders(a=run, b=other), draws=300)
    row, value = pick(found.differences, "dice"), pick(found.estimates, "dice", run="a")
    assert row["high"] - row["low"] < 0.2 * (value["high"] - value["low"])


def test_the_paired_interval_covers_about_as_often_as_it_says():
    """300 worlds of 60 patients with two images each; the true difference is .02."""
    rng, hits, said = np.random.default_rng(5), 0, 0
    for _ in range(300):
        patient = np.repeat(rng.normal(0, 0.1, 60), 2)
        gap = 0.02 + np.repeat(rng.normal(0, 0.03, 60), 2) + rng.normal(0, 0.03, 120)
        rows = [{"image": f"i{i}", "patient": f"p{i // 2}", "class": "mass", "method": "cam", "label": 1,
                 "dice": 0.5 + patient[i]} for i in range(120)]  # fmt: skip
        first = frame_of(rows)
        row = pick(
            compare(contenders(a=first.assign(dice=first["dice"] + gap), b=first), draws=300).differences, "dice"
        )
        hits += row["low"] <= 0.02 <= row["high"]
        said += row["tie"] == 0
    assert 0.90 <= hits / 300 <= 0.985
    assert said / 300 > 0.8  # the difference is four standard errors


# ---- the same images ---------------------------------------------------------------------------------------------


def test_only_shared_images_count_and_the_others_are_counted():
    run = run_of(images=30)
    less, more = run[run["image"] < "i025"], run[run["image"] >= "i005"]
    found = compare(contenders(less=less, more=more), draws=50)
    assert len(found.common.images) == 20
    assert found.common.left_out == {"less": 5, "more": 5}
    middle = run[(run["image"] >= "i005") & (run["image"] < "i025")]
    assert pick(found.estimates, "dice", run="less")["value"] == pytest.approx(
        pick(compare(contenders(a=middle), draws=50).estimates, "dice")["value"]
    )


def test_a_class_that_one_run_does_not_know_is_left_out_and_named():
    run = run_of()
    found = compare(contenders(both=run, one=run[run["class"] == "mass"]), draws=20, exclusive=True)
    assert found.common.classes == ("mass",)
    assert found.common.classes_left_out == {"both": ("ring",), "one": ()}
    assert "mass" in set(
        found.estimates[found.estimates["metric"] == "balanced_accuracy"]["class"]
    )  # no arg-max any more


def test_another_label_is_refused_with_the_name_of_the_image():
    run = run_of()
    other = run.copy()
    other.loc[6, "label"] = 1 - other.loc[6, "label"]
    with pytest.raises(LesioncamError, match=f"'{run['image'][6]}'.*label is"):
        compare(contenders(a=run, b=other), draws=10)


def test_another_truth_mask_is_refused():
    run = run_of()
    row = int(np.flatnonzero(run["has_mask"] == 1)[3])
    other = run.copy()
    other.loc[row, "truth_area"] += 1
    with pytest.raises(LesioncamError, match=f"'{run['image'][row]}'.*area of the true mask"):
        compare(contenders(a=run, b=other), draws=10)


def test_an_unknown_label_in_both_is_no_disagreement():
    run = run_of()
    run.loc[0, "label"] = NAN
    assert len(compare(contenders(a=run, b=run.copy()), draws=10).common.images) == 40


def test_nothing_in_common_is_an_error():
    run = run_of()
    with pytest.raises(RunError, match="no image in common.*a: i000"):
        compare(contenders(a=run, b=run.assign(image="other-" + run["image"])), draws=10)
    with pytest.raises(RunError, match="no class in common"):
        compare(contenders(a=run[run["class"] == "mass"], b=run[run["class"] == "ring"]), draws=10)


def test_a_missing_score_is_missing_for_everybody():
    """Leaving out what is hard is no way to win."""
    run = run_of(images=60)
    hard = (run["label"] == 1) & (run["logit"] < 0.5)
    sly = run.assign(logit=run["logit"].where(~hard), probability=run["probability"].where(~hard))
    found = compare(contenders(a=run, sly=sly), draws=50)
    values = [pick(found.estimates, "auroc", "mass", run=name)["value"] for name in ("a", "sly")]
    assert values[0] == values[1]
    assert found.common.without_score["sly"] == run[hard]["image"].nunique()
    assert found.common.without_score["a"] == 0


def test_maps_without_any_score_are_compared_by_place_alone():
    run = run_of()
    maps = run.assign(logit=NAN, probability=NAN, positive=NAN, method="theirs")
    found = compare(contenders(a=run, maps=maps), draws=50)
    assert np.isfinite(pick(found.estimates, "auroc", run="a")["value"])
    assert math.isnan(pick(found.estimates, "auroc", run="maps")["value"])
    row = pick(found.differences, "auroc")
    assert math.isnan(row["difference"])
    assert math.isnan(row["tie"])
    assert pick(found.differences, "dice")["tie"] == 1
    own = pick(found.estimates, "auroc", run="a")
    assert (own["rank_first"], own["rank_last"]) == (1, 1)


def test_one_patient_gives_no_interval_and_no_verdict():
    run = run_of(per_patient=1000)
    found = compare(contenders(a=run, b=run.assign(dice=run["dice"] + 0.1)), draws=50)
    row = pick(found.differences, "dice")
    assert row["difference"] == pytest.approx(-0.1)
    assert all(math.isnan(row[name]) for name in ("low", "high", "low_corrected", "p", "p_holm", "tie"))
    assert pick(found.estimates, "dice", run="a")["letters"] == "a"


def test_three_images_all_scores_equal_and_no_mask_are_survived():
    run = run_of(images=3).assign(logit=0.0, probability=0.5, dice=NAN, iou=NAN, pointing=NAN, has_mask=0.0)
    found = compare(contenders(a=run, b=run.copy()), draws=20)
    assert found.estimates[found.estimates["metric"] == "dice"]["value"].isna().all()
    assert set(found.estimates["metric"]) == set(COMPARED) - {"kappa_quadratic"}


def test_a_run_with_two_map_methods_is_two_contenders():
    run = run_of()
    frame = pd.concat([run, run.assign(method="clear"), run.assign(method="random_map")])
    names = [one.name for one in contenders_of({"x": frame, "y": run})]
    assert names == ["x: cam", "x: clear", "y"]
    with pytest.raises(RunError, match="'x' holds no row of a map method"):
        contenders_of({"x": run.assign(method="random_map")})


def test_groups_of_patients_are_joined_whatever_they_are_called():
    named, nameless = np.array(["x", "x", "y", "y", "z"]), np.array(list("abcde"))
    assert join_patients([named, nameless]).tolist() == join_patients([nameless, named]).tolist() == [0, 0, 1, 1, 2]
    ground = common_ground(contenders(a=run_of(per_patient=1), b=run_of(per_patient=4)))
    assert len(set(ground.patients)) == 10


# ---- corrections -------------------------------------------------------------------------------------------------


def slow_holm(p):
    """Adjusted value: the largest, over all p not above its own, of p times the number not below it."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out = [0.0] * len(p)
    for place, i in enumerate(order):
        out[i] = min(1.0, max((len(p) - j) * p[order[j]] for j in range(place + 1)))
    return out


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.2]).tolist() == [0.2]
    assert holm([0.02, NAN, 0.04]).tolist() == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_holm_against_a_slow_version():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(rng.integers(1, 9)) ** 3
        assert holm(p).tolist() == pytest.approx(slow_holm(p))


def test_simultaneous_intervals_hold_for_all_columns_at_once():
    rng = np.random.default_rng(1)
    for mix in (0.0, 0.7, 0.99):
        draws = mix * rng.normal(size=(4000, 1)) + (1 - mix) * rng.normal(size=(4000, 5))
        ends = simultaneous_intervals(draws)
        inside = ((draws >= ends[:, 0]) & (draws <= ends[:, 1])).all(axis=1)
        assert inside.mean() == pytest.approx(0.95, abs=0.006)
        single = np.array([interval(column) for column in draws.T])
        bonferroni = np.array([interval(column, 1 - 0.05 / 5) for column in draws.T])
        assert (ends[:, 0] <= single[:, 0]).all()
        assert (ends[:, 0] >= bonferroni[:, 0] - 1e-9).all()
        assert (ends[:, 1] <= bonferroni[:, 1] + 1e-9).all()


def test_a_column_that_never_moves_costs_the_others_nothing():
    draws = np.random.default_rng(2).normal(size=(999, 1))
    both = simultaneous_intervals(np.hstack([draws, np.zeros((999, 1))]))
    np.testing.assert_allclose(both[0], interval(draws[:, 0]), atol=0.05)
    assert both[1].tolist() == [0, 0]


def test_p_is_never_zero_and_one_for_nothing():
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(10)) == 1
    assert math.isnan(bootstrap_p(np.full(4, NAN)))


def test_letters_are_shared_exactly_where_nobody_is_apart():
    rng = np.random.default_rng(3)
    for _ in range(200):
        names = [f"r{i}" for i in range(rng.integers(1, 7))]
        apart = set()
        for a, b in combinations(names, 2):
            if rng.random() < 0.4:
                apart |= {(a, b), (b, a)}
        letters = letter_display(names, apart)
        for a, b in combinations(names, 2):
            assert bool(set(letters[a]) & set(letters[b])) == ((a, b) not in apart), (letters, apart)
        assert all(letters.values())


# ---- repetitions -------------------------------------------------------------------------------------------------


def test_spread_by_hand():
    rows = [("dice", "macro", r, v) for r, v in (("a", 0.4), ("b", 0.5), ("c", 0.9), ("d", 0.1), ("e", NAN))]
    found = spread(
        pd.DataFrame(rows, columns=["metric", "class", "run", "value"]), {"x": ["a", "b", "c"], "y": ["d", "e"]}
    )
    first, second = found.to_dict("records")
    assert (first["runs"], first["mean"], first["least"], first["most"]) == (3, pytest.approx(0.6), 0.4, 0.9)
    assert first["sd"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert second["runs"] == 1
    assert math.isnan(second["sd"])


def test_agreement_of_a_run_with_itself_and_with_its_opposite():
    run = run_of()
    turned = run.assign(logit=-run["logit"], dice=1 - run["dice"])
    ground = common_ground(contenders(a=run, same=run.copy(), turned=turned, flat=run.assign(logit=1.0, dice=0.5)))
    first, same, other, flat = ground.tables
    assert agreement(first, same) == pytest.approx(
        {"scores": 1, "dice": 1, "dice_difference": 0, "cases": int((run["label"] == 1).sum())}
    )
    assert agreement(first, other)["scores"] == pytest.approx(-1)
    assert agreement(first, other)["dice"] == pytest.approx(-1)
    assert math.isnan(agreement(first, flat)["scores"])
    assert math.isnan(agreement(first, flat)["dice"])
