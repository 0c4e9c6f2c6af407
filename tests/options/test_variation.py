"""What is varied: from text to every combination, each with its options and a name of its own."""

import pytest
from tests.networks import Mine, lowest

from lesioncam.errors import OptionError
from lesioncam.options.poolings import LsePool
from lesioncam.options.run import RunConfig
from lesioncam.options.variation import read_vary, split_values, trials_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("avg,lse,pcam", ["avg", "lse", "pcam"]),
        ("lse,sharpness=6|pcam", ["lse,sharpness=6", "pcam"]),
        ("lse,sharpness=6;lse,sharpness=3", ["lse,sharpness=6", "lse,sharpness=3"]),
        (
            "[avg, 'lse,sharpness=6', {kind: topq, fraction: 0.1}]",
            ["avg", "lse,sharpness=6", {"kind": "topq", "fraction": 0.1}],
        ),
    ],
)
def test_values_of_an_option(text, values):
    assert split_values("pooling", text) == values


def test_brackets_hold_together():
    value = "slim,channels=[8,8,16,16]|slim,channels=[16,16,32,32]"
    assert split_values("backbone", value) == value.split("|")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pooling=lse,sharpness=6,pcam"], r"put \| or ;"),
        (["pooling"], "OPTION=VALUES"),
        (["pooling=avg,,lse"], "empty value"),
        (["polling=avg"], "Did you mean 'pooling'"),
        (["seed=0,1", "seed=2"], "given twice"),
        (["seed=0,0"], "there twice"),
        (["classes=a,b"], "read and split once"),
        (["table.fractions=[.5,.2,.3]|[.6,.2,.2]"], "read and split once"),
    ],
)
def test_slips_in_what_is_varied(words, said):
    with pytest.raises(OptionError, match=said):
        read_vary(words)


def test_every_combination_once_with_its_options():
    varied = read_vary(["pooling=lse,sharpness=6|avg", "backbone.stride=8,16", "flip=0,0.5", "seed=3,4"])
    trials = trials_of(RunConfig(), varied)
    assert len({trial.name for trial in trials}) == len(trials) == 16
    last = trials[-1]
    assert last.varied == {"pooling": "avg", "backbone.stride": "16", "flip": "0.5", "seed": "4"}
    assert (last.config.pooling.kind, last.config.backbone.stride, last.config.augment.flip) == ("avg", 16, 0.5)
    assert trials[0].config.pooling == LsePool(sharpness=6)
    assert trials[0].name == "lse-sharpness=6_stride8_flip0_seed3"
    with pytest.raises(OptionError, match=r"pooling\.fraction=0\.1.*"):
        trials_of(RunConfig(), read_vary(["pooling.fraction=0.1"]))  # the default pooling has none


def test_own_callables_have_names_and_folders_of_their_own():
    varied = read_vary({"pooling": ["avg", lowest, Mine(), lambda m: m.mean((2, 3)), lambda m: m.amax((2, 3))]})
    trials = trials_of(RunConfig(), varied)
    assert [trial.name for trial in trials] == ["avg", "lowest", "Mine", "lambda-1", "lambda-2"]
    assert [trial.own is None for trial in trials] == [True, False, False, False, False]
    assert trials[1].config.pooling.name.endswith(":lowest")
