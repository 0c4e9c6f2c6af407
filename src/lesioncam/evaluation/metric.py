"""The one table of metrics: what each is called, which direction is better, where it is undefined, where it is shown.

To add one: its formula in `functional/`, the line that computes it in `summary` or `extended`, its row here, and a test
of a value that a person can compute. Report, comparison, terminal, subgroups and documentation read this table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "segmentation", "localisation"]
Place = Literal["short", "controls", "compared", "groups", "sizes", "confidences"]
"""Where a metric is shown: short table, beside the controls, in comparisons, by subgroup, by size, by confidence."""

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Overlaps T of the ChestX-ray8 protocol; a box counts above T, not at it."""

ORACLE = "oracle_"
"""Begins the name of a metric whose threshold was chosen on the very images that are measured."""

_LEFT_OUT: dict[Task, str] = {
    "classification": "without a known label",
    "segmentation": "without a lesion mask",
    "localisation": "without a lesion mask or box",
}
_UNDEFINED: dict[Task, str] = {
    "classification": "one class only",
    "segmentation": "no lesion mask",
    "localisation": "no lesion mask or box",
}


@dataclass(frozen=True)
class Family:
    """Metrics that share a convention, which is printed above their table."""

    title: str
    convention: str


_BOXES = "Boxes are half-open, x0 y0 x1 y1 in native pixels"

FAMILIES: dict[str, Family] = {
    "recognise": Family(
        "Recognising: is the finding in the image?",
        "by the image score; sensitivity, specificity, F1 and balanced accuracy at the decision threshold (score at or "
        "above it), fitted on validation; the others need no threshold",
    ),
    "calibration": Family(
        "Calibration of the image scores",
        "low is good; Brier is the mean squared error of the probability, ECE the mean gap between probability and "
        "frequency over 15 bins of equal mass",
    ),
    "outline": Family(
        "Outlining: does the mask cover the lesion?",
        "a pixel at or above the map threshold, fitted on validation, belongs to the mask; means over images with a "
        "lesion mask, a missed lesion counts 0",
    ),
    "distance": Family(
        "Distances between margins",
        "low is good; in the unit of the spacing where the table knows it, in pixels otherwise; undefined where either "
        "mask is empty",
    ),
    "locate": Family(
        "Locating: does the map point at the lesion?",
        f"{_BOXES}; the pointing game needs no threshold, the others take the map threshold fitted on validation; a "
        "false alarm is a healthy image with any mask, low is good",
    ),
    "chestxray8": Family(
        "ChestX-ray8 protocol: boxes at fixed overlaps",
        f"{_BOXES}; boxes around each region of the map at the protocol's own two levels, 60 and 180 of 255 on the "
        "map's own range; the overlap must exceed T; IoBB divides by the predicted box, so that one pixel inside the "
        "lesion scores 1: read it beside IoU; false positives, low is good",
    ),
    "wsol": Family(
        "WSOL protocol: MaxBoxAcc and PxAP",
        f"{_BOXES}, unless the protocol counts the last pixel in; maps scaled to their own range; MaxBoxAcc takes the "
        "best one threshold for the whole set, which the protocol chooses on these very images; PxAP needs none",
    ),
    "chexlocalize": Family(
        "CheXlocalize protocol: mIoU and hit rate",
        "masks by the protocol's own threshold on each map (Otsu); mIoU over images with the finding, or over true "
        "positives only, which leaves every miss out; the hit rate asks whether the hottest pixel lies in the mask",
    ),
    "froc": Family(
        "Free-response: marks with a score",
        f"{_BOXES}; every mark counts by its own hottest probability, over all thresholds; CPM is the mean sensitivity "
        "at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per image",
    ),
}
"""In the order in which they are printed: recognise, outline, locate, then the published protocols."""


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        task: what it measures.
        name: in ``metrics.csv``, without its level (``iou_acc`` of ``iou_acc@0.25``) and without ``oracle_``.
        title: in print; ``{}`` stands for the level.
        family: whose convention holds, a key of `FAMILIES`.
        lower_is_better: whether the smallest value is the best.
        undefined: why there is no number; None is the task's own reason.
        left_out: which images do not count, in words; None is the task's own.
        shown: in which tables it stands beside ``--metrics all``.
        sentence: how the methods paragraph says it, with its reference.
    """

    task: Task
    name: str
    title: str
    family: str
    lower_is_better: bool = False
    undefined: str | None = None
    left_out: str | None = None
    shown: tuple[Place, ...] = ()
    sentence: str = ""

    @property
    def why_undefined(self) -> str:
        """Why there is no number."""
        return _UNDEFINED[self.task] if self.undefined is None else self.undefined

    @property
    def who_is_left_out(self) -> str:
        """Which images do not count."""
        return _LEFT_OUT[self.task] if self.left_out is None else self.left_out


_ALL: tuple[Metric, ...] = (
    Metric(
        "classification",
        "auroc",
        "AUROC",
        "recognise",
        shown=("short", "compared", "groups", "sizes"),
        sentence="area under the ROC curve, ties counting half [@hanley1982]",
    ),
    Metric(
        "classification",
        "average_precision",
        "Average precision",
        "recognise",
        shown=("short", "compared", "groups"),
        sentence="average precision without interpolation [@davis2006]",
    ),
    Metric(
        "classification",
        "balanced_accuracy",
        "Balanced accuracy",
        "recognise",
        shown=("compared", "groups"),
        sentence="balanced accuracy [@brodersen2010]",
    ),
    Metric(
        "classification",
        "kappa_quadratic",
        "Quadratic-weighted kappa",
        "recognise",
        shown=("short", "compared"),
        sentence="Cohen's kappa with quadratic weights [@cohen1968kappa]",
    ),
    Metric(
        "classification",
        "sensitivity",
        "Sensitivity",
        "recognise",
        undefined="no positive image",
        left_out="not positive",
    ),
    Metric(
        "classification",
        "specificity",
        "Specificity",
        "recognise",
        undefined="no negative image",
        left_out="not negative",
    ),
    Metric("classification", "sensitivity_at_specificity", "Sensitivity at specificity {}", "recognise"),
    Metric("classification", "f1", "F1", "recognise"),
    Metric("classification", "max_f1", "Highest F1", "recognise"),
    Metric("classification", "pf1", "Probabilistic F1", "recognise"),
    Metric("classification", "brier", "Brier score", "calibration", lower_is_better=True, undefined="no known label"),
    Metric(
        "classification",
        "ece",
        "Calibration error (ECE)",
        "calibration",
        lower_is_better=True,
        undefined="no known label",
    ),
    Metric(
        "segmentation",
        "dice",
        "Dice",
        "outline",
        shown=("short", "controls", "compared", "groups", "sizes", "confidences"),
        sentence="the Dice coefficient of each image with a lesion [@dice1945]",
    ),
    Metric(
        "segmentation",
        "iou",
        "IoU",
        "outline",
        shown=("short", "controls", "compared", "groups", "sizes", "confidences"),
        sentence="intersection over union [@jaccard1912]",
    ),
    Metric("segmentation", "sensitivity", "Sensitivity", "outline", shown=("controls",)),
    Metric("segmentation", "specificity", "Specificity", "outline", shown=("controls",)),
    Metric("segmentation", "precision", "Precision", "outline"),
    Metric("segmentation", "dice_pooled", "Pooled Dice", "outline"),
    Metric("segmentation", "dice_gated", "Dice gated by the image score", "outline"),
    Metric("segmentation", "iou_pooled", "Pooled IoU", "outline"),
    Metric("segmentation", "volume_difference", "Volume difference", "outline"),
    Metric("segmentation", "lesion_sensitivity", "Lesions found", "outline"),
    Metric("segmentation", "lesion_precision", "Marks that are lesions", "outline"),
    Metric("segmentation", "hausdorff", "Hausdorff distance", "distance", lower_is_better=True),
    Metric("segmentation", "hd95", "Hausdorff distance (95th percentile)", "distance", lower_is_better=True),
    Metric("segmentation", "assd", "Mean surface distance (ASSD)", "distance", lower_is_better=True),
    Metric(
        "localisation",
        "pointing_game",
        "Pointing game",
        "locate",
        shown=("short", "controls", "compared", "groups", "sizes", "confidences"),
        sentence="the pointing game (hottest pixel inside the lesion, no tolerance) [@zhang2018excitation]",
    ),
    Metric(
        "localisation",
        "box_hit_rate",
        "Box hit rate",
        "locate",
        shown=("controls", "compared"),
        sentence="the share of true boxes met by a predicted box with an intersection over union of at least 0.5",
    ),
    Metric(
        "localisation",
        "false_alarm_rate",
        "False alarm rate",
        "locate",
        lower_is_better=True,
        undefined="no healthy image",
        left_out="not healthy",
        shown=("short", "controls", "compared", "groups"),
        sentence="the share of healthy images in which anything was marked",
    ),
    Metric("localisation", "iou_acc", "Accuracy at IoU {}", "chestxray8"),
    Metric("localisation", "iobb_acc", "Accuracy at IoBB {}", "chestxray8"),
    Metric("localisation", "afp", "False positives per image at IoU {}", "chestxray8", lower_is_better=True),
    Metric("localisation", "iobb_afp", "False positives per image at IoBB {}", "chestxray8", lower_is_better=True),
    Metric("localisation", "maxboxacc_v1", "MaxBoxAcc V1", "wsol"),
    Metric("localisation", "maxboxacc_v2", "MaxBoxAcc V2", "wsol"),
    Metric("localisation", "pxap", "PxAP", "wsol"),
    Metric("localisation", "miou", "mIoU", "chexlocalize"),
    Metric("localisation", "miou_true_positives", "mIoU of true positives only", "chexlocalize"),
    Metric("localisation", "hit_rate", "Hit rate", "chexlocalize"),
    Metric("localisation", "froc", "Sensitivity at {} false positives per image", "froc"),
    Metric("localisation", "cpm", "CPM", "froc"),
    Metric("localisation", "box_ap", "Average precision of boxes at IoU {}", "froc"),
)

METRICS: dict[tuple[str, str], Metric] = {(one.task, one.name): one for one in _ALL}
"""Every metric, by task and name, in the order of the tables."""

_BY_NAME = {one.name: one for one in reversed(_ALL)}
"""Where only the name is known: title and direction are the same in every task (a test)."""


def metric_of(task: str, name: str) -> Metric | None:
    """The row of a metric as ``metrics.csv`` names it, with level and ``oracle_``; None for one of somebody's own.

    Example:
        >>> metric_of("localisation", "iou_acc@0.25").family, metric_of("classification", "a_measure_of_my_own")
        ('chestxray8', None)
    """
    return next((METRICS[task, bare] for bare, _ in _bare(name) if (task, bare) in METRICS), None)


def family_of(task: str, name: str) -> Family:
    """Whose convention holds; of a metric of somebody's own, the task's first family.

    Raises:
        KeyError: for a task that does not exist.
    """
    known = metric_of(task, name)
    return FAMILIES[
        {"classification": "recognise", "segmentation": "outline", "localisation": "locate"}[task]
        if known is None
        else known.family
    ]


def title_of(name: str) -> str:
    """How a metric is called in print.

    Example:
        >>> title_of("auroc"), title_of("iou_acc@0.25"), title_of("sensitivity_at_specificity_0.9")
        ('AUROC', 'Accuracy at IoU 0.25', 'Sensitivity at specificity 0.9')
        >>> title_of("oracle_max_f1"), title_of("a_measure_of_my_own")
        ('Highest F1 (oracle)', 'a_measure_of_my_own')
    """
    for bare, level in _bare(name):
        if bare in _BY_NAME:
            oracle = " (oracle)" if name.startswith(ORACLE) else ""
            return _BY_NAME[bare].title.format(level) + oracle
    return name


def is_lower_better(name: str) -> bool:
    """Whether the smallest value of a metric is the best.

    Example:
        >>> is_lower_better("hd95"), is_lower_better("afp@0.5"), is_lower_better("dice")
        (True, True, False)
    """
    return any(_BY_NAME[bare].lower_is_better for bare, _ in _bare(name) if bare in _BY_NAME)


def shown_in(place: Place) -> tuple[tuple[str, str], ...]:
    """Task and name of the metrics of one table, in order.

    Example:
        >>> shown_in("confidences")
        (('segmentation', 'dice'), ('segmentation', 'iou'), ('localisation', 'pointing_game'))
    """
    return tuple(pair for pair, one in METRICS.items() if place in one.shown)


def _bare(name: str) -> Iterator[tuple[str, str]]:
    """A name without ``oracle_``, then without its level, which stands after ``@`` or as the last part."""
    own = name.removeprefix(ORACLE)
    yield own, ""
    for separator in ("@", "_"):
        bare, _, level = own.rpartition(separator)
        yield bare, level
