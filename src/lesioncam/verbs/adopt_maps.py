"""Another tool's maps, taken in: one scale and thresholds from validation, like everybody's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lesioncam.errors import RunError
from lesioncam.evaluation.protocol import key_mark
from lesioncam.inference.subject import Subject
from lesioncam.measurement.calibrate import settle
from lesioncam.measurement.foreign import ForeignMaps, ForeignSubject, foreign_scale
from lesioncam.measurement.guard import table_roles
from lesioncam.measurement.part import Part
from lesioncam.options.recipes import load_config
from lesioncam.progress import Progress
from lesioncam.runs.card import MapsCard, ModelCard, write_card
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.table import run_table
from lesioncam.types import Threshold


def adopt_maps(folder: RunFolder, root: Path, name: str, progress: Progress) -> None:
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
    card: ModelCard = MapsCard(
        table.classes,
        load_config(folder.config),
        table.exclusive,
        roles=table_roles(table),
        key_mark=key_mark(key),
        method=name,
    )

    def rebuild(card: ModelCard) -> Subject:
        return ForeignSubject(maps, card, name)

    part = Part(table.split("val"), rebuild(card), key)
    who = part.validation() if len(part.table) else None
    records = [row.record for row in part.rows()]
    card = replace(card, calibration=foreign_scale(maps, records, who))
    if who is None:
        card = replace(card, thresholds=(Threshold(0.5),) * len(card.classes))
    else:
        card = settle(folder, replace(part, subject=rebuild(card)), rebuild, progress)
    write_card(folder.maps, card)


def _expect_some(maps: ForeignMaps, images: object) -> None:
    """A folder in which no image of the table is found is the wrong folder."""
    names = [str(image) for image in images]  # type: ignore[attr-defined]
    if not any(maps.has(name) for name in names):
        there = ", ".join(sorted(maps.files)[:3])
        raise RunError(
            f"{maps.root} holds no map of any image of this table: found {there}, ...; expected for instance "
            f"{names[0]}.{maps.classes[0]}.npy or {names[0]}.npz."
        )
