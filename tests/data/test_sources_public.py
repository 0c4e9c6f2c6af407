import gzip
import json
import struct

import numpy as np
import pytest
from PIL import Image

from lesioncam.cli import main
from lesioncam.data.io.image import read_picture
from lesioncam.data.sources import SOURCES, index_source, write_index
from lesioncam.data.table.check import ONE_SIDED, check_table
from lesioncam.data.table.table import read_table, write_table
from lesioncam.errors import TableError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def rows(frame, root):
    return frame.map(lambda cell: cell.replace(f"{root.as_posix()}/", "")).to_numpy().tolist()


def need(folder, name):
    if not (folder / name).exists():
        pytest.skip(f"{name} of the real images is not here")
    return folder / name


# ---- br35h -------------------------------------------------------------------------------------------------------


def test_br35h_rows(tmp_path):
    text = "image,label,mask\ntumour/y0.jpg,tumour,masks/y0.png\nno_tumour/1.jpg,no_tumour,\n"
    (tmp_path / "labels.csv").write_text(text)
    frame = index_source(f"br35h:{tmp_path}")
    assert list(frame) == ["image", "class:tumour", "negative:no_tumour", "mask", "patient (none)"]
    assert rows(frame, tmp_path) == [
        ["tumour/y0.jpg", "1", "0", "masks/y0.png", ""],
        ["no_tumour/1.jpg", "0", "1", "", ""],
    ]
    table = read_table(write_index(frame, tmp_path / "t.csv"))
    assert (table.classes, table.negative, table.patient_rule) == (("tumour",), ("no_tumour",), "none")
    assert table.states.tolist() == [[1], [0]]


def test_br35h_folders_that_are_something_else(tmp_path):
    with pytest.raises(TableError, match=r"is not the set br35h.*; looked for labels\.csv \(image, label, mask\) and"):
        index_source(f"br35h:{tmp_path}")
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,tumour\n")
    with pytest.raises(TableError, match=r"labels\.csv has no column 'mask'; found: image, label"):
        index_source(f"br35h:{tmp_path}")
    (tmp_path / "labels.csv").write_text("image,label,mask\na.jpg,tumor,\n")
    with pytest.raises(TableError, match=r"row 2 has 'tumor'; the labels of this set are tumour and no_tumour"):
        index_source(f"br35h:{tmp_path}")


# ---- mnist -------------------------------------------------------------------------------------------------------


def write_idx(path, magic, array):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as handle:
        handle.write(struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes())


def write_digits(root, suffix=".gz", form="-idx"):
    for part, digits in (("train", np.arange(20) % 10), ("t10k", np.array([7, 2, 1]))):
        pictures = np.arange(len(digits) * 6).reshape(-1, 2, 3)
        write_idx(root / f"{part}-images{form}3-ubyte{suffix}", 2051, pictures)
        write_idx(root / f"{part}-labels{form}1-ubyte{suffix}", 2049, digits)


@pytest.mark.parametrize(("suffix", "form"), [(".gz", "-idx"), ("", "-idx"), ("", ".idx")])
def test_mnist_rows(tmp_path, suffix, form):
    write_digits(tmp_path, suffix, form)
    frame = index_source(f"mnist:{tmp_path}")
    assert list(frame) == ["image", "label", "split", "patient (none)"]
    train, test = (f"{part}-images{form}3-ubyte{suffix}" for part in ("train", "t10k"))
    expected = [[f"{train}#{i}", str(i % 10), "train" if i < 18 else "val", ""] for i in range(20)]
    expected += [[f"{test}#{i}", digit, "test", ""] for i, digit in enumerate("721")]
    assert rows(frame, tmp_path) == expected
    np.testing.assert_array_equal(read_picture(frame["image"][2]).pixels, [[12, 13, 14], [15, 16, 17]])


def test_mnist_files_that_are_wrong(tmp_path):
    with pytest.raises(TableError, match=r"is not the set mnist.*looked for train-images-idx3-ubyte\.gz, train-labels"):
        index_source(f"mnist:{tmp_path}")
    write_digits(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    write_idx(labels, 2049, np.array([7, 2]))
    with pytest.raises(TableError, match=r"holds 3 images, t10k-labels-idx1-ubyte\.gz 2 labels; one is incomplete"):
        index_source(f"mnist:{tmp_path}")
    write_idx(labels, 2049, np.array([7, 2, 10]))
    with pytest.raises(TableError, match="holds the label 10; digits go from 0 to 9"):
        index_source(f"mnist:{tmp_path}")
    labels.write_bytes(gzip.compress(struct.pack("<2I", 2049, 3) + b"\1\2\3"))  # little-endian
    with pytest.raises(TableError, match="begins with 01080000; expected 00000801, an idx file of bytes"):
        index_source(f"mnist:{tmp_path}")
    labels.write_bytes(gzip.compress(struct.pack(">2I", 2049, 3) + b"\1\2"))
    with pytest.raises(TableError, match="is truncated: 3 bytes were promised, 2 found"):
        index_source(f"mnist:{tmp_path}")
    labels.write_bytes(b"no gzip")
    with pytest.raises(TableError, match="cannot be read"):
        index_source(f"mnist:{tmp_path}")


# ---- idrid -------------------------------------------------------------------------------------------------------

GRADING, DRAWING = "B. Disease Grading", "A. Segmentation"
HEAD = "Image name,Retinopathy grade,Risk of macular edema ,,,\r\n"


def write_grades(root, part, cells):
    letter, kind = part[0], part.split()[1]
    place = root / GRADING / "2. Groundtruths" / f"{letter}. IDRiD_Disease Grading_{kind} Labels.csv"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(HEAD + "".join(f"{name},{grade},{edema},,,\r\n" for name, grade, edema in cells))
    touch(root, *(f"{GRADING}/1. Original Images/{part}/{name}.jpg" for name, _, _ in cells))


def test_idrid_grades(tmp_path):
    write_grades(tmp_path, "a. Training Set", [("IDRiD_001", 3, 2), ("IDRiD_002", 0, 0)])
    frame = index_source(f"idrid:{tmp_path}")
    assert list(frame) == ["image", "label", "macular_edema_risk", "patient (none)"]
    folder = f"{GRADING}/1. Original Images/a. Training Set"
    assert rows(frame, tmp_path) == [
        [f"{folder}/IDRiD_001.jpg", "3", "2", ""],
        [f"{folder}/IDRiD_002.jpg", "0", "0", ""],
    ]
    assert rows(index_source(f"idrid:{tmp_path / GRADING}"), tmp_path) == rows(frame, tmp_path)


def test_idrid_with_the_published_test_images_holds_out_the_end_of_each_grade(tmp_path):
    train = [(f"IDRiD_{i:03d}", int(i > 10), 0) for i in range(1, 16)]  # ten of grade 0, five of grade 1
    write_grades(tmp_path, "a. Training Set", train)
    write_grades(tmp_path, "b. Testing Set", [("IDRiD_001", 4, 1)])
    frame = index_source(f"idrid:{tmp_path}")
    assert frame["split"].tolist() == ["train"] * 8 + ["val"] * 2 + ["train"] * 4 + ["val"] + ["test"]
    table = read_table(write_index(frame, tmp_path / "t.csv"))
    assert table.frame["id"].is_unique  # both parts have an IDRiD_001
    assert table.frame["extra:macular_edema_risk"].tolist()[-1] == "1"


def write_lesions(root, part, drawn):
    folders = {"MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates", "SE": "4. Soft Exudates"}
    folders["OD"] = "5. Optic Disc"
    for name, ends in drawn.items():
        touch(root, f"{DRAWING}/1. Original Images/{part}/{name}.jpg")
        for end, folder in folders.items():
            place = root / DRAWING / "2. All Segmentation Groundtruths" / part / folder
            place.mkdir(parents=True, exist_ok=True)
            if end in ends:
                touch(place, f"{name}_{end}.tif")


def test_idrid_lesions_a_missing_mask_is_an_absent_lesion(tmp_path):
    write_lesions(tmp_path, "a. Training Set", {"IDRiD_10": ("HE", "OD"), "IDRiD_02": ("MA", "EX", "SE", "OD")})
    frame = index_source(f"idrid-lesions:{tmp_path}")
    lesions = ["microaneurysms", "haemorrhages", "hard exudates", "soft exudates", "optic disc"]
    assert list(frame) == ["image", *(f"{k}:{n}" for k in ("class", "mask") for n in lesions), "patient (none)"]
    masks = f"{DRAWING}/2. All Segmentation Groundtruths/a. Training Set"
    assert rows(frame, tmp_path) == [
        [
            f"{DRAWING}/1. Original Images/a. Training Set/IDRiD_02.jpg",
            *"10111",
            f"{masks}/1. Microaneurysms/IDRiD_02_MA.tif",
            "",
            f"{masks}/3. Hard Exudates/IDRiD_02_EX.tif",
            f"{masks}/4. Soft Exudates/IDRiD_02_SE.tif",
            f"{masks}/5. Optic Disc/IDRiD_02_OD.tif",
            "",
        ],
        [
            f"{DRAWING}/1. Original Images/a. Training Set/IDRiD_10.jpg",
            *"01001",
            "",
            f"{masks}/2. Haemorrhages/IDRiD_10_HE.tif",
            *("", "", f"{masks}/5. Optic Disc/IDRiD_10_OD.tif", ""),
        ],
    ]


def test_idrid_lesions_train_and_test(tmp_path):
    write_lesions(tmp_path, "a. Training Set", {f"IDRiD_{i:02d}": ("MA",) for i in range(1, 6)})
    write_lesions(tmp_path, "b. Testing Set", {"IDRiD_55": ("MA",)})
    assert index_source(f"idrid-lesions:{tmp_path}")["split"].tolist() == [*["train"] * 4, "val", "test"]


def test_idrid_folders_that_are_something_else(tmp_path):
    for name in ("idrid", "idrid-lesions"):
        with pytest.raises(TableError, match=rf"is not the set {name}, .*looked for '1\. Original Images' and '2\. "):
            index_source(f"{name}:{tmp_path}")
    write_grades(tmp_path, "a. Training Set", [("IDRiD_001", 5, 0)])
    with pytest.raises(TableError, match="row 2: grade '5' is none of 0 to 4"):
        index_source(f"idrid:{tmp_path}")
    write_grades(tmp_path, "a. Training Set", [("IDRiD_001", 4, 0)])
    next(tmp_path.rglob("*.jpg")).unlink()
    with pytest.raises(TableError, match=r"row 2 names 'IDRiD_001', but .*IDRiD_001\.jpg is not there"):
        index_source(f"idrid:{tmp_path}")
    next(tmp_path.rglob("*.csv")).unlink()
    with pytest.raises(TableError, match="looked for 'B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Tr"):
        index_source(f"idrid:{tmp_path}")
    write_lesions(tmp_path, "a. Training Set", {"IDRiD_01": ("MA",)})
    next(tmp_path.rglob("4. Soft Exudates")).rmdir()
    with pytest.raises(TableError, match=r"has no folder '4\. Soft Exudates'; without it every image would count as"):
        index_source(f"idrid-lesions:{tmp_path}")


# ---- nih-cxr -----------------------------------------------------------------------------------------------------

ENTRIES = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    "00000010_000.png,Mass|Infiltration,0,10,058Y,M,PA,2682,2749,0.143,0.143,\n"
    "00000010_001.png,No Finding,1,10,59,M,AP,2682,2749,0.143,0.143,\n"
    "00000007_000.png,Infiltration,0,7,411,F,PA,2682,2749,0.143,0.143,\n"
    "00000008_000.png,No Finding,0,8,011M,F,PA,2682,2749,0.143,0.143,\n"
    "00000009_000.png,Hernia,0,9,40,F,PA,2682,2749,0.143,0.143,\n"
)
BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    "00000010_000.png,Infiltrate,100.5,200,50,80\n"
    "00000010_000.png,Mass,0,0,1024,512\n"
    "00000099_000.png,Mass,1,2,3,4\n"
)


def write_nih(root, *, packed=False):
    for name, text in (("Data_Entry_2017_v2020.csv", ENTRIES), ("BBox_List_2017.csv", BOXES)):
        if packed:
            (root / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (root / name).write_text(text)
    for name, size in (("a/00000010_000", (64, 32)), ("a/00000010_001", (8, 8)), ("b/c/00000007_000", (8, 8))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(root / f"{name}.png")
    Image.new("L", (8, 8)).save(root / "b/00000008_000.png")


@pytest.mark.parametrize("packed", [False, True])
def test_nih_rows(tmp_path, caplog, packed):
    write_nih(tmp_path, packed=packed)
    frame = index_source(f"nih-cxr:{tmp_path}")
    columns = ["image", "class:Infiltration", "class:Mass", "negative:No Finding", "patient", "view", "age", "sex"]
    assert list(frame) == [*columns, "follow_up", "boxes"]
    # of 1024 x 1024 pixels only 32 x 64 are left: across by 1/16, down by 1/32
    infiltration, mass = [6.281, 6.25, 9.406, 8.75], [0.0, 0.0, 64.0, 16.0]
    assert json.loads(frame["boxes"][0]) == [
        {"class": "Infiltration", "box": infiltration},
        {"class": "Mass", "box": mass},
    ]
    assert rows(frame.drop(columns="boxes"), tmp_path) == [
        ["a/00000010_000.png", "1", "1", "0", "10", "PA", "58", "M", "0"],
        ["a/00000010_001.png", "0", "0", "1", "10", "AP", "59", "M", "1"],
        ["b/c/00000007_000.png", "1", "0", "0", "7", "PA", "", "F", "0"],
        ["b/00000008_000.png", "0", "0", "1", "8", "PA", "", "F", "0"],
    ]
    assert "1 of 5 rows have no image below" in caplog.messages[0]
    assert caplog.messages[1].endswith("Pleural_Thickening, Hernia; left out of the classes.")


def test_nih_official_lists(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "train_val_list.txt").write_text("00000010_000.png\n00000010_001.png\n00000007_000.png\n")
    assert "split" not in index_source(f"nih-cxr:{tmp_path}")
    (tmp_path / "test_list.txt").write_text("00000009_000.png\n")
    assert index_source(f"nih-cxr:{tmp_path}")["split"].tolist() == ["val", "val", "train", ""]
    (tmp_path / "test_list.txt").write_text("00000009_000.png\n00000008_000.png\n")
    assert index_source(f"nih-cxr:{tmp_path}")["split"].tolist() == ["val", "val", "train", "test"]


def test_nih_classes_can_be_chosen(tmp_path):
    """Findings that were not asked for, their boxes and masks are no slips."""
    write_nih(tmp_path)
    place = write_index(index_source(f"nih-cxr:{tmp_path}"), tmp_path / "t.csv")
    table = read_table(place, classes=["Mass"])
    assert not table.problems
    assert table.states.tolist() == [[1], [0], [0], [0]]
    assert [box.label for box in table.frame["boxes"][0]] == ["Mass"]
    again = read_table(write_table(table, tmp_path / "u.csv"))
    assert (again.classes, len(again.problems)) == (("Mass",), 0)


def test_nih_folders_that_are_something_else(tmp_path):
    with pytest.raises(TableError, match=r"is not the set nih-cxr, .*looked for Data_Entry_2017\*\.csv or \.csv\.gz"):
        index_source(f"nih-cxr:{tmp_path}")
    entries = tmp_path / "Data_Entry_2017.csv"
    entries.write_text(ENTRIES)
    with pytest.raises(TableError, match=r"but none of its images; looked for 00000010_000\.png and the others in all"):
        index_source(f"nih-cxr:{tmp_path}")
    touch(tmp_path, "a/00000010_000.png", "b/00000010_000.png")
    with pytest.raises(TableError, match=r"has 00000010_000\.png twice, .*/a/.* and .*/b/"):
        index_source(f"nih-cxr:{tmp_path}")
    (tmp_path / "b/00000010_000.png").unlink()
    entries.write_text(ENTRIES.replace("Mass|Infiltration", "Mass|Infiltrate"))
    with pytest.raises(TableError, match=r"row 2: label 'Infiltrate' is none of the 14 findings or 'No Finding'"):
        index_source(f"nih-cxr:{tmp_path}")
    entries.write_text(ENTRIES.replace("Patient ID", "Patient"))
    with pytest.raises(TableError, match="has no column 'Patient ID'"):
        index_source(f"nih-cxr:{tmp_path}")
    entries.write_text(ENTRIES)
    (tmp_path / "BBox_List_2017.csv").write_text("head\n00000010_000.png,Mass,1,2,3\n")
    with pytest.raises(TableError, match=r"row 2 is .*; expected image, finding, x, y, width, height"):
        index_source(f"nih-cxr:{tmp_path}")
    (tmp_path / "BBox_List_2017.csv").write_text("head\n00000010_000.png,Mas,1,2,3,4\n")
    with pytest.raises(TableError, match=r"row 2: 'Mas' is none of the 14 findings"):
        index_source(f"nih-cxr:{tmp_path}")


def test_nih_boxes_alone(tmp_path, caplog):
    touch(tmp_path, "few/00000003_001_x.jpg", "few/00000004_000_y.jpg", "few/other.jpg")
    (tmp_path / "few_boxes.csv").write_text(
        "image,class,x0,y0,x1,y1,finding_labels\n"
        "00000003_001_x.jpg,Mass,1,2,3.5,4,Mass|Nodule\n"
        "00000003_001_x.jpg,Nodule,5,6,7,8,Mass|Nodule\n"
        "00000004_000_y.jpg,Nodule,1,1,2,2,Hernia\n"
        "00000005_000_z.jpg,Nodule,1,1,2,2,Nodule\n"
    )
    frame = index_source(f"nih-cxr:{tmp_path / 'few'}")
    two = '[{"class": "Mass", "box": [1.0, 2.0, 3.5, 4.0]}, {"class": "Nodule", "box": [5.0, 6.0, 7.0, 8.0]}]'
    assert list(frame) == ["image", "class:Mass", "class:Nodule", "class:Hernia", "patient", "boxes"]
    assert rows(frame, tmp_path / "few") == [
        ["00000003_001_x.jpg", "1", "1", "0", "3", two],
        ["00000004_000_y.jpg", "0", "1", "1", "4", '[{"class": "Nodule", "box": [1.0, 1.0, 2.0, 2.0]}]'],
    ]
    assert "few_boxes.csv: 1 images are not below" in caplog.messages[0]
    (tmp_path / "few_boxes.csv").write_text("image,class,x0,y0,x1,y1,finding_labels\nother.jpg,Mass,1,2,3,4,Mass\n")
    with pytest.raises(TableError, match=r"'other\.jpg' does not begin with a patient's number"):
        index_source(f"nih-cxr:{tmp_path / 'few'}")


# ---- through the command line, and the real thing -----------------------------------------------------------------


def test_index_says_what_there_is_to_know(tmp_path, capsys):
    write_digits(tmp_path)
    assert main(["index", f"mnist:{tmp_path}", "-o", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    for words in ("licence: free to use", "cite: LeCun", "60000 train and 10000 test", "big-endian", "23 images: "):
        assert words in said


def test_every_source_is_documented(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "data-sources.md").read_text()
    for name, source in SOURCES.items():
        assert f"## {name}\n" in page
        if name != "folder":
            assert f"lesioncam index {name}:" in page
            assert source.info.licence.split(":")[0] in page


@pytest.mark.parametrize(
    ("spec", "images", "classes"),
    [
        ("br35h:br35h", 1500, 1),
        ("mnist:mnist", 25_000, 10),
        ("idrid:idrid", 413, 5),
        ("idrid-lesions:idrid", 54, 5),
        ("nih-cxr:nih_cxr", 1000, 14),
        ("nih-cxr:nih_cxr/mass50", 50, 10),
        ("folder:nih_cxr/thousand_64px", 1000, 2),
    ],
)
def test_the_real_folders(real_data, tmp_path, spec, images, classes):
    name, _, folder = spec.partition(":")
    frame = index_source(f"{name}:{need(real_data, folder)}")
    table = read_table(write_index(frame, tmp_path / "t.csv"))
    assert (len(table), len(table.classes)) == (images, classes)
    report = check_table(table, files=False)
    serious = [problem for problem in report.problems if problem.kind != ONE_SIDED]
    assert not serious, serious


def test_the_real_grades_and_lesions(real_data):
    root = need(real_data, "idrid")
    grades = index_source(f"idrid:{root}")
    assert grades["label"].value_counts().to_dict() == {"0": 134, "1": 20, "2": 136, "3": 74, "4": 49}
    lesions = index_source(f"idrid-lesions:{root}")
    present = {c: (lesions[c] == "1").sum() for c in lesions if c.startswith("class:")}
    assert list(present.values()) == [54, 53, 54, 26, 54]


def test_the_real_splits(real_data):
    digits = index_source(f"mnist:{need(real_data, 'mnist')}")
    assert digits["split"].value_counts().to_dict() == {"train": 18_000, "test": 5000, "val": 2000}
    films = index_source(f"folder:{need(real_data, 'nih_cxr/thousand_64px')}")
    assert films.groupby(["split", "label"]).size().to_dict() == {
        ("test", "0_normal"): 100,
        ("test", "1_abnormal"): 100,
        ("train", "0_normal"): 300,
        ("train", "1_abnormal"): 300,
        ("val", "0_normal"): 100,
        ("val", "1_abnormal"): 100,
    }


def test_the_real_boxes(real_data):
    frame = index_source(f"nih-cxr:{need(real_data, 'nih_cxr/mass50')}")
    boxes = [box for cell in frame["boxes"] for box in json.loads(cell)]
    assert len(boxes) == 283
    small = index_source(f"nih-cxr:{real_data / 'nih_cxr'}")
    ends = np.array([box["box"] for cell in small["boxes"] if cell for box in json.loads(cell)])
    assert len(ends)
    assert ends.max() <= 64
