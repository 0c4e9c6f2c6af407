"""Aids against shortcuts: what a second view and erasing do, by construction; off, nothing moves."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lesioncam as lc
from lesioncam.errors import OptionError, RunError
from lesioncam.models.classifier import build_classifier
from lesioncam.models.layout import channels_last
from lesioncam.options.run import RunConfig, make_config
from lesioncam.training.aids import (
    Lattice,
    Warp,
    disagreement,
    draw_warp,
    erase,
    erase_hottest,
    hottest,
    lattice_of,
    second_view,
    step_rng,
    warp_images,
)
from lesioncam.training.losses import build_loss
from lesioncam.training.modules import ClassifierModule
from lesioncam.types import Batch, ClassifierOutput

NAN = float("nan")
SIDES = {2: (48, 64), 3: (24, 32, 40)}


def batch_of(images, labels=None):
    labels = torch.ones(len(images), 1) if labels is None else labels
    valid = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)
    return Batch(images, valid, labels, torch.arange(len(images)))


def ramps(axes, count=4):
    """Images that rise evenly in some direction, whose interpolation and local means are exact."""
    grids = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SIDES[axes]), indexing="ij")
    slopes = np.random.default_rng(0).normal(size=(count, axes))
    return torch.stack([sum(float(a) * g for a, g in zip(slope, grids, strict=True)) for slope in slopes])[:, None]


class Strided(nn.Module):
    """Exactly equivariant up to its grid: the mean of each tile, or the tile's first pixel; then a 1x1 convolution."""

    def __init__(self, axes, stride, mean):
        super().__init__()
        self.stride, self.mean, self.axes = stride, mean, axes
        self.head = {2: nn.Conv2d, 3: nn.Conv3d}[axes](1, 2, 1)
        nn.init.constant_(self.head.weight, 3.0)

    def forward(self, images, valid=None):
        pool = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}[self.axes]
        cells = images[(..., *(slice(None, None, self.stride),) * self.axes)]
        maps = self.head(pool(images, self.stride) if self.mean else cells)
        return ClassifierOutput(maps.flatten(2).mean(2), maps, valid)


# ---- a second view -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("mean", [True, False], ids=["means", "first pixels"])
def test_an_equivariant_network_has_no_loss_only_where_its_cells_are_known(axes, mean):
    net, config = Strided(axes, 4, mean), make_config(equivariance=1.0)
    looks, wrong = (Lattice((first,) * axes, 4) for first in ((1.5, 0.0) if mean else (0.0, 1.5)))
    both, warp = second_view(batch_of(ramps(axes)), step_rng(0, 0), config)
    output = net(both.images, both.valid)
    assert disagreement(output, both.valid, warp, looks, config).item() < 1e-5
    assert disagreement(output, both.valid, warp, wrong, config).item() > 1e-3
    still = Warp(torch.eye(axes).expand(4, axes, axes), torch.zeros(4, axes), SIDES[axes])
    assert disagreement(output, both.valid, still, looks, config).item() > 1e-2


def test_the_loss_compares_many_cells_and_none_outside():
    """A network that is wrong everywhere by a known amount: p = .5 against p = sigmoid(log 3) = .75."""
    config = make_config(equivariance=1.0)
    both, warp = second_view(batch_of(ramps(2)), step_rng(0, 0), config)
    maps = torch.cat([torch.zeros(4, 1, 12, 16), torch.full((4, 1, 12, 16), math.log(3.0))])
    found = disagreement(ClassifierOutput(maps[:, :, 0, 0], maps), both.valid, warp, Lattice((1.5, 1.5), 4), config)
    assert found.item() == pytest.approx(0.25, abs=1e-6)
    far = Warp(warp.matrix, torch.full((4, 2), 1000.0), warp.sides)
    assert disagreement(ClassifierOutput(maps[:, :, 0, 0], maps), both.valid, far, Lattice((1.5, 1.5), 4), config) == 0


@pytest.mark.parametrize("axes", [2, 3])
def test_a_mirror_and_a_shift_by_hand(axes):
    images = torch.rand(1, 2, *SIDES[axes], generator=torch.Generator().manual_seed(0))
    mirror, shift = torch.eye(axes), torch.zeros(1, axes)
    mirror[-1, -1] = -1
    turned = warp_images(Warp(mirror[None], shift, SIDES[axes]), batch_of(images))
    torch.testing.assert_close(turned.images, images.flip(-1), atol=2e-5, rtol=0)
    assert turned.valid.all()
    shift[0, 0] = 5.0
    moved = warp_images(Warp(torch.eye(axes)[None], shift, SIDES[axes]), batch_of(images))
    torch.testing.assert_close(moved.images[:, :, 5:], images[:, :, :-5], atol=2e-5, rtol=0)
    assert not moved.valid[:, :, :5].any()
    assert moved.valid[:, :, 5:].all()
    torch.testing.assert_close(moved.images[:, :, :5], images.amin().expand_as(moved.images[:, :, :5]))


def test_a_turn_goes_about_the_middle_and_keeps_proportions():
    """Of an oblong image: a dot 10 pixels right of the middle ends 10 pixels above or below it."""
    images = torch.zeros(1, 1, 41, 61)
    images[0, 0, 20, 40] = 1.0
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    turned = warp_images(Warp(quarter, torch.zeros(1, 2), (41, 61)), batch_of(images)).images[0, 0]
    assert turned.max().item() == pytest.approx(1.0, abs=1e-4)
    assert np.unravel_index(int(turned.argmax()), turned.shape) == (30, 30)


def test_what_is_drawn_stays_in_its_ranges_and_follows_from_seed_and_step():
    config = make_config(equivariance_rotation=20.0, equivariance_scale=0.25, equivariance_shift=0.1, flip=0.0)
    a, b, c = (draw_warp(step_rng(3, step), 500, (40, 80), config) for step in (1, 1, 2))
    assert torch.equal(a.matrix, b.matrix)
    assert not torch.equal(a.matrix, c.matrix)
    scale = 1 / a.matrix.det().sqrt()
    angle = torch.rad2deg(torch.atan2(a.matrix[:, 1, 0], a.matrix[:, 0, 0])).abs()
    assert 1.2 < scale.max() <= 1.25 + 1e-5
    assert 1 / 1.25 - 1e-5 <= scale.min() < 1 / 1.2
    assert 19 < angle.max() <= 20 + 1e-4
    assert 3.9 < a.shift[:, 0].abs().max() <= 4
    assert 7.8 < a.shift[:, 1].abs().max() <= 8
    assert (draw_warp(step_rng(0, 0), 50, (8, 8, 8), make_config(flip=1.0)).matrix.det() < 0).all()


def test_stopping_the_gradient_leaves_it_to_the_second_view():
    for stop in (False, True):
        config = make_config(equivariance=1.0, equivariance_stop=stop)
        both, warp = second_view(batch_of(ramps(2)), step_rng(0, 0), config)
        maps = torch.randn(8, 1, 12, 16, requires_grad=True)
        output = ClassifierOutput(maps.flatten(2).mean(2), maps)
        disagreement(output, both.valid, warp, Lattice((1.5, 1.5), 4), config).backward()
        assert bool((maps.grad[:4] != 0).any()) is not stop
        assert (maps.grad[4:] != 0).any()


def test_places_survive_autocast():
    warp = draw_warp(step_rng(0, 0), 2, (512, 512), RunConfig())
    points = torch.tensor([[301.0, 255.0]])
    with torch.autocast("cpu", torch.bfloat16):
        found = warp.back(points)
    assert torch.equal(found, warp.back(points))
    assert found.dtype == torch.float32


# ---- erasing -------------------------------------------------------------------------------------------------------


def test_what_is_erased_is_the_hottest_tiles_of_the_classes_an_image_has():
    """Mean of each 4 x 4 tile: the two brightest tiles of a positive image are painted with its mean, no others."""
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.1
    images[:, :, 4:8, 8:12] += 1.0
    images[:, :, 12:16, 0:4] += 0.9
    batch = batch_of(images, torch.tensor([[1.0], [0.0], [NAN]]))
    maps = nn.functional.avg_pool2d(images, 4)
    hot = hottest(maps, batch.labels, torch.ones(3, 1, 4, 4, dtype=torch.bool), 2 / 16)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, 2] = expected[3, 0] = True
    assert torch.equal(hot[0, 0], expected)
    assert not hot[1:].any()
    erased = erase(batch, hot, Lattice((1.5, 1.5), 4)).images
    changed = erased != images
    assert torch.equal(changed[0, 0], torch.kron(expected.int(), torch.ones(4, 4, dtype=torch.int)).bool())
    assert not changed[1:].any()
    torch.testing.assert_close(erased[0, 0, 4:8, 8:12], images[0].mean().expand(4, 4))


def test_cells_that_look_at_their_first_pixel_are_erased_round_it():
    hot = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    hot[0, 0, 1, 2, 3] = True
    batch = batch_of(torch.rand(1, 2, 16, 16, 16))
    batch.valid[..., :1] = False
    changed = erase(batch, hot, Lattice((0.0, 0.0, 0.0), 4)).images != batch.images
    where = changed.any(0).any(0).nonzero()
    assert where.amin(0).tolist() == [2, 6, 10]  # nearest to 4, 8 and 12, halves upwards; the last cell to the border
    assert where.amax(0).tolist() == [5, 9, 15]


def test_padding_is_never_erased_nor_counted():
    batch = batch_of(torch.full((1, 1, 8, 8), 5.0))
    batch.images[..., 4:] = -9.0
    batch.valid[..., 4:] = False
    erased = erase(batch, torch.ones(1, 1, 2, 2, dtype=torch.bool), Lattice((1.5, 1.5), 4)).images
    assert torch.equal(erased, batch.images)  # the mean of the image is 5, and padding stays


def test_looking_for_what_to_erase_leaves_the_network_as_it_was():
    config = make_config(erasing=0.5, backbone="slim,channels=[8,8,16,16],stem_width=8", size=64)
    network = build_classifier(config, 1).train()
    network.head.eval()
    before = copy.deepcopy(network.state_dict())
    batch, lattice = batch_of(torch.rand(4, 1, 64, 64)), lattice_of(network, 1)
    assert lattice == Lattice((0.0, 0.0), 8)
    erased = erase_hottest(batch, network, lattice, np.array([0.1, 0.6, 0.4, 0.9]), config.aids)
    assert [bool((a != b).any()) for a, b in zip(erased.images, batch.images, strict=True)] == [
        True,
        False,
        True,
        False,
    ]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.backbone.training
    assert not network.head.training


# ---- a step --------------------------------------------------------------------------------------------------------


def step_of(config, network, batch, monkeypatch):
    module = ClassifierModule(network, config, build_loss(config, batch.labels.numpy()), 10)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    return module.training_step(batch, 0)


SMALL = {"backbone": "slim,channels=[8,8,16,16],stem_width=8", "size": 64, "class_weights": False, "dropout": 0.3}


def test_without_aids_a_step_is_the_plain_one_to_the_bit(monkeypatch):
    config = make_config(**SMALL)
    batch = batch_of(torch.rand(4, 1, 64, 64), torch.tensor([[1.0], [0.0], [1.0], [NAN]]))
    network = build_classifier(config, 1).train()
    plain = copy.deepcopy(network)
    step_of(config, network, batch, monkeypatch).backward()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits = plain(channels_last(batch.images), batch.valid).logits
    lc_loss = build_loss(config, batch.labels.numpy())(logits, batch.labels, 0)
    lc_loss.backward()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_a_step_adds_the_loss_of_both_views(weight, monkeypatch):
    config = make_config(**{**SMALL, "dropout": 0.0}, equivariance=weight)
    batch = batch_of(torch.rand(4, 1, 64, 64), torch.tensor([[1.0], [0.0], [1.0], [NAN]]))
    network = build_classifier(config, 1).train()
    nn.init.normal_(network.head.weight)  # the maps of a fresh one hardly differ
    found = step_of(config, copy.deepcopy(network), batch, monkeypatch).item()
    both, warp = second_view(batch, step_rng(0, 0), config)
    output = network(channels_last(both.images), both.valid)
    classified = build_loss(config, batch.labels.numpy())(output.logits, both.labels, 0)
    apart = disagreement(output, both.valid, warp, Lattice((0.0, 0.0), 8), config)
    assert apart.item() > 0.01
    assert found == pytest.approx((classified + weight * apart).item(), rel=1e-5)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_all_aids_go_together_on_volumes(task, monkeypatch):
    config = make_config(
        backbone="monai:resnet10", size=32, task=task, equivariance=1.0, erasing=1.0, dense_negative=0.5
    )
    batch = batch_of(torch.rand(2, 1, 32, 32, 32), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    network = build_classifier(config, 2).train()
    loss = step_of(config, network, batch, monkeypatch)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.head.weight.grad.abs().sum() > 0


def test_a_slip_in_an_aid_is_one_sentence():
    with pytest.raises(OptionError, match="erasing"):
        make_config(erasing=1.5)
    content = RunConfig().model_dump()
    del content["aids"]
    assert RunConfig.model_validate(content) == RunConfig()  # an old run


# ---- whole trainings -----------------------------------------------------------------------------------------------


def weights(run):
    return load_file(run / "model" / "weights.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopped_after(epochs, patch):
    """Interrupt as between two epochs."""
    from lesioncam.training import loop

    real = loop._run

    def stopped(trainer, *given):
        trainer.fit_loop.max_epochs = epochs
        real(trainer, *given)
        return True

    patch.setattr(loop, "_run", stopped)


def test_a_loss_that_is_no_number_stops_the_training(toy, quick, tmp_path):
    def rooted(class_maps):
        """Finite, but the gradient of a root at 0 is not."""
        return (class_maps * 0).flatten(2).mean(2).abs().sqrt() + class_maps.flatten(2).mean(2)

    with pytest.raises(RunError, match=r"loss is nan in epoch 0, after 1 steps.*--learning-rate.*your own"):
        lc.train(toy, tmp_path / "run", **{**quick, "pooling": rooted})


def test_with_all_aids_an_interrupted_training_resumes_to_the_bit(toy, quick, tmp_path):
    options = {**quick, "equivariance": 1.0, "erasing": 0.5, "epochs": 4, "patience": 0}
    lc.train(toy, tmp_path / "whole", **options)
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(3, patch)
        lc.train(toy, tmp_path / "broken", **options)
    lc.predict(tmp_path / "broken", [toy.parent / "p00_0.png"], threshold="default")  # usable meanwhile
    lc.train(None, tmp_path / "broken", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    ends = [torch.load(tmp_path / run / "log" / "last.ckpt", weights_only=True) for run in ("whole", "broken")]
    assert same(ends[0]["state_dict"], ends[1]["state_dict"])
    mine, theirs = (
        pd.read_csv(tmp_path / run / "log" / "history.csv").drop(columns="seconds") for run in ("broken", "whole")
    )
    pd.testing.assert_frame_equal(mine, theirs)
