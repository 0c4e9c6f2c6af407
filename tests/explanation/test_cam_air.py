"""Air that counts as padding: no label reaches its cells, so no map may be hot there."""

import numpy as np
import pytest
import torch

import lesioncam as lc
from lesioncam.explanation.cam import cam, explained
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config
from lesioncam.runs.card import ModelCard


def disc(size=96, radius=30):
    """A bright disc in dark air, off the middle."""
    y, x = np.indices((size, size))
    rng = np.random.default_rng(0)
    return np.where(np.hypot(y - 40, x - 52) < radius, 120.0, 8.0) + rng.normal(0, 2.0, (size, size))


def made(air):
    config = make_config(backbone="slim", size=96, air=air, crop=False, pooling="max")
    network = build_classifier(config, 1).eval()
    with torch.no_grad():  # hot where it is dark: the trap
        network.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    card = ModelCard(("mass",), config)
    return TrainedClassifier(network, card)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_air_is_never_hotter_than_the_body(method):
    classifier, image = made("padding"), disc()
    sample = classifier.preprocess(image)
    look = cam(classifier, sample) if method == "cam" else explained(classifier, sample, method)
    shown = look.heatmap.native()[0]
    peak = np.unravel_index(shown.argmax(), shown.shape)
    far = np.hypot(*(np.indices(shown.shape) - np.array([40, 52])[:, None, None])) > 30 + 3 * 8
    assert shown[far].max() == pytest.approx(shown.min(), abs=1e-5)
    assert np.hypot(peak[0] - 40, peak[1] - 52) < 30 + 4  # half a cell: the cells at the edge are the body's


def test_cells_of_the_body_keep_their_values_and_pool_to_the_logit():
    classifier = made("padding")
    sample = classifier.preprocess(disc())
    look = cam(classifier, sample)
    with torch.no_grad():
        out = classifier.network(torch.from_numpy(sample.image)[None], torch.from_numpy(sample.valid)[None, None])
    inside = out.valid[0, 0].numpy()
    np.testing.assert_array_equal(look.heatmap.raw[:, inside], out.maps[0].numpy()[:, inside])
    assert look.logits[0] == look.heatmap.raw.max()  # the hottest cell is the body's
    assert out.maps.max() > look.logits[0]  # and the air's would have been hotter


@pytest.mark.parametrize("air", ["keep", "dark"])
def test_other_air_leaves_maps_alone(air):
    classifier = made(air)
    sample = classifier.preprocess(disc())
    with torch.no_grad():
        out = classifier.network(torch.from_numpy(sample.image)[None], torch.from_numpy(sample.valid)[None, None])
    np.testing.assert_array_equal(cam(classifier, sample).heatmap.raw, out.maps[0].numpy())


def test_the_whole_way(toy, quick, tmp_path):
    run = lc.run(toy, tmp_path / "run", **{**quick, "epochs": 1, "foreground": "body", "air": "padding"})
    assert len(run.metrics("val"))
