"""The shortcut panel over drawn images whose labels are, or are not, betrayed by the way they were acquired."""

import json

import numpy as np
import pytest

from lesioncam.errors import GeometryError
from lesioncam.evaluation.shortcut import ProbeData, Shortcut, probe_data
from lesioncam.files import write_json


def picture(rng, *, side=40, air=0, axes=2):
    """A bright ball on air, with some noise."""
    grid = np.indices((side,) * axes) - (side - 1) / 2
    body = (grid**2).sum(axis=0) <= (0.35 * side) ** 2
    image = np.where(body, 180, air) + rng.integers(0, 8, body.shape)
    return image.astype(np.uint8), body


def images(n, seed, confound):
    """Pairs of image and label; ``confound`` turns (image, label) into what an acquisition would have made of it."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = float(i % 2)
        yield confound(rng, label), [label]


def panel(n, confound):
    """Probes learn from n images and are judged on n others."""
    result = Shortcut(("mass",))
    result.train(probe_data(images(n, 0, confound)))
    for i, (image, labels) in enumerate(images(n, 1, confound)):
        result.add(f"i{i}", f"p{i}", labels, np.ones((1, *image.shape)), image)
    return result.result(draws=200)


def by_size(rng, label):
    return picture(rng, side=44 if label else 40)[0]


def by_border(rng, label):
    """A brighter rim, as another scanner leaves; the same histogram, since the middle gets what the rim had."""
    image, _ = picture(rng)
    flat = np.full((2, *image.shape[1:]), 60, np.uint8)
    image[(0, -1) if label else (20, 21), :] = flat
    return image


def by_chance(rng, _):
    return picture(rng)[0]


def test_labels_that_go_with_the_size():
    content = panel(60, by_size)
    assert content["statistics_auroc"]["mass"]["value"] == 1


def test_labels_that_go_with_the_border():
    content = panel(60, by_border)
    assert content["border_auroc"]["mass"]["value"] == 1
    assert content["border_auroc"]["macro"] == content["border_auroc"]["mass"]


def test_labels_that_go_with_nothing():
    content = panel(200, by_chance)
    for name in ("border_auroc", "statistics_auroc"):
        assert content[name]["mass"]["low"] < 0.5 < content[name]["mass"]["high"]
        assert content[name]["mass"]["n"] == 200


@pytest.mark.parametrize("axes", [2, 3])
def test_shares_of_known_evidence(axes):
    rng = np.random.default_rng(0)
    result = Shortcut(("inside", "outside", "half", "border"), axes)
    for i in range(4):
        image, body = picture(rng, side=20, axes=axes)
        rim = np.zeros(body.shape)
        rim[0] = 1.0
        half = np.where(body, 1 / body.sum(), 1 / (~body).sum())
        result.add(f"i{i}", f"p{i}", [1, 1, 1, 1], np.stack([body, ~body, half, rim]), image)
    shares = result.result(draws=50)["by_class"]
    assert [round(part["outside_body"]["share"], 9) for part in shares.values()] == [0, 1, 0.5, 1]
    assert [shares[name]["border"]["share"] for name in ("inside", "border")] == [0, 1]
    assert shares["half"]["outside_body"]["low"] == pytest.approx(0.5)
    assert shares["half"]["outside_body"]["n"] == 4


def test_only_positive_images_with_positive_evidence_count():
    rng = np.random.default_rng(0)
    image, body = picture(rng)
    result = Shortcut(("mass", "ring"))
    result.add("a", "p", [1, 0], np.stack([~body, ~body]), image)  # 1; ring is negative
    result.add("b", "q", [1, 1], np.stack([body, -1.0 * body]), image)  # 0; ring has no evidence
    result.add("c", "q", [np.nan, -1], np.stack([~body, ~body]), image)  # unknown
    content = result.result(draws=20)
    assert content["outside_body"]["share"] == 0.5
    assert content["outside_body"]["n"] == 2
    ring = content["by_class"]["ring"]["outside_body"]
    assert ring == {"share": None, "low": None, "high": None, "n": 0, "alarm": 0.2}
    assert [(row["image"], row["class"], row["outside"]) for row in content["images"]] == [
        ("a", "mass", 1.0),
        ("b", "mass", 0.0),
    ]


def test_the_interval_is_the_bootstrap_over_patients():
    """Two patients, shares 0 and 1: a draw gives 0, 1/2 or 1 (first patient two images, so 2/3 for one of each)."""
    rng = np.random.default_rng(0)
    image, body = picture(rng)
    result = Shortcut(("mass",))
    for name, patient, evidence in [("a", "p", ~body), ("b", "p", ~body), ("c", "q", body)]:
        result.add(name, patient, [1], evidence[None], image)
    part = result.result(draws=400)["outside_body"]
    assert (part["share"], part["low"], part["high"]) == (pytest.approx(2 / 3), 0, 1)


def test_the_pooled_share_weighs_every_pair():
    rng = np.random.default_rng(0)
    image, body = picture(rng)
    result = Shortcut(("mass", "ring"))
    result.add("a", "p", [1, 1], np.stack([~body, ~body]), image)
    result.add("b", "q", [1, 0], np.stack([body, body]), image)
    assert result.result(draws=10)["outside_body"]["share"] == pytest.approx(2 / 3)


def test_the_classifier_stands_beside_the_probes_only_where_it_gave_scores():
    rng = np.random.default_rng(0)
    without, beside = Shortcut(("mass",)), Shortcut(("mass",))
    for i, score in enumerate([0.1, 0.9, 0.8, 0.7]):
        image, body = picture(rng)
        for one, scores in ((without, ()), (beside, [score])):
            one.add(f"i{i}", f"p{i}", [i % 2], body[None], image, scores=scores)
    assert "classifier_auroc" not in without.result(draws=5)
    assert beside.result(draws=5)["classifier_auroc"]["mass"]["value"] == 0.75  # .9 and .7 against .1 and .8
    assert list(beside.result(draws=5)["classifier_auroc"]) == ["mass", "macro"]


def test_the_ten_worst_images_come_first():
    rng = np.random.default_rng(0)
    image, body = picture(rng)
    result = Shortcut(("mass",))
    for i in range(30):
        result.add(f"i{i}", f"p{i}", [1], np.where(body, 1.0, i / 10)[None], image)
    listed = result.result(draws=5)["images"]
    assert [row["image"] for row in listed] == [f"i{i}" for i in range(29, 19, -1)]


def test_only_vectors_are_kept():
    rng = np.random.default_rng(0)
    result = Shortcut(("mass",))
    image, body = picture(rng, side=200)
    result.add("a", "p", [1], body[None].astype(float), image)
    kept = [part.size for part in result._seen[0] if isinstance(part, np.ndarray)]
    assert sum(kept) < 200


def test_a_class_of_one_sort_and_no_train_images_are_undefined():
    rng = np.random.default_rng(0)
    for data in (ProbeData(np.empty((0, 46)), np.empty((0, 58)), np.empty((0, 1))), None):
        result = Shortcut(("mass",))
        if data is not None:
            result.train(data)
        image, body = picture(rng)
        result.add("a", "p", [1], body[None], image)
        empty = {"value": None, "low": None, "high": None, "n": 0}
        assert result.result(draws=5)["border_auroc"] == {"mass": empty, "macro": empty}


def test_no_image_at_all(tmp_path):
    result = Shortcut(("mass",))
    result.train(probe_data([]))
    content = result.result(draws=5)
    assert content["outside_body"]["n"] == 0
    assert content["images"] == []
    write_json(tmp_path / "shortcut.json", content)


def test_images_without_air_get_no_verdict():
    result = Shortcut(("mass",))
    for i in range(3):
        result.add(f"i{i}", f"p{i}", [1], np.ones((1, 9, 9)), np.full((9, 9), 7, np.uint8))
    content = result.result(draws=5)
    assert (content["outside_body"]["share"], content["outside_body"]["n"], content["no_air"]) == (None, 0, 3)
    assert content["border"]["share"] is not None
    assert [row["outside"] for row in content["images"]] == [None] * 3


def test_a_few_images_without_air_are_left_out():
    result, rng = Shortcut(("mass",)), np.random.default_rng(0)
    for i in range(3):
        image, body = picture(rng)
        result.add(f"i{i}", f"p{i}", [1], ~body[None], image)
    result.add("tight", "q", [1], np.ones((1, 9, 9)), rng.integers(90, 99, (9, 9)).astype(np.uint8))
    content = result.result(draws=5)
    assert (content["outside_body"]["share"], content["outside_body"]["n"], content["no_air"]) == (1.0, 3, 1)


def test_the_content_is_plain_json(tmp_path):
    content = panel(20, by_chance)
    assert json.loads(write_json(tmp_path / "shortcut.json", content).read_text()) == content
    assert list(content) == [
        "outside_body",
        "border",
        "by_class",
        "no_air",
        "border_auroc",
        "statistics_auroc",
        "images",
    ]


def test_the_same_seed_gives_the_same_numbers():
    assert panel(20, by_chance) == panel(20, by_chance)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(GeometryError, match="own grid"):
        Shortcut(("mass",)).add("a", "p", [1], np.ones((1, 8, 8)), np.eye(9))
