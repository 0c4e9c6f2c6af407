"""Find a name in a plain dict, with an error that suggests the right one."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from lesioncam.errors import OptionError

T = TypeVar("T")


def find(name: str, table: Mapping[str, T], kind: str) -> T:
    """Return ``table[name]``.

    Args:
        name: what the user typed.
        table: the literal dict of all there is.
        kind: what the names are, for the error ("pooling", "map method").

    Raises:
        OptionError: if there is no such name; it suggests the nearest and lists all.

    Example:
        >>> find("lse", {"lse": 1, "avg": 2}, "pooling")
        1
        >>> find("lsse", {"lse": 1, "avg": 2}, "pooling")
        Traceback (most recent call last):
        lesioncam.errors.OptionError: Unknown pooling 'lsse'. Did you mean 'lse'? Available: avg, lse.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(sorted(table))}.")
