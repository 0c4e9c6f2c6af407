"""Deletion, insertion and ROAD against numbers worked out by hand and a dense solver."""

from itertools import product

import numpy as np
import pytest
import torch

from lesioncam.errors import GeometryError, OptionError
from lesioncam.functional.faithfulness import blurred, deletion, impute, insertion, road

SIZES = [(11, 9), (7, 6, 8)]


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def total(x):
    return x.flatten(1).sum(1)


def ramp(size):
    """Two channels that grow evenly along every axis."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij")
    return torch.stack([sum((k + 1 + i) * a for i, a in enumerate(axes)) - 3 * k for k in range(2)])


def test_deletion_and_insertion_by_hand():
    image = torch.tensor([[[1.0, 4.0], [2.0, 3.0]]])
    gone = deletion(total, image, image[0], steps=4)
    assert gone.values.tolist() == [10.0, 6.0, 3.0, 1.0, 0.0]
    assert gone.area == 0.25 * (5 + 6 + 3 + 1 + 0)
    put = insertion(total, image, image[0], steps=4, start=0.0)
    assert put.values.tolist() == [0.0, 4.0, 7.0, 9.0, 10.0]
    assert put.area == 0.25 * (0 + 4 + 7 + 9 + 5)
    assert deletion(total, image, -image[0], steps=4).values.tolist() == [10.0, 9.0, 7.0, 4.0, 0.0]
    filled = deletion(total, image, image[0], steps=2, baseline=1.0)
    assert filled.values.tolist() == [10.0, 1 + 2 + 1 + 1, 4.0]


@pytest.mark.parametrize("size", SIZES)
def test_of_a_linear_model_the_true_contributions_are_the_best_map(size):
    weight, image = draw(2, *size, seed=1) - 0.5, draw(2, *size)
    score, truth = (lambda x: (x * weight).flatten(1).sum(1)), (weight * image).sum(0)
    areas = [deletion(score, image, heat, steps=20).area for heat in (truth, draw(*size, seed=2), -truth)]
    assert areas == sorted(areas)
    areas = [insertion(score, image, heat, steps=20, start=0.0).area for heat in (truth, draw(*size, seed=2), -truth)]
    assert areas == sorted(areas, reverse=True)
    ends = insertion(score, image, truth, steps=3).values
    assert ends[0] == pytest.approx(float(score(blurred(image)[None])), rel=1e-5)
    assert ends[-1] == pytest.approx(float(score(image[None])), rel=1e-5)


def test_only_the_order_of_the_map_counts_and_ties_go_to_the_lower_index():
    image, heat = draw(1, 6, 7), draw(6, 7, seed=1)
    np.testing.assert_array_equal(
        deletion(total, image, heat, steps=7).values, deletion(total, image, 5 * heat.exp() - 3, steps=7).values
    )
    tied = deletion(total, torch.tensor([[4.0, 2.0, 1.0]]), torch.tensor([1.0, 1.0, 0.0]), steps=3)
    assert tied.values.tolist() == [7.0, 3.0, 1.0, 0.0]


def test_batches_change_nothing():
    image, heat = draw(2, 6, 7), draw(6, 7, seed=1)
    sizes = []

    def score(x):
        sizes.append(len(x))
        return total(x)[:, None]

    values = deletion(score, image, heat, steps=9, batch=4).values
    assert sizes == [4, 4, 2]
    np.testing.assert_allclose(values, deletion(total, image, heat, steps=9, batch=100).values, rtol=1e-6)


@pytest.mark.parametrize("heat", [torch.zeros(6, 7), torch.full((6, 7), 3.0), torch.full((6, 7), float("nan"))])
def test_a_map_that_ranks_nothing_has_no_area(heat):
    image = draw(1, 6, 7)
    assert np.isnan(deletion(total, image, heat).area)
    assert np.isnan(insertion(total, image, heat).area)
    assert np.isnan(road(total, image, heat).gap)


@pytest.mark.parametrize("method", [deletion, insertion, road])
def test_another_grid_is_refused(method):
    with pytest.raises(GeometryError, match=r"the map is \(3, 3\) and the image \(6, 7\); resize"):
        method(total, draw(1, 6, 7), draw(3, 3))


@pytest.mark.parametrize("size", SIZES)
def test_an_even_slope_is_restored_exactly_inside(size):
    image, hole = ramp(size), torch.zeros(size, dtype=torch.bool)
    hole[tuple(slice(2, n - 2) for n in size)] = True
    broken = image.clone()
    broken[:, hole] = 999.0
    torch.testing.assert_close(impute(broken, hole, noise=0.0), image, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5), (12,)])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_imputation_equals_a_dense_solver(size, share):
    image, hole = draw(2, *size).double(), draw(*size, seed=3) < share
    hole[(0,) * len(size)] = False
    got = impute(image, hole, noise=0.0)
    places = list(np.ndindex(*size))
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), 2))
    for i, place in enumerate(places):
        if not hole[place]:
            matrix[i, i], right[i] = 1.0, image[(slice(None), *place)]
            continue
        for offset in product((-1, 0, 1), repeat=len(size)):
            other = tuple(np.add(place, offset))
            if any(offset) and other in places:
                weight = 1 / np.square(offset).sum()
                matrix[i, i] += weight
                matrix[i, places.index(other)] -= weight
    expected = np.linalg.solve(matrix, right).T.reshape(image.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


def test_in_2d_the_weights_are_those_of_the_paper():
    image = torch.zeros(1, 3, 3, dtype=torch.float64)
    image[0, 0, 0], image[0, 0, 1] = 12.0, 6.0
    hole = torch.zeros(3, 3, dtype=torch.bool)
    hole[1, 1] = True
    assert impute(image, hole, noise=0.0)[0, 1, 1].item() == pytest.approx(12 / 12 + 6 / 6)


def test_imputation_at_its_ends():
    image = draw(2, 6, 7)
    assert torch.equal(impute(image, torch.zeros(6, 7, dtype=torch.bool)), image)
    gone = impute(image, torch.ones(6, 7, dtype=torch.bool), noise=0.0)
    torch.testing.assert_close(gone, image.mean((1, 2), keepdim=True).expand_as(image))


def test_noise_is_seeded_scaled_by_the_range_and_stays_in_the_hole():
    image, hole = 10 * draw(1, 60, 60), draw(60, 60, seed=1) < 0.5
    clean, noisy = impute(image, hole, noise=0.0), impute(image, hole, noise=0.05)
    assert torch.equal(noisy[:, ~hole], image[:, ~hole])
    spread = 0.05 * (image.max() - image.min())
    assert (noisy - clean)[:, hole].std().item() == pytest.approx(spread.item(), rel=0.05)
    assert torch.equal(noisy, impute(image, hole, noise=0.05))
    assert not torch.equal(noisy, impute(image, hole, noise=0.05, generator=torch.Generator().manual_seed(7)))


def test_road_tells_a_true_map_from_a_random_and_a_reversed_one():
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    blob = (-((rows - 8) ** 2 + (columns - 12) ** 2) / 8).exp()
    image = (blob + 0.05 * draw(24, 20))[None]
    score = lambda x: (x[:, 0] * blob).flatten(1).sum(1)  # noqa: E731
    gaps = [road(score, image, heat).gap for heat in (blob, draw(24, 20, seed=4), -blob)]
    assert gaps[0] > 1.0
    assert abs(gaps[1]) < gaps[0] / 2
    assert gaps[2] == pytest.approx(-gaps[0], rel=0.05)


def test_road_takes_shares_inside_the_image_only():
    with pytest.raises(OptionError, match=r"inside \(0, 1\)"):
        road(total, draw(1, 6, 7), draw(6, 7), shares=(0.5, 1.0))
