"""Features -> class maps by a 1x1 convolution -> pooling -> logits: maps cost nothing, they come with the pass.

2D and 3D alike: the number of axes is the backbone's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesioncam.models.backbone import Backbone, build_backbone
from lesioncam.models.pooling import Pool, PoolInput, build_pool
from lesioncam.options.networks import HeadConfig
from lesioncam.options.poolings import NoisyOrPool
from lesioncam.options.run import RunConfig
from lesioncam.types import ClassifierOutput

_CONVOLUTIONS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Classifier(nn.Module):
    """A classifier whose class maps and logits come from one forward pass.

    ``pool(class_maps, features, valid) == logits`` exactly, in training as well: nothing stands between the pooling and
    the logits. Batch norm and dropout come before the class maps, on the features.

    Args:
        backbone: images to features.
        classes: K.
        pool: class maps to logits.
        head: norm and dropout.
    """

    def __init__(self, backbone: Backbone, classes: int, pool: Pool, head: HeadConfig | None = None) -> None:
        super().__init__()
        head = head or HeadConfig()
        axes = backbone.axes
        self.backbone, self.pool = backbone, pool
        self.norm = _NORMS[axes](backbone.channels) if head.norm == "batch" else nn.Identity()
        self.head = _CONVOLUTIONS[axes](backbone.channels, classes, kernel_size=1)
        self.dropout, self.per_class = head.dropout, head.classifier == "per_class"
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, valid: Tensor | None = None) -> ClassifierOutput:
        """Run once.

        Args:
            images: ``(N, C, *S)``, prepared.
            valid: ``(N, 1, *S)`` bool, True where the input shows image and not padding; None takes all.

        Returns:
            Logits ``(N, K)`` and class maps ``(N, K, *s)``, both float32, before the sigmoid; the features are what
            both were made of.
        """
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):  # maps and logits keep full precision
            features = self.norm(features if features.dtype == torch.float64 else features.float())
            maps, features = self._maps(features)
        inside = None if valid is None else shrink_valid(valid, maps.shape[2:])
        logits = self.pool(maps, features, inside)
        attended = self.pool.attended(maps, features, self.head.bias, inside)
        return ClassifierOutput(logits, maps, inside, features, attended)

    def _maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Class maps, and the features that the pooling is given.

        Dropout leaves out whole channels, since the mean of a channel with holes is not that channel. One convolution
        for each class is the same as one for all but for the draws, so the weights are kept in one in either case.
        """
        if not self.training or self.dropout == 0:
            return self.head(features), features
        if not self.per_class:
            features = torch.feature_dropout(features, self.dropout, train=True)
            return self.head(features), features
        weight = self.head.weight.flatten(1)
        drawn = F.dropout(weight.new_ones(len(features), *weight.shape), self.dropout)
        maps = (weight * drawn) @ features.flatten(2) + self.head.bias[:, None]  # type: ignore[index]
        return maps.unflatten(-1, features.shape[2:]), features


def shrink_valid(valid: Tensor, grid: torch.Size | tuple[int, ...]) -> Tensor:
    """Which cells of a coarse grid are image: half of the cell or more; a very thin image keeps its fullest cells.

    Example:
        >>> valid = torch.tensor([[[[True, True, True, False, False, False]]]])
        >>> shrink_valid(valid, (1, 3))
        tensor([[[[ True,  True, False]]]])
    """
    share = F.interpolate(valid.float(), tuple(grid), mode="area")
    most = share.amax(tuple(range(1, share.ndim)), keepdim=True)
    return share >= most.clamp(max=0.5)


def build_classifier(
    config: RunConfig, classes: int, *, weights: str | None = None, own_pool: Callable[..., Tensor] | None = None
) -> Classifier:
    """Build a fresh classifier, seeded by the configuration; the caller's random state is left alone.

    Raises:
        ModelError: for a backbone, stride or weights that cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.backbone, config.preprocess.channels, weights or config.weights)
        given = PoolInput(backbone.channels, classes, backbone.axes)
        with torch.random.fork_rng(devices=[]):  # whatever pools, backbone and head start alike
            torch.manual_seed(config.seed + 1)
            pool = build_pool(config.pooling, own_pool, given)
        classifier = Classifier(backbone, classes, pool, config.head)
    if isinstance(config.pooling, NoisyOrPool):
        prior = config.pooling.prior
        nn.init.constant_(classifier.head.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]
    return classifier
