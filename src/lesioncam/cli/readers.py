"""How options are read from words and written as words: what the parser is told about types of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tyro.conf import arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from lesioncam.errors import OptionError
from lesioncam.options.base import Config, validated, write_yaml
from lesioncam.options.data import TableConfig
from lesioncam.options.run import CHOICES

V = TypeVar("V")


class SlipError(Exception):
    """Carries our own sentence past the parser, which would box and wrap a ValueError."""


def _spec(
    read: Callable[[list[str]], V], write: Callable[[V], list[str]], kinds: tuple[type, ...], metavar: str
) -> PrimitiveConstructorSpec[V]:
    """How an option is read from words and written as words.

    A metavar that ends in dots takes any number of words, another takes one.
    """

    def checked(words: list[str]) -> V:
        try:
            return read(words)
        except OptionError as error:
            raise SlipError(str(error)) from error

    return PrimitiveConstructorSpec(
        nargs="*" if metavar.endswith("...") else 1,
        metavar=metavar,
        instance_from_str=checked,
        is_instance=lambda value: isinstance(value, kinds),
        str_from_instance=write,
    )


def _read_pairs(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise OptionError(f"{word!r}: expected OUR_NAME=YOURS, for instance image=file.")
        found[key] = value
    return found


def _write_pairs(pairs: Mapping[str, object]) -> list[str]:
    return [f"{key}={_write_policy(value)}" for key, value in pairs.items()]


_PAIRS = _spec(_read_pairs, _write_pairs, (dict,), "NAME=VALUE ...")
Pairs = Annotated[dict[str, str], _PAIRS, arg(help_behavior_hint="")]
"""``--columns image=file label=dx``."""


def _write_choice(choice: BaseModel) -> list[str]:
    """The shortest text that gives the choice back: its name and what differs from the defaults."""
    content = choice.model_dump()
    name = content.pop("kind", None) or content.pop("name")
    more = content.pop("options", {})
    fields = type(choice).model_fields
    changed = {key: value for key, value in content.items() if value != fields[key].default}
    return [",".join([name, *(f"{key}={write_yaml(value)}" for key, value in {**changed, **more}.items())])]


def _choice(name: str) -> PrimitiveConstructorSpec[BaseModel]:
    return _spec(lambda words: CHOICES[name](words[0]), _write_choice, (BaseModel,), "NAME[,OPTION=VALUE]")


def _write_policy(value: object) -> str:
    return value if isinstance(value, str) else write_yaml(list(value) if isinstance(value, tuple) else value)


def _of_table(name: str, value: object) -> Any:
    """One option of a table, checked here: the parser itself would box the error."""
    return getattr(validated(TableConfig, {name: value}, f"--{name.replace('_', '-')}"), name)


def _policies(name: str) -> PrimitiveConstructorSpec:
    return _spec(lambda words: _of_table(name, _read_pairs(words)), _write_pairs, (dict,), "CLASS=POLICY ...")


_SPECS: dict[str, PrimitiveConstructorSpec] = {
    **{name: _choice(name) for name in CHOICES},
    "columns": _PAIRS,
    "uncertain": _spec(
        lambda words: _of_table("uncertain", words[0]),
        lambda value: [_write_policy(value)],
        (str, float, tuple),
        "ignore|0|1|0.7|soft|[0.55,0.85]",
    ),
    "uncertain_for": _policies("uncertain_for"),
    "blank_for": _policies("blank_for"),
}
"""Options that are no plain number, word or path, and how they are read."""

_METAVARS = {
    "cache": "DIR",
    "classes": "NAME ...",
    "images": "DIR",
    "negative": "NAME ...",
    "no_finding": "COLUMN",
    "operating_point": "youden|sensitivity=0.9|specificity=0.9|cost=5",
    "outside": "FLOAT",
    "padding": "FLOAT",
    "patient_from": "REGEX|blocks:N|none",
    "size": "N|N N N",
    "weights": "none|hub|FILE|RUN",
}
"""What stands behind an option in the help, where its type says it badly."""


def _field(name: str, info: FieldInfo, default: object) -> StructFieldSpec:
    """One option, as the parser takes it."""
    kind: Any = info.annotation
    if name in _SPECS:
        kind = Annotated[kind, _SPECS[name]]
    elif name in _METAVARS:
        kind = Annotated[kind, arg(metavar=_METAVARS[name])]
    if default is True:  # what is shown is the way to turn it off
        kind = Annotated[kind, arg(help_behavior_hint="(on unless this is given)")]
    elif default in (None, False, (), {}):  # what that means is said in words
        kind = Annotated[kind, arg(help_behavior_hint="")]
    return StructFieldSpec(name, kind, default, " ".join((info.description or "").split()))


def _group(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Options of ours, built so that a slip is one sentence."""
    kind = info.type
    if not (isinstance(kind, type) and issubclass(kind, Config)):
        return None
    given = info.default if isinstance(info.default, kind) else kind()

    def build(**values: object) -> Config:
        try:
            return validated(kind, values, "options")
        except OptionError as error:
            raise SlipError(str(error)) from error

    fields = (_field(name, field, getattr(given, name)) for name, field in kind.model_fields.items())
    return StructConstructorSpec(build, tuple(fields))


def registry() -> ConstructorRegistry:
    """How the parser reads what is ours."""
    made = ConstructorRegistry()
    made.struct_rule(_group)
    made.primitive_rule(lambda info: _PAIRS if info.type_origin is dict else None)
    return made
