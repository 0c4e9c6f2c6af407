"""Channels last in memory: the same numbers in another order."""

import pytest
import torch

from lesioncam.models.layout import channels_last


@pytest.mark.parametrize("sides", [(4, 5), (3, 4, 5)])
def test_images_and_volumes_get_their_channels_last(sides):
    images = torch.rand(2, 3, *sides)
    last = channels_last(images)
    assert torch.equal(last, images)
    assert last.stride(1) == 1
    assert channels_last(images[0, 0]).stride() == images[0, 0].stride()
