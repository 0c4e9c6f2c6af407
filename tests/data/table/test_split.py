from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesioncam.data.table.duplicates import Pair
from lesioncam.data.table.split import (
    group_rows,
    hold_out,
    require_patients,
    split_by_date,
    split_folds,
    split_table,
    use_fold,
)
from lesioncam.data.table.table import Table, read_table, write_table
from lesioncam.errors import OptionError, TableError
from lesioncam.types import SPLITS


def make(states, patients, rule="column patient"):
    n = len(states)
    ids = [f"i{k}" for k in range(n)]
    frame = pd.DataFrame({"row": range(2, n + 2), "id": ids, "name": ids, "image": ids})
    frame["patient"] = pd.Series(patients, dtype=object)
    frame["split"] = pd.Series([None] * n, dtype=object)
    states = np.asarray(states, np.float32)
    return Table(frame, tuple(f"c{k}" for k in range(states.shape[1])), states, source="t.csv", patient_rule=rule)


def random_table(rng, patients=120, classes=4):
    slices = rng.integers(1, 12, patients)
    rates = rng.uniform(0.15, 0.5, classes)
    states = np.repeat((rng.random((patients, classes)) < rates).astype(float), slices, axis=0)
    return make(states, np.repeat([f"p{k:03d}" for k in range(patients)], slices))


def patients_of(table, name):
    return set(table.split(name).patients())


def test_patients_stay_whole_and_shares_are_kept():
    for seed in range(5):
        split = split_table(random_table(np.random.default_rng(seed)), seed=seed)
        parts = [patients_of(split, name) for name in SPLITS]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 120
        sizes = [len(split.split(name)) / len(split) for name in SPLITS]
        np.testing.assert_allclose(sizes, [0.7, 0.15, 0.15], atol=0.05)
        for k in range(4):
            found = [np.nansum(split.split(name).states[:, k]) for name in SPLITS]
            np.testing.assert_allclose(np.divide(found, sum(found)), [0.7, 0.15, 0.15], atol=0.08)


def test_same_seed_same_split_whatever_the_order_of_rows():
    table = random_table(np.random.default_rng(0))
    one, two, other = split_table(table), split_table(table), split_table(table, seed=1)
    assert one.frame["split"].tolist() == two.frame["split"].tolist()
    assert one.frame["split"].tolist() != other.frame["split"].tolist()
    mixed = split_table(table.take(np.random.default_rng(5).permutation(len(table))))
    assert patients_of(mixed, "val") == patients_of(one, "val")


def test_a_class_of_three_patients_is_in_each_split():
    rng = np.random.default_rng(0)
    for seed in range(20):
        states = np.zeros((60, 6))
        for k in range(6):
            states[rng.choice(60, 3, replace=False), k] = 1
        split = split_table(make(states, [f"p{k}" for k in range(60)]), seed=seed)
        for name in SPLITS:
            assert (split.split(name).states.sum(axis=0) > 0).all()


def test_healthy_patients_are_in_each_split():
    states = np.ones((40, 1))
    states[:3] = 0
    split = split_table(make(states, [f"p{k}" for k in range(40)]))
    assert all((split.split(name).states == 0).any() for name in SPLITS)


def test_unknown_and_uncertain_labels_are_dealt_out_too():
    states = np.full((30, 2), np.nan)
    states[:6, 0] = -1
    assert split_table(make(states, [f"p{k}" for k in range(30)])).frame["split"].notna().all()


def test_two_splits_and_an_old_split_replaced():
    table = make(np.eye(2)[[0, 1] * 10], [f"p{k // 2}" for k in range(20)])
    table.frame["split"] = "test"
    split = split_table(table, (0.5, 0.5, 0))
    assert [len(split.split(name)) for name in SPLITS] == [10, 10, 0]
    assert table.frame["split"].eq("test").all()


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.2, 0.2), (0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_are_none(fractions):
    with pytest.raises(OptionError, match="must sum to 1, with train above 0"):
        split_table(make([[1]] * 5, list("abcde")), fractions)


def test_no_split_without_patients():
    table = make([[1], [0], [1]], [None] * 3, rule="")
    with pytest.raises(TableError) as error:
        split_table(table)
    assert str(error.value) == (
        "t.csv does not say which images are of one patient, so a split could tear one apart. "
        r"Name the column (--columns patient=YOUR_NAME), or use --patient-from '(P\d+)_' (a group over the image "
        "path), blocks:20 (20 rows in a row), or none (every image is its own patient)."
    )
    none = make([[1], [0], [1]], [None] * 3, rule="none")
    require_patients(none)
    assert sorted(split_table(none).frame["split"]) == ["test", "train", "val"]
    with pytest.raises(TableError, match=r"^t\.csv has no patient in row 3, 4\. Fill the cell"):
        split_table(make([[1], [0], [1]], ["a", None, None]))


def test_too_few_patients():
    with pytest.raises(TableError, match=r"^t\.csv has one patient, too few for 3 splits by patient; add patients\.$"):
        split_table(make([[1], [0]], ["a", "a"]))
    with pytest.raises(TableError, match="has 2 patients, too few for 3 splits"):
        split_table(make([[1], [0]], ["a", "b"]))


def test_a_hundred_thousand_rows_are_quick():
    import time

    rng = np.random.default_rng(0)
    patients = rng.integers(0, 30_000, 112_000)
    table = make((rng.random((112_000, 14)) < 0.05).astype(float), [f"p{k}" for k in patients])
    start = time.process_time()
    split = split_table(table)
    assert time.process_time() - start < 5  # .4 s where nothing else runs
    assert not patients_of(split, "train") & patients_of(split, "test")


# ---- what belongs together ---------------------------------------------------------------------------------------


def same(groups):
    """The partition, whatever the numbers."""
    return {frozenset(np.flatnonzero(groups == code).tolist()) for code in np.unique(groups)}


def partition(text):
    return {frozenset(map(int, part)) for part in text.split()}


def test_near_duplicates_stay_together_with_their_patients():
    table = make([[1], [0]] * 4, list("aabbccdd"))
    assert same(group_rows(table)) == partition("01 23 45 67")
    pairs = [Pair(1, 4, "copy", 0.99), Pair(6, 7, "mirror", 0.95)]
    assert same(group_rows(table, pairs)) == partition("0145 23 67")
    assert same(group_rows(table, [*pairs, Pair(0, 7, "copy", 1.0)])) == partition("014567 23")


def test_no_split_tears_groups_apart():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        table = random_table(rng, patients=40)
        ends = rng.integers(0, len(table), (12, 2))
        pairs = [Pair(int(a), int(b), "copy", 1.0) for a, b in ends]
        groups = group_rows(table, pairs)
        assert all(groups[a] == groups[b] for a, b in ends)
        whole = [split_table(table, seed=seed, pairs=pairs), *(use_fold(split_folds(table, 4, seed, pairs=pairs), 2),)]
        for split in whole:
            homes = pd.factorize(split.frame["split"])[0]
            assert all(len(set(homes[groups == code])) == 1 for code in np.unique(groups))


def test_the_order_of_rows_does_not_matter_with_pairs_either():
    table = random_table(np.random.default_rng(0), patients=40)
    pairs = [Pair(0, 50, "copy", 1.0), Pair(20, 100, "copy", 1.0)]
    order = np.random.default_rng(1).permutation(len(table))
    place = np.argsort(order)
    moved = [Pair(int(place[pair.first]), int(place[pair.second]), "copy", 1.0) for pair in pairs]
    one, other = split_table(table, pairs=pairs), split_table(table.take(order), pairs=moved)
    assert patients_of(one, "val") == patients_of(other, "val")


def with_study(patients, studies, rule="column patient"):
    table = make([[k % 2] for k in range(len(patients))], patients, rule)
    table.frame["study"] = pd.Series(studies, dtype=object)
    return table


def test_studies_where_patients_are_not_known():
    table = with_study([None] * 6, ["s", "s", "t", None, "u", "t"], rule="none")
    assert same(group_rows(table)) == partition("01 25 3 4")
    table = with_study(["a", None, "b", None, None, "b"], ["1", "1", "2", "2", "3", "3"])
    assert same(group_rows(table)) == partition("01 2345")  # 1 is of a only, 2 and 3 of b only
    table = with_study(["a", "b", None, None], ["1", "1", "1", "1"])
    assert same(group_rows(table)) == partition("0 1 23")  # whose study 1 it is cannot be known
    with pytest.raises(TableError, match=r"has no patient in row 4\."):
        group_rows(with_study(["a", None, None], ["1", "2", None]))


# ---- folds -------------------------------------------------------------------------------------------------------


def test_folds_are_stratified_and_each_row_is_tested_once():
    table = split_folds(random_table(np.random.default_rng(3)), 5, seed=1)
    rates = table.states.mean(axis=0)
    tested = np.zeros(len(table), int)
    for fold in range(5):
        split = use_fold(table, fold)
        parts = [patients_of(split, name) for name in SPLITS]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 120
        test = split.frame["split"].to_numpy() == "test"
        tested += test
        assert (use_fold(table, (fold + 4) % 5).frame["split"].to_numpy() == "val").tolist() == test.tolist()
        assert abs(test.mean() - 0.2) < 0.03
        np.testing.assert_allclose(table.states[test].mean(axis=0), rates, atol=0.08)
    assert (tested == 1).all()


def test_folds_survive_writing(tmp_path):
    lines = [f"{k}.png,{'xy'[k % 2]},p{k // 2}" for k in range(24)]
    (tmp_path / "t.csv").write_text("image,label,patient\n" + "\n".join(lines) + "\n")
    table = split_folds(read_table(tmp_path / "t.csv"), 3)
    again = read_table(write_table(table, tmp_path / "folds.csv"))
    assert again.frame["extra:fold"].tolist() == table.frame["extra:fold"].tolist()
    assert use_fold(again, 2).frame["split"].tolist() == use_fold(table, 2).frame["split"].tolist()
    assert split_folds(table, 3).frame["extra:fold"].tolist() == table.frame["extra:fold"].tolist()
    assert split_folds(table, 3, seed=5).frame["extra:fold"].tolist() != table.frame["extra:fold"].tolist()


def test_folds_that_are_none():
    table = random_table(np.random.default_rng(0), patients=4)
    with pytest.raises(OptionError, match="--folds 2: at least 3"):
        split_folds(table, 2)
    with pytest.raises(TableError, match="has 4 patients, too few for 5"):
        split_folds(table, 5)
    with pytest.raises(TableError, match="has no column 'fold'"):
        use_fold(table, 0)
    table = split_folds(table, 3)
    for fold in (-1, 3):
        with pytest.raises(OptionError, match="there are 3"):
            use_fold(table, fold)
    table.frame.loc[2, "extra:fold"] = "x"
    with pytest.raises(TableError, match=r"no fold number from 0 on in row 4;"):
        use_fold(table, 0)


# ---- by date and by site -----------------------------------------------------------------------------------------


def with_column(name, cells, patients):
    table = make([[k % 2] for k in range(len(cells))], patients)
    table.frame[f"extra:{name}"] = pd.Series(cells, dtype=object)
    return table


def splits(found):
    return found.table.frame["split"].tolist()


DAYS = ["2019-05-01", "20191231", "2020-01-01", "2020-01-01T08:00:00", "31 Dec 2018", "2/25/2020", "25.02.2018", "2018"]


def test_later_rows_are_test():
    table = with_column("day", DAYS, list("abcdefgh"))
    found = split_by_date(table, "day", "2020-01-01")
    assert [name == "test" for name in splits(found)] == [False, False, True, True, False, True, False, False]
    assert {"train", "val"} <= set(splits(found))
    assert (found.straddling, found.moved) == ((), 0)


def test_patients_on_both_sides_of_the_date_are_tested_only():
    table = with_column("day", DAYS, list("abacdeff"))
    found = split_by_date(table, "day", "2020-01-01")
    assert [k for k, name in enumerate(splits(found)) if name == "test"] == [0, 2, 3, 5]
    assert (found.straddling, found.moved) == (("a",), 1)
    joined = split_by_date(table, "day", "2020-01-01", pairs=[Pair(1, 5, "copy", 1.0)])
    assert [k for k, name in enumerate(splits(joined)) if name == "test"] == [0, 1, 2, 3, 5]
    assert (joined.straddling, joined.moved) == (("a", "b", "e"), 2)


def test_train_and_val_keep_their_proportion():
    rng = np.random.default_rng(0)
    table = random_table(rng)
    table.frame["extra:day"] = pd.Series(
        [f"20{k:02d}-01-01" for k in rng.integers(10, 20, 120).repeat(1)] * 9, dtype=object
    )[: len(table)]
    by_patient = dict(zip(table.patients(), table.frame["extra:day"], strict=True))
    table.frame["extra:day"] = [by_patient[patient] for patient in table.patients()]
    found = split_by_date(table, "day", "2018", (0.6, 0.3, 0.1))
    train, val, test = (len(found.table.split(name)) for name in SPLITS)
    assert test == sum(day >= "2018" for day in table.frame["extra:day"])
    assert abs(train / (train + val) - 2 / 3) < 0.03


@pytest.mark.parametrize("cell", ["", "soon", "03/04/2020", "2020-13-01", "1.2.20"])
def test_cells_that_are_no_date(cell):
    table = with_column("day", ["2019-01-01", cell, "2020-01-01"], list("abc"))
    with pytest.raises(TableError, match=r"^t\.csv row 3: .* is no date, or day and month could be swapped; write"):
        split_by_date(table, "day", "2020-01-01")
    with pytest.raises(OptionError, match="is no date"):
        split_by_date(table, "day", cell)


def test_sides_that_are_empty():
    table = with_column("day", ["2019-01-01", "2019-01-02", "2020-01-01"], list("abc"))
    with pytest.raises(TableError, match="no row is day from 2021 on; nothing is left to test on"):
        split_by_date(table, "day", "2021")
    with pytest.raises(TableError, match="nothing is left to train on"):
        split_by_date(table, "day", "2001")
    with pytest.raises(OptionError, match=r"no column 'dya'\. Did you mean 'day'\? Columns to split by: 'day'"):
        split_by_date(table, "dya", "2019")
    with pytest.raises(TableError, match="has one patient, too few for 2"):
        split_by_date(table, "day", "2019-01-02")
    assert splits(split_by_date(table, "day", "2019-01-02", (1, 0, 0))) == ["train", "test", "test"]


def test_a_site_is_held_out():
    table = with_column("site", list("AAABBACB"), list("abcdeafd"))
    found = hold_out(table, "site", "B")
    assert [k for k, name in enumerate(splits(found)) if name == "test"] == [3, 4, 7]
    assert found.straddling == ()
    with pytest.raises(OptionError, match="--hold-out site=D: no row has it. Column 'site' holds 'A', 'B', 'C'"):
        hold_out(table, "site", "D")


def test_patients_of_two_sites():
    table = with_column("site", list("ABBAAC"), list("aabcdd"))
    found = hold_out(table, "site", "B")
    assert [k for k, name in enumerate(splits(found)) if name == "test"] == [0, 1, 2]
    assert (found.straddling, found.moved) == (("a",), 1)
    with pytest.raises(TableError, match=r"t\.csv: 'a' with rows on both sides of site=B"):
        hold_out(table, "site", "B", straddling="refuse")
    assert hold_out(table, "site", "C", straddling="test").straddling == ("d",)


FIGSHARE = Path(__file__).parents[4] / "shared" / "data" / "figshare_brain"


@pytest.mark.skipif(not FIGSHARE.is_dir(), reason="../shared/data/figshare_brain is not on this machine")
def test_real_slices_by_block(tmp_path):
    from lesioncam.data.sources import index_source, write_index
    from lesioncam.data.table.table import read_table

    frame = index_source(f"figshare-brain:{FIGSHARE}").drop(columns="split")
    table = read_table(write_index(frame, tmp_path / "t.csv"))
    split = split_table(table)
    shares = [split.split(name).states.mean(axis=0) for name in SPLITS]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.05)
    np.testing.assert_allclose(shares[2], shares[0], atol=0.05)


NIH = Path(__file__).parents[4] / "shared" / "data" / "nih_cxr" / "tables"


@pytest.mark.skipif(not NIH.is_dir(), reason="../shared/data/nih_cxr/tables is not on this machine")
def test_the_nih_table_is_read_checked_and_split_in_five_seconds():
    """Of a processor: other tests may run beside this one."""
    import time

    from lesioncam.data.table.check import check_table
    from lesioncam.data.table.table import read_table

    (path,) = NIH.glob("Data_Entry_2017*")
    columns = {"image": "Image Index", "label": "Finding Labels", "patient": "Patient ID"}
    start = time.process_time()
    table = read_table(path, columns=columns, negative=["No Finding"])
    assert check_table(table, files=False).ok
    split = split_table(table)
    assert time.process_time() - start < 5
    assert check_table(split, files=False).ok
    shares = [split.split(name).states.sum(axis=0) / table.states.sum(axis=0) for name in SPLITS]
    np.testing.assert_allclose(shares, np.repeat([[0.7], [0.15], [0.15]], 14, axis=1), atol=0.01)
