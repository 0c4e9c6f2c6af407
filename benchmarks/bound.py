"""The bound of weak supervision: a U-Net trained on the masks of the very images whose labels the others learn from.

`python -m benchmarks.bound TABLE -o DIR` trains MONAI's U-Net on the masks of train, takes the epoch with the best
Dice on val, writes the probability maps of val and test and measures both as the maps of another tool are measured:
thresholds from val, controls, intervals, report. Augmentation and preprocessing are
those of `lesioncam run`. `lesioncam evaluate RUN --bound DIR/maps` shows it beside a weak run.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from lesioncam.data.augment import apply_augment, apply_placement, sample_augment
from lesioncam.data.io.image import read_picture
from lesioncam.data.preprocess import Preprocess
from lesioncam.data.table.table import Table, read_table
from lesioncam.measurement.truth import read_masks
from lesioncam.options.run import RunConfig, make_config
from lesioncam.types import Record, Sample
from lesioncam.verbs.evaluate_maps import evaluate_maps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """Images and masks in the network's frame: ``(N, 1, S, S)``, ``(N, K, S, S)``; the samples know the way back."""

    images: Tensor
    masks: Tensor
    samples: Sequence[Sample]
    records: Sequence[Record]


def asked(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bound", description=__doc__)
    parser.add_argument("table", type=Path, help="with a split and masks")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    args = asked(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    table = read_table(args.table)
    config = make_config(size=args.size, epochs=args.epochs, batch=args.batch, seed=args.seed)
    begun = time.monotonic()
    net = train(drawn(table, "train", config), drawn(table, "val", config), config)
    logger.info("trained in %.0f s", time.monotonic() - begun)
    for split in ("val", "test"):
        write_maps(net, drawn(table, split, config), table.classes, args.out / "maps")
    for split in ("val", "test"):
        found = evaluate_maps(args.out / "maps", args.table, args.out / "measured", split, name="unet", config=config)
        own = found[(found["method"] == "unet") & found["metric"].isin(["dice", "pointing_game"])]
        print(own[["class", "metric", "value", "low", "high"]].to_string(index=False))
    return 0


def drawn(table: Table, split: str, config: RunConfig) -> Drawn:
    """Every image of a split that has a mask or none of the findings."""
    prepare = Preprocess(config.preprocess)
    images, masks, samples, records = [], [], [], []
    part = table.split(split)
    for record, labels in zip(part.records(), part.states, strict=True):
        image = read_picture(record.image).pixels
        sample = prepare(image, record.id)
        native = sample.geometry.native
        own = read_masks(record, table.classes, labels, native)
        if not own and np.nanmax(labels) > 0:  # it has a finding that nobody outlined
            continue
        stack = np.stack([own.get(name, np.zeros(native, bool)) for name in table.classes]).astype(np.float32)
        images.append(sample.image)
        masks.append(sample.geometry.to_input(torch.from_numpy(stack)[None])[0])
        samples.append(sample)
        records.append(record)
    return Drawn(torch.from_numpy(np.stack(images)), torch.stack(masks), samples, records)


def network(classes: int, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(2, 1, classes, channels=(16, 32, 64, 128), strides=(2, 2, 2), norm="batch")


def train(data: Drawn, val: Drawn, config: RunConfig) -> nn.Module:
    """Cross-entropy plus soft Dice; weights of the epoch with the best Dice on val at probability .5."""
    net = network(data.masks.shape[1], config.seed)
    per_epoch = -(-len(data.images) // config.batch)
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=config.epochs * per_epoch)
    best, kept = -1.0, net.state_dict()
    for epoch in range(config.epochs):
        net.train()
        order = np.random.default_rng([config.seed, epoch]).permutation(len(data.images))
        for chunk in np.array_split(order, per_epoch):
            images, masks = changed(data, chunk, epoch, config)
            loss = objective(net(images), masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        now = dice_of(net, val)
        logger.info("epoch %d: Dice on val %.3f", epoch, now)
        if now > best:
            best, kept = now, {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(kept)
    return net.eval()


def changed(data: Drawn, chunk: np.ndarray, epoch: int, config: RunConfig) -> tuple[Tensor, Tensor]:
    """A batch, augmented as the weak network's are; masks go where their pixels go."""
    rngs = [np.random.default_rng([config.seed, epoch, int(i)]) for i in chunk]
    changes = [sample_augment(rng, config.augment) for rng in rngs]
    valid = torch.from_numpy(np.stack([data.samples[i].valid for i in chunk]))[:, None]
    images, _ = apply_augment(changes, data.images[chunk], valid)
    return images, (apply_placement(changes, data.masks[chunk]) > 0.5).float()


def objective(logits: Tensor, masks: Tensor) -> Tensor:
    probabilities = logits.sigmoid()
    both = (probabilities * masks).sum((0, 2, 3))
    overlap = (2 * both + 1) / (probabilities.sum((0, 2, 3)) + masks.sum((0, 2, 3)) + 1)
    return nn.functional.binary_cross_entropy_with_logits(logits, masks) + 1 - overlap.mean()


@torch.no_grad()
def probabilities(net: nn.Module, images: Tensor) -> Tensor:
    net.eval()
    return torch.cat([net(chunk).sigmoid() for chunk in images.split(32)])


def dice_of(net: nn.Module, data: Drawn) -> float:
    """Mean over images and the classes they have, in the network's frame."""
    found, truth = probabilities(net, data.images) > 0.5, data.masks > 0.5
    both, either = (found & truth).sum((2, 3)), found.sum((2, 3)) + truth.sum((2, 3))
    present = truth.any(3).any(2)
    return float((2 * both / either.clamp(min=1))[present].mean())


def write_maps(net: nn.Module, data: Drawn, classes: Sequence[str], folder: Path) -> None:
    """Probabilities on the images' own pixels, one file an image; outside the crop nothing is suspected."""
    folder.mkdir(parents=True, exist_ok=True)
    found = probabilities(net, data.images)
    for record, sample, maps in zip(data.records, data.samples, found, strict=True):
        native = sample.geometry.to_native(maps.numpy(), fill=0.0)
        path = folder / f"{Path(record.id).name}.npz"
        np.savez_compressed(path, raw=np.asarray(native, np.float32), classes=np.array(classes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
