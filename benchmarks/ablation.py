"""What helps a network to look at the lesion: aids against shortcuts, one at a time and together, on real images.

`python -m benchmarks.ablation --data DIR` trains every arm on every data set and appends a row per run to a CSV; DIR
holds the folders `br35h` and `figshare_brain` as the sources expect them. Stopped at any place, the same command goes
on. Only validation is looked at; `--test` opens test for the runs of the arms and seeds named with it, and
`--page` rewrites the marked section of docs/results.md from the rows.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from benchmarks.pooling_results import append, hardware, numbers, rewrite, spread
from lesioncam.options.run import make_config
from lesioncam.verbs.evaluate import evaluate
from lesioncam.verbs.jobs import Ended, side_by_side
from lesioncam.verbs.result import Run
from lesioncam.verbs.run import run

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
MARKS = ("<!-- aids -->\n", "<!-- end of aids -->\n")

PLAIN: dict[str, Any] = {"pooling": "pcam", "rotation": 15.0, "scale": 0.12, "patience": 0}
"""The defaults of `lesioncam run` before these measurements, as far as they have changed since."""

EQUIVARIANCE: dict[str, Any] = {"equivariance": 1.0}
BODY: dict[str, Any] = {"foreground": "body"}
AIR: dict[str, Any] = {**BODY, "air": "padding"}
TURNED: dict[str, Any] = {"rotation": 180.0, "scale": 0.25}
TOPQ = "topq,fraction=0.1"

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "body crop": BODY,
    "dark air": {**BODY, "air": "dark"},
    "air is padding": AIR,
    "cutout": {"cutout": 0.4},
    "equivariance": EQUIVARIANCE,
    "erasing": {"erasing": 0.5},
    "dense negative": {"dense_negative": 0.3},
    "multi-scale": {"backbone": "slim,multiscale=1"},
    "max": {"pooling": "max"},
    "lse": {"pooling": "lse"},
    "topq": {"pooling": TOPQ},
    "avg + equivariance": {"pooling": "avg", **EQUIVARIANCE},
    "lse + equivariance": {"pooling": "lse", **EQUIVARIANCE},
    "topq + equivariance": {"pooling": TOPQ, **EQUIVARIANCE},
    "padding + equivariance": {**AIR, **EQUIVARIANCE},
    "padding + lse + equivariance": {**AIR, "pooling": "lse", **EQUIVARIANCE},
    "turned": TURNED,
    "padding + turned": {**AIR, **TURNED},
    "padding + turned + topq": {**AIR, **TURNED, "pooling": TOPQ},
    "dark air + turned": {**BODY, "air": "dark", **TURNED},
    "turned + dense negative": {**TURNED, "dense_negative": 0.3},
    "turned + dense negative 1": {**TURNED, "dense_negative": 1.0},
    "turned + lse": {**TURNED, "pooling": "lse"},
    "turned + lse + softmax": {**TURNED, "pooling": "lse", "task": "multiclass"},
    "turned + topq + dense negative 1": {**TURNED, "pooling": TOPQ, "dense_negative": 1.0},
    "small field + turned + lse": {"backbone": "slim,stage=2", "size": 160, **TURNED, "pooling": "lse"},
}
"""Named sets of options of `lesioncam run`, on top of `PLAIN`. What is added to the name of an arm is added to it."""


@dataclass(frozen=True)
class Source:
    """A data set: the name of its source, whether it comes without a split, and how long it is trained."""

    index: str
    dealt: bool
    epochs: int


SOURCES = {
    "br35h": Source("br35h", dealt=True, epochs=15),
    "figshare_brain": Source("figshare-brain", dealt=False, epochs=20),
}
COLUMNS = (
    *("data", "arm", "seed", "size", "epochs", "split", "auroc", "dice", "pointing_game", "false_alarm_rate"),
    *("control_dice", "control_dice_value", "control_pointing_game", "control_pointing_game_value"),
    *("few_shot_dice", "few_shot_pointing_game"),
    *("training_seconds", "options", "date", "hardware", "command"),
)
KEY = ("data", "arm", "seed", "size", "epochs", "split")


def asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with br35h and figshare_brain")
    parser.add_argument("--sets", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, help="by default the data set's own, 15 and 20")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of tables and runs")
    parser.add_argument("--csv", type=Path, default=Path("runs/ablation.csv"), help="one row per run is appended here")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--test", action="store_true", help="open test for the runs of these arms, once each")
    parser.add_argument(
        "--page", type=Path, nargs="?", const=PAGE, help="write the section of this page; train nothing"
    )
    return parser.parse_args(words)


class Task(NamedTuple):
    """One run, or one look at test."""

    data: str
    arm: str
    seed: int
    size: int
    epochs: int
    split: str
    out: Path
    threads: int

    @property
    def place(self) -> Path:
        arm = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in self.arm)
        return self.out / self.data / f"{arm}_s{self.seed}_{self.size}px_{self.epochs}e"

    @property
    def options(self) -> dict[str, Any]:
        own = {"size": self.size, "epochs": self.epochs, "seed": self.seed}
        return {**PLAIN, **own, **ARMS[self.arm]}


def main(words: Sequence[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    args = asked(words)
    if args.page is not None:
        rewrite(args.page, section(rows_of(args.csv)), *MARKS)
        return 0
    for name in args.sets:
        require_table(args.out / f"{name}.csv", SOURCES[name], args.data)
    tasks = [task for task in tasks_of(args) if not known(rows_of(args.csv), task)]

    def note(task: Task, how: Ended) -> None:
        if how.error or how.interrupted:
            print(f"{task.data} {task.arm} seed {task.seed}: {how.error or 'interrupted'}", file=sys.stderr)
            return
        append(args.csv, {**how.value, "command": typed()}, COLUMNS)
        shown = ", ".join(f"{name} {how.value[name]:.3f}" for name in ("auroc", "pointing_game", "dice"))
        print(f"{task.data} {task.arm} seed {task.seed} {task.split}: {shown}", file=sys.stderr, flush=True)

    return 130 if side_by_side(work, tasks, args.jobs, note) else 0


def tasks_of(args: argparse.Namespace) -> list[Task]:
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    split = "test" if args.test else "val"
    return [
        Task(
            name,
            arm,
            seed,
            ARMS[arm].get("size", args.size),
            args.epochs or SOURCES[name].epochs,
            split,
            args.out.resolve(),
            threads,
        )
        for seed in args.seeds
        for arm in args.arms
        for name in args.sets
    ]


def require_table(path: Path, source: Source, data: Path | None) -> None:
    """Index and split as the README does, once."""
    from lesioncam.cli import main as command

    if path.is_file():
        return
    if data is None:
        raise SystemExit(f"{path} is not there yet; give --data DIR, the folder with br35h and figshare_brain.")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = data / source.index.replace("-", "_")
    first = path.with_suffix(".index.csv") if source.dealt else path
    steps = [["index", f"{source.index}:{folder}", "-o", str(first), "--overwrite"]]
    if source.dealt:
        steps.append(["split", str(first), "-o", str(path)])
    for step in steps:
        if code := command(step):
            raise SystemExit(code)


def work(task: Task) -> dict[str, Any]:
    """Train and measure on validation; or open test of what was trained."""
    torch.set_num_threads(task.threads)
    if task.split == "val":
        if not (task.place / "report.html").is_file():
            run(task.out / f"{task.data}.csv", task.place, config=make_config(**task.options), overwrite=True)
    else:
        evaluate(task.place, "test")
    return content(task)


def content(task: Task) -> dict[str, Any]:
    said = {key: getattr(task, key) for key in KEY}
    history = pd.read_csv(task.place / "log" / "history.csv")
    return {
        **said,
        **numbers(Run(task.place), task.split),
        "training_seconds": round(history["seconds"].sum()),
        "options": shlex.join(f"{key}={value}" for key, value in ARMS[task.arm].items()),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "hardware": hardware(),
    }


def typed() -> str:
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "benchmarks.ablation", *words])


def rows_of(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))


def known(rows: pd.DataFrame, task: Task) -> bool:
    return bool(len(rows) and (rows[list(KEY)] == [getattr(task, key) for key in KEY]).all(axis=1).any())


def section(rows: pd.DataFrame) -> str:
    """The section for people: per data set the arms on validation, and those whose test was opened."""
    if rows.empty:
        return "\n"
    form = "python -m benchmarks.ablation --data DIR --jobs 2 --sets SET --arms ARM --seeds 0 1 2 --size S --epochs E"
    lines = ["", "## Aids against shortcuts", "", "```", form, f"{form} --test", "```", ""]
    about = (
        "Mean and standard deviation over training seeds (their number stands beside); means over classes of the maps "
        "of the true class. Epochs and map thresholds were chosen on validation, the controls' thresholds likewise. "
        "An arm is `pcam,temperature=0.5`, images turned by at most 15 degrees and scaled by 12 %, the other "
        "defaults of `lesioncam run`, and the options named beside it; `mix`, `averaging`, `histogram`, `bias_field`, "
        "`defocus` and `coarse` showed no gain and are no options any more. Two runs at a time, one thread each."
    )
    lines += textwrap.wrap(about, 130)
    for data in dict.fromkeys(rows["data"]):
        for split in ("val", "test"):
            part = rows[(rows["data"] == data) & (rows["split"] == split)]
            if len(part):
                lines += ["", f"**`{data}`, {'validation' if split == 'val' else 'test'}**", "", *table(part)]
    dates = sorted(set(rows["date"]))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return "\n".join([*lines, "", f"*{when}, {'; '.join(dict.fromkeys(rows['hardware']))}.*", ""]) + "\n"


def table(rows: pd.DataFrame) -> list[str]:
    """One line per arm, size and length, the best sum of pointing game and Dice first, more seeds before fewer."""
    heads = ("arm", "options", "pixels, epochs", "seeds", "AUROC", "pointing game", "Dice", "few-shot head", "training")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    groups = [group for _, group in rows.groupby(["arm", "size", "epochs"], sort=False)]
    groups.sort(key=lambda group: (-len(group), -(group["pointing_game"] + group["dice"]).mean()))
    for group in groups:
        first = group.iloc[0]
        options = "" if pd.isna(first["options"]) else f"`{first['options']}`"
        cells = [first["arm"], options, f"{first['size']}, {first['epochs']}", str(len(group))]
        cells += [spread(group[name]) for name in ("auroc", "pointing_game", "dice")]
        cells.append(f"{group['few_shot_pointing_game'].mean():.2f}, {group['few_shot_dice'].mean():.2f}")
        cells.append(f"{group['training_seconds'].mean():.0f} s")
        lines.append(f"| {' | '.join(cells)} |")
    controls = rows.drop_duplicates(["control_pointing_game_value", "control_dice_value"])
    best = controls.loc[controls["control_pointing_game_value"].idxmax()]
    other = controls.loc[controls["control_dice_value"].idxmax()]
    said = (
        f"Best control without the network: pointing game {best['control_pointing_game_value']:.3f} "
        f"({str(best['control_pointing_game']).replace('_', ' ')}), Dice {other['control_dice_value']:.3f} "
        f"({str(other['control_dice']).replace('_', ' ')})."
    )
    return [*lines, "", said]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
