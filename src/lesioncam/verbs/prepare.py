"""What is checked before anything is written: the table, its split, the network and the options."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from lesioncam.data.table.check import CheckReport, check_table, require, require_axes
from lesioncam.data.table.split import split_table
from lesioncam.data.table.table import Table, read_table
from lesioncam.data.table.targets import check_task, targets_of
from lesioncam.errors import RunError, TableError
from lesioncam.measurement.calibrate import check_scores
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import RunConfig
from lesioncam.options.variation import OwnPool
from lesioncam.types import SPLITS


class Prepared(NamedTuple):
    """A table that was checked and has a split, and what the check found (its perceptual prints among it)."""

    table: Table
    found: CheckReport


def prepare(table: Table | Prepared | str | Path, config: RunConfig, *, files: bool = True) -> Prepared:
    """Read where need be, check everything, and split by patient where the table has no split.

    What was checked already is only asked whether it can be learnt from.

    Returns:
        The table with a split, and what the check found (its perceptual prints among it).

    Raises:
        TableError: listing all that is wrong, with row numbers; near-identical images in two splits are wrong.
    """
    ready, found = table if isinstance(table, Prepared) else checked(table, config, files=files)
    require_axes(found, config.backbone.axes)
    for name in ("train", "val"):
        if not len(ready.split(name)):
            raise TableError(
                f"{ready.source}: no image is in split {name!r}; training needs train and val. Use `lesioncam split`."
            )
    _require_two_sides(ready, config)
    return Prepared(ready, found)


def checked(
    table: Table | str | Path, config: RunConfig, *, files: bool = True, learns: bool = True
) -> tuple[Table, CheckReport]:
    """Read, check, and split where there is no split: patients and near-identical images stay together.

    Args:
        table: a table, or a file with one.
        config: how the table is read, and the fractions of a split.
        files: open the images too.
        learns: something is to be trained on it.

    Raises:
        TableError: listing all that is wrong.
    """
    if not isinstance(table, Table):
        table = read_table(table, config=config.table)
    found = check_table(table, files=files, duplicates=files, policy=config.table)
    require(found, learns=learns)
    check_task(table, config.table, config.task)
    if not any(len(table.split(name)) for name in SPLITS):
        table = split_table(table, config.table.fractions, seed=config.seed, pairs=found.pairs)
    return table, found


def _require_two_sides(table: Table, config: RunConfig) -> None:
    """A class that training never sees on both sides cannot be learnt."""
    labels = targets_of(table.split("train"), config.table, config.task).middle()
    for name, column in zip(table.classes, labels.T, strict=True):
        if not (column > 0).any() or not (column < 1).any():
            side = "positive" if not (column > 0).any() else "negative"
            raise TableError(
                f"{table.source}: class {name!r} has no {side} image in split 'train', so it cannot be learnt. "
                f"Add some, leave the class out with --classes, or name what is no lesion with --negative."
            )


def check_network(config: RunConfig, own: OwnPool | None) -> None:
    """Try what may be missing before anything is written: a name, a stride, a weights file, TensorBoard."""
    check_scores(config)
    build_classifier(config, 1, own_pool=own)
    if config.tensorboard and find_spec("tensorboard") is None:
        raise RunError(
            "TensorBoard is not installed; pip install 'lesioncam[tensorboard]', or leave --tensorboard out."
        )
