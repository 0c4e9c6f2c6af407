"""The few-shot baseline: what the validation masks alone teach when the features are frozen.

Weak supervision has to beat the cheapest strong one: a 1x1 logistic head on the very same features, fitted on the few
masks that the thresholds were chosen on (a baseline of Choe et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from lesioncam.files import read_arrays, write_arrays

_LIMIT = 60_000
"""Cells kept per class; more would not change a head of a few hundred weights."""


@dataclass(frozen=True)
class FewShotHead:
    """A linear head per class.

    Attributes:
        weight: ``(K, C)``; NaN for a class without masks.
        bias: ``(K,)``.
    """

    weight: np.ndarray
    bias: np.ndarray

    def maps(self, features: np.ndarray) -> np.ndarray:
        """Features ``(C, *s)`` to probabilities ``(K, *s)`` float32; zeros for a class that could not be fitted."""
        logits = np.tensordot(self.weight, features.astype(np.float64), axes=1)
        logits += self.bias.reshape((-1,) + (1,) * (features.ndim - 1))
        return np.asarray(np.nan_to_num(expit(logits)), dtype=np.float32)

    def save(self, path: Path) -> Path:
        """Write an ``.npz`` whole or not at all."""
        return write_arrays(path, {"weight": self.weight, "bias": self.bias})

    @classmethod
    def load(cls, path: Path) -> FewShotHead:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            RunError: if the file is missing or is something else.
        """
        names = ("weight", "bias")
        content = read_arrays(path, names, what="a few-shot head", remedy="calibrate or run again")
        return cls(*(content[name] for name in names))


class FewShotFit:
    """Collects cells of validation images, then fits one logistic regression per class.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> fit = FewShotFit(1, seed=0)
        >>> for _ in range(4):
        ...     features = rng.normal(size=(3, 8, 8))
        ...     fit.add(0, features, (features[1] > 0).astype(float))        # the lesion is where channel 1 is positive
        >>> head = fit.head()
        >>> probe = np.zeros((3, 1, 2)); probe[1] = [-2.0, 2.0]
        >>> head.maps(probe).round().tolist()
        [[[0.0, 1.0]]]
    """

    def __init__(self, classes: int, seed: int = 0) -> None:
        """Start with nothing; ``seed`` picks the cells that are kept where there are too many."""
        self._rows: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._targets: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._rng = np.random.default_rng(seed)

    def add(self, class_index: int, features: np.ndarray, shares: np.ndarray) -> None:
        """Add one image.

        Args:
            class_index: which class.
            features: ``(C, *s)``.
            shares: ``(*s)``, the share of each cell that the lesion covers; half or more is lesion. A lesion smaller
                than half of any cell marks its fullest one.
        """
        lesion = shares >= min(0.5, shares.max()) if shares.max() > 0 else np.zeros(shares.shape, dtype=bool)
        self._rows[class_index].append(features.reshape(len(features), -1).T.astype(np.float32))
        self._targets[class_index].append(lesion.ravel())

    def head(self) -> FewShotHead | None:
        """Fit; None if no class has cells on both sides."""
        fitted = [self._fit(rows, targets) for rows, targets in zip(self._rows, self._targets, strict=True)]
        known = [one for one in fitted if one is not None]
        if not known:
            return None
        nothing = np.full(len(known[0]), np.nan)
        table = np.stack([nothing if one is None else one for one in fitted])
        return FewShotHead(table[:, :-1], table[:, -1])

    def _fit(self, rows: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray | None:
        """Weights and, last, the bias; balanced, L2, on standardised features."""
        from sklearn.linear_model import LogisticRegression

        if not rows:
            return None
        x, y = np.concatenate(rows), np.concatenate(targets)
        if y.all() or not y.any():
            return None
        if len(x) > _LIMIT:
            chosen = self._rng.choice(len(x), _LIMIT, replace=False)
            x, y = x[chosen], y[chosen]
            if y.all() or not y.any():
                return None
        mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        spread = np.where(spread > 0, spread, 1.0)
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000, tol=1e-3)
        model.fit((x - mean) / spread, y)
        weight = model.coef_[0] / spread
        return np.append(weight, model.intercept_[0] - weight @ mean)
