"""Verbs that make a run: demo, run, train, sweep, adopt, and calibrate, which chooses anew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from lesioncam.cli.parse import parse
from lesioncam.cli.readers import Pairs
from lesioncam.cli.terminal import Out, expect_table, log_to_terminal, numbers, on_terminal, typed
from lesioncam.options.data import TableConfig
from lesioncam.options.run import CalibrationKind, MapMethod, RunConfig, Task, make_config


@dataclass(frozen=True)
class DemoArgs:
    """The whole road on the built-in phantom: real anatomy, planted lesions, exact masks; no data, no network."""

    out: Out = Path("runs/demo")
    """The run folder to make."""
    seed: int = 0
    """Of phantom and training."""
    overwrite: bool = False
    """Replace an earlier demo."""


def demo(words: Sequence[str]) -> int:
    """`lesioncam demo`."""
    args = parse(DemoArgs, "demo", words)
    log_to_terminal()
    from lesioncam.verbs.demo import demo as run_demo

    done = run_demo(args.out, seed=args.seed, overwrite=args.overwrite, progress=on_terminal())
    print(numbers(done, "test"))
    print(f"\nreport: {done.report}\nnext:   lesioncam check YOUR_TABLE.csv")
    return 0


@dataclass(frozen=True)
class RunArgs:
    """Train a classifier from image-level labels, draw its maps, choose thresholds on val, measure and report."""

    table: Annotated[Positional[Path | None], arg(metavar="TABLE", help_behavior_hint="")] = None
    """CSV or Parquet, one row per image; none with --resume."""
    out: Out = Path("runs/run")
    """The run folder to make."""
    config: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    plan: bool = False
    """Print images, time, memory and disk, and stop."""
    resume: bool = False
    """Go on where an earlier run stopped, with its own table and options."""
    overwrite: bool = False
    """Replace an earlier run."""
    recipe: Annotated[str | None, arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Start from these options; what is typed wins. A published system by its name (`--recipe list` names them,
    `--recipe NAME --plan` shows what one is about), or a YAML file (a run's config.yaml)."""
    set: Pairs = field(default_factory=dict)
    """More options by their full name, for instance augment.flip=0."""


def run(words: Sequence[str]) -> int:
    """`lesioncam run`."""
    return _train(words, "run")


def train(words: Sequence[str]) -> int:
    """`lesioncam train`."""
    return _train(words, "train")


def _train(words: Sequence[str], verb: Literal["run", "train"]) -> int:
    if _recipe_word(words) == "list":
        from lesioncam.options.recipes import list_recipes

        print(list_recipes())
        return 0
    args = parse(RunArgs, verb, words, default=_with_recipe(words))
    log_to_terminal()
    from lesioncam.cli.parse import with_settings
    from lesioncam.verbs.run import run as run_all
    from lesioncam.verbs.train import plan_run
    from lesioncam.verbs.train import train as train_only

    config = with_settings(args.config, args.set)
    if args.plan and args.recipe is not None:
        from lesioncam.options.recipes import describe_recipe, load_recipe

        print(describe_recipe(load_recipe(args.recipe)))
        if args.table is None:
            return 0
    if args.plan:
        print(plan_run(expect_table(args.table), config=config).text())
        return 0
    given = None if args.resume and config == RunConfig() else config
    act = run_all if verb == "run" else train_only
    done = act(args.table, args.out, config=given, resume=args.resume, overwrite=args.overwrite, progress=on_terminal())
    if done.interrupted:
        print(f"interrupted: the best weights so far are in {args.out}; go on with --resume.", file=sys.stderr)
        return 130
    if verb == "run":
        print(numbers(done, "val"))
        print(f"\nreport: {done.report}\nnext:   lesioncam evaluate {typed(args.out)} --split test")
    else:
        print(f"model: {args.out}/model\nnext:  lesioncam run -o {typed(args.out)} --resume")
    return 0


@dataclass(frozen=True)
class SweepArgs:
    """Every combination of varied options, seeds and folds, on equal terms; looks at val only, and goes on by itself.

    The same command again keeps what is finished and goes on with the rest. Tables: sweep.csv (a row per run),
    summary.csv and summary.md (mean and standard deviation over seeds and folds).
    """

    table: Annotated[Positional[Path | None], arg(metavar="TABLE", help_behavior_hint="")] = None
    """CSV or Parquet, one row per image."""
    out: Out = Path("runs/sweep")
    """The folder to make, or to go on with."""
    vary: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="OPTION=A,B")] = ()
    """Any option and its values, as often as there are options: pooling=avg,lse seed=0,1,2 augment.flip=0,0.5. Where a
    value has options of its own, put | or ; between values: 'pooling=lse,sharpness=6|pcam'. A YAML list will do."""
    folds: Annotated[str | None, arg(metavar="all|0,2")] = None
    """Cross-validation: each fold's held-out part is its test part (closed here), the next fold its val. Folds are
    those of the column `fold`, otherwise made by patient and near-duplicates."""
    fold_count: int = 5
    """So many folds, where the table has no column `fold`."""
    jobs: int = 1
    """Runs at a time, each in a process of its own."""
    config: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    plan: bool = False
    """Print runs, what is equal between them and the time, and stop."""
    overwrite: bool = False
    """Begin every run anew."""
    recipe: Annotated[str | None, arg(metavar="NAME|FILE", help_behavior_hint="")] = None
    """Start from these options; early stopping is off all the same unless --patience says otherwise."""
    set: Pairs = field(default_factory=dict)
    """More options by their full name, for instance augment.flip=0."""


def sweep(words: Sequence[str]) -> int:
    """`lesioncam sweep`."""
    base = _with_recipe(words).config.model_copy(update={"patience": 0})
    args = parse(SweepArgs, "sweep", words, default=SweepArgs(config=base))
    log_to_terminal()
    from lesioncam.cli.parse import with_settings
    from lesioncam.verbs.sweep import estimate, plan_sweep, rows_of, run_sweep

    config = with_settings(args.config, args.set)
    plan = plan_sweep(
        expect_table(args.table), vary=args.vary, folds=args.folds, fold_count=args.fold_count, config=config
    )
    rows = [] if args.overwrite else rows_of(args.out)
    print(plan.text(rows, estimate(plan, rows), args.jobs), flush=True)
    if args.plan:
        return 0
    done = run_sweep(plan, args.out, jobs=args.jobs, overwrite=args.overwrite, progress=on_terminal())
    failed = [str(row["run"]) for row in rows_of(args.out) if row["state"] == "failed"]
    if failed:
        print(f"{len(failed)} failed, see sweep.csv: {', '.join(failed)}", file=sys.stderr)
    if done.interrupted:
        print(f"interrupted: what is finished lies in {args.out}; the same command goes on.", file=sys.stderr)
        return 130
    print((args.out / "summary.md").read_text())
    shared = args.folds is None and sum(row["state"] == "done" for row in rows_of(args.out)) > 1
    hint = f"\nnext: lesioncam compare {typed(args.out)}/runs/* -o {typed(args.out)}/compared" if shared else ""
    print(f"runs: {args.out / 'sweep.csv'}{hint}")
    return 0


@dataclass(frozen=True)
class CalibrateArgs:
    """Choose a run's scales, operating points and map thresholds anew, on validation; evaluate again afterwards."""

    run: Positional[Path]
    """The run folder."""
    calibration: CalibrationKind | None = None
    """Of image scores: none (the sigmoid), temperature, platt or isotonic; as before if left out."""
    map_calibration: CalibrationKind | None = None
    """Of map values, on the validation masks."""
    operating_point: Annotated[str | None, arg(metavar="youden|sensitivity=0.9|specificity=0.9|cost=5")] = None
    """Rule for the image thresholds."""


def calibrate(words: Sequence[str]) -> int:
    """`lesioncam calibrate`."""
    args = parse(CalibrateArgs, "calibrate", words)
    log_to_terminal()
    from lesioncam.verbs.calibrate import recalibrate

    asked = {name: getattr(args, name) for name in ("calibration", "map_calibration", "operating_point")}
    card = recalibrate(args.run, progress=on_terminal(), **{k: v for k, v in asked.items() if v is not None})
    for name, decision, cut in zip(card.classes, card.decisions or (), card.thresholds or (), strict=True):
        print(f"{name}: image threshold {decision.value:.3f}, map threshold {cut.value:.3f} ({cut.source})")
    print(f"next: lesioncam evaluate {typed(args.run)}")
    return 0


@dataclass(frozen=True)
class AdoptArgs:
    """Take in a network of your own: self-test, thresholds and calibration on val; then evaluate, compare, predict."""

    model: Positional[str]
    """timm:NAME, or module:function of your own that returns a torch.nn.Module."""
    table: Positional[Path]
    """CSV or Parquet, one row per image; the classes in the network's own order (--classes)."""
    out: Out
    """The run folder to make."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Safetensors, or a state dict of torch; a function of your own may bring its own."""
    map: Annotated[MapMethod | None, arg(metavar="METHOD")] = None
    """Map method, as in predict; by default cam where the network ends in pooling and a linear layer, else gradcam."""
    layer: str | None = None
    """Where maps are taken, a dotted name; found by itself otherwise."""
    options: Pairs = field(default_factory=dict)
    """Keyword arguments of the function that makes the network, for instance in_chans=1."""
    prepare: Pairs = field(default_factory=dict)
    """How images are prepared where it is not timm's way for this network: size=320 crop_pct=1 mean=[0.5] std=[0.5]."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    task: Task = "auto"
    """multiclass or ordinal where the network's scores are meant for a softmax; auto is a sigmoid for each class."""
    calibration: CalibrationKind = "none"
    """Of image scores, on val: none (the sigmoid or softmax), temperature, platt or isotonic."""
    map_calibration: CalibrationKind = "none"
    """Of map values, on the validation masks."""
    operating_point: Annotated[str, arg(metavar="youden|sensitivity=0.9|specificity=0.9|cost=5")] = "youden"
    """Rule for the image thresholds."""
    seed: int = 0
    """Of the split and the intervals."""
    draws: int = 1000
    """Bootstrap draws per interval."""
    overwrite: bool = False
    """Replace an earlier run."""


def adopt(words: Sequence[str]) -> int:
    """`lesioncam adopt`."""
    args = parse(AdoptArgs, "adopt", words)
    log_to_terminal()
    from lesioncam.cli.parse import read_values
    from lesioncam.verbs.adopt import adopt as take_in

    config = make_config(
        table=args.read,
        task=args.task,
        calibration=args.calibration,
        map_calibration=args.map_calibration,
        operating_point=args.operating_point,
        seed=args.seed,
        draws=args.draws,
    )
    done = take_in(
        args.model,
        args.table,
        args.out,
        weights=args.weights,
        map=args.map,
        layer=args.layer,
        options=read_values(args.options),
        prepare=read_values(args.prepare),
        config=config,
        overwrite=args.overwrite,
        progress=on_terminal(),
    )
    print(f"{done.test}\nnext: lesioncam evaluate {typed(args.out)}")
    return 0


def _with_recipe(words: Sequence[str]) -> RunArgs:
    """Defaults of the parser: those of the recipe, where one is named."""
    named = _recipe_word(words)
    if named is None:
        return RunArgs()
    from lesioncam.options.recipes import load_config

    return RunArgs(config=load_config(named))


def _recipe_word(words: Sequence[str]) -> str | None:
    """What was typed after --recipe."""
    for i, word in enumerate(words):
        if word == "--recipe" and i + 1 < len(words):
            return words[i + 1]
        if word.startswith("--recipe="):
            return word.partition("=")[2]
    return None
