"""Training: losses, optimisers, schedules, and aids against shortcuts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from lesioncam.options.base import BelowOne, Config, Fraction, Share, kinds_of
from lesioncam.options.removed import pass_over_removed


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

LOSSES = kinds_of(Loss)
"""Every loss a user can name."""


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

OPTIMIZERS = kinds_of(Optimizer)
"""Every optimiser a user can name."""


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

SCHEDULES = kinds_of(Schedule)
"""Every schedule a user can name."""


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

    @model_validator(mode="before")
    @classmethod
    def _passes_over_removed(cls, values: object) -> object:
        return pass_over_removed("aids", values)
