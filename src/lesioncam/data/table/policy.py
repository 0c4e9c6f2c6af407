"""From label states to training targets: what uncertain and blank labels become."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesioncam.lookup import find
from lesioncam.options.data import TableConfig
from lesioncam.types import NEGATIVE, UNCERTAIN, UNKNOWN

_STREAM = 104_729  # keeps the draws of soft labels apart from order and augmentation
SUPPORT_DEVICES = re.compile(r"support[ _-]?devices?", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Targets:
    """What a network is told, ``(n, K)``; NaN says nothing.

    Attributes:
        low: lowest target; differs from ``high`` only for soft labels that are drawn from an interval.
        high: highest target.
        seed: of the draws.

    Example:
        >>> soft = Targets(np.float32([[0.5, 1.0]]), np.float32([[1.0, 1.0]]))
        >>> soft.middle().tolist()
        [[0.75, 1.0]]
        >>> bool((soft.at(3, [0]) == soft.at(3, [0])).all()), bool((soft.at(4, [0]) == soft.at(3, [0])).all())
        (True, False)
    """

    low: np.ndarray
    high: np.ndarray
    seed: int = 0

    def middle(self) -> np.ndarray:
        """Without chance, ``(n, K)`` float32: the middle of an interval; what validation and counts use."""
        return np.where(self.low == self.high, self.low, (self.low + self.high) / 2).astype(np.float32)

    def at(self, epoch: int, index: Sequence[int]) -> np.ndarray:
        """Targets of some rows in one epoch, ``(m, K)`` float32: soft labels follow from (seed, epoch, row) alone."""
        targets = self.low[list(index)].astype(np.float32)
        for place, row in enumerate(index):
            width = self.high[row] - self.low[row]
            if (width > 0).any():
                chance = np.random.default_rng([self.seed, epoch, row, _STREAM]).random(len(width), dtype=np.float32)
                targets[place] += np.where(width > 0, chance * width, np.float32(0))
        return targets


def make_targets(
    states: np.ndarray, classes: Sequence[str], policy: TableConfig, healthy: np.ndarray | None = None
) -> Targets:
    """Apply the policy of each class to label states.

    Args:
        states: ``(n, K)``: 1, 0, -1 uncertain, NaN blank.
        classes: K names.
        policy: ``uncertain`` and ``blank``, and ``uncertain_for`` and ``blank_for`` of single classes.
        healthy: ``(n,)`` bool, rows said to have no finding: their blanks are negative, but for support devices.

    Raises:
        OptionError: if a policy names a class that does not exist, with the nearest.

    Reference:
        Irvin et al., "CheXpert", AAAI 2019 (ignore, zeros, ones); Pham et al., "Interpreting chest X-rays via CNNs that
        exploit hierarchical disease dependencies and uncertainty labels", 2019 (soft labels from an interval).

    Example:
        >>> states = np.float32([[1, 1], [0, 0], [-1, -1], [np.nan, np.nan]])
        >>> policy = TableConfig(uncertain_for={"Edema": "ones"}, blank_for={"Mass": "0"})
        >>> make_targets(states, ("Edema", "Mass"), policy).middle().tolist()
        [[1.0, 1.0], [0.0, 0.0], [1.0, nan], [nan, 0.0]]
    """
    known = dict.fromkeys(classes)
    for option, given in (("--uncertain-for", policy.uncertain_for), ("--blank-for", policy.blank_for)):
        for name in given:
            find(name, known, f"class in {option}")
    low, high = states.astype(np.float32, copy=True), states.astype(np.float32, copy=True)
    for k, name in enumerate(classes):
        unsure, blank = states[:, k] == UNCERTAIN, np.isnan(states[:, k])
        low[unsure, k], high[unsure, k] = _ends(policy.uncertain_for.get(name, policy.uncertain))
        absent = blank if policy.blank_for.get(name, policy.blank) == "0" else np.zeros_like(blank)
        if healthy is not None and not SUPPORT_DEVICES.fullmatch(name):
            absent = absent | (blank & healthy)
        low[absent, k] = high[absent, k] = NEGATIVE
    return Targets(low, high)


def _ends(policy: str | float | tuple[float, float]) -> tuple[float, float]:
    if policy == "ignore":
        return UNKNOWN, UNKNOWN
    return policy if isinstance(policy, tuple) else (float(policy), float(policy))
