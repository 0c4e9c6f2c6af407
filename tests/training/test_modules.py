"""What the training module asks of the optimiser, how epochs are ranked, and a network of another kind."""

import numpy as np
import pytest
import torch
from torch import nn

from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config
from lesioncam.runs.folder import RunFolder
from lesioncam.training.loop import Loaders, train
from lesioncam.training.losses import build_loss
from lesioncam.training.modules import TIE, ClassifierModule, NetworkModule
from lesioncam.types import Batch

LABELS = np.float32([[1, 0], [0, 1], [1, 1], [0, 0]])


def module(**options):
    config = make_config(backbone="slim,channels=[8,8,16,16],stem_width=8", size=64, **options)
    return ClassifierModule(build_classifier(config, 2), config, build_loss(config, LABELS), 10)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd,momentum=0.9"])
def test_weights_decay_and_biases_norms_and_what_a_loss_learns_do_not(optimizer):
    training = module(optimizer=optimizer, weight_decay=0.1, schedule="constant", loss="aucpr")
    made = training.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    kinds = {"weight": 0, "vector": 0}
    for name, parameter in training.network.named_parameters():
        vector = name.endswith("bias") or parameter.ndim == 1  # the scale of a norm
        kinds["vector" if vector else "weight"] += 1
        assert decay.pop(id(parameter)) == (0.0 if vector else 0.1), name
    assert min(kinds.values()) > 3
    assert list(decay.values()) == [0.0] * len(list(training.loss.parameters())) != []


def ranked(logits, **options):
    """What the best epoch is chosen by, where validation gives these logits."""
    training, logged = module(**options), {}
    training.log = lambda name, value, **_: logged.update({name: float(value)})
    training.on_validation_epoch_start()
    training._seen.append((torch.tensor(logits), torch.from_numpy(LABELS)))
    training.on_validation_epoch_end()
    return logged


def test_of_epochs_that_rank_alike_the_one_with_the_lower_loss_is_better():
    unsure, sure = (ranked(size * (2 * LABELS - 1)) for size in (0.1, 3.0))
    assert unsure["val_auroc"] == sure["val_auroc"] == 1
    assert sure["val_loss"] == pytest.approx(np.log1p(np.exp(-3)), rel=1e-5)
    assert sure["val_score"] == pytest.approx(1 - TIE * sure["val_loss"], abs=1e-7)
    assert sure["val_score"] > unsure["val_score"]


def test_the_loss_decides_nothing_else_unless_it_is_asked_for():
    """A better order with a higher loss ranks higher; with ``select=loss`` lower."""
    swapped = 0.1 * (2 * LABELS - 1)
    swapped[0, 0], swapped[1, 0] = -0.1, 0.1
    ordered = np.where(LABELS == 1, -10, -20).astype(np.float32)
    assert ranked(ordered)["val_loss"] > 4 > ranked(swapped)["val_loss"]
    assert ranked(ordered)["val_score"] > ranked(swapped)["val_score"]
    assert ranked(ordered, select="loss")["val_score"] < ranked(swapped, select="loss")["val_score"]


class Denoiser(NetworkModule):
    """A network with maps and no labels: it learns to give the image back."""

    def batch_loss(self, batch):
        return self.loss(self.network(batch.images), batch.images)

    def validation_step(self, batch, _index):
        self.log_validation(float(self.batch_loss(batch)), {"auroc": 0.5, "dice": 0.25})


class Images(torch.utils.data.Dataset):
    """Eight batches of noise as they are."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(i))
        return Batch(images, torch.ones(4, 1, 8, 8, dtype=torch.bool), torch.zeros(4, 1), torch.arange(4))


def test_a_network_of_another_kind_trains_in_the_same_loop(tmp_path):
    network = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(network.weight)
    config = make_config(epochs=3, learning_rate=0.5, precision="fp32", schedule="constant", optimizer="sgd,momentum=0")
    loader = torch.utils.data.DataLoader(Images(), batch_size=None)
    folder = RunFolder(tmp_path)
    outcome = train(
        Denoiser(network, config, nn.MSELoss(), 24), Loaders(loader, loader), config, folder, progress=False
    )
    assert (outcome.epochs, outcome.best_epoch, outcome.interrupted) == (3, 2, False)
    assert network.weight.item() > 0.5
    assert not network.training
    header, *rows = folder.history.read_text().split()
    assert header == "epoch,train_loss,val_loss,val_auroc,val_dice,learning_rate,seconds"
    assert len(rows) == 3
