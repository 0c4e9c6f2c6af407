"""The thin Lightning side of training: one module, one learning-curve callback."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lesioncam.config import RunConfig
from lesioncam.files import write_text
from lesioncam.functional.losses import bce_loss
from lesioncam.functional.metrics import auroc
from lesioncam.models.classifier import Classifier
from lesioncam.types import Batch

__all__ = ["ClassifierModule", "LearningCurves", "StopOnRequest"]

TIE = 1e-4
"""Epochs are ranked by validation AUROC; this much of the loss decides where it is equal, as when it is 1."""

_STREAM = 7_919  # keeps the model's random stream apart from order and augmentation


class ClassifierModule(L.LightningModule):
    """Binary cross-entropy on image-level labels; randomness of step t follows from (seed, t) alone."""

    def __init__(self, network: Classifier, config: RunConfig, weights: Tensor, steps: int) -> None:
        super().__init__()
        self.network, self.options, self._steps = network, config, steps
        self.weights: Tensor
        self.register_buffer("weights", weights, persistent=False)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """One step; dropout and its like are drawn from (seed, step)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed * _STREAM + self.global_step)
            output = self.network(batch.images.contiguous(memory_format=torch.channels_last), batch.valid)
        loss = bce_loss(output.logits, batch.labels, self.weights)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self._seen.clear()

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Keep logits and labels: loss and AUROC are of the whole split, not means over batches."""
        output = self.network(batch.images.contiguous(memory_format=torch.channels_last), batch.valid)
        self._seen.append((output.logits.float().cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log loss and macro AUROC over the known labels."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        loss = float(bce_loss(logits, labels, self.weights.cpu()))
        ranking = _macro_auroc(logits.numpy(), labels.numpy())
        self.log("val_loss", loss, prog_bar=True)
        self.log("val_auroc", ranking, prog_bar=True)
        self.log("val_score", (0.0 if np.isnan(ranking) else ranking) - TIE * loss)

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule; norms and biases do not decay."""
        decayed = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.options.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.options.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.options.learning_rate, total_steps=self._steps, pct_start=0.25
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Our batch is a frozen dataclass; move its tensors."""
        del dataloader_idx
        parts = (batch.images, batch.valid, batch.labels, batch.index)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


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
    values = []
    for scores, truth in zip(logits.T, labels.T, strict=True):
        known = np.isfinite(truth)
        values.append(float(auroc(scores[known], truth[known] > 0.5)))
    defined = [v for v in values if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")
