"""``summary.json``: what was measured of one split, on how many images and patients, and how honestly.

The numbers themselves stand in ``metrics.csv`` and ``cases.csv``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lesioncam.runs.json_file import JsonFile


@dataclass(frozen=True)
class MapThreshold:
    """A threshold of maps as it is printed; whom it was chosen on stands in the model's card.

    Attributes:
        value: on the probability scale.
        source: ``val``, ``default``, ``given`` or ``ensemble``.
    """

    value: float
    source: Literal["val", "default", "given", "ensemble"]


@dataclass(frozen=True)
class HealthyCold:
    """Share of the ``n`` healthy images whose 99th percentile stays below the map threshold for every class."""

    share: float
    n: int


@dataclass(frozen=True)
class Leak:
    """An image of the evaluated split that is nearly one the model has met.

    Attributes:
        image: id; empty where names are not to be told.
        split: evaluated.
        other: id of the image it repeats.
        other_split: where that one is.
        kind: ``copy`` or ``mirror``.
        correlation: of fine detail after alignment.
    """

    image: str = ""
    split: str = ""
    other: str = ""
    other_split: str = ""
    kind: Literal["copy", "mirror"] = "copy"
    correlation: float = float("nan")

    def text(self) -> str:
        """In words."""
        how = "the mirror image of" if self.kind == "mirror" else "a copy of"
        return f"{self.image} is {how} {self.other} in {self.other_split} (correlation {self.correlation:.2f})"


@dataclass(frozen=True)
class LedgerCount:
    """How often the test labels were opened, by how many configurations, and where that is counted.

    Attributes:
        times: openings.
        configurations: different ones.
        shared: over all runs of the table (True) or in this run's folder only; None where it is not known.
    """

    times: int
    configurations: int
    shared: bool | None = None


@dataclass(frozen=True)
class CalibrationKinds:
    """How image scores and maps were calibrated, and the rule of the operating points (``sensitivity=0.9``).

    Empty is not known.
    """

    images: str = ""
    maps: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Verified:
    """Of so many rows somebody checked so many; the truth of the others takes no part in any number."""

    rows: int
    of: int


@dataclass(frozen=True)
class LayerSimilarity:
    """Likeness of the maps after one more layer lost what it learnt; None where nothing could be compared."""

    layer: str
    randomised: int
    similarity: float | None = None


@dataclass(frozen=True)
class FaithfulnessScores:
    """Areas under deletion and insertion, and the gap of ROAD; None where undefined."""

    deletion: float | None = None
    insertion: float | None = None
    road: float | None = None


@dataclass(frozen=True)
class Faithfulness:
    """What the score does while pixels go in the order of the map, beside the order of a random map."""

    images: int
    map: FaithfulnessScores
    random_map: FaithfulnessScores


@dataclass(frozen=True)
class Sanity:
    """Whether the maps depend on the weights, and the score on the places they name (``--sanity``).

    Attributes:
        similarity: mean rank correlation with the maps of random weights (0: unrelated); None if nothing was compared.
        maps: compared.
        flat: that show nothing and were left out.
        cascade: layer after layer randomised, from the output down.
        faithfulness: of the map and of a random one.
    """

    similarity: float | None = None
    maps: int = 0
    flat: int = 0
    cascade: tuple[LayerSimilarity, ...] = ()
    faithfulness: Faithfulness | None = None


class Summary(JsonFile):
    """The content of ``evaluate/<split>/summary.json``; a field that older files lack has a default.

    Example:
        >>> Summary(split="test", method="cam", classes=("mass",), patient_rule="blocks:20").knows_patients
        True
    """

    split: str
    """``val`` or ``test``."""
    method: str
    """The map method, or the name of another tool."""
    classes: tuple[str, ...]
    """K names, in the order of the table."""
    foreign: bool = False
    """Maps of another tool, of which nothing else is known."""
    pooling: str | None = None
    """Its kind; None for maps of another tool."""
    negative: tuple[str, ...] = ()
    """Columns of the table that mean "no finding"."""
    exclusive: bool = False
    """One label per image."""
    task: str = "auto"
    """Of the classifier."""
    images: int = 0
    """Measured."""
    patients: int = 0
    """Behind them."""
    healthy_images: int = 0
    """All of whose classes are known to be negative."""
    images_with_masks: int = 0
    """With a lesion mask of any class."""
    images_by_split: dict[str, int] = Field(default_factory=dict)
    """Of the whole table."""
    patients_by_split: dict[str, int] = Field(default_factory=dict)
    """Of the whole table."""
    label_counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Per class: ``positive``, ``negative``, ``uncertain``, ``unknown`` images of the whole table."""
    policy: dict[str, dict[str, str]] | None = None
    """Per class what ``uncertain`` and ``blank`` labels became; empty if there are none, None if it is not known."""
    patient_rule: Annotated[str, BeforeValidator(lambda rule: rule or "none")] = "none"
    """How it is known which images share a patient: ``column PID``, ``blocks:20`` ...; ``none`` if it is not."""
    thresholds: dict[str, MapThreshold] = Field(default_factory=dict)
    """Of the maps, per class."""
    threshold_patients: int = 0
    """They were chosen on."""
    seed: int = 0
    """Of the run and of the draws."""
    draws: int = 0
    """Of the bootstrap behind the intervals."""
    healthy_cold: HealthyCold | None = None
    """None without a healthy image."""
    question: str = ""
    """What the run asks, in a sentence."""
    gallery_rule: str = ""
    """How the pictures were chosen, in words."""
    leaks: tuple[Leak, ...] = ()
    """Near-copies across splits."""
    leaks_checked: bool | None = None
    """Whether they were looked for; None if it is not known."""
    dropped: int | None = None
    """Images left out because of them; None if it is not known."""
    ledger: LedgerCount | None = None
    """Of the test labels."""
    test_opened: int = 0
    """As in ``ledger``; older files have only this."""
    configurations: int = 0
    """As in ``ledger``; older files have only this."""
    missing_maps: int = 0
    """Of another tool; counted as misses."""
    undefined_maps: int = 0
    """Without a single finite value."""
    calibration: CalibrationKinds = CalibrationKinds()
    """Of scores and maps."""
    ceiling_grid: tuple[int, ...] = ()
    """Size of the raw maps: the resolution ceiling is the best that fits on it."""
    metrics: str = "default"
    """The short table, or ``all``."""
    verified: Verified | None = None
    """None where the table does not say who checked what."""
    thresholds_chosen_here: bool = False
    """Something was chosen on these very patients: the numbers are optimistic."""
    sanity: Sanity | None = None
    """None where it was not asked for."""

    @property
    def knows_patients(self) -> bool:
        """Whether it is known, or assumed by a rule, which images share a patient."""
        return self.patient_rule != "none"

    @property
    def opened(self) -> LedgerCount:
        """How often the test labels were opened, whatever the age of the file."""
        return self.ledger or LedgerCount(self.test_opened, self.configurations)
