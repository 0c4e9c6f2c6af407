"""Maps of a classifier of a run: alone, in a batch and on another device; air that counts as padding."""

import numpy as np
import pytest
import torch

import lesioncam as lc
from lesioncam.explanation.cam import explain_samples
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.run import make_config
from lesioncam.runs.card import ClassifierCard

FAST = {
    "rise": {"masks": 20, "cells": 4},
    "occlusion": {"patch": 16},
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
}


def classifier_of(axes=2, **options):
    """Three classes; a head with weights, so that maps differ from place to place."""
    backbone = "slim,channels=[8,8,16,16],stem_width=8" if axes == 2 else "monai:resnet10,stage=2"
    config = make_config(
        backbone=backbone, size=(64, 64, 64)[:axes] if axes == 3 else 64, **{"pooling": "avg", **options}
    )
    network = build_classifier(config, 3)
    with torch.no_grad():
        network.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return TrainedClassifier(network, ClassifierCard(("a", "b", "c"), config)).eval()


def samples_of(classifier, shapes):
    """Prepared images; those that are not square are padded, each on its own sides."""
    rng = np.random.default_rng(0)
    return [classifier.preprocess(rng.random(shape).astype(np.float32)) for shape in shapes]


FLAT = [(64, 64), (40, 64), (64, 30), (64, 64), (50, 60)]
DEEP = [(16, 64, 64), (64, 32, 64), (64, 64, 64)]


def assert_alike(together, alone):
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        assert one.logits.dtype == one.heatmap.raw.dtype == np.float32
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-5)
        np.testing.assert_allclose(one.heatmap.raw, other.heatmap.raw, atol=1e-5)
        assert one.heatmap.geometry is other.heatmap.geometry
        assert (one.features is None) == (other.features is None)
        if one.features is not None:
            np.testing.assert_allclose(one.features, other.features, atol=1e-5)


@pytest.mark.parametrize("method", sorted(MAP_METHODS))
def test_an_image_gets_the_same_maps_alone_and_in_a_batch(method):
    classifier = classifier_of()
    samples = samples_of(classifier, FLAT)
    assert any(not sample.valid.all() for sample in samples)
    alone = [explain_samples(classifier, [sample], method, FAST.get(method))[0] for sample in samples]
    assert np.ptp([each.logits[0] for each in alone]) > 1e-3  # the images are not alike
    for size in (2, 5):
        assert_alike(explain_samples(classifier, samples[:size], method, FAST.get(method)), alone[:size])


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
@pytest.mark.parametrize("options", [{"air": "padding"}, {"pooling": "acam"}, {"axes": 3}], ids=str)
def test_volumes_air_and_attention_alone_and_in_a_batch(method, options):
    classifier = classifier_of(**options)
    samples = samples_of(classifier, DEEP if classifier.preprocess.axes == 3 else FLAT)
    alone = [explain_samples(classifier, [sample], method)[0] for sample in samples]
    assert_alike(explain_samples(classifier, samples, method), alone)


def test_no_images_give_no_maps():
    assert explain_samples(classifier_of(), []) == explain_samples(classifier_of(), [], "rise") == []


def test_images_go_where_the_weights_are():
    classifier, places = classifier_of().to("meta"), []

    def note(_, given):
        places.extend(each.device.type for each in given)
        raise StopIteration

    classifier.network.register_forward_pre_hook(note)
    with pytest.raises(StopIteration):
        explain_samples(classifier, samples_of(classifier, FLAT))
    assert places == ["meta", "meta"]  # images and which of their pixels are none


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", sorted(MAP_METHODS))
def test_a_gpu_gives_the_same_maps(method):
    classifier = classifier_of()
    samples = samples_of(classifier, FLAT)
    here = explain_samples(classifier, samples, method, FAST.get(method))
    there = explain_samples(classifier.to("cuda"), samples, method, FAST.get(method))
    for one, other in zip(here, there, strict=True):
        scale = np.abs(one.heatmap.raw).max()
        np.testing.assert_allclose(other.heatmap.raw, one.heatmap.raw, atol=1e-2 * scale)


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
    card = ClassifierCard(("mass",), config)
    return TrainedClassifier(network, card)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_air_is_never_hotter_than_the_body(method):
    classifier, image = made("padding"), disc()
    sample = classifier.preprocess(image)
    look = explain_samples(classifier, [sample], method)[0]
    shown = look.heatmap.native()[0]
    peak = np.unravel_index(shown.argmax(), shown.shape)
    far = np.hypot(*(np.indices(shown.shape) - np.array([40, 52])[:, None, None])) > 30 + 3 * 8
    assert shown[far].max() == pytest.approx(shown.min(), abs=1e-5)
    assert np.hypot(peak[0] - 40, peak[1] - 52) < 30 + 4  # half a cell: the cells at the edge are the body's


def test_cells_of_the_body_keep_their_values_and_pool_to_the_logit():
    classifier = made("padding")
    sample = classifier.preprocess(disc())
    look = explain_samples(classifier, [sample])[0]
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
    np.testing.assert_array_equal(explain_samples(classifier, [sample])[0].heatmap.raw, out.maps[0].numpy())


def test_the_whole_way(toy, quick, tmp_path):
    run = lc.run(toy, tmp_path / "run", **{**quick, "epochs": 1, "foreground": "body", "air": "padding"})
    assert len(run.metrics("val"))
