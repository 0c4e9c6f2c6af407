"""The ledger counts, and is never started afresh in silence."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from lesioncam.errors import RunError
from lesioncam.runs import ledger
from lesioncam.runs.ledger import open_split, read_ledger, side_file


def test_only_test_is_counted(tmp_path):
    path = tmp_path / "ledger.json"
    assert open_split([path], "val", "c1", "t1").times == 0
    assert not path.exists()
    assert open_split([path], "test", "c1", "t1").times == 1
    assert open_split([path], "test", "c1", "t1").configurations == 1
    last = open_split([path], "test", "c2", "t1")
    assert (last.times, last.configurations) == (3, 2)
    assert open_split([path], "train", "c3", "t1") == last == read_ledger(path)


def test_what_is_written(tmp_path):
    path = tmp_path / "ledger.json"
    open_split([path], "test", "c1", "t1")
    (entry,) = json.loads(path.read_text())["openings"]
    assert datetime.fromisoformat(entry.pop("when")).utcoffset().total_seconds() == 0
    assert len(entry.pop("key")) == 8
    assert entry == {"configuration": "c1", "split": "test", "table": "t1"}
    assert {p.name for p in tmp_path.iterdir()} == {"ledger.json", "ledger.json.lock"}


@pytest.mark.parametrize("content", ["{", "[]", '{"openings": [{"when": "x"}]}', '{"openings": 3}'])
def test_a_broken_ledger_stops_everything_and_stays(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"ledger\.json"):
        open_split([path], "test", "c1", "t1")
    assert path.read_text() == content


def test_every_run_on_a_table_counts_in_its_side_file(tmp_path):
    table = tmp_path / "labels.csv"
    table.touch()
    side, runs = side_file(table), [tmp_path / name / "ledger.json" for name in "ab"]
    assert open_split([runs[0], side], "test", "a", "t").times == 1
    second = open_split([runs[1], side], "test", "b", "t")
    assert (second.times, second.configurations, second.shared) == (2, 2, True)
    assert open_split([runs[0], side], "val", "a", "t").times == 2
    side.unlink()  # the side file gone, the runs still know what they have seen
    assert open_split([runs[1]], "test", "b", "t").times == 3
    assert open_split([runs[1], side], "test", "b", "t").times == 4
    assert read_ledger(side).times == 4


def test_openings_at_the_same_moment_are_all_kept(tmp_path):
    path = tmp_path / "ledger.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: open_split([path], "test", f"c{i}", "t"), range(24)))
    assert read_ledger(path).times == read_ledger(path).configurations == 24


def test_a_side_file_that_may_not_be_written_is_passed_over(tmp_path, monkeypatch):
    def refuse(path, openings, true=ledger._append):
        if path.name.startswith("labels"):
            raise PermissionError(path)
        return true(path, openings)

    monkeypatch.setattr(ledger, "_append", refuse)
    found = open_split([tmp_path / "ledger.json", tmp_path / "labels.csv.ledger.json"], "test", "c", "t")
    assert (found.times, found.shared) == (1, False)
