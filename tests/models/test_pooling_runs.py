"""Poolings with weights of their own, and a user's module, through a whole run: train, choose, measure, load."""

import json

import numpy as np
import pytest
import torch

import lesioncam as lc
from lesioncam.options.poolings import AcamPool


class Weighted(torch.nn.Module):
    """Log-sum-exp whose sharpness is learnt."""

    def __init__(self):
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, class_maps, valid=None):
        evidence = self.sharpness * class_maps.flatten(2)
        if valid is not None:
            evidence = evidence.masked_fill(~valid.flatten(2), -torch.inf)
        places = torch.as_tensor(evidence.shape[-1]) if valid is None else valid.flatten(2).sum(-1)
        return (evidence.logsumexp(-1) - places.log()) / self.sharpness


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "attention,hidden=8", "dense_negative": 0.5},
        {"pooling": "acam", "norm": "batch", "dropout": 0.1, "classifier": "per_class"},
        {"pooling": "acam,preset=paper"},
    ],
    ids=lambda options: options["pooling"],
)
def test_all_the_way(toy, quick, tmp_path, options):
    run = lc.run(toy, tmp_path / "run", **{**quick, **options, "epochs": 1}, progress=False)
    trained = lc.load(run.folder)
    pooling = trained.card.config.pooling
    sharpened = isinstance(pooling, AcamPool) and pooling.combine != "mean"
    assert (trained.card.calibration.source == "classifier") == (not sharpened)  # else a scale was fitted on validation
    assert trained.card.thresholds is not None
    image = torch.rand(1, 1, 64, 48)
    with torch.no_grad():
        out = trained(image)
    torch.testing.assert_close(lc.explain(trained, image, "cam").raw, out.maps)
    assert (out.attended is not None) == isinstance(pooling, AcamPool)
    summary = json.loads((run.folder / "evaluate" / "val" / "summary.json").read_text())
    assert summary["method"] == "cam"
    case = lc.analyse(trained, np.random.default_rng(0).integers(0, 255, (64, 48), dtype=np.uint8))
    assert np.isfinite(case.heatmap.probability()).all()


def test_a_users_module_trains_and_the_users_own_stays_as_it_was(toy, quick, tmp_path):
    mine = Weighted()
    run = lc.run(toy, tmp_path / "run", **{**quick, "epochs": 2}, pooling=mine, progress=False)
    assert mine.sharpness.item() == 1.0
    learnt = lc.load(run.folder, pooling=mine).network.pool.function.sharpness
    assert learnt.item() != 1.0
    assert mine.sharpness.item() == 1.0
    with pytest.raises(lc.LesioncamError, match="your own"):
        lc.load(run.folder)
