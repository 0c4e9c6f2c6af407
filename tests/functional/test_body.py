"""Where the body is: heads whose outline is known, drawn bodies with noise, marks and frames; images without air."""

import numpy as np
import pytest
from scipy import ndimage
from tests.drawn import disc, head

from lesioncam.data.phantom import Phantom, draw_slice, patient
from lesioncam.data.phantom.anatomy import SLAB_MM, template_head
from lesioncam.data.phantom.draw import plane_points
from lesioncam.data.preprocess import foreground_box
from lesioncam.errors import GeometryError
from lesioncam.functional.body import body_mask


def box_of(mask):
    return tuple((int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))


def margin(box, size):
    return tuple(
        (max(0, a - round(0.02 * n)), min(n, b + round(0.02 * n))) for (a, b), n in zip(box, size, strict=True)
    )


def apart(box, other):
    return max(abs(x - y) for side, its in zip(box, other, strict=True) for x, y in zip(side, its, strict=True))


def overlap(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def true_head(phantom, patient, z):
    """Inside the outer edge of the scalp, from the phantom's own distance to the brain."""
    points = plane_points(phantom.size, phantom.spacing_mm, z).reshape(-1, 3)
    bone, scalp, _ = patient.contrast.shell(points).T
    edge = np.maximum(8.5 + bone, 5.5) + np.maximum(5.0 + scalp, 2.0)
    return (template_head().distance(patient.warp(points)) < edge).reshape(phantom.size)


def test_the_heads_of_the_phantom_are_found_to_three_pixels():
    phantom, errors = Phantom(patients=30), {"largest": [], "body": []}
    heights = np.linspace(*SLAB_MM, 30)
    for number in range(30):
        someone, z = patient(phantom, number), heights[number * 7 % 30]
        image, _ = draw_slice(phantom, someone, z)
        truth = true_head(phantom, someone, z)
        for rule, found in errors.items():
            found.append(apart(foreground_box(image.astype(np.float32), rule), margin(box_of(truth), truth.shape)))
        body = body_mask(image.astype(np.float32))
        assert overlap(body, truth) > 0.94
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
    assert overlap(body, truth) > 0.95
    assert body[disc(image.shape, (85, 66), 40)].all()
    assert not body[:14, :34].any()


def test_two_bodies_stay_and_a_mark_of_less_than_a_twentieth_goes():
    image = np.zeros((200, 200), np.float32)
    image[20:180, 20:80], image[20:180, 120:180] = 1.0, 0.8  # two legs
    image[2:12, 95:105] = 1.0  # 100 of 9600 pixels
    assert apart(box_of(body_mask(image)), ((20, 180), (20, 180))) <= 1
    image[2:14, 80:125], image[20:30] = 1.0, 0.0  # 540
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
    assert apart(box_of(body_mask(body.astype(np.float32))), box_of(body)) <= 1


def test_widening_is_a_share_of_the_longest_side():
    square = np.zeros((100, 80), np.float32)
    square[30:70, 20:60] = 1.0
    assert box_of(body_mask(square, widened=0.05)) == ((25, 75), (15, 65))


def test_a_volume_is_filled_though_it_is_cut_open():
    """A hollow tube through all slices has no hole in 3D that does not reach the outside; slice by slice it has."""
    tube = np.zeros((12, 64, 64), np.float32)
    tube[:] = disc((64, 64), (32, 32), 20) & ~disc((64, 64), (32, 32), 15)
    assert (body_mask(tube, 3) == disc((64, 64), (32, 32), 20)).all()


# ---- what fooled one threshold or the other ----------------------------------------------------------------------


def dim_patient(tissue, axes=2, noise=0.0, lesion=1.0):
    """A body that fills about half of the image, `tissue` bright, with a lesion of a tenth of it at full brightness."""
    size = (100, 90, 40)[:axes]
    body, inner = disc(size, (52, 45, 20)[:axes], 38), disc(size, (45, 40, 20)[:axes], 12)
    image = np.where(inner, lesion, tissue * body)
    rng = np.random.default_rng(0)
    return np.hypot(image + rng.normal(0, noise, size), rng.normal(0, noise, size)), body


@pytest.mark.parametrize("tissue", [0.08, 0.1, 0.15, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("axes", [2, 3])
def test_a_bright_lesion_does_not_eat_a_dim_body(tissue, noise, axes):
    """Li's threshold found the lesion alone, 7.6 % of the image, where the body covers half of it."""
    image, body = dim_patient(tissue, axes, noise)
    found = body_mask(image, axes)
    assert overlap(found, body) > 0.95
    assert abs(found.mean() - body.mean()) < 0.02


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("axes", [2, 3])
def test_a_drawn_body_comes_back(axes, dtype):
    body = disc((40,) * axes, (20,) * axes, 14)
    np.testing.assert_array_equal(body_mask(np.where(body, 90, 5).astype(dtype), axes), body)


def test_air_of_any_level_is_air():
    """The level follows from the rim: computed tomography has -1000 there."""
    body = disc((60, 60), (30, 30), 20)
    for air, tissue in ((-1000, 40), (30, 200), (0, 1)):
        np.testing.assert_array_equal(body_mask(np.where(body, tissue, air).astype(np.float32)), body)


def test_holes_are_filled_and_small_bright_things_left():
    body = disc((60, 60), (30, 30), 20)
    image = np.where(body & ~disc((60, 60), (30, 30), 12), 200, 3).astype(np.uint8)  # a ring: the scalp
    image[2:6, 2:12] = 255  # a burnt-in letter, 40 of 1257 pixels
    np.testing.assert_array_equal(body_mask(image), body)


def test_noise_in_the_air_is_not_the_body():
    body = disc((60, 60), (30, 30), 12)
    noise = np.random.default_rng(1).integers(0, 9, body.shape)
    assert overlap(body_mask(np.where(body, 200, noise).astype(np.uint8)), body) > 0.98


def test_two_levels_of_air_are_air():
    """Scanners blank what lies outside their field: black, then noise, then the patient."""
    body, field = disc((128, 128), (64, 64), 40), np.zeros((128, 128), bool)
    field[10:118, 14:114] = True
    noise = np.random.default_rng(0).rayleigh(3, body.shape)
    assert overlap(body_mask(np.where(body, 150, np.where(field, noise, 0))), body) > 0.97


def test_colour_is_averaged():
    body = disc((60, 60), (30, 30), 20)
    image = np.zeros((*body.shape, 3), np.uint8)
    image[body] = (180, 60, 30)
    np.testing.assert_array_equal(body_mask(image), body)


@pytest.mark.parametrize("seed", range(3))
def test_no_hole_is_left(seed):
    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).random((90, 110)), 4) > 0.5
    blobs[:8], blobs[-8:], blobs[:, :8], blobs[:, -8:] = False, False, False, False
    found = body_mask(np.where(blobs, 200, 0).astype(np.uint8))
    np.testing.assert_array_equal(found, ndimage.binary_fill_holes(found))


def test_nan_and_infinite_pixels_are_air():
    body = disc((60, 60), (30, 30), 20)
    dirty = np.where(body, 90.0, 5.0)
    dirty[0, 0], dirty[30, 30], dirty[1, 1] = np.nan, np.inf, -np.inf  # the one inside becomes a hole, and is filled
    np.testing.assert_array_equal(body_mask(dirty), body)


# ---- no air ------------------------------------------------------------------------------------------------------


def speckle(seed, fading=1.0):
    """An ultrasound picture: layers of tissue, speckle, an echo-poor lesion with its shadow; weaker with depth."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:240, :320]
    layers = ndimage.gaussian_filter(rng.normal(size=y.shape), (8, 25))
    echo = np.exp(0.9 * layers / layers.std() - fading * y / 240) * rng.rayleigh(1, y.shape)
    echo = ndimage.gaussian_filter(echo, 1.2)
    echo[((y - 100) / 36) ** 2 + ((x - 160) / 48) ** 2 < 1] *= 0.08
    echo[(abs(x - 160) < 40) & (y > 135)] *= 0.15
    return np.clip(255 + 255 / 60 * 20 * np.log10(np.maximum(echo, 1e-6) / echo.max()), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_ultrasound_has_no_air(seed):
    assert body_mask(speckle(seed)) is None
    assert body_mask(speckle(seed, fading=2.0)) is None


def test_a_tight_crop_has_no_air():
    image, _ = dim_patient(0.5, noise=0.02)
    assert body_mask(image) is not None
    assert body_mask(image[30:70, 25:65]) is None
    notch = np.full((20, 20), 100, np.uint8)
    notch[12:15, 15:] = 0  # 3 of 76 pixels of the rim
    assert body_mask(notch) is None


def test_dark_corners_of_a_photograph_are_no_air():
    y, x = np.mgrid[:200, :200] - 99.5
    tissue = 150 + 10 * ndimage.gaussian_filter(np.random.default_rng(0).normal(size=y.shape), 3)
    assert body_mask(tissue * (1.2 - (y**2 + x**2) / 141**2)) is None


@pytest.mark.parametrize("value", [0, 7.5, -3])
def test_a_flat_image_has_no_air(value):
    assert body_mask(np.full((8, 9), value)) is None


def test_almost_flat_is_flat():
    assert body_mask(np.where(np.eye(8) > 0, 1.0, np.nextafter(1.0, 2.0))) is None


def test_single_pixel_and_single_slice():
    assert body_mask(np.ones((1, 1))) is None
    body = disc((60, 60), (30, 30), 20)[None]
    np.testing.assert_array_equal(body_mask(np.where(body, 9.0, 1.0), axes=3), body)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 4, 4), (0, 5)])
def test_other_axes_are_refused(shape):
    with pytest.raises(GeometryError, match="expected 2 axes"):
        body_mask(np.zeros(shape))
