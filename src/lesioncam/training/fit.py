"""Train a classifier: best weights by validation, resumable to the bit on a CPU."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import ImageSet, make_loader
from lesioncam.data.table.policy import Targets
from lesioncam.data.table.table import Table
from lesioncam.data.table.targets import targets_of
from lesioncam.models.classifier import Classifier, build_classifier
from lesioncam.models.layout import channels_last, memory_format
from lesioncam.options.run import RunConfig
from lesioncam.runs.folder import RunFolder
from lesioncam.training.losses import build_loss

logger = logging.getLogger(__name__)

OwnPool = Callable[..., Tensor]


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
    own_pool: OwnPool | None = None,
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
    from lesioncam.training.loop import Loaders, train
    from lesioncam.training.modules import ClassifierModule

    started = time.monotonic()
    with _threads(config.threads):
        loss = build_loss(config, _targets(table.split("train"), config).middle())
        train_set, val_set = _sets(table, config)
        network = _build(config, len(table.classes), own_pool, "none" if resume else None)
        loaders = Loaders(
            make_loader(train_set, config.batch, seed=config.seed, shuffle=True),
            make_loader(val_set, 2 * config.batch, shuffle=False),
        )
        module = ClassifierModule(network, config, loss, max(config.epochs * len(loaders.train), 2))
        outcome = train(module, loaders, config, folder, resume=resume, progress=progress)
    return Fitted(network, outcome.best_epoch, outcome.epochs, time.monotonic() - started, outcome.interrupted)


def plan(table: Table, config: RunConfig, *, own_pool: OwnPool | None = None) -> Plan:
    """Measure a few steps on made-up images of the right size and multiply; nothing is read or written."""
    import psutil

    from lesioncam.training.aids import stretch

    counts = {name: len(table.split(name)) for name in ("train", "val", "test")}
    with _threads(config.threads), torch.random.fork_rng(devices=[]):
        network = _build(config, len(table.classes), own_pool, "none")
        step = _seconds_of_a_step(network, config, len(table.classes))
    steps = -(-counts["train"] // config.batch)
    seconds = step * (steps * stretch(config.aids) + 0.4 * counts["val"] / config.batch) * config.epochs
    per_image = 2.0 * math.prod(_shape(config)[1:])
    cached = min(config.cache_gb, (counts["train"] + counts["val"]) * per_image / 2**30)
    used = psutil.Process().memory_info().rss / 2**30
    parameters = sum(p.numel() for p in network.parameters())
    disk = (parameters * 4 * 7 + sum(counts.values()) * 50_000) / 2**30 + (cached if config.cache else 0.0)
    return Plan(counts, parameters, steps * config.epochs, seconds, used + cached, disk)


def _shape(config: RunConfig) -> tuple[int, ...]:
    """Of a batch of images, ``(N, C, *S)``."""
    return (config.batch, config.preprocess.channels, *config.preprocess.sides(config.backbone.axes))


def _seconds_of_a_step(network: Classifier, config: RunConfig, classes: int) -> float:
    """Forward and backward pass of a batch, the fastest of three."""
    from lesioncam.functional.losses import bce_loss

    images, times = channels_last(torch.randn(_shape(config))), []
    for _ in range(3):
        begun = time.monotonic()
        bce_loss(network(images).logits, torch.zeros(len(images), classes)).backward()
        times.append(time.monotonic() - begun)
    return min(times)


def _targets(part: Table, config: RunConfig) -> Targets:
    return targets_of(part, config.table, config.task, config.seed)


def _build(config: RunConfig, classes: int, own_pool: OwnPool | None, weights: str | None) -> Classifier:
    """A fresh classifier, its kernels in the layout that is fast."""
    network = build_classifier(config, classes, own_pool=own_pool, weights=weights)
    return network.to(memory_format=memory_format(network.backbone.axes))


def _sets(table: Table, config: RunConfig) -> tuple[ImageSet, ImageSet]:
    cache = ImageCache(config.preprocess, config.cache, config.cache_gb)
    train, val = table.split("train"), table.split("val")
    _warm_up(cache, [*train.images(), *val.images()])
    return (
        ImageSet(train.images(), _targets(train, config), cache, seed=config.seed, augment=config.augment),
        ImageSet(val.images(), _targets(val, config).middle(), cache),
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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
