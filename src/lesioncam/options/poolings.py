"""Poolings: from class maps to image logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from lesioncam.lookup import find
from lesioncam.options.base import Config, Fraction, kinds_of, parse_choice, validated


class PoolingConfig(Config):
    """All about one pooling but its mathematics: options, words for a methods section, paper, published options.

    The defaults are what is recommended here.
    """

    words: ClassVar[str]
    """As a methods section says it; options in braces, ``{cite}`` where the reference is cited."""
    reference: ClassVar[str] = ""
    """Key of its paper in the references of reports."""
    paper: ClassVar[Mapping[str, object]] = {}
    """The options as published, where they are not the only ones. Faults of public code are in neither: what divides
    by zero there is computed in the log domain here."""


class AvgPool(PoolingConfig):
    """Mean of the class map (GAP)."""

    words: ClassVar = "the mean of the class map {cite}"
    reference: ClassVar = "zhou2016cam"
    kind: Literal["avg"] = "avg"


class MaxPool(PoolingConfig):
    """Maximum of the class map (GMP)."""

    words: ClassVar = "the maximum of the class map {cite}"
    reference: ClassVar = "oquab2015free"
    kind: Literal["max"] = "max"


class LsePool(PoolingConfig):
    """Log-sum-exp: a smooth bridge from the mean to the maximum."""

    words: ClassVar = "the log-sum-exp of the class map (sharpness {sharpness}) {cite}"
    reference: ClassVar = "pinheiro2015lse"
    paper: ClassVar = {"sharpness": 10.0}
    kind: Literal["lse"] = "lse"
    sharpness: PositiveFloat = 10.0
    """r > 0; towards the maximum as it grows."""


class TopqPool(PoolingConfig):
    """Mean of the largest share of the class map."""

    words: ClassVar = "the mean of the highest values of the class map (fraction {fraction}) {cite}"
    reference: ClassVar = "shen2021gmic"
    paper: ClassVar = {"fraction": 0.02}
    kind: Literal["topq"] = "topq"
    fraction: Fraction = 0.02
    """q in (0, 1]: the share of locations that is averaged, at least one."""


class PcamPool(PoolingConfig):
    """Probabilistic-CAM pooling: the class map is its own attention."""

    words: ClassVar = "probabilistic-CAM pooling (temperature {temperature}) {cite}"
    reference: ClassVar = "ye2020pcam"
    paper: ClassVar = {"temperature": 1.0}
    kind: Literal["pcam"] = "pcam"
    temperature: PositiveFloat = 0.5
    """T > 0: 1 is the paper's; towards the maximum as it falls, towards the mean as it grows."""


class ExpPool(PoolingConfig):
    """Exponential softmax: each location weighs as much as its own exponential."""

    words: ClassVar = "exponential-softmax pooling of the class map {cite}"
    reference: ClassVar = "wang2019mil"
    kind: Literal["exp"] = "exp"


class LinearPool(PoolingConfig):
    """Linear softmax: the probabilities of the class map weigh themselves."""

    words: ClassVar = "linear-softmax pooling of the probabilities of the class map {cite}"
    reference: ClassVar = "wang2019mil"
    kind: Literal["linear"] = "linear"


class NoisyOrPool(PoolingConfig):
    """Noisy-or: positive unless every location is negative; it counts locations, so large maps saturate."""

    words: ClassVar = "the noisy-or of the class map {cite}"
    reference: ClassVar = "maron1998mil"
    paper: ClassVar = {"prior": 0.5}
    kind: Literal["noisy_or"] = "noisy_or"
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.003
    """What the probability of a location is before training: the bias of the class maps starts there. At .5, untrained
    maps of hundreds of locations make every image positive beyond doubt, and gradients of positives vanish."""


class AttentionPool(PoolingConfig):
    """Attention over locations, learnt from the features."""

    words: ClassVar = "{gate} attention over the locations of the class map, {share} {cite}"
    reference: ClassVar = "ilse2018attention"
    paper: ClassVar = {"gated": False, "hidden": 128}
    kind: Literal["attention"] = "attention"
    hidden: PositiveInt = 128
    """L: width of its hidden layer."""
    gated: bool = True
    """Multiply tanh by a learnt gate."""
    shared: bool = False
    """One attention for all classes; otherwise one each."""


class AcamPool(PoolingConfig):
    """Attention along each axis (ACAM): it weighs the logit, and sharpens the map that is shown."""

    words: ClassVar = "attention along each axis of the class map {cite}, averaged over the axes"
    reference: ClassVar = "wu2019acam"
    paper: ClassVar = {"combine": "mean"}
    kind: Literal["acam"] = "acam"
    combine: Literal["mean", "product", "geomean", "min"] = "product"
    """How the axes' attentions make the map that is shown: mean is the paper's, and leaves crosses; the logit is the
    same for all."""
    shared: bool = False
    """One weight vector for all axes; otherwise one each."""


class CustomPool(PoolingConfig):
    """A user's own callable, known by name only: nothing is loaded from a file."""

    words: ClassVar = "a pooling of the authors' own ({name})"
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


POOLING_KINDS = {kind: one for kind, one in kinds_of(Pooling).items() if issubclass(one, PoolingConfig)}
"""Every pooling, the user's own among them."""

POOLING_TYPES = {kind: one for kind, one in POOLING_KINDS.items() if kind != "custom"}
"""Every pooling a user can name."""

PRESETS: dict[str, dict[str, Mapping[str, object]]] = {
    kind: {"paper": one.paper, "recommended": {}} for kind, one in POOLING_TYPES.items()
}
"""By pooling: options as published, and as recommended here, which are the defaults."""


def parse_pooling(text: str) -> PoolingConfig:
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
    chosen: Mapping[str, object] = {} if preset is None else find(str(preset), PRESETS[name], f"preset of {name}")
    return validated(kind, {**chosen, **found}, f"pooling {text!r}", POOLING_TYPES)


def name_of(function: Callable[..., object]) -> str:
    """For the record: module and name of a callable of the user's own.

    Example:
        >>> import math
        >>> name_of(math.fsum)
        'math:fsum'
    """
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"
