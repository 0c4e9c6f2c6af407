"""The training loop: Lightning with our checkpoints, curves and stop between two batches."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lesioncam.errors import RunError
from lesioncam.options.run import RunConfig
from lesioncam.runs.folder import RunFolder
from lesioncam.training.callbacks import LearningCurves, StopOnRequest
from lesioncam.training.modules import NetworkModule
from lesioncam.types import Batch

_QUIET = (
    "The '.*' does not have many workers",  # images lie decoded in memory; more processes would only copy them
    "The number of training batches .* is smaller than the logging interval",  # we log per epoch
    "Checkpoint directory .* exists and is not empty",  # that is what resuming is
    "You're resuming from a checkpoint that ended before the epoch ended",  # ours are written at the end of epochs
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch.utils._pytree
    "Detected call of `lr_scheduler.step.. before `optimizer.step..`",  # Lightning restores the schedule first
)


class Loaders(NamedTuple):
    """Batches to learn from and to validate on."""

    train: DataLoader[Batch]
    val: DataLoader[Batch]


class Outcome(NamedTuple):
    """How a training went."""

    best_epoch: int
    epochs: int
    interrupted: bool


def train(
    module: NetworkModule,
    loaders: Loaders,
    config: RunConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train a network of any kind and give it the weights of its best epoch, on the CPU, in eval mode.

    Args:
        module: the network, its loss and its validation.
        loaders: of both splits.
        config: epochs, precision and the like.
        folder: where checkpoints and curves go (its ``log``).
        resume: go on from ``log/last.ckpt`` where there is one.
        progress: show a bar with the time left.

    Raises:
        RunError: if it was interrupted before the first epoch ended, or the loss is no number any more.
    """
    best, stop = _checkpoint("best", folder, monitor="val_score", weights_only=True), StopOnRequest()
    watch = [stop, LearningCurves(folder.history), best, *_optional(config, progress=progress)]
    # the last checkpoint is written when all others have had their say
    last = folder.log / "last.ckpt"
    with quiet_lightning(), _ctrl_c(stop.ask):
        trainer = _trainer([*watch, _checkpoint("last", folder)], config, folder, len(loaders.train), progress=progress)
        interrupted = _run(trainer, module, loaders, str(last) if resume and last.is_file() else None)
    chosen = Path(best.best_model_path) if best.best_model_path else folder.log / "best.ckpt"
    if not chosen.is_file():
        raise RunError(
            "training was interrupted before the first epoch ended; nothing to keep. Start again with --overwrite."
        )
    return Outcome(_restore(module, chosen), trainer.current_epoch, interrupted)


def _trainer(
    callbacks: list[L.Callback], config: RunConfig, folder: RunFolder, batches: int, *, progress: bool
) -> L.Trainer:
    return L.Trainer(
        accelerator="auto",
        devices=1,
        precision=_precision(config.precision),
        max_epochs=config.epochs,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder.log, name="tensorboard", version="") if config.tensorboard else False,
        default_root_dir=folder.log,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, batches),
        gradient_clip_val=config.gradient_clip or None,
    )


def _checkpoint(
    name: str, folder: RunFolder, monitor: str | None = None, *, weights_only: bool = False
) -> ModelCheckpoint:
    """The best epoch so far by a score, or the latest whole state."""
    return ModelCheckpoint(
        folder.log,
        name,
        monitor=monitor,
        mode="max" if monitor else "min",
        save_weights_only=weights_only,
        save_on_train_epoch_end=None if monitor else True,
        enable_version_counter=False,
    )


def _optional(config: RunConfig, *, progress: bool) -> Iterator[L.Callback]:
    if config.patience:
        yield EarlyStopping("val_score", mode="max", patience=config.patience)
    if progress:
        yield TQDMProgressBar()


def _run(trainer: L.Trainer, module: NetworkModule, loaders: Loaders, checkpoint: str | None) -> bool:
    """Run, from a checkpoint where one is given; True if the user interrupted it."""
    try:
        trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
        return True
    return bool(trainer.interrupted)


def _restore(module: NetworkModule, checkpoint: Path) -> int:
    """The weights of a checkpoint; gives its epoch."""
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(kept["state_dict"])
    module.network.to("cpu").eval()
    return int(kept["epoch"])


def _precision(name: Literal["auto", "fp32", "bf16"]) -> Literal["32-true", "bf16-mixed"]:
    if name == "auto":
        name = "bf16" if torch.cuda.is_available() or _fast_bf16() else "fp32"
    return "32-true" if name == "fp32" else "bf16-mixed"


def _fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it is slower than fp32."""
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@contextmanager
def _ctrl_c(ask: Callable[..., None]) -> Iterator[None]:
    """Hand Ctrl-C to ``ask``, and give it back as it was: Lightning leaves it switched off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice that does not apply here, silenced by exact message; everything else still speaks."""
    chatty = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [log.level for log in chatty]
    for log in chatty:
        log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _QUIET:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for log, level in zip(chatty, levels, strict=True):
                log.setLevel(level)
