"""Controls: they know the grid, the seed and the validation masks, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lesioncam.errors import RunError
from lesioncam.evaluation.controls import CONTROLS, MeanMask, Scene, resolution_ceiling
from lesioncam.functional.segmentation import overlap_counts
from lesioncam.geometry import Geometry
from lesioncam.types import Heatmap


def scene(image="a", seed=0, native=(30, 50), classes=("mass", "ring"), crop=None, masks=None):
    geometry = Geometry.letterbox(native, (32, 32), crop=crop)
    heatmap = Heatmap(np.zeros((len(classes), 4, 4), np.float32), classes, "cam", "head", geometry)
    return Scene(image, heatmap, masks or MeanMask(classes), seed)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_is_like_a_probability_on_the_native_grid(name):
    maps = CONTROLS[name](scene())
    assert maps.shape == (2, 30, 50)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert np.isfinite(maps).all()


def test_noise_depends_on_seed_and_image_only():
    first = CONTROLS["random_map"](scene())
    np.testing.assert_array_equal(first, CONTROLS["random_map"](scene()))
    assert not np.array_equal(first, CONTROLS["random_map"](scene(image="b")))
    assert not np.array_equal(first, CONTROLS["random_map"](scene(seed=1)))
    assert not np.array_equal(first[0], first[1])


def test_noise_is_pinned():
    """The same number on every machine and in every process: no salted hash behind it."""
    assert CONTROLS["random_map"](scene())[0, 0, 0] == pytest.approx(0.9077349901199341, abs=1e-6)


def test_noise_is_zero_where_the_network_saw_nothing():
    maps = CONTROLS["random_map"](scene(crop=((0, 30), (10, 40))))
    assert (maps[:, :, :10] == 0).all()
    assert (maps[:, :, 40:] == 0).all()
    assert (maps[:, :, 10:40] > 0).all()


def test_noise_lives_on_the_coarse_grid():
    """Neighbouring pixels of a 4 x 4 map on 30 x 50 pixels resemble each other; raw pixel noise would not."""
    maps = CONTROLS["random_map"](scene(native=(400, 400)))
    assert np.abs(np.diff(maps, axis=2)).max() < 0.02


def test_centre_prior_is_a_bell_of_a_quarter_side():
    bell = CONTROLS["centre_prior"](scene(native=(41, 81)))[0]
    assert np.unravel_index(bell.argmax(), bell.shape) == (20, 40)
    assert bell.max() == 1
    np.testing.assert_allclose(bell, bell[::-1, ::-1], rtol=1e-6)
    assert bell[20, 40 + 20] == pytest.approx(np.exp(-0.5 * (20 / (81 / 4)) ** 2), rel=1e-5)
    assert bell[20 + 10, 40] == pytest.approx(np.exp(-0.5 * (10 / (41 / 4)) ** 2), rel=1e-5)


def test_mean_mask_is_the_mean_over_images_of_all_sizes():
    masks = MeanMask(("mass", "ring"))
    left, top = np.zeros((64, 128), bool), np.zeros((32, 32), bool)
    left[:, :64], top[:16] = True, True
    masks.add(0, left)
    masks.add(0, top)
    masks.add(0, np.zeros((7, 7), bool))  # nothing to learn from
    maps = masks.maps((64, 64))
    assert masks.images.tolist() == [2, 0]
    expected = np.full((64, 64), 0.5)
    expected[:32, :32], expected[32:, 32:] = 1.0, 0.0
    np.testing.assert_array_equal(maps[0], expected)
    assert not maps[1].any()


def test_a_single_pixel_of_a_large_mask_is_not_lost():
    rng = np.random.default_rng(0)
    for shape in [(1000, 700), (37, 91), (64, 64)]:
        masks, mask = MeanMask(("mass",)), np.zeros(shape, bool)
        mask[tuple(rng.integers(0, shape))] = True
        masks.add(0, mask)
        assert masks.total.mean() == pytest.approx(mask.mean())  # area averages keep the mean


def test_mean_mask_control_uses_the_native_grid():
    masks, mask = MeanMask(("mass", "ring")), np.zeros((10, 20), bool)
    mask[:, 10:] = True
    masks.add(1, mask)
    maps = CONTROLS["mean_mask"](scene(masks=masks))
    assert not maps[0].any()
    assert (maps[1][:, :24] == 0).all()
    np.testing.assert_allclose(maps[1][:, 26:], 1, rtol=1e-6)


def test_mean_masks_of_volumes():
    masks, mask = MeanMask(("mass",), axes=3), np.zeros((4, 6, 8), bool)
    mask[2:] = True
    masks.add(0, mask)
    maps = masks.maps((8, 3, 3))[0]
    assert maps.mean() == pytest.approx(0.5)
    assert maps[7].min() == 1


def test_mean_masks_survive_the_disk(tmp_path):
    masks, mask = MeanMask(("mass", "ring"), axes=2), np.zeros((9, 5), bool)
    mask[3, 2] = True
    masks.add(1, mask)
    again = MeanMask.load(masks.save(tmp_path / "means.npz"))
    assert again.classes == masks.classes
    assert again.images.tolist() == [0, 1]
    np.testing.assert_array_equal(again.total, masks.total)


@pytest.mark.parametrize("content", [None, b"nonsense", b"", b"PK\x03\x04cut off"])
def test_a_missing_or_broken_file_is_named(tmp_path, content):
    path = tmp_path / "means.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"means\.npz"):
        MeanMask.load(path)


def test_a_class_that_is_not_wanted_is_not_drawn():
    for name, control in CONTROLS.items():
        whole, second = scene(), replace(scene(), wanted=(1,))
        np.testing.assert_array_equal(control(second)[0], control(whole)[1], err_msg=name)
        assert len(control(second)) == 1


def test_the_brightness_map_is_the_image():
    grey = np.linspace(0, 1, 1500, dtype=np.float32).reshape(30, 50)
    np.testing.assert_array_equal(CONTROLS["brightness_map"](replace(scene(), grey=grey))[1], grey)


def test_the_few_shot_map_goes_home_like_a_map():
    few = np.zeros((2, 4, 4), np.float32)
    few[0, 1, 2] = 1
    maps = CONTROLS["few_shot"](replace(scene(native=(32, 32)), few_shot=few))
    assert np.unravel_index(maps[0].argmax(), (32, 32)) in [(11, 19), (11, 20), (12, 19), (12, 20)]


@pytest.mark.parametrize("crop", [None, ((4, 60), (0, 40))])
@pytest.mark.parametrize("side", [5, 9, 24])
def test_no_map_of_the_grid_does_better_than_the_ceiling(crop, side):
    """The oracle: gradient ascent on the soft Dice of a free map, then its best threshold."""
    native = (64, 48)
    geometry = Geometry.letterbox(native, (64, 64), crop=crop)
    heatmap = Heatmap(np.zeros((1, 8, 8), np.float32), ("mass",), "cam", "head", geometry, origin=(0.0, 0.0))
    mask = np.zeros(native, bool)
    mask[30 : 30 + side, 13 : 13 + side] = True
    best = resolution_ceiling(heatmap, mask)
    assert best.dice == pytest.approx(overlap_counts(best.map >= best.threshold, mask).dice)
    ways = [torch.from_numpy(way) for way in geometry.weights((8, 8), (0.0, 0.0))]
    free = torch.zeros(8, 8, requires_grad=True)
    window = tuple(slice(a, b) for a, b in geometry.crop)
    target = torch.from_numpy(mask[window].astype(np.float32))
    optimiser = torch.optim.Adam([free], lr=0.3)
    found = 0.0
    for step in range(400):
        drawn = ways[0] @ free @ ways[1].T
        soft = torch.sigmoid(drawn * (1 + step / 40))
        loss = 1 - 2 * (soft * target).sum() / (soft.sum() + target.sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found = max(found, overlap_counts(drawn.detach().numpy() >= 0, mask[window]).dice)
    assert best.dice >= found - 0.01


def test_the_ceiling_of_the_native_grid_is_one():
    geometry = Geometry.letterbox((16, 12), (16, 12))
    heatmap = Heatmap(np.zeros((1, 16, 12), np.float32), ("mass",), "cam", "head", geometry)
    mask = np.random.default_rng(0).random((16, 12)) > 0.7
    assert resolution_ceiling(heatmap, mask).dice == 1
