"""What all options share: a frozen type, and the way from text to it.

Only pydantic is imported in this room, so that help loads nothing heavy. Options of a choice are a union of types: an
option of a method that was not chosen cannot exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesioncam.errors import OptionError
from lesioncam.lookup import find

__all__ = ["BelowOne", "Config", "Fraction", "Share", "parse_choice", "parse_kind", "typed", "validated"]


Fraction = Annotated[float, Field(gt=0, le=1)]


Share = Annotated[float, Field(ge=0, le=1)]


BelowOne = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """Base of all options: frozen, and a slip in a name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_choice(text: str) -> dict[str, Any]:
    """``name,option=value,...`` to a dict; commas inside brackets stay together, values are read as YAML.

    Example:
        >>> parse_choice("lse,sharpness=6")
        {'name': 'lse', 'sharpness': 6}
        >>> parse_choice("resnet10t,stride=16,channels=[24,48,96,192]")
        {'name': 'resnet10t', 'stride': 16, 'channels': [24, 48, 96, 192]}
    """
    import yaml

    name, *pairs = re.split(r",(?![^\[\(]*[\]\)])", text)
    found: dict[str, Any] = {"name": name.strip()}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{text!r}: expected name,option=value, but {pair!r} has no '='.")
        found[key.strip()] = yaml.safe_load(value)
    return found


def parse_kind(text: str, kinds: Mapping[str, type[BaseModel]], what: str) -> BaseModel:
    """``focal,gamma=1`` to its typed options.

    Args:
        text: as typed.
        kinds: all there are, by name.
        what: what they are, for the error.

    Raises:
        OptionError: for an unknown name (with the nearest), or an option that belongs to another.

    Example:
        >>> parse_kind("focal,gamma=1", LOSSES, "loss")
        FocalLoss(kind='focal', gamma=1.0, alpha=None)
    """
    found = parse_choice(text)
    kind = find(str(found.pop("name")), kinds, what)
    return validated(kind, found, f"{what} {text!r}")


def typed(value: Any, kinds: Mapping[str, type[BaseModel]], what: str) -> Any:
    """Text as its typed options, so that a YAML file may say ``loss: focal,gamma=1``; anything else as it is."""
    return parse_kind(value, kinds, what) if isinstance(value, str) else value


C = TypeVar("C", bound=BaseModel)


def validated(
    kind: type[C], values: Mapping[str, Any], what: str, family: Mapping[str, type[BaseModel]] | None = None
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
            place = ".".join(str(part) for part in slip["loc"])
            allowed = _allowed(kind, slip["loc"], family or {}) if slip["type"] == "extra_forbidden" else ""
            said = slip["msg"].removeprefix("Value error, ").rstrip(".")
            slips.append(f"{place}: {said} (found {slip['input']!r}){allowed}")
        raise OptionError(f"{what}: {'; '.join(slips)}.") from error


def _allowed(kind: type[BaseModel], place: tuple[int | str, ...], family: Mapping[str, type[BaseModel]]) -> str:
    """What may stand in the place of an option that may not; where another of the family has it, that one is named."""
    if len(place) > 2:  # inside a choice: (field, kind, option)
        family = _members(kind, str(place[0]))
        kind = family.get(str(place[1]), kind)
    said = f"; available: {', '.join(kind.model_fields)}"
    owners = [name for name, each in family.items() if str(place[-1]) in each.model_fields]
    return f"{said}; {place[-1]} belongs to {' and '.join(owners)}" if owners else said


def _members(kind: type[BaseModel], name: str) -> dict[str, type[BaseModel]]:
    """The types that a field may have, by their kind."""
    types = get_args(kind.model_fields[name].annotation) if name in kind.model_fields else ()
    return {str(one.model_fields["kind"].default): one for one in types if "kind" in getattr(one, "model_fields", {})}
