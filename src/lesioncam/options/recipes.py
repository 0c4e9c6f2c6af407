"""Options from a YAML file: a run's ``config.yaml``, your own, or a published system by its name.

A recipe is a file of options with a head, ``about``, that says which paper it follows, where it differs and why, what
nobody outside can know, and how to run it. Options that are typed beside a recipe win over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator, Field

from lesioncam.errors import OptionError
from lesioncam.lookup import find
from lesioncam.options.base import Config, validated
from lesioncam.options.removed import drop_removed
from lesioncam.options.run import RunConfig

_PLACES = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")
"""In an installed package, and in a checkout."""

_SUFFIXES = {".yaml", ".yml"}


def _lines(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Sentence = Annotated[str, Field(min_length=1)]
Sentences = Annotated[tuple[Sentence, ...], BeforeValidator(_lines), Field(min_length=1)]


class RecipeAbout(Config):
    """What a recipe says about itself."""

    summary: Sentence
    """One line, for the list."""
    paper: Sentences
    """What it follows."""
    data: Sentence
    """What it was made for, and how to get a table of it."""
    command: Sentences
    """What to type."""
    differs: Sentences
    """Where it differs from the paper, each with the reason."""
    unknown: tuple[Sentence, ...] = ()
    """What the paper leaves open or nobody outside can know, each with what is done here."""
    published: tuple[Sentence, ...] = ()
    """Numbers of the paper, with their caveats."""
    measured: Sentence = "not measured"
    """Time and score of ours."""


@dataclass(frozen=True)
class Recipe:
    """Options, and what they are about.

    Attributes:
        name: as it was asked for.
        config: every option.
        about: None in a file of options without a head.
    """

    name: str
    config: RunConfig
    about: RecipeAbout | None = None


def recipe_files() -> dict[str, Path]:
    """The recipes that come with the package, by name.

    Example:
        >>> "mnist-clear" in recipe_files()
        True
    """
    folder = next((place for place in _PLACES if place.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(given: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        given: a name (``mnist-clear``), or a YAML file, with or without a head.

    Raises:
        OptionError: for an unknown name, with the nearest; for a slip in the file, named.

    Example:
        >>> recipe = load_recipe("chexnet")
        >>> recipe.config.backbone.name, recipe.config.batch
        ('densenet121', 16)
    """
    path = _place(given)
    content = _content(path)
    about = content.pop("about", None)
    if about is not None and not isinstance(about, dict):
        raise OptionError(f"{path}: about is {about!r}; it holds {', '.join(RecipeAbout.model_fields)}.")
    head = None if about is None else validated(RecipeAbout, about, f"{path}, about")
    return Recipe(str(given), validated(RunConfig, content, str(path)), head)


def load_config(path: str | Path) -> RunConfig:
    """Read options from a YAML file (a run's ``config.yaml``, or your own), or a recipe by name.

    Raises:
        OptionError: for a slip in it, named.
    """
    return load_recipe(path).config


def load_run_config(path: Path) -> tuple[RunConfig, dict[str, object]]:
    """The options of a run that exists, from its ``config.yaml``, and the removed options that it used, by full name.

    Raises:
        OptionError: for a slip in it, named.
    """
    content, used = drop_removed(_content(path))
    return validated(RunConfig, content, str(path)), used


def list_recipes() -> str:
    """Names and one line each, for people.

    Example:
        >>> "mnist-clear" in list_recipes()
        True
    """
    names = recipe_files()
    width = max(map(len, names), default=0)
    return "\n".join(f"{name:<{width}}  {_summary(name)}" for name in names)


def describe_recipe(recipe: Recipe) -> str:
    """What a recipe is about, for people.

    Example:
        >>> describe_recipe(load_recipe("mnist-clear")).splitlines()[0].partition(":")[0]
        'mnist-clear'
    """
    about = recipe.about
    if about is None:
        return f"{recipe.name}: options without a head; nothing is known of where they come from."
    parts = [f"{recipe.name}: {about.summary}", *_listed("paper", about.paper), f"data: {about.data}"]
    for name in ("differs", "unknown", "published"):
        parts += _listed(name, getattr(about, name))
    return "\n".join([*parts, f"measured: {about.measured}", *_listed("command", about.command)])


def _place(given: str | Path) -> Path:
    """A file, or a name: a single word without a suffix of YAML."""
    path = Path(given)
    if path.suffix.lower() in _SUFFIXES or len(path.parts) != 1 or path.is_file():
        return path
    return find(str(given), recipe_files(), "recipe")


def _content(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"{path} cannot be read as YAML: {error}.") from error
    if content is not None and not isinstance(content, dict):
        raise OptionError(f"{path} holds {type(content).__name__}; expected options, NAME: VALUE.")
    return content or {}


def _summary(name: str) -> str:
    about = load_recipe(name).about
    return "" if about is None else about.summary


def _listed(name: str, sentences: Iterable[str]) -> list[str]:
    found = list(sentences)
    if len(found) == 1:
        return [f"{name}: {found[0]}"]
    return [f"{name}:", *(f"  - {sentence}" for sentence in found)] if found else []
