import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesioncam.data.table.table import Table, digest, read_table, write_table
from lesioncam.errors import ImageError, OptionError, TableError
from lesioncam.options.data import TableConfig
from lesioncam.types import Box, Record

NIH = Path(__file__).parents[4] / "shared" / "data" / "nih_cxr" / "tables"
NAN = float("nan")


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="t.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_text


def messages(table):
    return [problem.message for problem in table.problems]


def same_states(table, expected):
    np.testing.assert_array_equal(table.states, np.array(expected, np.float32))
    assert table.states.dtype == np.float32


# ---- labels ------------------------------------------------------------------------------------------------------


def test_one_label_column_gives_sorted_classes_and_unknown_where_blank(write):
    table = read_table(write("image,label\na.png,mass|cyst\nb.png,cyst\nc.png,\n"))
    assert table.classes == ("cyst", "mass")
    same_states(table, [[1, 1], [1, 0], [NAN, NAN]])
    assert not table.exclusive
    assert len(table) == 3


def test_numbered_classes_are_in_order_of_number(write):
    assert read_table(write("image,label\na,10\nb,2\nc,1\n")).classes == ("1", "2", "10")


def test_negative_labels_make_no_class(write):
    table = read_table(write("image,label\na.png,healthy\nb.png,mass\nc.png,cyst\n"), negative=["healthy"])
    assert table.classes == ("cyst", "mass")
    assert table.negative == ("healthy",)
    same_states(table, [[0, 0], [0, 1], [1, 0]])
    assert table.frame["negative"].tolist() == ["healthy", "", ""]
    assert table.exclusive  # one label per row, "healthy" among them


def test_exclusive_means_one_positive_class_in_every_row(write):
    assert read_table(write("image,label\na.png,x\nb.png,y\n")).exclusive
    assert read_table(write("image,x,y\na.png,1,0\nb.png,0,1\n")).exclusive
    assert not read_table(write("image,label\na.png,x\nb.png,x\n")).exclusive
    assert not read_table(write("image,x,y\na.png,1,0\nb.png,0,\n")).exclusive


def test_one_column_per_class_keeps_four_states(write):
    text = "image,mass,cyst,age,note\na.png,1,0.0,50,x\nb.png,-1.0,,60,y\nc.png,True,NaN,70,z\n"
    table = read_table(write(text))
    assert table.classes == ("mass", "cyst")
    same_states(table, [[1, 0], [-1, NAN], [1, NAN]])
    assert table.frame["extra:age"].tolist() == ["50", "60", "70"]


def test_declared_classes_choose_and_order_columns(write):
    table = read_table(write("image,sex,mass,cyst\na.png,1,1,0\nb.png,0,0,1\n"), classes=["cyst", "mass"])
    assert table.classes == ("cyst", "mass")
    same_states(table, [[0, 1], [1, 0]])
    assert table.frame["extra:sex"].tolist() == ["1", "0"]


def test_findings_that_were_not_declared_may_keep_their_masks_and_boxes(write):
    text = (
        "image,class:mass,class:cyst,mask:mass,mask:cyst,boxes\n"
        'a.png,1,1,m.png,c.png,"[{""class"": ""mass"", ""box"": [0, 0, 1, 1]},'
        ' {""class"": ""cyst"", ""box"": [0, 0, 2, 2]}]"\n'
        "b.png,0,0,,,\n"
    )
    table = read_table(write(text), classes=["cyst"])
    assert messages(table) == []
    assert [*table.frame["masks"][0]] == ["cyst"]
    assert [box.label for box in table.frame["boxes"][0]] == ["cyst"]
    assert len(read_table(write(text)).frame["masks"][0]) == 2
    slip = read_table(write(text.replace("mask:mass", "mask:mas")), classes=["cyst"])
    assert "column 'mask:mas' is of no class" in messages(slip)[0]


def test_negative_column_fills_blanks_only(write):
    table = read_table(write("image,No Finding,mass\na,1,\nb,,1\nc,,-1\nd,1,1\n"), negative=["No Finding"])
    assert table.classes == ("mass",)
    same_states(table, [[0], [1], [-1], [1]])
    assert messages(table) == [
        "t.csv row 5: 'No Finding' is no lesion, yet a finding stands beside it. Keep one of them."
    ]


def test_policies():
    frame = pd.DataFrame({"row": [2, 3, 4, 5], "id": list("abcd")})
    table = Table(frame, ("m",), np.array([[1], [0], [-1], [NAN]], np.float32))
    np.testing.assert_array_equal(table.labels("1", "0")[:, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(table.labels(0.25)[:, 0], np.float32([1, 0, 0.25, NAN]))
    assert table.labels().dtype == np.float32
    for bad in ({"uncertain": "maybe"}, {"uncertain": 2.0}, {"uncertain": -1}, {"blank": "1"}):
        with pytest.raises(OptionError, match="is not possible"):
            table.labels(**bad)


def test_label_not_declared(write):
    table = read_table(write("image,label\na,mass\nb,mas\nc,mas\n"), classes=["mass", "cyst"])
    text = (
        "label 'mas' is not declared. Did you mean 'mass'? Declared: mass, cyst. "
        "Correct the cell or add it to --classes."
    )
    assert messages(table) == [f"t.csv row 3: {text}", f"t.csv row 4: {text}"]
    assert [problem.kind for problem in table.problems] == ["unknown label"] * 2


def test_negative_beside_a_finding_is_a_contradiction(write):
    table = read_table(write("image,label\na,No Finding|mass\nb,mass\n"), negative=["No Finding"])
    assert messages(table) == [
        "t.csv row 2: 'No Finding' is no lesion, yet a finding stands beside it. Keep one of them."
    ]


def test_negative_with_a_slip(write):
    table = read_table(write("image,label\na,No Finding\nb,mass\n"), negative=["No finding"])
    assert messages(table) == [
        "t.csv: no row has the label 'No finding', which --negative names. Did you mean 'No Finding'?"
    ]
    assert table.problems[0].kind == "unknown negative"
    assert read_table(write("image,label\na,x\n"), negative=["healthy"]).problems[0].kind == "unused negative"


def test_bad_cell_in_a_class_column(write):
    table = read_table(write("image,mass\na,1\nb,yes\n"), classes=["mass"])
    assert messages(table) == [
        "t.csv row 3: column 'mass' holds 'yes'; use 1 (present), 0 (absent), -1 (uncertain) or a blank."
    ]
    same_states(table, [[1], [NAN]])


def test_only_negative_labels(write):
    with pytest.raises(TableError, match=r"^t\.csv names no lesion: every label is blank or declared negative\."):
        read_table(write("image,label\na,healthy\nb,\n"), negative=["healthy"])


# ---- columns -----------------------------------------------------------------------------------------------------


def test_mapped_columns_image_root_and_everything_optional(write, tmp_path):
    boxes = json.dumps([{"class": "mass", "box": [1, 2, 3.5, 4]}]).replace('"', '""')
    text = (
        "file,dx,PID,study,view,laterality,split,id,mask,mask:mass,boxes,age\n"
        f'x/a.tif#3,mass,7,s1,PA,L,Train,one,m1.png|m2.png,/abs/m.png,"{boxes}",61\n'
        "b.png,cyst,007,,,,,,,,,\n"
    )
    table = read_table(write(text), images=tmp_path / "png", columns={"image": "file", "label": "dx", "patient": "PID"})
    root = tmp_path.as_posix() + "/png"
    first, second = table.records()
    assert first == Record(
        id="one",
        images=(f"{root}/x/a.tif#3",),
        row=2,
        labels=(0.0, 1.0),
        patient="7",
        study="s1",
        view="PA",
        laterality="L",
        split="train",
        masks={"": (f"{root}/m1.png", f"{root}/m2.png"), "mass": ("/abs/m.png",)},
        boxes=(Box("mass", (1.0, 2.0, 3.5, 4.0)),),
    )
    assert second == Record(id="b", images=(f"{root}/b.png",), row=3, labels=(1.0, 0.0), patient="007")
    assert table.patient_rule == "column PID"
    assert table.frame["extra:age"].tolist() == ["61", ""]
    assert table.source == "t.csv"


def test_a_row_may_have_several_images(write, tmp_path):
    """Sequences or views of one examination, joined as masks are; whoever looks at one image says so."""
    table = read_table(write("image,label\nv/t1.nii | v/t2.nii,mass\nb.png,\n"))
    first, second = table.records()
    root = tmp_path.as_posix()
    assert first.images == (f"{root}/v/t1.nii", f"{root}/v/t2.nii")
    assert (first.id, second.id, second.images) == ("v/t1", "b", (f"{root}/b.png",))
    assert second.image == f"{root}/b.png"
    for asked in (lambda: first.image, table.images):
        with pytest.raises(ImageError, match=r"row 2 \(v/t1\) has 2 images \(.*t1\.nii, .*t2\.nii\).*one at a time"):
            asked()
    again = read_table(write_table(table, tmp_path / "deep" / "copy.csv"))
    assert again.frame["name"].tolist() == ["../v/t1.nii|../v/t2.nii", "../b.png"]
    assert [record.images for record in again.records()] == [first.images, second.images]


def test_config_object_is_the_same_as_keywords(write):
    path = write("file,dx\na.png,x\nb.png,n\n")
    config = TableConfig(columns={"image": "file", "label": "dx"}, negative=("n",))
    one = read_table(path, config=config)
    two = read_table(path, columns={"image": "file", "label": "dx"}, negative=["n"])
    assert digest(one) == digest(two)
    with pytest.raises(OptionError, match="config or the single options"):
        read_table(path, config=config, negative=["n"])


def test_ids_drop_the_suffix_unless_that_makes_twins(write):
    table = read_table(write("image,label\nx/a.nii.gz,u\nb.png,v\nb.jpg,u\nd.gz#17,v\n1.2.840.3,v\n"))
    assert table.frame["id"].tolist() == ["x/a", "b.png", "b.jpg", "d#17", "1.2.840.3"]


def test_row_numbers_count_blank_rows(write):
    table = read_table(write("image,label\na,x\n\n,\nb,y\n\n"))
    assert table.frame["row"].tolist() == [2, 5]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_and_a_byte_order_mark(write, mark):
    table = read_table(write("\ufeffimage,label\na.png,x\n".replace(",", mark)))
    assert table.classes == ("x",)


def test_missing_column(write):
    with pytest.raises(TableError) as error:
        read_table(write("File,dx\na,x\n"))
    assert str(error.value) == (
        "t.csv has no column 'image'. Found: 'File', 'dx'. Did you mean 'File'? "
        "Name yours with --columns image=File (in Python columns={'image': 'File'})."
    )
    with pytest.raises(TableError) as error:
        read_table(write("Image Index,Finding Labels\na,x\n"), columns={"image": "Image index"})
    assert str(error.value) == (
        "t.csv has no column 'Image index', which --columns names for 'image'. Found: 'Image Index', 'Finding Labels'. "
        "Did you mean 'Image Index'? Name yours with --columns image='Image Index' "
        "(in Python columns={'image': 'Image Index'})."
    )
    with pytest.raises(TableError) as error:
        read_table(write("image,dx,age\na,x,3\n"))
    assert str(error.value) == (
        "t.csv has no labels: no column 'label', and no column holds only 1, 0, -1 or blank. "
        "Found: 'image', 'dx', 'age'. "
        "Did you mean 'dx'? Name yours with --columns label=dx (in Python columns={'label': 'dx'})."
    )
    with pytest.raises(TableError, match=r"neither a column 'label' nor a column 'mas'.* Did you mean 'mass'"):
        read_table(write("image,mass\na,1\n"), classes=["mas"])


def test_unknown_name_in_columns(write):
    with pytest.raises(OptionError, match=r"no column 'imag' is known\. Did you mean 'image'\?"):
        read_table(write("image,label\na,x\n"), columns={"imag": "image"})


@pytest.mark.parametrize("text", ["image,label\n", "image,label\n\n,\n", "\n"])
def test_empty_table(write, text):
    with pytest.raises(TableError, match=r"^t\.csv has no rows; it needs a header and one row per image\.$"):
        read_table(write(text))


def test_files_that_are_no_table(write, tmp_path):
    with pytest.raises(TableError, match=r"t\.csv has no rows; it needs a header and one row per image"):
        read_table(write(""))
    with pytest.raises(TableError, match="does not exist"):
        read_table(tmp_path / "nope.csv")
    with pytest.raises(TableError, match="is a folder; make a table of it with `lesioncam index"):
        read_table(tmp_path)
    with pytest.raises(TableError, match=r"save it as \.csv"):
        read_table(write("x", "t.xlsx"))
    with pytest.raises(
        TableError, match=r'Expected 2 fields in line 3, saw 3\)\. Put cells that hold the separator into "'
    ):
        read_table(write("image,label\na,x\nb,x,y\n"))
    with pytest.raises(TableError, match="not readable as Parquet"):
        read_table(write("x", "t.parquet"))
    (tmp_path / "latin.csv").write_bytes("image,label\na,Zyste-ü\n".encode("latin-1"))
    with pytest.raises(TableError, match="save it as 'CSV UTF-8'"):
        read_table(tmp_path / "latin.csv")
    with pytest.raises(TableError, match="has the column 'x' twice"):
        read_table(write("image,x,x\na,1,0\n"))


def test_parquet_types_become_plain_text(tmp_path):
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "patient": [1.0, NAN], "mass": [True, False], "cyst": [-1, 1]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.classes == ("mass", "cyst")
    same_states(table, [[1, -1], [0, 1]])
    assert table.frame["patient"].tolist() == ["1", None]


def test_bad_split_blank_image_and_mask_of_no_class(write):
    table = read_table(write("image,label,split,mask:mas\na,mass,valid,\n,mass,,\n"))
    assert messages(table) == [
        "t.csv: column 'mask:mas' is of no class. Did you mean 'mask:mass'? Classes: mass.",
        "t.csv row 2: split 'valid' is not train, val or test. Did you mean 'val'?",
        "t.csv row 3: the image cell is blank. Fill it or take the row out.",
    ]
    assert table.frame["split"].tolist() == [None, None]


def box_problem(write, cell):
    quoted = cell.replace('"', '""')
    table = read_table(write(f'image,label,boxes\na,mass,"{quoted}"\n'))
    (problem,) = table.problems
    assert problem.kind == "bad boxes"
    return problem.message


def test_bad_boxes(write):
    form = '[{"class": "mass", "box": [x0, y0, x1, y1]}]'
    assert box_problem(write, "[1, 2") == f"t.csv row 2: boxes '[1, 2' are not readable; write {form} in native pixels."
    assert box_problem(write, '[{"class": "mass", "box": [5, 0, 3, 4]}]') == (
        "t.csv row 2: box [5, 0, 3, 4] of 'mass' is inverted or empty; x0 < x1 and y0 < y1 must hold."
    )
    assert "none of mass" in box_problem(write, '[{"class": "cyst", "box": [0, 0, 3, 4]}]')
    assert "needs four finite numbers" in box_problem(write, '[{"class": "mass", "box": [0, 0, 3]}]')


# ---- patients ----------------------------------------------------------------------------------------------------


def test_patient_from_a_regular_expression(write):
    path = write("image,label\nP1_a.png,x\nP1_b.png,y\nodd.png,x\n")
    table = read_table(path, patient_from=r"(P\d+)_")
    assert table.patients().tolist() == ["P1", "P1", "odd"]
    assert table.patient_rule == r"regex (P\d+)_"
    assert messages(table) == [r"t.csv row 4: --patient-from '(P\\d+)_' finds no patient in 'odd.png'."]
    for bad, reason in (("P", "has 0 groups"), ("(P", "is not a regular expression"), ("(P)(1)", "has 2 groups")):
        with pytest.raises(OptionError, match=reason):
            read_table(path, patient_from=bad)


def test_blocks_never_cross_a_change_of_label_or_split(write):
    labels, splits = "xxxxxyyyyy", ["train"] * 7 + ["test"] * 3
    rows = [f"{i}.png,{label},{split}" for i, (label, split) in enumerate(zip(labels, splits, strict=True))]
    table = read_table(write("image,label,split\n" + "\n".join(rows)), patient_from="blocks:3")
    assert [name[-1] for name in table.patients()] == list("1112233444")
    assert table.patient_rule == "blocks:3"
    with pytest.raises(OptionError, match="blocks:20"):
        read_table(write("image,label\na,x\n"), patient_from="blocks:x")


def test_no_patients(write):
    path = write("image,label\na.png,x\nb.png,y\n")
    assert read_table(path).patient_rule == ""
    none = read_table(path, patient_from="none")
    assert none.patient_rule == "none"
    assert none.patients().tolist() == ["a", "b"]


def test_blank_patient(write):
    table = read_table(write("image,label,patient\na,x,1\nb,x,\n"))
    assert messages(table) == [
        "t.csv row 3: no patient in column 'patient'. Fill the cell; images without a patient cannot be split."
    ]


# ---- parts and copies --------------------------------------------------------------------------------------------


def test_take_and_split(write):
    table = read_table(write("image,label,split\na,x,train\nb,y,test\nc,x,oops\nd,x,train\n"))
    assert table.split("train").frame["id"].tolist() == ["a", "d"]
    assert table.take([3, 1]).frame["id"].tolist() == ["d", "b"]
    same_states(table.take([3, 1]), [[1, 0], [0, 1]])
    assert table.split("train").problems == ()
    assert len(table.take(np.array([False, False, True, False])).problems) == 1
    with pytest.raises(OptionError, match="Unknown split 'dev'"):
        table.split("dev")


RICH = (
    "file,mass,cyst,normal,PID,split,view,mask,mask:cyst,boxes,id,7\n"
    'p/a.png,1,0,,P1,train,PA,m/a.png|m/b.png,,"[{""class"": ""mass"", ""box"": [0, 1, 2.5, 3]}]",one,x\n'
    "p/b.png#2,-1,,,P2,val,,,c.png,,,y\n"
    "p/c.png,,,1,P3,,,,,,,\n"
)


@pytest.mark.parametrize("name", ["copy.csv", "copy.csv.gz", "copy.parquet", "deep/er/copy.csv"])
@pytest.mark.parametrize("rule", [None, "none", "blocks:2", r"p/(.)"])
def test_written_tables_read_back_equal(write, tmp_path, name, rule):
    columns = {"image": "file"} | ({} if rule else {"patient": "PID"})
    table = read_table(write(RICH), images=tmp_path / "root", columns=columns, negative=["normal"], patient_from=rule)
    again = read_table(write_table(table, tmp_path / name))
    assert not again.problems
    assert (again.classes, again.negative, again.exclusive) == (table.classes, table.negative, table.exclusive)
    assert again.patient_rule == table.patient_rule
    np.testing.assert_array_equal(again.states, table.states)
    pd.testing.assert_frame_equal(again.frame.drop(columns="name"), table.frame.drop(columns="name"))
    assert digest(again) == digest(table)


# ---- readers and checked labels ----------------------------------------------------------------------------------

READ = (
    "image,label,mask:mass,mask@ann:mass,mask@ann:cyst,mask@bob,verified,split\n"
    "a.png,mass|cyst,m.png,r/a1.png|r/a2.png,r/c.png,r/b.png,1,test\n"
    "b.png,mass,,r/d.png,,,0,test\n"
    "c.png,cyst,,,,,,val\n"
)


@pytest.mark.parametrize("name", ["copy.csv", "copy.parquet", "a/copy.csv"])
def test_readers_and_checked_labels_are_read_and_written(write, tmp_path, name):
    table = read_table(write(READ))
    again = read_table(write_table(table, tmp_path / name))
    for each in (table, again):
        assert not each.problems
        first, second, third = each.records()
        root = f"{tmp_path}/"
        assert first.readers == {
            "ann": {"mass": (f"{root}r/a1.png", f"{root}r/a2.png"), "cyst": (f"{root}r/c.png",)},
            "bob": {"": (f"{root}r/b.png",)},
        }
        assert (second.readers, third.readers) == ({"ann": {"mass": (f"{root}r/d.png",)}}, {})
        assert first.masks == {"mass": (f"{root}m.png",)}
        assert each.readers() == ("ann", "bob")
        assert each.classes == ("cyst", "mass")
        assert each.verified().tolist() == [True, False, False]
        assert each.frame["verified"].tolist() == [True, False, None]


def test_without_readers_and_checks(write):
    table = read_table(write("image,label,split\na,x,test\nb,y,val\n"))
    assert table.verified() is None
    assert table.readers() == ()
    assert [record.readers for record in table.records()] == [{}, {}]


def test_mapped_reader_and_verified_columns(write):
    path = write("image,label,Reader 2,checked\na,x,r.png,True\nb,y,,no\n")
    table = read_table(path, columns={"mask@two:x": "Reader 2", "verified": "checked"})
    assert table.verified().tolist() == [True, False]
    assert list(table.records()[0].readers) == ["two"]
    assert not [name for name in table.frame if name.startswith("extra:")]


def test_bad_reader_and_verified_cells(write):
    table = read_table(write("image,label,mask@ann:mas,mask@:mass,verified\na,mass,,,1\nb,cyst,,,maybe\n"))
    assert messages(table) == [
        "t.csv: column 'mask@ann:mas' is of no class. Did you mean 'mask@ann:mass'? Classes: cyst, mass.",
        "t.csv: column 'mask@:mass' names no reader; write mask@NAME or mask@NAME:CLASS.",
        "t.csv row 3: column 'verified' holds 'maybe'; use 1 (checked), 0 or a blank.",
    ]
    assert table.verified().tolist() == [True, False]


def test_verified_and_readers_make_no_class(write):
    table = read_table(write("image,mass,verified,mask@ann\na,1,1,\nb,0,0,\n"))
    assert table.classes == ("mass",)


def test_a_study_stands_in_for_a_blank_patient(write):
    table = read_table(write("image,label,patient,study\na,x,1,\nb,x,,s\nc,x,,\n"))
    assert [problem.row for problem in table.problems] == [4]


def test_written_paths_are_relative_to_the_file(write, tmp_path):
    table = read_table(write("image,label\nx/a.png,u\n"))
    text = write_table(table, tmp_path / "runs" / "one" / "table.csv").read_text()
    assert text.splitlines() == ["image,id,class:u", "../../x/a.png,x/a,1"]
    with pytest.raises(OptionError, match=r"use \.csv"):
        write_table(table, tmp_path / "t.txt")


def test_a_user_column_that_looks_like_a_class_is_none_after_a_copy(write, tmp_path):
    table = read_table(write("image,label,smoker\na,x,1\nb,y,0\n"))
    again = read_table(write_table(table, tmp_path / "copy.csv"))
    assert again.classes == ("x", "y")
    assert again.frame["extra:smoker"].tolist() == ["1", "0"]


def test_digest_sees_ids_and_labels_only(write):
    one = read_table(write("image,label,age\na,x,1\nb,y,2\n"))
    assert digest(one) == digest(read_table(write("image,label,age\na,x,3\nb,y,4\n")))
    assert digest(one) != digest(read_table(write("image,label\na,x\nb,x|y\n")))
    assert digest(one) != digest(read_table(write("image,label\nc,x\nb,y\n")))


@pytest.mark.skipif(not NIH.is_dir(), reason="../shared/data/nih_cxr/tables is not on this machine")
def test_the_published_nih_table():
    (path,) = NIH.glob("Data_Entry_2017*")
    columns = {"image": "Image Index", "label": "Finding Labels", "patient": "Patient ID"}
    table = read_table(path, columns=columns, negative=["No Finding"])
    assert len(table) == 112_120
    assert len(set(table.patients())) == 30_805
    positives = dict(zip(table.classes, (table.states == 1).sum(axis=0).tolist(), strict=True))
    assert len(positives) == 14
    assert (positives["Infiltration"], positives["Hernia"]) == (19_894, 227)
    assert (table.frame["negative"] == "No Finding").sum() == 60_361
    assert not table.problems
