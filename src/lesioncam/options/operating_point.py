"""What an image threshold is chosen for, as a user types it: the rule of the operating point."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from lesioncam.errors import OptionError
from lesioncam.lookup import find

_RULES = {
    "youden": "no value; write 'youden' alone",
    "sensitivity": "a share above 0, at most 1; write for instance 'sensitivity=0.9'",
    "specificity": "a share above 0, at most 1; write for instance 'specificity=0.9'",
    "cost": "how many false alarms a miss costs, a number above 0; write for instance 'cost=5'",
}


@dataclass(frozen=True)
class OperatingRule:
    """What an image threshold is chosen for.

    Attributes:
        kind: ``youden``, ``sensitivity``, ``specificity`` or ``cost``.
        value: the share to reach, or how many false alarms a miss costs; None for ``youden``, which needs none.

    Raises:
        OptionError: for an unknown rule (with the nearest), or a value it cannot have.
    """

    kind: str = "youden"
    value: float | None = None

    def __post_init__(self) -> None:
        expected = find(self.kind, _RULES, "operating point")
        if not _allowed(self.kind, self.value):
            found = "no value" if self.value is None else f"{self.value:g}"
            raise OptionError(f"operating point {self.kind!r}: found {found}, expected {expected}.")


def _allowed(kind: str, value: float | None) -> bool:
    if kind == "youden" or value is None:
        return kind == "youden" and value is None
    return isfinite(value) and value > 0 and (kind == "cost" or value <= 1)


def parse_rule(text: str) -> OperatingRule:
    """``youden``, ``sensitivity=0.9``, ``specificity=0.9``, or ``cost=5`` (a miss costs five false alarms; also 10/2).

    Raises:
        OptionError: for an unknown rule (with the nearest), or a value it cannot have.

    Example:
        >>> parse_rule("sensitivity=0.9")
        OperatingRule(kind='sensitivity', value=0.9)
        >>> parse_rule("cost=10/2")
        OperatingRule(kind='cost', value=5.0)
        >>> parse_rule("specificity=90")
        Traceback (most recent call last):
        lesioncam.errors.OptionError: operating point 'specificity': found 90, expected a share above 0, at most 1; ...
    """
    kind, equals, value = (part.strip() for part in text.partition("="))
    expected = find(kind, _RULES, "operating point")
    if not equals:
        return OperatingRule(kind)
    top, slash, bottom = value.partition("/")
    try:
        number = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"operating point {kind!r}: found {value!r}, expected {expected}.") from None
    return OperatingRule(kind, number)
