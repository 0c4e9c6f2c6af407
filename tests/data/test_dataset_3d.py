"""Batches of volumes: prepared once, the same whenever (seed, epoch, record) are, and from disk as from memory."""

import nibabel as nib
import numpy as np
import torch

from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import ImageSet
from lesioncam.options.data import AugmentConfig, PreprocessConfig


def write(folder, count: int = 3) -> list[str]:
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        voxels = rng.integers(0, 500, (12 + i, 16, 9), dtype=np.int16)
        nib.Nifti1Image(voxels, np.diag([2.0, 1.0, 3.0, 1.0])).to_filename(folder / f"{i}.nii.gz")
        files.append(str(folder / f"{i}.nii.gz"))
    return files


def test_a_batch_holds_volumes_with_their_valid_places(tmp_path):
    files = write(tmp_path)
    cache = ImageCache(PreprocessConfig(size=(12, 16, 20), crop=False))
    batch = ImageSet(files, np.eye(3, dtype=np.float32), cache).__getitems__([(0, 2), (0, 0)])
    assert batch.images.shape == (2, 1, 12, 16, 20)
    assert batch.valid.shape == (2, 1, 12, 16, 20)
    assert batch.labels.tolist() == [[0, 0, 1], [1, 0, 0]]
    # 9 slices of 3 mm, 16 rows of 1 mm, 12 columns of 2 mm: 27 x 16 x 24 mm at 12 / 27 voxels a mm
    assert batch.valid[1, 0].any(2).any(1).sum() == 12
    assert batch.valid[1, 0].any(2).any(0).sum() == 7
    assert batch.valid[1, 0].any(1).any(0).sum() == 11


def test_augmented_batches_repeat_and_change_with_the_epoch(tmp_path):
    files = write(tmp_path)
    sets = [
        ImageSet(files, np.zeros((3, 1)), ImageCache(PreprocessConfig(size=16)), seed=4, augment=AugmentConfig())
        for _ in range(2)
    ]
    one, two = (each.__getitems__([(1, 0), (1, 2)]).images for each in sets)
    assert torch.equal(one, two)
    assert torch.equal(one[1:], sets[0].__getitems__([(1, 2)]).images)
    assert not torch.equal(one, sets[0].__getitems__([(2, 0), (2, 2)]).images)


def test_a_folder_of_prepared_volumes_gives_what_the_files_give(tmp_path):
    files = write(tmp_path, 1)
    fresh = ImageCache(PreprocessConfig(size=16), tmp_path / "cache").get(files[0])
    kept = list((tmp_path / "cache").glob("*.npz"))
    assert len(kept) == 1
    again = ImageCache(PreprocessConfig(size=16), tmp_path / "cache").get(files[0])
    assert all(np.array_equal(a, b) for a, b in zip(fresh, again, strict=True))
