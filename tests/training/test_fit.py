"""Training: the same seed gives the same weights, a killed run resumes to the bit, Ctrl-C leaves a usable run."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import lesioncam as lc
from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import EpochSampler, ImageSet, make_loader
from lesioncam.errors import LesioncamError
from lesioncam.files import read_json
from lesioncam.options.data import AugmentConfig, PreprocessConfig
from lesioncam.options.run import make_config
from lesioncam.training import fit as training


def weights(run):
    return load_file(run / "model" / "weights.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def reference(toy, quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    lc.train(toy, out, **quick)
    return out


def test_the_same_seed_gives_the_same_weights(toy, quick, tmp_path, reference):
    torch.manual_seed(123)  # the caller's random state must not matter
    before = signal.getsignal(signal.SIGINT)
    lc.train(toy, tmp_path / "again", **quick)
    assert signal.getsignal(signal.SIGINT) is before
    assert same(weights(reference), weights(tmp_path / "again"))
    lc.train(toy, tmp_path / "other", **quick, seed=1)
    assert not same(weights(reference), weights(tmp_path / "other"))


SCRIPT = textwrap.dedent(
    """
    import sys
    import lesioncam as lc
    lc.train({table!r}, {out!r}, **{options!r})
    """
)


def start(table, out, options):
    code = SCRIPT.format(table=str(table), out=str(out), options=options)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_epochs(out, count, process):
    history = out / "log" / "history.csv"
    for _ in range(1200):
        if history.is_file() and len(history.read_text().splitlines()) > count:
            return
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    raise AssertionError("no epoch ended in a minute")


@pytest.fixture(scope="module")
def longer(toy, quick, tmp_path_factory):
    """An unbroken run of six epochs, to compare with."""
    out = tmp_path_factory.mktemp("longer") / "run"
    lc.train(toy, out, **{**quick, "epochs": 6})
    return out


def test_a_killed_run_resumes_to_the_same_weights(toy, quick, tmp_path, longer):
    out = tmp_path / "killed"
    process = start(toy, out, {**quick, "epochs": 6})
    wait_for_epochs(out, 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "model").exists(), "it was killed too late to prove anything"
    assert read_json(out / "state.json")["state"] == "running"
    lc.train(None, out, resume=True)
    assert same(weights(longer), weights(out))
    mine, theirs = (pd.read_csv(run / "log" / "history.csv").drop(columns="seconds") for run in (out, longer))
    pd.testing.assert_frame_equal(mine, theirs)


def test_ctrl_c_leaves_a_usable_run(toy, quick, tmp_path, longer):
    out = tmp_path / "stopped"
    process = start(toy, out, {**quick, "epochs": 200})
    wait_for_epochs(out, 1, process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert read_json(out / "state.json")["state"] == "interrupted"
    results = lc.predict(out, [toy.parent / "p00_0.png"], threshold="default")
    assert results[0].heatmap.native().shape == (2, 64, 48)


def test_resuming_with_other_options_is_refused(reference):
    with pytest.raises(LesioncamError, match="other options"):
        lc.train(None, reference, resume=True, epochs=99)


def test_unknown_labels_have_no_say(toy, quick, tmp_path):
    """Blanking a class in the rows of one patient changes nothing but that class's part of the loss."""
    table = lc.read_table(toy, columns={"image": "file"})
    labels = table.labels()
    labels[:, 1] = np.nan
    images = ImageSet(list(table.frame["image"]), labels, ImageCache(PreprocessConfig(size=64)))
    batch = images.__getitems__([(0, 0), (0, 1)])
    assert batch.labels[:, 1].isnan().all()
    assert not batch.labels[:, 0].isnan().any()


def test_order_and_augmentation_follow_from_seed_and_epoch(toy):
    table = lc.read_table(toy, columns={"image": "file"})
    images = list(table.frame["image"])

    def epoch(number, seed=0):
        data = ImageSet(
            images, table.labels(), ImageCache(PreprocessConfig(size=64)), seed=seed, augment=AugmentConfig()
        )
        loader = make_loader(data, 32, seed=seed, shuffle=True)
        loader.sampler.set_epoch(number)
        return [(batch.index, batch.images) for batch in loader]

    first, again, second = epoch(0), epoch(0), epoch(1)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], second[0][0])
    record = int(first[0][0][0])
    where = torch.cat([index for index, _ in second]).tolist().index(record)
    changed = torch.cat([pictures for _, pictures in second])[where]
    assert not torch.equal(first[0][1][0], changed)  # another epoch, another change


def test_every_image_is_seen_once_and_the_last_batch_is_full():
    sampler = EpochSampler(10, batch=4, seed=0)
    seen = [i for _, i in sampler]
    assert len(seen) == 12
    assert set(seen) == set(range(10))
    assert [i for _, i in EpochSampler(10, 4, 0, shuffle=False)] == list(range(10))


def test_the_cache_decodes_once_and_keeps_its_limit(toy, tmp_path, monkeypatch):
    images = list(lc.read_table(toy, columns={"image": "file"}).frame["image"])[:8]
    calls = []
    import lesioncam.data.cache as module

    real = module.read_picture
    monkeypatch.setattr(module, "read_picture", lambda path: calls.append(path) or real(path))
    cache = ImageCache(PreprocessConfig(size=64), tmp_path / "kept")
    first = [cache.get(path) for path in images]
    again = [cache.get(path) for path in images]
    assert len(calls) == 8
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    other = ImageCache(PreprocessConfig(size=64), tmp_path / "kept")
    assert np.array_equal(other.get(images[0])[0], first[0][0])
    assert len(calls) == 8  # from the folder, not from the file
    names = [path.name for path in (tmp_path / "kept").iterdir()]
    assert not any("p0" in name for name in names)  # digests, no names of images
    ImageCache(PreprocessConfig(size=32), tmp_path / "kept").get(images[0])
    assert len(calls) == 9  # another preparation is another entry
    tiny = ImageCache(PreprocessConfig(size=64), limit_gb=3 * 64 * 64 * 3 / 2**30)
    for path in images:
        tiny.get(path)
    assert tiny.full


def test_a_plan_measures_without_writing(toy, quick, tmp_path):
    made = training.plan(lc.read_table(toy, columns={"image": "file"}), make_config(**quick))
    assert made.images == {"train": 48, "val": 24, "test": 24}
    assert made.steps == 9
    assert made.seconds > 0
    assert "48 train" in made.text()


def test_training_learns_the_toy(toy, quick, tmp_path):
    """Not a shape: the network must tell the two kinds apart from labels alone."""
    out = tmp_path / "run"
    lc.train(toy, out, **{**quick, "epochs": 30, "batch": 8, "backbone": "slim,channels=[16,16,32,32],stem_width=16"})
    history = pd.read_csv(out / "log" / "history.csv")
    assert history["val_auroc"].max() > 0.8
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
