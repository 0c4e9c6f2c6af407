"""What all options share: a frozen type, and the way from text to it.

Only pydantic is imported in this room, so that help loads nothing heavy. Options of a choice are a union of types: an
option of a method that was not chosen cannot exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lesioncam.errors import OptionError
from lesioncam.lookup import find

Fraction = Annotated[float, Field(gt=0, le=1)]


Share = Annotated[float, Field(ge=0, le=1)]


BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """Base of all options: frozen, and a slip in a name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_choice(text: str) -> dict[str, object]:
    """``name,option=value,...`` to a dict; commas inside brackets stay together, values are read as YAML.

    Example:
        >>> parse_choice("lse,sharpness=6")
        {'name': 'lse', 'sharpness': 6}
        >>> parse_choice("resnet10t,stride=16,channels=[24,48,96,192]")
        {'name': 'resnet10t', 'stride': 16, 'channels': [24, 48, 96, 192]}
    """
    name, *pairs = re.split(r",(?![^\[\(]*[\]\)])", text)
    found: dict[str, object] = {"name": name.strip()}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{text!r}: expected name,option=value, but {pair!r} has no '='.")
        found[key.strip()] = read_yaml(value)
    return found


def parse_kind(text: str, kinds: Mapping[str, type[Config]], what: str) -> Config:
    """``focal,gamma=1`` to its typed options.

    Args:
        text: as typed.
        kinds: all there are, by name.
        what: what they are, for the error.

    Raises:
        OptionError: for an unknown name (with the nearest), or an option that belongs to another.

    Example:
        >>> from lesioncam.options.training import LOSSES
        >>> parse_kind("focal,gamma=1", LOSSES, "loss")
        FocalLoss(kind='focal', gamma=1.0, alpha=None)
    """
    found = parse_choice(text)
    kind = find(str(found.pop("name")), kinds, what)
    return validated(kind, found, f"{what} {text!r}")


def from_text(read: Callable[[str], Config]) -> BeforeValidator:
    """For a choice: text is read, so that a YAML file may say ``loss: focal,gamma=1``; anything else stays."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def kinds_of(union: object) -> dict[str, type[Config]]:
    """The members of a union of options by their kind, sorted; empty for anything else.

    Example:
        >>> from lesioncam.options.training import Optimizer
        >>> list(kinds_of(Optimizer))
        ['adam', 'adamw', 'sgd']
    """
    if get_origin(union) is Annotated:
        union = get_args(union)[0]
    members = [one for one in get_args(union) if isinstance(one, type) and issubclass(one, Config)]
    by_kind = {str(one.model_fields["kind"].default): one for one in members if "kind" in one.model_fields}
    return dict(sorted(by_kind.items()))


def describe_kinds(kinds: Mapping[str, type[Config]]) -> str:
    """What a user may type, with the defaults, for the help.

    Example:
        >>> from lesioncam.options.training import OPTIMIZERS
        >>> describe_kinds(OPTIMIZERS)
        'adam | adamw | sgd[,momentum=0.9,nesterov=false]'
    """
    described = []
    for name, kind in kinds.items():
        fields = {key: field.default for key, field in kind.model_fields.items() if key != "kind"}
        options = ",".join(f"{key}={write_yaml(value)}" for key, value in fields.items())
        described.append(f"{name}[,{options}]" if options else name)
    return " | ".join(described)


def read_yaml(text: str) -> object:
    """A value as YAML has it: numbers, lists, true and false, null."""
    import yaml

    value: object = yaml.safe_load(text)
    return value


def write_yaml(value: object) -> str:
    """A value on one line, so that :func:`read_yaml` gives it back.

    Example:
        >>> write_yaml([0.5, None]), write_yaml(True)
        ('[0.5, null]', 'true')
    """
    import yaml

    return str(yaml.safe_dump(value, default_flow_style=True)).strip().removesuffix("\n...")


C = TypeVar("C", bound=BaseModel)


def validated(
    kind: type[C], values: Mapping[str, object], what: str, family: Mapping[str, type[Config]] | None = None
) -> C:
    """Build a configuration; a slip is one sentence, not a traceback.

    Args:
        kind: of the configuration.
        values: by field.
        what: it is, for the error.
        family: the other kinds that could have been chosen, by name: an option of theirs is said to be theirs.

    Raises:
        OptionError: naming each wrong field, what was found and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        slips = []
        for slip in error.errors():
            own = slip.get("ctx", {}).get("error")
            if isinstance(own, OptionError):  # a whole sentence already
                slips.append(str(own).rstrip("."))
                continue
            place = ".".join(str(part) for part in slip["loc"])
            allowed = _allowed(kind, slip["loc"], family or {}) if slip["type"] == "extra_forbidden" else ""
            said = slip["msg"].removeprefix("Value error, ").rstrip(".")
            slips.append(f"{place}: {said} (found {slip['input']!r}){allowed}" if place else said)
        raise OptionError(f"{what}: {'; '.join(slips)}.") from error


def _allowed(kind: type[BaseModel], place: tuple[int | str, ...], family: Mapping[str, type[Config]]) -> str:
    """What may stand in the place of an option that may not; where another of the family has it, that one is named."""
    if len(place) > 2:  # inside a choice: (field, kind, option)
        field = kind.model_fields.get(str(place[0]))
        family = kinds_of(field.annotation) if field else {}
        kind = family.get(str(place[1]), kind)
    said = f"; available: {', '.join(kind.model_fields)}"
    owners = [name for name, each in family.items() if str(place[-1]) in each.model_fields]
    return f"{said}; {place[-1]} belongs to {' and '.join(owners)}" if owners else said
