"""Groups of a table and strata of lesions: bands by hand, numbers against the plain summary of the subset."""

import math

import numpy as np
import pandas as pd
import pytest

from lesioncam.errors import OptionError, RunError, TableError
from lesioncam.evaluation.cases import COLUMNS
from lesioncam.evaluation.subgroups import SUBGROUPS, strata_table, subgroup_table
from lesioncam.evaluation.summary import summarise
from lesioncam.functional.metrics import auroc

NAN = math.nan
MERGED = "fewer than 10 each (merged)"


def frame(rows):
    """Rows with the columns that matter; all others blank."""
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    for name, kind in COLUMNS.items():
        if kind == "text":
            table[name] = table[name].astype(object).fillna({"class": "mass", "method": "cam"}.get(name, ""))
        else:
            table[name] = table[name].astype(float)
    return table


def random_cases(n=60, classes=("mass", "ring"), seed=0):
    """Two images a patient; half of the labels positive; a control's rows beside those of the method."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        labels = rng.integers(0, 2, len(classes))
        for name, label in zip(classes, labels, strict=True):
            logit = rng.normal() + label
            row = {"image": f"i{i}", "patient": f"p{i // 2}", "class": name, "label": label, "logit": logit,
                   "probability": 1 / (1 + math.exp(-logit)), "positive": int(logit > 0)}  # fmt: skip
            if label:
                row |= {"dice": rng.random(), "iou": rng.random(), "pointing": rng.integers(0, 2)}
                row |= {"truth_area": rng.integers(1, 900)}
            elif not labels.any():
                row |= {"healthy": 1, "false_alarm": rng.integers(0, 2)}
            rows += [row, row | {"method": "random_map", "logit": NAN, "probability": NAN, "dice": 0.0}]
    return frame(rows)


def about(cases, **columns):
    return pd.DataFrame(columns, index=cases["image"].unique())


def groups(cells, name="x", smallest=1):
    """Group -> number of images, in order; two patients in every group."""
    n = 2 * len(cells)
    cases = frame([{"image": f"i{i}", "patient": f"p{i}", "label": i % 2, "logit": float(i)} for i in range(n)])
    facts = pd.DataFrame({name: pd.Series(list(cells) * 2, dtype=object).to_numpy()}, index=cases["image"].unique())
    table = subgroup_table(cases, facts, [name], exclusive=False, draws=2, smallest=smallest)
    chosen = table[(table["metric"] == "auroc") & (table["class"] == "mass")]
    return {row.group: row.patients // 2 for row in chosen.itertuples()}


def pick(table, group, metric, label="mass"):
    chosen = table[(table["group"] == group) & (table["metric"] == metric) & (table["class"] == label)]
    assert len(chosen) == 1, chosen
    return chosen.iloc[0]


# ---- bands -------------------------------------------------------------------------------------------------------


def test_text_stands_as_it_is_by_frequency():
    assert groups(["M", "F", "F", " M ", "F"]) == {"F": 3, "M": 2}


def test_blank_cells_are_a_group():
    assert groups(["F", "", None, np.nan, "F", "  "]) == {"F": 2, "not given": 4}
    assert groups([None, ""]) == {"not given": 2}


def test_of_many_texts_the_eleven_largest_are_kept():
    cells = [f"scanner {i:02d}" for i in range(20) for _ in range(20 - i)]
    found = groups(cells)
    assert list(found) == [f"scanner {i:02d}" for i in range(11)] + ["other"]
    assert found["other"] == sum(range(1, 10))


def test_twelve_texts_stay():
    assert len(groups([chr(65 + i) for i in range(12)])) == 12


def test_few_numbers_stand_as_they_are_in_order():
    assert groups([10, "2", 2.0, 1.5, "10"]) == {"1.5": 1, "2": 2, "10": 2}


def test_ages_become_decades():
    cells = [f"{age:03d}Y" for age in (8, 31, 32, 33, 34, 35, 36, 37, 39, 40, 41, 42, 58, 60)] + ["018M", "003D"]
    assert groups(cells) == {"0 to 9": 3, "30 to 39": 8, "40 to 49": 3, "50 to 59": 1, "60 to 69": 1}
    for name in ("age", "patient_age", "PatientAge", "Age at exam", "age_years"):
        assert groups(range(20, 40), name) == {"20 to 29": 10, "30 to 39": 10}
    for name in ("dosage", "image_size", "stage"):
        assert groups(range(20, 40), name) == {"20 to 24": 5, "25 to 29": 5, "30 to 34": 5, "35 to 39": 5}


def test_few_ages_are_not_banded():
    assert groups(["058Y", "061Y", "058Y"], "age") == {"58": 2, "61": 1}


def test_numbers_become_four_bands_of_equal_counts():
    assert groups([0.5 * i for i in range(16)]) == {"0 to 1.5": 4, "2 to 3.5": 4, "4 to 5.5": 4, "6 to 7.5": 4}


def test_equal_numbers_stay_together():
    cells = [0] * 60 + list(range(1, 21))
    assert groups(cells) == {"0": 60, "1 to 20": 20}


def test_bands_that_look_alike_get_more_digits():
    found = groups([1 + 1e-7 * i for i in range(16)])
    assert list(found) == [
        "1 to 1.0000003",
        "1.0000004 to 1.0000007",
        "1.0000008 to 1.0000011",
        "1.0000012 to 1.0000015",
    ]


@pytest.mark.parametrize("form", ["{}-03-04", "{}0304", "{}/03/04", "04.03.{}", "3/4/{}", "{}-03-04 10:11:12"])
def test_dates_become_years(form):
    assert groups([form.format(year) for year in (2019, 2021, 2019)]) == {"2019": 2, "2021": 1}


def test_many_years_become_bands():
    assert list(groups([f"{year}-01-01" for year in range(1990, 2006)])) == [
        "1990 to 1993", "1994 to 1997", "1998 to 2001", "2002 to 2005",
    ]  # fmt: skip
    assert list(groups(range(2010, 2020))) == [str(year) for year in range(2010, 2020)]


def test_time_stamps_of_pandas_are_dates():
    assert groups(list(pd.to_datetime(["2019-01-02", "2020-02-03"]))) == {"2019": 1, "2020": 1}


def test_one_word_makes_a_column_text():
    assert groups([*range(13), "unclear"])["other"] == 3


# ---- small groups ------------------------------------------------------------------------------------------------


def test_small_groups_are_merged_and_evaluated_together():
    cases = random_cases(60)
    site = ["A"] * 40 + ["B"] * 8 + ["C"] * 6 + ["D"] * 6
    table = subgroup_table(cases, about(cases, site=site), ["site"], exclusive=False, draws=20)
    assert table["group"].unique().tolist() == ["A", MERGED]
    last = set(cases["image"].unique()[40:])
    alone = summarise(cases[cases["image"].isin(last) & (cases["method"] == "cam")], exclusive=False, draws=20)
    expected = alone[(alone["metric"] == "auroc") & (alone["class"] == "mass")].iloc[0]
    row = pick(table, MERGED, "auroc")
    assert (row["value"], row["n"], row["patients"]) == (expected["value"], 20, 10)


def test_what_is_still_too_small_is_listed_without_values():
    cases = random_cases(60)
    table = subgroup_table(cases, about(cases, site=["A"] * 53 + ["B"] * 7), ["site"], exclusive=False, draws=5)
    rows = table[table["group"] == MERGED]
    assert rows[["value", "low", "high"]].isna().all(axis=None)
    assert set(rows["n"]) == {7}
    assert set(rows["patients"]) == {4}
    assert set(rows["flag"]) == {""}


def test_one_patient_is_too_few_whatever_the_images():
    rows = [{"image": f"i{i}", "patient": "p" if i < 20 else f"q{i}", "label": i % 2, "logit": float(i)}
            for i in range(40)]  # fmt: skip
    cases = frame(rows)
    table = subgroup_table(cases, about(cases, site=["A"] * 20 + ["B"] * 20), ["site"], exclusive=False, draws=5)
    assert table["group"].unique().tolist() == ["B", MERGED]
    assert np.isnan(pick(table, MERGED, "auroc")["value"])
    assert pick(table, MERGED, "auroc")["patients"] == 1


def test_smallest_can_be_chosen_and_is_named():
    cases = random_cases(20)
    table = subgroup_table(cases, about(cases, s=["A"] * 17 + ["B"] * 3), ["s"], exclusive=False, draws=5, smallest=5)
    assert table["group"].unique().tolist() == ["A", "fewer than 5 each (merged)"]


# ---- values ------------------------------------------------------------------------------------------------------


def test_values_by_hand():
    rows = []
    for i, (sex, dice, logit) in enumerate([("F", 0.2, 1), ("F", 0.4, 0), ("M", 0.9, 2), ("M", 0.7, 3)] * 5):
        rows.append({"image": f"a{i}", "patient": f"a{i}", "label": 1, "dice": dice, "logit": logit, "sex": sex})
    rows += [{"image": f"b{i}", "patient": f"b{i}", "label": 0, "logit": 0.5, "healthy": 1, "false_alarm": i % 2,
              "sex": "FM"[i % 2]} for i in range(12)]  # fmt: skip
    cases = frame(rows)
    facts = about(cases, sex=[row["sex"] for row in rows])
    table = subgroup_table(cases, facts, ["sex"], exclusive=False, draws=50)
    assert tuple(table.columns) == SUBGROUPS
    for group, dice, rank, alarm in [("F", 0.3, 0.5, 0.0), ("M", 0.8, 1.0, 1.0)]:
        assert pick(table, group, "dice")["value"] == pytest.approx(dice)
        assert pick(table, group, "dice")["n"] == 10
        assert pick(table, group, "auroc")["value"] == rank
        assert pick(table, group, "false_alarm_rate", "any")["value"] == alarm
        assert pick(table, group, "auroc")["patients"] == 16
    dice = [pick(table, group, "dice")["flag"] for group in "FM"]  # .55 over all, .3 and .8 with little spread
    assert dice == ["below overall", "above overall"]
    assert pick(table, "M", "auroc")["flag"] == ""  # an interval without width says nothing


@pytest.mark.parametrize("exclusive", [False, True])
def test_every_group_equals_the_summary_of_its_images(exclusive):
    cases = random_cases(80)
    facts = about(cases, sex=["F", "M"] * 40, site=["A"] * 30 + ["B"] * 50)
    table = subgroup_table(cases, facts, ["sex", "site"], exclusive=exclusive, draws=30, seed=3)
    assert set(table["method"]) == {"cam"}
    for (column, group), rows in table.groupby(["column", "group"]):
        images = facts.index[facts[column] == group]
        subset = cases[cases["image"].isin(images) & (cases["method"] == "cam")]
        plain = summarise(subset, exclusive=exclusive, draws=30, seed=3)
        both = rows.merge(plain, on=["task", "metric", "class", "method"], suffixes=("", "_plain"))
        assert len(both) == len(rows)
        for name in ("value", "low", "high", "n"):
            np.testing.assert_array_equal(both[name], both[f"{name}_plain"])
    assert "sensitivity" not in set(table["metric"])


def test_images_nobody_told_about_are_not_given():
    cases = random_cases(40)
    facts = pd.DataFrame({"sex": ["F"] * 20}, index=[f"i{i}" for i in range(20)])
    table = subgroup_table(cases, facts, ["sex"], exclusive=False, draws=5)
    assert table["group"].unique().tolist() == ["F", "not given"]


def test_ids_that_are_numbers_are_found():
    cases = random_cases(20)
    cases["image"] = cases["image"].str[1:]
    table = subgroup_table(cases, pd.DataFrame({"s": ["A"] * 20}, index=range(20)), ["s"], exclusive=False, draws=5)
    assert table["group"].unique().tolist() == ["A"]


def test_bad_input_is_explained():
    cases = random_cases(20)
    facts = about(cases, scanner=["A"] * 20)
    with pytest.raises(OptionError, match="Did you mean 'scanner'"):
        subgroup_table(cases, facts, ["scaner"], exclusive=False)
    with pytest.raises(TableError, match="twice"):
        subgroup_table(cases, pd.concat([facts, facts]), ["scanner"], exclusive=False)
    with pytest.raises(RunError):
        subgroup_table(cases[cases["method"] == "random_map"], facts, ["scanner"], exclusive=False)
    assert subgroup_table(cases, facts, [], exclusive=False).empty


def test_a_macro_mean_over_other_classes_is_not_flagged():
    """Ring is easy, mass is hard, and one site has no ring: its macro mean is lower for no fault of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(80):
        for name, dice in (("mass", 0.2), ("ring", 0.9)):
            known = name == "mass" or i < 40
            rows.append({"image": f"i{i}", "patient": f"p{i}", "class": name, "label": float(known),
                         "dice": dice + 0.02 * rng.random() if known else NAN})  # fmt: skip
    cases = frame(rows)
    table = subgroup_table(cases, about(cases, s=["A"] * 40 + ["B"] * 40), ["s"], exclusive=False, draws=50)
    assert pick(table, "B", "dice", "macro")["value"] < 0.3
    assert pick(table, "B", "dice", "macro")["flag"] == ""


def test_flags_are_rare_when_nothing_differs():
    """Thirty groups in each of eight tables of noise: with 95 % intervals about one in twenty would be flagged."""
    flagged = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        cases = frame([{"image": f"i{i}", "patient": f"p{i}", "label": 1.0, "dice": rng.random()} for i in range(600)])
        columns = {f"c{c}": rng.permutation(600) % 10 for c in range(3)}
        table = subgroup_table(cases, about(cases, **columns), list(columns), exclusive=False, draws=100, seed=seed)
        rows = table[(table["metric"] == "dice") & (table["class"] == "mass")]
        assert len(rows) == 30
        flagged += int((rows["flag"] != "").any())
    assert flagged <= 2  # one in twenty expected


def test_the_flag_by_its_formula():
    """Two groups of 12: half-widths stretch by t(1 - .0125) / z(.975) = 2.5931 / 1.9600 and by sqrt(12 / 11)."""
    cases = random_cases(24, ("mass",), seed=2).assign(patient=lambda t: t["image"])
    cases["label"] = 1.0
    cases["dice"] = np.repeat(np.random.default_rng(5).random(24) * 0.4 + np.repeat([0, 0.25], 12), 2)
    table = subgroup_table(cases, about(cases, s=["A"] * 12 + ["B"] * 12), ["s"], exclusive=False, draws=200)
    overall = cases[cases["method"] == "cam"]["dice"].mean()
    for group in "AB":
        row = pick(table, group, "dice")
        high = row["value"] + (row["high"] - row["value"]) * 2.5931 / 1.95996 * math.sqrt(12 / 11)
        low = row["value"] - (row["value"] - row["low"]) * 2.5931 / 1.95996 * math.sqrt(12 / 11)
        expected = "below overall" if high < overall else "above overall" if low > overall else ""
        assert row["flag"] == expected


# ---- strata ------------------------------------------------------------------------------------------------------


def lesions(n=30):
    """Lesions of 1 to n pixels, better found the larger; healthy images that score 0."""
    rows = [{"image": f"a{i}", "patient": f"a{i}", "label": 1, "logit": i - 9.5, "probability": (i + 0.5) / n,
             "truth_area": i + 1, "dice": (i + 1) / n, "pointing": float(i >= 15)} for i in range(n)]  # fmt: skip
    rows += [{"image": f"b{i}", "patient": f"b{i}", "label": 0, "logit": 0.0, "probability": 0.5, "healthy": 1,
              "false_alarm": 0, "truth_area": 0} for i in range(10)]  # fmt: skip
    return frame(rows)


def test_thirds_of_size_by_hand():
    table = strata_table(lesions(), exclusive=False, draws=20)
    size = table[table["column"] == "lesion size"]
    names = ["small (up to 10 pixels)", "medium (above 10, up to 20 pixels)", "large (above 20 pixels)"]
    assert size["group"].unique().tolist() == names
    for i, name in enumerate(names):
        assert pick(size, name, "dice")["value"] == pytest.approx((10 * i + 5.5) / 30)
        assert pick(size, name, "dice")["n"] == 10
        assert pick(size, name, "pointing_game")["value"] == (0, 0.5, 1)[i]
        assert pick(size, name, "auroc")["n"] == 20  # its lesions against all ten healthy images
        assert pick(size, name, "auroc")["patients"] == 10
        scores = np.append(np.arange(10 * i, 10 * i + 10) - 9.5, np.zeros(10))
        assert pick(size, name, "auroc")["value"] == auroc(scores, np.repeat([1, 0], 10))
    assert set(size["metric"]) == {"auroc", "dice", "iou", "pointing_game"}


def test_thirds_of_confidence_by_hand():
    table = strata_table(lesions(), exclusive=False, draws=20)
    trust = table[table["column"] == "confidence"]
    names = ["low (up to 0.317)", "middle (above 0.317, up to 0.65)", "high (above 0.65)"]
    assert trust["group"].unique().tolist() == names
    assert [pick(trust, name, "dice")["n"] for name in names] == [10, 10, 10]
    assert "auroc" not in set(trust["metric"])


def test_small_strata_have_no_values():
    table = strata_table(lesions(24), exclusive=False, draws=5)
    assert table["value"].isna().all()
    assert set(table["n"]) == {8}


def test_equal_sizes_are_one_stratum():
    cases = lesions()
    cases["truth_area"] = cases["truth_area"].where(cases["truth_area"] == 0, 7.0)
    table = strata_table(cases, exclusive=False, draws=5)
    assert table[table["column"] == "lesion size"]["group"].unique().tolist() == ["small (up to 7 pixels)"]


def test_no_lesion_located_gives_an_empty_table():
    cases = lesions().assign(truth_area=NAN, dice=NAN, pointing=NAN)
    table = strata_table(cases, exclusive=False)
    assert table.empty
    assert tuple(table.columns) == SUBGROUPS


def test_boxes_without_masks_have_confidence_but_no_size():
    table = strata_table(lesions().assign(truth_area=NAN, dice=NAN), exclusive=False, draws=5)
    assert set(table["column"]) == {"confidence"}
    assert table[table["metric"] == "pointing_game"]["value"].notna().all()
