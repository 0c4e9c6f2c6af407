"""Every pooling on the phantom, three seeds: one table of docs/results.md.

`python -m benchmarks.pooling_results` does all of it: writes the phantom, sweeps poolings and seeds (which looks at
validation only), then opens test once for each finished run, appends a row to the CSV and rewrites its section of the
page. Stopped at any place, the same command goes on. Rows of other settings stay in the CSV and are not mixed in.
"""

from __future__ import annotations

import argparse
import csv
import logging
import platform
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

from lesioncam.data.phantom import Phantom, write_phantom
from lesioncam.evaluation.controls import is_method
from lesioncam.evaluation.summary import best_control
from lesioncam.files import write_text
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.verbs.demo import demo_config
from lesioncam.verbs.evaluate import evaluate
from lesioncam.verbs.result import Run
from lesioncam.verbs.sweep import sweep

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- poolings -->\n", "<!-- end of poolings -->\n"
ORDER = ("avg", "max", "lse", "exp", "linear", "attention", "pcam", "topq", "noisy_or", "acam")
SEEDS = (0, 1, 2)
SHOWN = ("auroc", "dice", "pointing_game")
TINY = Phantom(patients=12, slices=2, size=(48, 40))
COLUMNS = (
    *("pooling", "seed", "phantom", "epochs", "auroc", "dice", "pointing_game", "false_alarm_rate"),
    *("control_dice", "control_dice_value", "control_pointing_game", "control_pointing_game_value"),
    *("few_shot_dice", "few_shot_pointing_game"),
    *("seconds", "date", "hardware", "command"),
)
KEY = ("pooling", "seed", "phantom", "epochs")


def asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pooling_results", description=__doc__)
    known = [name for name in ORDER if name in POOLING_TYPES]
    parser.add_argument("--out", type=Path, default=Path("runs/pooling"), help="folder of phantom and runs")
    parser.add_argument("--csv", type=Path, default=Path("runs/pooling.csv"), help="one row per run is appended here")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the marked section")
    parser.add_argument(
        "--poolings", nargs="+", default=known, help="NAME[,OPTION=VALUE] ...; by default all, as they come"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=demo_config().epochs, help="by default the demo's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--tiny", action="store_true", help="a phantom of 12 patients, to see that the script works")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args = asked(words)
    phantom = TINY if args.tiny else Phantom()
    table = args.out / "data" / "labels.csv"
    if not table.is_file():  # written last, so what is there is whole
        write_phantom(table.parent, phantom)
    size = {"size": 32} if args.tiny else {}
    config = demo_config().model_copy(update={"epochs": args.epochs, "patience": 0})
    book = Book(args, phantom)
    found = sweep(
        table,
        args.out / "sweep",
        vary={"pooling": args.poolings, "seed": args.seeds},
        config=config,
        jobs=args.jobs,
        watch=book.add,
        **size,
    )
    for row in found.table().to_dict("records"):  # those that an earlier call finished and did not write down
        book.add(row)
    rewrite(args.page, section(book.rows()))
    if found.interrupted:
        print("stopped; the same command goes on.", file=sys.stderr)
        return 130
    print(section(book.rows()))
    return 0


class Book:
    """The CSV, and the page made of it."""

    def __init__(self, args: argparse.Namespace, phantom: Phantom) -> None:
        self.args = args
        self.settings = {"phantom": f"seed {phantom.seed}, {phantom.patients} patients", "epochs": args.epochs}

    def rows(self) -> pd.DataFrame:
        """Rows of these settings, in the order of the poolings."""
        if not self.args.csv.is_file():
            return pd.DataFrame(columns=list(COLUMNS))
        rows = pd.read_csv(self.args.csv)
        mine = rows[(rows["phantom"] == self.settings["phantom"]) & (rows["epochs"] == self.settings["epochs"])]
        rank = {name: number for number, name in enumerate(self.args.poolings)}
        mine = mine[mine["pooling"].isin(rank) & mine["seed"].isin(self.args.seeds)]
        return mine.sort_values(
            ["pooling", "seed"], key=lambda column: column.map(rank) if column.name == "pooling" else column
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Open test once for a run that is done and not in the CSV yet; write its row and the page."""
        known = self.rows()
        if row["state"] != "done" or ((known["pooling"] == row["pooling"]) & (known["seed"] == int(row["seed"]))).any():
            return
        run = Run(self.args.out / "sweep" / "runs" / str(row["run"]))
        evaluate(run, "test")
        content = {"pooling": row["pooling"], "seed": int(row["seed"]), **self.settings, **numbers(run)}
        typed = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
        content |= {"seconds": round(float(row["seconds"])), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        content |= {
            "hardware": hardware(),
            "command": shlex.join(["python", "-m", "benchmarks.pooling_results", *typed]),
        }
        append(self.args.csv, content)
        rewrite(self.args.page, section(self.rows()))


def numbers(run: Run, split: str = "test") -> dict[str, Any]:
    """Means over classes, the best control without the network beside them, and the few-shot head."""
    metrics = run.metrics(split)
    own = metrics[(metrics["class"] == "macro") & metrics["method"].map(lambda name: is_method(str(name)))]
    values = own.drop_duplicates("metric").set_index("metric")["value"]
    found: dict[str, Any] = {name: values.get(name) for name in (*SHOWN, "false_alarm_rate")}
    for name in ("dice", "pointing_game"):
        control = best_control(metrics[metrics["method"] != "few_shot"], name)
        found[f"control_{name}"] = None if control is None else control["method"]
        found[f"control_{name}_value"] = None if control is None else control["value"]
        few = metrics[(metrics["class"] == "macro") & (metrics["method"] == "few_shot") & (metrics["metric"] == name)]
        found[f"few_shot_{name}"] = None if few.empty else few["value"].iloc[0]
    return found


def append(path: Path, row: Mapping[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def rewrite(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put the text between the marks; at the end of the page where there are none yet."""
    whole = page.read_text() if page.is_file() else "# Results\n"
    before, mark, rest = whole.partition(begin)
    after = rest.partition(end)[2] if mark else ""
    write_text(page, f"{before if mark else before.rstrip() + chr(10) * 2}{begin}{text}{end}{after}")


def section(rows: pd.DataFrame) -> str:
    """The section for people: mean and standard deviation over seeds."""
    if rows.empty:
        return "\n"
    first, seeds = rows.iloc[0], sorted(set(rows["seed"]))
    dates = sorted(set(rows["date"]))
    epochs = "1 epoch" if first["epochs"] == 1 else f"{first['epochs']} epochs"
    about = (
        f"Phantom of {first['phantom']}; test split, means over classes; {epochs}, equal for all, otherwise the demo's "
        "options. Runs of one seed begin with the same weights of backbone and head and see the same batches. Mean and "
        f"standard deviation over training seeds {', '.join(map(str, seeds))}. Epoch and map thresholds were chosen on "
        "validation, the controls' thresholds likewise. Beside each value stands the best control without the network; "
        "*above* counts the seeds whose maps beat all of these in Dice and in pointing. The few-shot head is no such "
        "control: it has seen the validation masks and the same features, and says how much of the place they hold."
    )
    beside = ("best control", "few-shot head")
    heads = ("pooling", "AUROC", "Dice", *beside, "pointing game", *beside, "above")
    lines = ["", "## Poolings on the phantom", "", "```", *dict.fromkeys(rows["command"]), "```", ""]
    lines += [*textwrap.wrap(about, 130), "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, group in rows.groupby("pooling", sort=False):
        above = (group["dice"] > group["control_dice_value"]) & (
            group["pointing_game"] > group["control_pointing_game_value"]
        )
        cells = [f"`{name}`", spread(group["auroc"])]
        for metric in ("dice", "pointing_game"):
            names = "/".join(sorted({str(one).replace("_", " ") for one in group[f"control_{metric}"].dropna()}))
            cells += [spread(group[metric]), f"{names} {spread(group[f'control_{metric}_value'])}"]
            cells.append(spread(group[f"few_shot_{metric}"]))
        cells.append(f"{above.sum()} of {len(group)}")
        lines.append(f"| {' | '.join(cells)} |")
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return "\n".join([*lines, "", f"*{when}, {'; '.join(dict.fromkeys(rows['hardware']))}.*", ""]) + "\n"


def spread(values: pd.Series) -> str:
    known = values.dropna().astype(float)
    if known.empty:
        return "undefined"
    return f"{known.mean():.3f}" + (f" ± {known.std(ddof=1):.3f}" if len(known) > 1 else "")


def hardware() -> str:
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{psutil.cpu_count()} CPU cores ({platform.machine()}), {memory} GiB, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
