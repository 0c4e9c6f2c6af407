"""Options that are gone, each with what to use instead; run folders that know them still load.

All of them acted in training only, so that what was trained with them is read without them. Where a file holds one at
the value that switched it off, it is passed over; at any other value it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lesioncam.errors import OptionError


class Removed(NamedTuple):
    """Where an option was, its default, and what to use instead."""

    group: str
    default: str | float
    instead: str


_MIXING = "mixing images made no difference to the maps; use --erasing 0.5 or --equivariance 1"
_AVERAGING = "averaged weights made no difference to the maps; use more --epochs with the schedule onecycle"
_INTENSITY = "no measurement showed a gain; use --contrast and --gamma"

REMOVED: dict[str, Removed] = {
    "mix": Removed("aids", "none", _MIXING),
    "mix_alpha": Removed("aids", 1.0, _MIXING),
    "averaging": Removed("aids", "none", _AVERAGING),
    "averaging_decay": Removed("aids", 0.99, _AVERAGING),
    "averaging_start": Removed("aids", 0.75, _AVERAGING),
    "histogram": Removed("augment", 0.0, _INTENSITY),
    "bias_field": Removed("augment", 0.0, _INTENSITY),
    "defocus": Removed("augment", 0.0, _INTENSITY),
    "sharpen": Removed("augment", 0.0, _INTENSITY),
    "coarse": Removed("augment", 0.0, _INTENSITY),
}
"""By name; what is said is what docs/localisation.md measured."""


def refuse_removed(name: str) -> None:
    """Answer a removed option; any other name passes.

    Args:
        name: flat (``mix``) or in full (``aids.mix``).

    Raises:
        OptionError: with what to use instead.

    Example:
        >>> refuse_removed("augment.histogram")
        Traceback (most recent call last):
        lesioncam.errors.OptionError: The option 'histogram' was removed: no measurement showed a gain; use ...
    """
    group, _, last = name.rpartition(".")
    if (gone := REMOVED.get(last)) and group in {"", gone.group}:
        raise OptionError(f"The option {last!r} was removed: {gone.instead}.")


def drop_removed(content: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """The stored options of an older run without those that are gone, and what it used of these, by full name.

    Example:
        >>> drop_removed({"epochs": 3, "aids": {"erasing": 0.5, "mix": "cutmix", "mix_alpha": 1.0}})
        ({'epochs': 3, 'aids': {'erasing': 0.5}}, {'aids.mix': 'cutmix'})
    """
    kept, used = dict(content), dict[str, object]()
    for name, gone in REMOVED.items():
        group = kept.get(gone.group)
        if isinstance(group, Mapping) and name in group:
            kept[gone.group] = {key: value for key, value in group.items() if key != name}
            used |= {f"{gone.group}.{name}": group[name]} if group[name] != gone.default else {}
    return kept, used


def pass_over_removed(group: str, values: object) -> object:
    """Leave out what a file of an older version holds at its default; for a validator before the fields are checked.

    Raises:
        OptionError: for any other value, with what to use instead.
    """
    if not isinstance(values, Mapping):
        return values
    kept, used = drop_removed({group: values})
    for name in used:
        refuse_removed(name)
    return kept[group]
