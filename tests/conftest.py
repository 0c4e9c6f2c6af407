"""What tests share: a tiny set of images a network can learn in seconds, and the real data where it is at hand."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="module")
def blank_figures(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    """Figures of reports are drawn, which fails on what cannot be drawn, not rendered, which takes most of the time.

    Tests that look at pictures are marked ``rendered`` as a module, or use the fixture of this name.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("rendered") is None:
            patch.setattr(SAVEFIG, blank_figure)
        yield patch


@contextmanager
def rendering(blank_figures: pytest.MonkeyPatch) -> Iterator[None]:
    """Figures as they are."""
    blank_figures.undo()
    yield
    blank_figures.setattr(SAVEFIG, blank_figure)


@pytest.fixture
def rendered(blank_figures: pytest.MonkeyPatch) -> Iterator[None]:
    with rendering(blank_figures):
        yield


SAVEFIG = "matplotlib.figure.Figure.savefig"


def blank_figure(_: object, stream: io.IOBase, *, format: str, **__: object) -> None:  # noqa: A002
    """What stands in the place of a rendered figure."""
    if format == "svg":
        stream.write('<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"></svg>')
    else:
        Image.new("RGB", (1, 1)).save(stream, format)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; tests that need it are skipped where it is missing."""
    if not REAL.is_dir():
        pytest.skip(f"real images are not at hand ({REAL.name} beside the checkout)")
    return REAL


def draw(rng: np.random.Generator, *, dot: bool, bar: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy field with a round lump, an upright bar, both or none; and the two masks."""
    rows, columns = np.mgrid[:64, :48]
    image = rng.normal(90, 8, (64, 48))
    row, column = rng.integers(12, 52), rng.integers(12, 36)
    round_mask = ((rows - row) ** 2 + (columns - column) ** 2 < 49) & dot
    row, column = rng.integers(14, 50), rng.integers(8, 40)
    bar_mask = (abs(rows - row) < 11) & (abs(columns - column) < 3) & bar
    image[round_mask | bar_mask] += 60
    return np.clip(image, 0, 255).astype(np.uint8), round_mask, bar_mask


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 96 small images, two classes, 24 patients with four images each, masks for val and test."""
    folder = tmp_path_factory.mktemp("toy")
    rng, rows = np.random.default_rng(0), []
    for i in range(96):
        patient, kinds = i // 4, [(1, 0), (0, 1), (0, 0), (1, 1)][i % 4]
        image, dot, bar = draw(rng, dot=bool(kinds[0]), bar=bool(kinds[1]))
        Image.fromarray(image).save(folder / f"p{patient:02d}_{i % 4}.png")
        row = {"file": f"p{patient:02d}_{i % 4}.png", "dot": kinds[0], "bar": kinds[1]}
        row["split"] = ("train", "train", "val", "test")[patient % 4]
        for name, mask in (("dot", dot), ("bar", bar)):
            row[f"mask:{name}"] = ""
            if mask.any() and row["split"] != "train":
                row[f"mask:{name}"] = f"m{i}_{name}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / row[f"mask:{name}"])
        row["patient"] = f"Patient {patient:02d}"
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


QUICK = {
    "columns": {"image": "file"},
    "size": 64,
    "backbone": "slim,stride=8,channels=[8,8,16,16],stem_width=8",
    "epochs": 3,
    "rotation": 15.0,
    "scale": 0.12,
    "batch": 16,
    "precision": "fp32",
    "threads": 1,
    "draws": 50,
}
"""Options that train the toy in seconds."""


@pytest.fixture(scope="session")
def quick() -> dict:
    return dict(QUICK)


WORDS = [
    "--columns",
    "image=file",
    "--size",
    "64",
    "--backbone",
    "slim,channels=[16,16,32,32],stem_width=16",
    "--pooling",
    "topq,fraction=0.1",
    "--epochs",
    "25",
    "--rotation",
    "15",
    "--scale",
    "0.12",
    "--batch",
    "8",
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--draws",
    "100",
]


@pytest.fixture(scope="session")
def toy_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run on the toy, through the command line, validated and tested once; never changed.

    A test that evaluates it again or edits it copies it first. Its figures are blank.
    """
    from lesioncam.cli import main

    out = tmp_path_factory.mktemp("runs") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAVEFIG, blank_figure)
        assert main(["run", str(toy), "-o", str(out), *WORDS]) == 0
        assert main(["evaluate", str(out), "--split", "test"]) == 0
    return out
