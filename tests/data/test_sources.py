import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from lesioncam.data.sources import SOURCES, index_source, write_index
from lesioncam.data.table.check import check_table
from lesioncam.data.table.table import read_table
from lesioncam.errors import OptionError, TableError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def rows(frame, root):
    return frame.map(lambda cell: cell.replace(f"{root.as_posix()}/", "")).to_numpy().tolist()


# ---- folder ------------------------------------------------------------------------------------------------------


def test_one_sub_folder_a_class(tmp_path):
    touch(tmp_path, "cyst/deep/2.png", "cyst/10.png", "mass/1.JPG", "mass/notes.txt", "mass/.hidden.png")
    frame = index_source(tmp_path)
    assert list(frame) == ["image", "label"]
    assert rows(frame, tmp_path) == [["cyst/10.png", "cyst"], ["cyst/deep/2.png", "cyst"], ["mass/1.JPG", "mass"]]
    assert rows(index_source(f"folder:{tmp_path}"), tmp_path) == rows(frame, tmp_path)


def test_split_folders_hold_class_folders(tmp_path):
    touch(tmp_path, "train/a/1.png", "valid/b/2.png", "test/a/3.png")
    assert rows(index_source(tmp_path), tmp_path) == [
        ["test/a/3.png", "a", "test"],
        ["train/a/1.png", "a", "train"],
        ["valid/b/2.png", "b", "val"],
    ]


def test_mask_folders_are_no_class(tmp_path, caplog):
    touch(tmp_path, "sick/1.png", "sick/2.jpg", "sick/Masks/1.png", "well/2.png", "masks/3.png", "masks/well/2.png")
    frame = index_source(tmp_path)
    assert rows(frame, tmp_path) == [
        ["sick/1.png", "sick", "sick/Masks/1.png"],
        ["sick/2.jpg", "sick", ""],
        ["well/2.png", "well", "masks/well/2.png"],
    ]
    assert caplog.messages == ["1 mask of no image, or of several, left out: masks/3.png"]


def test_masks_by_stem_and_masks_beside(tmp_path):
    touch(
        tmp_path, "sick/y1.jpg", "masks/y1.png", "sick/z.png", "sick/z_mask.png", "sick/z_mask_1.png", "well/w_mask.png"
    )
    assert rows(index_source(tmp_path), tmp_path) == [
        ["sick/y1.jpg", "sick", "masks/y1.png"],
        ["sick/z.png", "sick", "sick/z_mask.png|sick/z_mask_1.png"],
        ["well/w_mask.png", "well", ""],
    ]


def test_images_outside_any_class_stay_unlabelled(tmp_path, caplog):
    touch(tmp_path, "a/1.png", "stray.png")
    assert rows(index_source(tmp_path), tmp_path) == [["a/1.png", "a"], ["stray.png", ""]]
    assert caplog.messages == ["1 image in no class folder; written with a blank label: stray.png"]


def test_folders_that_cannot_be_indexed(tmp_path):
    with pytest.raises(TableError, match="is not a folder; give the folder with the images"):
        index_source(tmp_path / "no")
    with pytest.raises(TableError, match=r"holds no images; looked for \.png"):
        index_source(tmp_path)
    touch(tmp_path, "1.png")
    with pytest.raises(TableError, match=r"has 1 image but no sub-folder per class.*--labels FILE --on COLUMN"):
        index_source(tmp_path)
    with pytest.raises(OptionError, match=r"Unknown source 'figshare-brian'\. Did you mean 'figshare-brain'"):
        index_source(f"figshare-brian:{tmp_path}")


# ---- folder and labels -------------------------------------------------------------------------------------------


def write_labels(root, text):
    (root / "r.csv").write_text(text)
    return root / "r.csv"


@pytest.mark.parametrize("keys", [("1", "2"), ("1.png", "2.png"), ("deep/1.png", "2.png"), ("deep/1", "2")])
def test_labels_joined_on_a_key(tmp_path, keys):
    touch(tmp_path / "png", "deep/1.png", "2.png")
    labels = write_labels(tmp_path, f"key,grade \n{keys[1]},0\n{keys[0]},3\n")
    frame = index_source(tmp_path / "png", labels=labels, on="key")
    assert list(frame) == ["image", "key", "grade"]
    assert rows(frame, tmp_path / "png") == [["2.png", keys[1], "0"], ["deep/1.png", keys[0], "3"]]


def test_unmatched_on_either_side_is_listed(tmp_path, caplog):
    touch(tmp_path / "png", "1.png", "2.png")
    labels = write_labels(tmp_path, "key,label\n1,x\n7,y\n8,x\n")
    frame = index_source(tmp_path / "png", labels=labels, on="key")
    assert rows(frame, tmp_path / "png") == [["1.png", "1", "x"], ["2.png", "", ""]]
    assert caplog.messages == [
        "r.csv: 2 rows have no image and are left out: row 3 '7', row 4 '8'",
        "r.csv names no label for 1 image; written with blank cells: 2.png",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_labels_with_a_column_image(tmp_path):
    touch(tmp_path / "png", "1.png")
    labels = write_labels(tmp_path, "image,label\n1.png,x\n")
    assert rows(index_source(tmp_path / "png", labels=labels, on="image"), tmp_path / "png") == [["1.png", "x"]]
    labels = write_labels(tmp_path, "image,key\n9,1.png\n")
    with pytest.raises(TableError, match="has a column 'image' itself"):
        index_source(tmp_path / "png", labels=labels, on="key")


def test_joins_that_cannot_be(tmp_path):
    touch(tmp_path / "png", "a/1.png", "b/1.png", "2.png")

    def refused(text, reason, error=TableError):
        with pytest.raises(error, match=reason):
            index_source(tmp_path / "png", labels=write_labels(tmp_path, text), on="key")

    refused("key,label\n1,x\n", r"r\.csv: '1' stands for 2 images, a/1\.png, b/1\.png; use paths")
    refused("key,label\n2,x\n2,y\n", r"r\.csv has '2' in rows 2, 3; keep one row per image")
    refused("name,label\n2,x\n", r"r\.csv has no column 'key' to join on; found: 'name', 'label'")
    refused("key,label\n9,x\n", "names none of the images")
    with pytest.raises(OptionError, match="go together"):
        index_source(tmp_path / "png", labels=tmp_path / "r.csv")
    with pytest.raises(OptionError, match="brings its own labels"):
        index_source(f"figshare-brain:{tmp_path}", labels=tmp_path / "r.csv", on="key")


def test_index_is_written_with_paths_relative_to_the_table(tmp_path):
    touch(tmp_path / "data", "a/1.png", "b/2.png", "a/1_mask.png", "a/1_mask_2.png")
    frame = index_source(tmp_path / "data")
    text = write_index(frame, tmp_path / "out" / "t.csv").read_text()
    assert text.splitlines() == [
        "image,label,mask",
        "../data/a/1.png,a,../data/a/1_mask.png|../data/a/1_mask_2.png",
        "../data/b/2.png,b,",
    ]
    table = read_table(tmp_path / "out" / "t.csv")
    assert table.frame["image"].tolist() == frame["image"].tolist()
    write_index(frame, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").classes == ("a", "b")


def test_every_source_says_what_it_is():
    for name, source in SOURCES.items():
        assert source.info.name == name
        assert source.info.licence
        assert source.info.traps


# ---- figshare-brain ----------------------------------------------------------------------------------------------


def write_slice(path, label, patient):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("cjdata")
        data["image"] = np.arange(35, dtype=np.int16).reshape(7, 5)
        data["label"] = [[float(label)]]
        data["PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        data["tumorMask"] = np.eye(7, 5, dtype=np.uint8)


def test_published_figshare_files_give_exact_rows(tmp_path):
    for name, label, patient in (("x/10.mat", 3, "C"), ("x/2.mat", 1, "A"), ("y/1.mat", 2, "B9")):
        write_slice(tmp_path / name, label, patient)
    frame = index_source(f"figshare-brain:{tmp_path}")
    assert list(frame) == ["image", "label", "patient", "mask"]
    assert rows(frame, tmp_path) == [
        ["y/1.mat", "glioma", "B9", "y/1.mat"],
        ["x/2.mat", "meningioma", "A", "x/2.mat"],
        ["x/10.mat", "pituitary", "C", "x/10.mat"],
    ]
    with h5py.File(tmp_path / "cvind.mat", "w") as file:
        file["cvind"] = np.arange(1.0, 11.0)[None]
    assert index_source(f"figshare-brain:{tmp_path}")["fold"].tolist() == ["1", "2", "10"]
    write_slice(tmp_path / "y/11.mat", 1, "B9")
    with pytest.raises(TableError, match=r"has no entry in cvind\.mat, which knows 1 to 10"):
        index_source(f"figshare-brain:{tmp_path}")


def test_old_matlab_folds(tmp_path):
    from scipy.io import savemat

    write_slice(tmp_path / "1.mat", 2, "A")
    savemat(tmp_path / "cvind.mat", {"cvind": np.array([[4.0], [5.0]])})
    assert index_source(f"figshare-brain:{tmp_path}")["fold"].tolist() == ["4"]


def test_figshare_folders_that_are_something_else(tmp_path):
    with pytest.raises(TableError, match=r"is not the figshare brain set: expected numbered \.mat files"):
        index_source(f"figshare-brain:{tmp_path}")
    write_slice(tmp_path / "1.mat", 0, "A")
    with pytest.raises(TableError, match=r"has the label 0; the published codes are 1 meningioma, .* relabelled copy"):
        index_source(f"figshare-brain:{tmp_path}")
    (tmp_path / "1.mat").write_bytes(b"x")
    with pytest.raises(TableError, match=r"not MATLAB v7\.3"):
        index_source(f"figshare-brain:{tmp_path}")


def test_converted_figshare_folder_gives_blocks_for_patients(tmp_path):
    (tmp_path / "images").mkdir()
    lines = [f"{k},glioma,train" for k in (*range(1, 23), 30, 45)] + ["46,glioma,val", "47,pituitary,val"]
    (tmp_path / "labels.csv").write_text("index,label,split\n" + "\n".join(reversed(lines)) + "\n")
    frame = index_source(f"figshare-brain:{tmp_path}")
    assert rows(frame, tmp_path)[0] == ["images/1.jpg", "glioma", "block-0001", "train", "masks/1.png"]
    blocks = dict(zip(frame["image"].str.extract(r"(\d+)\.jpg", expand=False), frame["patient"], strict=True))
    assert [blocks[k] for k in ("1", "20", "21", "30", "45", "46", "47")] == [
        f"block-000{k}" for k in (1, 1, 2, 2, 3, 4, 5)
    ]
    (tmp_path / "labels.csv").write_text("index,label,split\n1,glioma,train\nx,glioma,train\n")
    with pytest.raises(TableError, match=r"labels\.csv row 3: index 'x' is no whole number"):
        index_source(f"figshare-brain:{tmp_path}")
    (tmp_path / "labels.csv").write_text("index,label\n1,glioma\n")
    with pytest.raises(TableError, match="has no column 'split'; found: index, label"):
        index_source(f"figshare-brain:{tmp_path}")


@pytest.mark.skipif(not (SHARED / "figshare_brain").is_dir(), reason="../shared/data/figshare_brain is not here")
def test_the_real_figshare_folders(tmp_path):
    frame = index_source(f"figshare-brain:{SHARED / 'figshare_brain'}")
    assert frame["label"].value_counts().to_dict() == {"glioma": 1212, "pituitary": 790, "meningioma": 601}
    assert (frame.groupby("patient")["split"].nunique() == 1).all()
    assert frame.groupby("patient").size().max() == 20
    published = index_source(f"figshare-brain:{SHARED / 'figshare_brain' / 'mat_sample'}")
    table = read_table(write_index(published, tmp_path / "t.csv"))
    report = check_table(table)
    assert report.ok
    assert report.depths == {"int16 grey": 20}
    assert report.patients == 20


@pytest.mark.skipif(not (SHARED / "br35h").is_dir(), reason="../shared/data/br35h is not here")
def test_a_real_folder_with_masks():
    frame = index_source(SHARED / "br35h")
    assert frame["label"].value_counts().to_dict() == {"no_tumour": 1000, "tumour": 500}
    assert ((frame["mask"] != "") == (frame["label"] == "tumour")).all()


def test_images_of_every_size_survive_the_way_through(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/4.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8 + k, 9), dtype=np.uint8)).save(tmp_path / name)
    table = read_table(write_index(index_source(tmp_path), tmp_path / "t.csv"), patient_from="none")
    report = check_table(table)
    assert report.ok
    assert sorted(report.sizes) == [(8, 9), (9, 9), (10, 9), (11, 9)]
