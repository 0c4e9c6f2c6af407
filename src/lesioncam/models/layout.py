"""Where tensors lie: channels last in memory, as convolutions run fastest, and on which device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def memory_format(axes: int) -> torch.memory_format:
    """The layout of a batch or of kernels for images (2 axes) or volumes (3).

    Example:
        >>> memory_format(2)
        torch.channels_last
    """
    return _FORMATS[axes]


def channels_last(images: Tensor) -> Tensor:
    """A batch of images or volumes with its channels last in memory; anything else as it is.

    Example:
        >>> [channels_last(torch.zeros(1, 2, *sides)).stride()[1] for sides in ((3, 4), (3, 4, 5))]
        [1, 1]
    """
    form = _FORMATS.get(images.ndim - 2)
    return images if form is None else images.contiguous(memory_format=form)


def device_of(network: nn.Module) -> torch.device:
    """Where a network lies; one without weights is taken to lie on the CPU."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))
