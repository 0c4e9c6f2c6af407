"""Networks of somebody else: built by name, filled from a file of weights, checked before anything is believed.

A run folder names what makes its network. A timm name is harmless; ``module:function`` is code, so loading a folder
calls it only where this very user adopted that folder with it (a mark outside the folder says so), or where it is given
from Python. Whoever is handed a folder cannot be made to run what it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesioncam.errors import ModelError
from lesioncam.files import write_text
from lesioncam.options.networks import AdoptConfig

__all__ = ["build_adopted", "fill", "head_classes", "is_trusted", "read_weights", "trust"]

TIMM = "timm"
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "network")
_NAMED = 3
_LOADERS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def build_adopted(
    adopted: AdoptConfig, classes: int | None = None, build: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """Build the network an adoption names, with random weights, in eval mode.

    Args:
        adopted: what makes it.
        classes: K, for a timm network.
        build: the function itself, in place of its name.

    Raises:
        ModelError: for a name that leads nowhere, options it does not take, or something that is no network.

    Example:
        >>> net = build_adopted(AdoptConfig(model="timm:resnet10t"), classes=2)
        >>> net.eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 2])
    """
    kind, colon, name = adopted.model.partition(":")
    if not colon or not kind or not name:
        raise ModelError(f"{adopted.model!r} names no model; write timm:NAME, or module:function of your own.")
    with torch.random.fork_rng(devices=[]):
        network = _timm(name, adopted.options, classes) if kind == TIMM else _own(adopted, build)
    return network.eval()


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
            f"weights {str(path)!r} cannot be read as plain tensors ({_first_line(error)}); save them with "
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


def head_classes(scores: Tensor, classes: Sequence[str], name: str) -> None:
    """Refuse a network that does not give one score per class.

    Raises:
        ModelError: naming both numbers.

    Example:
        >>> head_classes(torch.zeros(1, 3), ["mass", "node"], "timm:resnet50")
        Traceback (most recent call last):
        ...
        lesioncam.errors.ModelError: timm:resnet50 gives 3 scores but there are 2 classes (mass, node); ...
    """
    if scores.shape[1] != len(classes):
        raise ModelError(
            f"{name} gives {scores.shape[1]} scores but there are {len(classes)} classes ({', '.join(classes)}); "
            "name one class per score, in the network's own order."
        )


# ---- building ----------------------------------------------------------------------------------------------------


def _timm(name: str, options: Mapping[str, Any], classes: int | None) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5] or timm.list_models(f"{name[:4]}*")[:5]
        raise ModelError(f"Unknown timm model {name!r}. Did you mean one of {', '.join(near) or 'timm.list_models()'}?")
    if loading := [key for key in _LOADERS if key in options]:
        raise ModelError(f"{name}: {loading[0]} is no option here; weights come from a file, with --weights.")
    heads = {} if classes is None else {"num_classes": classes}
    try:
        network: nn.Module = timm.create_model(name, **{**heads, **options})
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise ModelError(f"{name} cannot be built with {dict(options)}: {_first_line(error)}.") from error
    return network


def _own(adopted: AdoptConfig, build: Callable[..., nn.Module] | None) -> nn.Module:
    function = _function(adopted.model) if build is None else build
    try:
        network = function(**adopted.options)
    except TypeError as error:
        raise ModelError(f"{adopted.model} cannot be called with {dict(adopted.options)}: {error}.") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{adopted.model} returned {type(network).__name__}; it must return a torch.nn.Module.")
    return network


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        with _working_folder():
            found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ModelError(
            f"{name}: {error}. Start from the folder that holds {module.partition('.')[0]}, or install it."
        ) from error
    except AttributeError as error:
        raise ModelError(f"{name}: {module} has no {attribute!r}.") from error
    if not callable(found):
        raise ModelError(f"{name} is {type(found).__name__}, not a function that builds a network.")
    return found


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules in the working folder can be imported, as with ``python -m``, for as long as it takes."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


# ---- weights -----------------------------------------------------------------------------------------------------


def _state_in(content: Any, place: Path) -> dict[str, Tensor]:
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise ModelError(f"weights {place.name!r} hold {type(content).__name__}, not tensors by name.")
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- whose code a folder may call --------------------------------------------------------------------------------


def trust(run: Path, adopted: AdoptConfig) -> None:
    """Remember, outside the folder, that this user adopted this folder with this code."""
    write_text(_mark(run, adopted), adopted.model + "\n")


def is_trusted(run: Path, adopted: AdoptConfig) -> bool:
    """Whether the code that a folder names may be called."""
    return adopted.model.startswith(f"{TIMM}:") or _mark(run, adopted).is_file()


def _mark(run: Path, adopted: AdoptConfig) -> Path:
    named = json.dumps([str(run.resolve()), adopted.model, dict(adopted.options)], sort_keys=True, default=str)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return home / "lesioncam" / "adopted" / hashlib.sha256(named.encode()).hexdigest()[:32]
