"""Many runs of one table: every combination of varied options, seeds and folds, on equal terms; test stays closed.

Each run is a plain run folder ``DIR/runs/<name>``, made by the same steps as ``lesioncam run``. What is finished is
kept, what was interrupted is gone on with, and the tables beside the runs are rewritten after each of them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from lesioncam.data.table.check import check_table, require
from lesioncam.data.table.split import split_folds, use_fold
from lesioncam.data.table.table import Table, digest, read_table
from lesioncam.data.table.targets import check_task
from lesioncam.errors import LesioncamError, OptionError, RunError, TableError
from lesioncam.evaluation.controls import is_method
from lesioncam.files import read_json, write_csv, write_json, write_text
from lesioncam.measurement.guard import table_roles
from lesioncam.options.base import validated
from lesioncam.options.data import AugmentConfig
from lesioncam.options.run import RunConfig, make_config
from lesioncam.options.variation import Trial, read_vary, trials_of
from lesioncam.runs.folder import RunFolder
from lesioncam.training.fit import plan as plan_training
from lesioncam.types import SPLITS
from lesioncam.verbs.begin import can_resume, is_finished, path_of, remember_source
from lesioncam.verbs.jobs import Ended, side_by_side
from lesioncam.verbs.prepare import Prepared, prepare
from lesioncam.verbs.run import run
from lesioncam.verbs.train import split_own_pool

logger = logging.getLogger(__name__)

METRICS = ("auroc", "dice", "pointing_game", "false_alarm_rate")
"""What the tables show of each run: means over classes on val, of the run's own map method."""

SPREAD = ("seed", "fold")
"""Over these the summary takes mean and standard deviation."""

_WEIGHTS = frozenset({"backbone", "weights", "channels", "size"})
_ORDER = frozenset({"batch", "augment", *AugmentConfig.model_fields})
_BUDGET = frozenset({"epochs", "batch", "patience"})
"""Options that, varied, make initial weights, batches or budget differ."""

Watch = Callable[[Mapping[str, Any]], object]


class Sweep(NamedTuple):
    """A folder with many runs and their tables.

    Attributes:
        folder: where it lies.
        interrupted: whether it was stopped by the user; the same call goes on.
    """

    folder: Path
    interrupted: bool = False

    def table(self) -> pd.DataFrame:
        """``sweep.csv``: one row per run."""
        return pd.read_csv(self.folder / "sweep.csv", keep_default_na=True)

    def summary(self) -> pd.DataFrame:
        """``summary.csv``: mean, standard deviation and count over seeds and folds."""
        return pd.read_csv(self.folder / "summary.csv")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do.

    Attributes:
        trials: the runs, in order.
        varied: labels of each varied option, ``fold`` among them.
        parts: the checked table by fold (None: its own split).
        source: the user's table, where it is a file.
    """

    trials: tuple[Trial, ...]
    varied: Mapping[str, tuple[str, ...]]
    parts: Mapping[int | None, Prepared]
    source: Path | None = None

    def terms(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is equal between the runs of one seed (and fold), and what is not."""
        names = {part for option in self.varied for part in (option, option.partition(".")[0])}
        pools = [trial.own for trial in self.trials if trial.own is not None]
        config = self.trials[0].config
        steps = f"{config.epochs} epoch{'s' * (config.epochs > 1)} in batches of {config.batch}"
        equal, other = list[str](), list[str]()
        _sort(equal, other, names & _WEIGHTS, "initial weights of all that runs share (backbone and head)")
        _sort(equal, other, names & _ORDER, "order of images, batches and augmentation")
        _sort(equal, other, names & _BUDGET, f"budget: {steps}")
        if config.patience and "patience" not in names:
            other.append(f"length: a run ends early after {config.patience} epochs without a better one on validation")
        if len({trial.config.pooling.kind == "noisy_or" for trial in self.trials}) > 1:
            other.append("bias of the head: noisy_or starts at its prior, the others at 0")
        if any(isinstance(pool, nn.Module) for pool in pools):
            other.append("a module of your own begins with the weights you gave it, whatever the seed")
        return tuple(equal), tuple(other)

    def text(self, rows: Sequence[Mapping[str, Any]] = (), seconds: float | None = None, jobs: int = 1) -> str:
        """For people: runs, what varies, what is equal, how long.

        Args:
            rows: of an earlier call, to say what is finished.
            seconds: from :func:`estimate`.
            jobs: runs at a time.
        """
        counts = " x ".join(f"{len(labels)} {option}" for option, labels in self.varied.items())
        lines = [f"{len(self.trials)} runs = {counts}"]
        wide = max(len(option) for option in (*self.varied, "not equal"))
        lines += [f"  {option:<{wide}}  {' | '.join(labels)}" for option, labels in self.varied.items()]
        lines += [f"  {'images':<{wide}}  {line}" for line in self._images()]
        equal, other = self.terms()
        lines += [f"  {'equal' if not i else '':<{wide}}  {term}" for i, term in enumerate(equal)]
        lines += [f"  {'not equal' if not i else '':<{wide}}  {term}" for i, term in enumerate(other)]
        done = sum(row["state"] == "done" for row in rows)
        if done:
            lines.append(f"  {'finished':<{wide}}  {done} of {len(self.trials)}, kept")
        if seconds is not None:
            beside = f" (at best 1/{jobs} of it, {jobs} runs at a time)" if jobs > 1 else ", one run at a time"
            about = f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {seconds:.0f} s"
            lines.append(f"  {'time':<{wide}}  {about} of training here{beside}; measuring val comes on top")
        return "\n".join(lines)

    def _images(self) -> Iterator[str]:
        for fold, (table, _) in self.parts.items():
            counts = ", ".join(f"{len(table.split(name))} {name}" for name in SPLITS)
            where = "" if fold is None else f"fold {fold}: "
            yield f"{where}{counts} (test is not opened)"


def _sort(equal: list[str], other: list[str], causes: set[str], what: str) -> None:
    if causes:
        other.append(f"{what} (varied: {', '.join(sorted(causes))})")
    else:
        equal.append(what)


# ---- plan --------------------------------------------------------------------------------------------------------


def plan_sweep(
    table: Table | str | Path,
    *,
    vary: Sequence[str] | Mapping[str, Any],
    folds: str | Sequence[int] | None = None,
    fold_count: int = 5,
    config: RunConfig | None = None,
    **options: object,
) -> SweepPlan:
    """Read and check the table once, split it once, and lay out every run; nothing is written.

    Args:
        table: a table, or a file with one.
        vary: option -> values (text, numbers, typed objects, for ``pooling`` your own callables), or words as the
            command line takes them (``pooling=avg,lse``).
        folds: ``all``, or numbers from 0 on: each fold's held-out part is its test part, the next fold its val. Folds
            are those of the table's column ``fold``, otherwise made by patient and near-duplicates. None keeps the
            table's own split.
        fold_count: how many folds are made where the table has none.
        config: what does not vary; by default early stopping is off, so that all runs have one budget.
        **options: single options by name.

    Raises:
        TableError: listing all that is wrong with the table.
        OptionError: for an option or value that does not exist, or where nothing varies.
    """
    own, options = split_own_pool(options)
    settled = make_config(RunConfig(patience=0) if config is None else config, **options)
    varied = read_vary(vary)
    if not varied and folds is None:
        raise OptionError("nothing varies; name options, for instance --vary pooling=avg,lse --vary seed=0,1,2.")
    parts = _parts(table, settled, folds, fold_count)
    trials = trials_of(settled, varied, tuple(parts), own)
    for trial in trials:
        check_task(parts[trial.fold].table, trial.config.table, trial.config.task)
    labels = {option: tuple(choice.label for choice in choices) for option, choices in varied.items()}
    if folds is not None:
        labels["fold"] = tuple(map(str, parts))
    return SweepPlan(trials, labels, parts, path_of(table))


def _parts(
    table: Table | str | Path, config: RunConfig, folds: str | Sequence[int] | None, count: int
) -> dict[int | None, Prepared]:
    """The table as each fold sees it: checked once, files and all; its split does not turn with the seed."""
    if folds is None:
        return {None: prepare(table, config)}
    whole = table if isinstance(table, Table) else read_table(table, config=config.table)
    whole = replace(whole, frame=whole.frame.assign(split=None))
    found = check_table(whole, policy=config.table)
    require(found)
    if "extra:fold" not in whole.frame:
        whole = split_folds(whole, count, config.seed, pairs=found.pairs)
    parts: dict[int | None, Prepared] = {}
    for fold in _fold_numbers(folds, whole):
        part = use_fold(whole, fold)
        split = part.frame["split"].to_numpy()
        torn = sum(split[pair.first] != split[pair.second] for pair in found.pairs)
        if torn:
            raise TableError(
                f"{part.source}: the column 'fold' puts {torn} pairs of nearly the same image on two sides of fold "
                f"{fold}; make folds with `lesioncam split --folds {count}`, which keeps them together."
            )
        require(check_table(part, files=False, policy=config.table))
        parts[fold] = Prepared(part, found)
    return parts


def _fold_numbers(folds: str | Sequence[int], table: Table) -> list[int]:
    if folds == "all":
        return list(range(int(pd.to_numeric(table.frame["extra:fold"], errors="coerce").max()) + 1))
    given = folds.split(",") if isinstance(folds, str) else folds
    try:
        numbers = [int(one) for one in given]
    except ValueError as error:
        raise OptionError(f"--folds {folds}: expected all, or numbers from 0 on, for instance 0,2.") from error
    if not numbers or len(set(numbers)) < len(numbers):
        raise OptionError(f"--folds {folds}: name each fold once, for instance 0,2.")
    return numbers


def estimate(plan: SweepPlan, rows: Sequence[Mapping[str, Any]] = ()) -> float | None:
    """Seconds for what is left: as long as finished runs of the same kind took, otherwise measured on a few steps.

    Args:
        plan: from :func:`plan_sweep`.
        rows: of an earlier call.

    Returns:
        None where it cannot be measured (a network that cannot be built is a failed run, not a failed plan).
    """
    known: dict[str, list[float]] = {}
    states = {str(row["run"]): row for row in rows}
    for trial in plan.trials:
        row = states.get(trial.name)
        if row is not None and row["state"] == "done":
            known.setdefault(_cost(trial), []).append(float(row["seconds"]))
    measured, total = dict[str, float](), 0.0
    for trial in plan.trials:
        kind = _cost(trial)
        if trial.name in states and states[trial.name]["state"] == "done":
            continue
        if kind in known:
            total += sum(known[kind]) / len(known[kind])
            continue
        if kind not in measured:
            try:
                table = plan.parts[trial.fold].table
                measured[kind] = plan_training(table, trial.config, own_pool=trial.own).seconds
            except (LesioncamError, RuntimeError) as error:
                logger.warning("time not measured: %s", error)
                return None
        total += measured[kind]
    return total


def _cost(trial: Trial) -> str:
    """What the time of a run hangs on; poolings and seeds cost the same."""
    config = trial.config
    return repr((config.backbone, config.preprocess, config.batch, config.epochs, config.precision))


# ---- run ---------------------------------------------------------------------------------------------------------


def sweep(
    table: Table | str | Path,
    out: str | Path,
    *,
    vary: Sequence[str] | Mapping[str, Any],
    folds: str | Sequence[int] | None = None,
    fold_count: int = 5,
    jobs: int = 1,
    config: RunConfig | None = None,
    overwrite: bool = False,
    progress: bool = False,
    watch: Watch | None = None,
    **options: object,
) -> Sweep:
    """Run every combination of varied options, seeds and folds; look at val only.

    ``lesioncam.sweep("brain.csv", "runs/pooling", vary={"pooling": ["avg", my_callable], "seed": [0, 1]}, epochs=20)``

    Args:
        table: a table, or a file with one.
        out: the folder to make, or to go on with.
        vary: as :func:`plan_sweep`.
        folds: as :func:`plan_sweep`.
        fold_count: as :func:`plan_sweep`.
        jobs: runs at a time, each in a process of its own; 1 stays in this one, as your own callables must.
        config: what does not vary; by default early stopping is off, so that all runs have one budget.
        overwrite: begin every run anew.
        progress: show bars.
        watch: called with the row of every run that ends here.
        **options: single options by name, as in :func:`lesioncam.run`.

    Returns:
        The folder; failed runs are rows with a sentence, not errors.

    Raises:
        LesioncamError: for a bad table or option; a folder that was begun with other options.
    """
    plan = plan_sweep(table, vary=vary, folds=folds, fold_count=fold_count, config=config, **options)
    logger.info("%s", plan.text())
    return run_sweep(plan, out, jobs=jobs, overwrite=overwrite, progress=progress, watch=watch)


def run_sweep(
    plan: SweepPlan,
    out: str | Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
    watch: Watch | None = None,
) -> Sweep:
    """Do what was planned; see :func:`sweep`.

    Raises:
        RunError: if the folder is something else, or was begun with other options.
        OptionError: for your own callable in several processes.
    """
    folder = Path(out)
    if jobs < 1:
        raise OptionError(f"--jobs {jobs}: expected 1 or more.")
    if jobs > 1 and any(trial.own is not None for trial in plan.trials):
        raise OptionError(f"--jobs {jobs}: your own pooling cannot be sent to other processes; use jobs=1.")
    _claim(folder, plan, overwrite=overwrite)
    book = _Book(folder, plan, None if overwrite else {str(row["run"]): row for row in rows_of(folder)}, watch)
    tasks = [
        _Task(
            trial, plan.parts[trial.fold], folder / "runs" / trial.name, plan.source, overwrite, _threads(trial, jobs)
        )
        for trial in plan.trials
        if overwrite or not is_finished(RunFolder(folder / "runs" / trial.name))
    ]
    book.write()
    if jobs > 1:
        stopped = side_by_side(_work, tasks, jobs, lambda task, how: book.note(task, _outcome(how)))
        return Sweep(folder, stopped or book.interrupted)
    for task in tasks:
        book.note(task, _work(task, progress=progress))
        if book.interrupted:
            break
    return Sweep(folder, book.interrupted)


class _Task(NamedTuple):
    trial: Trial
    prepared: Prepared
    place: Path
    source: Path | None
    anew: bool
    threads: int


class _Outcome(NamedTuple):
    state: str
    seconds: float = 0.0
    error: str = ""


def _threads(trial: Trial, jobs: int) -> int:
    """CPU threads of a run: its own wish, otherwise its share of the machine; 0 leaves them alone."""
    return trial.config.threads or (0 if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs))


def _work(task: _Task, *, progress: bool = False) -> _Outcome:
    """One run, from wherever it stands; whatever goes wrong is a sentence."""
    if task.threads:
        before = torch.get_num_threads()
        torch.set_num_threads(task.threads)
    begun = time.monotonic()
    try:
        interrupted = _run(task, progress=progress)
        state, error = ("interrupted" if interrupted else "done"), ""
    except KeyboardInterrupt:
        state, error = "interrupted", ""
    except LesioncamError as slip:
        state, error = "failed", str(slip)
    except Exception as slip:  # a failed run does not stop the others
        logger.exception("%s failed.", task.trial.name)
        state, error = "failed", f"{type(slip).__name__}: {slip}"
    finally:
        if task.threads:
            torch.set_num_threads(before)
        if task.source is not None and (task.place / "log").is_dir():  # the ledger of test lies beside the table
            remember_source(RunFolder(task.place), table=task.source)
    return _Outcome(state, time.monotonic() - begun, " ".join(error.split()))


def _run(task: _Task, *, progress: bool) -> bool:
    """Go on where there is something to go on from, otherwise begin; True if the user stopped it."""
    options: dict[str, Any] = {} if task.trial.own is None else {"pooling": task.trial.own}
    if not task.anew and can_resume(RunFolder(task.place)):
        try:
            return run(None, task.place, resume=True, progress=progress, **options).interrupted
        except RunError as error:
            logger.info("%s cannot be gone on with (%s); it is begun anew.", task.trial.name, error)
    config = task.trial.config
    return run(task.prepared, task.place, config=config, overwrite=True, progress=progress, **options).interrupted


def _outcome(how: Ended) -> _Outcome:
    if isinstance(how.value, _Outcome):
        return how.value
    return _Outcome("interrupted" if how.interrupted else "failed", 0.0, how.error or "")


# ---- what lies in the folder -------------------------------------------------------------------------------------


def _claim(folder: Path, plan: SweepPlan, *, overwrite: bool) -> None:
    """Write the plan; refuse what is no sweep, and runs that were begun with something else."""
    place = folder / "plan.json"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose a folder with -o.")
    if folder.is_dir() and any(folder.iterdir()) and not place.is_file():
        raise RunError(f"{folder} holds something that is no sweep; choose another -o.")
    found = read_json(place) if place.is_file() else {"runs": {}}
    kept = found.get("runs") if isinstance(found, dict) else None
    if not isinstance(kept, dict):
        raise RunError(f"{place} is no plan of a sweep; choose another -o.")
    new = {trial.name: _entry(trial, plan) for trial in plan.trials}
    if not overwrite:
        for name, entry in new.items():
            if name in kept and (folder / "runs" / name).exists():
                _expect_same(folder, name, kept[name], entry)
    equal, other = plan.terms()
    write_json(place, {"format": 1, "equal": equal, "not_equal": other, "runs": {**kept, **new}})


def _entry(trial: Trial, plan: SweepPlan) -> dict[str, Any]:
    table = plan.parts[trial.fold].table
    content = {
        "varied": dict(trial.varied),
        "table": digest(table)[:16] + table_roles(table)[:16],
        "config": trial.config.model_dump(mode="json"),
    }
    return dict(json.loads(json.dumps(content)))


def _expect_same(folder: Path, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    ways = "begin every run anew with --overwrite, or choose another -o"
    if old["table"] != new["table"]:
        raise RunError(f"{folder}: run {name} was begun on another table or split; {ways}.")
    plan = f"{folder / 'plan.json'}, {name}"  # read as options, so that those which are new since are as before
    before, now = (validated(RunConfig, each["config"], plan).model_dump(mode="json") for each in (old, new))
    if before != now:
        slips = [f"{at} was {a}, now {b}" for at, a, b in _differences(before, now)]
        raise RunError(f"{folder}: run {name} was begun with other options ({'; '.join(slips[:3])}); {ways}.")


def _differences(one: Any, two: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            yield from _differences(one.get(key), two.get(key), f"{at}.{key}" if at else str(key))
    elif one != two:
        yield at, one, two


def rows_of(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of ``sweep.csv`` as they were written; none where there is no such file."""
    path = Path(folder) / "sweep.csv"
    return pd.read_csv(path, dtype={"run": str}).to_dict("records") if path.is_file() else []  # type: ignore[return-value]


class _Book:
    """The tables of a sweep, rewritten whole after every run."""

    def __init__(
        self, folder: Path, plan: SweepPlan, kept: Mapping[str, Mapping[str, Any]] | None, watch: Watch | None
    ) -> None:
        self._folder, self._plan, self._watch = folder, plan, watch
        self.interrupted = False
        self._rows = {trial.name: self._row(trial, self._before(trial, kept)) for trial in plan.trials}

    def _before(self, trial: Trial, kept: Mapping[str, Mapping[str, Any]] | None) -> _Outcome:
        """How the run stood; without rows of an earlier call all begin anew."""
        if kept is None:
            return _Outcome("waiting")
        row = kept.get(trial.name, {})
        seconds = float(row["seconds"]) if pd.notna(row.get("seconds")) else 0.0
        folder = RunFolder(self._folder / "runs" / trial.name)
        if is_finished(folder):
            return _Outcome("done", seconds)
        return _Outcome("interrupted" if folder.is_run() else "waiting", seconds)

    def note(self, task: _Task, outcome: _Outcome) -> None:
        """Take down how a run ended."""
        name = task.trial.name
        seconds = float(self._rows[name]["seconds"]) * (not task.anew) + outcome.seconds
        row = self._row(task.trial, _Outcome(outcome.state, seconds, outcome.error))
        self._rows[name] = row
        self.interrupted |= outcome.state == "interrupted"
        self.write()
        ended = Counter(str(each["state"]) for each in self._rows.values())
        values = ", ".join(f"{metric} {row[metric]:.3f}" for metric in METRICS if pd.notna(row[metric]))
        logger.info(
            "[%d of %d] %s: %s%s, %.0f s%s",
            ended["done"] + ended["failed"],
            len(self._rows),
            name,
            outcome.state,
            f", {values}" if values else "",
            seconds,
            f"; {outcome.error}" if outcome.error else "",
        )
        if self._watch is not None:
            self._watch(dict(row))

    def _row(self, trial: Trial, outcome: _Outcome) -> dict[str, Any]:
        seconds = round(outcome.seconds, 1)
        values = dict.fromkeys(METRICS, float("nan"))
        if outcome.state == "done":
            values |= _numbers(RunFolder(self._folder / "runs" / trial.name))
        own = {"seconds": seconds, "state": outcome.state, "error": outcome.error}
        return {"run": trial.name, **trial.varied, **values, **own}

    def write(self) -> None:
        """Both tables, and the summary for people."""
        rows = pd.DataFrame(list(self._rows.values()))
        summary = summarise_sweep(rows, [option for option in self._plan.varied if option not in SPREAD])
        for name, frame in (("sweep.csv", rows), ("summary.csv", summary)):
            write_csv(self._folder / name, frame)
        write_text(self._folder / "summary.md", _page(self._plan, summary))


def _numbers(folder: RunFolder) -> dict[str, float]:
    """Means over classes on val, of the run's own maps."""
    metrics = pd.read_csv(folder.evaluation("val") / "metrics.csv")
    own = metrics[(metrics["class"] == "macro") & metrics["method"].map(lambda name: is_method(str(name)))]
    found = own.drop_duplicates("metric").set_index("metric")["value"]
    return {name: float(found[name]) for name in METRICS if name in found}


def summarise_sweep(rows: pd.DataFrame, options: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation (n - 1) and n over seeds and folds, for each combination of the other options.

    A run that is not done counts as missing and is named. The standard deviation of one run is NaN.

    Args:
        rows: as in ``sweep.csv``.
        options: the varied options that are neither seed nor fold; empty makes one row.

    Example:
        >>> rows = pd.DataFrame({"run": ["a0", "a1", "a2"], "pooling": "avg", "auroc": [0.8, 0.9, None],
        ...                      "state": ["done", "done", "failed"]})
        >>> found = summarise_sweep(rows, ["pooling"]).iloc[0]
        >>> f"{found['auroc_mean']:.3f} {found['auroc_sd']:.4f} {found['auroc_n']} {found['missing']}"
        '0.850 0.0707 2 a2'
    """
    groups = rows.groupby(list(options), sort=False) if options else [((), rows)]
    found = []
    for key, group in groups:
        done = group["state"] == "done"
        row: dict[str, Any] = dict(zip(options, key, strict=True))
        row |= {"runs": len(group), "done": int(done.sum()), "missing": " ".join(group["run"][~done])}
        for metric in METRICS:
            values = group[metric][done].dropna().astype(float) if metric in group else pd.Series(dtype=float)
            row |= {f"{metric}_mean": values.mean(), f"{metric}_sd": values.std(ddof=1), f"{metric}_n": len(values)}
        found.append(row)
    return pd.DataFrame(found)


def _page(plan: SweepPlan, summary: pd.DataFrame) -> str:
    """The summary for people, Markdown."""
    options = [option for option in plan.varied if option not in SPREAD]
    spread = [f"{len(plan.varied[name])} {name}s" for name in SPREAD if name in plan.varied]
    over = " and ".join(spread) or "one run each"
    heads = [*options, "runs done", *METRICS]
    lines = [f"# Sweep: val, mean and standard deviation over {over}", "", f"| {' | '.join(heads)} |"]
    lines.append("|" + "---|" * len(heads))
    for row in summary.to_dict("records"):
        cells = [str(row[option]) for option in options] + [f"{row['done']} of {row['runs']}"]
        cells += [_cell(row[f"{name}_mean"], row[f"{name}_sd"], row[f"{name}_n"]) for name in METRICS]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    missing = " ".join(filter(None, summary["missing"]))
    if missing:
        lines += ["", f"Missing (see `sweep.csv`): {missing}."]
    equal, other = plan.terms()
    lines += ["", f"Equal between the runs of one seed: {'; '.join(equal) or 'nothing'}."]
    if other:
        lines.append(f"Not equal: {'; '.join(other)}.")
    lines.append(
        "Epochs and thresholds were chosen on the validation images that these numbers are of, so they flatter all "
        "runs; test was not opened. Standard deviations divide by n - 1."
    )
    return "\n".join(lines) + "\n"


def _cell(mean: float, spread: float, count: int) -> str:
    if not count:
        return "-"
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if count > 1 else "") + f" ({count})"
