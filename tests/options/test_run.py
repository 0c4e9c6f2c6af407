"""All options together: one name, one home; text, flat and full names give the same options."""

import pytest
from pydantic import PositiveInt

from lesioncam.errors import OptionError
from lesioncam.options.base import Config, kinds_of
from lesioncam.options.poolings import LsePool, TopqPool
from lesioncam.options.run import GROUPS, OPTION_HOMES, RunConfig, _homes, make_config
from lesioncam.options.training import LOSSES, OPTIMIZERS, SCHEDULES


class One(Config):
    size: PositiveInt = 1


class Other(Config):
    width: PositiveInt = 1
    size: PositiveInt = 1


def test_two_options_of_one_name_are_an_error():
    assert _homes(RunConfig, {"one": One})["size"] == "one"
    with pytest.raises(TypeError, match="'size' is in 'one' and in 'other'"):
        _homes(RunConfig, {"one": One, "other": Other})
    with pytest.raises(TypeError, match="'size' is in 'the top' and in 'other'"):
        _homes(One, {"other": Other})


def test_every_option_has_its_home():
    assert (OPTION_HOMES["size"], OPTION_HOMES["epochs"]) == ("preprocess", "")
    assert len(OPTION_HOMES) == len(RunConfig.model_fields) + sum(len(kind.model_fields) for kind in GROUPS.values())
    for group, kind in GROUPS.items():
        assert type(getattr(RunConfig(), group)) is kind


def test_flat_and_full_names_are_the_same_option():
    flat = make_config(size=64, flip=0, pooling="topq,fraction=0.1")
    full = make_config(**{"preprocess.size": 64, "augment.flip": 0, "pooling": TopqPool(fraction=0.1)})
    assert flat == full
    assert make_config(flat, **{"pooling.fraction": 0.2, "backbone.options.drop_path_rate": 0.1}) == make_config(
        size=64, flip=0, pooling={"kind": "topq", "fraction": 0.2}, backbone="slim,drop_path_rate=0.1"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augmnt.flip": 0}, "no group 'augmnt'"),
        ({"epochs.flip": 0}, "no group 'epochs'"),
        ({"augment.filp": 0}, "augment.filp: no such option; available here: rotation"),
        ({"filp": 0}, "Did you mean 'flip'"),
        ({"pooling.fraction": 0.1}, "no such option; available here: kind, sharpness"),
        ({"pooling": "lse,temperature=1"}, "options: pooling 'lse,temperature=1': temperature: .*belongs to pcam"),
        ({"loss": "focal,beta=1"}, "loss 'focal,beta=1': beta"),
        ({"backbone": "slim,stride=7"}, "backbone 'slim,stride=7': stride"),
    ],
)
def test_slips_are_one_sentence(options, said):
    with pytest.raises(OptionError, match=said):
        make_config(**options)


def test_text_is_read_wherever_options_are():
    content = {"pooling": "lse,sharpness=6", "backbone": "resnet18,stride=16", "loss": "focal,gamma=1"}
    config = RunConfig.model_validate(content)
    assert config == make_config(**content)
    assert config.pooling == LsePool(sharpness=6)


def test_tables_of_choices_follow_from_their_unions():
    assert list(LOSSES) == ["aucpr", "bce", "class_balanced", "focal"]
    assert list(OPTIMIZERS) == ["adam", "adamw", "sgd"]
    assert list(SCHEDULES) == ["constant", "cosine", "onecycle", "plateau", "step"]
    assert kinds_of(int) == kinds_of(One | Other) == {}
