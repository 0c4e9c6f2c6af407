"""Help: twenty options by what one wants, all on request; every flag that is parsed can be found."""

import re

import pytest

from lesioncam.cli import main
from lesioncam.options.data import TableConfig
from lesioncam.options.run import EVERYDAY, GROUPS, OPTION_HOMES

FLAG = re.compile(r"--([a-z][a-z-]*)")


def shown(capsys, *words):
    """The help as it is printed."""
    with pytest.raises(SystemExit) as stop:
        main([*words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def boxes(text):
    """The flags under each title; without a terminal, boxes are printed as underlined titles."""
    found, lines = {}, text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following.strip() and not following.strip(" -"):
            title = line.strip().removesuffix(" options")
            found[title] = []
        elif re.match(r"  (-\w \w+, )?--", line):
            name = FLAG.findall(line.split("   ")[0])[-1].replace("-", "_")
            found[title].append(name if name in OPTION_HOMES else name.removeprefix("no_"))
    return found


OPTIONS = set(OPTION_HOMES) - set(GROUPS)


def test_twenty_options_matter():
    names = [name for group in EVERYDAY.values() for name in group]
    assert len(names) == len(set(names)) == 20
    assert set(names) <= OPTIONS


@pytest.mark.parametrize("verb", ["run", "train", "sweep"])
def test_help_shows_what_matters_by_what_one_wants(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, verb, "--help")
    found = boxes(text)
    assert {title: tuple(found[title]) for title in EVERYDAY} == EVERYDAY
    assert set(found) == {"positional arguments", "options", *EVERYDAY}
    assert f"lesioncam {verb} --help all" in text
    assert len(text.splitlines()) <= 115


@pytest.mark.parametrize("verb", ["run", "train", "sweep"])
def test_help_all_shows_every_option_once(verb, capsys):
    text = shown(capsys, verb, "--help", "all")
    found = boxes(text)
    own = found.pop("options")
    listed = [name for names in found.values() for name in names]
    assert sorted(listed) == sorted(OPTIONS)
    assert not set(listed) & set(own)  # no verb has an option of that name itself
    assert "--help all" not in text


@pytest.mark.parametrize("verb", ["check", "split", "evaluate", "adopt"])
def test_verbs_that_read_a_table_show_its_everyday_options(verb, capsys):
    everyday = {name for name in EVERYDAY["data and labels"] if name in TableConfig.model_fields}
    assert set(boxes(shown(capsys, verb, "--help"))["data and labels"]) == everyday
    found = boxes(shown(capsys, verb, "--help", "all"))
    assert set(found["data and labels"]) | set(found["table.*"]) == set(TableConfig.model_fields)


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(capsys, "run", "--help", "all")
    assert max(len(line) for line in text.splitlines()[6:]) == columns


def test_help_shows_the_options_of_a_recipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, "run", "--recipe", "chexnet", "--help")
    assert re.search(r"--batch INT +Images per step. \(default: 16\)", text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "0"], "options: epochs: Input should be greater than 0 (found 0)."),
        (["--channels", "2", "--std", "1", "2", "3"], "options: std needs one number, or one for each of 2 channels."),
        (["--columns", "file"], "'file': expected OUR_NAME=YOURS"),
        (["--uncertain", "7"], "a soft label lies between 0 and 1, not at 7"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence(words, said, tmp_path, capsys):
    assert main(["run", "t.csv", "-o", str(tmp_path / "run"), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lesioncam run: ")
    assert said in err


def test_every_option_is_parsed_though_help_hides_it(toy, tmp_path, capsys):
    words = [
        "--shift",
        "0.1",
        "--erasing",
        "0.5",
        "--draws",
        "7",
        "--blank",
        "0",
        "--no-crop",
        "--columns",
        "image=file",
    ]
    assert main(["run", str(toy), "-o", str(tmp_path / "run"), "--epochs", "1", "--size", "32", *words, "--plan"]) == 0
    assert "images" in capsys.readouterr().out
