"""Sweeps: every combination on equal terms; what is finished is kept; what fails stops nobody; test stays closed."""

import math
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.networks import Mine, lowest

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.data.dataset import make_loader
from lesioncam.errors import OptionError, RunError, TableError
from lesioncam.files import read_json, write_json
from lesioncam.models.classifier import build_classifier
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.options.run import make_config
from lesioncam.options.variation import read_vary, trials_of
from lesioncam.runs.folder import RunFolder
from lesioncam.training.fit import _sets
from lesioncam.verbs import sweep as sweeps
from lesioncam.verbs.jobs import side_by_side
from lesioncam.verbs.result import Run
from lesioncam.verbs.sweep import Sweep, estimate, plan_sweep, run_sweep, summarise_sweep


@pytest.fixture(scope="module")
def small(toy, tmp_path_factory):
    """A quarter of the toy: three patients in each split."""
    frame = pd.read_csv(toy)
    kept = [name for split in ("train", "val", "test") for name in frame[frame.split == split].patient.unique()[:3]]
    frame = frame[frame.patient.isin(kept)]
    frame["file"] = [str(toy.parent / name) for name in frame["file"]]
    for name in ("mask:dot", "mask:bar"):
        frame[name] = [str(toy.parent / cell) if isinstance(cell, str) else "" for cell in frame[name]]
    path = tmp_path_factory.mktemp("small") / "labels.csv"
    frame.to_csv(path, index=False)
    return path


TINY = {
    "columns": {"image": "file"},
    "size": 32,
    "backbone": "slim,stride=8,channels=[8,8,16,16],stem_width=8",
    "epochs": 1,
    "batch": 8,
    "precision": "fp32",
    "threads": 1,
    "draws": 5,
}


# ---- equal terms -------------------------------------------------------------------------------------------------


def test_nothing_varies(small):
    with pytest.raises(OptionError, match="nothing varies"):
        plan_sweep(small, vary=[], **TINY)


def test_runs_of_one_seed_begin_with_the_same_weights():
    """Backbone and head, whatever pools; another seed begins elsewhere."""
    base = make_config(**{key: value for key, value in TINY.items() if key != "columns"})
    trials = trials_of(base, read_vary({"pooling": [*POOLING_TYPES, lowest, Mine()], "seed": [0, 1]}))
    states = {
        trial.name: {
            name: value
            for name, value in build_classifier(trial.config, 2, own_pool=trial.own).state_dict().items()
            if name.startswith(("backbone.", "head."))
        }
        for trial in trials
    }
    for trial in trials:
        state, first = states[trial.name], states[f"avg_seed{trial.config.seed}"]
        assert state.keys() == first.keys()
        other = {name for name, value in state.items() if not torch.equal(value, first[name])}
        assert other == ({"head.bias"} if trial.name.startswith("noisy_or") else set()), trial.name
    assert not torch.equal(states["avg_seed0"]["head.weight"], states["avg_seed1"]["head.weight"])


def test_the_plan_says_that_noisy_or_starts_elsewhere(small):
    said = [
        plan_sweep(small, vary={"pooling": two}, **TINY).terms()[1] for two in (["avg", "noisy_or"], ["avg", "max"])
    ]
    assert [any("noisy_or" in term for term in terms) for terms in said] == [True, False]


def test_runs_of_one_seed_see_the_same_batches(small):
    plan = plan_sweep(small, vary={"pooling": ["avg", "attention"], "seed": [0, 1]}, **TINY)
    table = plan.parts[None].table
    seen = {}
    for trial in plan.trials:
        train, _ = _sets(table, trial.config)
        loader = make_loader(train, trial.config.batch, seed=trial.config.seed, shuffle=True)
        seen[trial.name] = [(batch.images, batch.labels) for batch in loader]
    for seed in (0, 1):
        pairs = zip(seen[f"avg_seed{seed}"], seen[f"attention_seed{seed}"], strict=True)
        assert all(torch.equal(a, b) for one, two in pairs for a, b in zip(one, two, strict=True))
    assert not torch.equal(seen["avg_seed0"][0][0], seen["avg_seed1"][0][0])


def test_the_plan_says_what_is_equal_and_what_is_not(small):
    equal, other = plan_sweep(small, vary=["pooling=avg,lse", "seed=0,1"], **TINY).terms()
    assert len(equal) == 3
    assert other == ()
    assert "budget: 1 epoch in batches of 8" in equal
    config = make_config(**TINY, patience=5)  # with early stopping
    equal, other = plan_sweep(small, vary=["batch=4,8", "backbone.stride=8,16"], config=config).terms()
    assert equal == ()
    assert [line.partition(" (")[0].split(":")[0] for line in other] == [
        "initial weights of all that runs share",
        "order of images, batches and augmentation",
        "budget",
        "length",
    ]


# ---- running -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(small, tmp_path_factory):
    """Three real runs, one of them with a module of the user's own; reports are left out for speed."""
    folder, own = tmp_path_factory.mktemp("sweep") / "s", Mine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lesioncam.verbs.run.write_report", lambda *_, **__: None)
        found = lc.sweep(small, folder, vary={"pooling": ["avg", lowest, own]}, **TINY)
    return found, own


def test_a_sweep_is_plain_runs_and_their_numbers(done, small):
    found, own = done
    assert found == Sweep(found.folder, interrupted=False)
    table = found.table()
    assert table["run"].tolist() == ["avg", "lowest", "Mine"]
    assert set(table["state"]) == {"done"}
    assert (table["seconds"] > 0).all()
    for row in table.itertuples():
        metrics = Run(found.folder / "runs" / row.run).metrics("val")
        macro = metrics[(metrics["class"] == "macro") & (metrics["method"] == "cam")].set_index("metric")["value"]
        for name in ("auroc", "dice", "pointing_game", "false_alarm_rate"):
            assert getattr(row, name) == pytest.approx(macro[name])
        source = read_json(found.folder / "runs" / row.run / "log" / "source.json")["table"]
        assert (found.folder / "runs" / row.run / source).resolve() == small.resolve()
    assert own.gain.item() == 1.0, "the user's module is theirs"
    lowest_again = lc.load(found.folder / "runs" / "lowest", pooling=lowest)
    assert lowest_again.card.config.pooling.kind == "custom"
    trained = lc.load(found.folder / "runs" / "Mine", pooling=own).network.pool
    assert trained.function.gain.item() != 1.0


def test_test_is_never_opened(done):
    folder = done[0].folder
    assert not list(folder.rglob("ledger*"))
    assert not list(folder.rglob("evaluate/test"))


def test_what_is_finished_is_kept_and_changed_options_are_refused(done, small, monkeypatch, tmp_path):
    folder = done[0].folder
    monkeypatch.setattr(sweeps, "run", lambda *_, **__: pytest.fail("a finished run was begun again"))
    before = done[0].table()
    again = lc.sweep(small, folder, vary={"pooling": ["avg", lowest]}, **TINY)
    pd.testing.assert_frame_equal(again.table(), before.iloc[:2])
    with pytest.raises(RunError, match=r"avg was begun with other options \(epochs was 1, now 2\).*--overwrite.*-o"):
        lc.sweep(small, folder, vary={"pooling": ["avg"]}, **{**TINY, "epochs": 2})
    turned = pd.read_csv(small)
    turned["dot"] = 1 - turned["dot"]
    turned.to_csv(small.with_name("turned.csv"), index=False)
    with pytest.raises(RunError, match="another table or split"):
        lc.sweep(small.with_name("turned.csv"), folder, vary={"pooling": ["avg"]}, **TINY)
    with pytest.raises(RunError, match="no sweep"):
        lc.sweep(small, folder / "runs", vary={"pooling": ["avg"]}, **TINY)
    (tmp_path / "plan.json").write_text('{"steps": 3}')
    with pytest.raises(RunError, match="no plan of a sweep"):
        lc.sweep(small, tmp_path, vary={"pooling": ["avg"]}, **TINY)


class Stub:
    """In place of `run`: leaves a run folder with an AUROC of its own; fails or is stopped where it is told to."""

    def __init__(self, **acts):
        self.acts, self.calls = acts, []

    def __call__(self, _table, out, *, resume=False, config=None, **_):
        folder = RunFolder(out)
        self.calls.append((out.name, resume))
        write_json(folder.state, {"state": "running", "step": "train"})
        act = self.acts.get(out.name)
        if isinstance(act, BaseException):
            raise act
        if act == "stopped":
            for path in (folder.config, folder.table, folder.log / "last.ckpt"):
                path.parent.mkdir(exist_ok=True)
                path.write_text("x")
            return Run(out, interrupted=True)
        row = {"task": "classification", "metric": "auroc", "class": "macro", "method": "cam", "value": len(self.calls)}
        folder.evaluation("val").mkdir(parents=True)
        pd.DataFrame([row]).to_csv(folder.evaluation("val") / "metrics.csv", index=False)
        write_json(folder.state, {"state": "done", "step": "report"})
        return Run(out)


@pytest.fixture(scope="module")
def plan(small):
    return plan_sweep(small, vary=["pooling=avg,lse", "seed=0,1"], **TINY)


def test_a_failed_run_does_not_stop_the_others(plan, tmp_path, monkeypatch):
    stub = Stub(avg_seed1=TableError("class 'dot' has\nno positive image."), lse_seed0=ZeroDivisionError("oh"))
    monkeypatch.setattr(sweeps, "run", stub)
    rows = []
    found = run_sweep(plan, tmp_path / "s", watch=rows.append)
    table = found.table()
    assert not found.interrupted
    assert table["state"].tolist() == ["done", "failed", "failed", "done"]
    assert table["error"].fillna("").tolist() == [
        "",
        "class 'dot' has no positive image.",
        "ZeroDivisionError: oh",
        "",
    ]
    assert [row["run"] for row in rows] == table["run"].tolist()
    summary = found.summary()
    assert summary["pooling"].tolist() == ["avg", "lse"]
    assert summary["missing"].tolist() == ["avg_seed1", "lse_seed0"]
    assert summary["auroc_n"].tolist() == [1, 1]
    assert summary["auroc_mean"].tolist() == [1.0, 4.0]
    page = (found.folder / "summary.md").read_text()
    assert "Missing (see `sweep.csv`): avg_seed1 lse_seed0." in page
    stub.acts.clear()
    assert set(run_sweep(plan, tmp_path / "s").table()["state"]) == {"done"}
    assert [name for name, _ in stub.calls[4:]] == ["avg_seed1", "lse_seed0"]


@pytest.mark.parametrize("how", ["stopped", KeyboardInterrupt()], ids=["between batches", "elsewhere"])
def test_stopped_and_gone_on_with(plan, tmp_path, monkeypatch, how):
    stub = Stub(avg_seed1=how)
    monkeypatch.setattr(sweeps, "run", stub)
    found = run_sweep(plan, tmp_path / "s")
    assert found.interrupted
    assert found.table()["state"].tolist() == ["done", "interrupted", "waiting", "waiting"]
    stub.acts.clear()
    stub.calls.clear()
    assert not run_sweep(plan, tmp_path / "s").interrupted
    assert stub.calls == [("avg_seed1", how == "stopped"), ("lse_seed0", False), ("lse_seed1", False)]


def test_overwrite_begins_every_run_anew(plan, tmp_path, monkeypatch):
    stub = Stub()
    monkeypatch.setattr(sweeps, "run", stub)
    run_sweep(plan, tmp_path / "s")
    for path in (tmp_path / "s" / "runs").iterdir():
        (path / "evaluate" / "val" / "metrics.csv").unlink()
        (path / "evaluate" / "val").rmdir()
    stub.calls.clear()
    run_sweep(plan, tmp_path / "s", overwrite=True)
    assert stub.calls == [(trial.name, False) for trial in plan.trials]


def test_the_time_left_is_that_of_finished_runs(plan):
    rows = [
        {"run": "avg_seed0", "state": "done", "seconds": 10.0},
        {"run": "lse_seed1", "state": "done", "seconds": 30.0},
    ]
    assert estimate(plan, rows) == pytest.approx(40.0)  # two are left, 20 each
    assert "2 of 4, kept" in plan.text(rows, 40.0)


def test_mean_and_spread_by_hand():
    rows = pd.DataFrame(
        {
            "run": list("abcdef"),
            "pooling": ["avg", "avg", "avg", "lse", "lse", "lse"],
            "seed": [0, 1, 2, 0, 1, 2],
            "auroc": [0.7, 0.8, 0.9, 0.5, np.nan, np.nan],
            "dice": [0.1, np.nan, 0.3, 0.2, 0.2, np.nan],
            "state": ["done", "done", "done", "done", "done", "failed"],
        }
    )
    found = summarise_sweep(rows, ["pooling"]).set_index("pooling")
    assert found.loc["avg", "auroc_mean"] == pytest.approx(0.8)
    assert found.loc["avg", "auroc_sd"] == pytest.approx(0.1)
    assert found.loc["avg", "dice_sd"] == pytest.approx(math.sqrt(0.02))
    assert (found.loc["avg", "dice_n"], found.loc["lse", "auroc_n"], found.loc["lse", "dice_n"]) == (2, 1, 2)
    assert np.isnan(found.loc["lse", "auroc_sd"])
    assert (found.loc["lse", "done"], found.loc["lse", "missing"]) == (2, "f")
    assert len(summarise_sweep(rows, [])) == 1


# ---- folds -------------------------------------------------------------------------------------------------------


def test_every_image_is_held_out_once_and_patients_stay_whole(small):
    plan = plan_sweep(small, vary=["seed=0,1"], folds="all", fold_count=3, **TINY)
    assert [trial.name for trial in plan.trials] == [f"seed{s}_fold{f}" for s in (0, 1) for f in (0, 1, 2)]
    held = Counter()
    for table, _ in plan.parts.values():
        homes = pd.Series(table.frame["split"].tolist()).groupby(table.patients().tolist()).nunique()
        assert (homes == 1).all()
        held.update(table.split("test").frame["id"])
    assert set(held.values()) == {1}
    assert len(held) == 36
    text = plan.text()
    assert "fold 2: 12 train, 12 val, 12 test (test is not opened)" in text
    some = plan_sweep(small, vary=[], folds=[2], fold_count=3, **TINY)
    assert [trial.name for trial in some.trials] == ["fold2"]
    with pytest.raises(OptionError, match="name each fold once"):
        plan_sweep(small, vary=[], folds="0,0", fold_count=3, **TINY)


def test_folds_of_the_table_are_used_and_must_not_tear_copies_apart(small, tmp_path):
    frame = pd.read_csv(small)
    numbers = {name: k % 3 for k, name in enumerate(frame["patient"].unique())}
    frame["fold"] = frame["patient"].map(numbers)
    frame.to_csv(tmp_path / "folds.csv", index=False)
    plan = plan_sweep(tmp_path / "folds.csv", vary=[], folds="all", **TINY)
    test = plan.parts[1].table.split("test").frame["id"]
    assert len(test) == (frame["fold"] == 1).sum()
    twin = frame[frame["fold"] == 0].iloc[:1].assign(patient="Patient 99", fold=1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(twin["file"].iloc[0]).read_bytes())
    pd.concat([frame, twin.assign(file=str(copy))]).to_csv(tmp_path / "torn.csv", index=False)
    with pytest.raises(TableError, match="nearly the same image on two sides of fold 0"):
        plan_sweep(tmp_path / "torn.csv", vary=[], folds="all", **TINY)


# ---- processes ---------------------------------------------------------------------------------------------------


def test_tasks_side_by_side():
    """Results, errors and a process that dies: each is told, none stops another."""
    found = {}
    assert side_by_side(math.sqrt, [4.0, -1.0, 9.0], 2, lambda task, how: found.update({task: how})) is False
    assert (found[4.0].value, found[9.0].value) == (2.0, 3.0)
    assert found[-1.0].error.startswith("ValueError")
    side_by_side(os._exit, [7], 1, lambda task, how: found.update({task: how}))
    assert "with code 7" in found[7].error


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where a shell has started these tests in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_reaches_what_is_running_and_nothing_more_is_begun():
    found = {}
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    assert side_by_side(time.sleep, [60.0, 61.0], 1, lambda task, how: found.update({task: how}))
    assert time.monotonic() - begun < 20
    assert found.keys() == {60.0}
    assert found[60.0].interrupted


def test_a_run_in_a_process_of_its_own_tells_what_was_wrong(small, tmp_path):
    plan = plan_sweep(small, vary=["pooling=avg"], **TINY)
    table = plan.parts[None].table
    prepared = plan.parts[None]._replace(table=replace(table, states=np.ones_like(table.states)))
    found = run_sweep(replace(plan, parts={None: prepared}), tmp_path / "s", jobs=2)
    row = found.table().iloc[0]
    assert row["state"] == "failed"
    assert "class 'dot' has no negative image" in row["error"]
    assert (found.folder / "summary.md").is_file()
    with pytest.raises(OptionError, match="use jobs=1"):
        lc.sweep(small, tmp_path / "t", vary={"pooling": [lowest]}, jobs=2, **TINY)


@pytest.mark.slow
def test_several_at_a_time_give_the_same_numbers(done, small, tmp_path):
    found = lc.sweep(small, tmp_path / "s", vary={"pooling": ["avg"], "seed": [0, 1]}, jobs=2, **TINY)
    table = found.table().set_index("run")
    assert set(table["state"]) == {"done"}
    alone = done[0].table().set_index("run")
    assert table.loc["avg_seed0", "auroc"] == alone.loc["avg", "auroc"]


# ---- the command line --------------------------------------------------------------------------------------------

WORDS = ["--columns", "image=file", "--size", "32", "--epochs", "1", "--batch", "8", "--draws", "5", "--threads", "1"]


def test_the_plan_comes_first_and_may_be_all(small, tmp_path, capsys):
    words = [
        "sweep",
        str(small),
        "-o",
        str(tmp_path / "s"),
        "--vary",
        "pooling=avg,lse",
        "--vary",
        "seed=0,1,2",
        *WORDS,
    ]
    assert main([*words, "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 runs = 2 pooling x 3 seed")
    assert "12 train, 12 val, 12 test (test is not opened)" in said
    assert "ends early" not in said, "early stopping is off: one budget for all"
    assert not (tmp_path / "s").exists()
    assert main([*words, "--plan", "--patience", "3"]) == 0
    assert "ends early after 3 epochs" in capsys.readouterr().out


def test_the_verb_runs_tells_and_goes_on(small, tmp_path, capsys, monkeypatch):
    stub = Stub(lse_seed0="stopped")
    monkeypatch.setattr(sweeps, "run", stub)
    words = ["sweep", str(small), "-o", str(tmp_path / "s"), "--vary", "pooling=avg,lse", "--vary", "seed=0", *WORDS]
    assert main(words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    stub.acts["lse_seed0"] = TableError("no.")
    assert main(words) == 0
    told = capsys.readouterr()
    assert "1 of 2, kept" in told.out
    assert "1 failed, see sweep.csv: lse_seed0" in told.err
    assert main([*words, "--epochs", "2"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["sweep", "-o", str(tmp_path / "s"), "--vary", "seed=0,1"]) == 2
    assert "no table was given" in capsys.readouterr().err
