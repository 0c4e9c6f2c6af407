"""What verbs share: options of one meaning, what is logged and shown on a terminal."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if TYPE_CHECKING:
    from lesioncam.verbs.result import Run


Out = Annotated[Path, arg(aliases=["-o"], metavar="PATH")]
ModelThreshold = Annotated[str, arg(metavar="val|default|0.4")]
Device = Annotated[str, arg(metavar="auto|cpu|cuda")]


def expect_table(table: Path | None) -> Path:
    """The table, which this verb needs."""
    from lesioncam.errors import OptionError

    if table is None:
        raise OptionError("no table was given; name one, for instance `lesioncam run labels.csv -o runs/x --plan`.")
    return table


def read_threshold(text: str) -> str | float:
    """``val``, ``default``, or a probability."""
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


def numbers(done: Run, split: str, *, everything: bool = False) -> str:
    """The headline numbers, each beside its best control; everything else below, where it was asked for."""
    from lesioncam.cli.text import every_metric, headline

    metrics = done.metrics(split)
    return headline(metrics, split) + (f"\n\n{every_metric(metrics)}" if everything else "")


def on_terminal() -> bool:
    """Bars belong on a terminal, not in a log file."""
    return sys.stderr.isatty()


def log_to_terminal() -> None:
    """Our messages on standard error, those of others from warnings on."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("matplotlib", "PIL", "fontTools", "timm", "lightning", "lightning.pytorch", "httpx", "h5py"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def typed(path: object) -> str:
    """A path as it can be typed again, also with spaces."""
    return shlex.quote(str(path))
