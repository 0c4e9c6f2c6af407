"""``shortcut.json``: where the evidence lies, and how far one gets without seeing the patient, as it is read.

It is written by :class:`lesioncam.evaluation.shortcut.Shortcut`, which says what the numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from lesioncam.runs.json_file import JsonFile


@dataclass(frozen=True)
class EvidenceShare:
    """Share of the positive evidence of ``n`` maps that lies in a place; None where undefined."""

    share: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    alarm: float | None = None

    @property
    def alarming(self) -> bool:
        """Whether it lies above the level of alarm."""
        return self.share is not None and self.alarm is not None and self.share > self.alarm


@dataclass(frozen=True)
class ProbeAuroc:
    """AUROC over ``n`` images with its interval; ``hidden`` says why it may not be shown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    hidden: str = ""


@dataclass(frozen=True)
class SuspectImage:
    """An image and class with much evidence where no lesion can be; the shares of it, None where undefined."""

    image: str
    label: Annotated[str, Field(alias="class")]
    outside: float | None
    border: float | None


class ShortcutPanel(JsonFile):
    """The content of ``shortcut.json``.

    Example:
        >>> panel = ShortcutPanel.model_validate({"border": {"share": 0.6, "alarm": 0.5, "n": 9}})
        >>> panel.border.alarming, panel.outside_body.alarming
        (True, False)
    """

    outside_body: EvidenceShare = EvidenceShare()
    """Of all maps."""
    border: EvidenceShare = EvidenceShare()
    """Likewise, along the border of the image."""
    by_class: dict[str, dict[str, EvidenceShare]] = Field(default_factory=dict)
    """Class -> ``outside_body`` and ``border``."""
    no_air: int = 0
    """Positive images without dark surroundings: nothing lies outside the body there."""
    border_auroc: dict[str, ProbeAuroc] = Field(default_factory=dict)
    """Class or ``macro`` -> of a probe that sees the border only."""
    statistics_auroc: dict[str, ProbeAuroc] = Field(default_factory=dict)
    """Likewise, of a probe that sees size and histogram only."""
    classifier_auroc: dict[str, ProbeAuroc] = Field(default_factory=dict)
    """Likewise, of the classifier; empty where it gave no scores."""
    images: tuple[SuspectImage, ...] = ()
    """The worst pairs."""
