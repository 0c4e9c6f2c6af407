"""Poolings against the forward pass they end: what the choice of a pooling costs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.explain import alternate, one_thread
from lesioncam.models.classifier import Classifier, build_classifier
from lesioncam.models.pooling import LEARNABLE, Pool, PoolInput, build_pool
from lesioncam.options.poolings import POOLING_TYPES, parse_pooling
from lesioncam.options.run import make_config

CLASSES, BATCH, SIDE, STRIDE, ROUNDS = 14, 32, 256, 8, 5
LIMITS = {True: 5.0, False: 2.0}
"""Percent of the forward pass: with weights of its own, and without."""


def run() -> str:
    with one_thread(), torch.inference_mode():
        config = make_config(backbone=f"resnet18,stride={STRIDE}", preprocess={"channels": 3}, pooling="avg")
        net = build_classifier(config, CLASSES).eval()
        images = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = net.backbone(images)
        maps = net.head(features)
        given = PoolInput(features.shape[1], CLASSES)
        pools = {name: build_pool(parse_pooling(name), given=given) for name in sorted(POOLING_TYPES)}
        took = alternate(
            {"forward": partial(net.backbone, images)}
            | {name: partial(ended, net, pool, maps, features) for name, pool in pools.items()},
            ROUNDS,
        )
    grid = " x ".join(map(str, maps.shape[2:]))
    text = (
        f"## Poolings\n\n{CLASSES} class maps of {grid} cells, {BATCH} images of {SIDE} x {SIDE} pixels, ResNet-18 at "
        f"stride {STRIDE}, one thread: its forward pass takes {took['forward'] / 1e3:.1f} s. ACAM includes the maps "
        "that are shown. Medians, taken in turns.\n\n"
        "| pooling | median | share of the forward pass | limit | |\n|---|---|---|---|---|\n"
    )
    for name in pools:
        share, limit = 100 * took[name] / took["forward"], LIMITS[name in LEARNABLE]
        verdict = "kept" if share <= limit else "**missed**"
        text += f"| {name} | {took[name]:.1f} ms | {share:.2f} % | {limit:g} % | {verdict} |\n"
    return text


def ended(net: Classifier, pool: Pool, maps: Tensor, features: Tensor) -> Tensor:
    """Everything behind the class maps."""
    pool.attended(maps, features, net.head.bias)
    return pool(maps, features)
