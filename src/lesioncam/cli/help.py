"""What ``--help`` prints: the options that matter, by what one wants; ``--help all`` prints every one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import getdoc
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, create_model
from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import StructConstructorSpec, StructFieldSpec, StructTypeInfo

from lesioncam.cli.readers import registry
from lesioncam.options.base import Config
from lesioncam.options.data import TableConfig
from lesioncam.options.run import EVERYDAY, GROUPS, OPTION_HOMES, RunConfig

Shown = Literal["everyday", "all"]


def help_asked(words: Sequence[str]) -> Shown | None:
    """How much help was asked for, if any.

    Example:
        >>> help_asked(["t.csv", "--help"]), help_asked(["--help", "all"]), help_asked(["t.csv"])
        ('everyday', 'all', None)
    """
    place = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if place is None:
        return None
    return "all" if list(words[place + 1 : place + 2]) == ["all"] else "everyday"


def print_help(kind: type, verb: str, shown: Shown, default: object = None) -> None:
    """Print the help of a verb and stop.

    Args:
        kind: the verb's dataclass.
        verb: its name.
        shown: the options that matter, or all.
        default: an instance whose values are shown as the defaults.

    Raises:
        SystemExit: with 0.
    """
    about = getdoc(kind) or ""
    if shown == "everyday" and any(one.default_factory in (RunConfig, TableConfig) for one in fields(kind)):
        about += f"\n\nMost people need no more options than these; all of them: lesioncam {verb} --help all"
    made = registry()

    @made.struct_rule
    def sections(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in (RunConfig, TableConfig):
            return None
        return _sections(info.default if isinstance(info.default, info.type) else info.type(), shown)

    given = tyro.MISSING_NONPROP if default is None else default
    name, short = f"lesioncam {verb}", (FlagCreatePairsOff,)
    with made:
        tyro.cli(kind, prog=name, description=about, args=["--help"], default=given, config=short)


def _sections(given: Config, shown: Shown) -> StructConstructorSpec:
    """A box for each thing one wants; where all is asked for, a box for the rest of each group."""
    homes = OPTION_HOMES if isinstance(given, RunConfig) else dict.fromkeys(TableConfig.model_fields, "")
    homes = {name: home for name, home in homes.items() if name not in GROUPS}
    titled = {title: [name for name in names if name in homes] for title, names in EVERYDAY.items()}
    if shown == "all":
        rest = [name for name in homes if not any(name in names for names in titled.values())]
        for name in rest:
            titled.setdefault(_REST[OPTION_HOMES[name]], []).append(name)
    boxes = (_box(title, names, given, homes) for title, names in titled.items() if names)
    return StructConstructorSpec(dict, tuple(boxes))


_REST = {
    "": "other",
    "table": "table.*",
    "preprocess": "preprocess.*",
    "augment": "augment.*",
    "head": "head.*",
    "aids": "aids.*",
}
"""Titles of the rest of each group; ``--set`` calls an option by such a full name."""


def _box(title: str, names: Sequence[str], given: Config, homes: Mapping[str, str]) -> StructFieldSpec:
    """A group of options under one title, with their values as the defaults."""
    options: dict[str, Any] = {}
    for name in names:
        group = getattr(given, homes[name]) if homes[name] else given
        field = type(group).model_fields[name]
        options[name] = (field.annotation, Field(default=getattr(group, name), description=field.description))
    box = create_model("Box", __base__=Config, **options)
    kind: Any = Annotated[box, arg(name=title, prefix_name=False)]
    return StructFieldSpec(title, kind, box())
