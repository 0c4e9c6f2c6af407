"""What every source of tables says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

__all__ = ["Source", "SourceInfo"]


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
