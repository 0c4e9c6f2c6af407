"""Geometry of volumes: proportions of the body, antialiased shrinking, there and back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.points import to_native_points

from lesioncam.errors import GeometryError
from lesioncam.geometry import Geometry


def test_thick_slices_are_stretched_to_the_proportions_of_the_body():
    """30 slices of 4 mm, 240 x 200 pixels of 0.5 mm: 120 x 120 x 100 mm, so 48 x 48 x 40 of a cube of 48."""
    geometry = Geometry.letterbox((30, 240, 200), (48, 48, 48), aspect=(4.0, 0.5, 0.5))
    assert geometry.scaled == (48, 48, 40)
    assert geometry.offset == (0, 0, 4)
    assert geometry.to_input_points([[0.0, 0.0, 0.0]])[0] == pytest.approx((0.5 * 1.6 - 0.5, -0.4, 4 - 0.4))
    middle = to_native_points(geometry, [[23.5, 23.5, 23.5]])[0]
    assert middle == pytest.approx((14.5, 119.5, 99.5))
    without = Geometry.letterbox((30, 240, 200), (48, 48, 48))
    assert without.scaled == (6, 48, 40)


@pytest.mark.parametrize("aspect", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)])
def test_an_aspect_that_is_no_length_is_refused(aspect):
    with pytest.raises(GeometryError, match="3 positive lengths"):
        Geometry.letterbox((4, 5, 6), (8, 8, 8), aspect=aspect)


def test_a_volume_of_equal_slices_shrinks_as_its_slice_does():
    """torch antialiases pictures; a stack of one picture must come out as a stack of the small picture."""
    image = torch.rand(1, 1, 61, 47)
    geometry = Geometry.letterbox((40, 61, 47), (16, 16, 16))
    shrunk = geometry.to_input(image[:, :, None].expand(1, 1, 40, 61, 47))
    _, height, width = geometry.scaled
    small = F.interpolate(image, (height, width), mode="bilinear", align_corners=False, antialias=True)
    (d, h, w), (depth, _, _) = geometry.offset, geometry.scaled
    inside = shrunk[0, 0, d : d + depth, h : h + height, w : w + width]
    assert torch.allclose(inside, small[0].expand_as(inside), atol=1e-5)


def test_some_axes_shrink_while_others_grow():
    """4 slices of 10 mm become 20, 80 rows of 1 mm become 40: a ramp stays a ramp along both."""
    geometry = Geometry.letterbox((4, 80, 80), (40, 40, 40), aspect=(10.0, 1.0, 1.0))
    assert geometry.scaled == (20, 40, 40)
    d, h = np.mgrid[:4, :80].astype(np.float32)
    volume = torch.from_numpy(np.broadcast_to((100 * d + h)[..., None], (4, 80, 80)).copy())[None, None]
    found = geometry.to_input(volume)[0, 0, 10:30, :, 20].numpy()
    places = to_native_points(geometry, [[10 + i, j, 20] for i in range(20) for j in range(40)]).reshape(20, 40, 3)
    expected = 100 * np.clip(places[..., 0], 0, 3) + places[..., 1]
    assert np.abs(found - expected)[:, 1:-1].max() < 1e-2


def test_a_mask_comes_back_to_its_own_voxels():
    geometry = Geometry.letterbox((21, 64, 50), (32, 32, 32), crop=((1, 20), (4, 60), (0, 50)), aspect=(3.0, 1.0, 1.2))
    mask = torch.zeros(1, 1, 21, 64, 50)
    mask[0, 0, 6:12, 20:40, 10:30] = 1
    back = geometry.to_native(geometry.to_input(mask)[0].numpy(), fill=0.0)[0] > 0.5
    truth = mask[0, 0].numpy() > 0
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.93
    for axis in range(3):
        found, drawn = (np.flatnonzero(m.any(axis=tuple(a for a in range(3) if a != axis))) for m in (back, truth))
        assert abs(found[0] - drawn[0]) <= 1
        assert abs(found[-1] - drawn[-1]) <= 1
