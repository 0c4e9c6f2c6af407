"""Networks of somebody else: built by name, filled from a file of weights, checked before anything is believed.

A run folder names what makes its network. A timm name is harmless; ``module:function`` is code, so loading a folder
calls it only where this very user adopted that folder with it (a mark outside the folder says so), or where it is given
from Python. Whoever is handed a folder cannot be made to run what it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from lesioncam.errors import ModelError
from lesioncam.files import write_text
from lesioncam.models.weights import first_line
from lesioncam.options.networks import AdoptConfig

TIMM = "timm"
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


def _timm(name: str, options: Mapping[str, object], classes: int | None) -> nn.Module:
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
        raise ModelError(f"{name} cannot be built with {dict(options)}: {first_line(error)}.") from error
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


def _function(name: str) -> Callable[..., object]:
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
