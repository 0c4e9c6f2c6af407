"""``shortcut.json``: does the classifier look at the patient, and could the labels be read off the acquisition alone?

No mask is needed. The panel says how much of the evidence lies outside the body or on the border, and how well two
probes do that know nothing of the patient: one sees only the border, one only size and histogram. The probes learn from
the train split and are judged on the split that is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lesioncam.functional.body import body_mask
from lesioncam.functional.metrics import auroc, interval, nan_mean, patient_weights, weighted_ratio
from lesioncam.functional.shortcut import border_features, evidence_shares, probe_scores, statistics_features

ALARMS = {"outside_body": 0.2, "border": 0.5}
"""Shares of the positive evidence above which something is wrong."""

PROBE_ALARM = 0.7
"""A probe whose AUROC lies above this with its whole interval says that labels and acquisition go together."""

WORST = 10


@dataclass(frozen=True)
class ProbeData:
    """What the probes know of n images: ``border (n, F)``, ``statistics (n, G)`` and ``labels (n, K)``."""

    border: np.ndarray
    statistics: np.ndarray
    labels: np.ndarray


def probe_data(images: Iterable[tuple[np.ndarray, Sequence[float]]], axes: int = 2) -> ProbeData:
    """Walk over images and their labels, and keep a short vector of each.

    Args:
        images: pairs of an image ``(*S)`` or ``(*S, C)`` in the file's own bit depth and its K labels (1, 0; other
            values are unknown); one at a time in memory.
        axes: 2 for images, 3 for volumes.

    Raises:
        GeometryError: if an image has another number of axes.

    Example:
        >>> data = probe_data([(np.zeros((9, 9), np.uint8), [1.0]), (np.ones((5, 7), np.uint8), [0.0])])
        >>> data.border.shape, data.statistics.shape, data.labels.ravel().tolist()
        ((2, 46), (2, 58), [1.0, 0.0])
    """
    rows = [(border_features(image, axes), statistics_features(image, axes), labels) for image, labels in images]
    border, statistics, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return ProbeData(np.array(border), np.array(statistics), np.array(labels, dtype=float))


class _Seen(NamedTuple):
    """What is kept of one image of the evaluated split."""

    image: str
    patient: str
    labels: np.ndarray  # (K,)
    air: bool  # False where a positive image has no dark surroundings
    outside: np.ndarray  # (K,) NaN where the label is not 1, there is no positive evidence, or no air
    border: np.ndarray  # (K,)
    border_features: np.ndarray
    statistics_features: np.ndarray
    scores: np.ndarray  # (K,)


class Shortcut:
    """Collects the panel while an evaluation walks over its images; only short vectors are kept.

    Example:
        >>> image = np.zeros((20, 20), np.uint8)
        >>> image[5:15, 5:15] = 200                                  # the body
        >>> evidence = np.zeros((1, 20, 20))
        >>> evidence[0, 3, 8], evidence[0, 8, 8] = 1.0, 3.0          # a quarter of it outside
        >>> panel = Shortcut(("mass",))
        >>> panel.add("a", "p", [1.0], evidence, image)
        >>> panel.result()["outside_body"]
        {'share': 0.25, 'low': None, 'high': None, 'n': 1, 'alarm': 0.2}
    """

    def __init__(self, classes: Sequence[str], axes: int = 2) -> None:
        """Start empty; ``axes`` is 2 for images, 3 for volumes."""
        self.classes = tuple(classes)
        self.axes = axes
        self._seen: list[_Seen] = []
        self._train: ProbeData | None = None

    def train(self, data: ProbeData) -> None:
        """Give the probes the images of the train split to learn from (`probe_data`); without them there are none."""
        self._train = data

    def add(
        self,
        image_id: str,
        patient: str,
        labels: Sequence[float],
        evidence: np.ndarray,
        image: np.ndarray,
        *,
        scores: Sequence[float] = (),
    ) -> None:
        """Take in one image of the evaluated split.

        Args:
            image_id: its name.
            patient: digest of the patient, for the intervals.
            labels: K, 1 or 0; other values are unknown.
            evidence: ``(K, *S)`` raw maps on the image's own grid, zero meaning "no evidence".
            image: ``(*S)`` or ``(*S, C)``, in the file's own bit depth.
            scores: K image scores of the classifier (logits), for comparison with the probes; may be left out.

        Raises:
            GeometryError: if image and maps differ in size or axes.
        """
        truth = np.asarray(labels, dtype=float)
        positive = np.flatnonzero(truth == 1)
        outside, border = np.full((2, len(self.classes)), np.nan)
        air = True
        if len(positive):  # else there is no positive evidence, and no need for the body
            body = body_mask(image, self.axes)
            air = body is not None
            outside[positive], border[positive] = evidence_shares(evidence[positive], body)
        own = np.asarray(scores, dtype=float) if len(scores) else np.full(len(self.classes), np.nan)
        facts = border_features(image, self.axes), statistics_features(image, self.axes)
        self._seen.append(_Seen(image_id, patient, truth, air, outside, border, *facts, own))

    def extend(self, other: Shortcut) -> None:
        """Take over the images of another panel, after the own ones."""
        self._seen += other._seen

    def result(self, *, draws: int = 1000, seed: int = 0) -> dict[str, object]:
        """The content of ``shortcut.json``: plain numbers, None where something is undefined.

        Shares are means over all pairs of an image and a class it is positive for (``n`` of them have positive
        evidence); none is told outside the body where most positive images have no air (dark surroundings). Intervals
        are 95 % percentiles of a bootstrap over patients, None with fewer than two patients. AUROCs are per class and
        as their mean over the defined classes.

        Args:
            draws: number of bootstrap draws.
            seed: of the draws; the same patients in the same order are drawn alike everywhere.

        Returns:
            ``outside_body`` and ``border`` (``share, low, high, n, alarm``), the same under ``by_class``,
            ``no_air`` (how many positive images have none), ``border_auroc`` and ``statistics_auroc`` (class or
            ``macro`` -> ``value, low, high, n``),
            ``classifier_auroc`` where scores were given, and ``images``, the ten worst pairs.
        """
        no_air = sum(not one.air for one in self._seen)
        shares = {"outside_body": self._outside(no_air), "border": self._column("border")}
        patients = np.array([one.patient for one in self._seen], dtype=str)
        weights = _with_all(patient_weights(patients, np.random.default_rng(seed), draws))
        content: dict[str, object] = {
            name: _mean(values, weights, patients) | {"alarm": ALARMS[name]} for name, values in shares.items()
        }
        content["by_class"] = {
            label: {
                name: _mean(values[:, [k]], weights, patients) | {"alarm": ALARMS[name]}
                for name, values in shares.items()
            }
            for k, label in enumerate(self.classes)
        }
        content["no_air"] = no_air
        labels = self._column("labels")
        for name, scores in self._scores().items():
            content[name] = _ranking(scores, labels, self.classes, weights, patients)
        content["images"] = self._worst(shares)
        return content

    def _outside(self, no_air: int) -> np.ndarray:
        """Shares outside the body ``(n, K)``; none where most positive images have no air."""
        shares = self._column("outside")
        positive = sum(bool((one.labels == 1).any()) for one in self._seen)
        return np.full_like(shares, np.nan) if 2 * no_air > positive else shares

    def _column(self, name: str) -> np.ndarray:
        """``(n, ...)``, one row per image."""
        return np.stack([getattr(one, name) for one in self._seen]) if self._seen else np.empty((0, len(self.classes)))

    def _scores(self) -> dict[str, np.ndarray]:
        """Scores ``(n, K)`` of the two probes and, where there are any, of the classifier."""
        own = self._column("scores")
        nothing = np.full((len(self._seen), len(self.classes)), np.nan)
        found = {"border_auroc": nothing, "statistics_auroc": nothing}
        if self._train is not None and self._seen and len(self._train.labels):
            train = self._train
            border, statistics = self._column("border_features"), self._column("statistics_features")
            found["border_auroc"] = probe_scores(train.border, train.labels, border)
            found["statistics_auroc"] = probe_scores(train.statistics, train.labels, statistics)
        return found if np.isnan(own).all() else found | {"classifier_auroc": own}

    def _worst(self, shares: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
        """The pairs furthest above (or least below) an alarm; of equals the first."""
        over = np.fmax(*(shares[name] / alarm for name, alarm in ALARMS.items()))
        order = np.argsort(-over, axis=None, kind="stable")  # NaN last
        places = [divmod(int(i), len(self.classes)) for i in order[: min(WORST, int((~np.isnan(over)).sum()))]]
        return [
            {
                "image": self._seen[i].image,
                "class": self.classes[k],
                "outside": _or_none(float(shares["outside_body"][i, k])),
                "border": _or_none(float(shares["border"][i, k])),
            }
            for i, k in places
        ]


# ---- numbers -----------------------------------------------------------------------------------------------------


def _with_all(drawn: np.ndarray) -> np.ndarray:
    """The images as they are first, the draws below."""
    return np.vstack([np.ones((1, drawn.shape[1]), dtype=drawn.dtype), drawn])


def _mean(values: np.ndarray, weights: np.ndarray, patients: np.ndarray) -> dict[str, object]:
    """Mean over the pairs that are defined."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float)
    stats = weighted_ratio(total[:, None], count[:, None], weights)[:, 0]
    return _entry("share", stats, known.any(axis=1), patients) | {"n": int(known.sum())}


def _ranking(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], weights: np.ndarray, patients: np.ndarray
) -> dict[str, dict[str, object]]:
    """AUROC per class and as macro mean."""
    stats = np.stack([auroc(s, t, weights) for s, t in zip(scores.T, labels.T, strict=True)], axis=1)
    known = ((labels == 0) | (labels == 1)) & ~np.isnan(scores)
    defined = ~np.isnan(stats[0])
    entries = {label: _entry("value", stats[:, k], known[:, k], patients) for k, label in enumerate(classes)}
    return entries | {"macro": _entry("value", nan_mean(stats), known[:, defined].any(axis=1), patients)}


def _entry(name: str, stats: np.ndarray, used: np.ndarray, patients: np.ndarray) -> dict[str, object]:
    """The value (first of ``stats``), its interval (the others) and the images behind it."""
    value = float(stats[0])
    defined = not np.isnan(value)
    several = defined and len(np.unique(patients[used])) > 1
    low, high = interval(stats[1:]) if several else (float("nan"), float("nan"))
    return {
        name: _or_none(value),
        "low": _or_none(low),
        "high": _or_none(high),
        "n": int(used.sum()) if defined else 0,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
