"""The thin Lightning side of training: a network, a batch, a loss, and the scores that epochs are ranked by."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lesioncam.errors import RunError
from lesioncam.functional.calibration import log_odds
from lesioncam.functional.losses import negative_map_loss
from lesioncam.functional.metrics import auroc, kappa_quadratic
from lesioncam.models.classifier import Classifier
from lesioncam.models.layout import channels_last
from lesioncam.options.run import RunConfig
from lesioncam.training.aids import Warp, disagreement, erase_hottest, lattice_of, second_view, step_rng
from lesioncam.training.losses import ImageLoss
from lesioncam.training.optimizers import make_optimizer, make_schedule, parameter_groups
from lesioncam.types import Batch

TIE = 1e-4
"""Epochs are ranked by a score of validation; this much of the loss decides where it is equal, as when AUROC is 1."""

_STREAM = 7_919  # keeps the model's random stream apart from order and augmentation


class NetworkModule(L.LightningModule):
    """A network that learns from batches; subclasses say its loss, and validate.

    Randomness of step t follows from (seed, t) alone.

    Args:
        network: any.
        config: how it is optimised, and by which score epochs are ranked (``selects``).
        loss: its parameters, where it has some, are learnt with the network's.
        steps: of the whole training.
    """

    def __init__(self, network: nn.Module, config: RunConfig, loss: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.options, self.loss, self._steps = network, config, loss, steps

    def batch_loss(self, batch: Batch) -> Tensor:
        """Loss of a training batch, a scalar; dropout and its like are drawn from (seed, step)."""
        raise NotImplementedError

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """One step.

        Raises:
            RunError: where the loss is not finite.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed * _STREAM + self.global_step)
            loss = self.batch_loss(batch)
        self._check_finite(float(loss.detach()), "training")
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.images))
        return loss

    def log_validation(self, loss: float, scores: Mapping[str, float]) -> None:
        """Log loss and scores of the validation split, and ``val_score``, by which the best epoch is chosen.

        Raises:
            RunError: where the loss is not finite.
        """
        self._check_finite(loss, "validation")
        for name, value in {"loss": loss, **scores}.items():
            self.log(f"val_{name}", value, prog_bar=True)
        ranking = scores.get(self.options.selects, 0.0)
        by_loss = self.options.selects == "loss"
        self.log("val_score", -loss if by_loss else (0.0 if math.isnan(ranking) else ranking) - TIE * loss)

    def _check_finite(self, loss: float, what: str) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the {what} loss is {loss} in epoch {self.current_epoch}, after {self.global_step} steps; training "
                "stops. Lower --learning-rate, set --gradient-clip 1 or use --precision fp32; if the pooling is your "
                "own, see that its gradient is finite (a root or a logarithm of 0, a division by 0)."
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """What the configuration asks for."""
        groups = parameter_groups(self.network, self.loss.parameters(), self.options.weight_decay)
        optimizer = make_optimizer(groups, self.options)
        schedule = make_schedule(optimizer, self.options, self._steps)
        return optimizer if schedule is None else {"optimizer": optimizer, "lr_scheduler": schedule}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Our batch is a frozen dataclass; move its tensors."""
        del dataloader_idx
        parts = (batch.images, batch.valid, batch.labels, batch.index)
        return Batch(*(part.to(device, non_blocking=True) for part in parts))


class ClassifierModule(NetworkModule):
    """A classifier and its loss on image-level labels."""

    network: Classifier
    loss: ImageLoss

    def __init__(self, network: Classifier, config: RunConfig, loss: ImageLoss, steps: int) -> None:
        super().__init__(network, config, loss, steps)
        aided = config.aids.equivariance or config.aids.erasing
        self._lattice = lattice_of(network, config.preprocess.channels) if aided else None
        self._seen: list[tuple[Tensor, Tensor]] = []

    def batch_loss(self, batch: Batch) -> Tensor:
        """The loss of the labels, and of the maps where the configuration asks for that."""
        batch, warp = self._aided(batch)
        output = self.network(channels_last(batch.images), batch.valid)
        loss: Tensor = self.loss(output.logits, batch.labels, self.current_epoch)
        if self.options.dense_negative:
            cold = negative_map_loss(output.class_maps, batch.labels, output.valid)
            loss = loss + self.options.dense_negative * cold
        if warp is not None and self._lattice is not None:
            apart = disagreement(output, batch.valid, warp, self._lattice, self.options)
            loss = loss + self.options.aids.equivariance * apart
        return loss

    def _aided(self, batch: Batch) -> tuple[Batch, Warp | None]:
        """The batch as the aids make it: erased, with a second view; as it is where all are off."""
        aids = self.options.aids
        rng = step_rng(self.options.seed, self.global_step)
        if aids.erasing and self._lattice is not None:
            batch = erase_hottest(batch, self.network, self._lattice, rng.random(len(batch.images)), aids)
        return second_view(batch, rng, self.options) if aids.equivariance else (batch, None)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's scores."""
        self._seen.clear()

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Keep logits and labels: loss and AUROC are of the whole split, not means over batches."""
        output = self.network(channels_last(batch.images), batch.valid)
        self._seen.append((output.logits.float().cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Macro AUROC and (of grades) kappa over the known labels."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        loss = float(self.loss.compare(logits.to(self.device), labels.to(self.device)))
        predicted, truth = logits.numpy(), labels.numpy()
        scores = {"auroc": _macro_auroc(log_odds(predicted) if self.options.softmax else predicted, truth)}
        if self.options.ordinal or self.options.selects == "kappa":
            scores["kappa"] = _kappa(predicted, truth)
        self.log_validation(loss, scores)


def _macro_auroc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have both sides; soft labels are no truth and take no part."""
    values = [float(auroc(scores, truth)) for scores, truth in zip(logits.T, labels.T, strict=True)]
    defined = [v for v in values if np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def _kappa(logits: np.ndarray, labels: np.ndarray) -> float:
    """Of the most likely grade, over the images whose grade is known."""
    truth = np.where(np.isnan(labels).any(axis=1), -1, np.nan_to_num(labels).argmax(axis=1))
    return float(kappa_quadratic(logits.argmax(axis=1), truth, logits.shape[1]))
