"""Features -> class maps by a 1x1 convolution -> pooling -> logits: maps cost nothing, they come with the pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesioncam.config import RunConfig
from lesioncam.models.backbone import Backbone, build_backbone
from lesioncam.models.pooling import Pool, build_pool
from lesioncam.types import ClassifierOutput

__all__ = ["Classifier", "build_classifier", "shrink_valid"]


class Classifier(nn.Module):
    """A classifier whose class maps and logits come from one forward pass.

    ``pool(class_maps, features, valid) == logits`` exactly: nothing stands between the pooling and the logits.

    Args:
        backbone: images to features.
        classes: K.
        pool: class maps to logits.
    """

    def __init__(self, backbone: Backbone, classes: int, pool: Pool) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool
        self.head = nn.Conv2d(backbone.channels, classes, kernel_size=1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor, valid: Tensor | None = None) -> ClassifierOutput:
        """Run once.

        Args:
            images: ``(N, C, H, W)``, prepared.
            valid: ``(N, 1, H, W)`` bool, True where the input shows image and not padding; None takes all.

        Returns:
            Logits ``(N, K)`` and class maps ``(N, K, h, w)``, both float32, before the sigmoid.
        """
        features = self.backbone(images)
        with torch.autocast(images.device.type, enabled=False):  # maps and logits keep full precision
            maps = self.head(features.float())
        inside = None if valid is None else shrink_valid(valid, maps.shape[2:])
        return ClassifierOutput(self.pool(maps, features, inside), maps, inside, features)


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
        return Classifier(backbone, classes, build_pool(config.pooling, own_pool))
