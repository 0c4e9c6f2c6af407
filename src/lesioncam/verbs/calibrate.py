"""``lesioncam calibrate``: everything that is chosen on validation, chosen anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lesioncam.errors import RunError
from lesioncam.lookup import find
from lesioncam.measurement.calibrate import calibrate, check_scores
from lesioncam.measurement.load import load_subject
from lesioncam.options.run import make_config
from lesioncam.options.variation import OwnPool
from lesioncam.progress import bars
from lesioncam.runs.card import ModelCard
from lesioncam.verbs.result import Run, folder_of


def recalibrate(
    run: str | Path | Run, *, pooling: OwnPool | None = None, progress: bool = False, **options: object
) -> ModelCard:
    """Choose scales, operating points and thresholds of a finished run anew, on validation.

    Args:
        run: the run, or its folder.
        pooling: your own callable, where the run was trained with one.
        progress: show a bar.
        **options: ``calibration``, ``map_calibration``, ``operating_point``, ``threshold``; the others stay.

    Returns:
        The model's card, with what was chosen.

    Raises:
        OptionError: for another option.
        RunError: for a folder that holds another tool's maps.
    """
    known = ("calibration", "map_calibration", "operating_point", "threshold")
    for name in options:
        find(name, dict.fromkeys(known), "option of calibrate")
    folder = folder_of(run)
    subject = load_subject(folder, pooling)
    if subject.foreign:
        raise RunError(
            f"{folder.root} holds another tool's maps, whose scale was chosen with their thresholds; choose both anew "
            "with lesioncam evaluate MAPS TABLE --overwrite."
        )
    settled = make_config(subject.card.config, **options)
    check_scores(settled)
    bare = replace(subject.card, config=settled, calibration=None, image_calibration=None)
    return calibrate(folder, subject.with_card(bare), progress=bars(wanted=progress))
