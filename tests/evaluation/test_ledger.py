"""The ledger counts, and is never started afresh in silence."""

import json
from datetime import datetime

import pytest

from lesioncam.errors import RunError
from lesioncam.evaluation.ledger import open_split, read_ledger


def test_only_test_is_counted(tmp_path):
    path = tmp_path / "ledger.json"
    assert open_split(path, "val", "c1", "t1").times == 0
    assert not path.exists()
    assert open_split(path, "test", "c1", "t1").times == 1
    assert open_split(path, "test", "c1", "t1").configurations == 1
    last = open_split(path, "test", "c2", "t1")
    assert (last.times, last.configurations) == (3, 2)
    assert open_split(path, "train", "c3", "t1") == last == read_ledger(path)


def test_what_is_written(tmp_path):
    path = tmp_path / "ledger.json"
    open_split(path, "test", "c1", "t1")
    (entry,) = json.loads(path.read_text())["openings"]
    assert datetime.fromisoformat(entry.pop("when")).utcoffset().total_seconds() == 0
    assert entry == {"configuration": "c1", "split": "test", "table": "t1"}
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.json"]


@pytest.mark.parametrize("content", ["{", "[]", '{"openings": [{"when": "x"}]}', '{"openings": 3}'])
def test_a_broken_ledger_stops_everything_and_stays(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"ledger\.json"):
        open_split(path, "test", "c1", "t1")
    assert path.read_text() == content
