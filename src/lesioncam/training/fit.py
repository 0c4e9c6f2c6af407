"""Train a classifier with Lightning: best weights by validation, resumable to the bit on a CPU."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import ImageSet, make_loader
from lesioncam.data.table.policy import Targets
from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import targets_of
from lesioncam.errors import RunError
from lesioncam.models.classifier import Classifier, build_classifier
from lesioncam.options.run import RunConfig
from lesioncam.runs.folder import RunFolder
from lesioncam.training.losses import build_loss

logger = logging.getLogger(__name__)

_QUIET = (
    "The '.*' does not have many workers",  # images lie decoded in memory; more processes would only copy them
    "The number of training batches .* is smaller than the logging interval",  # we log per epoch
    "Checkpoint directory .* exists and is not empty",  # that is what resuming is
    "You're resuming from a checkpoint that ended before the epoch ended",  # ours are written at the end of epochs
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's own use of torch.utils._pytree
    "Detected call of `lr_scheduler.step.. before `optimizer.step..`",  # Lightning restores the schedule first
)


@dataclass(frozen=True)
class Fitted:
    """A trained network and the record of how it came about."""

    network: Classifier
    best_epoch: int
    epochs: int
    seconds: float
    interrupted: bool


@dataclass(frozen=True)
class Plan:
    """What a training would take on this machine: measured on a few steps, not guessed."""

    images: dict[str, int]
    parameters: int
    steps: int
    seconds: float
    memory_gb: float
    disk_gb: float

    def text(self) -> str:
        """For people."""
        counts = ", ".join(f"{n} {name}" for name, n in self.images.items())
        return (
            f"images: {counts}\nnetwork: {self.parameters:,} parameters, {self.steps:,} steps\n"
            f"time: at most {self.seconds / 60:.1f} min of training here\n"
            f"memory: about {self.memory_gb:.1f} GB   disk: about {self.disk_gb:.2f} GB"
        )


def fit(
    table: Table,
    config: RunConfig,
    folder: RunFolder,
    *,
    resume: bool = False,
    own_pool: Callable[..., Tensor] | None = None,
    progress: bool = True,
) -> Fitted:
    """Train on the table's train rows, choose the best epoch on its val rows.

    Args:
        table: checked and split.
        config: all options.
        folder: where checkpoints and curves go (its ``log``).
        resume: go on from ``log/last.ckpt`` where there is one.
        own_pool: the user's pooling, where the configuration names one.
        progress: show a bar with the time left.

    Returns:
        The network with the weights of the best epoch; after Ctrl-C, of the best so far.

    Raises:
        RunError: if it was interrupted before the first epoch ended, or the loss is no number any more.
        LesioncamError: for an image that cannot be read.
    """
    import lightning as L

    from lesioncam.training.modules import ClassifierModule, StopOnRequest

    started = time.monotonic()
    with _threads(config.threads), calm():
        loss = build_loss(config, _targets(table.split("train"), config).middle())
        train, val = _sets(table, config)
        network = build_classifier(config, len(table.classes), own_pool=own_pool, weights="none" if resume else None)
        batches = len(make_loader(train, config.batch, shuffle=True))
        steps = config.epochs * batches
        module = ClassifierModule(_laid_out(network), config, loss, max(steps, 2))
        watch, best = _callbacks(config, folder, progress=progress)
        stop = StopOnRequest()
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision=cast("Any", _precision(config.precision)),
            max_epochs=config.epochs,
            callbacks=[stop, *watch],
            logger=_loggers(config, folder),
            default_root_dir=folder.log,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=max(1, batches),
            gradient_clip_val=config.gradient_clip or None,
        )
        last = folder.log / "last.ckpt"
        go_on = str(last) if resume and last.is_file() else None
        with _ctrl_c(stop.ask):
            interrupted = _train(trainer, module, (train, val), config, go_on)
    chosen = Path(best.best_model_path) if best.best_model_path else folder.log / "best.ckpt"
    if not chosen.is_file():
        raise RunError(
            "training was interrupted before the first epoch ended; nothing to keep. Start again with --overwrite."
        )
    epoch = _restore(module, chosen)
    return Fitted(module.network, epoch, trainer.current_epoch, time.monotonic() - started, interrupted)


def plan(table: Table, config: RunConfig, *, own_pool: Callable[..., Tensor] | None = None) -> Plan:
    """Measure a few steps on made-up images of the right size and multiply; nothing is read or written."""
    import psutil

    from lesioncam.functional.losses import bce_loss
    from lesioncam.training.aids import stretch
    from lesioncam.training.modules import laid_out

    counts = {name: len(table.split(name)) for name in ("train", "val", "test")}
    with _threads(config.threads), torch.random.fork_rng(devices=[]):
        network = _laid_out(build_classifier(config, len(table.classes), own_pool=own_pool, weights="none"))
        sides = config.preprocess.sides(config.backbone.axes)
        shape = (config.batch, config.preprocess.channels, *sides)
        images = laid_out(torch.randn(shape))
        times = []
        for _ in range(3):
            begun = time.monotonic()
            bce_loss(network(images).logits, torch.zeros(shape[0], len(table.classes))).backward()
            times.append(time.monotonic() - begun)
    steps = -(-counts["train"] // config.batch)
    seconds = min(times) * (steps * stretch(config.aids) + 0.4 * counts["val"] / config.batch) * config.epochs
    per_image = 2.0 * np.prod(shape[1:])
    cached = min(config.cache_gb, (counts["train"] + counts["val"]) * per_image / 2**30)
    used = psutil.Process().memory_info().rss / 2**30
    parameters = sum(p.numel() for p in network.parameters())
    disk = (parameters * 4 * 7 + sum(counts.values()) * 50_000) / 2**30 + (cached if config.cache else 0.0)
    return Plan(counts, parameters, steps * config.epochs, seconds, used + cached, disk)


def _targets(part: Table, config: RunConfig) -> Targets:
    return targets_of(part, config.table, config.task, config.seed)


def _laid_out(network: Classifier) -> Classifier:
    """Kernels in the layout that is fast for images, or for volumes."""
    volumes = any(parameter.ndim == 5 for parameter in network.parameters())
    return network.to(memory_format=torch.channels_last_3d if volumes else torch.channels_last)


def _sets(table: Table, config: RunConfig) -> tuple[ImageSet, ImageSet]:
    cache = ImageCache(config.preprocess, config.cache, config.cache_gb)
    train, val = table.split("train"), table.split("val")
    _warm_up(cache, [*train.frame["image"], *val.frame["image"]])
    return (
        ImageSet(list(train.frame["image"]), _targets(train, config), cache, seed=config.seed, augment=config.augment),
        ImageSet(list(val.frame["image"]), _targets(val, config).middle(), cache),
    )


def _warm_up(cache: ImageCache, images: list[str]) -> None:
    """Decode what fits, on all cores: the first epoch then runs like the others."""
    logger.info("Reading %d images.", len(images))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(images), 256):
            if cache.full:
                logger.info("The cache is full after %d images; the rest are decoded each time they are needed.", start)
                return
            list(pool.map(cache.get, images[start : start + 256]))


def _callbacks(config: RunConfig, folder: RunFolder, *, progress: bool) -> tuple[list[Any], Any]:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

    from lesioncam.training.modules import LearningCurves

    keep: dict[str, Any] = {"dirpath": folder.log, "save_top_k": 1, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val_score", mode="max", save_weights_only=True, **keep)
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **keep)
    watch: list[Any] = [LearningCurves(folder.history), best]
    if config.patience:
        watch.append(EarlyStopping("val_score", mode="max", patience=config.patience))
    if progress:
        watch.append(TQDMProgressBar())
    return [*watch, last], best


def _loggers(config: RunConfig, folder: RunFolder) -> Any:
    if not config.tensorboard:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder.log, name="tensorboard", version="")


def _train(trainer: Any, module: Any, sets: tuple[ImageSet, ImageSet], config: RunConfig, go_on: str | None) -> bool:
    """Run; True if the user interrupted it."""
    train, val = sets
    try:
        trainer.fit(
            module,
            make_loader(train, config.batch, seed=config.seed, shuffle=True),
            make_loader(val, 2 * config.batch, shuffle=False),
            ckpt_path=go_on,
            weights_only=True if go_on else None,
        )
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
        return True
    return bool(trainer.interrupted)


def _restore(module: Any, checkpoint: Path) -> int:
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(kept["state_dict"])
    module.network.to("cpu").eval()
    return int(kept["epoch"])


def _precision(name: Literal["auto", "fp32", "bf16"]) -> str:
    if name == "auto":
        name = "bf16" if torch.cuda.is_available() or _fast_bf16() else "fp32"
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[name]


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
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def calm() -> Iterator[None]:
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
