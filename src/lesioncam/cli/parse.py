"""From words to typed options: one parser per verb, made from its type; options of a choice ride with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from lesioncam.errors import OptionError
from lesioncam.options.base import parse_kind, validated
from lesioncam.options.data import TableConfig
from lesioncam.options.networks import BackboneConfig, parse_backbone
from lesioncam.options.poolings import Pooling, parse_pooling
from lesioncam.options.run import RunConfig
from lesioncam.options.training import LOSSES, OPTIMIZERS, SCHEDULES

__all__ = ["Pairs", "parse", "read_values", "with_settings"]

T = TypeVar("T")


class _SlipError(Exception):
    """Carries our own sentence past the parser, which would box and wrap a ValueError."""


def _ours(read: Callable[[str], Any]) -> Callable[[list[str]], Any]:
    def reader(words: list[str]) -> Any:
        try:
            return read(words[0])
        except OptionError as error:
            raise _SlipError(str(error)) from error

    return reader


def _pairs(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise _SlipError(f"{word!r}: expected OUR_NAME=YOURS, for instance image=file.")
        found[key] = value
    return found


def _is_pairs(value: Any) -> bool:
    return isinstance(value, dict)


_PAIRS = PrimitiveConstructorSpec(
    nargs="*",
    metavar="NAME=VALUE ...",
    instance_from_str=_pairs,
    is_instance=_is_pairs,
    str_from_instance=lambda pairs: [f"{key}={_write_policy(value)}" for key, value in pairs.items()],
)
Pairs = Annotated[dict[str, str], _PAIRS]
"""``--columns image=file label=dx``."""


def _write_choice(choice: Any) -> list[str]:
    """The shortest text that gives the choice back: its name and what differs from the defaults."""
    content = choice.model_dump()
    name = content.pop("kind", None) or content.pop("name")
    more = content.pop("options", {})
    fields = type(choice).model_fields
    changed = {key: value for key, value in content.items() if value != fields[key].default}
    return [",".join([name, *(f"{key}={_inline(value)}" for key, value in {**changed, **more}.items())])]


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")


def _kinds(kinds: Mapping[str, type[Any]], what: str) -> PrimitiveConstructorSpec[Any]:
    """``name,option=value`` for one of several types."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[,OPTION=VALUE]",
        instance_from_str=_ours(lambda text: parse_kind(text, kinds, what)),
        is_instance=lambda value: isinstance(value, tuple(kinds.values())),
        str_from_instance=_write_choice,
    )


def _write_policy(value: Any) -> str:
    return value if isinstance(value, str) else _inline(list(value) if isinstance(value, tuple) else value)


_POLICY = PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="ignore|0|1|0.7|soft|[0.55,0.85]",
    instance_from_str=_ours(lambda text: validated(TableConfig, {"uncertain": text}, "--uncertain").uncertain),
    is_instance=lambda value: isinstance(value, str | float | tuple),
    str_from_instance=lambda value: [_write_policy(value)],
)


def _policies(name: str) -> PrimitiveConstructorSpec[Any]:
    """``CLASS=POLICY ...``, checked here: the parser itself would box the error."""

    def read(words: list[str]) -> Any:
        try:
            return getattr(validated(TableConfig, {name: _pairs(words)}, f"--{name.replace('_', '-')}"), name)
        except OptionError as error:
            raise _SlipError(str(error)) from error

    return replace(_PAIRS, instance_from_str=read, metavar="CLASS=POLICY ...")


_CHOICES = {
    "loss": _kinds(LOSSES, "loss"),
    "optimizer": _kinds(OPTIMIZERS, "optimizer"),
    "schedule": _kinds(SCHEDULES, "schedule"),
    "pooling": PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[,OPTION=VALUE]",
        instance_from_str=_ours(parse_pooling),
        is_instance=lambda value: hasattr(value, "kind"),
        str_from_instance=_write_choice,
    ),
    "backbone": PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[,OPTION=VALUE]",
        instance_from_str=_ours(parse_backbone),
        is_instance=lambda value: isinstance(value, BackboneConfig),
        str_from_instance=_write_choice,
    ),
}

_READINGS = {
    "uncertain": _POLICY,
    "uncertain_for": _policies("uncertain_for"),
    "blank_for": _policies("blank_for"),
}


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    known: list[tuple[Any, PrimitiveConstructorSpec[Any]]] = [(Pooling, _CHOICES["pooling"])]
    known += [(RunConfig.model_fields[name].annotation, made) for name, made in _CHOICES.items()]
    known += [(TableConfig.model_fields[name].annotation, made) for name, made in _READINGS.items()]

    @registry.primitive_rule
    def choices(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        for annotation, made in known:
            if info.type == annotation:
                return made
        return _PAIRS if info.type_origin is dict else None

    return registry


def parse(kind: type[T], verb: str, words: Sequence[str], default: T | None = None) -> T:
    """Parse the words of one verb.

    Args:
        kind: the verb's dataclass.
        verb: for the help.
        words: after the verb.
        default: an instance whose values are the defaults.

    Raises:
        SystemExit: for help (0) or a slip (2), printed by the parser.
        OptionError: for a value a choice cannot have.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    with _registry():
        try:
            return tyro.cli(kind, prog=f"lesioncam {verb}", args=list(words), **given)
        except _SlipError as slip:
            raise OptionError(str(slip)) from slip


def with_settings(config: RunConfig, settings: Mapping[str, str]) -> RunConfig:
    """Change options by their full name.

    Example:
        >>> with_settings(RunConfig(), {"augment.flip": "0"}).augment.flip
        0.0
    """
    content = config.model_dump()
    for name, text in settings.items():
        *groups, last = name.split(".")
        place = content
        for group in groups:
            if not isinstance(place.get(group), dict):
                raise OptionError(f"--set {name}: there is no group {group!r} in the options.")
            place = place[group]
        if last not in place:
            raise OptionError(f"--set {name}: no such option; available here: {', '.join(place)}.")
        place[last] = yaml.safe_load(text)
    return validated(RunConfig, content, "--set")


def read_values(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Values of ``NAME=VALUE`` pairs, read as YAML.

    Example:
        >>> read_values({"size": "320", "mean": "[0.5]", "crop_mode": "border"})
        {'size': 320, 'mean': [0.5], 'crop_mode': 'border'}
    """
    return {name: yaml.safe_load(text) for name, text in pairs.items()}
