"""The sanity facts of a run: a trained network against one that was never trained, by numbers a person can expect."""

import numpy as np
import pytest

import lesioncam as lc
from lesioncam.explanation.sanity import randomised
from lesioncam.inference.classifier import explained_samples
from lesioncam.measurement.load import load_subject
from lesioncam.measurement.part import Part
from lesioncam.measurement.sanity import sanity_of
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.table import run_table


@pytest.fixture(scope="module")
def part(toy_run):
    folder = RunFolder(toy_run)
    return Part(run_table(folder).split("test"), load_subject(folder), run_key(folder))


def test_a_trained_network_has_maps_that_its_score_depends_on(toy_run, part):
    found = sanity_of(lc.load(toy_run), part)
    first, *_, last = found.cascade
    assert (first.randomised, first.similarity) == (0, pytest.approx(1.0))
    assert abs(last.similarity) < 0.6
    assert found.similarity < 0.6
    own, noise = found.faithfulness.map, found.faithfulness.random_map
    assert own.deletion < noise.deletion
    assert own.road > noise.road
    assert found.faithfulness.images > 0


def test_the_facts_follow_from_the_seed(toy_run, part):
    small = Part(part.table.take([0, 1, 2]), part.subject, part.key)
    again = [sanity_of(lc.load(toy_run), small, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert again[0] != again[2]


def test_maps_that_ignore_the_weights_are_given_away(toy_run, part, monkeypatch):
    """A method that shows the image whatever the network knows: likeness 1 at every depth."""
    model = lc.load(toy_run)
    plain = model.card.config.map

    def edges(classifier, samples):
        raws = [np.repeat(sample.image[:1, ::8, ::8], len(classifier.classes), axis=0) for sample in samples]
        return [
            one._replace(heatmap=type(one.heatmap)(raw, classifier.classes, plain, "", one.heatmap.geometry))
            for one, raw in zip(explained_samples(classifier, samples), raws, strict=True)
        ]

    monkeypatch.setattr("lesioncam.measurement.sanity.explained_samples", edges)
    small = Part(part.table.take([0, 1, 2]), part.subject, part.key)
    found = sanity_of(model, small)
    assert found.similarity == pytest.approx(1.0)
    assert found.cascade[-1].similarity == pytest.approx(1.0)
    assert found.cascade[-1].randomised > 1
    assert randomised(model) is not model
