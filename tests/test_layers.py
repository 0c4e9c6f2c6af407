"""The picture of the architecture is a test: imports point one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lesioncam

ROOT = Path(lesioncam.__file__).parent
ORDER = [
    "errors",
    "lookup",
    "files",
    "geometry",
    "types",
    "config",
    "functional",
    "data",
    "models",
    "explanation",
    "training",
    "segmentation",
    "evaluation",
    "reporting",
    "export",
    "pipeline",
    "scale",
    "app",
    "cli",
]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(name)):
                yield name
            case ast.Import(names=names):
                yield from (alias.name for alias in names)


def wrong_arrows(root: Path) -> list[str]:
    found = []
    for path in root.rglob("*.py"):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(path):
            if name.startswith(f"{root.name}.") and ORDER.index(name.split(".")[1]) > ORDER.index(room):
                found.append(f"{path} must not import {name}")
            if name == root.name and room not in ("models", "pipeline", "cli"):
                found.append(f"{path} must not import the package itself")
    return found


def test_imports_point_one_way():
    assert wrong_arrows(ROOT) == []


def test_a_reversed_arrow_is_found(tmp_path):
    (tmp_path / "lesioncam" / "data").mkdir(parents=True)
    (tmp_path / "lesioncam" / "data" / "x.py").write_text("from lesioncam.models.classifier import Classifier\n")
    assert len(wrong_arrows(tmp_path / "lesioncam")) == 1


def test_every_room_has_a_place_and_a_tenant():
    for path in ROOT.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert path.name in ORDER
            assert [p for p in path.glob("*.py") if p.name != "__init__.py"], f"{path} is empty"


@pytest.mark.parametrize("room", ["functional", "evaluation", "reporting"])
def test_quiet_rooms_know_no_model(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith("lesioncam.models")]


def test_hooks_are_registered_in_one_file():
    """The one place for hooks is explanation/capture.py."""
    for path in ROOT.rglob("*.py"):
        assert "register_forward_hook" not in path.read_text() or path.name == "capture.py"
