from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesioncam.data.split import require_patients, split_table
from lesioncam.data.table import SPLITS, Table
from lesioncam.errors import OptionError, TableError


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
    start = time.perf_counter()
    split = split_table(table)
    assert time.perf_counter() - start < 5  # .4 s where nothing else runs
    assert not patients_of(split, "train") & patients_of(split, "test")


FIGSHARE = Path(__file__).parents[3] / "shared" / "data" / "figshare_brain"


@pytest.mark.skipif(not FIGSHARE.is_dir(), reason="../shared/data/figshare_brain is not on this machine")
def test_real_slices_by_block(tmp_path):
    from lesioncam.data.sources import index_source, write_index
    from lesioncam.data.table import read_table

    frame = index_source(f"figshare-brain:{FIGSHARE}").drop(columns="split")
    table = read_table(write_index(frame, tmp_path / "t.csv"))
    split = split_table(table)
    shares = [split.split(name).states.mean(axis=0) for name in SPLITS]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.05)
    np.testing.assert_allclose(shares[2], shares[0], atol=0.05)


NIH = Path(__file__).parents[3] / "shared" / "data" / "nih_cxr" / "tables"


@pytest.mark.skipif(not NIH.is_dir(), reason="../shared/data/nih_cxr/tables is not on this machine")
def test_the_nih_table_is_read_checked_and_split_in_five_seconds():
    import time

    from lesioncam.data.check import check_table
    from lesioncam.data.table import read_table

    (path,) = NIH.glob("Data_Entry_2017*")
    columns = {"image": "Image Index", "label": "Finding Labels", "patient": "Patient ID"}
    start = time.perf_counter()
    table = read_table(path, columns=columns, negative=["No Finding"])
    assert check_table(table, files=False).ok
    split = split_table(table)
    assert time.perf_counter() - start < 5
    assert check_table(split, files=False).ok
    shares = [split.split(name).states.sum(axis=0) / table.states.sum(axis=0) for name in SPLITS]
    np.testing.assert_allclose(shares, np.repeat([[0.7], [0.15], [0.15]], 14, axis=1), atol=0.01)
