"""One way of an image: alone or in a batch, by whatever subject, the same; what was not seen is worth one thing."""

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image
from torch import nn

import lesioncam as lc
from lesioncam.data.preprocess import Preprocess, ResizeCrop
from lesioncam.errors import ImageError, RunError
from lesioncam.geometry import OUTSIDE, Geometry
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.exam import open_exam
from lesioncam.inference.explanation import Explanation
from lesioncam.inference.look import look
from lesioncam.inference.stream import Failed, Way, results_of, stream
from lesioncam.models.checkpoint import TrainedClassifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.data import ResizeCropConfig
from lesioncam.options.networks import AdoptConfig
from lesioncam.options.run import make_config
from lesioncam.picture import Picture
from lesioncam.runs.card import AdoptedCard, ClassifierCard
from lesioncam.types import Calibration, Exam, Heatmap, Threshold

CHOSEN = (Threshold(0.4, "val"), Threshold(0.6, "val"))


@pytest.fixture(scope="module")
def classifier() -> TrainedClassifier:
    """Random weights, but real ones: normalisation and padding matter to what comes out."""
    config = make_config(size=64, backbone="slim,channels=[8,8,16,16],stem_width=8", seed=3)
    network = build_classifier(config, 2)
    card = ClassifierCard(("dot", "bar"), config, thresholds=CHOSEN, decisions=CHOSEN, origin=(0.0, 0.0))
    return TrainedClassifier(network, card).eval()


def pictures(count: int) -> list[np.ndarray]:
    """Of different sizes, so that each has padding of its own."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 255, (40 + 7 * i, 70 - 5 * i)).astype(np.uint8) for i in range(count)]


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam", "eigencam"])
def test_the_same_alone_or_in_a_batch(classifier, method):
    exams = [open_exam(image, f"i{i}") for i, image in enumerate(pictures(7))]
    subject = ClassifierSubject(classifier)
    together = list(look(subject, exams, method=method))
    for exam, seen in zip(exams, together, strict=True):
        [alone] = look(subject, [exam], method=method)
        span = np.abs(alone.evidence).max()
        np.testing.assert_allclose(seen.evidence, alone.evidence, atol=1e-5 * span)
        np.testing.assert_allclose(seen.result.logits, alone.result.logits, atol=1e-5)
        np.testing.assert_allclose(seen.result.probabilities, alone.result.probabilities, atol=1e-5)
        assert seen.result.id == exam.id
        assert [t.source for t in seen.result.segmentation.thresholds] == ["val" if method == "cam" else "default"] * 2


def test_a_stream_keeps_the_order_and_lists_what_failed(classifier, tmp_path):
    """Broken and unusable images lie in the middle of batches; the others are answered all the same."""
    files = []
    for i, image in enumerate(pictures(8)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    way = Way(ClassifierSubject(classifier))
    results = list(stream(way, files, open_exam, lambda file, seen: (file.name, seen.result.id)))
    assert [i for i, one in enumerate(results) if isinstance(one, Failed)] == [2]
    assert results[2].item == files[2]
    assert [one for i, one in enumerate(results) if i != 2] == [(f.name, f.name) for i, f in enumerate(files) if i != 2]
    with pytest.raises(ImageError, match=r"2\.png"):
        list(results_of(way, files))


def test_an_image_that_cannot_be_prepared_spoils_no_other(classifier):
    def prepare(picture: Picture):
        if picture.source == "i1":
            raise ImageError("i1 cannot be prepared.")
        return Preprocess(classifier.card.config.preprocess, 2)(picture)

    spoilt = TrainedClassifier(classifier.network, classifier.card).eval()
    spoilt.preprocess = prepare
    names = [f"i{i}" for i in range(5)]
    images = dict(zip(names, pictures(5), strict=True))
    results = list(
        stream(
            Way(ClassifierSubject(spoilt)),
            names,
            lambda n: Exam(n, n, (Picture(images[n], source=n),)),
            lambda _, seen: seen.result.id,
        )
    )
    assert [one if isinstance(one, str) else "failed" for one in results] == ["i0", "failed", "i2", "i3", "i4"]


def test_several_pictures_are_refused_by_what_looks_at_one(classifier):
    one = pictures(1)[0]
    with pytest.raises(ImageError, match="study 7 has 2 images"):
        list(look(ClassifierSubject(classifier), [Exam("study 7", "a.png", (Picture(one), Picture(one)))]))


def test_thresholds_of_validation_must_be_there(classifier):
    bare = TrainedClassifier(classifier.network, ClassifierCard(("dot", "bar"), classifier.card.config)).eval()
    exam = open_exam(pictures(1)[0])
    with pytest.raises(RunError, match="no thresholds yet"):
        list(look(ClassifierSubject(bare), [exam]))
    [seen] = look(ClassifierSubject(bare), [exam], threshold=0.3)
    assert [(t.value, t.source) for t in seen.result.segmentation.thresholds] == [(0.3, "given")] * 2


# ---- what lies outside the crop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calibration", "outside"),
    [(None, -1.0), (Calibration.of_classifier(1), OUTSIDE)],
    ids=["no scale: the coldest cell", "a scale: colder than any evidence"],
)
def test_a_pixel_outside_the_crop_is_worth_the_same_on_every_way(calibration, outside):
    """Half of an 8 x 4 image was shown to the network."""
    geometry = Geometry.letterbox((8, 4), (4, 4), crop=((0, 4), (0, 4)))
    raw = np.array([[[-1.0, 2.0], [0.0, 1.0]]], np.float32)
    heatmap = Heatmap(raw, ("dot",), "gradcam", "x", geometry, calibration)
    explained = Explanation("a", np.zeros((8, 4), np.uint8), np.zeros(1, np.float32), heatmap)
    for native in (heatmap.native(), explained.native(), explained.native("dot")[None]):
        np.testing.assert_array_equal(native[0, 4:], np.full((4, 4), outside, np.float32))
        assert native[0, :4].min() == -1.0
    np.testing.assert_array_equal(explained.unit("dot")[4:], 0)
    np.testing.assert_array_equal(heatmap.unit(), explained.unit())


class Mean(nn.Module):
    """Somebody's network: two scores, from the mean of a strided convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, images):
        return self.head(F.adaptive_avg_pool2d(self.features(images), 1).flatten(1))


def test_an_explainer_and_an_adopted_run_draw_the_same_map():
    """A crop of half the image, so that what lies outside counts; the network is the same, the ways meet."""
    network = Mean().eval()
    prepare = ResizeCropConfig(size=(32, 32), crop_pct=0.5)
    card = AdoptedCard(
        ("dot", "bar"),
        make_config(map="gradcam"),
        thresholds=CHOSEN,
        origin=(0.0, 0.0),
        adopted=AdoptConfig(model="a:b", prepare=prepare, layer="features"),
    )
    image = pictures(1)[0]
    [theirs] = lc.Explainer(network, ResizeCrop(prepare), ["dot", "bar"], method="gradcam", layer="features")([image])
    [seen] = look(ClassifierSubject(TrainedClassifier(network, card).eval()), [open_exam(image)])
    np.testing.assert_allclose(theirs.native(), seen.evidence, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(theirs.scores, seen.result.logits, rtol=1e-5)
