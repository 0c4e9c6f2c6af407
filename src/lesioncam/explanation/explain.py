"""Heat maps of any network, by any method: one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lesioncam.errors import ImageError, ModelError, OptionError
from lesioncam.explanation.capture import (
    LayerPass,
    NoPoolingError,
    Target,
    output_of,
    quiet,
    ready,
    run_to_layer,
    scores_of,
)
from lesioncam.explanation.layers import LayerPlace, named
from lesioncam.explanation.twin import private
from lesioncam.functional.cam import FORMULAS, class_maps, eigencam
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import Classifier
from lesioncam.models.layout import channels_last
from lesioncam.types import ClassifierOutput, Heatmaps

_CHUNK, _ELEMENTS = 16, 2**26
"""Classes whose gradients are held at once: so many, and so many numbers (256 MB), whichever is less."""
_FINE, _COARSE = 1e-4, 3e-2
"""How far the mean of a class map may miss the logit, relative to its terms: in float32, in half precision."""

T = TypeVar("T")


@dataclass(frozen=True)
class MapRequest:
    """What a method is asked for.

    Attributes:
        layer: name or module; None: found.
        classes: ``(N,)``, one class per image, or None for all.
        target: from the model's output to scores.
        options: of the method, by name.
    """

    layer: str | nn.Module | None = None
    classes: Tensor | None = None
    target: Target | None = None
    options: Mapping[str, object] | None = None


@dataclass(frozen=True)
class NoOptions:
    """Methods that are a formula have none."""


def explain(
    model: nn.Module,
    images: Tensor,
    method: str = "gradcam",
    layer: str | nn.Module | None = None,
    classes: int | Sequence[int] | np.ndarray | Tensor | None = None,
    *,
    target: Target | None = None,
    **options: object,
) -> Heatmaps:
    """Where in each image the evidence for each class lies.

    The model is left as it was found, whatever state it is in: in training, frozen, in half precision, compiled,
    wrapped, shared with other threads; and so is the caller's: this may be called under ``no_grad``,
    ``inference_mode``, autocast, or between forward and backward of a training step.

    Args:
        model: any network from prepared images to logits, 2D or 3D.
        images: ``(N, C, *S)`` float, prepared as the network wants them.
        method: one of :data:`MAP_METHODS`.
        layer: where maps are taken: a dotted name, ``input of NAME`` or a module. None takes the last place that has a
            grid; the result says which. ``cam`` and the methods over pixels take none.
        classes: one class for all images (int) or one per image; None gives all K.
        target: from the model's output to scores ``(N, K)``, for models that give more than a tensor.
        **options: of the method, see its options type (``ScoreCam``, ``Occlusion``, ``Rise`` ...).

    Returns:
        Raw signed maps ``(N, K, *s)``, or ``(N, 1, *s)`` with ``classes``.

    Raises:
        OptionError: for an unknown method, layer, option or class.
        ImageError: if there are no images, or they hold values that are not finite.
        ModelError: if this network does not allow it; the sentence says why and what does.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.rand(3, 1, 8, 10)
        >>> maps = explain(net, images, classes=[0, 1, 1])
        >>> maps.raw.shape, maps.native().shape, maps.layer
        (torch.Size([3, 1, 6, 8]), torch.Size([3, 1, 8, 10]), 'input of 2')
        >>> cam = explain(net, images, "cam")                               # mean of the map = logit
        >>> bool(torch.allclose(cam.raw.mean((2, 3)), net(images), atol=1e-6))
        True
    """
    run = find(method, MAP_METHODS, "map method")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model must be a torch.nn.Module, got a {type(model).__name__}.")
    _check_images(images)
    with quiet(images):
        chosen = _one_each(classes, images)
        return run(model, images, MapRequest(layer, chosen, target, options))


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point() or not 3 <= images.ndim <= 5:
        found = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise ImageError(f"images must be one float tensor (N, C, *S), prepared for the network; got {found}.")
    if images.numel() == 0:
        raise ImageError(f"the batch is empty: {tuple(images.shape)}.")
    if bool(torch.isfinite(images.detach().sum())):  # a sum is finite only if all its terms are
        return
    finite = torch.isfinite(images).flatten(1).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ImageError(
            f"image {', '.join(map(str, bad))} of the batch holds NaN or infinity; repair it before it is explained."
        )


def _one_each(classes: int | Sequence[int] | np.ndarray | Tensor | None, images: Tensor) -> Tensor | None:
    """One class per image ``(N,)``, long; whether it exists is known when the scores are."""
    if classes is None:
        return None
    try:
        given = torch.as_tensor(classes if isinstance(classes, Tensor) else np.asarray(classes)).detach().clone()
    except (TypeError, ValueError) as error:
        raise OptionError(f"classes must be whole numbers, one or one per image; got {classes!r}.") from error
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise OptionError(f"classes must be whole numbers, one or one per image; got {given.dtype}.")
    if given.ndim == 0:
        given = given.expand(len(images))
    if tuple(given.shape) != (len(images),):
        raise OptionError(f"classes must be one number or one per image; got {tuple(given.shape)} for {len(images)}.")
    return given.to(images.device, torch.long).contiguous()


def _picked(scores: Tensor, classes: Tensor | None) -> Tensor:
    """The scores that are explained, float32: all, or those of one class per image.

    Raises:
        OptionError: if there is no such class.
    """
    scores = scores.detach().float()
    if classes is None:
        return scores
    count = scores.shape[1]
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise OptionError(f"class {int(outside[0])} does not exist: this model has {count}, numbered 0 to {count - 1}.")
    return scores.gather(1, classes[:, None])


def _of_classes(maps: Tensor, classes: Tensor | None) -> Tensor:
    """Of maps of all classes, the one of each image."""
    return maps if classes is None else maps[torch.arange(len(maps), device=maps.device), classes][:, None]


def _by_formula(method: str, model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    """Grad-CAM and its kin: one forward pass, and one short backward pass per class."""
    _options(method, NoOptions, asked)
    cut = run_to_layer(model, images, asked.layer, asked.target)
    scores, activations = _picked(cut.scores, asked.classes), cut.activations
    if FORMULAS[method] is eigencam:
        unused = activations.new_zeros(1).expand(len(images), scores.shape[1], *activations.shape[1:])
        raw = eigencam(activations, unused)
    else:
        chunk = max(1, min(_CHUNK, _ELEMENTS // activations.numel()))
        parts = _chunks(cut.gradients(asked.classes), chunk)
        raw = torch.cat([FORMULAS[method](activations, part) for part in parts], 1)
    return _result(method, raw, scores, images, asked, layer=cut.layer, origin=_origin(model, cut.layer))


def _chunks(gradients: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Gradients ``(N, C, *s)`` of one class after another as ``(N, k, C, *s)``."""
    held: list[Tensor] = []
    for gradient in gradients:
        held.append(gradient)
        if len(held) == size:
            yield torch.stack(held, 1)
            held = []
    if held:
        yield torch.stack(held, 1)


def _cam(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    """Class maps that come with the logits, checked: their mean (or our own pooling) must give the logits."""
    _options("cam", NoOptions, asked)
    if asked.layer is not None:
        raise OptionError("cam is taken where the network pools, and nowhere else; leave layer=None.")
    own = next((name for name, part in named(model) if isinstance(part, Classifier)), None)
    if own is not None:
        return _own_cam(private(model), own, images, asked)
    try:
        cut = run_to_layer(model, images, None, asked.target, place=LayerPlace())
    except NoPoolingError as error:
        raise _no_cam("it does not end in the pooling of a grid") from error
    count, features = cut.scores.shape[1], cut.activations
    if cut.head is not None and cut.head.weight.shape[:2] == (count, features.shape[1]):
        weight = cut.head.weight.detach().float().flatten(1)
        bias = None if cut.head.bias is None else cut.head.bias.detach().float()
        maps, size = class_maps(features, weight, bias), class_maps(features.abs(), weight.abs())
    elif cut.head is None and cut.direct and features.shape[1] == count:
        maps, size = features, features.abs()
    else:
        raise _no_cam(f"behind {cut.layer} there is no single linear layer or 1x1 convolution")
    _check_identity(maps.flatten(2).mean(-1), size.flatten(2).mean(-1), cut)
    scores = _picked(cut.scores, asked.classes)
    return _result("cam", _of_classes(maps, asked.classes), scores, images, asked, layer=cut.layer)


def _own_cam(twin: nn.Module, name: str, images: Tensor, asked: MapRequest) -> Heatmaps:
    """The class maps of our own head, or what its attention made of them; checked by pooling the class maps."""
    output, inner = output_of(twin, name, images)
    if not isinstance(inner, ClassifierOutput) or inner.features is None:
        raise _no_cam("the classifier inside gives no class maps")
    scores = scores_of(output, asked.target)
    owner = twin.get_submodule(name)
    assert isinstance(owner, Classifier)
    pooled = owner.pool(inner.class_maps, inner.features, inner.valid)
    if scores.shape != pooled.shape or not torch.allclose(pooled, scores.to(pooled.dtype), rtol=_FINE, atol=_FINE):
        raise _no_cam("the pooled class maps are not these scores")
    picked = _picked(scores, asked.classes)
    head = f"{name}.head" if name else "head"
    maps = _of_classes(inner.maps.float(), asked.classes)
    return _result("cam", maps, picked, images, asked, layer=head, origin=_origin(twin, head))


def _check_identity(means: Tensor, size: Tensor, cut: LayerPass) -> None:
    """Refuse maps whose mean is not the logit."""
    half = torch.finfo(cut.scores.dtype).bits < 32 or torch.finfo(cut.leaf.dtype).bits < 32
    off = float((means - cut.scores.detach().float()).abs().max())
    if not off <= (_COARSE if half else _FINE) * max(float(size.max()), 1e-30):
        raise _no_cam(
            f"the mean of the maps misses the logits by {off:.3g}; something stands between {cut.layer} and them"
        )


def _no_cam(reason: str) -> ModelError:
    return ModelError(f"this network has no class activation maps: {reason}. Use gradcam or hirescam.")


def _scorecam(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.perturbation import ScoreCam, scorecam

    options = _options("scorecam", ScoreCam, asked)
    cut = run_to_layer(model, images, asked.layer, asked.target)
    scores = _picked(cut.scores, asked.classes)
    raw = scorecam(_score(private(model), asked.target), images.detach(), cut.activations, asked.classes, options)
    return _result("scorecam", raw, scores, images, asked, layer=cut.layer, origin=_origin(model, cut.layer))


def _occlusion(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.perturbation import Occlusion, occlusion

    return _over_pixels(occlusion, _options("occlusion", Occlusion, asked), model, images, asked)


def _rise(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.perturbation import Rise, rise

    return _over_pixels(rise, _options("rise", Rise, asked), model, images, asked)


def _integrated_gradients(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.gradient import IntegratedGradients, integrated_gradients

    options = _options("integrated_gradients", IntegratedGradients, asked)
    return _over_pixels(integrated_gradients, options, model, images, asked)


def _smoothgrad(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.gradient import SmoothGrad, smoothgrad

    return _over_pixels(smoothgrad, _options("smoothgrad", SmoothGrad, asked), model, images, asked)


def _clear(model: nn.Module, images: Tensor, asked: MapRequest) -> Heatmaps:
    from lesioncam.explanation.clear import ClearOptions, clear

    _no_layer("clear", asked)
    options, twin = _options("clear", ClearOptions, asked), private(model)
    with torch.enable_grad():
        found = clear(twin, images.detach(), asked.target, asked.classes, options)
    return _result("clear", found.responses, _picked(found.logits, asked.classes), images, asked)


def _over_pixels(
    function: Callable[..., Tensor], options: object, model: nn.Module, images: Tensor, asked: MapRequest
) -> Heatmaps:
    """Methods that only ask for scores, of this image and of others like it."""
    _no_layer(function.__name__, asked)
    score = _score(private(model), asked.target)
    scores = _picked(score(images), asked.classes)
    with torch.enable_grad():
        raw = function(score, images.detach(), asked.classes, options)
    return _result(function.__name__, raw, scores, images, asked)


def _score(twin: nn.Module, target: Target | None) -> Callable[[Tensor], Tensor]:
    """Images to float32 scores. On a CPU channels come last, where most networks are a fifth to a third faster."""
    odd = False

    def score(images: Tensor) -> Tensor:
        nonlocal odd
        given = ready(twin, images)
        if not odd and given.device.type == "cpu":
            try:
                return scores_of(twin(channels_last(given)), target).float()
            except RuntimeError as error:
                if "view" not in str(error):
                    raise
                odd, given = True, ready(twin, images)  # it calls view() on its features, which needs the usual order
        return scores_of(twin(given), target).float()

    return score


def _no_layer(method: str, asked: MapRequest) -> None:
    if asked.layer is not None:
        raise OptionError(f"{method} is a map over the pixels of the input; leave layer=None.")


def _options(method: str, kind: type[T], asked: MapRequest) -> T:
    """The options of a method from what was typed."""
    given = dict(asked.options or {})
    if given and not fields(kind):  # type: ignore[arg-type]
        raise OptionError(f"{method} takes no options; got {', '.join(map(repr, given))}.")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        find(name, known, f"option of {method}")
    return kind(**given)


def _origin(model: nn.Module, layer: str) -> tuple[float, ...] | None:
    """Where the first cell looks, which a trained classifier of ours has measured for its own features."""
    for name, part in named(model):
        if isinstance(part, TrainedClassifier):
            features = {f"{name}.{end}".lstrip(".") for end in ("network.backbone", "network.head")}
            return part.card.origin if layer in features else None
    return None


def _result(
    method: str,
    raw: Tensor,
    scores: Tensor,
    images: Tensor,
    asked: MapRequest,
    *,
    layer: str = "input",
    origin: tuple[float, ...] | None = None,
) -> Heatmaps:
    return Heatmaps(raw.detach().float(), method, layer, scores, tuple(images.shape[2:]), asked.classes, origin)


MAP_METHODS: dict[str, Callable[[nn.Module, Tensor, MapRequest], Heatmaps]] = {
    "cam": _cam,
    "clear": _clear,
    "integrated_gradients": _integrated_gradients,
    "occlusion": _occlusion,
    "rise": _rise,
    "scorecam": _scorecam,
    "smoothgrad": _smoothgrad,
    **{name: partial(_by_formula, name) for name in FORMULAS},
}
"""Every map method by its name."""
