"""Where the body is: phantom heads whose outline is known, drawn heads with noise, text and frames, real-size grids."""

import numpy as np
import pytest
import torch

from lesioncam.data import phantom as ph
from lesioncam.data.preprocess import Preprocess, body_mask, foreground_box
from lesioncam.options.data import PreprocessConfig


def disc(size, centre, radius):
    grid = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


def head(size=(160, 140), centre=(85, 66), noise=0.05, seed=0):
    """Brain, dark bone, a scalp that is open at one place; air with the noise of a magnitude image."""
    rng = np.random.default_rng(seed)
    image = 0.6 * disc(size, centre, 40) + 1.0 * (disc(size, centre, 54) & ~disc(size, centre, 48))
    image[centre[0] - 3 : centre[0] + 3, centre[1] + 45 :] = 0.0
    return np.hypot(image + rng.normal(0, noise, size), rng.normal(0, noise, size))


def box_of(mask):
    return tuple((int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))


def margin(box, size):
    return tuple(
        (max(0, a - round(0.02 * n)), min(n, b + round(0.02 * n))) for (a, b), n in zip(box, size, strict=True)
    )


def apart(box, other):
    return max(abs(x - y) for side, its in zip(box, other, strict=True) for x, y in zip(side, its, strict=True))


def true_head(phantom, patient, z):
    """Inside the outer edge of the scalp, from the phantom's own distance to the brain."""
    points = ph._plane(phantom.size, phantom.spacing_mm, z).reshape(-1, 3)
    bone, scalp, _ = patient.contrast.shell(points).T
    edge = np.maximum(8.5 + bone, 5.5) + np.maximum(5.0 + scalp, 2.0)
    return (ph._head().distance(patient.warp(points)) < edge).reshape(phantom.size)


def test_the_heads_of_the_phantom_are_found_to_three_pixels():
    phantom, errors = ph.Phantom(patients=30), {"largest": [], "body": []}
    heights = np.linspace(*ph.SLAB_MM, 30)
    for number in range(30):
        patient, z = ph.patient(phantom, number), heights[number * 7 % 30]
        image, _ = ph.draw_slice(phantom, patient, z)
        truth = true_head(phantom, patient, z)
        for rule, found in errors.items():
            found.append(apart(foreground_box(image.astype(np.float32), rule), margin(box_of(truth), truth.shape)))
        body = body_mask(image.astype(np.float32))
        assert (body & truth).sum() / (body | truth).sum() > 0.94
    assert np.mean(np.array(errors["body"]) <= 3) >= 0.95
    assert max(errors["body"]) <= 5
    assert np.mean(np.array(errors["largest"]) <= 3) < 0.5  # the rule that published figures were made with


@pytest.mark.parametrize("spoil", ["noise", "text", "frame", "zipper"])
def test_a_drawn_head_is_whole_whatever_stands_around_it(spoil):
    image = head(noise=0.08 if spoil == "noise" else 0.03)
    if spoil == "text":
        for column in range(4, 22, 6):
            image[4:12, column : column + 3] = 1.0
    if spoil == "frame":
        image[[0, 1, -1]], image[:, [0, -1, -2]] = 1.0, 1.0
    if spoil == "zipper":
        image[:, 90] += np.random.default_rng(1).random(160)
    truth = disc(image.shape, (85, 66), 54)
    assert apart(foreground_box(image, "body"), margin(box_of(truth), truth.shape)) <= 2
    body = body_mask(image)
    assert (body & truth).sum() / (body | truth).sum() > 0.95
    assert body[disc(image.shape, (85, 66), 40)].all()
    assert not body[:14, :34].any()


def test_two_bodies_stay_and_a_mark_of_less_than_a_fiftieth_goes():
    image = np.zeros((200, 200), np.float32)
    image[20:180, 20:80], image[20:180, 120:180] = 1.0, 0.8  # two legs
    image[2:12, 95:105] = 1.0  # 100 of 9600 pixels
    assert apart(box_of(body_mask(image)), ((20, 180), (20, 180))) <= 1
    image[2:12, 95:135], image[20:30] = 1.0, 0.0  # 400
    assert apart(box_of(body_mask(image)), ((2, 180), (20, 180))) <= 1


@pytest.mark.parametrize("step", [2, 3])
def test_a_large_image_is_looked_at_coarsely_and_answered_finely(step):
    image = head()
    small, large = body_mask(image), body_mask(np.kron(image, np.ones((step, step))))
    assert large.shape == (160 * step, 140 * step)
    assert apart(box_of(large), [(a * step, b * step) for a, b in box_of(small)]) <= 2 * step


def test_a_body_cut_by_the_image_is_not_cut_further():
    body = disc((120, 100), (119, 50), 45)
    assert (body_mask(body.astype(np.float32)) == body).mean() > 0.99
    assert box_of(body_mask(body.astype(np.float32))) == box_of(body)


def test_widening_is_a_share_of_the_longest_side():
    square = np.zeros((100, 80), np.float32)
    square[30:70, 20:60] = 1.0
    assert box_of(body_mask(square, widened=0.05)) == ((25, 75), (15, 65))


def test_a_flat_image_is_all_body():
    assert body_mask(np.full((9, 9), 7.0)).all()
    assert foreground_box(np.full((9, 9), 7.0), "body") == ((0, 9), (0, 9))


def test_a_volume_is_filled_though_it_is_cut_open():
    """A hollow tube through all slices has no hole in 3D that does not reach the outside; slice by slice it has."""
    tube = np.zeros((12, 64, 64), np.float32)
    tube[:] = disc((64, 64), (32, 32), 20) & ~disc((64, 64), (32, 32), 15)
    assert (body_mask(tube) == disc((64, 64), (32, 32), 20)).all()


@pytest.mark.parametrize("air", ["dark", "padding"])
@pytest.mark.parametrize("axes", [2, 3])
def test_air_noise_and_marks_cannot_be_read(air, axes):
    rng, size = np.random.default_rng(0), (48,) * axes
    body = disc(size, (26,) * axes, 14)
    image = (1.0 * body + np.abs(rng.normal(0, 0.05, size)))[..., None]  # channels last
    image[(slice(0, 3),) * axes] = 1.0
    image = image if axes == 3 else image[..., 0]
    plain, clean = (Preprocess(PreprocessConfig(size=48, crop=False, air=way))(image) for way in ("keep", air))
    far = ~disc(size, (26,) * axes, 17)
    assert (plain.image[0][far] > 0).mean() > 0.5
    assert (clean.image[0][far] == 0).all()
    np.testing.assert_array_equal(clean.image[0][body], plain.image[0][body])
    assert plain.valid.all()
    if air == "dark":
        assert clean.valid.all()
    else:
        assert clean.valid[body].all()
        assert not clean.valid[far].any()


def test_masked_air_looks_like_padding():
    """Whatever the scale: after z-scores, or with a padding of one's own, air and padding are one value."""
    image = head((160, 100), (85, 50), noise=0.03)
    for options in ({"normalise": "zscore"}, {"padding": 0.25}, {"mean": (0.3,), "std": (0.2,)}, {"equalise": True}):
        sample = Preprocess(PreprocessConfig(size=80, crop=False, air="dark", **options))(image)
        assert sample.image[0, 0, 20] == pytest.approx(sample.image[0, 40, 0])
        assert sample.valid[0, 20]
        assert not sample.valid[40, 0]


def test_the_way_home_is_as_before_where_the_box_is_the_same():
    image = np.zeros((100, 60))
    image[20:80, 10:50] = 1.0 + torch.rand((60, 40), generator=torch.Generator().manual_seed(0)).numpy()
    one, other = (Preprocess(PreprocessConfig(size=64, foreground=rule))(image) for rule in ("largest", "body"))
    assert one.geometry == other.geometry
    np.testing.assert_array_equal(one.image, other.image)
