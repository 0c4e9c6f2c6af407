"""What the package promises as a whole: light imports, instant help, names that do not collide."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lesioncam
from lesioncam.cli import VERBS, main
from lesioncam.options.poolings import POOLING_TYPES
from lesioncam.options.run import RunConfig

ROOT = Path(lesioncam.__file__).parent


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy():
    loaded = python(
        "import sys, lesioncam; print([m for m in ('torch', 'numpy', 'pandas', 'pydantic') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from lesioncam.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'tyro', 'pydantic') if m in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_info_is_json_of_everything_there_is_to_choose_and_loads_no_torch():
    code = (
        "import sys; from lesioncam.cli import main; main(['info', '--json']); "
        "print([m for m in ('torch', 'lightning', 'monai', 'timm') if m in sys.modules])"
    )
    *lines, loaded = python(code).splitlines()
    about = json.loads("\n".join(lines))
    assert loaded == "[]"
    assert set(about["poolings"]) == set(POOLING_TYPES)
    assert set(about["verbs"]) == set(VERBS)
    assert about["options"]["epochs"]["default"] == RunConfig().epochs
    assert about["options"]["rotation"]["group"] == "augment"
    assert all(one["help"] for one in about["options"].values())
    assert "chexnet" in about["recipes"]
    assert about["metrics"]["segmentation/hd95"]["lower_is_better"]


def test_info_for_people_names_them(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*POOLING_TYPES, "figshare-brain", "layercam", "learning_rate"])


def test_no_public_name_is_a_room():
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    assert not rooms & set(lesioncam.__all__)


def test_every_public_name_exists_and_is_documented():
    for name in lesioncam.__all__:
        assert getattr(lesioncam, name) is not None
        if name != "__version__":
            assert getattr(lesioncam, name).__doc__


def test_unknown_public_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        _ = lesioncam.explode


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"lesioncam {verb}" in capsys.readouterr().out


def test_an_unknown_verb_is_one_sentence(capsys):
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert lesioncam.__version__ in capsys.readouterr().out
