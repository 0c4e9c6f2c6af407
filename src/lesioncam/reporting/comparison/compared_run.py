"""One finished run, as far as a comparison needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from lesioncam.errors import OptionError, RunError
from lesioncam.evaluation.cases import read_cases
from lesioncam.options.removed import drop_removed
from lesioncam.reporting.report.read import read_options
from lesioncam.runs.card import ModelCard
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.provenance import Provenance
from lesioncam.runs.summary import Summary

PREFERRED_SPLITS: tuple[Literal["test", "val"], ...] = ("test", "val")


@dataclass(frozen=True)
class ComparedRun:
    """One run, as far as a comparison needs it.

    Attributes:
        name: of its folder, with as many parents as it takes to tell it from the others.
        folder: where it lies.
        split: which images.
        cases: all rows of ``cases.csv``.
        config: the options, flat: ``backbone.name`` and the like.
        card: what lies beside the weights (or the scale of another tool's maps); None where there is none.
        summary: of the evaluation.
        provenance: versions and hardware.
    """

    name: str
    folder: RunFolder
    split: str
    cases: pd.DataFrame
    config: Mapping[str, object]
    card: ModelCard | None
    summary: Summary
    provenance: Provenance

    @property
    def foreign(self) -> bool:
        """Whether these are maps of another tool, of which nothing else is known."""
        return self.summary.foreign or self.folder.maps.is_file()

    @property
    def images(self) -> frozenset[str]:
        """Ids of what was measured."""
        return frozenset(self.cases["image"])


def split_of(folders: Sequence[Path], wanted: str | None = None) -> str:
    """The split to compare on: the wanted one, otherwise test where all have it, otherwise val.

    Raises:
        OptionError: for another name.
        RunError: for a folder that is no run, or a split that not all were evaluated on.
    """
    if wanted not in (None, *PREFERRED_SPLITS):
        raise OptionError(f"split {wanted!r} cannot be compared; expected test or val.")
    have: dict[Path, list[str]] = {}
    for folder in folders:
        run = RunFolder(folder)
        if not run.is_run():
            raise RunError(f"{folder} is no run folder: it has no {run.state.name}; give folders of finished runs.")
        have[folder] = [split for split in PREFERRED_SPLITS if (run.evaluation(split) / "cases.csv").is_file()]
    for split in PREFERRED_SPLITS if wanted is None else (wanted,):
        if all(split in found for found in have.values()):
            return split
    said = "; ".join(f"{folder.name}: {', '.join(found) or 'nothing'}" for folder, found in have.items())
    missing = next(folder for folder, found in have.items() if (wanted or "test") not in found)
    raise RunError(
        f"these runs were not all evaluated on {'one split' if wanted is None else repr(wanted)} ({said}); "
        f"run `lesioncam evaluate {missing} --split {wanted or 'test'}` first."
    )


def read_compared(folders: Sequence[Path], split: str) -> list[ComparedRun]:
    """Read every run's evaluation of one split.

    Raises:
        OptionError: for fewer than two folders, or one that is named twice.
        RunError: if a file is missing or broken.
    """
    places = [folder.resolve() for folder in folders]
    if len(places) < 2:
        raise OptionError(f"a comparison needs at least two runs, got {len(places)}; name another run folder.")
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise OptionError(f"{twice[0]} is named twice; name each run once.")
    return [_read(folder, name, split) for folder, name in zip(folders, _names(places), strict=True)]


def _names(places: Sequence[Path]) -> list[str]:
    """The fewest last parts of the paths that tell them apart, never the whole path."""
    for depth in range(1, max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [f"run {i + 1}" for i in range(len(places))]


def _read(root: Path, name: str, split: str) -> ComparedRun:
    folder = RunFolder(root)
    place = folder.evaluation(split)
    known = folder.maps.is_file() or folder.model.is_file()
    return ComparedRun(
        name=name,
        folder=folder,
        split=split,
        cases=read_cases(place / "cases.csv"),
        config=_config(folder.config),
        card=folder.read_card() if known else None,
        summary=folder.read_summary(split),
        provenance=folder.read_provenance(),
    )


def _config(path: Path) -> Mapping[str, object]:
    """Options, flat; those that this version no longer has where they were used only."""
    kept, used = drop_removed(read_options(path))
    return _flat(kept) | used


def _flat(config: Mapping[str, object], before: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``; an empty group stays."""
    out: dict[str, object] = {}
    for key, value in config.items():
        out |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else {f"{before}{key}": value}
    return out
