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
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lesioncam.errors import OptionError
from lesioncam.lookup import find

__all__ = [
    "LOSSES",
    "MAPS",
    "OPTIMIZERS",
    "POOLING_TYPES",
    "PRESETS",
    "SCHEDULES",
    "AcamPool",
    "AdamOptimizer",
    "AdamwOptimizer",
    "AdoptConfig",
    "AidsConfig",
    "AttentionPool",
    "AucprLoss",
    "AugmentConfig",
    "AvgPool",
    "BackboneConfig",
    "BceLoss",
    "ClassBalancedLoss",
    "Config",
    "ConstantSchedule",
    "CosineSchedule",
    "CustomPool",
    "ExpPool",
    "FocalLoss",
    "HeadConfig",
    "LinearPool",
    "Loss",
    "LsePool",
    "MapMethod",
    "MaxPool",
    "NoisyOrPool",
    "OneCycleSchedule",
    "Optimizer",
    "PcamPool",
    "PlateauSchedule",
    "Pooling",
    "PreprocessConfig",
    "ResizeCropConfig",
    "RunConfig",
    "Schedule",
    "SgdOptimizer",
    "StepSchedule",
    "TableConfig",
    "Task",
    "TopqPool",
    "make_config",
    "option_homes",
    "parse_backbone",
    "parse_choice",
    "parse_kind",
    "parse_pooling",
    "validated",
]

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
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


class ExpPool(Config):
    """Exponential softmax: each location weighs as much as its own exponential."""

    kind: Literal["exp"] = "exp"


class LinearPool(Config):
    """Linear softmax: the probabilities of the class map weigh themselves."""

    kind: Literal["linear"] = "linear"


class NoisyOrPool(Config):
    """Noisy-or: positive unless every location is negative; it counts locations, so large maps saturate."""

    kind: Literal["noisy_or"] = "noisy_or"
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.003
    """What the probability of a location is before training: the bias of the class maps starts there. At .5, untrained
    maps of hundreds of locations make every image positive beyond doubt, and gradients of positives vanish."""


class AttentionPool(Config):
    """Attention over locations, learnt from the features."""

    kind: Literal["attention"] = "attention"
    hidden: PositiveInt = 128
    """L: width of its hidden layer."""
    gated: bool = True
    """Multiply tanh by a learnt gate."""
    shared: bool = False
    """One attention for all classes; otherwise one each."""


class AcamPool(Config):
    """Attention along each axis (ACAM): it weighs the logit, and sharpens the map that is shown."""

    kind: Literal["acam"] = "acam"
    combine: Literal["mean", "product", "geomean", "min"] = "product"
    """How the axes' attentions make the map that is shown: mean is the paper's, and leaves crosses; the logit is the
    same for all."""
    shared: bool = False
    """One weight vector for all axes; otherwise one each."""


class CustomPool(Config):
    """A user's own callable, known by name only: nothing is loaded from a file."""

    kind: Literal["custom"] = "custom"
    name: str
    """For the record: module and name of the callable."""


Pooling = Annotated[
    AvgPool
    | MaxPool
    | LsePool
    | ExpPool
    | LinearPool
    | TopqPool
    | NoisyOrPool
    | PcamPool
    | AttentionPool
    | AcamPool
    | CustomPool,
    Field(discriminator="kind"),
]

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "acam": {"paper": {"combine": "mean"}, "recommended": {"combine": "product"}},
    "attention": {"paper": {"gated": False, "hidden": 128}, "recommended": {"gated": True, "hidden": 128}},
    "avg": {"paper": {}, "recommended": {}},
    "exp": {"paper": {}, "recommended": {}},
    "linear": {"paper": {}, "recommended": {}},
    "lse": {"paper": {"sharpness": 10.0}, "recommended": {"sharpness": 10.0}},
    "max": {"paper": {}, "recommended": {}},
    "noisy_or": {"paper": {"prior": 0.5}, "recommended": {"prior": 0.003}},
    "pcam": {"paper": {"temperature": 1.0}, "recommended": {"temperature": 0.5}},
    "topq": {"paper": {"fraction": 0.02}, "recommended": {"fraction": 0.02}},
}
"""By pooling: the options as published, and as recommended here. Faults of public code are in neither: what divides by
zero there is computed in the log domain here. Empty where there is nothing to choose."""


def _typed_pooling(value: Any) -> Any:
    """Text as its typed options, so that a YAML file may say ``pooling: pcam,preset=paper``."""
    return parse_pooling(value) if isinstance(value, str) else value


# ---- labels: what becomes of uncertain and blank ones --------------------------------------------------------------


SOFT = (0.55, 0.85)
"""What the policy ``soft`` draws from, where no interval is given (Pham et al. 2019)."""

_WORDS = {"zero": "0", "zeros": "0", "one": "1", "ones": "1", "0": "0", "1": "1", "ignore": "ignore"}


def _policy_word(value: Any) -> Any:
    """``zeros``, ``ones``, ``soft``, 0.7 or ``[0.55, 0.85]``, in the form that is kept."""
    import yaml

    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS or word == "soft":
            return SOFT if word == "soft" else _WORDS[word]
        try:
            value = yaml.safe_load(word)
        except yaml.YAMLError:
            value = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= 1:
            raise ValueError(f"a soft label lies between 0 and 1, not at {value:g}")
        return str(int(value)) if value in (0, 1) else float(value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        if not 0 <= value[0] <= value[1] <= 1:
            raise ValueError(f"an interval of soft labels is [low, high] inside [0, 1], not {list(value)}")
        return tuple(map(float, value))
    raise ValueError("use ignore, 0 (zeros), 1 (ones), soft, a number between 0 and 1, or an interval [0.55, 0.85]")


def _blank_word(value: Any) -> Any:
    word = _WORDS.get(str(value).strip().lower().removesuffix(".0"))
    if word not in {"ignore", "0"}:
        raise ValueError("a blank becomes ignore or 0")
    return word


UncertainPolicy = Annotated[Literal["ignore", "0", "1"] | float | tuple[float, float], BeforeValidator(_policy_word)]
BlankPolicy = Annotated[Literal["ignore", "0"], BeforeValidator(_blank_word)]


# ---- losses, optimisers, schedules ---------------------------------------------------------------------------------


class BceLoss(Config):
    """Cross-entropy: binary per class, or of the softmax where classes exclude each other."""

    kind: Literal["bce"] = "bce"


class FocalLoss(Config):
    """Cross-entropy that fades where the network is right already (Lin et al. 2017)."""

    kind: Literal["focal"] = "focal"
    gamma: NonNegativeFloat = 2.0
    """Exponent of the fading; 0 is cross-entropy."""
    alpha: Share | None = None
    """Weight of positives, 1 - alpha of negatives, instead of the class weights."""


class ClassBalancedLoss(Config):
    """Cross-entropy weighted by the effective number of images on each side of each class (Cui et al. 2019)."""

    kind: Literal["class_balanced"] = "class_balanced"
    beta: BelowOne = 0.999
    """0 weighs nothing; towards 1, by the inverse count. It stands in place of the class weights."""


class AucprLoss(Config):
    """A bound on the area under the precision-recall curve, with learnt multipliers (Eban et al. 2017)."""

    kind: Literal["aucpr"] = "aucpr"
    anchors: PositiveInt = 20
    """Precisions at which recall is bounded."""
    dual: PositiveFloat = 0.1
    """Step of the multipliers, relative to the learning rate."""


Loss = Annotated[BceLoss | FocalLoss | ClassBalancedLoss | AucprLoss, Field(discriminator="kind")]


class AdamwOptimizer(Config):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"


class AdamOptimizer(Config):
    """Adam; weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"


class SgdOptimizer(Config):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    momentum: BelowOne = 0.9
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Look ahead."""

    @model_validator(mode="after")
    def _looks_ahead_with_momentum(self) -> SgdOptimizer:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov looks ahead along the momentum, which is 0")
        return self


Optimizer = Annotated[AdamwOptimizer | AdamOptimizer | SgdOptimizer, Field(discriminator="kind")]


class OneCycleSchedule(Config):
    """Up and down once over the whole training."""

    kind: Literal["onecycle"] = "onecycle"
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the steps on the way up."""


class ConstantSchedule(Config):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


class CosineSchedule(Config):
    """Down to `floor` along half a cosine."""

    kind: Literal["cosine"] = "cosine"
    floor: Share = 0.0
    """Last learning rate, relative to the first."""


class StepSchedule(Config):
    """Multiplied by `factor` every so many epochs."""

    kind: Literal["step"] = "step"
    every: PositiveInt = 30
    """Epochs."""
    factor: Fraction = 0.1
    """Of the learning rate."""


class PlateauSchedule(Config):
    """Multiplied by `factor` when the validation loss has not fallen for `patience` epochs."""

    kind: Literal["plateau"] = "plateau"
    factor: BelowOne = 0.1
    """Of the learning rate."""
    patience: NonNegativeInt = 5
    """Epochs."""


Schedule = Annotated[
    OneCycleSchedule | ConstantSchedule | CosineSchedule | StepSchedule | PlateauSchedule, Field(discriminator="kind")
]


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
    uncertain: UncertainPolicy = "ignore"
    """What -1 becomes: ignore, 0 (zeros), 1 (ones), a soft label such as 0.7, or soft: drawn anew each epoch from an
    interval, [0.55, 0.85]."""
    uncertain_for: dict[str, UncertainPolicy] = Field(default_factory=dict)
    """The same for single classes: Edema=1 Cardiomegaly=0 Atelectasis=[0.55,0.85]."""
    blank: BlankPolicy = "ignore"
    """What a blank cell becomes: ignore (unknown) or 0."""
    blank_for: dict[str, BlankPolicy] = Field(default_factory=dict)
    """The same for single classes: Edema=0."""
    no_finding: str | None = None
    """A class or column whose 1 makes the blanks of its row negative, but for Support Devices ("No Finding")."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of patients in train, val and test where the table has no split."""


class PreprocessConfig(Config):
    """From a decoded image to the network's input."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt, PositiveInt] = 128
    """Side of the square or cubic network input, pixels; of volumes also three sides: slices, rows, columns."""
    channels: PositiveInt = 1
    """Input channels: 1 grey, 3 colour."""
    normalise: Literal["percentile", "zscore", "range"] = "percentile"
    """percentile: 0.5 to 99.5 % of the image to [0, 1]; zscore: mean 0, sd 1; range: the file's full bit depth."""
    crop: bool = True
    """Cut to the foreground first: air carries scanner noise that betrays the source."""
    foreground: Literal["largest", "body"] = "largest"
    """largest: the largest bright component, which may be a brain without its scalp; body: all that is no air, filled,
    stray marks left out."""
    air: Literal["keep", "dark", "padding"] = "keep"
    """What is not the body (as of foreground=body, slightly widened). dark: becomes as dark as the padding, so that
    neither noise nor marks can be read; padding: it also counts as padding, so that poolings leave it out."""
    centred: bool = True
    """Padding on both sides; otherwise at the right and bottom only."""
    padding: float | None = None
    """Value of the padding on the normalised scale, before mean and std; by default the image's darkest."""
    equalise: bool = False
    """Equalise the histogram of the whole image; its values become their ranks in [0, 1]."""
    blur: NonNegativeFloat = 0.0
    """Standard deviation of a Gaussian, pixels of the file; 0 blurs nothing."""
    mean: tuple[float, ...] = ()
    """Taken off each channel at the end, on the scale [0, 1]: one number, or one per channel; () takes off nothing."""
    std: tuple[PositiveFloat, ...] = ()
    """Each channel is divided by it, after mean."""

    @model_validator(mode="after")
    def _fits(self) -> PreprocessConfig:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in {0, 1, self.channels}:
                raise ValueError(f"{name} needs one number, or one for each of {self.channels} channels")
        if self.normalise == "zscore" and (self.equalise or self.mean or self.std):
            raise ValueError("equalise, mean and std work on the scale [0, 1]; use normalise=percentile or range")
        return self

    def sides(self, axes: int) -> tuple[int, ...]:
        """The network input's sides for images (2 axes) or volumes (3).

        Raises:
            OptionError: for three sides where images are asked for.

        Example:
            >>> PreprocessConfig(size=64).sides(3), PreprocessConfig(size=(32, 64, 64)).sides(3)
            ((64, 64, 64), (32, 64, 64))
        """
        if isinstance(self.size, int):
            return (self.size,) * axes
        if len(self.size) != axes:
            raise OptionError(f"size {self.size} has three sides, for volumes; images take one number, the side.")
        return self.size


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

    rotation: NonNegativeFloat = 180.0
    """Degrees, either way. 180: a place of the frame is then no place of the body, so that evidence cannot be parked
    there (docs/localisation.md); 15 where the orientation is the finding."""
    shift: NonNegativeFloat = 0.06
    """Share of the side."""
    scale: NonNegativeFloat = 0.25
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
    outside: float | None = None
    """What is moved in from outside the image, in units of the normalised image; by default its lowest value."""
    histogram: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength of a random monotone warp of the image's own range, both ends fixed; at 1 any histogram can come out."""
    bias_field: NonNegativeFloat = 0.0
    """Smooth random shading, relative: the gain stays between 1 / (1 + bias_field) and 1 + bias_field."""
    defocus: NonNegativeFloat = 0.0
    """Largest standard deviation of a random Gaussian blur, pixels of the input."""
    sharpen: NonNegativeFloat = 0.0
    """Largest share of the fine detail (below about a pixel) that is added once more."""
    coarse: NonNegativeFloat = 0.0
    """Largest loss of resolution, relative: 1 halves the number of pixels along each side and brings it back."""
    cutout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest side of a random box, as a share of the image's, that is painted over with the body's mean."""


# ---- model and run -----------------------------------------------------------------------------------------------


class BackboneConfig(Config):
    """A backbone: timm's for images, MONAI's for volumes (`monai:resnet10`).

    `slim` is the first three stages of a narrow ResNet-10, kept local, for small data and CPUs.
    """

    name: str = "slim"
    """Any timm name, `slim`, or `monai:` and resnet10, resnet18, resnet34, resnet50, densenet121, seresnet50 or
    efficientnet-b0."""
    stride: Literal[8, 16, 32] = 8
    """Input pixels per cell of the class map."""
    stage: PositiveInt | None = None
    """Take the features of this stage (1 is the first), not the deepest; fewer stages see less of the image."""
    dilate: bool | None = None
    """Where a stage's stride is taken out: spread its kernels (timm's way; not for slim) or keep them compact."""
    multiscale: NonNegativeInt = 0
    """Add the class maps of so many deeper, coarser stages to those of the stage of this stride; nothing is dilated
    then. For images."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More keyword arguments of timm.create_model, or of MONAI's network."""

    @property
    def axes(self) -> int:
        """2 for images, 3 for volumes."""
        return 3 if self.name.startswith("monai:") else 2


class HeadConfig(Config):
    """From features to class maps: a 1x1 convolution; nothing stands between the maps and the pooling."""

    classifier: Literal["shared", "per_class"] = "shared"
    """per_class: each class draws its own dropout, as the PCAM authors have it; otherwise the same function."""
    dropout: BelowOne = 0.0
    """Chance that a feature channel is left out of an image's class maps, in training."""
    norm: Literal["none", "batch"] = "none"
    """batch: normalise the features first, so that pooling the maps still gives the logits."""


class AidsConfig(Config):
    """Aids against shortcuts in training, all off; each is measured in docs/results.md."""

    equivariance: NonNegativeFloat = 0.0
    """Weight of a second loss: the class maps of a turned, scaled and shifted image are to be the class maps, moved
    likewise (SEAM, Wang et al. 2020). Every step then sees two views of its images."""
    equivariance_stop: bool = False
    """The maps of the first view are the target and get no gradient from it."""
    equivariance_rotation: NonNegativeFloat = 30.0
    """Degrees, either way; mirrored with the chance `flip`."""
    equivariance_scale: NonNegativeFloat = 0.25
    """Relative."""
    equivariance_shift: NonNegativeFloat = 0.1
    """Share of the side."""
    erasing: Share = 0.0
    """Chance that the hottest cells of an image's classes are painted over before it is learnt from, so that the
    network looks for more (adversarial erasing, Wei et al. 2017)."""
    erasing_share: Fraction = 0.05
    """Share of the cells, of each class that the image has."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Mix pairs of images and their labels: mixup (Zhang et al. 2018) adds them, cutmix (Yun et al. 2019) pastes a box;
    a label that is unknown in either stays unknown."""
    mix_alpha: PositiveFloat = 1.0
    """Shares are drawn from Beta(alpha, alpha): small mixes little, 1 is uniform."""
    averaging: Literal["none", "ema", "swa"] = "none"
    """Validate and keep averaged weights: ema moves with every step, swa (Izmailov et al. 2018) is the plain mean over
    the last epochs, whose batch norms are measured anew."""
    averaging_decay: BelowOne = 0.99
    """ema: share of the average that stays at each step; less in the first steps."""
    averaging_start: BelowOne = 0.75
    """swa: share of the epochs before the first that counts."""


class RunConfig(Config):
    """Train a classifier from image-level labels, draw its maps, measure and report."""

    table: TableConfig = TableConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    backbone: BackboneConfig = BackboneConfig()
    """NAME[,stride=8|16|32][,OPTION=VALUE]: any timm backbone, or for volumes monai:NAME."""
    weights: str = "none"
    """Start from: hub (timm's pretrained), a FILE (for volumes MedicalNet's, for instance), a run's folder, or none
    (random)."""
    pooling: Annotated[Pooling, BeforeValidator(_typed_pooling)] = LsePool()
    """avg | max | lse[,sharpness=10] | exp | linear | topq[,fraction=0.02] | noisy_or[,prior=0.003] |
    pcam[,temperature=0.5] | attention[,hidden=128,gated=true,shared=false] | acam[,combine=product,shared=false]; each
    also ,preset=paper|recommended"""
    head: HeadConfig = HeadConfig()
    """Between features and class maps."""
    aids: AidsConfig = AidsConfig()
    """Against shortcuts, in training."""
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
    task: Task = "auto"
    """multilabel: each class on its own (sigmoid); multiclass: exactly one class an image (softmax); ordinal: the same
    with classes that are grades, lowest first. auto is multilabel."""
    dense_negative: NonNegativeFloat = 0.0
    """Weight of a second loss: in an image without a class, every location of its map is negative; 1 is worth trying
    with avg."""
    loss: Annotated[Loss, BeforeValidator(lambda value: _typed(value, LOSSES, "loss"))] = BceLoss()
    """bce | focal[,gamma=2,alpha=0.25] | class_balanced[,beta=0.999] | aucpr[,anchors=20,dual=0.1]"""
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
    optimizer: Annotated[Optimizer, BeforeValidator(lambda value: _typed(value, OPTIMIZERS, "optimizer"))] = (
        AdamwOptimizer()
    )
    """adamw | adam | sgd[,momentum=0.9,nesterov=true]"""
    schedule: Annotated[Schedule, BeforeValidator(lambda value: _typed(value, SCHEDULES, "schedule"))] = (
        OneCycleSchedule()
    )
    """onecycle[,warmup=0.25] | constant | cosine[,floor=0] | step[,every=30,factor=0.1] |
    plateau[,factor=0.1,patience=5]"""
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
    """``lse,sharpness=6`` to its typed options; ``preset=paper`` fills in those that are not given.

    Raises:
        OptionError: for an unknown pooling or preset (with the nearest), or an option that belongs to another.

    Example:
        >>> parse_pooling("pcam,preset=paper")
        PcamPool(kind='pcam', temperature=1.0)
        >>> parse_pooling("pcam,preset=paper,temperature=2")
        PcamPool(kind='pcam', temperature=2.0)
    """
    found = parse_choice(text)
    name = str(found.pop("name"))
    kind = find(name, POOLING_TYPES, "pooling")
    preset = found.pop("preset", None)
    chosen = {} if preset is None else find(str(preset), PRESETS[name], f"preset of {name}")
    return validated(kind, {**chosen, **found}, f"pooling {text!r}")


def parse_backbone(text: str) -> BackboneConfig:
    """``resnet34,stride=16`` to its typed options; what is not ours goes to timm.

    Example:
        >>> parse_backbone("resnet34,stride=16,drop_path_rate=0.1").options
        {'drop_path_rate': 0.1}
    """
    found = parse_choice(text)
    ours = BackboneConfig.model_fields.keys() - {"options"}
    own: dict[str, Any] = {key: found.pop(key) for key in [*found] if key in ours}
    return validated(BackboneConfig, {**own, "options": found}, f"backbone {text!r}")


LOSSES: dict[str, type[BaseModel]] = {
    "aucpr": AucprLoss,
    "bce": BceLoss,
    "class_balanced": ClassBalancedLoss,
    "focal": FocalLoss,
}
"""Every loss a user can name."""

OPTIMIZERS: dict[str, type[BaseModel]] = {"adam": AdamOptimizer, "adamw": AdamwOptimizer, "sgd": SgdOptimizer}
"""Every optimiser a user can name."""

SCHEDULES: dict[str, type[BaseModel]] = {
    "constant": ConstantSchedule,
    "cosine": CosineSchedule,
    "onecycle": OneCycleSchedule,
    "plateau": PlateauSchedule,
    "step": StepSchedule,
}
"""Every schedule a user can name."""


def parse_kind(text: str, kinds: Mapping[str, type[BaseModel]], what: str) -> BaseModel:
    """``focal,gamma=1`` to its typed options.

    Args:
        text: as typed.
        kinds: all there are, by name.
        what: what they are, for the error.

    Raises:
        OptionError: for an unknown name (with the nearest), or an option that belongs to another.

    Example:
        >>> parse_kind("focal,gamma=1", LOSSES, "loss")
        FocalLoss(kind='focal', gamma=1.0, alpha=None)
    """
    found = parse_choice(text)
    kind = find(str(found.pop("name")), kinds, what)
    return validated(kind, found, f"{what} {text!r}")


def _typed(value: Any, kinds: Mapping[str, type[BaseModel]], what: str) -> Any:
    """Text as its typed options, so that a YAML file may say ``loss: focal,gamma=1``; anything else as it is."""
    return parse_kind(value, kinds, what) if isinstance(value, str) else value


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
            allowed = _allowed(kind, slip["loc"]) if slip["type"] == "extra_forbidden" else ""
            said = slip["msg"].removeprefix("Value error, ").rstrip(".")
            slips.append(f"{place}: {said} (found {slip['input']!r}){allowed}")
        raise OptionError(f"{what}: {'; '.join(slips)}.") from error


def _allowed(kind: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """What may stand in the place of an option that may not; where another pooling has it, that one is named."""
    if place[0] == "pooling" and len(place) > 2:
        kind = POOLING_TYPES.get(str(place[1]), kind)
    said = f"; available: {', '.join(kind.model_fields)}"
    if kind not in POOLING_TYPES.values():
        return said
    owners = [name for name, each in POOLING_TYPES.items() if str(place[-1]) in each.model_fields]
    return f"{said}; {place[-1]} belongs to {' and '.join(owners)}" if owners else said


POOLING_TYPES: dict[str, type[BaseModel]] = {
    "acam": AcamPool,
    "attention": AttentionPool,
    "avg": AvgPool,
    "exp": ExpPool,
    "linear": LinearPool,
    "lse": LsePool,
    "max": MaxPool,
    "noisy_or": NoisyOrPool,
    "pcam": PcamPool,
    "topq": TopqPool,
}
"""Every pooling a user can name."""


def make_config(base: RunConfig | None = None, **options: Any) -> RunConfig:
    """A configuration from flat options, as the command line and Python take them.

    Args:
        base: start from here; by default the defaults.
        options: fields of RunConfig and of its groups table, preprocess, augment, head and aids, by their own names
            (``size=256``, ``patient_from="none"``, ``flip=0``); ``pooling`` and ``backbone`` also as text.

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
    groups: dict[str, type[Config]] = {
        "table": TableConfig,
        "preprocess": PreprocessConfig,
        "augment": AugmentConfig,
        "head": HeadConfig,
        "aids": AidsConfig,
    }
    for group, kind in groups.items():
        homes.update(dict.fromkeys(kind.model_fields, group))
    return homes


def _plain(name: str, value: Any) -> Any:
    if name == "pooling" and isinstance(value, str):
        return parse_pooling(value).model_dump()
    if name == "backbone" and isinstance(value, str):
        return parse_backbone(value).model_dump()
    return value.model_dump() if isinstance(value, BaseModel) else value
