"""Grad-CAM and Score-CAM of the libraries we are measured against, each called the way its own documentation does."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lesioncam as lc

Maps = Callable[[nn.Module, str, Tensor, Sequence[int]], Tensor]
"""Model in evaluation mode, name of a layer, images ``(N, C, *S)``, a class per image: maps ``(N, *s)``."""

OURS = "lesioncam"
PACKAGES = {"pytorch-grad-cam": "grad-cam", "torchcam": "torchcam", "captum": "captum", "MONAI": "monai"}
SCALED = "pytorch-grad-cam"
"""It gives no raw maps: each is scaled to [0, 1] and enlarged to the image."""


def grad_cam(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in classes])
    return torch.from_numpy(np.asarray(maps))


def torchcam(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    from torchcam.methods import GradCAM

    with GradCAM(model, layer) as extractor:
        scores = model(images)
        (maps,) = extractor(list(classes), scores, normalized=False)
    return maps


def captum(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    from captum.attr import LayerGradCam

    target = torch.as_tensor(list(classes))
    maps = LayerGradCam(model, model.get_submodule(layer)).attribute(images, target=target, relu_attributions=True)
    return maps[:, 0]


def monai(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    """Where all images share a class it is given as one number, which is the case MONAI has right."""
    from monai.visualize import GradCAM

    target = classes[0] if len(set(classes)) == 1 else torch.as_tensor(list(classes))
    return GradCAM(nn_module=model, target_layers=layer).compute_map(images, class_idx=target)[:, 0]


def ours(model: nn.Module, layer: str | None, images: Tensor, classes: Sequence[int]) -> Tensor:
    return lc.explain(model, images, "gradcam", layer, list(classes)).raw[:, 0].relu()


MAKERS: dict[str, Maps] = {
    "pytorch-grad-cam": grad_cam,
    "torchcam": torchcam,
    "captum": captum,
    "MONAI": monai,
    OURS: ours,
}


def torchcam_all(model: nn.Module, layer: str, images: Tensor, classes: int) -> Tensor:
    """All classes from one forward pass, ``(N, K, *s)``, which no other of them does."""
    from torchcam.methods import GradCAM

    with GradCAM(model, layer) as extractor:
        scores = model(images)
        found = [extractor(k, scores, normalized=False, retain_graph=True)[0] for k in range(classes)]
    return torch.stack(found, 1)


def one_by_one(maker: Maps) -> Callable[[nn.Module, str, Tensor, int], Tensor]:
    """All classes ``(N, K, *s)`` from a library that takes one at a time."""

    def every(model: nn.Module, layer: str, images: Tensor, classes: int) -> Tensor:
        return torch.stack([maker(model, layer, images, [k] * len(images)) for k in range(classes)], 1)

    return every


def grad_cam_score(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with ScoreCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam, torch.no_grad():
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in classes])
    return torch.from_numpy(np.asarray(maps))


def torchcam_score(model: nn.Module, layer: str, images: Tensor, classes: Sequence[int]) -> Tensor:
    from torchcam.methods import ScoreCAM

    with ScoreCAM(model, layer) as extractor, torch.inference_mode():
        model(images)
        (maps,) = extractor(list(classes), normalized=False)
    return maps


def versions() -> dict[str, str]:
    return {name: version(package) for name, package in PACKAGES.items()}


def present() -> bool:
    """Whether all of them are installed."""
    try:
        versions()
    except ModuleNotFoundError:
        return False
    return True


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Without the warnings and progress bars of others; for the whole process, so not to be entered by threads."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def unit(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps ``(N, *s)`` as the one library gives them: enlarged linearly and scaled to [0, 1] each."""
    mode: Any = {2: "bilinear", 3: "trilinear"}[maps.ndim - 1]
    wide = nn.functional.interpolate(maps[:, None].float(), tuple(size), mode=mode)[:, 0].flatten(1)
    wide = wide - wide.amin(1, keepdim=True)
    return (wide / wide.amax(1, keepdim=True).clamp(min=1e-30)).unflatten(1, tuple(size))
