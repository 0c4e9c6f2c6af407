"""``shortcut.json``: does the classifier look at the patient, and could the labels be read off the acquisition alone?

No mask is needed. The panel says how much of the evidence lies outside the body or on the border, and how well two
probes do that know nothing of the patient: one sees only the border, one only size and histogram. The probes learn from
the train split and are judged on the split that is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lesioncam.functional.metrics import auroc, interval, nan_mean, patient_weights, weighted_ratio
from lesioncam.functional.shortcut import (
    body_mask,
    border_features,
    evidence_shares,
    probe_scores,
    statistics_features,
)

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
    outside: np.ndarray  # (K,) NaN where the label is not 1 or there is no positive evidence
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
        if len(positive):  # else there is no positive evidence, and no need for the body
            outside[positive], border[positive] = evidence_shares(evidence[positive], body_mask(image, self.axes))
        own = np.asarray(scores, dtype=float) if len(scores) else np.full(len(self.classes), np.nan)
        facts = border_features(image, self.axes), statistics_features(image, self.axes)
        self._seen.append(_Seen(image_id, patient, truth, outside, border, *facts, own))

    def extend(self, other: Shortcut) -> None:
        """Take over the images of another panel, after the own ones."""
        self._seen += other._seen

    def result(self, *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The content of ``shortcut.json``: plain numbers, None where something is undefined.

        Shares are means over all pairs of an image and a class it is positive for (``n`` of them have positive
        evidence); intervals are 95 % percentiles of a bootstrap over patients, None with fewer than two patients.
        AUROCs are per class and as their mean over the defined classes.

        Args:
            draws: number of bootstrap draws.
            seed: of the draws; the same patients in the same order are drawn alike everywhere.

        Returns:
            ``outside_body`` and ``border`` (``share, low, high, n, alarm``), the same under ``by_class``,
            ``border_auroc`` and ``statistics_auroc`` (class or ``macro`` -> ``value, low, high, n``),
            ``classifier_auroc`` where scores were given, and ``images``, the ten worst pairs.
        """
        shares = {name: self._column(field) for name, field in (("outside_body", "outside"), ("border", "border"))}
        patients = np.array([one.patient for one in self._seen], dtype=str)
        weights = _with_all(patient_weights(patients, np.random.default_rng(seed), draws))
        content: dict[str, Any] = {
            name: _mean(values, weights, patients) | {"alarm": ALARMS[name]} for name, values in shares.items()
        }
        content["by_class"] = {
            label: {
                name: _mean(values[:, [k]], weights, patients) | {"alarm": ALARMS[name]}
                for name, values in shares.items()
            }
            for k, label in enumerate(self.classes)
        }
        labels = self._column("labels")
        for name, scores in self._scores().items():
            content[name] = _ranking(scores, labels, self.classes, weights, patients)
        content["images"] = self._worst(shares)
        return content

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

    def _worst(self, shares: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The pairs furthest above (or least below) an alarm; of equals the first."""
        over = np.maximum(*(shares[name] / alarm for name, alarm in ALARMS.items()))
        order = np.argsort(-over, axis=None, kind="stable")  # NaN last
        places = [divmod(int(i), len(self.classes)) for i in order[: min(WORST, int((~np.isnan(over)).sum()))]]
        return [
            {
                "image": self._seen[i].image,
                "class": self.classes[k],
                "outside": float(shares["outside_body"][i, k]),
                "border": float(shares["border"][i, k]),
            }
            for i, k in places
        ]


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What the panel has to say, in sentences; nothing if nothing is wrong.

    Args:
        result: as `Shortcut.result` returns it.

    Example:
        >>> part = {"share": 0.31, "low": 0.25, "high": 0.37, "n": 80, "alarm": 0.2}
        >>> warnings({"outside_body": part})[0].partition(":")[0]
        '31 % (95 % interval 25 to 37) of the positive evidence lies outside the body (alarm above 20 %)'
    """
    found = [line for name in ALARMS if (line := _share_warning(result, name))]
    return [*found, *[line for name in _PROBES if (line := _probe_warning(result, name))]]


_PLACES = {
    "outside_body": ("outside the body", "no lesion can be there; look at the images listed below."),
    "border": ("on the outer 5 % of the image", "the classifier may read the frame and not the patient."),
}
_PROBES = {"border_auroc": "only the border", "statistics_auroc": "only image size and histogram"}


def _share_warning(result: Mapping[str, Any], name: str) -> str:
    where, so = _PLACES[name]
    whole = result.get(name)
    parts = {label: shares[name] for label, shares in result.get("by_class", {}).items()}
    above = [label for label, part in parts.items() if _alarming(part)]
    if whole and _alarming(whole):
        classes = f" Classes above it: {', '.join(above)}." if above and len(parts) > 1 else ""
        alarm = f"(alarm above {100 * whole['alarm']:.0f} %)"
        return f"{_percent(whole)} of the positive evidence lies {where} {alarm}: {so}{classes}"
    if above:
        each = ", ".join(f"{label} {_percent(parts[label])}" for label in above)
        return (
            f"In some classes the positive evidence lies {where} (alarm above {100 * ALARMS[name]:.0f} %): {each}; {so}"
        )
    return ""


def _probe_warning(result: Mapping[str, Any], name: str) -> str:
    values = dict(result.get(name, {}))
    if len(values) == 2:  # one class and its mean
        values.pop("macro", None)
    above = [label for label, part in values.items() if part["low"] is not None and part["low"] > PROBE_ALARM]
    if not above:
        return ""
    each = ", ".join(f"{label} {_auroc_text(values[label])}" for label in above)
    own = result.get("classifier_auroc", {}).get("macro", {}).get("value")
    beside = f" The classifier's own macro AUROC, {own:.2f}, has to be read beside it." if own is not None else ""
    return (
        f"Labels and acquisition are confounded: a classifier given {_PROBES[name]} reaches AUROC {each}; a network "
        f"may have learnt that.{beside}"
    )


def _alarming(part: Mapping[str, Any]) -> bool:
    return part["share"] is not None and part["share"] > part["alarm"]


def _percent(part: Mapping[str, Any]) -> str:
    between = "" if part["low"] is None else f" (95 % interval {100 * part['low']:.0f} to {100 * part['high']:.0f})"
    return f"{100 * part['share']:.0f} %{between}"


def _auroc_text(part: Mapping[str, Any]) -> str:
    return f"{part['value']:.2f} ({part['low']:.2f} to {part['high']:.2f})"


# ---- numbers -----------------------------------------------------------------------------------------------------


def _with_all(drawn: np.ndarray) -> np.ndarray:
    """The images as they are first, the draws below."""
    return np.vstack([np.ones((1, drawn.shape[1]), dtype=drawn.dtype), drawn])


def _mean(values: np.ndarray, weights: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Mean over the pairs that are defined."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float)
    stats = weighted_ratio(total[:, None], count[:, None], weights)[:, 0]
    return _entry("share", stats, known.any(axis=1), patients) | {"n": int(known.sum())}


def _ranking(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], weights: np.ndarray, patients: np.ndarray
) -> dict[str, Any]:
    """AUROC per class and as macro mean."""
    stats = np.stack([auroc(s, t, weights) for s, t in zip(scores.T, labels.T, strict=True)], axis=1)
    known = ((labels == 0) | (labels == 1)) & ~np.isnan(scores)
    defined = ~np.isnan(stats[0])
    entries = {label: _entry("value", stats[:, k], known[:, k], patients) for k, label in enumerate(classes)}
    return entries | {"macro": _entry("value", nan_mean(stats), known[:, defined].any(axis=1), patients)}


def _entry(name: str, stats: np.ndarray, used: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
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
