"""Perturbation maps against closed forms and slow loops; batches, budgets and what they cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lesioncam.errors import OptionError
from lesioncam.explanation.budget import in_batches
from lesioncam.explanation.explain import explain
from lesioncam.explanation.perturbation import Occlusion, Rise, ScoreCam, occlusion, rise, scorecam

SIZES = [(12, 9), (6, 8, 5)]


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def small_net(axes, classes=3):
    torch.manual_seed(3)
    conv = (nn.Conv2d, nn.Conv3d)[axes - 2]
    pool = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 2]
    layers = conv(2, 5, 3, stride=2, padding=1), nn.ReLU(), conv(5, classes, 1), pool(1), nn.Flatten()
    return nn.Sequential(*layers).eval()


def linear(weight):
    """Scores ``(M, K)`` of a linear model with weights ``(K, C, *S)``."""
    return lambda x: x.flatten(1) @ weight.flatten(1).T


# Score-CAM


def slow_scorecam(net, image, cells, k, temperature, *, probability=False):
    """One channel, one image, one class at a time, written from the paper."""
    scores, used = [], []
    for channel in cells:
        mode = {2: "bilinear", 3: "trilinear"}[channel.ndim]
        mask = F.interpolate(channel[None, None], image.shape[1:], mode=mode, align_corners=False)[0, 0]
        if channel.max() == channel.min():
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        with torch.no_grad():
            value = net((image * mask)[None])[0, k] - net(torch.zeros_like(image)[None])[0, k]
        if probability:
            with torch.no_grad():
                value = net((image * mask)[None])[0, k].sigmoid()
        scores.append(value / temperature)
        used.append(channel)
    return sum(w * a for w, a in zip(torch.stack(scores).softmax(0), used, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("temperature", "kind"), [(1.0, "logit"), (0.05, "logit"), (0.1, "probability")])
def test_scorecam_equals_a_slow_loop(size, temperature, kind):
    net, images = small_net(len(size)), draw(2, 2, *size)
    with torch.no_grad():
        cells = net[1](net[0](images)) - 0.1
    cells[:, 2] = 0.7  # a flat channel: the loop and we skip it
    got = scorecam(net, images, cells, None, ScoreCam(temperature=temperature, score=kind, memory=20_000))
    for n in range(2):
        for k in range(3):
            expected = slow_scorecam(net, images[n], cells[n], k, temperature, probability=kind == "probability")
            torch.testing.assert_close(got[n, k], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -3.3, 1e6, 0.0])
def test_scorecam_skips_channels_that_are_flat_but_for_rounding(value):
    cells = torch.full((1, 3, 7, 7), value) * (1 + 1e-8 * draw(1, 3, 7, 7))
    maps = scorecam(small_net(2), draw(1, 2, 12, 9), cells, None, ScoreCam())
    assert maps.shape == (1, 3, 7, 7)
    assert torch.equal(maps, torch.zeros_like(maps))


def test_scorecam_of_a_flat_image_beside_another_one():
    net, images = small_net(2), draw(2, 2, 12, 9)
    cells = draw(2, 4, 6, 5, seed=1)
    cells[0] = 2.0
    maps = scorecam(net, images, cells, torch.tensor([0, 2]), ScoreCam())
    assert torch.equal(maps[0], torch.zeros(1, 6, 5))
    torch.testing.assert_close(maps[1:], scorecam(net, images[1:], cells[1:], torch.tensor([2]), ScoreCam()))


def test_scorecam_a_channel_with_an_infinity_is_skipped():
    cells = draw(1, 4, 6, 5)
    cells[0, 1, 0, 0] = math.inf
    clean = cells.clone()
    clean[0, 1] = 0.0
    asked = small_net(2), draw(1, 2, 12, 9)
    torch.testing.assert_close(scorecam(*asked, cells, None, ScoreCam()), scorecam(*asked, clean, None, ScoreCam()))


def test_scorecam_temperature_runs_from_the_best_channel_to_the_mean():
    net, images, cells = small_net(2), draw(1, 2, 12, 9), draw(1, 4, 6, 5)
    hot = scorecam(net, images, cells, None, ScoreCam(temperature=1e6))
    torch.testing.assert_close(hot, cells.mean(1, keepdim=True).expand(1, 3, 6, 5), rtol=1e-4, atol=1e-5)
    cold = scorecam(net, images, cells, None, ScoreCam(temperature=1e-6))
    assert all(any(torch.allclose(cold[0, k], channel) for channel in cells[0]) for k in range(3))


def test_scorecam_all_classes_cost_no_more_passes_than_one():
    seen = []
    net = small_net(2)

    def counted(x):
        seen.append(len(x))
        return net(x)

    images, cells = draw(2, 2, 12, 9), draw(2, 8, 6, 5)
    scorecam(counted, images, cells, None, ScoreCam())
    assert sum(seen) == 16
    seen.clear()
    scorecam(counted, images, cells, torch.tensor([0, 1]), ScoreCam())
    assert sum(seen) == 16


# Occlusion


@pytest.mark.parametrize("size", SIZES)
def test_occlusion_of_a_linear_model_is_weight_times_image(size):
    weight, images = draw(3, 2, *size, seed=1) - 0.5, draw(2, 2, *size)
    maps = occlusion(linear(weight), images, None, Occlusion(patch=1, baseline=0.0))
    torch.testing.assert_close(maps, torch.einsum("kc...,nc...->nk...", weight, images), rtol=0, atol=2e-5)


def slow_occlusion(score, image, k, patch, stride, value):
    total, count = torch.zeros(image.shape[1:]), torch.zeros(image.shape[1:])
    sides = image.shape[1:]
    starts = [[*range(0, side - p, s), side - p] for side, p, s in zip(sides, patch, stride, strict=True)]
    for corner in torch.cartesian_prod(*[torch.tensor(each) for each in starts]).tolist():
        window = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        other = image.clone()
        other[(slice(None), *window)] = value[(slice(None), *window)]
        with torch.no_grad():
            total[window] += score(image[None])[0, k] - score(other[None])[0, k]
        count[window] += 1
    assert count.min() >= 1
    return total / count


@pytest.mark.parametrize(
    ("size", "patch", "stride"),
    [((12, 9), None, None), ((12, 9), (5, 4), (3, 2)), ((6, 8, 5), 3, 2), ((17, 33), None, None), ((4, 4), 4, 1)],
)
@pytest.mark.parametrize("baseline", [None, 0.25])
def test_occlusion_equals_a_slow_loop(size, patch, stride, baseline):
    net, images = small_net(len(size)), draw(2, 2, *size)
    got = occlusion(net, images, None, Occlusion(patch=patch, stride=stride, baseline=baseline, memory=50_000))
    sides = (
        [max(1, round(n / 8)) for n in size]
        if patch is None
        else patch
        if not isinstance(patch, int)
        else [patch] * len(size)
    )
    steps = (
        [max(1, p // 2) for p in sides]
        if stride is None
        else stride
        if not isinstance(stride, int)
        else [stride] * len(size)
    )
    for n, image in enumerate(images):
        mean = image.flatten(1).mean(1).view(-1, *[1] * len(size))
        value = (mean if baseline is None else torch.tensor(baseline)).expand_as(image)
        for k in (0, 2):
            expected = slow_occlusion(net, image, k, sides, steps, value)
            torch.testing.assert_close(got[n, k], expected, rtol=0, atol=1e-6)


def test_occlusion_finds_a_drawn_blob():
    image = torch.zeros(1, 1, 32, 24)
    image[0, 0, 20:24, 4:8] = 1.0
    maps = occlusion(
        lambda x: x.flatten(1).amax(1, keepdim=True), image, None, Occlusion(patch=4, stride=1, baseline=0.0)
    )
    assert maps[0, 0].flatten().argmax().item() // 24 in range(20, 24)
    assert maps[0, 0, :16].abs().max() == 0
    assert maps[0, 0, 20:24, 4:8].max() == pytest.approx(1 / 16)  # of the 16 windows over a pixel, one hides it all


def test_occlusion_with_a_tensor_as_baseline():
    image, other = draw(1, 2, 6, 6), draw(1, 2, 6, 6, seed=5)
    weight = draw(1, 2, 6, 6, seed=6)
    maps = occlusion(linear(weight), image, None, Occlusion(patch=1, baseline=other))
    torch.testing.assert_close(maps, (weight * (image - other)).sum(1, keepdim=True), rtol=0, atol=1e-5)
    with pytest.raises(OptionError, match=r"baseline is \(3,\).*give a number"):
        occlusion(linear(weight), image, None, Occlusion(baseline=torch.zeros(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 9}, "does not cover a side of 6"),
        ({"patch": 2, "stride": 3}, "stride <= patch"),
        ({"patch": (1, 1, 1)}, "one per axis"),
    ],
)
def test_occlusion_says_what_does_not_fit(options, message):
    with pytest.raises(OptionError, match=message):
        occlusion(linear(draw(1, 1, 6, 6)), draw(1, 1, 6, 6), None, Occlusion(**options))


# RISE


def spline(distance):
    """Autocorrelation of linear interpolation under a uniform shift: the cubic B-spline."""
    d = distance.abs()
    return torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, (2 - d).clamp(min=0) ** 3 / 6)


def expected_rise(weight, image, cells, keep):
    """``keep * f(image) + (1 - keep) * sum_y w(y) image(y) rho(x - y)`` with rho a product of cubic B-splines."""
    total = (weight * image).sum(0)
    smooth = total
    for axis, side in enumerate(total.shape):
        place = (torch.arange(side) + 0.5) * cells / side
        smooth = torch.tensordot(smooth.movedim(axis, -1), spline(place[:, None] - place), dims=1).movedim(-1, axis)
    return keep * total.sum() + (1 - keep) * smooth


@pytest.mark.parametrize(("size", "cells", "keep"), [((10, 8), 4, 0.5), ((10, 8), 4, 0.3), ((6, 5, 4), 3, 0.5)])
def test_rise_of_a_linear_model_converges_to_its_closed_form(size, cells, keep):
    weight, images = draw(1, 1, *size, seed=1) - 0.5, draw(1, 1, *size)
    expected = expected_rise(weight[0], images[0], cells, keep)
    errors = []
    for masks in (1000, 64_000):
        maps = rise(linear(weight), images, None, Rise(masks=masks, cells=cells, keep=keep, seed=4))
        errors.append(((maps[0, 0] - expected).norm() / expected.norm()).item())
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 3
    centred = rise(linear(weight), images, None, Rise(masks=64_000, cells=cells, keep=keep, seed=4, centred=True))
    constant = keep * (weight * images).sum()
    torch.testing.assert_close(
        centred[0, 0], expected - constant, rtol=0, atol=0.05 * (expected - constant).abs().max().item()
    )


@pytest.mark.parametrize("size", [(16, 16), (7, 21)])
def test_rise_masks_are_alike_everywhere_borders_too(size):
    seen = []

    def watch(x):
        seen.append(x.clone())
        return x.flatten(1).mean(1, keepdim=True)

    rise(watch, torch.ones(1, 1, *size), None, Rise(masks=40_000, cells=4, keep=0.4))
    masks = torch.cat(seen)[:, 0]
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert (masks.mean(0) - 0.4).abs().max() < 0.01  # five standard errors are 0.008
    variance = 0.4 * 0.6 * (2 / 3) ** 2
    torch.testing.assert_close(masks.var(0), torch.full(size, variance), rtol=0.06, atol=0)


def test_rise_of_a_constant_score_is_that_score_and_nothing_when_centred():
    maps = rise(lambda x: torch.full((len(x), 1), 2.0), draw(1, 1, 9, 9), None, Rise(masks=5000))
    torch.testing.assert_close(maps, torch.full_like(maps, 2.0), rtol=0.05, atol=0)
    maps = rise(lambda x: torch.full((len(x), 1), 2.0), draw(1, 1, 9, 9), None, Rise(masks=100, centred=True))
    assert maps.abs().max() < 1e-6


def test_rise_follows_its_seed_or_its_generator_and_leaves_the_global_one_alone():
    net, images = small_net(2), draw(1, 2, 12, 9)
    state = torch.get_rng_state()
    first, again = (rise(net, images, None, Rise(masks=20, seed=1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, rise(net, images, None, Rise(masks=20, seed=2)))
    given = rise(net, images, None, Rise(masks=20, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(first, given)
    assert torch.equal(torch.get_rng_state(), state)


# All three


def ask(method, net, images, classes, **more):
    if method == "scorecam":
        return scorecam(net, images, net[1](net[0](images)), classes, ScoreCam(**more))
    if method == "occlusion":
        return occlusion(net, images, classes, Occlusion(**more))
    return rise(net, images, classes, Rise(masks=37, **more))


METHODS = ["scorecam", "occlusion", "rise"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_one_by_one_and_classes_are_columns(method, size):
    net, images, classes = small_net(len(size)), draw(3, 2, *size), torch.tensor([2, 0, 1])
    every = ask(method, net, images, None)
    chosen = ask(method, net, images, classes)
    assert chosen.shape[:2] == (3, 1)
    for n in range(3):
        torch.testing.assert_close(every[n : n + 1], ask(method, net, images[n : n + 1], None), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(chosen[n, 0], every[n, classes[n]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_budget_changes_nothing(method):
    net, images = small_net(2), draw(2, 2, 12, 9)
    torch.testing.assert_close(
        ask(method, net, images, None, memory=1), ask(method, net, images, None), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(OptionError, match="memory must be a positive number"):
        ask(method, net, images, None, memory=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_plain_tensor_comes_back_under_any_mode(method, around):
    net, images = small_net(2), draw(1, 2, 12, 9)
    expected = ask(method, net, images, None)
    with around():
        maps = ask(method, net, images.clone(), None)
    torch.testing.assert_close(maps, expected)
    assert not maps.requires_grad
    assert not expected.is_inference()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_half_precision_model_gives_float32_maps(method):
    net, images = small_net(2), draw(2, 2, 12, 9)
    expected = ask(method, net, images, None, score="probability")
    half = nn.Sequential(*net).bfloat16()
    maps = ask(method, half, images.bfloat16(), None, score="probability")
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=0, atol=2e-2 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("method", METHODS)
def test_autocast_is_for_the_network_only(method):
    """The score here is no matrix product, so autocast may change nothing."""
    weight, images, cells = draw(2, 12, 9) - 0.5, draw(2, 2, 12, 9), draw(2, 4, 6, 5)

    def score(x):
        return (x * weight).flatten(1).sum(1, keepdim=True)

    def run():
        if method == "scorecam":
            return scorecam(score, images, cells, None, ScoreCam())
        return (
            occlusion(score, images, None, Occlusion())
            if method == "occlusion"
            else rise(score, images, None, Rise(masks=50))
        )

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        maps = run()
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_under_autocast_stays_near(method):
    net, images = small_net(2), draw(2, 2, 12, 9)
    with torch.no_grad():
        expected = ask(method, net, images, None, score="probability")
        with torch.autocast("cpu", torch.bfloat16):
            maps = ask(method, net, images, None, score="probability")
    torch.testing.assert_close(maps, expected, rtol=0, atol=2e-2 * max(1.0, expected.abs().max().item()))


@pytest.mark.parametrize("options", [ScoreCam, Occlusion, Rise])
def test_an_unknown_score_is_named(options):
    with pytest.raises(OptionError, match="Unknown score 'softmax'"):
        options(score="softmax")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreCam(temperature=0.0), "temperature must be positive"),
        (lambda: Rise(keep=1.0), r"inside \(0, 1\)"),
        (lambda: Rise(masks=0), "at least one mask"),
    ],
)
def test_options_that_make_no_sense(make, message):
    with pytest.raises(OptionError, match=message):
        make()


# The budget


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_an_input_costs_is_the_bytes_alive_at_once(mode):
    """Per input 4 kB of values, which live beside their exponentials: 8 kB, and twice that with slack."""
    sizes = []

    def work(start, stop):
        sizes.append(stop - start)
        values = torch.ones(stop - start, 1000)
        for _ in range(5):
            values = values.exp()  # the one before is let go: never more than two at once
        return values.view(-1)[:1].sum()

    with mode():
        list(in_batches(31, work, memory=16_100 * 3))
    assert sizes == [1] + 10 * [3]


def test_what_is_kept_for_the_backward_pass_counts():
    sizes = []

    def work(start, stop):
        sizes.append(stop - start)
        values = torch.ones(stop - start, 1000, requires_grad=True)
        for_later = values
        for _ in range(5):
            for_later = for_later.exp()  # each output is kept
        return torch.autograd.grad(for_later.sum(), values)[0].sum()

    with torch.enable_grad():
        list(in_batches(31, work, memory=2 * 32_000 * 3))
    assert max(sizes) <= 3  # values, five outputs and two gradients of 4 kB are alive at once


@pytest.mark.parametrize(("spare", "batches"), [(4.2e6, [1, 4, 4]), (1.7e6, [1, 3, 3, 2]), (0.0, [1, 2, 2, 2, 2])])
def test_weights_are_set_aside_once_up_to_half_of_the_budget(spare, batches):
    """Weights of 4 MB, and 0.4 MB for each input, twice over: the budget is that of four inputs and something."""
    layer, sizes = nn.Linear(10, 100_000), []

    def work(start, stop):
        sizes.append(stop - start)
        return (torch.ones(stop - start, 10) @ layer.weight.detach().t()).sum()

    list(in_batches(9, work, memory=2 * 4 * 101_000 * 4 + int(spare)))
    assert sizes == batches


def test_no_input_is_no_work():
    assert list(in_batches(0, lambda start, stop: 1 / 0, memory=1)) == []


class Viewing(nn.Module):
    """A network that flattens with view(), which images with their channels last do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 2)

    def forward(self, images):
        features = self.conv(images).relu()
        return self.head(features.view(len(features), -1))


@pytest.mark.parametrize("method", ["scorecam", "occlusion", "rise"])
def test_a_network_that_views_its_features_is_explained_all_the_same(method):
    torch.manual_seed(0)
    net, images = Viewing().eval(), torch.rand(2, 3, 6, 6)
    with pytest.raises(RuntimeError, match="view"):
        net(images.contiguous(memory_format=torch.channels_last))
    options = {"scorecam": {"layer": "conv"}, "occlusion": {"patch": 2}, "rise": {"masks": 20}}[method]
    found = explain(net, images, method, **options)
    net.forward = lambda x: net.head(net.conv(x).relu().flatten(1))  # the same network, any layout
    torch.testing.assert_close(found.raw, explain(net, images, method, **options).raw, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.scores, net(images).detach())


def test_an_error_of_the_network_itself_is_not_hidden():
    class Broken(Viewing):
        def forward(self, images):
            if len(images) == 1 and images.is_contiguous(memory_format=torch.channels_last):
                raise RuntimeError("out of luck")
            return super().forward(images)

    with pytest.raises(RuntimeError, match="out of luck"):
        explain(Broken().eval(), torch.rand(1, 3, 6, 6), "occlusion", patch=2)
