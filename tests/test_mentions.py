"""Every dotted name of ours that code, docstrings or pages mention exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
MENTION = re.compile(r"(?<![\w./-])lesioncam(?:\.[A-Za-z_]\w*)+")
PLACES = [
    *sorted((SRC / "lesioncam").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md")),
]
NO_NAMES = {"yaml", "csv", "html", "cff", "whl", "egg"}
"""What follows a dot in the name of a file."""


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines or imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.ImportFrom(names=imported) | ast.Import(names=imported):
                names |= {alias.asname or alias.name for alias in imported}
    return frozenset(names)


def is_known(mention: str) -> bool:
    """Whether a dotted name leads to a file, or to something that is named in one."""
    place, parts = SRC / "lesioncam", mention.split(".")[1:]
    for i, part in enumerate(parts):
        if (place / part).is_dir():
            place /= part
        elif (file := place / f"{part}.py").is_file():
            return i + 1 == len(parts) or parts[i + 1] in names_in(file)
        else:
            return part in NO_NAMES or part in names_in(place / "__init__.py")
    return True


@pytest.mark.parametrize("path", PLACES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_mentioned_exists(path):
    assert [name for name in MENTION.findall(path.read_text()) if not is_known(name)] == []


def test_a_name_that_is_gone_is_found():
    assert is_known("lesioncam.functional.pooling.POOLINGS")
    assert is_known("lesioncam.load")
    assert not is_known("lesioncam.pipeline.steps")
    assert not is_known("lesioncam.functional.pooling.nothing_of_the_kind")
