"""Weights from files: read without executing anything in them, and brought into a network whole or in part."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lesioncam.errors import ModelError

logger = logging.getLogger(__name__)

_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")
"""What DDP, ``torch.compile`` and Lightning put before every name."""
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where a checkpoint keeps its state dict."""
_HEADS = ("conv_seg.", "fc.", "class_layers.", "last_linear.", "_fc.")
"""Heads of other tasks in checkpoints."""
_LEAST = 0.5
"""Share of a network's numbers that a file must fill; with less it is another network's."""
_NAMED = 3


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file: safetensors, or a state dict of torch read with ``weights_only=True``.

    A state dict inside a checkpoint (``state_dict``, ``model`` ...) is found.

    Raises:
        ModelError: if the file is missing, damaged, or would need unpickling.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(path)
    if not place.is_file():
        raise ModelError(f"weights {str(path)!r}: no such file; give a safetensors file, or a state dict of torch.")
    try:
        if place.suffix == ".safetensors":
            return load_file(place)
        content = torch.load(place, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise ModelError(
            f"weights {str(path)!r} cannot be read as plain tensors ({first_line(error)}); save them with "
            "safetensors.torch.save_file(model.state_dict(), ...)."
        ) from error
    return _state_in(content, place)


def fill(network: nn.Module, weights: Mapping[str, Tensor], classes: Sequence[str], name: str = "weights") -> None:
    """Load weights into a network; nothing may be missing and nothing left over.

    The prefix that DDP, ``torch.compile`` or Lightning puts before every name is taken off.

    Args:
        network: to be filled.
        weights: by name.
        classes: K names, for the error where only the classifier differs.
        name: of the file, for errors.

    Raises:
        ModelError: naming the first keys that are missing, unexpected or of another shape.

    Example:
        >>> fill(nn.Linear(2, 1), {"weight": torch.ones(1, 2)}, ["mass"])
        Traceback (most recent call last):
        lesioncam.errors.ModelError: weights do not fit this network: 1 missing (bias). Are they of another model?
    """
    own = network.state_dict()
    weights = _bare(dict(weights), own)
    shapes = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if head := _wrong_head(network, own, weights, shapes):
        raise ModelError(
            f"{name} end in {head} scores but the table has {len(classes)} classes ({', '.join(classes)}); "
            "name the classes the network was trained on with --classes, or give the weights of a network for these."
        )
    wrong = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another shape": [f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}" for key in shapes],
    }
    if said := ", ".join(_some(kind, keys) for kind, keys in wrong.items() if keys):
        raise ModelError(f"{name} do not fit this network: {said}. Are they of another model?")
    network.load_state_dict(dict(weights))


def fill_partly(network: nn.Module, weights: Mapping[str, Tensor], source: str, *, stem: str = "") -> None:
    """Fill a network with whatever fits of a checkpoint, by name and shape.

    Names may begin with ``module.`` (data parallel); heads of other tasks are passed over. Kernels for one input
    channel serve several, shared out evenly, so that the features of a copied grey input stay the same. What fitted is
    logged.

    Args:
        network: filled in place.
        weights: by name.
        source: for errors.
        stem: what our own names begin with in the file.

    Raises:
        ModelError: if less than half of the network's numbers are in it.
    """
    found = {key.removeprefix("module.").removeprefix(stem): value for key, value in weights.items()}
    own = network.state_dict()
    fitting = {key: each for key, value in own.items() if (each := _fitted(found.get(key), value)) is not None}
    counted = {key: value.numel() for key, value in own.items() if value.is_floating_point()}
    share = sum(counted[key] for key in fitting if key in counted) / max(1, sum(counted.values()))
    missing = [key for key in counted if key not in fitting]
    unused = [key for key in found if key not in own and not key.startswith(_HEADS)]
    if share < _LEAST:
        named = f"{', '.join(missing[:3])} are missing or of another shape, {', '.join(unused[:3]) or 'nothing'} unused"
        raise ModelError(
            f"{source} fills {100 * share:.0f} % of this network ({named}); it is another network's. Choose the "
            "backbone it was made for, or --weights none."
        )
    network.load_state_dict({**own, **fitting})
    logger.info(
        "%s fills %.1f %% of the network; %d of its entries keep random values (%s), %d of the file's are not used.",
        source,
        100 * share,
        len(missing),
        ", ".join(missing[:3]) or "none",
        len(found) - len(fitting),
    )


def _fitted(found: Tensor | None, wanted: Tensor) -> Tensor | None:
    """The tensor of the file where it fits; a kernel for one channel shared out over several."""
    if found is None:
        return None
    if found.shape == wanted.shape:
        return found.to(wanted.dtype)
    inflates = found.ndim == wanted.ndim > 2 and found.shape[1] == 1
    if inflates and found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:]:
        return torch.repeat_interleave(found.to(wanted.dtype), wanted.shape[1], dim=1) / wanted.shape[1]
    return None


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _state_in(content: object, place: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        content = next((content[key] for key in _INSIDE if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise ModelError(
            f"weights {place.name!r} hold a {type(content).__name__}, not a state dict; save model.state_dict()."
        )
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _bare(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that wrappers put before every name, where no name fits with it."""
    for prefix in _WRAPPERS:
        if state and not own.keys() & state.keys() and all(key.startswith(prefix) for key in state):
            return _bare({key.removeprefix(prefix): value for key, value in state.items()}, own)
    return state


def _wrong_head(
    network: nn.Module, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], shapes: Sequence[str]
) -> int | None:
    """How many scores the weights end in, where the classifier is all that differs."""
    differing = {key.rpartition(".")[0] for key in shapes}
    last = list(own)[-1].rpartition(".")[0] if own else ""
    named = str(getattr(network, "pretrained_cfg", {}).get("classifier", last))
    if len(differing) != 1 or differing != {named}:
        return None
    key = next(key for key in shapes)
    same_rest = weights[key].shape[1:] == own[key].shape[1:]
    return int(weights[key].shape[0]) if same_rest else None


def _some(kind: str, keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > _NAMED else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])}{more})"
