"""A removed option is answered in every way it can be given; runs that were made with it still load."""

import shutil

import pytest
import yaml
from pydantic import ValidationError

import lesioncam as lc
from lesioncam.cli import main
from lesioncam.errors import OptionError, RunError
from lesioncam.files import read_json, write_json
from lesioncam.options.data import AugmentConfig
from lesioncam.options.recipes import load_config
from lesioncam.options.removed import REMOVED
from lesioncam.options.run import OPTION_HOMES, RunConfig, make_config
from lesioncam.options.training import AidsConfig
from lesioncam.options.variation import read_vary
from lesioncam.reporting.comparison.compared_run import _config
from lesioncam.runs.folder import RunFolder

USED = {
    "mix": "mixup",
    "mix_alpha": 0.4,
    "averaging": "swa",
    "averaging_decay": 0.9,
    "averaging_start": 0.5,
    **dict.fromkeys(("histogram", "bias_field", "defocus", "sharpen", "coarse"), 0.5),
}
"""Every removed option at a value that did something."""
OLD = {
    group: {name: one.default for name, one in REMOVED.items() if one.group == group} for group in ("aids", "augment")
}
"""What every file of the last version holds."""


def test_what_is_removed_is_gone_and_its_answer_names_what_is_there():
    assert set(USED) == set(REMOVED)
    for name, gone in REMOVED.items():
        assert name not in OPTION_HOMES
        words = gone.instead.replace(";", " ").replace(",", " ").split()
        for option in [word.removeprefix("--") for word in words if word.startswith("--")]:
            assert option in OPTION_HOMES


@pytest.mark.parametrize("name", sorted(REMOVED))
def test_each_way_to_give_it_is_answered(name, toy, tmp_path, capsys):
    gone, value = REMOVED[name], USED[name]
    full, flag = f"{gone.group}.{name}", f"--{name.replace('_', '-')}"
    said = f"The option '{name}' was removed: {gone.instead}."
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({gone.group: {name: value}}))
    words = ([flag, str(value)], [f"{flag}={value}"], ["--set", f"{full}={value}"], ["--set", f"{name}={value}"])
    for given in (*words, ["--recipe", str(tmp_path / "mine.yaml")]):
        for verb in ("run", "train", "sweep"):
            assert main([verb, str(toy), "-o", str(tmp_path / "run"), *given]) == 2
            assert said in capsys.readouterr().err
    assert main(["sweep", str(toy), "-o", str(tmp_path / "run"), "--vary", f"{name}={value}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for ask in (
        lambda: make_config(**{name: value}),
        lambda: make_config(**{full: value}),
        lambda: make_config(**{gone.group: {name: value}}),
        lambda: load_config(tmp_path / "mine.yaml"),
        lambda: read_vary({full: [value]}),
        lambda: lc.train(toy, tmp_path / "run", **{name: value}),
    ):
        with pytest.raises(OptionError) as caught:
            ask()
        assert said.rstrip(".") in str(caught.value)
    with pytest.raises(ValidationError, match="was removed"):
        {"aids": AidsConfig, "augment": AugmentConfig}[gone.group](**{name: value})


def test_a_file_of_the_last_version_is_read_as_it_was(tmp_path):
    """It holds every option, those that are gone at their defaults."""
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"epochs": 7, **OLD}))
    assert load_config(tmp_path / "old.yaml") == make_config(epochs=7)
    assert RunConfig.model_validate(OLD) == RunConfig()


@pytest.fixture(scope="module")
def old_run(toy, quick, tmp_path_factory):
    """A finished run whose files say that it was mixed, averaged and warped, as the last version wrote them."""
    run = lc.run(toy, tmp_path_factory.mktemp("old") / "run", **quick)
    folder = RunFolder(run.folder)
    groups = {group: {n: USED[n] for n in names} for group, names in OLD.items()}
    config = yaml.safe_load(folder.config.read_text())
    card = read_json(folder.model)
    for content in (config, card["config"]):
        for group, values in groups.items():
            content[group] |= values
    folder.config.write_text(yaml.safe_dump(config))
    write_json(folder.model, card)
    return run.folder


def test_a_run_that_used_them_loads_reports_and_is_complete(old_run, toy):
    assert lc.load(old_run).card.config.aids == AidsConfig()
    assert lc.predict(old_run, [toy.parent / "p00_0.png"])
    assert lc.evaluate(old_run).shape[0] > 0
    lc.report(old_run)
    assert lc.train(None, old_run, resume=True).folder == old_run  # finished: nothing to go on with
    kept = _config(RunFolder(old_run).config)  # a comparison still names them
    assert (kept["aids.mix"], kept["augment.histogram"]) == ("mixup", 0.5)


def test_an_unfinished_training_that_used_them_cannot_go_on(old_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(old_run, run)
    shutil.rmtree(run / "model")
    write_json(run / "state.json", {"state": "running", "step": "train"})
    with pytest.raises(RunError, match=r"begun with .*aids\.mix.*--overwrite"):
        lc.train(None, run, resume=True)


def test_a_comparison_does_not_name_what_was_off(tmp_path):
    config = make_config(epochs=7).model_dump(mode="json")
    for group, values in OLD.items():
        config[group] |= values
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert not [key for key in _config(tmp_path / "config.yaml") if key.rpartition(".")[2] in REMOVED]
