"""What every source of tables says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lesioncam.errors import TableError

NO_PATIENT = "patient (none)"
"""Header of a column, left blank, by which a table says that nobody knows who is who (as ``--patient-from none``)."""


@dataclass(frozen=True)
class SourceInfo:
    """Facts about a public data set, or about a layout of folders.

    Attributes:
        name: as typed before the colon, ``figshare-brain``.
        licence: of the data, not of this project.
        citation: what to cite.
        counts: images and patients as published.
        traps: what has gone wrong for others.
    """

    name: str
    licence: str
    citation: str
    counts: str
    traps: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A source: its facts, and the function that turns a folder into a table in user-facing columns."""

    info: SourceInfo
    table: Callable[[Path], pd.DataFrame]


def not_found(name: str, root: Path, *looked: str) -> TableError:
    """The error for a folder that is not what its name says: which files were looked for.

    Example:
        >>> not_found("br35h", Path("x"), "labels.csv", "tumour/").args[0]
        'x is not the set br35h, or only a part of it; looked for labels.csv and tumour/.'
    """
    listed = " and ".join([", ".join(looked[:-1]), looked[-1]] if len(looked) > 1 else looked)
    return TableError(f"{root} is not the set {name}, or only a part of it; looked for {listed}.")


def last_share(count: int, share: float) -> list[bool]:
    """Which of ``count`` rows in order are the last share of them: a validation split that needs no seed.

    Example:
        >>> last_share(5, 0.4)
        [False, False, False, True, True]
    """
    first = count - round(share * count)
    return [place >= first for place in range(count)]
