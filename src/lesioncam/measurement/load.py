"""What a run folder measures: its classifier, or the maps of another tool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from torch import Tensor

from lesioncam.errors import RunError
from lesioncam.inference.classifier import ClassifierSubject, best_device
from lesioncam.inference.subject import Subject
from lesioncam.measurement.foreign import ForeignMaps, ForeignSubject
from lesioncam.models.checkpoint import load_classifier
from lesioncam.runs.card import MapsCard, read_card
from lesioncam.runs.folder import RunFolder


def load_subject(folder: RunFolder, pooling: Callable[..., Tensor] | None = None, device: str = "auto") -> Subject:
    """What a run folder measures: its classifier, or the maps of another tool.

    Args:
        folder: the run.
        pooling: the user's own callable, where the run was trained with one.
        device: ``auto``, ``cpu`` or ``cuda``; where the network works. Maps that lie there need none.

    Raises:
        RunError: if it holds neither.
        OptionError: for a GPU that is not there.
    """
    place = best_device(device)
    if folder.maps.is_file():
        return _load_maps(folder)
    classifier = load_classifier(folder.root, pooling=pooling).to(place)
    return ClassifierSubject(classifier, _configuration(folder))


def _load_maps(folder: RunFolder) -> Subject:
    card, place = read_card(folder.maps), folder.read_source().maps
    if not isinstance(card, MapsCard) or place is None:
        raise RunError(f"{folder.maps} does not say what made the maps, or {folder.source} where they lie; begin anew.")
    return ForeignSubject(ForeignMaps((folder.root / place).resolve(), card.classes), card, card.method)


def _configuration(folder: RunFolder) -> str:
    """Digest of what is evaluated: card and weights."""
    content = folder.model.read_bytes() + folder.weights.read_bytes()
    return hashlib.sha256(content).hexdigest()[:16]
