"""Verbs on finished runs: evaluate, compare, report, figures; and info."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from lesioncam.cli.parse import parse
from lesioncam.cli.terminal import Device, ModelThreshold, Out, log_to_terminal, numbers, on_terminal, read_threshold
from lesioncam.options.data import TableConfig
from lesioncam.options.run import RunConfig


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
    log_to_terminal()
    from lesioncam.errors import OptionError
    from lesioncam.verbs.evaluate import evaluate as measure_run
    from lesioncam.verbs.evaluate_maps import evaluate_maps as measure_maps

    asked = {name: getattr(args, name) for name in ("metrics", "by", "leaks", "bound", "sanity", "device")}
    asked["threshold"] = read_threshold(args.threshold)
    if args.table is None:
        if args.out is not None:
            raise OptionError(
                "-o is for another tool's maps: lesioncam evaluate MAPS TABLE -o OUT; a run keeps its own."
            )
        place = args.run
        measure_run(place, args.split, progress=on_terminal(), **asked)
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
            progress=on_terminal(),
            **asked,
        )
    from lesioncam.verbs.result import Run

    done = Run(place)
    print(numbers(done, args.split, everything=args.metrics == "all"))
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
    log_to_terminal()
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
    log_to_terminal()
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
    log_to_terminal()
    from lesioncam.reporting.figures.clear_figures import ClearStyle
    from lesioncam.verbs.clear_cases import ClearAsked, clear_figures

    asked = ClearAsked(
        args.split, args.rows, args.rule, args.class_scale, ClearStyle(palette=args.palette, smooth=args.smooth)
    )
    for path in clear_figures(args.run, args.out, asked, progress=on_terminal()):
        print(path)
    return 0
