"""Behaviours E of the field's list, each test named after its number: what poolings and labels promise a user."""

import math

import pytest
import torch

from lesioncam.functional.pooling import POOLINGS, avg_pool, max_pool
from lesioncam.models.classifier import Classifier, build_classifier
from lesioncam.models.pooling import PoolInput, build_pool
from lesioncam.options.poolings import POOLING_TYPES, parse_pooling
from lesioncam.options.run import make_config
from lesioncam.types import ClassifierOutput

LN3 = math.log(3.0)
TINY = "slim,channels=[8,8,16,16],stem_width=8"
LEARNT = ("acam", "acam,combine=mean", "attention,hidden=4", "attention,hidden=4,gated=false,shared=true")


def pooled(text, maps, features=None, valid=None):
    features = maps if features is None else features
    given = PoolInput(features.shape[1], maps.shape[1], maps.ndim - 2)
    pool = build_pool(parse_pooling(text), given=given).to(maps.dtype)
    return pool(maps, features, valid)


# ---- E2: pooling equals its formula --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2,), (1, 2), (2, 1), (1, 2, 1)])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("avg", LN3 / 2),
        ("max", LN3),
        ("lse,sharpness=1", math.log(2)),  # (1 + 3) / 2
        ("lse,sharpness=2", math.log(5) / 2),  # (1 + 9) / 2
        ("lse", (math.log(1 + 3**10) - math.log(2)) / 10),
        ("exp", 0.75 * LN3),  # weights 1/4, 3/4
        ("linear", math.log(0.65 / 0.35)),  # (1/4 + 9/16) / (1/2 + 3/4)
        ("noisy_or", math.log(7)),  # 1 - 1/2 * 1/4
        ("pcam,preset=paper", 0.6 * LN3),  # weights 2/5, 3/5
        ("pcam", LN3 * 9 / 13),  # weights 4/13, 9/13
        ("pcam,temperature=2", LN3 * 3**0.5 / (2**0.5 + 3**0.5)),
        ("topq", LN3),  # 2 % of two places is one place
        ("topq,fraction=1", LN3 / 2),
    ],
)
def test_e2_worked_values_for_every_option(text, expected, grid):
    maps = torch.tensor([0.0, LN3]).view(1, 1, *grid)
    assert pooled(text, maps).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("gated", ["true", "false"])
def test_e2_attention_weighs_by_its_scores(gated):
    """tanh(V F) of 0 and 1 (F large), gate 1/2 where there is one: scores 0 and ln 3, weights 1/4 and 3/4."""
    maps, features = torch.tensor([[[[0.0, LN3]]]]), torch.tensor([[[[0.0, 50.0]]]])
    pool = build_pool(parse_pooling(f"attention,hidden=1,gated={gated}"), given=PoolInput(1, 1))
    with torch.no_grad():
        pool.function.value.weight.fill_(1.0)
        pool.function.out.weight.fill_(2 * LN3 if gated == "true" else LN3)
        if gated == "true":
            pool.function.gate.weight.zero_()
    assert pool(maps, features).item() == pytest.approx(0.75 * LN3, abs=1e-6)


def test_e2_acam_attends_along_each_axis():
    """Rows: softmax(0, ln 3) = 1/4, 3/4 of the row means 1.5, 5.5; columns: 1/2 each of 2 and 5; the mean of both."""
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 8.0]]]])
    features = torch.tensor([[[[0.0, 0.0], [LN3, LN3]]]])
    pool = build_pool(parse_pooling("acam"), given=PoolInput(1, 1))
    with torch.no_grad():
        pool.function.attention.weight.fill_(1.0)
    assert pool(maps, features).item() == pytest.approx((4.5 + 3.5) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("lse,sharpness=1e-6", avg_pool),
        ("lse,sharpness=1e5", max_pool),
        ("pcam,temperature=1e6", avg_pool),
        ("pcam,temperature=1e-4", max_pool),
        ("topq,fraction=1", avg_pool),
        ("topq,fraction=1e-6", max_pool),
    ],
)
def test_e2_limits_are_mean_and_maximum(text, limit):
    maps = torch.randn(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooled(text, maps), limit(maps), atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", [(4, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("text", [*sorted(POOLING_TYPES), *LEARNT])
def test_e2_no_overflow_at_logits_of_ten_thousand(text, dtype, grid):
    sign = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(1)).sign()
    maps = (1e4 * sign).to(dtype).requires_grad_()
    out = pooled(text, maps, features=torch.ones(2, 4, *grid))
    (gradient,) = torch.autograd.grad(out.sum(), maps)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("text", [text for text in (*sorted(POOLING_TYPES), *LEARNT) if "acam" not in text])
def test_e2_one_slice_of_a_volume_is_its_image(text):
    """Not of ACAM, where a third axis is a third attention."""
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flat = pooled(text, maps)
        torch.manual_seed(0)
        volume = pooled(text, maps[:, :, None])
    torch.testing.assert_close(flat, volume)


# ---- E3: pooling(class_maps) == logits -----------------------------------------------------------------------------


HEADS = [{}, {"norm": "batch", "dropout": 0.5}, {"classifier": "per_class", "dropout": 0.5, "norm": "batch"}]


@pytest.mark.parametrize("head", HEADS, ids=["plain", "norm and dropout", "per class"])
@pytest.mark.parametrize("text", [*sorted(POOLING_TYPES), *LEARNT])
def test_e3_pooling_the_class_maps_gives_the_logits(text, head):
    """Any size, with and without padding, in training and after it."""
    net = build_classifier(make_config(backbone=TINY, pooling=text, **head), 3)
    generator = torch.Generator().manual_seed(0)
    for n, side in ((2, (64, 64)), (3, (40, 72)), (2, (33, 95))):
        images, valid = torch.rand(n, 1, *side, generator=generator), torch.ones(n, 1, *side, dtype=torch.bool)
        valid[:, :, :9] = False
        for mode in (True, False):
            for mask in (None, valid):
                out = net.train(mode)(images, mask)
                again = net.pool(out.class_maps, out.features, out.valid)
                assert torch.equal(again, out.logits)
                if not text.startswith(("acam", "attention")):
                    options = parse_pooling(text).model_dump(exclude={"kind", "prior"})
                    function = POOLINGS[parse_pooling(text).kind]
                    assert torch.equal(function(out.class_maps, out.valid, **options), out.logits)


@pytest.mark.parametrize("text", ["avg", "pcam", "acam", "attention,hidden=4"])
def test_e3_volumes(text):
    net = build_classifier(make_config(backbone="monai:resnet10", pooling=text), 2).eval()
    with torch.no_grad():
        out = net(torch.rand(1, 1, 16, 32, 24))
    assert out.class_maps.ndim == 5
    assert torch.equal(net.pool(out.class_maps, out.features), out.logits)


class Plain(torch.nn.Module):
    """Logits and class maps as a tuple, as a graph gives them."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        out: ClassifierOutput = self.network(images)
        return out.logits, out.class_maps, out.features


@pytest.mark.parametrize("text", ["pcam", "noisy_or", "lse", "linear", "acam", "attention,hidden=4"])
def test_e3_holds_in_an_exported_graph(text):
    """The graph that an export to ONNX begins with gives the same logits, and pooling its maps gives them too."""
    net = build_classifier(make_config(backbone=TINY, pooling=text), 2).eval()
    images = torch.rand(2, 1, 40, 48)
    with torch.no_grad():
        graph = torch.export.export(Plain(net), (images,)).module()
        logits, maps, features = graph(images)
        torch.testing.assert_close(logits, net(images).logits)
        torch.testing.assert_close(net.pool(maps, features), logits)


# ---- E1: unknown labels are ignored, and the report says what became of them ----------------------------------------


@pytest.mark.parametrize("loss", ["bce", "focal", "class_balanced", "aucpr"])
def test_e1_an_unknown_label_has_exactly_no_gradient(loss):
    """Uncertain and blank cells, from the table through the policy to the weights of the class's own map."""
    import numpy as np
    import pandas as pd

    from lesioncam.data.table.table import Table
    from lesioncam.data.table.targets import targets_of
    from lesioncam.options.data import TableConfig
    from lesioncam.training.losses import WARM_UP, build_loss

    states = np.float32([[1, -1, float("nan")], [0, float("nan"), -1], [1, -1, -1], [0, -1, float("nan")]])
    table = Table(pd.DataFrame({"id": list("abcd")}), ("known", "first", "second"), states)
    config = make_config(backbone=TINY, loss=loss)
    labels = targets_of(table, TableConfig()).middle()
    network = build_classifier(config, 3)
    output = network(torch.rand(4, 1, 32, 32))
    output.logits.retain_grad()
    build_loss(config, labels)(output.logits, torch.from_numpy(labels), WARM_UP).backward()
    assert (output.logits.grad[:, 0] != 0).all()
    assert (output.logits.grad[:, 1:] == 0).all()
    assert network.head.weight.grad[0].abs().sum() > 0
    assert (network.head.weight.grad[1:] == 0).all()
    assert (network.head.bias.grad[1:] == 0).all()


def test_e1_the_policy_is_printed_in_the_report(toy, quick, tmp_path):
    import pandas as pd

    import lesioncam as lc

    frame = pd.read_csv(toy, dtype=str, keep_default_na=False)
    frame.loc[frame.index[4:12], "bar"] = "-1"
    frame.loc[frame.index[16:20], "dot"] = ""
    frame.to_csv(toy.parent / "unsure.csv", index=False)
    done = lc.run(toy.parent / "unsure.csv", tmp_path / "run", **{**quick, "epochs": 1}, uncertain_for={"bar": "soft"})
    page = " ".join(done.report.read_text().split())
    assert "What uncertain and unknown labels became" in page
    assert '<th scope="row">dot</th><td>ignored</td><td>ignored</td>' in page
    assert '<th scope="row">bar</th><td>0.55 to 0.85</td><td>ignored</td>' in page
