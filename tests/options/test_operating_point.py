"""Operating rules are read once, where options are made; nonsense is refused in every way it can be given."""

import pytest
import yaml
from pydantic import ValidationError

from lesioncam.cli import main
from lesioncam.errors import OptionError
from lesioncam.options.operating_point import OperatingRule, parse_rule
from lesioncam.options.recipes import load_config
from lesioncam.options.run import RunConfig, make_config


def test_rules_are_parsed():
    assert parse_rule("youden") == OperatingRule() == OperatingRule("youden")
    assert parse_rule(" cost = 5 ") == parse_rule("cost=10/2") == OperatingRule("cost", 5.0)
    assert parse_rule("specificity=1") == OperatingRule("specificity", 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sensitivty=0.9", "Did you mean 'sensitivity'"),
        ("", "Available: cost, sensitivity, specificity, youden"),
        ("0.5", "Available"),
        ("youden=0.3", "found 0.3, expected no value; write 'youden' alone"),
        ("youden=", "found '', expected no value"),
        ("sensitivity", "found no value, expected a share above 0, at most 1; write for instance 'sensitivity=0.9'"),
        ("sensitivity=", "found '', expected a share"),
        ("sensitivity=90", "found 90, expected a share"),
        ("sensitivity=90%", "found '90%', expected a share"),
        ("specificity=0", "found 0, expected a share"),
        ("specificity=nan", "found nan, expected a share"),
        ("cost=-1", "found -1, expected how many false alarms a miss costs"),
        ("cost=inf", "found inf, expected how many"),
        ("cost=1/0", "found '1/0', expected how many"),
        ("cost=FN/FP", "found 'FN/FP', expected how many"),
        ("cost=1/2/3", "found '1/2/3', expected how many"),
    ],
)
def test_nonsense_is_refused_with_the_way_out(text, says):
    with pytest.raises(OptionError) as caught:
        parse_rule(text)
    assert says in str(caught.value)
    with pytest.raises(ValidationError, match="operating point"):
        RunConfig(operating_point=text)
    with pytest.raises(OptionError) as caught:
        make_config(operating_point=text)
    assert says in str(caught.value)


def test_a_rule_cannot_be_built_wrong():
    for kind, value in [("best", None), ("cost", None), ("youden", 1.0), ("sensitivity", 2.0)]:
        with pytest.raises(OptionError):
            OperatingRule(kind, value)


@pytest.mark.parametrize("verb", ["run", "train", "sweep"])
@pytest.mark.parametrize(
    "words", [["--operating-point", "sensitivity=90"], ["--set", "operating_point=sensitivity=90"]]
)
def test_the_command_line_refuses_a_rule_that_makes_no_sense(verb, words, toy, tmp_path, capsys):
    more = ["--vary", "seed=0,1"] if verb == "sweep" else []
    assert main([verb, str(toy), "-o", str(tmp_path / "run"), *words, *more]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_adopting_refuses_a_rule_that_makes_no_sense(toy, tmp_path, capsys):
    words = ["adopt", "timm:resnet18", str(toy), "-o", str(tmp_path / "run"), "--operating-point", "yuden"]
    assert main(words) == 2
    assert "Did you mean 'youden'" in capsys.readouterr().err


def test_a_file_with_a_rule_that_makes_no_sense_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"operating_point": "best"}))
    with pytest.raises(OptionError, match=r"mine\.yaml: Unknown operating point 'best'"):
        load_config(tmp_path / "mine.yaml")
