"""Bad input: one clear sentence with the row or file and the way out, exit code 2, nothing half-written."""

import errno
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lesioncam.cli import main
from lesioncam.errors import OptionError
from lesioncam.options.run import RunConfig, make_config

QUICK = [
    "--columns",
    "image=file",
    "--size",
    "64",
    "--epochs",
    "1",
    "--backbone",
    "slim,channels=[8,8,16,16]",
    "--threads",
    "1",
    "--draws",
    "10",
]


@pytest.fixture
def table(toy, tmp_path):
    """A private copy of the toy table, to spoil."""
    frame = pd.read_csv(toy, dtype=str, keep_default_na=False)
    frame["file"] = [str(toy.parent / name) for name in frame["file"]]
    for name in ("mask:dot", "mask:bar"):
        frame[name] = [str(toy.parent / cell) if cell else "" for cell in frame[name]]
    return frame


def refused(frame, tmp_path, capsys, *words):
    """The sentence a spoilt table ends in; checks exit code and that nothing was written."""
    path, out = tmp_path / "labels.csv", tmp_path / "run"
    frame.to_csv(path, index=False)
    assert main(["run", str(path), "-o", str(out), *QUICK, *words]) == 2
    assert not out.exists(), "something was written"
    said = capsys.readouterr().err
    assert said.startswith("lesioncam run: ")
    assert "Traceback" not in said
    return said


def picture(tmp_path, pixels, name="spoilt.png"):
    Image.fromarray(pixels).save(tmp_path / name)
    return str(tmp_path / name)


def test_an_empty_table(table, tmp_path, capsys):
    assert "no rows" in refused(table.iloc[:0], tmp_path, capsys).lower()


def test_a_missing_column(table, tmp_path, capsys):
    said = refused(table.rename(columns={"file": "picture"}), tmp_path, capsys)
    assert "file" in said
    assert "--columns" in said


def test_a_label_nobody_declared(table, tmp_path, capsys):
    said = refused(
        table.rename(columns={"bar": "label"}).assign(label="dott"), tmp_path, capsys, "--classes", "dot", "bar"
    )
    assert "dott" in said
    assert "row 2" in said


def test_a_truncated_png(table, tmp_path, capsys):
    whole = tmp_path / "cut.png"
    whole.write_bytes(Path(table["file"][5]).read_bytes()[:400])
    table.loc[5, "file"] = str(whole)
    said = refused(table, tmp_path, capsys)
    assert "row 7" in said
    assert "cut.png" in said


def test_a_mask_of_another_size(table, tmp_path, capsys):
    row = int(np.flatnonzero(table["mask:dot"] != "")[0])
    table.loc[row, "mask:dot"] = picture(tmp_path, np.full((10, 10), 255, np.uint8))
    said = refused(table, tmp_path, capsys)
    assert f"row {row + 2}" in said
    assert "10 x 10" in said


def test_an_all_black_image(table, tmp_path, capsys):
    table.loc[3, "file"] = picture(tmp_path, np.zeros((64, 48), np.uint8))
    assert "row 5" in refused(table, tmp_path, capsys)


def test_nan_pixels(table, tmp_path, capsys):
    import tifffile

    pixels = np.random.default_rng(0).random((64, 48)).astype(np.float32)
    pixels[3, 4] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", pixels)
    table.loc[3, "file"] = str(tmp_path / "nan.tif")
    said = refused(table, tmp_path, capsys)
    assert "row 5" in said
    assert "NaN" in said


def test_one_class_only(table, tmp_path, capsys):
    said = refused(table.drop(columns=["bar", "mask:bar"]).assign(dot="1"), tmp_path, capsys)
    assert "dot" in said


def test_one_patient_only(table, tmp_path, capsys):
    assert "patient" in refused(table.drop(columns="split").assign(patient="P1"), tmp_path, capsys)


def test_no_patient_rule_no_split(table, tmp_path, capsys):
    said = refused(table.drop(columns=["split", "patient"]), tmp_path, capsys)
    assert "--patient-from" in said


def test_a_patient_in_two_splits(table, tmp_path, capsys):
    table.loc[0, "patient"] = table["patient"][8]
    said = refused(table, tmp_path, capsys)
    assert "'Patient 02' is in" in said


def test_all_findings_come_at_once(table, tmp_path, capsys):
    table.loc[3, "file"], table.loc[9, "file"] = "gone.png", "lost.png"
    said = refused(table, tmp_path, capsys)
    assert "row 5" in said
    assert "row 11" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pooling", "lsse"], "Did you mean 'lse'?"),
        (["--pooling", "lse,temperature=2"], "available: kind, sharpness"),
        (["--pooling", "lse,sharpness=-2"], "greater than 0"),
        (["--backbone", "resnet1O"], "Unknown backbone"),
        (["--backbone", "vit_tiny_patch16_224,stride=8"], "strides on offer"),
        (["--weights", "nowhere.safetensors"], "no such file"),
        (["--set", "augment.filp=0"], "available here"),
    ],
)
def test_slips_in_options(table, tmp_path, capsys, words, message):
    assert message in refused(table, tmp_path, capsys, *words)


def test_a_folder_that_exists(toy, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    assert main(["run", str(toy), "-o", str(out), *QUICK]) == 2
    said = capsys.readouterr().err
    assert "--resume" in said
    assert "--overwrite" in said
    assert main(["run", str(toy), "-o", str(out), *QUICK, "--overwrite"]) == 2
    assert "not a run of lesioncam" in capsys.readouterr().err
    assert (out / "precious.txt").read_text() == "mine"


def test_tensorboard_that_is_not_installed(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lesioncam.verbs.prepare.find_spec", lambda _name: None)
    assert "lesioncam[tensorboard]" in refused(table, tmp_path, capsys, "--tensorboard")


def test_a_table_that_is_not_there(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.csv"), "-o", str(tmp_path / "run")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_full_disk(toy, tmp_path, capsys, monkeypatch):
    """The weights do not fit: one sentence, no half-written weights, the run can go on."""
    import safetensors.torch

    def full(_state, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    out = tmp_path / "run"
    assert main(["run", str(toy), "-o", str(out), *QUICK]) == 2
    said = capsys.readouterr().err
    assert "disk is full" in said
    assert not list((out / "model").glob("*"))
    monkeypatch.undo()
    assert main(["run", "-o", str(out), "--resume"]) == 0
    assert (out / "report.html").is_file()


def test_evaluating_what_is_no_run(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_options_in_python_are_the_same_options():
    assert make_config(size=256, pooling="lse,sharpness=6", flip=0).augment.flip == 0
    with pytest.raises(OptionError, match="Did you mean 'epochs'"):
        make_config(epoch=3)
    with pytest.raises(OptionError, match="greater than 0"):
        make_config(epochs=0)


def test_the_resolved_configuration_loads_back_equal():
    import yaml

    config = make_config(
        pooling="topq,fraction=0.1", backbone="resnet18,stride=16", columns={"image": "file"}, images="a/b"
    )
    again = RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config


def test_what_to_type_next_can_be_typed_where_a_name_has_spaces(toy, tmp_path, capsys):
    folder, table = tmp_path / "my images", tmp_path / "my table.csv"
    for name in ("sick", "healthy"):
        (folder / name).mkdir(parents=True)
        shutil.copy(next(toy.parent.glob("p*.png")), folder / name / "one.png")
    assert main(["index", str(folder), "-o", str(table)]) == 0
    words = shlex.split(capsys.readouterr().out.rpartition("next: ")[2])
    assert words == ["lesioncam", "check", str(table)]
