"""Networks: backbones, heads, and networks of somebody else."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lesioncam.options.base import BelowOne, Config, parse_choice, validated
from lesioncam.options.data import ResizeCropConfig


class AdoptConfig(Config):
    """A network of somebody else: what makes it, and what it takes."""

    model: str
    """timm:NAME, or module:function of your own."""
    options: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments of the function that makes it (timm.create_model, or yours)."""
    prepare: ResizeCropConfig = ResizeCropConfig()
    """From a decoded image to its input."""
    layer: str | None = None
    """Where maps are taken, a dotted name; None chooses."""


class BackboneConfig(Config):
    """A backbone: timm's for images, MONAI's for volumes (`monai:resnet10`).

    `slim` is the first three stages of a narrow ResNet-10, kept local, for small data and CPUs.
    """

    name: str = "slim"
    """Any timm name, `slim`, or monai: with resnet10, resnet18, resnet34, resnet50, densenet121, seresnet50 or
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
    options: dict[str, object] = Field(default_factory=dict)
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


def parse_backbone(text: str) -> BackboneConfig:
    """``resnet34,stride=16`` to its typed options; what is not ours goes to timm.

    Example:
        >>> parse_backbone("resnet34,stride=16,drop_path_rate=0.1").options
        {'drop_path_rate': 0.1}
    """
    found = parse_choice(text)
    ours = BackboneConfig.model_fields.keys() - {"options"}
    own = {key: found.pop(key) for key in [*found] if key in ours}
    return validated(BackboneConfig, {**own, "options": found}, f"backbone {text!r}")
