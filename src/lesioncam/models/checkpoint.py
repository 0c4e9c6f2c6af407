"""A classifier on disk: weights in safetensors and one JSON beside them. Loading executes nothing from either file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from lesioncam.config import RunConfig
from lesioncam.data.preprocess import Preprocess
from lesioncam.errors import RunError
from lesioncam.files import RunFolder, read_json, write_json, write_with
from lesioncam.models.classifier import Classifier, build_classifier
from lesioncam.types import Calibration, ClassifierOutput, Threshold

__all__ = ["ModelCard", "TrainedClassifier", "load_classifier", "save_classifier", "update_card"]

FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """Everything beside the weights that a classifier needs.

    Attributes:
        classes: K names, in the order of the logits.
        config: how it was made; paths of the user's machine are left out.
        exclusive: one label per image in the training table.
        thresholds: per class, on the probability map; None until calibrated.
        decisions: per class, on the image score; None until calibrated.
        calibration: the scale of the maps.
        origin: where the first cell of the class map looks, input pixels per axis.
        training: for the record: best epoch, images, seconds.
    """

    classes: tuple[str, ...]
    config: RunConfig
    exclusive: bool = False
    thresholds: tuple[Threshold, ...] | None = None
    decisions: tuple[Threshold, ...] | None = None
    calibration: Calibration | None = None
    origin: tuple[float, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


class TrainedClassifier(torch.nn.Module):
    """A network with its card: ``classifier(images)`` gives logits and class maps in one forward pass."""

    def __init__(self, network: Classifier, card: ModelCard) -> None:
        super().__init__()
        self.network, self.card = network, card
        self.preprocess = Preprocess(card.config.preprocess)

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.card.classes

    def forward(self, images: Tensor, valid: Tensor | None = None) -> ClassifierOutput:
        """Prepared images ``(N, C, H, W)`` to ``ClassifierOutput``."""
        output: ClassifierOutput = self.network(images, valid)
        return output


def save_classifier(folder: RunFolder, network: Classifier, card: ModelCard) -> None:
    """Write weights and card, each whole or not at all."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_with(folder.weights, lambda partial: save_file(state, partial))
    write_json(folder.model, _to_json(card))


def update_card(folder: RunFolder, **changes: Any) -> ModelCard:
    """Change fields of the card on disk (thresholds after calibration)."""
    card = replace(_from_json(folder, read_json(folder.model)), **changes)
    write_json(folder.model, _to_json(card))
    return card


def load_classifier(run: str | Path, *, pooling: Callable[..., Tensor] | None = None) -> TrainedClassifier:
    """Load a run's classifier, in eval mode on the CPU.

    Args:
        run: the run folder.
        pooling: the user's own callable, where the run was trained with one.

    Raises:
        RunError: if the folder holds no model, or a damaged one.
        ModelError: if the model needs a callable that was not given.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = RunFolder(Path(run))
    if not folder.model.is_file():
        raise RunError(f"{run} holds no model/model.json; give the folder that `lesioncam run` or `train` wrote.")
    card = _from_json(folder, read_json(folder.model))
    network = build_classifier(card.config, len(card.classes), weights="none", own_pool=pooling)
    try:
        network.load_state_dict(load_file(folder.weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{folder.weights} cannot be read into this network ({str(error).splitlines()[0]}).") from error
    return TrainedClassifier(network, card).eval().requires_grad_(requires_grad=False)


def _to_json(card: ModelCard) -> dict[str, Any]:
    from lesioncam import __version__

    table = card.config.table.model_copy(update={"images": None})
    config = card.config.model_copy(update={"table": table, "cache": None, "weights": Path(card.config.weights).name})
    return {
        "format": FORMAT,
        "lesioncam": __version__,
        "classes": list(card.classes),
        "exclusive": card.exclusive,
        "config": config.model_dump(mode="json"),
        "thresholds": _thresholds_to_json(card.classes, card.thresholds),
        "decisions": _thresholds_to_json(card.classes, card.decisions),
        "calibration": None if card.calibration is None else asdict(card.calibration),
        "origin": card.origin,
        "training": dict(card.training),
    }


def _from_json(folder: RunFolder, content: Mapping[str, Any]) -> ModelCard:
    if content.get("format") != FORMAT:
        raise RunError(f"{folder.model} has format {content.get('format')!r}; this version reads format {FORMAT}.")
    try:
        classes = tuple(str(name) for name in content["classes"])
        scale = content["calibration"]
        return ModelCard(
            classes=classes,
            config=RunConfig.model_validate(content["config"]),
            exclusive=bool(content["exclusive"]),
            thresholds=_thresholds_from_json(classes, content["thresholds"]),
            decisions=_thresholds_from_json(classes, content["decisions"]),
            calibration=None
            if scale is None
            else Calibration(tuple(scale["scale"]), tuple(scale["offset"]), scale["source"]),
            origin=None if content["origin"] is None else tuple(float(v) for v in content["origin"]),
            training=dict(content["training"]),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{folder.model} is damaged ({error}); restore it or train again.") from error


def _thresholds_to_json(classes: tuple[str, ...], chosen: tuple[Threshold, ...] | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    return {
        name: {"value": t.value, "source": t.source, "tuned_on": sorted(t.tuned_on)}
        for name, t in zip(classes, chosen, strict=True)
    }


def _thresholds_from_json(classes: tuple[str, ...], content: Mapping[str, Any] | None) -> tuple[Threshold, ...] | None:
    if content is None:
        return None
    source: Literal["val", "default", "given"]
    chosen = []
    for name in classes:
        source = content[name]["source"]
        chosen.append(Threshold(float(content[name]["value"]), source, frozenset(content[name]["tuned_on"])))
    return tuple(chosen)
