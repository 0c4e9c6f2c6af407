"""Near-identical images on both sides of a split: found before a label is opened, refused or left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lesioncam.data.table.check import CheckReport
from lesioncam.data.table.duplicates import Pair, Prints, collect_prints, load_prints, match_prints, save_prints
from lesioncam.data.table.table import Table
from lesioncam.errors import LesioncamError
from lesioncam.measurement.part import Part
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.summary import Leak

_BEFORE = {"val": ("train",), "test": ("train", "val")}
"""Whose images a split must not repeat: those that were trained on, and those that anything was chosen on."""

_NAMED = 5


def keep_prints(folder: RunFolder, table: Table, found: CheckReport) -> None:
    """Remember what the images look like that are trained on and chosen on; small pictures, private like the table."""
    prints = found.prints if found.prints is not None else collect_prints(table)
    splits = dict(zip(table.frame["id"], table.frame["split"], strict=True))
    save_prints(
        prints.take(np.array([splits.get(name) in ("train", "val") for name in prints.names], bool)), folder.prints
    )


def without_leaks(
    folder: RunFolder, table: Table, part: Part, mode: Literal["refuse", "drop"]
) -> tuple[Part, list[Leak]]:
    """Look for near-copies of images that were met before.

    Args:
        folder: the run, which remembers its images.
        table: of the run.
        part: what is to be evaluated.
        mode: ``refuse``, or ``drop``: leave such images out.

    Returns:
        The part, without those images, and the leaks.

    Raises:
        LesioncamError: naming pairs, if there are any and they are to be refused; if nothing is left.
    """
    split = str(part.table.frame["split"].iloc[0])
    met, homes = _met(folder, table, _BEFORE[split])
    own = collect_prints(part.table)
    leaks = [_leak(pair, own, met, split, homes) for pair in match_prints(own, met)]
    if not leaks:
        return part, []
    if mode == "refuse":
        raise LesioncamError(_sentence(leaks, split))
    gone = {leak.image for leak in leaks}
    kept = np.array([name not in gone for name in part.table.frame["id"]], dtype=bool)
    if not kept.any():
        raise LesioncamError(
            f"every image of `{split}` is nearly one that was met before; there is nothing left to measure."
        )
    return replace(part, table=part.table.take(kept)), leaks


def _met(folder: RunFolder, table: Table, splits: Sequence[str]) -> tuple[Prints, dict[str, str]]:
    """Prints of the images met before, and the split of each."""
    homes = dict(zip(table.frame["id"], map(str, table.frame["split"]), strict=True))
    if folder.prints.is_file():
        prints = load_prints(folder.prints)
    else:
        prints = collect_prints(table.take(table.frame["split"].isin(list(splits)).to_numpy()))
    return prints.take(np.array([homes.get(name, "train") in splits for name in prints.names], dtype=bool)), homes


def _leak(pair: Pair, own: Prints, met: Prints, split: str, homes: dict[str, str]) -> Leak:
    other = met.names[pair.second]
    return Leak(own.names[pair.first], split, other, homes.get(other, "train"), pair.kind, pair.correlation)


def _sentence(leaks: Sequence[Leak], split: str) -> str:
    named = "; ".join(leak.text() for leak in leaks[:_NAMED])
    more = f"; and {len(leaks) - _NAMED} more" if len(leaks) > _NAMED else ""
    count = len({leak.image for leak in leaks})
    return (
        f"{count} image(s) of `{split}` are nearly images the model has met: {named}{more}. Keep copies in one split "
        "(`lesioncam split` does so) and train again, or leave them out of the measurement with --leaks drop (counted)."
    )
