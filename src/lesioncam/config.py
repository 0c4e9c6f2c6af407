"""Every option, as a type: the same object is the Python argument, the YAML file and the command line's help.

Only pydantic is imported here, so that help loads nothing heavy. Options of a choice are a union of types: an option of
a method that was not chosen cannot exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from lesioncam.errors import OptionError
from lesioncam.lookup import find

__all__ = [
    "MAPS",
    "POOLING_TYPES",
    "AdoptConfig",
    "AugmentConfig",
    "AvgPool",
    "BackboneConfig",
    "Config",
    "CustomPool",
    "LsePool",
    "MapMethod",
    "MaxPool",
    "PcamPool",
    "Pooling",
    "PreprocessConfig",
    "ResizeCropConfig",
    "RunConfig",
    "TableConfig",
    "TopqPool",
    "make_config",
    "option_homes",
    "parse_backbone",
    "parse_choice",
    "parse_pooling",
    "validated",
]

Fraction = Annotated[float, Field(gt=0, le=1)]
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


class Config(BaseModel):
    """Base of all options: frozen, and a slip in a name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# ---- poolings: from class maps to image logits -------------------------------------------------------------------


class AvgPool(Config):
    """Mean of the class map (GAP)."""

    kind: Literal["avg"] = "avg"


class MaxPool(Config):
    """Maximum of the class map (GMP)."""

    kind: Literal["max"] = "max"


class LsePool(Config):
    """Log-sum-exp: a smooth bridge from the mean to the maximum."""

    kind: Literal["lse"] = "lse"
    sharpness: PositiveFloat = 10.0
    """r > 0; towards the maximum as it grows."""


class TopqPool(Config):
    """Mean of the largest share of the class map."""

    kind: Literal["topq"] = "topq"
    fraction: Fraction = 0.02
    """q in (0, 1]: the share of locations that is averaged, at least one."""


class PcamPool(Config):
    """Probabilistic-CAM pooling: the class map is its own attention."""

    kind: Literal["pcam"] = "pcam"
    temperature: PositiveFloat = 0.5
    """T > 0: 1 is the paper's; towards the maximum as it falls, towards the mean as it grows."""


class CustomPool(Config):
    """A user's own callable, known by name only: nothing is loaded from a file."""

    kind: Literal["custom"] = "custom"
    name: str
    """For the record: module and name of the callable."""


Pooling = Annotated[AvgPool | MaxPool | LsePool | TopqPool | PcamPool | CustomPool, Field(discriminator="kind")]


# ---- data --------------------------------------------------------------------------------------------------------


class TableConfig(Config):
    """How a table of labels is read."""

    images: Path | None = None
    """Folder the image paths start from; by default the table's own folder."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Your names for our columns: image=file label=dx patient=PID ..."""
    classes: tuple[str, ...] | None = None
    """The findings, declared: any other label is an error. By default all labels found."""
    negative: tuple[str, ...] = ()
    """Names of labels that are no lesion ("No Finding", "healthy")."""
    patient_from: str | None = None
    """Who is who, without a patient column: a regular expression with one group, blocks:N, or none."""
    uncertain: Literal["ignore", "0", "1"] | float = "ignore"
    """What -1 becomes: ignore, 0, 1, or a soft label between 0 and 1."""
    blank: Literal["ignore", "0"] = "ignore"
    """What a blank cell becomes: ignore (unknown) or 0."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of patients in train, val and test where the table has no split."""


class PreprocessConfig(Config):
    """From a decoded image to the network's input."""

    size: PositiveInt = 128
    """Side of the square network input, pixels."""
    channels: PositiveInt = 1
    """Input channels: 1 grey, 3 colour."""
    normalise: Literal["percentile", "zscore", "range"] = "percentile"
    """percentile: 0.5 to 99.5 % of the image to [0, 1]; zscore: mean 0, sd 1; range: the file's full bit depth."""
    crop: bool = True
    """Cut to the foreground (largest bright component) first: air carries scanner noise that betrays the source."""
    centred: bool = True
    """Padding on both sides; otherwise at the right and bottom only."""


class ResizeCropConfig(Config):
    """From a decoded image to the input of a network of somebody else: timm's evaluation transform."""

    size: tuple[PositiveInt, PositiveInt] = (224, 224)
    """Height and width of the network input, pixels."""
    channels: PositiveInt = 3
    """Input channels."""
    crop_pct: PositiveFloat = 0.875
    """Share of the scaled image's side that the input shows; 1 cuts nothing off a square image."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """center: cut the longer side; squash: forget the proportions; border: pad the shorter side."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    """How pixels are resized."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Taken off each channel, after [0, 1]."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Each channel is divided by it."""


class AdoptConfig(Config):
    """A network of somebody else: what makes it, and what it takes."""

    model: str
    """timm:NAME, or module:function of your own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function that makes it (timm.create_model, or yours)."""
    prepare: ResizeCropConfig = ResizeCropConfig()
    """From a decoded image to its input."""
    layer: str | None = None
    """Where maps are taken, a dotted name; None chooses."""


class AugmentConfig(Config):
    """Random changes of a training image; ranges are symmetric."""

    rotation: NonNegativeFloat = 15.0
    """Degrees."""
    shift: NonNegativeFloat = 0.06
    """Share of the side."""
    scale: NonNegativeFloat = 0.12
    """Relative."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance of a left-right mirror; 0 where laterality is the finding."""
    contrast: NonNegativeFloat = 0.2
    """Relative gain above the darkest value."""
    brightness: NonNegativeFloat = 0.0
    """Added, in units of the normalised image; off, since grey air makes the padded border visible."""
    gamma: NonNegativeFloat = 0.2
    """Relative, on the image's own range."""
    noise: NonNegativeFloat = 0.0
    """Largest standard deviation, in units of the normalised image; off for the same reason."""


# ---- model and run -----------------------------------------------------------------------------------------------


class BackboneConfig(Config):
    """A timm backbone; `slim` is the first three stages of a narrow ResNet-10, kept local, for small data and CPUs."""

    name: str = "slim"
    """Any timm name, or `slim`."""
    stride: Literal[8, 16, 32] = 8
    """Input pixels per cell of the class map."""
    stage: PositiveInt | None = None
    """Take the features of this stage (1 is the first), not the deepest; fewer stages see less of the image."""
    dilate: bool | None = None
    """Where a stage's stride is taken out: spread its kernels (timm's way; not for slim) or keep them compact."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More keyword arguments of timm.create_model."""


class RunConfig(Config):
    """Train a classifier from image-level labels, draw its maps, measure and report."""

    table: TableConfig = TableConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    backbone: BackboneConfig = BackboneConfig()
    """NAME[,stride=8|16|32][,OPTION=VALUE]: any timm backbone."""
    weights: str = "none"
    """Start from: hub (timm's pretrained), a FILE, or none (random)."""
    pooling: Pooling = PcamPool()
    """avg | max | lse[,sharpness=10] | topq[,fraction=0.02] | pcam[,temperature=0.5]"""
    map: MapMethod = "cam"
    """Map method; cam comes with the logits, the others cost more."""
    threshold: Literal["val", "default"] | Fraction = "val"
    """Where map thresholds come from: val (best mean Dice on validation), default (.5), or a number."""
    operating_point: str = "youden"
    """Image thresholds, chosen on validation: youden, sensitivity=0.9, specificity=0.9, or cost=FN/FP (a miss against
    a false alarm)."""
    calibration: CalibrationKind = "none"
    """Of image scores, fitted on validation: none (the sigmoid), temperature, platt or isotonic."""
    map_calibration: CalibrationKind = "none"
    """Of map values, fitted on the validation masks."""
    epochs: PositiveInt = 25
    """Passes over the training images."""
    batch: PositiveInt = 32
    """Images per step."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled (AdamW)."""
    patience: NonNegativeInt = 15
    """Epochs without a better validation AUROC before training stops; 0 never stops."""
    class_weights: bool = True
    """Weigh positives of each class by the whole training set's negatives over positives (capped at 10)."""
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


# ---- from what a user types to a configuration --------------------------------------------------------------------


def parse_choice(text: str) -> dict[str, Any]:
    """``name,option=value,...`` to a dict; commas inside brackets stay together, values are read as YAML.

    Example:
        >>> parse_choice("lse,sharpness=6")
        {'name': 'lse', 'sharpness': 6}
        >>> parse_choice("resnet10t,stride=16,channels=[24,48,96,192]")
        {'name': 'resnet10t', 'stride': 16, 'channels': [24, 48, 96, 192]}
    """
    import yaml

    name, *pairs = re.split(r",(?![^\[\(]*[\]\)])", text)
    found: dict[str, Any] = {"name": name.strip()}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise OptionError(f"{text!r}: expected name,option=value, but {pair!r} has no '='.")
        found[key.strip()] = yaml.safe_load(value)
    return found


def parse_pooling(text: str) -> BaseModel:
    """``lse,sharpness=6`` to its typed options.

    Raises:
        OptionError: for an unknown pooling (with the nearest), or an option that belongs to another.

    Example:
        >>> parse_pooling("pcam,temperature=1")
        PcamPool(kind='pcam', temperature=1.0)
    """
    found = parse_choice(text)
    kind = find(str(found.pop("name")), POOLING_TYPES, "pooling")
    return validated(kind, found, f"pooling {text!r}")


def parse_backbone(text: str) -> BackboneConfig:
    """``resnet34,stride=16`` to its typed options; what is not ours goes to timm.

    Example:
        >>> parse_backbone("resnet34,stride=16,drop_path_rate=0.1").options
        {'drop_path_rate': 0.1}
    """
    found = parse_choice(text)
    own: dict[str, Any] = {key: found.pop(key) for key in ("name", "stride", "stage", "dilate") if key in found}
    return validated(BackboneConfig, {**own, "options": found}, f"backbone {text!r}")


C = TypeVar("C", bound=BaseModel)


def validated(kind: type[C], values: Mapping[str, Any], what: str) -> C:
    """Build a configuration; a slip is one sentence, not a traceback.

    Raises:
        OptionError: naming each wrong field, what was found and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        slips = []
        for slip in error.errors():
            place = ".".join(str(part) for part in slip["loc"])
            allowed = f"; available: {', '.join(kind.model_fields)}" if slip["type"] == "extra_forbidden" else ""
            slips.append(f"{place}: {slip['msg']} (found {slip['input']!r}){allowed}")
        raise OptionError(f"{what}: {'; '.join(slips)}.") from error


POOLING_TYPES: dict[str, type[BaseModel]] = {
    "avg": AvgPool,
    "lse": LsePool,
    "max": MaxPool,
    "pcam": PcamPool,
    "topq": TopqPool,
}
"""Every pooling a user can name."""


def make_config(base: RunConfig | None = None, **options: Any) -> RunConfig:
    """A configuration from flat options, as the command line and Python take them.

    Args:
        base: start from here; by default the defaults.
        options: fields of RunConfig and of its groups table, preprocess and augment, by their own names (``size=256``,
            ``patient_from="none"``, ``flip=0``); ``pooling`` and ``backbone`` also as text.

    Raises:
        OptionError: for an option that does not exist (with the nearest) or a value it cannot have.

    Example:
        >>> make_config(size=256, pooling="lse,sharpness=6", flip=0.0).preprocess.size
        256
    """
    content = (base or RunConfig()).model_dump()
    homes = option_homes()
    for name, value in options.items():
        home = find(name, homes, "option")
        plain = _plain(name, value)
        if home:
            content[home][name] = plain
        else:
            content[name] = plain
    return validated(RunConfig, content, "options")


def option_homes() -> dict[str, str]:
    """Every option by name, with the group it lives in ("" for the top).

    Example:
        >>> option_homes()["size"], option_homes()["epochs"] == ""
        ('preprocess', True)
    """
    homes = dict.fromkeys(RunConfig.model_fields, "")
    for group, kind in (("table", TableConfig), ("preprocess", PreprocessConfig), ("augment", AugmentConfig)):
        homes.update(dict.fromkeys(kind.model_fields, group))
    return homes


def _plain(name: str, value: Any) -> Any:
    if name == "pooling" and isinstance(value, str):
        return parse_pooling(value).model_dump()
    if name == "backbone" and isinstance(value, str):
        return parse_backbone(value).model_dump()
    return value.model_dump() if isinstance(value, BaseModel) else value
