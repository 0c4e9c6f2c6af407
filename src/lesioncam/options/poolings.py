"""Poolings: from class maps to image logits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from lesioncam.lookup import find
from lesioncam.options.base import Config, Fraction, parse_choice, validated

__all__ = [
    "POOLING_TYPES",
    "PRESETS",
    "AcamPool",
    "AttentionPool",
    "AvgPool",
    "CustomPool",
    "ExpPool",
    "LinearPool",
    "LsePool",
    "MaxPool",
    "NoisyOrPool",
    "PcamPool",
    "Pooling",
    "TopqPool",
    "parse_pooling",
    "typed_pooling",
]


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


def typed_pooling(value: Any) -> Any:
    """Text as its typed options, so that a YAML file may say ``pooling: pcam,preset=paper``."""
    return parse_pooling(value) if isinstance(value, str) else value


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
    return validated(kind, {**chosen, **found}, f"pooling {text!r}", POOLING_TYPES)


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
