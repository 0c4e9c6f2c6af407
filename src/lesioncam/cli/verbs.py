"""One function per verb: read the options, call one library function, print one line of result and the path."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from lesioncam.cli.parse import Pairs, parse
from lesioncam.config import RunConfig, TableConfig

if TYPE_CHECKING:
    from lesioncam.pipeline.steps import Run

__all__ = ["check", "demo", "evaluate", "index", "predict", "report", "run", "split", "train"]

Out = Annotated[Path, arg(aliases=["-o"], metavar="PATH")]
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
    from lesioncam.pipeline import steps

    done = steps.demo(args.out, seed=args.seed, overwrite=args.overwrite, progress=_watched())
    print(_numbers(done, "test"))
    print(f"\nreport: {done.report}\nnext:   lesioncam check YOUR_TABLE.csv")
    return 0


@dataclass(frozen=True)
class IndexArgs:
    """Make a table: from a folder with one sub-folder a class, or from a public set by name (NAME:DIR)."""

    source: Positional[str]
    """DIR, or NAME:DIR for a known public set."""
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
    from lesioncam.data.sources import index_source, write_index
    from lesioncam.errors import RunError

    if args.out.exists() and not args.overwrite:
        raise RunError(f"{args.out} exists; replace it with --overwrite or choose another -o.")
    frame = index_source(args.source, labels=args.labels, on=args.on)
    write_index(frame, args.out)
    print(f"{len(frame)} images: {args.out}\nnext: lesioncam check {args.out}")
    return 0


@dataclass(frozen=True)
class TableArgs:
    """What a table is, how it will be read, what is wrong with it: everything at once, with row numbers."""

    table: Positional[Path]
    """CSV or Parquet, one row per image."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    no_files: bool = False
    """Do not open image files."""


def check(words: Sequence[str]) -> int:
    """`lesioncam check`."""
    args = parse(TableArgs, "check", words)
    _log()
    from lesioncam.data.check import check_table
    from lesioncam.data.table import read_table

    table = read_table(args.table, config=args.read)
    found = check_table(table, files=not args.no_files, uncertain=args.read.uncertain, blank=args.read.blank)
    print(found.text())
    return 0 if found.ok else 2


@dataclass(frozen=True)
class SplitArgs:
    """Split a table by patient, stratified on the classes, seeded."""

    table: Positional[Path]
    """CSV or Parquet, one row per image."""
    out: Out
    """The table to write, CSV."""
    read: OmitArgPrefixes[TableConfig] = field(default_factory=TableConfig)
    seed: int = 0
    """Of the split."""
    overwrite: bool = False
    """Replace an earlier table."""


def split(words: Sequence[str]) -> int:
    """`lesioncam split`."""
    args = parse(SplitArgs, "split", words)
    _log()
    from lesioncam.data.split import split_table
    from lesioncam.data.table import SPLITS, read_table, write_table
    from lesioncam.errors import RunError

    if args.out.exists() and not args.overwrite:
        raise RunError(f"{args.out} exists; replace it with --overwrite or choose another -o.")
    table = split_table(read_table(args.table, config=args.read), args.read.fractions, seed=args.seed)
    write_table(table, args.out)
    counts = ", ".join(f"{len(table.split(name))} {name}" for name in SPLITS)
    print(f"{counts}: {args.out}")
    return 0


@dataclass(frozen=True)
class RunArgs:
    """Train a classifier from image-level labels, draw its maps, choose thresholds on val, measure and report."""

    table: Positional[Path | None] = None
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
    recipe: Path | None = None
    """Start from the options in this YAML file (a run's config.yaml)."""
    set: Pairs = field(default_factory=dict)
    """More options by their full name, for instance augment.flip=0."""


def run(words: Sequence[str]) -> int:
    """`lesioncam run`."""
    return _train(words, "run")


def train(words: Sequence[str]) -> int:
    """`lesioncam train`."""
    return _train(words, "train")


def _train(words: Sequence[str], verb: Literal["run", "train"]) -> int:
    args = parse(RunArgs, verb, words, default=_with_recipe(words))
    _log()
    from lesioncam.cli.parse import with_settings
    from lesioncam.pipeline import steps

    config = with_settings(args.config, args.set)
    if args.plan:
        print(steps.plan_run(_needed(args.table), config=config).text())
        return 0
    given = None if args.resume and config == RunConfig() else config
    act = steps.run if verb == "run" else steps.train
    done = act(args.table, args.out, config=given, resume=args.resume, overwrite=args.overwrite, progress=_watched())
    if done.interrupted:
        print(f"interrupted: the best weights so far are in {args.out}; go on with --resume.", file=sys.stderr)
        return 130
    if verb == "run":
        print(_numbers(done, "val"))
        print(f"\nreport: {done.report}\nnext:   lesioncam evaluate {args.out} --split test")
    else:
        print(f"model: {args.out}/model\nnext:  lesioncam run -o {args.out} --resume")
    return 0


@dataclass(frozen=True)
class EvaluateArgs:
    """Measure a run on one split and rebuild its report. Looking at test is counted, and the report says so."""

    run: Positional[Path]
    """The run folder."""
    split: Literal["val", "test"] = "val"
    """Which images."""
    threshold: ModelThreshold = "val"
    """Map thresholds: chosen on val, default (.5), or a probability."""


def evaluate(words: Sequence[str]) -> int:
    """`lesioncam evaluate`."""
    args = parse(EvaluateArgs, "evaluate", words)
    _log()
    from lesioncam.pipeline import steps

    steps.evaluate(args.run, args.split, threshold=_threshold(args.threshold), progress=_watched())
    done = steps.Run(args.run)
    print(_numbers(done, args.split))
    print(f"\nreport: {done.report}")
    return 0


@dataclass(frozen=True)
class ReportArgs:
    """Rebuild the report from the run folder alone."""

    run: Positional[Path]
    """The run folder."""


def report(words: Sequence[str]) -> int:
    """`lesioncam report`."""
    args = parse(ReportArgs, "report", words)
    _log()
    from lesioncam.pipeline import steps

    print(f"report: {steps.report(args.run)}")
    return 0


@dataclass(frozen=True)
class PredictArgs:
    """Maps, boxes and masks of new images, in their own pixels; no labels needed."""

    run: Positional[Path]
    """The run folder."""
    inputs: Positional[tuple[str, ...]]
    """Images, or folders of images."""
    out: Out
    """The folder to write."""
    write: tuple[Literal["maps", "boxes", "masks", "overlay"], ...] = ("maps", "boxes", "masks", "overlay")
    """What to write beside predictions.csv."""
    threshold: ModelThreshold = "val"
    """Map thresholds: chosen on val, default (.5), or a probability."""
    overwrite: bool = False
    """Replace an earlier prediction."""


def predict(words: Sequence[str]) -> int:
    """`lesioncam predict`."""
    args = parse(PredictArgs, "predict", words)
    _log()
    from lesioncam.pipeline import steps

    inputs = [image for given in args.inputs for image in _images(given)]
    results = steps.predict(
        args.run,
        inputs,
        args.out,
        write=args.write,
        threshold=_threshold(args.threshold),
        progress=_watched(),
        overwrite=args.overwrite,
    )
    failed = len(inputs) - len(results)
    note = f"; {failed} could not be used, see {args.out / 'failed.csv'}" if failed else ""
    print(f"{len(results)} images: {args.out / 'predictions.csv'}{note}")
    return 0


# ---- parts -------------------------------------------------------------------------------------------------------


def _with_recipe(words: Sequence[str]) -> RunArgs:
    """Defaults of the parser: those of the recipe, where one is named."""
    from lesioncam.pipeline.recipe import load_config

    words = list(words)
    for i, word in enumerate(words):
        if word == "--recipe" and i + 1 < len(words):
            return RunArgs(config=load_config(words[i + 1]))
        if word.startswith("--recipe="):
            return RunArgs(config=load_config(word.partition("=")[2]))
    return RunArgs()


def _images(given: str) -> list[str]:
    """A file as it is; of a folder, every image in it."""
    from lesioncam.data.io import IMAGE_SUFFIXES
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


def _numbers(done: Run, split: str) -> str:
    """The headline numbers, each beside its best control."""
    from lesioncam.cli.text import headline

    return headline(done.metrics(split), split)


def _watched() -> bool:
    """Bars belong on a terminal, not in a log file."""
    return sys.stderr.isatty()


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "fontTools", "timm", "lightning", "lightning.pytorch", "httpx", "h5py"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
