"""Our training loop against a bare PyTorch loop over the same tensors: alternating epochs, medians."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image

from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import ImageSet, make_loader
from lesioncam.functional.losses import bce_loss
from lesioncam.models.classifier import build_classifier
from lesioncam.options.data import AugmentConfig
from lesioncam.options.run import make_config
from lesioncam.training.loop import quiet_lightning
from lesioncam.training.losses import BinaryCrossEntropy
from lesioncam.training.modules import ClassifierModule

IMAGES, ROUNDS, FLOOR = 256, 7, 0.9


def images(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        Image.fromarray(rng.integers(0, 255, (128, 128), dtype=np.uint8)).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(IMAGES)]


class Clock(L.Callback):
    """Seconds of each epoch of Lightning, validation and start left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)


def ours(data: ImageSet, config: Any) -> float:
    network = build_classifier(config, 2).to(memory_format=torch.channels_last)
    module = ClassifierModule(network, config, BinaryCrossEntropy(torch.ones(2)), 10_000)
    clock = Clock()
    with quiet_lightning():
        trainer = L.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, make_loader(data, config.batch, shuffle=True))
    return clock.seconds[0]


def bare(data: ImageSet, config: Any) -> float:
    network = build_classifier(config, 2).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    begun = time.perf_counter()
    for batch in make_loader(data, config.batch, shuffle=True):
        optimizer.zero_grad()
        pictures = batch.images.contiguous(memory_format=torch.channels_last)
        bce_loss(network(pictures, batch.valid).logits, batch.labels).backward()
        optimizer.step()
    return time.perf_counter() - begun


def run() -> str:
    config = make_config(precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        labels = np.random.default_rng(0).integers(0, 2, (IMAGES, 2)).astype(np.float32)
        data = ImageSet(images(Path(folder)), labels, ImageCache(config.preprocess), augment=AugmentConfig())
        ours(data, config)
        bare(data, config)  # decoded and warm
        pairs = [(ours(data, config), bare(data, config)) for _ in range(ROUNDS)]
    fast, plain = (statistics.median(times) for times in zip(*pairs, strict=True))
    verdict = "kept" if plain / fast >= FLOOR else "**missed**"
    return (
        f"## Training loop (default network, {IMAGES} images of 128 x 128, batch {config.batch}, fp32; "
        f"{ROUNDS} alternating rounds)\n\n"
        "| | images a second |\n|---|---|\n"
        f"| lesioncam | {IMAGES / fast:.1f} |\n| bare PyTorch loop, same tensors | {IMAGES / plain:.1f} |\n\n"
        f"Ratio of medians {plain / fast:.3f}; at least {FLOOR} was asked: {verdict}.\n"
    )
