"""Which images a report shows: chosen by a rule that the report prints, never by hand, failures first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from lesioncam.evaluation.summary import own_method

RULE = (
    "Pictures are chosen by rule, each image once, in this order. "
    "Missed: positive images whose score stays below the decision threshold, or whose mask misses the lesion (Dice 0); "
    "lowest score first. "
    "False alarm: images without the finding whose score reaches the decision threshold or whose mask has any pixel; "
    "healthy images first, then highest score first. "
    "Worst, median, best: positive images by Dice (by score where there are no masks); "
    "median is the middle of that order, then its neighbours in the middle half. "
    "Healthy: the middle of all healthy images in the order of their hottest map value, then its neighbours. "
    "Equal values go by image name."
)
"""The rule, in words, for the report."""


def pick_gallery(cases: pd.DataFrame, per_group: int = 4) -> pd.DataFrame:
    """Pick the pictures of a report.

    Args:
        cases: as `read_cases` returns it.
        per_group: at most so many images per group.

    Returns:
        Columns ``image, class, group, reason``, groups in the order of `GROUPS`, each image once.

    Example:
        >>> cases = pd.DataFrame({"image": ["a", "b"], "class": "mass", "method": "cam", "label": [1, 0],
        ...     "healthy": [0, 1], "positive": [0, 0], "probability": [0.2, 0.1], "decision_threshold": 0.5,
        ...     "dice": [0.0, np.nan], "area": [3, 0], "map_max": [0.6, 0.2]})
        >>> pick_gallery(cases)[["image", "group", "reason"]].to_numpy().tolist()
        [['a', 'missed', 'score 0.200 below 0.500; Dice 0'], ['b', 'healthy', 'hottest 0.200']]
    """
    own = cases[cases["method"] == own_method(cases)]
    shown: set[str] = set()
    rows = []
    for group, choose in GROUPS.items():
        for row in _first_of_each_image(choose(own), shown, per_group):
            shown.add(row["image"])
            rows.append({"image": row["image"], "class": row["class"], "group": group, "reason": row["reason"]})
    return pd.DataFrame(rows, columns=["image", "class", "group", "reason"])


def _first_of_each_image(rows: pd.DataFrame, shown: set[str], limit: int) -> Iterator[pd.Series]:
    fresh = rows[~rows["image"].isin(shown)].drop_duplicates("image").head(limit)
    return (row for _, row in fresh.iterrows())


def _missed(own: pd.DataFrame) -> pd.DataFrame:
    chosen = own[(own["label"] == 1) & ((own["positive"] == 0) | (own["dice"] == 0))]
    return _sorted(chosen, ["probability", "image"], _why_missed)


def _false_alarm(own: pd.DataFrame) -> pd.DataFrame:
    chosen = own[(own["label"] == 0) & ((own["positive"] == 1) | (own["area"] > 0))]
    chosen = chosen.assign(sick=1 - chosen["healthy"], cold=-chosen["probability"])
    return _sorted(chosen, ["sick", "cold", "image"], _why_alarm)


def _worst(own: pd.DataFrame) -> pd.DataFrame:
    return _sorted(_quality(own), ["quality", "image"], _why_quality)


def _median(own: pd.DataFrame) -> pd.DataFrame:
    ordered = _from_the_middle(_quality(own), "quality")
    half = ordered[ordered["distance"] <= max(1, (len(ordered) - 1) / 2)]
    return _sorted(half, ["distance"], _why_quality)


def _best(own: pd.DataFrame) -> pd.DataFrame:
    chosen = _quality(own)
    return _sorted(chosen.assign(down=-chosen["quality"]), ["down", "image"], _why_quality)


def _healthy(own: pd.DataFrame) -> pd.DataFrame:
    chosen = own[own["healthy"] == 1].sort_values(["map_max", "image"], ascending=[False, True], kind="stable")
    hottest = chosen.drop_duplicates("image")
    return _sorted(_from_the_middle(hottest, "map_max"), ["distance"], lambda row: f"hottest {row['map_max']:.3f}")


GROUPS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "missed": _missed,
    "false_alarm": _false_alarm,
    "worst": _worst,
    "median": _median,
    "best": _best,
    "healthy": _healthy,
}
"""Every group and its choice, in the order of the report."""


def _quality(own: pd.DataFrame) -> pd.DataFrame:
    """Positive images with their Dice, or their score if no image has a Dice."""
    chosen = own[own["label"] == 1]
    measured = chosen["dice"].notna().any()
    chosen = chosen.assign(quality=chosen["dice" if measured else "probability"], unit="Dice" if measured else "score")
    return chosen[chosen["quality"].notna()]


def _from_the_middle(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Ordered by a column, with the number of places between each row and the middle one."""
    ordered = rows.sort_values([column, "image"], kind="stable")
    return ordered.assign(distance=np.abs(2 * np.arange(len(ordered)) - (len(ordered) - 1)))


def _sorted(rows: pd.DataFrame, by: list[str], why: Callable[[pd.Series], str]) -> pd.DataFrame:
    ordered = rows.sort_values(by, kind="stable")
    return ordered.assign(reason=[why(row) for _, row in ordered.iterrows()])


def _why_missed(row: pd.Series) -> str:
    score = f"score {row['probability']:.3f} below {row['decision_threshold']:.3f}" if row["positive"] == 0 else ""
    return "; ".join(filter(None, [score, "Dice 0" if row["dice"] == 0 else ""]))


def _why_alarm(row: pd.Series) -> str:
    score = f"score {row['probability']:.3f} reaches {row['decision_threshold']:.3f}" if row["positive"] == 1 else ""
    return "; ".join(filter(None, [score, f"mask of {row['area']:.0f} pixels" if row["area"] > 0 else ""]))


def _why_quality(row: pd.Series) -> str:
    return f"{row['unit']} {row['quality']:.3f}"
