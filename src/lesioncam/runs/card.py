"""What a model is, beside its weights: one JSON that loading executes nothing from.

A card is of one kind: a classifier trained here (``classifier``), somebody else's network (``adopted``), or the maps of
another tool (``maps``). What all kinds share stands in `ModelCard`; a new kind is one more member of `Card`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from lesioncam.errors import RunError
from lesioncam.files import read_json, write_json
from lesioncam.options.networks import AdoptConfig
from lesioncam.options.removed import drop_removed
from lesioncam.options.run import RunConfig
from lesioncam.runs.json_file import JsonFile, damaged
from lesioncam.types import Calibration, Chosen, Threshold

FORMAT = 2


@dataclass(frozen=True)
class TrainingRecord:
    """How training went; None where it is not known."""

    best_epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    images: int | None = None
    interrupted: bool | None = None


@dataclass(frozen=True)
class ModelCard:
    """What cards of every kind hold.

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
        origin: where the first cell of the map looks, input pixels per axis; None means half-pixel centres.
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


@dataclass(frozen=True)
class ClassifierCard(ModelCard):
    """A classifier that was trained here.

    Attributes:
        training: for the record.
    """

    training: TrainingRecord = TrainingRecord()
    kind: Literal["classifier"] = "classifier"


@dataclass(frozen=True)
class AdoptedCard(ModelCard):
    """Somebody else's network.

    Attributes:
        adopted: what makes it, and what it takes.
    """

    adopted: AdoptConfig = field(kw_only=True)
    kind: Literal["adopted"] = "adopted"


@dataclass(frozen=True)
class MapsCard(ModelCard):
    """The maps of another tool, of which nothing else is known.

    Attributes:
        method: what the tool is called.
    """

    method: str = field(kw_only=True)
    kind: Literal["maps"] = "maps"


Card = ClassifierCard | AdoptedCard | MapsCard


def write_card(path: Path, card: ModelCard) -> None:
    """Write it, whole or not at all; sets of patients are written once and referred to by number.

    Raises:
        TypeError: for a card that is of no kind.
    """
    from lesioncam import __version__

    if not isinstance(card, Card):
        raise TypeError(f"{type(card).__name__} is no kind of card that is kept.")
    table = card.config.table.model_copy(update={"images": None})
    config = card.config.model_copy(update={"table": table, "cache": None, "weights": Path(card.config.weights).name})
    content = _adapter().dump_python(card) | {"config": config.model_dump(mode="json")}
    for name in ("thresholds", "decisions"):
        if content[name] is not None:
            content[name] = dict(zip(card.classes, content[name], strict=True))
    groups: list[list[str]] = []
    numbered = {name: _numbered(value, groups) for name, value in content.items()}
    write_json(path, {"format": FORMAT, "lesioncam": __version__, **numbered, "patients": groups})


def read_card(path: Path) -> Card:
    """What `write_card` wrote; older files do not say their kind.

    Raises:
        RunError: for another format, or a damaged file.
    """
    content = read_json(path)
    try:
        if "card" in content:  # older files of another tool's maps
            content = {**content["card"], "method": content["method"], "kind": "maps"}
        if content["format"] != FORMAT:
            raise RunError(f"{path} has format {content['format']!r}; this version reads {FORMAT}. Train again.")
        return _card_of(content)
    except ValidationError as error:
        raise damaged(path, error) from error
    except (KeyError, IndexError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it or train again.") from error


def _card_of(content: Mapping[str, Any]) -> Card:
    groups = [frozenset(map(str, group)) for group in content["patients"]]
    apart = {name: content[name] for name in _APART if name in content}
    apart["config"] = drop_removed(content["config"])[0]
    fields = _named({name: each for name, each in content.items() if name not in _APART}, groups) | apart
    for name in ("thresholds", "decisions"):
        if fields[name] is not None:
            fields[name] = [fields[name][label] for label in fields["classes"]]
    _require_memory(fields)
    return _adapter().validate_python({"kind": "adopted" if "adopted" in fields else "classifier", **fields})


def _require_memory(fields: Mapping[str, Any]) -> None:
    """Nothing that says whom the model has seen may be missing and pass for nobody."""
    parts = [*(fields["thresholds"] or ()), *(fields["decisions"] or ()), *fields["chosen"]]
    parts += filter(None, (fields["calibration"], fields["image_calibration"]))
    missing = [name for name in ("trained_on", "roles", "key_mark") if name not in fields]
    missing += ["tuned_on" for part in parts if "tuned_on" not in part]
    if missing:
        raise KeyError(missing[0])


class _Trained(JsonFile):
    training: TrainingRecord = TrainingRecord()


def read_training(path: Path) -> TrainingRecord:
    """How training went, of a card whose other options may be older than this version; empty without a card.

    Raises:
        RunError: for a damaged file.
    """
    return _Trained.read(path).training if path.is_file() else TrainingRecord()


@cache
def _adapter() -> TypeAdapter[Card]:
    return TypeAdapter(Annotated[Card, Field(discriminator="kind")])


_APART = ("config", "adopted", "training", "patients")
"""Parts of a card that hold no patients."""


def _numbered(value: object, groups: list[list[str]]) -> object:
    """Every set of patients as its number in ``groups``: all thresholds of a run remember the same ones."""
    match value:
        case frozenset():
            members = sorted(value)
            if members not in groups:
                groups.append(members)
            return groups.index(members)
        case dict():
            return {key: _numbered(each, groups) for key, each in value.items()}
        case list() | tuple():
            return [_numbered(each, groups) for each in value]
        case _:
            return value


def _named(value: Any, groups: Sequence[frozenset[str]]) -> Any:
    """Numbers of sets of patients as the sets themselves."""
    match value:
        case dict():
            return {k: groups[v] if k in ("tuned_on", "trained_on") else _named(v, groups) for k, v in value.items()}
        case list():
            return [_named(each, groups) for each in value]
        case _:
            return value
