"""What a model is, beside its weights: one JSON that loading executes nothing from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lesioncam.errors import RunError
from lesioncam.files import read_json, write_json
from lesioncam.options.networks import AdoptConfig
from lesioncam.options.removed import drop_removed
from lesioncam.options.run import RunConfig
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Calibration, Chosen, Threshold

__all__ = [
    "ModelCard",
    "calibration_from_json",
    "calibration_to_json",
    "card_from_json",
    "card_to_json",
    "thresholds_from_json",
    "thresholds_to_json",
    "update_card",
]

FORMAT = 2


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
        image_calibration: the scale of the image score; None is the sigmoid.
        chosen: everything else that was chosen on validation: the checkpoint, an ensemble ...
        trained_on: keyed digests of the patients it was trained on.
        roles: digest of which image was in which split when it was trained.
        key_mark: tells whether the run's secret is still the one that made the digests.
        origin: where the first cell of the class map looks, input pixels per axis.
        training: for the record: best epoch, images, seconds.
        adopted: what makes the network, where it is somebody else's; None for our own.
    """

    classes: tuple[str, ...]
    config: RunConfig
    exclusive: bool = False
    thresholds: tuple[Threshold, ...] | None = None
    decisions: tuple[Threshold, ...] | None = None
    calibration: Calibration | None = None
    image_calibration: Calibration | None = None
    chosen: tuple[Chosen, ...] = ()
    trained_on: frozenset[str] = frozenset()
    roles: str = ""
    key_mark: str = ""
    origin: tuple[float, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    adopted: AdoptConfig | None = None


def update_card(folder: RunFolder, **changes: Any) -> ModelCard:
    """Change fields of the card on disk (thresholds after calibration)."""
    card = replace(card_from_json(folder.model, read_json(folder.model)), **changes)
    write_json(folder.model, card_to_json(card))
    return card


def card_to_json(card: ModelCard) -> dict[str, Any]:
    """Everything of a card as JSON; patients are written once and referred to by number."""
    from lesioncam import __version__

    table = card.config.table.model_copy(update={"images": None})
    config = card.config.model_copy(update={"table": table, "cache": None, "weights": Path(card.config.weights).name})
    groups = _Groups()
    return {
        "format": FORMAT,
        "lesioncam": __version__,
        "classes": list(card.classes),
        "exclusive": card.exclusive,
        "config": config.model_dump(mode="json"),
        "thresholds": thresholds_to_json(card.classes, card.thresholds, groups.number),
        "decisions": thresholds_to_json(card.classes, card.decisions, groups.number),
        "calibration": calibration_to_json(card.calibration, groups.number),
        "image_calibration": calibration_to_json(card.image_calibration, groups.number),
        "chosen": [{"what": c.what, "value": c.value, "tuned_on": groups.number(c.tuned_on)} for c in card.chosen],
        "trained_on": groups.number(card.trained_on),
        "roles": card.roles,
        "key_mark": card.key_mark,
        "origin": card.origin,
        "training": dict(card.training),
        **({} if card.adopted is None else {"adopted": card.adopted.model_dump(mode="json")}),
        "patients": groups.lists,
    }


def card_from_json(path: Path, content: Mapping[str, Any]) -> ModelCard:
    """What `card_to_json` wrote.

    Raises:
        RunError: for another format, or a damaged file.
    """
    if content.get("format") != FORMAT:
        raise RunError(f"{path} has format {content.get('format')!r}; this version reads format {FORMAT}. Train again.")
    try:
        classes = tuple(str(name) for name in content["classes"])
        groups = [frozenset(map(str, group)) for group in content["patients"]]
        return ModelCard(
            classes=classes,
            config=RunConfig.model_validate(drop_removed(content["config"])[0]),
            exclusive=bool(content["exclusive"]),
            thresholds=thresholds_from_json(classes, content["thresholds"], groups),
            decisions=thresholds_from_json(classes, content["decisions"], groups),
            calibration=calibration_from_json(content["calibration"], groups),
            image_calibration=calibration_from_json(content["image_calibration"], groups),
            chosen=tuple(Chosen(c["what"], c["value"], groups[c["tuned_on"]]) for c in content["chosen"]),
            trained_on=groups[content["trained_on"]],
            roles=str(content["roles"]),
            key_mark=str(content["key_mark"]),
            origin=None if content["origin"] is None else tuple(float(v) for v in content["origin"]),
            training=dict(content["training"]),
            adopted=AdoptConfig.model_validate(content["adopted"]) if "adopted" in content else None,
        )
    except (KeyError, IndexError, TypeError, ValidationError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it or train again.") from error


class _Groups:
    """Sets of patients written once and referred to by number: every threshold of a run remembers the same ones."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []

    def number(self, patients: frozenset[str]) -> int:
        members = sorted(patients)
        if members not in self.lists:
            self.lists.append(members)
        return self.lists.index(members)


def thresholds_to_json(
    classes: tuple[str, ...], chosen: tuple[Threshold, ...] | None, number: Callable[[frozenset[str]], Any]
) -> dict[str, Any] | None:
    """Thresholds by class; ``number`` says how the patients they were chosen on are written."""
    if chosen is None:
        return None
    return {
        name: {"value": t.value, "source": t.source, "tuned_on": number(t.tuned_on)}
        for name, t in zip(classes, chosen, strict=True)
    }


def thresholds_from_json(
    classes: tuple[str, ...], content: Mapping[str, Any] | None, groups: Sequence[frozenset[str]]
) -> tuple[Threshold, ...] | None:
    """What `thresholds_to_json` wrote."""
    if content is None:
        return None
    source: Literal["val", "default", "given"]
    chosen = []
    for name in classes:
        source = content[name]["source"]
        chosen.append(Threshold(float(content[name]["value"]), source, groups[content[name]["tuned_on"]]))
    return tuple(chosen)


def calibration_to_json(scale: Calibration | None, number: Callable[[frozenset[str]], Any]) -> dict[str, Any] | None:
    """A calibration; ``number`` says how the patients it was fitted on are written."""
    if scale is None:
        return None
    return {
        "kind": scale.kind,
        "scale": list(scale.scale),
        "offset": list(scale.offset),
        "source": scale.source,
        "knots": scale.knots,
        "tuned_on": number(scale.tuned_on),
    }


def calibration_from_json(content: Mapping[str, Any] | None, groups: Sequence[frozenset[str]]) -> Calibration | None:
    """What `calibration_to_json` wrote."""
    if content is None:
        return None
    return Calibration(
        tuple(map(float, content["scale"])),
        tuple(map(float, content["offset"])),
        str(content["source"]),
        tuple((tuple(map(float, places)), tuple(map(float, values))) for places, values in content["knots"]),
        groups[content["tuned_on"]],
        str(content["kind"]),
    )
