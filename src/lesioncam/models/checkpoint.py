"""A classifier on disk: weights in safetensors and one JSON beside them. Loading executes nothing from either file.

The network of somebody else is built by its timm name; one that code of the user builds (``module:function``) is built
only where this user adopted the folder, or gives the function (see `lesioncam.models.adopted`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lesioncam.data.preprocess import Preprocess, ResizeCrop
from lesioncam.errors import ModelError, RunError
from lesioncam.files import write_with
from lesioncam.models.adopted import build_adopted, is_trusted
from lesioncam.models.classifier import build_classifier
from lesioncam.options.networks import AdoptConfig
from lesioncam.runs.card import AdoptedCard, ModelCard, read_card, write_card
from lesioncam.runs.folder import RunFolder
from lesioncam.types import ClassifierOutput


class TrainedClassifier(torch.nn.Module):
    """A network with its card: ``classifier(images)`` gives logits and class maps in one forward pass.

    The network of somebody else (`AdoptedCard`) gives what it gives; its maps are made by `explain`.
    """

    def __init__(self, network: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.network, self.card = network, card
        self.preprocess: Preprocess | ResizeCrop = (
            ResizeCrop(card.adopted.prepare)
            if isinstance(card, AdoptedCard)
            else Preprocess(card.config.preprocess, card.config.backbone.axes)
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.card.classes

    def forward(self, images: Tensor, valid: Tensor | None = None) -> ClassifierOutput:
        """Prepared images ``(N, C, H, W)`` to ``ClassifierOutput``.

        Raises:
            ModelError: for a network of somebody else, which has no class maps of its own.
        """
        if isinstance(self.card, AdoptedCard):
            raise ModelError(
                f"{self.card.adopted.model} gives no class maps of its own; call classifier.network(images) for its "
                "scores, lesioncam.explain(classifier.network, images) for maps."
            )
        output: ClassifierOutput = self.network(images, valid)
        return output


def save_classifier(folder: RunFolder, network: nn.Module, card: ModelCard) -> None:
    """Write weights and card, each whole or not at all."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    write_with(folder.weights, lambda partial: save_file(state, partial))
    write_card(folder.model, card)


def load_classifier(
    run: str | Path,
    *,
    pooling: Callable[..., Tensor] | None = None,
    build: Callable[..., nn.Module] | None = None,
) -> TrainedClassifier:
    """Load a run's classifier, in eval mode on the CPU.

    Args:
        run: the run folder.
        pooling: the user's own callable, where the run was trained with one.
        build: the function that builds the network, where the run adopted one of your own code on another machine.

    Raises:
        RunError: if the folder holds no model, or a damaged one.
        ModelError: if the model needs a callable that was not given.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = RunFolder(Path(run))
    if not folder.model.is_file():
        raise RunError(f"{run} holds no model/model.json; give the folder that `lesioncam run` or `train` wrote.")
    card = read_card(folder.model)
    if isinstance(card, AdoptedCard):
        network = _adopted(folder, card.adopted, len(card.classes), build)
    else:
        network = build_classifier(card.config, len(card.classes), weights="none", own_pool=pooling)
    try:
        network.load_state_dict(load_file(folder.weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{folder.weights} cannot be read into this network ({str(error).splitlines()[0]}).") from error
    return TrainedClassifier(network, card).eval().requires_grad_(requires_grad=False)


def _adopted(
    folder: RunFolder, adopted: AdoptConfig, classes: int, build: Callable[..., nn.Module] | None
) -> nn.Module:
    if build is None and not is_trusted(folder.root, adopted):
        raise ModelError(
            f"{folder.root} holds a network that {adopted.model} builds, which is code, and it was not adopted here by "
            "you; give the function with lesioncam.load(run, build=...), or adopt the weights again."
        )
    return build_adopted(adopted, classes, build)
