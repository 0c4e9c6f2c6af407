"""``lesioncam calibrate``: everything that is chosen on validation, chosen anew."""

from __future__ import annotations

from pathlib import Path

from lesioncam.lookup import find
from lesioncam.measurement.calibrate import calibrate, check_scores
from lesioncam.measurement.load import load_subject
from lesioncam.models.checkpoint import load_classifier
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
    """
    known = ("calibration", "map_calibration", "operating_point", "threshold")
    for name in options:
        find(name, dict.fromkeys(known), "option of calibrate")
    folder = folder_of(run)
    card = load_classifier(folder.root, pooling=pooling).card
    settled = make_config(card.config, **options)
    check_scores(settled)
    folder.update_card(config=settled, calibration=None, image_calibration=None)
    return calibrate(folder, load_subject(folder, pooling), progress=bars(wanted=progress))
