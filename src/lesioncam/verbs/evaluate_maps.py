"""``lesioncam evaluate`` of another tool's maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lesioncam.data.table.table import Table
from lesioncam.errors import RunError
from lesioncam.evaluation.protocol import key_mark
from lesioncam.measurement.calibrate import calibrate
from lesioncam.measurement.foreign import ForeignMaps, ForeignSubject, foreign_scale
from lesioncam.measurement.guard import table_roles
from lesioncam.measurement.measure import measure
from lesioncam.measurement.options import MeasureOptions
from lesioncam.measurement.part import Part
from lesioncam.options.recipes import load_config
from lesioncam.options.run import RunConfig
from lesioncam.progress import Progress, bars
from lesioncam.reporting.report.html import write_report
from lesioncam.runs.card import MapsCard
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.table import run_table
from lesioncam.verbs.begin import path_of, refuse_existing, remember_source, set_state, start
from lesioncam.verbs.prepare import checked
from lesioncam.verbs.result import Run


def evaluate_maps(
    maps: str | Path,
    table: Table | str | Path,
    out: str | Path,
    split: str = "val",
    *,
    name: str | None = None,
    config: RunConfig | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **asked: Any,
) -> pd.DataFrame:
    """Measure the maps of another tool by the same protocol: thresholds from val, controls, intervals, report.

    Args:
        maps: a folder of maps, one per image and class (see `lesioncam.measurement.foreign`).
        table: with a split; its val images need maps too where thresholds are to be chosen.
        out: the folder to make; evaluating again into it goes on with what was chosen.
        split: ``val`` or ``test``.
        name: what to call the method; by default the folder's name.
        config: how the table is read; seed and draws of the intervals.
        overwrite: replace an earlier folder.
        progress: show bars.
        **asked: as :func:`evaluate`.

    Returns:
        The tidy table of ``metrics.csv``.

    Raises:
        LesioncamError: if there is no map, no split, or an image would play two roles.
    """
    folder = RunFolder(Path(out))
    shown = bars(wanted=progress)
    if not (folder.maps.is_file() and not overwrite):
        refuse_existing(folder, overwrite=overwrite)
        settled = config or RunConfig()
        ready, found = checked(table, settled, learns=False)
        start(folder, settled, ready, overwrite=overwrite, found=found)
        remember_source(folder, table=path_of(table), maps=Path(maps))
        _adopt_maps(folder, Path(maps), name or Path(maps).resolve().name, shown)
    measure(folder, split, MeasureOptions(**asked), progress=shown)
    set_state(folder, "done", "report")
    write_report(folder.root)
    return Run(folder.root).metrics(split)


def _adopt_maps(folder: RunFolder, root: Path, name: str, progress: Progress) -> None:
    """Choose scale and thresholds of another tool's maps on validation, and write them down.

    Without validation images there is nothing to choose on: thresholds are .5, called ``default``.

    Args:
        folder: begun, with its table and options.
        root: the maps.
        name: what the method is called.
        progress: how to show how far it is.

    Raises:
        RunError: if there is no map, or not one for any image of the table.
    """
    if not root.is_dir():
        raise RunError(f"{root} is no folder of maps; give one with a map per image and class.")
    table, key = run_table(folder), run_key(folder)
    maps = ForeignMaps(root, table.classes)
    _expect_some(maps, table.frame["id"])
    card = MapsCard(
        table.classes,
        load_config(folder.config),
        table.exclusive,
        roles=table_roles(table),
        key_mark=key_mark(key),
        method=name,
    )
    subject = ForeignSubject(maps, card, name)
    part = Part(table.split("val"), subject, key)
    who = part.validation() if len(part.table) else None
    scale = foreign_scale(maps, [row.record for row in part.rows()], who)
    calibrate(folder, subject.with_card(replace(card, calibration=scale)), progress=progress)


def _expect_some(maps: ForeignMaps, images: object) -> None:
    """A folder in which no image of the table is found is the wrong folder."""
    names = [str(image) for image in images]  # type: ignore[attr-defined]
    if not any(maps.has(name) for name in names):
        there = ", ".join(sorted(maps.files)[:3])
        raise RunError(
            f"{maps.root} holds no map of any image of this table: found {there}, ...; expected for instance "
            f"{names[0]}.{maps.classes[0]}.npy or {names[0]}.npz."
        )
