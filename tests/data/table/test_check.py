from collections import Counter

import numpy as np
import pytest
import tifffile
from PIL import Image

from lesioncam.data.table.check import check_table, require
from lesioncam.data.table.table import read_table
from lesioncam.errors import TableError

HEAD = "image,label,patient,split\n"


@pytest.fixture
def folder(tmp_path):
    """Six good images (8 x 10, 8-bit grey) of six patients, two in each split."""
    rng = np.random.default_rng(0)
    for name in "abcdef":
        Image.fromarray(rng.integers(0, 256, (8, 10), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def rows(**changes):
    """The good table's rows by image name, with some replaced."""
    labels, splits = "xyxyxy", ["train", "train", "val", "val", "test", "test"]
    good = {
        name: f"{name}.png,{label},p{name},{split}" for name, label, split in zip("abcdef", labels, splits, strict=True)
    }
    return [row for row in (good | changes).values() if row]


def check(folder, lines, header=HEAD, files=True, **options):
    (folder / "t.csv").write_text(header + "\n".join(lines) + "\n")
    return check_table(read_table(folder / "t.csv", **options), files=files)


def problems(report):
    return [problem.message for problem in report.problems]


def warned(report):
    return [problem.message for problem in report.warnings]


def test_a_good_table(folder):
    report = check(folder, rows())
    assert report.ok
    assert report.warnings == ()
    assert (report.images, report.patients) == (6, 6)
    assert report.sizes == Counter({(8, 10): 6})
    assert report.depths == Counter({"uint8 grey": 6})
    require(report)
    text = report.text()
    assert text.startswith("t.csv: 6 images, 6 patients\n\nNo problems.\n\nNo warnings.\n")
    assert text.endswith("Image sizes (height x width): 8 x 10 (6)\n\nBit depths: uint8 grey (6)")


def test_counts_per_split(folder):
    header = "image,mass,cyst,patient,split\n"
    report = check(folder, ["a.png,1,0,1,train", "b.png,-1,,2,train", "c.png,0,1,3,val"], header, files=False)
    expected = [
        ["all", "mass", 1, 1, 1, 0],
        ["all", "cyst", 1, 1, 0, 1],
        ["train", "mass", 1, 0, 1, 0],
        ["train", "cyst", 0, 1, 0, 1],
        ["val", "mass", 0, 1, 0, 0],
        ["val", "cyst", 1, 0, 0, 0],
    ]
    assert report.counts.to_numpy().tolist() == expected
    assert list(report.counts) == ["split", "class", "positive", "negative", "uncertain", "unknown"]
    assert report.sizes == Counter()


# ---- the table ---------------------------------------------------------------------------------------------------


def test_patient_in_two_splits(folder):
    report = check(folder, rows(f="f.png,y,pa,test"))
    assert problems(report) == [
        (
            "t.csv row 7: patient 'pa' is in 'test' and in 'train' (row 2). "
            "Keep each patient in one split; `lesioncam split` does so."
        )
    ]
    with pytest.raises(TableError, match=r"^t\.csv row 7: patient 'pa'"):
        require(report)


def test_duplicates(folder):
    report = check(folder, [*rows(), "./a.png,x,pa,train"])
    assert problems(report) == [
        "t.csv row 8: image './a.png' is in row 2 too. Keep one row per image; join several findings with '|'."
    ]
    header = HEAD.replace("image", "id,image")
    report = check(folder, [f"{'same' if k < 2 else k},{row}" for k, row in enumerate(rows())], header)
    assert problems(report) == ["t.csv row 3: id 'same' is in row 2 too. Give every image an id of its own."]


def test_rows_with_several_images_are_looked_at_and_stop_a_run(folder):
    report = check(folder, [*rows()[:4], "e.png | gone.png,x,pe,test", "a.png|f.png,y,pa,train"])
    said = problems(report)
    way_out = "training and measuring take one image per row so far. "
    way_out += "Give each image a row of its own, with the same patient."
    assert f"t.csv row 6 has 2 images (e.png, gone.png); {way_out}" in said
    assert f"t.csv row 7 has 2 images (a.png, f.png); {way_out}" in said
    assert any(line.startswith("t.csv row 6: ") and "gone.png is missing" in line for line in said)
    assert any(line.startswith("t.csv row 7: image 'a.png' is in row 2 too.") for line in said)
    assert sum(report.sizes.values()) == 4 + 1 + 2


def test_what_reading_found_is_listed_too(folder):
    report = check(folder, [*rows(), "a.png#0,z,pg,oops"], classes=["x", "y"])
    assert [problem.kind for problem in report.problems] == ["unknown label", "bad split"]
    assert all(problem.row == 8 for problem in report.problems)
    assert [problem.kind for problem in report.warnings] == ["near-duplicates in one split"]  # a.png again


def test_everything_is_listed_at_once_and_long_lists_are_cut(folder):
    report = check(folder, [f"no{k}.png,{'xy'[k % 2]},p{k}," for k in range(25)])
    text = report.text()
    assert "25 problems:" in text
    assert "t.csv row 2: " in text
    assert text.count("is missing") == 20
    assert "  ... and 5 more (missing image)" in text
    with pytest.raises(TableError) as error:
        require(report)
    assert str(error.value) in text


def test_one_class_only(folder):
    report = check(folder, [row.replace(",y,", ",x,") for row in rows()])
    assert problems(report) == [
        "t.csv: all 6 labelled images are positive for 'x'; there is nothing to tell it from. Add images without it."
    ]
    report = check(folder, rows(), classes=["x", "y", "z"])
    assert problems(report) == [
        "t.csv: no image is positive for 'z'; there is nothing to learn. Add some, or leave the class out."
    ]


def test_blanks_as_negatives_are_a_way_out(folder):
    lines = [f"{name}.png,{value},p{name}" for name, value in zip("abcdef", ["1", ""] * 3, strict=True)]
    report = check(folder, lines, "image,mass,patient\n")
    assert problems(report)[0].endswith("Add images without it. If a blank means absent (3 rows), say --blank 0.")
    assert check_table(read_table(folder / "t.csv"), blank="0").ok


def test_one_class_only_in_train_stops_and_elsewhere_warns(folder):
    report = check(folder, rows(b="b.png,x,pb,train"))
    assert [message[:40] for message in problems(report)] == [
        "t.csv, split 'train': all 2 labelled ima",
        "t.csv, split 'train': no image is positi",
    ]
    report = check(folder, rows(f="f.png,x,pf,test"))
    assert report.ok
    assert [problem.kind for problem in report.warnings] == ["class missing in a split"] * 2


def test_one_patient_only(folder):
    report = check(folder, [f"{name}.png,{label},same," for name, label in zip("abcd", "xyxy", strict=True)])
    assert problems(report) == ["t.csv has only one patient; training and testing need different ones. Add patients."]
    report = check(folder, [f"{name}.png,{label},{label}," for name, label in zip("abcd", "xyxy", strict=True)])
    assert problems(report) == ["t.csv has 2 patients, too few for train, val and test. Add patients."]


def test_no_patients(folder):
    lines = [row.split(",") for row in rows()]
    without_both = [f"{image},{label}" for image, label, _, _ in lines]
    report = check(folder, without_both, "image,label\n")
    assert problems(report) == [
        (
            "t.csv has neither a patient column nor a split for every row; a split could tear patients apart. Name "
            r"the column (--columns patient=YOUR_NAME), or use --patient-from '(P\d+)_', blocks:20 or none."
        )
    ]
    assert check(folder, without_both, "image,label\n", patient_from="blocks:1").ok
    report = check(folder, [f"{image},{label},{split}" for image, label, _, split in lines], "image,label,split\n")
    assert report.ok
    assert report.patients is None
    assert [problem.kind for problem in report.warnings] == ["patients unknown"]
    assert "patients unknown" in report.text()


def test_blank_patients_stop_only_where_a_split_is_to_be_made(folder):
    assert [problem.kind for problem in check(folder, rows(b="b.png,y,,train")).warnings] == ["no patient"]
    assert "no patient" in [problem.kind for problem in check(folder, rows(b="b.png,y,,")).problems]


def test_rows_and_roles_without_a_split(folder):
    report = check(folder, rows(c="c.png,x,pc,", d="d.png,y,pd,"))
    assert warned(report) == [
        "t.csv: 2 rows without a split; they take no part in a run.",
        "t.csv: no row is in 'val'; thresholds need it.",
    ]


def test_names_that_sound_healthy_or_like_a_slip(folder):
    report = check(folder, [row.replace(",y,", ",No Finding,") for row in rows()])
    assert warned(report) == ["t.csv: class 'No Finding' sounds like 'no lesion'; if so, say --negative 'No Finding'."]
    lines = [f"{k}.png,{'glioma' if k % 2 else 'cyst'},p{k}" for k in range(200)]
    report = check(folder, [*lines, "300.png,gliomma,p300"], "image,label,patient\n", files=False)
    assert warned(report) == ["t.csv: class 'gliomma' (1 image) may be a slip for 'glioma' (100)."]


# ---- the files ---------------------------------------------------------------------------------------------------


def test_missing_and_truncated_images(folder):
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[:60])
    (folder / "c.png").unlink()
    report = check(folder, rows())
    assert [problem.kind for problem in report.problems] == ["unreadable image", "missing image"]
    assert problems(report)[0].startswith(f"t.csv row 3: {folder}/b.png cannot be decoded (")
    assert problems(report)[0].endswith("truncated or damaged. Copy it again or take its row out.")
    assert problems(report)[1] == (
        f"t.csv row 4: {folder}/c.png is missing; correct the path or the image folder (--images)."
    )
    assert report.sizes == Counter({(8, 10): 4})
    assert check(folder, rows(), files=False).ok


def test_black_and_nan_images(folder):
    Image.new("L", (10, 8)).save(folder / "b.png")
    pixels = np.ones((8, 10), np.float32)
    pixels[2, 3] = np.nan
    tifffile.imwrite(folder / "c.tif", pixels)
    report = check(folder, rows(c="c.tif,x,pc,val"))
    assert problems(report) == [
        f"t.csv row 3: {folder}/b.png is constant (every pixel is 0): it shows nothing. Replace it or drop its row.",
        f"t.csv row 4: {folder}/c.tif has 1 NaN or infinite pixels of 80; fill them or take its row out.",
    ]
    assert report.depths == Counter({"uint8 grey": 5, "float32 grey": 1})


def test_index_out_of_range(folder):
    report = check(folder, rows(c="c.png#4,x,pc,val"))
    assert problems(report) == [f"t.csv row 4: {folder}/c.png has no image #4; it holds one only, #0."]


def write_mask(path, size=(8, 10), value=255):
    pixels = np.zeros(size, np.uint8)
    pixels[2:4, 3:5] = value
    Image.fromarray(pixels).save(path)


def test_masks(folder):
    write_mask(folder / "good.png")
    write_mask(folder / "small.png", (4, 5))
    write_mask(folder / "empty.png", value=0)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    masks = ["good.png|no.png", "small.png", "broken.png", "empty.png", "good.png", "good.png"]
    lines = [f"{row},{mask}," for row, mask in zip(rows(), masks, strict=True)]
    lines[5] = f"{rows()[5]},good.png,good.png"
    report = check(folder, lines, "image,label,patient,split,mask,mask:x\n")
    assert [(problem.row, problem.kind) for problem in report.problems] == [
        (2, "missing mask"),
        (3, "unusable mask"),
        (4, "unusable mask"),
    ]
    assert problems(report)[1] == (
        f"t.csv row 3: mask {folder}/small.png is 4 x 5 but its image is 8 x 10 (height x width); "
        "save the mask in the image's own pixels."
    )
    assert warned(report) == [
        "t.csv row 5: the mask empty.png is empty although the row is positive for any class.",
        "t.csv row 7: there is a mask although the row is not positive for class 'x'.",
    ]


def test_boxes(folder):
    def line(row, label, box):
        return f'{row},"[{{""class"": ""{label}"", ""box"": {box}}}]"'

    good = rows()
    boxes = [("x", [0, 0, 10, 8]), ("y", [0, 0, 12, 4]), ("x", [-2, 0, 4, 4]), ("x", [1, 1, 2, 2])]
    lines = [line(row, *box) for row, box in zip(good, boxes, strict=False)] + [f"{row}," for row in good[4:]]
    report = check(folder, lines, "image,label,patient,split,boxes\n")
    assert problems(report) == [
        "t.csv row 3: box [0, 0, 12, 4] of 'y' lies outside the image of 8 x 10 (height x width). Use its own pixels.",
        "t.csv row 4: box [-2, 0, 4, 4] of 'x' lies outside the image of 8 x 10 (height x width). Use its own pixels.",
    ]
    assert warned(report) == ["t.csv row 5: box [1, 1, 2, 2] of 'x', although the row is not positive for it."]


def test_reader_masks_are_looked_at_too(folder):
    write_mask(folder / "good.png")
    write_mask(folder / "small.png", (4, 5))
    masks = ["good.png,", "small.png,", ",no.png", ",", ",", ","]
    lines = [f"{row},{mask}" for row, mask in zip(rows(), masks, strict=True)]
    report = check(folder, lines, "image,label,patient,split,mask@ann:x,mask@bob\n")
    assert [(problem.row, problem.kind) for problem in report.problems] == [(3, "unusable mask"), (4, "missing mask")]


# ---- near-duplicates ---------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path):
    """Six drawn images of 120 x 100 pixels: smooth random shapes on black."""
    from scipy.ndimage import gaussian_filter

    for seed, name in enumerate("abcdef"):
        rng = np.random.default_rng(seed)
        shape = sum(gaussian_filter(rng.normal(size=(120, 100)), sigma) * sigma for sigma in (2, 4, 8))
        pixels = np.pad(np.interp(shape, (shape.min(), shape.max()), (40, 250)), 10)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_near_duplicates_across_splits_are_problems(scans):
    image = Image.open(scans / "a.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(scans / "e.jpg", quality=80)
    image.crop((6, 4, 120, 140)).resize((60, 70)).save(scans / "c.png")
    report = check(scans, rows(e="e.jpg,x,pe,test"))
    assert {problem.kind for problem in report.problems} == {"near-duplicate"}
    assert [problem.row for problem in report.problems] == [4, 6, 6]
    assert [(pair.first, pair.second, pair.kind) for pair in report.pairs] == [
        (0, 2, "copy"),
        (0, 4, "mirror"),
        (2, 4, "mirror"),
    ]
    mirror = next(message for message in problems(report) if "'train' (row 2)" in message and "'e.jpg'" in message)
    assert mirror.startswith("t.csv row 6: 'e.jpg' in 'test' is the mirror image of 'a.png' in 'train' (row 2), ")
    assert mirror.endswith("Keep such images in one split; `lesioncam split` does so.")
    assert len(report.prints) == 6
    assert check_table(read_table(scans / "t.csv"), duplicates=False).ok
    assert check_table(read_table(scans / "t.csv"), duplicates=False).prints is None


def test_copies_among_the_images_of_rows_are_found(scans):
    """Every image of a row is compared, but not with those of its own row."""
    for name in ("c2", "e2"):
        Image.open(scans / "b.png").save(scans / f"{name}.png")
    Image.open(scans / "d.png").save(scans / "d2.png")
    report = check(scans, rows(c="c.png|c2.png,x,pc,val", d="d.png|d2.png,y,pd,val", e="e.png|e2.png,x,pe,test"))
    assert [(pair.first, pair.second) for pair in report.pairs] == [(1, 2), (1, 4), (2, 4)]
    assert len(report.prints) == 9


def test_near_duplicates_without_a_split_are_one_warning(scans):
    Image.open(scans / "a.png").save(scans / "b.png")
    lines = [row.rsplit(",", 1)[0] for row in rows()]
    report = check(scans, lines, "image,label,patient\n")
    assert report.ok
    text = (
        "t.csv: 1 pair of nearly the same image inside a split or without one (2 images; rows 2 and 3, for instance). "
        "They count as several; `lesioncam split` keeps them together."
    )
    assert warned(report) == [text]


def test_a_study_in_two_splits_where_patients_are_not_known(folder):
    lines = [f"{row},s{k // 3}" for k, row in enumerate(rows())]
    report = check(folder, lines, "image,label,patient,split,study\n")
    assert report.ok  # every patient is known: study 1 of one is not study 1 of the other
    lines = [line.replace(",pa,", ",,").replace(",pc,", ",,") for line in lines]
    report = check(folder, lines, "image,label,patient,split,study\n")
    text = "study 's0' is in 'val' and in 'train' (row 2). Keep each study in one split; `lesioncam split` does so."
    assert problems(report) == [f"t.csv row 4: {text}"]
