"""Sanity of maps: a map that survives the loss of everything that was learnt explains nothing that was learnt.

Reference:
    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lesioncam.errors import LesioncamError, ModelError
from lesioncam.lookup import find
from lesioncam.models.checkpoint import TrainedClassifier

Explain = Callable[[nn.Module], Tensor]
"""A model to its maps ``(N, K, *s)`` of images chosen beforehand."""


@dataclass(frozen=True)
class Agreement:
    """How like two sets of maps are, map by map; NaN where a map is flat or not finite.

    Attributes:
        spearman: ``(N, K)`` rank correlation of the pixels: 1 the same order, 0 unrelated, -1 reversed.
        ssim: ``(N, K)`` structural similarity of the maps, each scaled to [0, 1]; NaN also where a side of the map is
            shorter than 3.
    """

    spearman: np.ndarray
    ssim: np.ndarray

    @property
    def flat(self) -> int:
        """Pairs without a rank correlation, because one of the maps is flat or not finite."""
        return int(np.isnan(self.spearman).sum())

    def summary(self) -> dict[str, float | int | None]:
        """Means over the maps that have a value, how many there are, and how many have none.

        Example:
            >>> Agreement(np.array([[1.0, np.nan]]), np.array([[0.5, np.nan]])).summary()
            {'spearman': 1.0, 'ssim': 0.5, 'maps': 1, 'flat': 1}
        """
        return {
            "spearman": _mean(self.spearman),
            "ssim": _mean(self.ssim),
            "maps": self.spearman.size - self.flat,
            "flat": self.flat,
        }


@dataclass(frozen=True)
class CascadeStep:
    """Maps of a network whose layers were randomised from the output down to one of them, against the maps before.

    Attributes:
        layer: name of the last layer randomised; empty for the network as it was.
        randomised: how many layers have new weights by now.
        agreement: with the maps of the network as it was.
    """

    layer: str
    randomised: int
    agreement: Agreement


def cascade(
    model: nn.Module, explain: Explain, *, layers: Sequence[str] | None = None, points: int = 12, seed: int = 0
) -> list[CascadeStep]:
    """Cascading randomisation: layer after layer from the output down gets new weights; the maps should change.

    A layer is a module with parameters of its own. They are taken in the reverse of the order in which they are first
    used while ``explain`` runs; layers that are not used are left out. Each resets itself as when it was built
    (``reset_parameters``, batch norm with its statistics); parameters of a module that has no such method are drawn
    from a normal distribution with the mean and the standard deviation they had. The model itself is never touched.

    Args:
        model: any.
        explain: a model to maps ``(N, K, *s)``, always of the same images, with all randomness fixed.
        layers: names of the layers, from the output down; None finds them.
        points: look at the maps at so many depths, evenly spaced, the last layer always among them.
        seed: of the new weights; the global generators are left where they were.

    Returns:
        The steps; the first is the network as it was, explained twice: 1 unless the method itself is random.

    Raises:
        ModelError: if the model cannot be copied, or uses no parameters.
        OptionError: if there is no layer of a name.

    Reference:
        Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
        >>> image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> [(step.layer, step.randomised) for step in cascade(net, lambda model: model(image).detach())]
        [('', 0), ('2', 1), ('0', 2)]
    """
    try:
        fresh = copy.deepcopy(model).eval()
    except (RuntimeError, TypeError) as reason:
        raise ModelError(f"this model cannot be copied, so its weights cannot be randomised safely: {reason}") from None
    with _FirstUse(fresh) as seen:
        before = explain(fresh)
    named = dict(fresh.named_modules())
    chosen = [find(name, named, "layer") for name in layers] if layers is not None else _used(fresh, seen.order)
    if not chosen:
        raise ModelError("no parameter of this model is used while its maps are made; there is nothing to randomise.")
    names = {module: name for name, module in named.items()}
    looks = {round(k * len(chosen) / points) for k in range(1, points + 1)} if points < len(chosen) else None
    steps = [CascadeStep("", 0, agreement(before, explain(fresh)))]
    for count, module in enumerate(chosen, start=1):
        _reset(module, seed + count)
        if looks is None or count in looks:
            steps.append(CascadeStep(names[module], count, agreement(before, explain(fresh))))
    return steps


def repeatability(first: nn.Module, second: nn.Module, explain: Explain) -> Agreement:
    """How like the maps of two networks are that were trained alike, for instance with another seed.

    Args:
        first: one network.
        second: the other.
        explain: a model to maps ``(N, K, *s)``, always of the same images.

    Returns:
        Agreement map by map.

    Reference:
        Arun et al., "Assessing the trustworthiness of saliency maps for localizing abnormalities in medical imaging",
        Radiology: Artificial Intelligence 2021.

    Example:
        >>> net, image = nn.Conv2d(1, 1, 3), torch.rand(1, 1, 16, 16)
        >>> repeatability(net, net, lambda model: model(image).detach()).summary()["maps"]
        1
    """
    return agreement(explain(first), explain(second))


def agreement(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Agreement:
    """Spearman and SSIM of maps, pair by pair.

    Args:
        first: ``(N, K, *s)``.
        second: ``(N, K, *s)``.

    Raises:
        LesioncamError: if the shapes differ.

    Example:
        >>> maps = np.arange(64.0).reshape(1, 1, 8, 8)
        >>> found = agreement(maps, 2 * maps + 1)
        >>> found.spearman.round(6).tolist(), found.ssim.round(6).tolist()
        ([[1.0]], [[1.0]])
    """
    a, b = _array(first), _array(second)
    if a.shape != b.shape:
        raise LesioncamError(f"maps of shape {a.shape} cannot be compared with maps of {b.shape}; resize one of them.")
    places = list(np.ndindex(a.shape[:2]))
    spearman = np.array([map_similarity(a[place], b[place]) for place in places])
    ssim = np.array([_ssim(a[place], b[place]) for place in places])
    return Agreement(spearman.reshape(a.shape[:2]), ssim.reshape(a.shape[:2]))


def randomised(classifier: TrainedClassifier, seed: int = 0) -> TrainedClassifier:
    """The same network with fresh random weights in every layer; the given one is left as it was.

    Args:
        classifier: any.
        seed: of the new weights; the global generators are left where they were.

    Example:
        >>> from lesioncam.options.run import make_config
        >>> from lesioncam.runs.card import ClassifierCard
        >>> from lesioncam.models.classifier import build_classifier
        >>> config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8")
        >>> trained = TrainedClassifier(build_classifier(config, 1), ClassifierCard(("mass",), config))
        >>> fresh = randomised(trained)
        >>> bool(torch.equal(fresh.network.head.weight, trained.network.head.weight))
        False
    """
    fresh = copy.deepcopy(classifier)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh.eval().requires_grad_(requires_grad=False)


def map_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation (Spearman) of two maps: 1 for the same order of all cells, about 0 for unrelated ones.

    Args:
        first: ``(*s)``.
        second: ``(*s)``.

    Returns:
        NaN where a map is flat.

    Example:
        >>> round(map_similarity(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [9.0, 16.0]])), 6)
        1.0
    """
    ranks = [rankdata(np.ravel(each)) for each in (first, second)]
    a, b = (each - each.mean() for each in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def _array(maps: Tensor | np.ndarray) -> np.ndarray:
    return maps.detach().cpu().float().numpy() if isinstance(maps, Tensor) else np.asarray(maps)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _ssim(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM (Wang et al. 2004) in windows of 7, or the largest odd one that fits."""
    window = min(7, (min(first.shape) - 1) // 2 * 2 + 1)
    units = [_unit(each.astype(np.float64)) for each in (first, second)]
    if window < 3 or units[0] is None or units[1] is None:
        return float("nan")
    return float(structural_similarity(units[0], units[1], win_size=window, data_range=1.0))


def _unit(values: np.ndarray) -> np.ndarray | None:
    span = values.max() - values.min()
    return (values - values.min()) / span if np.isfinite(span) and span > 0 else None


class _FirstUse(TorchFunctionMode):
    """In which order the weights of a model are first given to an operation: the order in which its layers run.

    Weights are known by their memory, so a twin of the model that shares it is watched as well.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.order: dict[int, int] = {}
        self._weights = {parameter.data_ptr() for parameter in model.parameters() if parameter.numel()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        for leaf in tree_leaves((args, kwargs)):
            if type(leaf) in (Tensor, nn.Parameter) and leaf.layout == torch.strided:
                place = leaf.data_ptr()
                if place in self._weights:
                    self.order.setdefault(place, len(self.order))
        return func(*args, **(kwargs or {}))


def _used(model: nn.Module, order: dict[int, int]) -> list[nn.Module]:
    """Modules with used parameters of their own, the last used first."""
    found = []
    for module in model.modules():
        own = [parameter.data_ptr() for parameter in module.parameters(recurse=False)]
        places = [order[place] for place in own if place in order]
        if places:
            found.append((min(places), module))
    return [module for _, module in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _reset(module: nn.Module, seed: int) -> None:
    """Fresh weights in one layer; the global generators are left where they were."""
    with torch.random.fork_rng(), torch.inference_mode(mode=False), torch.no_grad():
        torch.manual_seed(seed)
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            return
        for parameter in module.parameters(recurse=False):
            if parameter.numel() > 1:
                spread, middle = torch.std_mean(parameter.float())
                drawn = torch.randn(parameter.shape, dtype=torch.float32) * float(spread) + float(middle)
                parameter.copy_(drawn)
