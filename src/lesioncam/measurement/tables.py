"""What a pass over a split leaves behind as tables: metrics, curves, subgroups, the shortcut panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd

from lesioncam.data.io.image import read_picture
from lesioncam.evaluation.extended import read_extended, summarise_extended
from lesioncam.evaluation.shortcut import probe_data
from lesioncam.evaluation.subgroups import strata_table, subgroup_table
from lesioncam.evaluation.summary import curves, summarise
from lesioncam.files import write_arrays, write_csv, write_json
from lesioncam.measurement.part import Part
from lesioncam.measurement.walk import Walk
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.table import run_table


class _Drawn(TypedDict):
    """What every table with intervals is told."""

    exclusive: bool
    draws: int
    seed: int


def write_tables(place: Path, cases: pd.DataFrame, part: Part, walk: Walk) -> None:
    """``metrics.csv``, ``curves.npz`` and ``subgroups.csv``; with ``--metrics all`` what they need besides."""
    config = part.subject.card.config
    exclusive = part.table.exclusive or config.softmax
    options: _Drawn = {"exclusive": exclusive, "draws": config.draws, "seed": config.seed}
    metrics = summarise(cases, ordinal=config.ordinal, **options)
    if walk.extended is not None:
        walk.extended.save(place)
        rest = summarise_extended(cases, *read_extended(place), ordinal=config.ordinal, **options)
        metrics = pd.concat([metrics, rest], ignore_index=True)
    else:
        for stale in ("extended.csv", "sweeps.npz"):
            (place / stale).unlink(missing_ok=True)
    write_csv(place / "metrics.csv", metrics)
    write_arrays(place / "curves.npz", curves(cases))
    frame = part.table.frame.rename(columns=lambda name: str(name).removeprefix("extra:")).set_index("id")
    groups = [strata_table(cases, **options)]
    if walk.asked.by:
        groups.insert(0, subgroup_table(cases, frame, list(walk.asked.by), **options))
    write_csv(place / "subgroups.csv", pd.concat(groups, ignore_index=True))


PROBED = 5_000
"""Training images the probes learn from at most, evenly spread over the table: they know some fifty numbers of each."""


def write_shortcut(place: Path, folder: RunFolder, walk: Walk) -> None:
    """What the evidence outside the body, and two classifiers that cannot see a lesion, give away."""
    config = walk.part.subject.card.config
    whole = run_table(folder).split("train")
    some = np.linspace(0, len(whole) - 1, min(PROBED, len(whole))).astype(int)
    train = replace(walk.part, table=whole.take(some))
    if len(train.table):
        images = ((read_picture(row.record.image).pixels, list(row.labels)) for row in train.rows())
        walk.shortcut.train(probe_data(images, len(walk.grid)))
    write_json(place / "shortcut.json", walk.shortcut.result(draws=config.draws, seed=config.seed))
