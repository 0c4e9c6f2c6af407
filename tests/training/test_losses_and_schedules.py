"""What a configuration names is what trains: losses, what they learn, optimisers, schedules; resuming to the bit."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lesioncam as lc
from lesioncam.data.cache import ImageCache
from lesioncam.data.dataset import ImageSet
from lesioncam.data.table.policy import Targets
from lesioncam.errors import LesioncamError
from lesioncam.functional.losses import bce_loss
from lesioncam.options.run import RunConfig, make_config
from lesioncam.training.losses import AucprBound, build_loss
from lesioncam.training.optimizers import make_optimizer, make_schedule

NAN = float("nan")
LABELS = np.float32([[1, 0], [0, 0], [0, 1], [NAN, 1]])


def weights(run):
    return load_file(run / "model" / "weights.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logits():
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(0))


def test_losses_that_should_be_cross_entropy_are():
    plain = bce_loss(logits(), torch.from_numpy(LABELS))
    for loss in ("bce", "focal,gamma=0", "class_balanced,beta=0"):
        built = build_loss(make_config(loss=loss, class_weights=False), LABELS)
        torch.testing.assert_close(built(logits(), torch.from_numpy(LABELS), 0), plain)
    balanced = build_loss(make_config(loss="class_balanced,beta=0"), LABELS)  # in place of the class weights
    torch.testing.assert_close(balanced(logits(), torch.from_numpy(LABELS), 0), plain)
    weighted = bce_loss(logits(), torch.from_numpy(LABELS), torch.tensor([2.0, 1.0]))
    for loss in ("bce", "focal,gamma=0"):
        torch.testing.assert_close(
            build_loss(make_config(loss=loss), LABELS)(logits(), torch.from_numpy(LABELS), 0), weighted
        )


def test_alpha_weighs_the_sides():
    built = build_loss(make_config(loss="focal,gamma=0,alpha=0.25"), np.float32([[1], [0]]))
    positive, negative = (built(torch.zeros(1, 1), torch.tensor([[y]]), 0).item() for y in (1.0, 0.0))
    assert positive == pytest.approx(0.25 * np.log(2))
    assert negative == pytest.approx(0.75 * np.log(2))


def test_aucpr_warms_up_and_takes_its_prior_from_the_data_set():
    bound = build_loss(make_config(loss="aucpr,anchors=3,dual=0.5"), LABELS)
    assert isinstance(bound, AucprBound)
    assert bound.prior.tolist() == pytest.approx([1 / 3, 2 / 4])
    batch = torch.from_numpy(LABELS)
    assert bound(logits(), batch, 0) == bce_loss(logits(), batch) == bound.compare(logits(), batch)
    bound(logits(), batch, 1).backward()
    assert (bound.multipliers.grad != 0).all()
    assert (bound.biases.grad != 0).all()
    assert set(bound.state_dict()) == {"multipliers", "biases"}


@pytest.mark.parametrize("loss", ["aucpr", "focal,alpha=0.3"])
def test_losses_without_sides_are_refused_for_a_softmax(loss):
    with pytest.raises(LesioncamError, match="--task multiclass"):
        build_loss(make_config(loss=loss, task="multiclass"), np.float32([[1, 0], [0, 1]]))


# ---- optimisers and schedules --------------------------------------------------------------------------------------


def rates(steps=8, **options):
    """The learning rate before each step; plateau sees a loss that never falls, an epoch is two steps."""
    config = make_config(learning_rate=1.0, **options)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [parameter], "weight_decay": 0.0}], config)
    found, made = [], make_schedule(optimizer, config, steps)
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.ones(1)
        optimizer.step()
        if made and made["interval"] == "step":
            made["scheduler"].step()
        elif made and step % 2:
            made["scheduler"].step(*([1.0] if "monitor" in made else []))
    return found


def test_schedules_are_their_curves():
    assert rates(schedule="constant") == [1.0] * 8
    assert rates(schedule="step,every=2,factor=0.1") == pytest.approx([1.0] * 4 + [0.1] * 4)
    assert rates(schedule="plateau,factor=0.5,patience=1") == pytest.approx([1.0] * 6 + [0.5] * 2)
    expected = [0.1 + 0.9 * (1 + np.cos(np.pi * t / 8)) / 2 for t in range(8)]
    assert rates(schedule="cosine,floor=0.1") == pytest.approx(expected)
    cycle = rates(schedule="onecycle,warmup=0.5", steps=10)
    assert np.argmax(cycle) == 4  # half of the ten steps, counted from 0
    assert max(cycle) == pytest.approx(1.0)


def test_sgd_takes_the_step_of_its_formula():
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer(
        [{"params": [parameter], "weight_decay": 0.5}], make_config(optimizer="sgd,momentum=0.5", learning_rate=0.1)
    )
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    first = 1 - 0.1 * (1 + 0.5)
    assert parameter.item() == pytest.approx(first - 0.1 * (0.5 * 1.5 + 1 + 0.5 * first))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "focus"}, "Unknown loss 'focus'. Did you mean 'focal'"),
        ({"loss": "bce,gamma=1"}, "gamma: Extra inputs"),
        ({"loss": "class_balanced,beta=1"}, "less than 1"),
        ({"optimizer": "adamx"}, "Did you mean 'adam"),
        ({"schedule": "onecycle,every=3"}, "every: Extra inputs"),
        ({"gradient_clip": -1}, "gradient_clip"),
        ({"optimizer": "sgd,momentum=0,nesterov=true"}, "looks ahead along the momentum"),
    ],
)
def test_slips_are_sentences(options, said):
    with pytest.raises(LesioncamError, match=said):
        make_config(**options)


def test_the_words_of_the_command_line_are_the_typed_options():
    from lesioncam.cli.parse import parse
    from lesioncam.cli.training import RunArgs

    words = "t.csv --loss aucpr,anchors=5 --optimizer sgd --schedule step,every=3 --uncertain-for a=ones b=[0.2,0.4]"
    args = parse(RunArgs, "run", words.split())
    made = make_config(
        loss="aucpr,anchors=5", optimizer="sgd", schedule="step,every=3", uncertain_for={"a": 1, "b": [0.2, 0.4]}
    )
    assert args.config == made
    assert parse(RunArgs, "run", ["t.csv"], default=args).config == made  # the defaults of a recipe come back
    with pytest.raises(LesioncamError, match="--uncertain-for: uncertain_for.a: a soft label lies between 0 and 1"):
        parse(RunArgs, "run", "t.csv --uncertain-for a=3".split())


# ---- training ------------------------------------------------------------------------------------------------------


def test_soft_labels_reach_the_batch_by_epoch(toy):
    images = [str(toy.parent / f"p00_{i}.png") for i in range(4)]
    low, high = np.float32([[1], [0], [0.55], [NAN]]), np.float32([[1], [0], [0.85], [NAN]])
    data = ImageSet(images, Targets(low, high, seed=1), ImageCache(make_config(size=32).preprocess))
    batches = [data.__getitems__([(epoch, i) for i in (2, 0, 3)]).labels[:, 0] for epoch in (0, 0, 1)]
    assert torch.equal(batches[0][:2], batches[1][:2])
    assert batches[0][0] != batches[2][0]
    for labels in batches:
        assert 0.55 <= labels[0] <= 0.85
        assert labels[1] == 1
        assert labels[2].isnan()


CURIOUS = {
    "loss": "aucpr,anchors=4",
    "schedule": "plateau,factor=0.5,patience=0",
    "optimizer": "sgd",
    "gradient_clip": 0.5,
    "dense_negative": 0.5,
    "uncertain": "soft",
    "learning_rate": 0.05,
}


@pytest.fixture(scope="module")
def unsure(toy):
    frame = pd.read_csv(toy, dtype=str, keep_default_na=False)
    frame.loc[frame.index[::7], "bar"] = "-1"
    frame.to_csv(toy.parent / "some_unsure.csv", index=False)
    return toy.parent / "some_unsure.csv"


def test_what_a_loss_learns_is_in_the_checkpoint_and_resumes_to_the_bit(unsure, quick, tmp_path):
    """Interrupted between two epochs, after the multipliers have moved: the same weights, curve and multipliers."""
    from lesioncam.training import loop

    options = {**quick, **CURIOUS, "epochs": 4, "patience": 0}
    lc.train(unsure, tmp_path / "whole", **options)
    whole = torch.load(tmp_path / "whole" / "log" / "last.ckpt", weights_only=True)
    assert not torch.equal(whole["state_dict"]["loss.multipliers"], torch.ones(2, 4))

    out, real = tmp_path / "broken", loop._run

    def stopped(trainer, *given):
        trainer.fit_loop.max_epochs = 2
        real(trainer, *given)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_run", stopped)
        lc.train(unsure, out, **options)
    assert len(pd.read_csv(out / "log" / "history.csv")) == 2
    lc.train(None, out, resume=True)
    assert same(weights(tmp_path / "whole"), weights(out))
    resumed = torch.load(out / "log" / "last.ckpt", weights_only=True)
    assert same(whole["state_dict"], resumed["state_dict"])
    mine, theirs = (
        pd.read_csv(run / "log" / "history.csv").drop(columns="seconds") for run in (out, tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(mine, theirs)


@pytest.mark.parametrize("loss", ["focal", "class_balanced", "aucpr"])
def test_every_loss_learns_the_toy(toy, quick, tmp_path, loss):
    options = {**quick, "epochs": 25, "batch": 8, "backbone": "slim,channels=[16,16,32,32],stem_width=16"}
    lc.train(toy, tmp_path / "run", **options, loss=loss)
    assert pd.read_csv(tmp_path / "run" / "log" / "history.csv")["val_auroc"].max() > 0.8


def test_the_epoch_with_the_lowest_loss_is_kept_where_it_is_asked_for(toy, quick, tmp_path):
    lc.train(toy, tmp_path / "run", **{**quick, "epochs": 4}, select="loss", learning_rate=0.1, schedule="constant")
    history = pd.read_csv(tmp_path / "run" / "log" / "history.csv")
    kept = lc.load(tmp_path / "run").card.training.best_epoch
    assert kept == history["val_loss"].argmin()


def test_an_old_configuration_means_what_it_meant():
    content = RunConfig().model_dump(mode="json")
    new = ("task", "loss", "select", "optimizer", "schedule", "gradient_clip")
    old = {key: value for key, value in content.items() if key not in new}
    old["table"] = {k: v for k, v in content["table"].items() if k not in ("uncertain_for", "blank_for", "no_finding")}
    read = RunConfig.model_validate(old)
    assert read == RunConfig()
    assert (read.task, read.loss.kind, read.optimizer.kind, read.schedule.kind) == ("auto", "bce", "adamw", "onecycle")
    assert read.selects == "auroc"


@pytest.mark.parametrize("sides", [(16, 24), (8, 16, 24)])
def test_a_step_adds_the_loss_of_negative_maps(sides, monkeypatch):
    """On images and on volumes, against the two losses computed by hand from the same pass."""
    from lesioncam.functional.losses import negative_map_loss
    from lesioncam.training.modules import ClassifierModule
    from lesioncam.types import Batch, ClassifierOutput

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            make = {2: nn.Conv2d, 3: nn.Conv3d}[len(sides)]
            self.head = make(1, 2, 1)

        def forward(self, images, valid=None):
            assert images.is_contiguous(memory_format={2: torch.channels_last, 3: torch.channels_last_3d}[len(sides)])
            maps = self.head(images)
            return ClassifierOutput(maps.flatten(2).mean(2), maps, valid)

    network, labels = Small(), torch.from_numpy(LABELS)
    images, valid = torch.rand(4, 1, *sides), torch.ones(4, 1, *sides, dtype=torch.bool)
    batch = Batch(images, valid, labels, torch.arange(4))
    found = {}
    for weight in (0.0, 2.0):
        config = make_config(dense_negative=weight, class_weights=False)
        module = ClassifierModule(network, config, build_loss(config, LABELS), 10)
        monkeypatch.setattr(module, "log", lambda *_, **__: None)
        found[weight] = module.training_step(batch, 0).item()
    output = network(images, valid)
    assert found[0.0] == pytest.approx(bce_loss(output.logits, labels).item(), rel=1e-6)
    more = 2 * negative_map_loss(output.class_maps, labels).item()
    assert found[2.0] == pytest.approx(found[0.0] + more, rel=1e-6)
