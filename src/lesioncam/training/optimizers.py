"""The optimiser and the schedule a configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import nn

from lesioncam.options.run import RunConfig
from lesioncam.options.training import (
    AdamOptimizer,
    AdamwOptimizer,
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    SgdOptimizer,
    StepSchedule,
)


class ParameterGroup(TypedDict):
    """Parameters that decay alike."""

    params: list[nn.Parameter]
    weight_decay: float


def parameter_groups(
    network: nn.Module, learnt: Iterable[nn.Parameter], weight_decay: float
) -> tuple[ParameterGroup, ParameterGroup]:
    """Kernels and matrices of a network decay; its norms and biases do not, nor does what a loss learns.

    Args:
        network: parameters that are frozen are left out.
        learnt: by the loss.
        weight_decay: of the first group.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), [], 0.1)
        >>> [([tuple(p.shape) for p in group["params"]], group["weight_decay"]) for group in groups]
        [([(2, 1, 3, 3)], 0.1), ([(2,), (2,), (2,)], 0.0)]
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    others = [*(p for p in trained if p.ndim <= 1), *learnt]
    return (
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    )


def make_optimizer(groups: Sequence[ParameterGroup], config: RunConfig) -> torch.optim.Optimizer:
    """The optimiser a configuration names.

    Args:
        groups: parameters, each group with its own weight decay.
        config: ``optimizer`` and ``learning_rate``.
    """
    rate, listed = config.learning_rate, list[Any](groups)
    match config.optimizer:
        case AdamwOptimizer():
            return torch.optim.AdamW(listed, lr=rate)
        case AdamOptimizer():
            return torch.optim.Adam(listed, lr=rate)
        case SgdOptimizer(momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(listed, lr=rate, momentum=momentum, nesterov=nesterov)


def make_schedule(optimizer: torch.optim.Optimizer, config: RunConfig, steps: int) -> LRSchedulerConfigType | None:
    """The learning rate's way through a training, as Lightning takes it; None where it stays.

    Args:
        optimizer: whose rate it is.
        config: ``schedule`` and ``learning_rate``.
        steps: of the whole training.
    """
    schedules, way = torch.optim.lr_scheduler, config.schedule
    match way:
        case OneCycleSchedule():
            steps += way.warmup * steps == 1  # torch divides by the steps of the way up, less one
            cycle = schedules.OneCycleLR(
                optimizer, max_lr=config.learning_rate, total_steps=steps, pct_start=way.warmup
            )
            return {"scheduler": cycle, "interval": "step"}
        case CosineSchedule():
            lowest = way.floor * config.learning_rate
            cosine = schedules.CosineAnnealingLR(optimizer, T_max=steps, eta_min=lowest)
            return {"scheduler": cosine, "interval": "step"}
        case StepSchedule():
            stairs = schedules.StepLR(optimizer, step_size=way.every, gamma=way.factor)
            return {"scheduler": stairs, "interval": "epoch"}
        case PlateauSchedule():
            plateau = schedules.ReduceLROnPlateau(optimizer, factor=way.factor, patience=way.patience)
            return {"scheduler": plateau, "interval": "epoch", "monitor": "val_loss"}
        case ConstantSchedule():
            return None
