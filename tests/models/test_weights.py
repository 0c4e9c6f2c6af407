"""Weights of others: nothing is executed, everything fits or is refused, and what fits in part is said."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from tests.models.test_backbone3d import SMALL, build
from torch import nn

from lesioncam.errors import ModelError
from lesioncam.models.backbone import build_backbone
from lesioncam.models.weights import fill, read_weights
from lesioncam.options.networks import parse_backbone


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        read_weights(tmp_path / "evil.pth")
    (tmp_path / "torn.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        read_weights(tmp_path / "torn.safetensors")


def test_wrappers_of_names_are_taken_off_only_where_they_do_not_fit():
    network = nn.ModuleDict({"model": nn.Linear(2, 1)})
    state = {key: torch.ones_like(value) for key, value in network.state_dict().items()}
    fill(network, state, ["a"])
    assert network["model"].weight.sum().item() == 2
    fill(network, {f"module.{key}": 2 * value for key, value in state.items()}, ["a"])
    assert network["model"].weight.sum().item() == 4


def medicalnet_file(path, backbone, **changes):
    """A checkpoint as MedicalNet writes it: in ``state_dict``, with ``module.`` before every name and a head."""
    state = {f"module.{key.removeprefix('network.')}": value for key, value in backbone.state_dict().items()}
    state["module.conv_seg.0.weight"] = torch.zeros(3, 3)
    state.update(changes)
    torch.save({"state_dict": state, "epoch": 3}, path)
    return str(path)


def test_a_medicalnet_checkpoint_gives_its_features(tmp_path, caplog):
    theirs = build(SMALL)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = medicalnet_file(tmp_path / "resnet_10_23dataset.pth", theirs)
    torch.manual_seed(9)
    with caplog.at_level(logging.INFO, "lesioncam"):
        ours = build_backbone(parse_backbone(SMALL), 1, path).eval()
    volume = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(ours(volume), theirs(volume))
    assert "fills 100.0 % of the network" in caplog.text


def test_one_channel_serves_several(tmp_path):
    """A grey volume copied to three channels gives the very features of the grey network."""
    theirs = build(SMALL)
    ours = build(SMALL, channels=3, weights=medicalnet_file(tmp_path / "a.pth", theirs))
    volume = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(ours(volume.expand(1, 3, 16, 16, 16)), theirs(volume), atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path):
    path = medicalnet_file(tmp_path / "a.pth", build(SMALL))
    with pytest.raises(ModelError, match=r"fills \d+ % of this network .*it is another network's"):
        build("monai:densenet121", weights=path)
    save_file({"x": torch.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="fills 0 %"):
        build(SMALL, weights=str(tmp_path / "b.safetensors"))


def test_code_in_a_weights_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError, match="cannot be read as plain tensors"):
        build(SMALL, weights=str(tmp_path / "bomb.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="hold a list, not a state dict"):
        build(SMALL, weights=str(tmp_path / "list.pth"))
    with pytest.raises(ModelError, match="no such file"):
        build(SMALL, weights=str(tmp_path / "none.pth"))


@pytest.mark.parametrize("text", [SMALL, "slim,channels=[8,8,16,16],stem_width=8"], ids=["3d", "2d"])
def test_a_run_of_ours_gives_its_backbone(tmp_path, text):
    theirs = build(text)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = {f"backbone.{key}": value.clone() for key, value in theirs.state_dict().items()}
    (tmp_path / "run" / "model").mkdir(parents=True)
    save_file({**state, "head.weight": torch.zeros(2, 3)}, tmp_path / "run" / "model" / "weights.safetensors")
    torch.manual_seed(9)
    ours = build_backbone(parse_backbone(text), 1, str(tmp_path / "run"))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model in this folder"):
        build(text, weights=str(tmp_path / "empty"))
