"""A run: all options together; the same object is the Python argument, the YAML file and the command line's help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from lesioncam.errors import OptionError
from lesioncam.lookup import find
from lesioncam.options.base import Config, Fraction, describe_kinds, from_text, parse_kind, validated
from lesioncam.options.data import AugmentConfig, PreprocessConfig, TableConfig
from lesioncam.options.networks import BackboneConfig, HeadConfig, parse_backbone
from lesioncam.options.operating_point import parse_rule
from lesioncam.options.poolings import POOLING_TYPES, LsePool, Pooling, parse_pooling
from lesioncam.options.removed import refuse_removed
from lesioncam.options.training import (
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    AdamwOptimizer,
    AidsConfig,
    BceLoss,
    Loss,
    OneCycleSchedule,
    Optimizer,
    Schedule,
)

Task = Literal["auto", "multilabel", "multiclass", "ordinal"]


CalibrationKind = Literal["none", "temperature", "platt", "isotonic"]


MapMethod = Literal[
    "cam",
    "gradcam",
    "gradcam_pp",
    "hirescam",
    "xgradcam",
    "layercam",
    "eigencam",
    "scorecam",
    "occlusion",
    "rise",
    "integrated_gradients",
    "smoothgrad",
    "clear",
]


MAPS: tuple[str, ...] = get_args(MapMethod)
"""Every map method a user can name."""


CHOICES: dict[str, Callable[[str], Config]] = {
    "pooling": parse_pooling,
    "backbone": parse_backbone,
    "loss": lambda text: parse_kind(text, LOSSES, "loss"),
    "optimizer": lambda text: parse_kind(text, OPTIMIZERS, "optimizer"),
    "schedule": lambda text: parse_kind(text, SCHEDULES, "schedule"),
}
"""Options whose value is a name with options of its own, ``lse,sharpness=6``, and how such a text is read."""


def _checked_rule(text: str) -> str:
    parse_rule(text)
    return text


OperatingPoint = Annotated[str, AfterValidator(_checked_rule)]


class RunConfig(Config):
    """Train a classifier from image-level labels, draw its maps, measure and report."""

    table: TableConfig = TableConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    backbone: Annotated[BackboneConfig, from_text(CHOICES["backbone"])] = BackboneConfig()
    """NAME[,stride=8|16|32][,OPTION=VALUE]: any timm backbone, or for volumes monai:NAME."""
    weights: str = "none"
    """Start from: hub (timm's pretrained), a FILE (for volumes MedicalNet's, for instance), a run's folder, or none
    (random)."""
    pooling: Annotated[Pooling, from_text(CHOICES["pooling"])] = Field(
        LsePool(), description=f"{describe_kinds(POOLING_TYPES)}; each also ,preset=paper|recommended"
    )
    head: HeadConfig = HeadConfig()
    """Between features and class maps."""
    aids: AidsConfig = AidsConfig()
    """Against shortcuts, in training."""
    map: MapMethod = "cam"
    """Map method; cam comes with the logits, the others cost more."""
    threshold: Literal["val", "default"] | Fraction = "val"
    """Where map thresholds come from: val (best mean Dice on validation), default (.5), or a number."""
    operating_point: OperatingPoint = "youden"
    """Image thresholds, chosen on validation: youden, sensitivity=0.9, specificity=0.9, or cost=FN/FP (a miss against
    a false alarm)."""
    calibration: CalibrationKind = "none"
    """Of image scores, fitted on validation: none (the sigmoid), temperature, platt or isotonic."""
    map_calibration: CalibrationKind = "none"
    """Of map values, fitted on the validation masks."""
    task: Task = "auto"
    """multilabel: each class on its own (sigmoid); multiclass: exactly one class an image (softmax); ordinal: the same
    with classes that are grades, lowest first. auto is multilabel."""
    dense_negative: NonNegativeFloat = 0.0
    """Weight of a second loss: in an image without a class, every location of its map is negative; 1 is worth trying
    with avg."""
    loss: Annotated[Loss, from_text(CHOICES["loss"])] = Field(BceLoss(), description=describe_kinds(LOSSES))
    select: Literal["auto", "auroc", "kappa", "loss"] = "auto"
    """What the best epoch has, on validation: the highest mean AUROC or quadratic-weighted kappa, or the lowest loss;
    auto is kappa for grades, otherwise AUROC."""
    epochs: PositiveInt = 120
    """Passes over the training images. A classifier is good long before its maps are; 4,000 steps were enough on 1,000
    to 2,000 images."""
    batch: PositiveInt = 32
    """Images per step."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate of the schedule."""
    optimizer: Annotated[Optimizer, from_text(CHOICES["optimizer"])] = Field(
        AdamwOptimizer(), description=describe_kinds(OPTIMIZERS)
    )
    schedule: Annotated[Schedule, from_text(CHOICES["schedule"])] = Field(
        OneCycleSchedule(), description=describe_kinds(SCHEDULES)
    )
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled for AdamW, added to the gradient otherwise; norms and biases do not decay."""
    gradient_clip: NonNegativeFloat = 0.0
    """Largest norm of the gradient; 0 clips nothing."""
    patience: NonNegativeInt = 0
    """Epochs without a better one (see select) before training stops; 0 never stops. A cycle that is stopped never
    cools down."""
    class_weights: bool = True
    """Weigh positives of each class by the whole training set's negatives over positives (capped at 10); of a softmax,
    each class by its inverse share."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware multiplies it (GPUs, recent CPUs), otherwise fp32."""
    seed: NonNegativeInt = 0
    """Of weights, order, augmentation, split and intervals."""
    threads: NonNegativeInt = 0
    """CPU threads; 0 takes what torch finds."""
    cache: Path | None = None
    """Keep prepared images here too (they are pictures of patients); by default in memory only."""
    cache_gb: PositiveFloat = 4.0
    """Largest size of that cache, in memory or on disk."""
    draws: PositiveInt = 1000
    """Bootstrap draws per interval."""
    tensorboard: bool = False
    """Write TensorBoard curves too."""

    @property
    def softmax(self) -> bool:
        """Whether classes exclude each other, so that probabilities are a softmax and sum to 1."""
        return self.task in {"multiclass", "ordinal"}

    @property
    def ordinal(self) -> bool:
        """Whether the classes are grades."""
        return self.task == "ordinal"

    @property
    def selects(self) -> Literal["auroc", "kappa", "loss"]:
        """What the best epoch has."""
        if self.select == "auto":
            return "kappa" if self.ordinal else "auroc"
        return self.select


def _homes(top: type[Config], groups: Mapping[str, type[Config]]) -> dict[str, str]:
    """Every option by name, with the group it lives in ("" for the top).

    Raises:
        TypeError: where two groups have an option of one name, which could then be given to one of them only.
    """
    homes: dict[str, str] = {}
    for group, kind in {"": top, **groups}.items():
        for name in kind.model_fields:
            if name in homes:
                raise TypeError(f"the option {name!r} is in {homes[name] or 'the top'!r} and in {group!r}; rename one.")
            homes[name] = group
    return homes


GROUPS: dict[str, type[Config]] = {
    "table": TableConfig,
    "preprocess": PreprocessConfig,
    "augment": AugmentConfig,
    "head": HeadConfig,
    "aids": AidsConfig,
}
"""Groups whose options are given by their own names: ``size=256`` is ``preprocess.size``."""

EVERYDAY: dict[str, tuple[str, ...]] = {
    "data and labels": ("images", "columns", "classes", "negative", "patient_from", "uncertain", "task"),
    "network": ("backbone", "weights", "pooling", "size"),
    "map and masks": ("map", "threshold"),
    "training": ("epochs", "batch", "learning_rate", "rotation", "flip"),
    "where and how": ("seed", "cache"),
}
"""The options that most people need, by what they want; ``--help`` shows these, ``--help all`` the others too."""

OPTION_HOMES = _homes(RunConfig, GROUPS)
"""Every option by its own name, with its group; "" for those of RunConfig itself."""


def make_config(base: RunConfig | None = None, **options: object) -> RunConfig:
    """A configuration from single options, as the command line and Python take them.

    Args:
        base: start from here; by default the defaults.
        options: fields of RunConfig and of its groups, by their own names (``size=256``, ``patient_from="none"``,
            ``flip=0``) or in full (``**{"backbone.stride": 16}``); choices as text too (``pooling="lse,sharpness=6"``).

    Raises:
        OptionError: for an option that does not exist (with the nearest) or was removed (with what to use instead), or
            a value it cannot have.

    Example:
        >>> make_config(size=256, pooling="lse,sharpness=6", flip=0.0).preprocess.size
        256
        >>> make_config(**{"backbone.stride": 16}).backbone.stride
        16
    """
    content = (base or RunConfig()).model_dump()
    for name, value in options.items():
        group, last = _place(content, name)
        group[last] = value.model_dump() if isinstance(value, BaseModel) else value
    return validated(RunConfig, content, "options")


def _place(content: dict[str, object], name: str) -> tuple[dict[str, object], str]:
    """The group that holds an option, and its name there."""
    refuse_removed(name)
    *groups, last = name.split(".")
    if not groups and (home := find(name, OPTION_HOMES, "option")):
        groups = [home]
    place = content
    for group in groups:
        inner = place.get(group)
        if not isinstance(inner, dict):
            raise OptionError(f"{name}: there is no group {group!r} in the options.")
        place = inner
    if last not in place and groups[-1:] != ["options"]:  # those go to timm, whatever they are
        raise OptionError(f"{name}: no such option; available here: {', '.join(place)}.")
    return place, last
