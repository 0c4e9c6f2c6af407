"""``lesioncam predict``: new images, no labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lesioncam.errors import OptionError
from lesioncam.export.predictions import Prediction, write_predictions
from lesioncam.inference.ensemble import gather
from lesioncam.inference.stream import Way, results_of
from lesioncam.inference.views import Views
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.progress import bars
from lesioncam.types import CaseResult
from lesioncam.verbs.result import Run


def predict(
    classifier: TrainedClassifier | str | Path | Run | Sequence[TrainedClassifier | str | Path | Run],
    inputs: Iterable[str | Path | np.ndarray],
    out: str | Path | None = None,
    *,
    write: Sequence[str] = ("maps", "boxes", "masks", "overlay"),
    threshold: str | float = "val",
    map: str | None = None,  # noqa: A002 (the option's name everywhere)
    classes: Sequence[str] = (),
    views: Views = "none",
    device: str = "auto",
    progress: bool = False,
    overwrite: bool = False,
) -> list[CaseResult]:
    """Maps, boxes and masks of new images; no labels needed.

    Args:
        classifier: from :func:`lesioncam.load`, or a run folder; several are an ensemble (see
            `lesioncam.inference.ensemble`): the mean of their probabilities, thresholds called ``ensemble``.
        inputs: files (``file#index`` for one of several) or decoded images.
        out: write ``predictions.csv`` and what ``write`` asks for into this folder; None writes nothing.
        write: any of ``maps``, ``boxes``, ``masks``, ``overlay``, ``crops``.
        threshold: ``val``, ``default`` (.5) or a probability, for the maps.
        map: map method; None is the run's own. What the run chose on validation holds for its own method only: maps of
            another are shown on, and cut at .5 of, their own range.
        classes: which classes are drawn; empty draws all.
        views: ``none``, ``flip`` (the image and its mirror) or ``ten-crop``, averaged as an ensemble is; mirrored views
            are a trap where a finding has a side.
        device: ``auto`` takes a GPU where there is one (a loaded classifier stays where it is), ``cpu`` or ``cuda``.
        progress: show a bar.
        overwrite: replace an earlier prediction in ``out``.

    Returns:
        One result per image that could be read; with ``out``, images that could not are listed in ``failed.csv``.

    Raises:
        LesioncamError: if an image cannot be read and there is no ``out`` to list it in, or none can be read at all.
    """
    model = gather(classifier, views=views, device=device)
    images = list(inputs)
    if not images:
        raise OptionError("no image was given; name files, for instance slices/*.png.")
    if out is not None:
        asked = Prediction(Path(out), tuple(write), threshold, overwrite, map, tuple(classes))
        return write_predictions(model, images, asked, bars(wanted=progress))
    looked = results_of(Way(model.simplest(), threshold, map), images)
    return list(bars(wanted=progress)(looked, len(images), "predict"))
