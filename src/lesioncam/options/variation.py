"""Options that are varied: from what a user types to all combinations, each with a configuration and a short name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel

from lesioncam.errors import OptionError
from lesioncam.lookup import find
from lesioncam.options.base import read_yaml, write_yaml
from lesioncam.options.poolings import CustomPool, name_of
from lesioncam.options.removed import refuse_removed
from lesioncam.options.run import CHOICES, OPTION_HOMES, RunConfig, make_config

if TYPE_CHECKING:
    from torch import Tensor


OwnPool: TypeAlias = "Callable[..., Tensor]"
"""A pooling of the user's own, ``f(class_maps) -> logits``."""

READING = frozenset({"table", "images", "columns", "classes", "negative", "patient_from", "no_finding", "fractions"})
"""What is settled once, when the table is read and split for all runs."""

_LONGEST = 80


@dataclass(frozen=True)
class Choice:
    """One value of a varied option.

    Attributes:
        option: its name; ``group.name`` for a nested one.
        value: text, a number, a typed object, or the user's own callable.
        label: what tables and folders call it.
    """

    option: str
    value: object
    label: str


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        varied: option -> label, in the order they were given, ``fold`` last.
        config: all options.
        fold: number of the fold that is held out; None for the table's own split.
        own: the user's own pooling; None where the configuration names a shipped one.
    """

    name: str
    varied: Mapping[str, str]
    config: RunConfig
    fold: int | None = None
    own: OwnPool | None = None


def read_vary(given: Sequence[str] | Mapping[str, str | Sequence[object]]) -> dict[str, tuple[Choice, ...]]:
    """What is varied, from ``NAME=VALUES`` words or from a mapping of names to lists (or to the same text).

    Raises:
        OptionError: for an option that does not exist or is settled when the table is read, one that is named twice, no
            value, or a value given twice.

    Example:
        >>> found = read_vary(["pooling=lse,sharpness=6|pcam", "seed=0,1"])
        >>> {name: [choice.label for choice in choices] for name, choices in found.items()}
        {'pooling': ['lse,sharpness=6', 'pcam'], 'seed': ['0', '1']}
        >>> [choice.value for choice in read_vary({"flip": [0.0, 0.5]})["flip"]]
        [0.0, 0.5]
    """
    pairs = given.items() if isinstance(given, Mapping) else [_pair(word) for word in given]
    found: dict[str, tuple[Choice, ...]] = {}
    for name, values in pairs:
        option = name.strip()
        _expect_option(option)
        if option in found:
            raise OptionError(f"--vary {option} is given twice; name all its values once, {option}=A,B.")
        listed = split_values(option, values) if isinstance(values, str) else list(values)
        if not listed:
            raise OptionError(f"--vary {option} has no value; name at least one, {option}=A,B.")
        found[option] = _labelled(option, listed)
    return found


def _pair(word: str) -> tuple[str, str]:
    name, equals, values = word.partition("=")
    if not equals:
        raise OptionError(f"--vary {word}: expected OPTION=VALUES, for instance pooling=avg,lse or seed=0,1,2.")
    return name, values


def _expect_option(option: str) -> None:
    first = option.partition(".")[0]
    refuse_removed(option)
    find(first, OPTION_HOMES, "option")
    last = option.rpartition(".")[2]
    if first in {option, "table"} and last in READING:
        raise OptionError(f"--vary {option}: the table is read and split once, for all runs; make a sweep for each.")


def split_values(option: str, text: str) -> list[object]:
    """The values in a text: ``;`` or ``|`` separates them where one is there, otherwise the comma does.

    What stands in brackets stays together. A YAML list is taken as it is.

    Raises:
        OptionError: for an empty value, or options of a choice that a comma would tear off.

    Example:
        >>> split_values("seed", "0,1,2")
        ['0', '1', '2']
        >>> split_values("pooling", "lse,sharpness=6|pcam")
        ['lse,sharpness=6', 'pcam']
        >>> split_values("size", "[64, 96]")
        [64, 96]
        >>> split_values("fractions", "[.7,.1,.2] | [.6,.2,.2]")
        [[0.7, 0.1, 0.2], [0.6, 0.2, 0.2]]
    """
    strong = _pieces(text, ";|")
    parts = strong if len(strong) > 1 else _pieces(text, ",")
    if len(parts) == 1 and parts[0].startswith("[") and isinstance(listed := _yaml(option, parts[0]), list):
        return listed
    if len(strong) == 1 and option in CHOICES and (torn := [part for part in parts if "=" in part]):
        raise OptionError(
            f"--vary {option}={text}: {torn[0]!r} is an option of a choice, and the comma separates choices here; put "
            f"| or ; between them: --vary '{option}=NAME,OPTION=VALUE|NAME'."
        )
    if not all(parts):
        raise OptionError(f"--vary {option}={text}: there is an empty value; take the extra separator out.")
    return [_yaml(option, part) if part[0] in "[{" or part == "null" else part for part in parts]


def _pieces(text: str, separators: str) -> list[str]:
    """Cut where a separator stands outside all brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter in "[({") - (letter in "])}")
        if letter in separators and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [piece.strip() for piece in found]


def _yaml(option: str, text: str) -> object:
    import yaml

    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise OptionError(f"--vary {option}: {text!r} is no YAML list ({str(error).splitlines()[0]}).") from error


def _labelled(option: str, values: Sequence[object]) -> tuple[Choice, ...]:
    labels = [label_of(value) for value in values]
    counts, seen, found = Counter(labels), Counter[str](), []
    for value, label in zip(values, labels, strict=True):
        seen[label] += 1
        if counts[label] > 1 and not callable(value):
            raise OptionError(f"--vary {option}: {label} is there twice; name each value once.")
        found.append(Choice(option, value, label if counts[label] == 1 else f"{label}-{seen[label]}"))
    return tuple(found)


def label_of(value: object) -> str:
    """A short text for a value.

    Example:
        >>> from lesioncam.options.poolings import AvgPool, LsePool
        >>> label_of(LsePool(sharpness=6)), label_of(AvgPool()), label_of({"kind": "topq", "fraction": 0.1})
        ('lse,sharpness=6', 'avg', 'topq,fraction=0.1')
        >>> label_of(len), label_of(0.5), label_of(None)
        ('len', '0.5', 'null')
    """
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, BaseModel):
        kind = {name: getattr(value, name) for name in ("kind", "name") if hasattr(value, name)}
        value = kind | value.model_dump(exclude_defaults=True)
    if isinstance(value, Mapping):
        content = dict(value)
        names = [str(content.pop(key)) for key in ("kind", "name") if key in content]
        return ",".join([*names, *(f"{key}={label_of(one)}" for key, one in content.items())])
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__)).strip("<>")
    if isinstance(value, float):
        return f"{value:g}"
    return write_yaml(value)


def changed(config: RunConfig, option: str, value: object) -> RunConfig:
    """A configuration with one option changed, flat (``size``) or by its full name (``backbone.stride``).

    Raises:
        OptionError: for an option that is not there, or a value it cannot have.

    Example:
        >>> changed(RunConfig(), "backbone.stride", "16").backbone.stride
        16
    """
    try:
        return make_config(config, **{option: value})
    except OptionError:
        number = _yaml(option, value) if isinstance(value, str) else value
        if isinstance(number, str) or number is value:
            raise
        return make_config(config, **{option: number})


def trials_of(
    config: RunConfig,
    varied: Mapping[str, Sequence[Choice]],
    folds: Sequence[int | None] = (None,),
    own: OwnPool | None = None,
) -> tuple[Trial, ...]:
    """Every combination, the last option turning fastest, folds fastest of all.

    Args:
        config: what does not vary.
        varied: from :func:`read_vary`.
        folds: numbers, or None alone.
        own: the user's own pooling, where it does not vary.

    Raises:
        OptionError: for a value that an option cannot have.

    Example:
        >>> [trial.name for trial in trials_of(RunConfig(), read_vary(["pooling=avg,lse", "seed=0,1"]))]
        ['avg_seed0', 'avg_seed1', 'lse_seed0', 'lse_seed1']
    """
    found = []
    for choices in product(*varied.values()):
        settled, pool = config, own
        for choice in choices:
            value = choice.value
            if choice.option == "pooling":
                pool = value if callable(value) else None
                value = CustomPool(name=name_of(value)) if callable(value) else value
            try:
                settled = changed(settled, choice.option, value)
            except OptionError as error:
                raise OptionError(f"--vary {choice.option}={choice.label}: {error}") from error
        for fold in folds:
            labels = {choice.option: choice.label for choice in choices}
            if fold is not None:
                labels["fold"] = str(fold)
            found.append(Trial(_name(labels), labels, settled, fold, pool))
    return _distinct(found)


def _name(labels: Mapping[str, str]) -> str:
    """A folder name: ``lse-sharpness=6_seed0_fold1``."""
    parts = [
        label if option in CHOICES else f"{option.rpartition('.')[2]}{label}" for option, label in labels.items()
    ] or ["run"]
    name = re.sub(r"[^A-Za-z0-9._=-]+", "-", "_".join(part.replace(",", "-") for part in parts)).strip("-._")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{_mark(labels)}"


def _mark(labels: Mapping[str, str]) -> str:
    """Eight digits that stand for what is varied."""
    return hashlib.sha256(repr(sorted(labels.items())).encode()).hexdigest()[:8]


def _distinct(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Names that would be the same folder (also where case does not count) get a mark of what they stand for."""
    counts = Counter(trial.name.lower() for trial in trials)
    return tuple(
        trial if counts[trial.name.lower()] == 1 else replace(trial, name=f"{trial.name}-{_mark(trial.varied)}")
        for trial in trials
    )
