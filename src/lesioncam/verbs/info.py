"""What there is to choose from: verbs, poolings, map methods, metrics, sources, recipes, options. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from pydantic import BaseModel

from lesioncam import __version__
from lesioncam.data.sources import SOURCES
from lesioncam.evaluation.metric import METRICS
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.options.recipes import load_recipe, recipe_files
from lesioncam.options.run import EVERYDAY, GROUPS, MAPS, OPTION_HOMES, RunConfig
from lesioncam.options.verbs import VERBS


class Info(TypedDict):
    """Every list by the names that the command line takes.

    ``options`` are by name: group, default, help, and whether ``--help`` shows it without being asked for all.
    """

    version: str
    verbs: dict[str, str]
    poolings: dict[str, dict[str, object]]
    map_methods: list[str]
    metrics: dict[str, dict[str, object]]
    sources: dict[str, dict[str, object]]
    recipes: dict[str, str]
    options: dict[str, dict[str, object]]


def info() -> Info:
    """All of it, as plain types that JSON can hold.

    Example:
        >>> about = info()
        >>> about["poolings"]["lse"]["options"], about["options"]["size"]["group"], "cam" in about["map_methods"]
        ({'sharpness': 10.0}, 'preprocess', True)
    """
    return {
        "version": __version__,
        "verbs": dict(VERBS),
        "poolings": {name: _pooling(kind) for name, kind in POOLING_TYPES.items()},
        "map_methods": list(MAPS),
        "metrics": {
            f"{task}/{name}": {"title": one.title, "lower_is_better": one.lower_is_better}
            for (task, name), one in METRICS.items()
        },
        "sources": {
            name: {"licence": source.info.licence, "counts": source.info.counts} for name, source in SOURCES.items()
        },
        "recipes": {name: _summary(name) for name in recipe_files()},
        "options": {name: _option(name, group) for name, group in OPTION_HOMES.items() if name not in GROUPS},
    }


def _pooling(kind: type[BaseModel]) -> dict[str, object]:
    defaults = {name: field.default for name, field in kind.model_fields.items() if name != "kind"}
    return {"about": (kind.__doc__ or "").strip(), "options": defaults}


def _option(name: str, group: str) -> dict[str, object]:
    home: type[BaseModel] = GROUPS[group] if group else RunConfig
    field = home.model_fields[name]
    default = home().model_dump(mode="json")[name]
    everyday = any(name in names for names in EVERYDAY.values())
    return {
        "group": group,
        "default": default,
        "help": " ".join((field.description or "").split()),
        "everyday": everyday,
    }


def _summary(name: str) -> str:
    about = load_recipe(name).about
    return "" if about is None else about.summary


def info_text(about: Info) -> str:
    """The same for people: a list of names under each head.

    Example:
        >>> info_text(info()).splitlines()[0].startswith("lesioncam ")
        True
    """
    lists: Mapping[str, list[str]] = {
        "verbs": list(about["verbs"]),
        "poolings": list(about["poolings"]),
        "map methods": about["map_methods"],
        "metrics": list(about["metrics"]),
        "sources": list(about["sources"]),
        "recipes": list(about["recipes"]),
        "options": list(about["options"]),
    }
    lines = [f"lesioncam {about['version']}"]
    for head, names in lists.items():
        lines += ["", f"{head} ({len(names)})", *_wrapped(names)]
    return "\n".join(lines)


def _wrapped(names: list[str]) -> list[str]:
    import textwrap

    return textwrap.wrap("  ".join(names), 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
