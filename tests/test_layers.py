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
    "picture",
    "types",
    "progress",
    "options",
    "functional",
    "data",
    "runs",
    "models",
    "explanation",
    "training",
    "segmentation",
    "evaluation",
    "inference",
    "measurement",
    "reporting",
    "export",
    "verbs",
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
            if name == root.name and room not in ("runs", "verbs", "cli"):
                found.append(f"{path} must not import the package itself")
    return found


def test_imports_point_one_way():
    assert wrong_arrows(ROOT) == []


def circles(root: Path) -> list[list[str]]:
    """Groups of files that import each other, directly or not; imports inside functions count too."""
    files = {module_of(path, root): path for path in root.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        graph[name] = {target for target in targets(path) if target in files and target not in {name, root.name}}
    return [sorted(group) for group in strongly_connected(graph) if len(group) > 1]


def module_of(path: Path, root: Path) -> str:
    return ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")


def targets(path: Path) -> Iterator[str]:
    """What a file imports: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(name), names=names):
                yield name
                yield from (f"{name}.{alias.name}" for alias in names)
            case ast.Import(names=names):
                yield from (alias.name for alias in names)


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan's groups, by repeated search: small graphs only."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    after = {name: reached(name) for name in graph}
    groups: list[set[str]] = []
    for name in graph:
        group = {other for other in after[name] if name in after[other]}
        if group and group not in groups:
            groups.append(group)
    return groups


def test_no_circle_of_files():
    assert circles(ROOT) == []


def test_a_circle_behind_a_function_is_found(tmp_path):
    (tmp_path / "lesioncam").mkdir()
    (tmp_path / "lesioncam" / "a.py").write_text("from lesioncam.b import f\n")
    (tmp_path / "lesioncam" / "b.py").write_text("def f():\n    from lesioncam import a\n    return a\n")
    assert circles(tmp_path / "lesioncam") == [["lesioncam.a", "lesioncam.b"]]


def test_a_reversed_arrow_is_found(tmp_path):
    (tmp_path / "lesioncam" / "data").mkdir(parents=True)
    (tmp_path / "lesioncam" / "data" / "x.py").write_text("from lesioncam.models.classifier import Classifier\n")
    assert len(wrong_arrows(tmp_path / "lesioncam")) == 1


def test_every_room_has_a_place_and_a_tenant():
    for path in ROOT.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert path.name in ORDER
            assert [p for p in path.rglob("*.py") if p.name != "__init__.py"], f"{path} is empty"


@pytest.mark.parametrize("room", ["functional", "evaluation", "reporting"])
def test_quiet_rooms_know_no_model(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith("lesioncam.models")]


def test_hooks_are_registered_in_one_file():
    """The one place for hooks is explanation/capture.py."""
    for path in ROOT.rglob("*.py"):
        assert "register_forward_hook" not in path.read_text() or path.name == "capture.py"
