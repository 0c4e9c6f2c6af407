"""Batches for training.

Order and augmentation follow from (seed, epoch, record) alone, so a resumed run equals an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lesioncam.data.augment import apply_augment, sample_augment
from lesioncam.data.cache import ImageCache
from lesioncam.data.table.policy import Targets
from lesioncam.options.data import AugmentConfig
from lesioncam.types import Batch

Place = tuple[int, int]
"""(epoch, index): whoever fetches an image knows the epoch without shared state."""


class EpochSampler(Sampler[Place]):
    """A fresh order per epoch, from (seed, epoch); a shorter last batch is filled up from the start of the order.

    Example:
        >>> sampler = EpochSampler(3, batch=2, seed=0)
        >>> sampler.set_epoch(1)
        >>> len(list(sampler)), {epoch for epoch, _ in sampler}
        (4, {1})
    """

    def __init__(self, count: int, batch: int, seed: int, *, shuffle: bool = True) -> None:
        self._count, self._batch, self._seed, self._shuffle = count, batch, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self._count // self._batch) * self._batch if self._shuffle else self._count

    def __iter__(self) -> Iterator[Place]:
        order = np.arange(self._count)
        if self._shuffle:
            np.random.default_rng([self._seed, self.epoch]).shuffle(order)
            order = np.resize(order, len(self))  # batch norm dislikes a last batch of one
        return iter([(self.epoch, int(i)) for i in order])


class ImageSet(Dataset[Batch]):
    """Images with labels; whole batches are fetched at once so that augmentation runs on the batch."""

    def __init__(
        self,
        images: Sequence[str],
        labels: np.ndarray | Targets,
        cache: ImageCache,
        *,
        seed: int = 0,
        augment: AugmentConfig | None = None,
    ) -> None:
        self._images, self._cache = list(images), cache
        self._targets = labels if isinstance(labels, Targets) else Targets(labels, labels)
        self._seed, self._augment = seed, augment

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Place) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: list[Place]) -> Batch:
        index = [i for _, i in places]
        entries = [self._cache.get(self._images[i]) for i in index]
        images = torch.from_numpy(np.stack([image for image, _ in entries]).astype(np.float32))
        valid = torch.from_numpy(np.stack([inside for _, inside in entries]))[:, None]
        if self._augment is not None:
            rngs = [np.random.default_rng([self._seed, epoch, i]) for epoch, i in places]
            changes = [sample_augment(rng, self._augment, images.ndim - 2) for rng in rngs]
            images, valid = apply_augment(changes, images, valid)
        labels = torch.from_numpy(self._targets.at(places[0][0], index))  # all places of a batch are of one epoch
        return Batch(images, valid, labels, torch.tensor(index))


def make_loader(images: ImageSet, batch: int, *, seed: int = 0, shuffle: bool, workers: int = 0) -> DataLoader[Batch]:
    """A loader whose order depends on (seed, epoch) only."""
    sampler = EpochSampler(len(images), batch, seed, shuffle=shuffle)
    return DataLoader(
        images,
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_whole,
        pin_memory=False,
    )


def _whole(batch: object) -> object:
    return batch
