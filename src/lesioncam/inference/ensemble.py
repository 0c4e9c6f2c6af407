"""Several runs as one, and several views of an image as one: means of probabilities, on the file's own pixels.

The rule, for scores and maps alike: each member prepares the image its own way and turns its own logits into
probabilities with its own calibration; probabilities are averaged over views, then over members. That is not the
sigmoid of the mean logit: of probabilities .5 and .9 the mean is .7, of their logits .75.

Thresholds are the means of the members' thresholds. Nobody chose them for the averaged map, so they are called
``ensemble`` wherever ``val`` would stand; nothing is looked at to find them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logit

from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.cam import Explained
from lesioncam.geometry import OUTSIDE, Geometry
from lesioncam.inference.classifier import ClassifierSubject, best_device, explained_samples
from lesioncam.inference.subject import Answer, Subject
from lesioncam.inference.views import VIEWS, View, make_views
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier
from lesioncam.runs.card import AdoptedCard, ModelCard
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Calibration, Exam, Heatmap, Threshold

RULE = (
    "each member's image probabilities and probability maps (its own preprocessing and calibration), averaged over "
    "views and then over members; thresholds are the means of the members' thresholds"
)

_LEAST = 1e-12  # a probability of 0 has no logit


class _Views(NamedTuple):
    """One member's views of one image and what came of each.

    Attributes:
        member: who looked.
        views: where.
        explained: scores and maps of each view.
        order: the ensemble's classes, as places in the member's.
    """

    member: ClassifierSubject
    views: tuple[View, ...]
    explained: tuple[Explained, ...]
    order: tuple[int, ...]

    @property
    def calibrated(self) -> bool:
        return self.explained[0].heatmap.calibration is not None


@dataclass(frozen=True)
class Ensemble(Subject):
    """One classifier or several, looking at an image once or several times.

    Averaged maps lie on the image's own grid and are probabilities. Maps that have no calibrated scale are averaged as
    they are over views, and on each member's own range over members.

    Attributes:
        members: at least one, all of the same classes.
        places: the run folder of each; None where the classifier was given itself.
        views: see :mod:`lesioncam.inference.views`.
    """

    members: tuple[TrainedClassifier, ...]
    places: tuple[Path | None, ...]
    views: str = "none"

    @property
    def subjects(self) -> tuple[ClassifierSubject, ...]:
        """Each member as a subject of its own."""
        return tuple(ClassifierSubject(member) for member in self.members)

    @property
    def card(self) -> ModelCard:  # type: ignore[override]
        """Of the first member, whose order of classes counts."""
        return self.members[0].card

    @property
    def batch(self) -> int:  # type: ignore[override]
        """As the first member's; a view counts as an image."""
        return max(1, self.subjects[0].batch // (1 if self.views == "none" else 2))

    def is_own(self, method: str | None) -> bool:
        """Whether it is every member's."""
        return all(member.is_own(method) for member in self.subjects)

    @property
    def thresholds(self) -> tuple[Threshold, ...] | None:
        """The means of the members'; None where a member has none."""
        chosen = [member.thresholds for member in self.subjects]
        known = [each for each in chosen if each is not None]
        return self._mean(known) if len(known) == len(chosen) else None

    @property
    def decisions(self) -> tuple[Threshold, ...]:
        """The means of the members'."""
        return self._mean([member.decisions for member in self.subjects])

    def answers(self, exams: Sequence[Exam], method: str | None = None) -> Iterator[Answer]:
        """See :meth:`Subject.answers`."""
        looked = [self._look(member, exams, method) for member in self.subjects]
        for views in zip(*looked, strict=True):
            probabilities = np.mean([_scores(each) for each in views], axis=0)
            yield Answer(self._logits(probabilities), probabilities.astype(np.float32), self._heatmap(views))

    def describe(self) -> dict[str, Any]:
        """What every member is, for ``members.json``: no absolute path in it."""
        members = [_about(*each) for each in zip(self.members, self.places, strict=True)]
        return {"rule": RULE, "views": self.views, "classes": list(self.classes), "members": members}

    @property
    def plain(self) -> bool:
        """One classifier and one look: nothing is averaged."""
        return len(self.members) == 1 and self.views == "none"

    def simplest(self) -> Subject:
        """The only member where nothing is averaged, else the ensemble."""
        return self.subjects[0] if self.plain else self

    def _look(self, member: ClassifierSubject, exams: Sequence[Exam], method: str | None) -> list[_Views]:
        """A member's views of every examination, all through the network before the first is used."""
        prepare, order = member.classifier.preprocess, self._order(member)
        views = [make_views(prepare, exam.picture, self.views) for exam in exams]
        samples = [view.sample for each in views for view in each]
        explained = iter(explained_samples(member.classifier, samples, method))
        return [_Views(member, each, tuple(islice(explained, len(each))), order) for each in views]

    def _order(self, member: Subject) -> tuple[int, ...]:
        return tuple(member.classes.index(name) for name in self.classes)

    def _heatmap(self, looks: Sequence[_Views]) -> Heatmap:
        """The mean map on the image's own grid; on a calibrated scale only if every member's map has one."""
        calibrated = all(each.calibrated for each in looks)
        total = sum(_maps(each, calibrated=calibrated, alone=len(looks) == 1)[list(each.order)] for each in looks)
        geometry = looks[0].views[0].geometry
        whole = Geometry.letterbox(geometry.native, geometry.native, spacing=geometry.spacing, affine=geometry.affine)
        drawn = [each.explained[0].heatmap for each in looks]
        count = sum(len(each.views) for each in looks)
        return Heatmap(
            np.asarray(total / np.float32(len(looks)), dtype=np.float32),
            self.classes,
            "+".join(dict.fromkeys(one.method for one in drawn)),
            f"mean of {count} maps, {'+'.join(dict.fromkeys(one.layer for one in drawn))}",
            whole,
            _identity(len(self.classes)) if calibrated else None,
        )

    def _mean(self, chosen: Sequence[Sequence[Threshold]]) -> tuple[Threshold, ...]:
        """Per class the mean; it remembers everybody whom any of them was chosen on."""
        orders = [self._order(member) for member in self.subjects]
        ordered = [[each[k] for k in order] for each, order in zip(chosen, orders, strict=True)]
        return tuple(
            Threshold(
                float(np.mean([one.value for one in each])),
                "ensemble",
                frozenset().union(*(one.tuned_on for one in each)),
            )
            for each in zip(*ordered, strict=True)
        )

    def _logits(self, probabilities: np.ndarray) -> np.ndarray:
        """What the sigmoid (of classes that exclude each other: the softmax) turns into these probabilities."""
        kept = np.clip(probabilities.astype(np.float64), _LEAST, 1 - _LEAST)
        return np.asarray(np.log(kept) if self.card.config.softmax else logit(kept), dtype=np.float32)


def gather(given: Any, *, views: str = "none", device: str = "auto") -> Ensemble:
    """A classifier, a run folder, or a sequence of them, as an ensemble.

    Args:
        given: what :func:`lesioncam.predict` takes.
        views: ``none``, ``flip`` or ``ten-crop``.
        device: see :func:`lesioncam.inference.classifier.best_device`; with ``auto`` a loaded classifier stays where
            it is.

    Raises:
        OptionError: for no run, one given twice, other views, or a GPU that is not there.
        ModelError: if the members' classes differ.
        RunError: for a folder that holds no model.
    """
    find(views, dict.fromkeys(VIEWS), "kind of views")
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not listed:
        raise OptionError("no run was given; name one run folder, or several for an ensemble.")
    work_on = best_device(device)
    members, places = list[TrainedClassifier](), list[Path | None]()
    for one in listed:
        if isinstance(one, TrainedClassifier):
            members.append(one if device == "auto" else one.to(work_on))
            places.append(None)
            continue
        place = Path(getattr(one, "folder", one))
        if any(place.resolve() == known.resolve() for known in places if known is not None):
            raise OptionError(f"{place} is given twice; each member of an ensemble counts once.")
        members.append(load_classifier(place).to(work_on))
        places.append(place)
    found = Ensemble(tuple(members), tuple(places), views)
    _expect_alike(found)
    return found


def _expect_alike(ensemble: Ensemble) -> None:
    first = ensemble.members[0]
    for member, place in list(zip(ensemble.members, ensemble.places, strict=True))[1:]:
        name = place or "a member"
        if set(member.classes) != set(first.classes):
            raise ModelError(
                f"{name} has the classes {', '.join(member.classes)}, the first run {', '.join(first.classes)}; an "
                "ensemble needs the same classes (their order does not matter)."
            )
        if member.card.config.softmax != first.card.config.softmax:
            raise ModelError(
                f"{name} and the first run mean different things by a probability: the classes of one exclude each "
                "other, those of the other do not. An ensemble needs one task."
            )


def average_views(views: Sequence[View], maps: Iterator[np.ndarray], fill: np.ndarray) -> np.ndarray:
    """The mean of native maps over the views that saw each pixel, ``(K, *native)`` float32.

    Args:
        views: where each looked.
        maps: ``(K, *native)`` of each view.
        fill: ``(K,)``, for pixels that no view saw.
    """
    total, count = None, np.zeros(views[0].geometry.native, dtype=np.float32)
    for view, each in zip(views, maps, strict=True):
        seen = view.seen()
        part = np.where(seen, each, np.float32(0))
        total = part if total is None else total + part
        count += seen
    assert total is not None
    cold = np.reshape(fill.astype(np.float32), (-1,) + (1,) * count.ndim)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), cold), dtype=np.float32)


def _maps(looks: _Views, *, calibrated: bool, alone: bool) -> np.ndarray:
    """A member's maps, ``(K, *native)``: probabilities, or raw ones (on their own range where others join them)."""
    natives = (view.native(one.heatmap) for view, one in zip(looks.views, looks.explained, strict=True))
    coldest = np.min([one.heatmap.raw.reshape(len(looks.order), -1).min(axis=1) for one in looks.explained], axis=0)
    if calibrated:
        scale = looks.explained[0].heatmap.scale
        cold = scale.probability(np.fmin(coldest, OUTSIDE).astype(np.float32)[:, None])[:, 0]
        return average_views(looks.views, (scale.probability(each) for each in natives), cold)
    raw = average_views(looks.views, natives, coldest)
    return raw if alone else Calibration.own_range(raw, looks.views[0].geometry).probability(raw)


def _scores(looks: _Views) -> np.ndarray:
    """A member's image probabilities, mean over its views, ``(K,)`` float64 in the ensemble's order."""
    scores = [looks.member.probabilities(each) for each in looks.explained]
    return np.asarray(np.mean(scores, axis=0, dtype=np.float64))[list(looks.order)]


def _identity(count: int) -> Calibration:
    """The scale of maps that are probabilities already."""
    line = ((0.0, 1.0), (0.0, 1.0))
    return Calibration((1.0,) * count, (0.0,) * count, "ensemble", (line,) * count, kind="ensemble")


def _about(member: TrainedClassifier, place: Path | None) -> dict[str, Any]:
    card, config = member.card, member.card.config
    adopted = card.adopted if isinstance(card, AdoptedCard) else None
    about: dict[str, Any] = {
        "run": None if place is None else place.resolve().name,
        "classes": list(member.classes),
        "backbone": config.backbone.name if adopted is None else adopted.model,
        "pooling": config.pooling.model_dump(mode="json") if adopted is None else None,
        "size": config.preprocess.size if adopted is None else list(adopted.prepare.size),
        "seed": config.seed,
        "map": config.map,
        "map_calibration": None if card.calibration is None else card.calibration.kind,
        "image_calibration": None if card.image_calibration is None else card.image_calibration.kind,
        "map_thresholds": _values(member, card.thresholds),
        "image_thresholds": _values(member, card.decisions),
    }
    if place is not None:
        folder = RunFolder(place)
        about["weights_sha256"] = hashlib.sha256(folder.weights.read_bytes()).hexdigest()
        if folder.provenance.is_file():
            made = folder.read_provenance()
            about["made"] = made.model_dump(include={"version", "created", "table_digest"})
    return about


def _values(member: TrainedClassifier, chosen: Sequence[Threshold] | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    return {name: {"value": one.value, "source": one.source} for name, one in zip(member.classes, chosen, strict=True)}
