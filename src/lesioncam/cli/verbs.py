"""One function per verb: read the options, call one library function, print one line of result and the path."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from lesioncam.cli.parse import parse
from lesioncam.cli.readers import Pairs
from lesioncam.options.data import TableConfig
from lesioncam.options.run import CalibrationKind, MapMethod, RunConfig, Task, make_config

if TYPE_CHECKING:
    from lesioncam.data.table.duplicates import Pair
    from lesioncam.data.table.table import Table
    from lesioncam.verbs.result import Run


Out = Annotated[Path, arg(aliases=["-o"], metavar="PATH")]
Device = Annotated[str, arg(metavar="auto|cpu|cuda")]
ModelThreshold = Annotated[str, arg(metavar="val|default|0.4")]


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
    _log()
    from lesioncam.verbs.demo import demo as run_demo

    done = run_demo(args.out, seed=args.seed, overwrite=args.overwrite, progress=_watched())
    print(_numbers(done, "test"))
    print(f"\nreport: {done.report}\nnext:   lesioncam check YOUR_TABLE.csv")
    return 0


@dataclass(frozen=True)
class IndexArgs:
    """Make a table: from a folder with one sub-folder a class, or from a public set by name (NAME:DIR)."""

    source: Positional[str]
    """DIR, or NAME:DIR for a known public set: br35h, figshare-brain, idrid, idrid-lesions, mnist, nih-cxr."""
    out: Out
    """The table to write, CSV."""
    labels: Path | None = None
    """Join a table of labels ..."""
    on: str | None = None
    """... on this column of it, which names the images."""
    overwrite: bool = False
    """Replace an earlier table."""


def index(words: Sequence[str]) -> int:
    """`lesioncam index`."""
    args = parse(IndexArgs, "index", words)
    _log()
    from lesioncam.data.sources import describe_source, index_source, write_index
    from lesioncam.errors import RunError

    if args.out.exists() and not args.overwrite:
        raise RunError(f"{args.out} exists; replace it with --overwrite or choose another -o.")
    frame = index_source(args.source, labels=args.labels, on=args.on)
    write_index(frame, args.out)
    about = describe_source(args.source)
    print(f"{about}{len(frame)} images: {args.out}\nnext: lesioncam check {_typed(args.out)}")
    return 0


@dataclass(frozen=True)
class TableArgs:
    """What a table is, how it will be read, what is wrong with it: everything at once, with row numbers."""

    table: Positional[Path]
    """CSV or Parquet, one row per image."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    task: Task = "auto"
    """Whether the labels fit what a run is to learn: multiclass and ordinal need exactly one class in every image."""
    no_files: bool = False
    """Do not open image files; near-identical images are then not found."""


def check(words: Sequence[str]) -> int:
    """`lesioncam check`."""
    args = parse(TableArgs, "check", words)
    _log()
    from lesioncam.data.table.check import check_table
    from lesioncam.data.table.table import read_table
    from lesioncam.data.table.targets import check_task

    table = read_table(args.table, config=args.read)
    found = check_table(table, files=not args.no_files, policy=args.read)
    print(found.text())
    check_task(table, args.read, args.task)
    return 0 if found.ok else 2


@dataclass(frozen=True)
class SplitArgs:
    """Split a table by patient, study and near-identical images, stratified on the classes, seeded."""

    table: Positional[Path]
    """CSV or Parquet, one row per image."""
    out: Out
    """The table to write, CSV."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    folds: int | None = None
    """Number the patients into so many folds (a column `fold`) ..."""
    fold: int | None = None
    """... and split for this one: test is fold i, val the next, train the rest. Alone: use the column that is there."""
    after: Annotated[str | None, arg(metavar="DATE")] = None
    """Test on this date and later; the earlier rows are dealt to train and val."""
    date_column: str | None = None
    """Where the dates are; by default the one column whose name holds "date"."""
    hold_out: Annotated[str | None, arg(metavar="COLUMN=VALUE")] = None
    """Test on these rows, for instance site=B; the others are dealt to train and val."""
    no_files: bool = False
    """Do not open the images: near-identical ones are then not kept together."""
    seed: int = 0
    """Of the split."""
    overwrite: bool = False
    """Replace an earlier table."""


def split(words: Sequence[str]) -> int:
    """`lesioncam split`."""
    args = parse(SplitArgs, "split", words)
    _log()
    from lesioncam.data.table.duplicates import collect_prints, duplicate_rows
    from lesioncam.data.table.table import read_table, write_table
    from lesioncam.errors import OptionError, RunError
    from lesioncam.types import SPLITS

    if args.out.exists() and not args.overwrite:
        raise RunError(f"{args.out} exists; replace it with --overwrite or choose another -o.")
    ways = [name for name in ("folds", "after", "hold_out") if getattr(args, name) is not None]
    if len(ways) > 1:
        raise OptionError(f"one way at a time: {' and '.join('--' + w.replace('_', '-') for w in ways)} were given.")
    table = read_table(args.table, config=args.read)
    pairs = [] if args.no_files else duplicate_rows(table, collect_prints(table))
    table, notes = _split(args, table, pairs)
    write_table(table, args.out)
    if pairs:
        notes.append(f"{len(pairs)} pairs of nearly the same image were kept together")
    if args.folds is not None and args.fold is None:
        sizes = table.frame["extra:fold"].value_counts().sort_index()
        counts = f"{', '.join(map(str, sizes))} images in folds 0 to {args.folds - 1}"
    else:
        counts = ", ".join(f"{len(table.split(name))} {name}" for name in SPLITS)
    print("".join(f"{note}\n" for note in notes) + f"{counts}: {args.out}")
    return 0


def _split(args: SplitArgs, table: Table, pairs: Sequence[Pair]) -> tuple[Table, list[str]]:
    """The way that was asked for, and what there is to say about it."""
    from lesioncam.data.table.split import hold_out, split_by_date, split_folds, split_table, use_fold
    from lesioncam.errors import OptionError

    shares = args.read.fractions
    if args.folds is not None:
        table = split_folds(table, args.folds, args.seed, pairs=pairs)
        note = f"{args.folds} folds, in the column `fold`; lesioncam split {args.out} --fold 0 -o ... splits for one"
        return (table, [note]) if args.fold is None else (use_fold(table, args.fold), [])
    if args.fold is not None:
        return use_fold(table, args.fold), []
    if args.after is not None:
        found = split_by_date(table, _date_column(args, table), args.after, shares, args.seed, pairs=pairs)
    elif args.hold_out is not None:
        column, equals, value = args.hold_out.partition("=")
        if not equals:
            raise OptionError(f"--hold-out {args.hold_out}: expected COLUMN=VALUE, for instance site=B.")
        found = hold_out(table, column, value, shares, args.seed, pairs=pairs)
    else:
        return split_table(table, shares, seed=args.seed, pairs=pairs), []
    if not found.straddling:
        return found.table, []
    unit = "groups of one patient or of near-identical images"
    who = f"on both sides, hence moved to test whole: {len(found.straddling)} {unit} ({found.moved} images)"
    return found.table, [who]


def _date_column(args: SplitArgs, table: Table) -> str:
    from lesioncam.errors import OptionError

    if args.date_column is not None:
        return args.date_column
    own = [str(name).removeprefix("extra:") for name in table.frame if str(name).startswith("extra:")]
    dates = [name for name in own if "date" in name.lower()]
    if len(dates) != 1:
        raise OptionError(
            f"--after needs to know the column of dates: {', '.join(dates) or 'none'} could be it; name one with "
            "--date-column."
        )
    return dates[0]


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
    _log()
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
        print(plan_run(_needed(args.table), config=config).text())
        return 0
    given = None if args.resume and config == RunConfig() else config
    act = run_all if verb == "run" else train_only
    done = act(args.table, args.out, config=given, resume=args.resume, overwrite=args.overwrite, progress=_watched())
    if done.interrupted:
        print(f"interrupted: the best weights so far are in {args.out}; go on with --resume.", file=sys.stderr)
        return 130
    if verb == "run":
        print(_numbers(done, "val"))
        print(f"\nreport: {done.report}\nnext:   lesioncam evaluate {_typed(args.out)} --split test")
    else:
        print(f"model: {args.out}/model\nnext:  lesioncam run -o {_typed(args.out)} --resume")
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
    _log()
    from lesioncam.cli.parse import with_settings
    from lesioncam.verbs.sweep import estimate, plan_sweep, rows_of, run_sweep

    config = with_settings(args.config, args.set)
    plan = plan_sweep(_needed(args.table), vary=args.vary, folds=args.folds, fold_count=args.fold_count, config=config)
    rows = [] if args.overwrite else rows_of(args.out)
    print(plan.text(rows, estimate(plan, rows), args.jobs), flush=True)
    if args.plan:
        return 0
    done = run_sweep(plan, args.out, jobs=args.jobs, overwrite=args.overwrite, progress=_watched())
    failed = [str(row["run"]) for row in rows_of(args.out) if row["state"] == "failed"]
    if failed:
        print(f"{len(failed)} failed, see sweep.csv: {', '.join(failed)}", file=sys.stderr)
    if done.interrupted:
        print(f"interrupted: what is finished lies in {args.out}; the same command goes on.", file=sys.stderr)
        return 130
    print((args.out / "summary.md").read_text())
    shared = args.folds is None and sum(row["state"] == "done" for row in rows_of(args.out)) > 1
    hint = f"\nnext: lesioncam compare {_typed(args.out)}/runs/* -o {_typed(args.out)}/compared" if shared else ""
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
    _log()
    from lesioncam.verbs.calibrate import recalibrate

    asked = {name: getattr(args, name) for name in ("calibration", "map_calibration", "operating_point")}
    card = recalibrate(args.run, progress=_watched(), **{k: v for k, v in asked.items() if v is not None})
    for name, decision, cut in zip(card.classes, card.decisions or (), card.thresholds or (), strict=True):
        print(f"{name}: image threshold {decision.value:.3f}, map threshold {cut.value:.3f} ({cut.source})")
    print(f"next: lesioncam evaluate {_typed(args.run)}")
    return 0


@dataclass(frozen=True)
class EvaluateArgs:
    """Measure a run, or another tool's maps, on one split and write the report. Looking at test is counted."""

    run: Positional[Path]
    """The run folder; or a folder of maps, with a TABLE and -o."""
    table: Annotated[Positional[Path | None], arg(metavar="TABLE", help_behavior_hint="")] = None
    """The table, for another tool's maps."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="PATH")] = None
    """The folder to make, for another tool's maps."""
    split: Literal["val", "test"] = "val"
    """Which images."""
    threshold: ModelThreshold = "val"
    """Map thresholds: chosen on val, default (.5), or a probability."""
    metrics: Literal["default", "all"] = "default"
    """The short table, or every metric."""
    by: tuple[str, ...] = ()
    """Columns of the table by which groups are reported, for instance sex age scanner."""
    leaks: Literal["refuse", "drop"] = "refuse"
    """Near-copies of training images in this split: refuse, or leave them out and count them."""
    bound: Path | None = None
    """Folder with a supervised model's maps or masks: an upper mark in the report."""
    sanity: bool = False
    """Also compare the maps with those of the same network with random weights."""
    name: str | None = None
    """What another tool's method is called."""
    device: Device = "auto"
    """Where networks work; auto takes a GPU where there is one."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    overwrite: bool = False
    """Replace an earlier evaluation of maps in -o, with all that was chosen."""


def evaluate(words: Sequence[str]) -> int:
    """`lesioncam evaluate`."""
    args = parse(EvaluateArgs, "evaluate", words)
    _log()
    from lesioncam.errors import OptionError
    from lesioncam.verbs.evaluate import evaluate as measure_run
    from lesioncam.verbs.evaluate_maps import evaluate_maps as measure_maps

    asked = {name: getattr(args, name) for name in ("metrics", "by", "leaks", "bound", "sanity", "device")}
    asked["threshold"] = _threshold(args.threshold)
    if args.table is None:
        if args.out is not None:
            raise OptionError(
                "-o is for another tool's maps: lesioncam evaluate MAPS TABLE -o OUT; a run keeps its own."
            )
        place = args.run
        measure_run(place, args.split, progress=_watched(), **asked)
    else:
        if args.out is None:
            raise OptionError("where should it go? lesioncam evaluate MAPS TABLE -o OUT")
        place = args.out
        config = RunConfig(table=args.read)
        measure_maps(
            args.run,
            args.table,
            place,
            args.split,
            name=args.name,
            config=config,
            overwrite=args.overwrite,
            progress=_watched(),
            **asked,
        )
    from lesioncam.verbs.result import Run

    done = Run(place)
    print(_numbers(done, args.split, everything=args.metrics == "all"))
    print(f"\nreport: {done.report}")
    return 0


@dataclass(frozen=True)
class CompareArgs:
    """Put finished evaluations side by side: paired, corrected, ties as ties; what was equal and what differed."""

    runs: Positional[tuple[Path, ...]]
    """Two or more run folders."""
    out: Out
    """The folder to write."""
    split: Literal["val", "test"] | None = None
    """Which images; by default test where all were evaluated on it, otherwise val."""
    seed: int = 0
    """Of the bootstrap."""
    draws: int = 2000
    """Bootstrap draws."""
    overwrite: bool = False
    """Replace an earlier comparison."""


def compare(words: Sequence[str]) -> int:
    """`lesioncam compare`."""
    args = parse(CompareArgs, "compare", words)
    _log()
    from lesioncam.reporting.comparison.comparison import compare_runs

    page = compare_runs(
        args.runs, args.out, split=args.split, seed=args.seed, draws=args.draws, overwrite=args.overwrite
    )
    print(f"comparison: {page}")
    return 0


@dataclass(frozen=True)
class ReportArgs:
    """Rebuild the report from the run folder alone."""

    run: Positional[Path]
    """The run folder."""
    share: bool = False
    """A version to give away: no images, ids, paths, user or host names; small cells merged."""


def report(words: Sequence[str]) -> int:
    """`lesioncam report`."""
    args = parse(ReportArgs, "report", words)
    _log()
    from lesioncam.verbs.report import report as write

    print(f"report: {write(args.run, share=args.share)}")
    return 0


@dataclass(frozen=True)
class InfoArgs:
    """What there is to choose from: verbs, poolings, map methods, metrics, sources, recipes, options."""

    json: bool = False
    """For programs: with defaults, groups and help of every option."""


def info(words: Sequence[str]) -> int:
    """`lesioncam info`."""
    args = parse(InfoArgs, "info", words)
    from json import dumps

    from lesioncam.verbs.info import info as gather
    from lesioncam.verbs.info import info_text

    print(dumps(gather(), indent=2) if args.json else info_text(gather()))
    return 0


@dataclass(frozen=True)
class FiguresArgs:
    """The figures of CLEAR: a table of input, output, maps and reading, and a figure with one column per class."""

    run: Positional[Path]
    """The run folder; at least two classes."""
    out: Out
    """The folder to write clear_table.png, clear_grades.png and clear_cases.csv."""
    split: Literal["val", "test"] = "val"
    """An evaluated split."""
    rows: int = 3
    """Correct cases in the table, and as many wrong ones; those of median confidence."""
    rule: Literal["linear", "deconvnet", "guided", "gradient"] = "guided"
    """What a ReLU does to the signal on its way back; gradient is the only one for other activations."""
    class_scale: Literal["none", "softmax", "standardise"] = "none"
    """How classes are made comparable before they compete for a pixel."""
    palette: Literal["hue", "safe"] = "safe"
    """Colours of the paper, or colours for colour-blind readers (up to 7 classes)."""
    smooth: float = 3.0
    """Standard deviation of a Gaussian before the red box is looked for, pixels; 0 boxes single bright pixels."""


def figures(words: Sequence[str]) -> int:
    """`lesioncam figures`."""
    args = parse(FiguresArgs, "figures", words)
    _log()
    from lesioncam.reporting.figures.clear_figures import ClearStyle
    from lesioncam.verbs.clear_cases import ClearAsked, clear_figures

    asked = ClearAsked(
        args.split, args.rows, args.rule, args.class_scale, ClearStyle(palette=args.palette, smooth=args.smooth)
    )
    for path in clear_figures(args.run, args.out, asked, progress=_watched()):
        print(path)
    return 0


@dataclass(frozen=True)
class PredictArgs:
    """Maps, boxes and masks of new images, in their own pixels; no labels needed."""

    run: Positional[Path]
    """The run folder; the arguments after it that are run folders too join it in an ensemble: mean of probabilities."""
    inputs: Positional[tuple[str, ...]]
    """Images, or folders of images."""
    out: Out
    """The folder to write."""
    write: tuple[Literal["maps", "boxes", "masks", "overlay", "crops"], ...] = ("maps", "boxes", "masks", "overlay")
    """What to write beside predictions.csv."""
    map: Annotated[MapMethod | None, arg(metavar="METHOD")] = None
    """Map method, by default the run's own; thresholds hold for that one, maps of another are cut at half their range.
    One of cam, gradcam, gradcam_pp, hirescam, xgradcam, layercam, eigencam, scorecam, occlusion, rise,
    integrated_gradients, smoothgrad, clear."""
    classes: Annotated[tuple[str, ...], arg(name="class", metavar="NAME")] = ()
    """Draw these classes only."""
    threshold: ModelThreshold = "val"
    """Map thresholds: chosen on val, default (.5), or a probability; of an ensemble, the mean of the members'."""
    views: Literal["none", "flip", "ten-crop"] = "none"
    """Look more than once and average: flip adds the left-right mirror; ten-crop takes four corners and the centre,
    each mirrored too. A trap where a finding has a side: a mirrored heart is not the same heart."""
    device: Device = "auto"
    """Where networks work; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Replace an earlier prediction."""


def predict(words: Sequence[str]) -> int:
    """`lesioncam predict`."""
    args = parse(PredictArgs, "predict", words)
    _log()
    from lesioncam.verbs.predict import predict as look

    members, given = _members(args.run, args.inputs)
    inputs = [image for one in given for image in _images(one)]
    results = look(
        members,
        inputs,
        args.out,
        write=args.write,
        threshold=_threshold(args.threshold),
        map=args.map,
        classes=args.classes,
        views=args.views,
        device=args.device,
        progress=_watched(),
        overwrite=args.overwrite,
    )
    failed = len(inputs) - len(results)
    note = f"; {failed} could not be used, see {args.out / 'failed.csv'}" if failed else ""
    who = f" by {len(members)} runs" if len(members) > 1 else ""
    print(f"{len(results)} images{who}: {args.out / 'predictions.csv'}{note}")
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
    _log()
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
        progress=_watched(),
    )
    print(f"{done.test}\nnext: lesioncam evaluate {_typed(args.out)}")
    return 0


# ---- parts -------------------------------------------------------------------------------------------------------


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


def _members(first: Path, others: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Runs and images of `predict`: the leading arguments that are run folders are runs."""
    from lesioncam.errors import OptionError
    from lesioncam.runs.folder import RunFolder

    rest = list(others)
    members = [first]
    while rest and RunFolder(Path(rest[0])).is_run():
        members.append(Path(rest.pop(0)))
    if late := [one for one in rest if RunFolder(Path(one)).is_run()]:
        raise OptionError(f"{late[0]} is a run folder behind an image; name runs first, then images.")
    if not rest:
        raise OptionError("no image was given; name images behind the run folders, for instance slices/*.png.")
    return members, rest


def _images(given: str) -> list[str]:
    """A file as it is; of a folder, every image in it."""
    from lesioncam.data.io.image import IMAGE_SUFFIXES
    from lesioncam.errors import OptionError

    folder = Path(given)
    if not folder.is_dir():
        return [given]
    found = sorted(str(path) for path in folder.iterdir() if path.name.lower().endswith(tuple(IMAGE_SUFFIXES)))
    if not found:
        raise OptionError(f"{given} holds no image; readable are {', '.join(IMAGE_SUFFIXES)}.")
    return found


def _needed(table: Path | None) -> Path:
    from lesioncam.errors import OptionError

    if table is None:
        raise OptionError("no table was given; name one, for instance `lesioncam run labels.csv -o runs/x --plan`.")
    return table


def _threshold(text: str) -> str | float:
    from lesioncam.errors import OptionError

    if text in ("val", "default"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise OptionError(f"--threshold {text!r}: expected val, default, or a probability above 0 and up to 1.")
    return value


def _numbers(done: Run, split: str, *, everything: bool = False) -> str:
    """The headline numbers, each beside its best control; everything else below, where it was asked for."""
    from lesioncam.cli.text import every_metric, headline

    metrics = done.metrics(split)
    return headline(metrics, split) + (f"\n\n{every_metric(metrics)}" if everything else "")


def _watched() -> bool:
    """Bars belong on a terminal, not in a log file."""
    return sys.stderr.isatty()


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "fontTools", "timm", "lightning", "lightning.pytorch", "httpx", "h5py"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _typed(path: object) -> str:
    """A path as it can be typed again, also with spaces."""
    return shlex.quote(str(path))
