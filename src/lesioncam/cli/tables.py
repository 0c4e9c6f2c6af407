"""Verbs on tables: index, check, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from lesioncam.cli.parse import parse
from lesioncam.options.data import TableConfig
from lesioncam.options.run import Task

if TYPE_CHECKING:
    from lesioncam.data.table.duplicates import Pair
    from lesioncam.data.table.table import Table


from lesioncam.cli.terminal import Out, log_to_terminal, typed


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
    log_to_terminal()
    from lesioncam.data.sources import describe_source, index_source, write_index
    from lesioncam.errors import RunError

    if args.out.exists() and not args.overwrite:
        raise RunError(f"{args.out} exists; replace it with --overwrite or choose another -o.")
    frame = index_source(args.source, labels=args.labels, on=args.on)
    write_index(frame, args.out)
    about = describe_source(args.source)
    print(f"{about}{len(frame)} images: {args.out}\nnext: lesioncam check {typed(args.out)}")
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
    log_to_terminal()
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
    log_to_terminal()
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
