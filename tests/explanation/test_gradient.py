"""Gradient maps against closed forms; modes, batches and errors."""

import pytest
import torch
from torch import nn

from lesioncam.errors import ModelError, OptionError
from lesioncam.explanation.gradient import (
    IntegratedGradients,
    SmoothGrad,
    completeness_error,
    integrated_gradients,
    smoothgrad,
)

SIZES = [(12, 9), (6, 8, 5)]
RULES = ["gauss", "midpoint", "trapezoid"]


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear(weight):
    return lambda x: x.flatten(1) @ weight.flatten(1).T + 0.3


def relu_net(axes, *, smooth=False):
    torch.manual_seed(3)
    conv = (nn.Conv2d, nn.Conv3d)[axes - 2]
    pool = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 2]
    act = nn.Softplus if smooth else lambda: nn.ReLU(inplace=True)
    layers = conv(2, 8, 3, padding=1), act(), conv(8, 8, 3, padding=1), act(), pool(1), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", [0.0, 0.4, "mean", "tensor"])
def test_integrated_gradients_of_a_linear_model(size, rule, baseline):
    weight, images = draw(3, 2, *size, seed=1) - 0.5, draw(2, 2, *size)
    value = {"mean": None, "tensor": draw(1, 2, *size, seed=9)}.get(baseline, baseline)
    start = {
        "mean": images.mean(tuple(range(2, images.ndim)), keepdim=True),
        "tensor": value,
    }.get(baseline, torch.tensor(0.0 if isinstance(baseline, str) else baseline))
    maps = integrated_gradients(linear(weight), images, None, IntegratedGradients(steps=5, rule=rule, baseline=value))
    expected = torch.einsum("kc...,nc...->nk...", weight, images - start)
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rule", "steps", "degree"), [("gauss", 4, 7), ("midpoint", 1, 1), ("trapezoid", 2, 1)])
def test_rules_are_exact_up_to_their_degree(rule, steps, degree):
    """The integral of the derivative of ``x ** (degree + 1)`` from 0 is that power."""
    image = draw(1, 1, 6) + 0.5
    options = IntegratedGradients(steps=steps, rule=rule)
    maps = integrated_gradients(lambda x: (x ** (degree + 1)).sum(2), image, None, options)
    torch.testing.assert_close(maps, image ** (degree + 1), rtol=2e-6, atol=0)
    beyond = integrated_gradients(lambda x: (x ** (degree + 2)).sum(2), image, None, options)
    assert not torch.allclose(beyond, image ** (degree + 2), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_sum_to_the_difference_of_the_scores(size, rule):
    net, images = relu_net(len(size)), draw(2, 2, *size)
    options = IntegratedGradients(steps=200, rule=rule)
    maps = integrated_gradients(net, images, None, options)
    with torch.no_grad():
        expected = net(images) - net(torch.zeros_like(images))
    torch.testing.assert_close(maps.flatten(2).sum(2), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(
        completeness_error(net, images, None, maps, options), maps.flatten(2).sum(2) - expected, rtol=0, atol=1e-6
    )


def test_integrated_gradients_of_a_smooth_net_are_complete_to_rounding():
    net, images, classes = relu_net(2, smooth=True), draw(2, 2, 12, 9), torch.tensor([1, 2])
    options = IntegratedGradients(tolerance=1e-5)
    maps = integrated_gradients(net, images, classes, options)
    assert completeness_error(net, images, classes, maps, options).abs().max() < 1e-5


def test_a_map_that_is_not_complete_is_refused_when_asked():
    cube = lambda x: (x**3).flatten(1).sum(1, keepdim=True)  # noqa: E731
    with pytest.raises(ModelError, match=r"misses the difference of the scores by 2\.25 logits.*more than 1 steps"):
        integrated_gradients(
            cube, torch.tensor([[[1.0, 2.0]]]), None, IntegratedGradients(steps=1, rule="midpoint", tolerance=0.1)
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("noise", [0.0, 0.15, 3.0])
def test_smoothgrad_of_a_linear_model_is_its_weight(size, noise):
    weight, images = draw(3, 2, *size, seed=1) - 0.5, draw(2, 2, *size)
    maps = smoothgrad(linear(weight), images, None, SmoothGrad(samples=7, noise=noise))
    torch.testing.assert_close(maps, weight.sum(1).expand(2, 3, *size), rtol=1e-6, atol=1e-6)
    squared = smoothgrad(linear(weight), images, None, SmoothGrad(samples=7, noise=noise, variant="squared"))
    torch.testing.assert_close(squared, weight.square().sum(1).expand(2, 3, *size), rtol=1e-6, atol=1e-6)


def test_smoothgrad_of_a_square_has_the_noise_asked_for():
    """The gradient of x^2 is 2 (x + e): its mean is 2x, the mean of its square 4 (x^2 + sigma^2)."""
    image = torch.linspace(1.0, 3.0, 50).view(1, 1, 50)
    square = lambda x: (x**2).sum(2)  # noqa: E731
    maps = smoothgrad(square, image, None, SmoothGrad(samples=4000, noise=0.25))  # sigma = 0.25 * (3 - 1) = 1/2
    torch.testing.assert_close(maps, 2 * image, rtol=0, atol=0.08)
    squared = smoothgrad(square, image, None, SmoothGrad(samples=4000, noise=0.25, variant="squared"))
    torch.testing.assert_close(squared, 4 * (image**2 + 0.25), rtol=0.06, atol=0)
    exact = smoothgrad(square, image, None, SmoothGrad(samples=1, noise=0.0))
    torch.testing.assert_close(exact, 2 * image)


def test_smoothgrad_follows_its_seed_whatever_the_batches_and_leaves_the_global_generator_alone():
    net, images = relu_net(2), draw(2, 2, 12, 9)
    state = torch.get_rng_state()
    first = smoothgrad(net, images, None, SmoothGrad(samples=9, seed=1))
    torch.testing.assert_close(smoothgrad(net, images, None, SmoothGrad(samples=9, seed=1, memory=1)), first)
    given = SmoothGrad(samples=9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(smoothgrad(net, images, None, given), first)
    assert not torch.allclose(smoothgrad(net, images, None, SmoothGrad(samples=9, seed=2)), first)
    assert torch.equal(torch.get_rng_state(), state)


def ask(method, net, images, classes, **more):
    if method == "integrated_gradients":
        return integrated_gradients(net, images, classes, IntegratedGradients(steps=6, **more))
    return smoothgrad(net, images, classes, SmoothGrad(samples=6, **more))


METHODS = ["integrated_gradients", "smoothgrad"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_images_one_by_one_and_classes_are_columns(method, size):
    net, images, classes = relu_net(len(size)), draw(3, 2, *size), torch.tensor([2, 0, 1])
    every = ask(method, net, images, None)
    chosen = ask(method, net, images, classes)
    assert every.shape == (3, 3, *size)
    assert chosen.shape == (3, 1, *size)
    for n in range(3):
        torch.testing.assert_close(every[n : n + 1], ask(method, net, images[n : n + 1], None), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(chosen[n, 0], every[n, classes[n]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ask(method, net, images, None, memory=1), every, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_come_under_any_mode_and_touch_no_parameter(method, around, frozen):
    net, images, classes = relu_net(2).requires_grad_(not frozen), draw(2, 2, 12, 9), torch.tensor([2, 0])
    expected = ask(method, net, images, classes)
    with around():
        maps = ask(method, net, images.clone(), classes.clone())
    torch.testing.assert_close(maps, expected)
    assert not maps.requires_grad
    assert not maps.is_inference()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_images_that_carry_a_graph_keep_it_to_themselves(method):
    net, images = relu_net(2), draw(1, 2, 12, 9).requires_grad_()
    maps = ask(method, net, images, None)
    assert not maps.requires_grad
    assert images.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_a_half_precision_model_gives_float32_maps(method):
    net, images = relu_net(2, smooth=True), draw(2, 2, 12, 9)
    expected = ask(method, net, images, None)
    maps = ask(method, net.bfloat16(), images.bfloat16(), None)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=0, atol=3e-2 * expected.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_under_autocast_maps_stay_near(method):
    net, images = relu_net(2, smooth=True), draw(2, 2, 12, 9)
    expected = ask(method, net, images, None)
    with torch.autocast("cpu", torch.bfloat16):
        maps = ask(method, net, images, None)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=0, atol=3e-2 * expected.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_a_score_without_gradient_is_named(method):
    with pytest.raises(ModelError, match="no gradient at the image.*occlusion or rise"):
        ask(method, lambda x: x.detach().flatten(1), draw(1, 1, 3, 3), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(rule="simpson"), "Unknown rule 'simpson'; choose one of gauss, midpoint"),
        (lambda: IntegratedGradients(steps=0), "too few"),
        (lambda: IntegratedGradients(steps=1, rule="trapezoid"), "too few for trapezoid"),
        (lambda: SmoothGrad(variant="var"), "Unknown variant 'var'"),
        (lambda: SmoothGrad(samples=0), "at least one sample"),
        (lambda: SmoothGrad(noise=-1.0), "noise >= 0"),
    ],
)
def test_options_that_make_no_sense(make, message):
    with pytest.raises(OptionError, match=message):
        make()
