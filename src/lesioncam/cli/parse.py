"""From words to typed options: one parser per verb, made from its type; options of a choice ride with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

from lesioncam.cli.help import help_asked, print_help
from lesioncam.cli.readers import SlipError, registry
from lesioncam.errors import OptionError
from lesioncam.options.base import read_yaml
from lesioncam.options.removed import refuse_removed
from lesioncam.options.run import RunConfig, make_config

T = TypeVar("T")


def parse(kind: type[T], verb: str, words: Sequence[str], default: T | None = None) -> T:
    """Parse the words of one verb.

    Args:
        kind: the verb's dataclass.
        verb: for the help.
        words: after the verb.
        default: an instance whose values are the defaults.

    Raises:
        SystemExit: for help (0), or a slip (2) that the parser prints.
        OptionError: for a value that an option cannot have, or an option that was removed.
    """
    if asked := help_asked(words):
        print_help(kind, verb, asked, default)
    for word in words:
        if word.startswith("--"):
            refuse_removed(word.removeprefix("--").partition("=")[0].replace("-", "_"))
    given = tyro.MISSING_NONPROP if default is None else default
    with registry():
        try:
            return tyro.cli(kind, prog=f"lesioncam {verb}", args=list(words), default=given)
        except SlipError as slip:
            raise OptionError(str(slip)) from slip


def with_settings(config: RunConfig, settings: Mapping[str, str]) -> RunConfig:
    """Change options by their own or their full name; values are read as YAML.

    Raises:
        OptionError: for an option that is not there, or a value it cannot have.

    Example:
        >>> with_settings(RunConfig(), {"augment.flip": "0"}).augment.flip
        0.0
    """
    try:
        return make_config(config, **read_values(settings))
    except OptionError as error:
        raise OptionError(f"--set: {error}") from error


def read_values(pairs: Mapping[str, str]) -> dict[str, object]:
    """Values of ``NAME=VALUE`` pairs, read as YAML.

    Example:
        >>> read_values({"size": "320", "mean": "[0.5]", "crop_mode": "border"})
        {'size': 320, 'mean': [0.5], 'crop_mode': 'border'}
    """
    return {name: read_yaml(text) for name, text in pairs.items()}
