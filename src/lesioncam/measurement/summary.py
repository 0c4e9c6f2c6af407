"""What ``summary.json`` says of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import policy_table
from lesioncam.evaluation.gallery import RULE
from lesioncam.measurement.part import Part
from lesioncam.options.run import RunConfig
from lesioncam.runs.ledger import Ledger
from lesioncam.runs.summary import (
    CalibrationKinds,
    HealthyCold,
    Leak,
    LedgerCount,
    MapThreshold,
    Sanity,
    Summary,
    Verified,
)
from lesioncam.types import SPLITS


@dataclass(frozen=True)
class Conduct:
    """How honestly it was measured.

    Attributes:
        ledger: of the test labels, this look included.
        leaks: near-copies that were left out.
        grid: size of the raw maps.
        metrics: the short table, or ``all``.
        chosen_here: something was chosen on these very patients.
        sanity: where it was asked for.
    """

    ledger: Ledger
    leaks: Sequence[Leak]
    grid: tuple[int, ...]
    metrics: str
    chosen_here: bool
    sanity: Sanity | None = None


def summary_of(part: Part, table: Table, cases: pd.DataFrame, conduct: Conduct) -> Summary:
    """Gather it.

    Args:
        part: the split that was measured.
        table: the whole table of the run.
        cases: as `read_cases` returns it.
        conduct: how it was measured.
    """
    card, config, foreign = part.subject.card, part.subject.card.config, part.subject.foreign
    own = cases[cases["method"] == part.subject.method]
    images = own.drop_duplicates("image")
    thresholds = card.thresholds or ()
    missing, undefined = part.subject.gaps()
    verified, ledger = part.table.verified(), conduct.ledger
    return Summary(
        split=str(part.table.frame["split"].iloc[0]),
        method=part.subject.method,
        classes=card.classes,
        foreign=foreign,
        pooling=None if foreign else config.pooling.kind,
        negative=tuple(table.negative),
        exclusive=table.exclusive or config.softmax,
        task=config.task,
        images=len(images),
        patients=int(images["patient"].nunique()),
        healthy_images=int((images["healthy"] == 1).sum()),
        images_with_masks=int(own[own["has_mask"] == 1]["image"].nunique()),
        images_by_split={name: len(table.split(name)) for name in SPLITS},
        patients_by_split={name: len(set(table.split(name).patients())) for name in SPLITS},
        label_counts=_label_counts(table),
        policy=_policy(table, config),
        patient_rule=table.patient_rule,
        thresholds={n: MapThreshold(t.value, t.source) for n, t in zip(card.classes, thresholds, strict=False)},
        threshold_patients=len(thresholds[0].tuned_on) if thresholds else 0,
        seed=config.seed,
        draws=config.draws,
        healthy_cold=_healthy_cold(own),
        question=f"Which images show {', '.join(card.classes)}, and where?",
        gallery_rule=RULE,
        leaks=tuple(conduct.leaks),
        leaks_checked=True,
        dropped=len({leak.image for leak in conduct.leaks}),
        ledger=LedgerCount(ledger.times, ledger.configurations, ledger.shared),
        test_opened=ledger.times,
        configurations=ledger.configurations,
        missing_maps=missing,
        undefined_maps=undefined,
        calibration=CalibrationKinds(config.calibration, config.map_calibration, config.operating_point),
        ceiling_grid=conduct.grid,
        metrics=conduct.metrics,
        verified=None if verified is None else Verified(int(verified.sum()), len(part.table)),
        thresholds_chosen_here=conduct.chosen_here,
        sanity=conduct.sanity,
    )


def _healthy_cold(own: pd.DataFrame) -> HealthyCold | None:
    """Share of healthy images whose 99th percentile stays below the threshold for every class."""
    healthy = own[own["healthy"] == 1]
    if healthy.empty:
        return None
    cold = (healthy["map_p99"] < healthy["map_threshold"]).groupby(healthy["image"]).all()
    return HealthyCold(float(cold.mean()), len(cold))


def _label_counts(table: Table) -> dict[str, dict[str, int]]:
    counts = {}
    for name, states in zip(table.classes, table.states.T, strict=True):
        counts[name] = {
            "positive": int((states == 1).sum()),
            "negative": int((states == 0).sum()),
            "uncertain": int((states == -1).sum()),
            "unknown": int(np.isnan(states).sum()),
        }
    return counts


def _policy(table: Table, config: RunConfig) -> dict[str, dict[str, str]]:
    """What uncertain and blank labels became, class by class; nothing where there are none."""
    told = policy_table(table, config.table)
    if not (told["uncertain"] + told["blank"]).any():
        return {}
    rows = told.to_dict("records")
    return {str(r["class"]): {key: str(r[f"{key}_becomes"]) for key in ("uncertain", "blank")} for r in rows}
