"""The thin Lightning side of training: one module, one learning-curve callback."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lesioncam.errors import RunError
from lesioncam.files import write_text
from lesioncam.functional.calibration import log_odds
from lesioncam.functional.losses import negative_map_loss
from lesioncam.functional.metrics import auroc, kappa_quadratic
from lesioncam.models.classifier import Classifier
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
from lesioncam.training.aids import Warp, disagreement, erase_hottest, lattice_of, second_view, step_rng
from lesioncam.training.losses import ImageLoss
from lesioncam.types import Batch

TIE = 1e-4
"""Epochs are ranked by validation AUROC or kappa; this much of the loss decides where it is equal, as when it is 1."""

_STREAM = 7_919  # keeps the model's random stream apart from order and augmentation


def laid_out(tensor: Tensor) -> Tensor:
    """Channels last in memory, images and volumes alike, as convolutions run fastest; anything else as it is.

    Example:
        >>> [laid_out(torch.zeros(1, 2, *sides)).stride()[1] for sides in ((3, 4), (3, 4, 5))]
        [1, 1]
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.ndim]) if tensor.ndim in formats else tensor


class ClassifierModule(L.LightningModule):
    """A classifier and its loss on image-level labels; randomness of step t follows from (seed, t) alone."""

    def __init__(self, network: Classifier, config: RunConfig, loss: ImageLoss, steps: int) -> None:
        super().__init__()
        self.network, self.options, self.loss, self._steps = network, config, loss, steps
        aided = config.aids.equivariance or config.aids.erasing
        self._lattice = lattice_of(network, config.preprocess.channels) if aided else None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """One step; dropout and its like are drawn from (seed, step).

        Raises:
            RunError: where the loss is not finite.
        """
        count = len(batch.images)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed * _STREAM + self.global_step)
            batch, warp = self._aided(batch)
            output = self.network(laid_out(batch.images), batch.valid)
        loss: Tensor = self.loss(output.logits, batch.labels, self.current_epoch)
        if self.options.dense_negative:
            cold = negative_map_loss(output.class_maps, batch.labels, output.valid)
            loss = loss + self.options.dense_negative * cold
        if warp is not None and self._lattice is not None:
            apart = disagreement(output, batch.valid, warp, self._lattice, self.options)
            loss = loss + self.options.aids.equivariance * apart
        self._check_finite(float(loss.detach()), "training")
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=count)
        return loss

    def _aided(self, batch: Batch) -> tuple[Batch, Warp | None]:
        """The batch as the aids make it: erased, with a second view; as it is where all are off."""
        aids = self.options.aids
        rng = step_rng(self.options.seed, self.global_step)
        if aids.erasing and self._lattice is not None:
            batch = erase_hottest(batch, self.network, self._lattice, rng.random(len(batch.images)), aids)
        return second_view(batch, rng, self.options) if aids.equivariance else (batch, None)

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the {what} loss is {loss} in epoch {self.current_epoch}, after {self.global_step} steps; training "
                "stops. Lower --learning-rate, set --gradient-clip 1 or use --precision fp32; if the pooling is your "
                "own, see that its gradient is finite (a root or a logarithm of 0, a division by 0)."
            )

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self._seen.clear()

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Keep logits and labels: loss and AUROC are of the whole split, not means over batches."""
        output = self.network(laid_out(batch.images), batch.valid)
        self._seen.append((output.logits.float().cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log loss, macro AUROC and (of grades) kappa over the known labels, and what the best epoch is chosen by."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        loss = float(self.loss.compare(logits.to(self.device), labels.to(self.device)))
        self._check_finite(loss, "validation")
        scores, truth = logits.numpy(), labels.numpy()
        found = {"auroc": _macro_auroc(log_odds(scores) if self.options.softmax else scores, truth)}
        if self.options.ordinal or self.options.selects == "kappa":
            found["kappa"] = _kappa(scores, truth)
        self.log("val_loss", loss, prog_bar=True)
        for name, value in found.items():
            self.log(f"val_{name}", value, prog_bar=True)
        ranking = found.get(self.options.selects, 0.0)
        by_loss = self.options.selects == "loss"
        self.log("val_score", -loss if by_loss else (0.0 if np.isnan(ranking) else ranking) - TIE * loss)

    def configure_optimizers(self) -> Any:
        """What the configuration asks for; norms, biases and what a loss learns do not decay."""
        decayed = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.options.weight_decay},
            {"params": [*others, *self.loss.parameters()], "weight_decay": 0.0},
        ]
        optimizer = make_optimizer(groups, self.options)
        schedule = make_schedule(optimizer, self.options, self._steps)
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": schedule}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Our batch is a frozen dataclass; move its tensors."""
        del dataloader_idx
        parts = (batch.images, batch.valid, batch.labels, batch.index)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


def make_optimizer(groups: list[dict[str, Any]], config: RunConfig) -> torch.optim.Optimizer:
    """The optimiser a configuration names.

    Args:
        groups: parameters, each group with its own weight decay.
        config: ``optimizer`` and ``learning_rate``.
    """
    rate = config.learning_rate
    match config.optimizer:
        case AdamwOptimizer():
            return torch.optim.AdamW(groups, lr=rate)
        case AdamOptimizer():
            return torch.optim.Adam(groups, lr=rate)
        case SgdOptimizer(momentum=momentum, nesterov=nesterov):
            return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov)


def make_schedule(optimizer: torch.optim.Optimizer, config: RunConfig, steps: int) -> dict[str, Any] | None:
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


class StopOnRequest(L.Callback):
    """Ctrl-C between two batches: raised anywhere else, Python may swallow it or leave a step half done."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: Any) -> None:
        """The first Ctrl-C asks; the second stops at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.asked = True

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop before the next training step."""
        if self.asked:
            raise KeyboardInterrupt

    def on_validation_batch_start(self, *_: Any) -> None:
        """Stop before the next validation batch."""
        if self.asked:
            raise KeyboardInterrupt


class LearningCurves(L.Callback):
    """One row per epoch in history.csv; the rows travel in the checkpoint, so a resumed run has one unbroken curve."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows, self._started = path, list[dict[str, float]](), time.monotonic()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        """Add the epoch's row and write the file whole."""
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch,
            "train_loss": seen["train_loss"],
            "val_loss": seen["val_loss"],
            "val_auroc": seen["val_auroc"],
            **({"val_kappa": seen["val_kappa"]} if "val_kappa" in seen else {}),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self._started, 3),
        }
        self._rows.append(row)
        lines = [",".join(row)] + [",".join(f"{v:g}" for v in r.values()) for r in self._rows]
        write_text(self._path, "\n".join(lines) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of the checkpoint."""
        self._rows = list(state_dict["rows"])


def _macro_auroc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have both sides; soft labels are no truth and take no part."""
    values = [float(auroc(scores, truth)) for scores, truth in zip(logits.T, labels.T, strict=True)]
    defined = [v for v in values if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def _kappa(logits: np.ndarray, labels: np.ndarray) -> float:
    """Of the most likely grade, over the images whose grade is known."""
    truth = np.where(np.isnan(labels).any(axis=1), -1, np.nan_to_num(labels).argmax(axis=1))
    return float(kappa_quadratic(logits.argmax(axis=1), truth, logits.shape[1]))
