"""Policies for uncertain and blank labels, tasks, grades: hand tables of the four cell kinds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesioncam.data.table.check import check_table
from lesioncam.data.table.policy import Targets, make_targets
from lesioncam.data.table.table import Table, read_table
from lesioncam.data.table.targets import check_task, policy_table, targets_of
from lesioncam.errors import LesioncamError, OptionError, TableError
from lesioncam.options.data import TableConfig
from lesioncam.options.run import RunConfig, make_config

NAN = float("nan")
CELLS = np.array([[1], [0], [-1], [NAN]], np.float32)
"""The four kinds of cell: 1, 0, uncertain, blank."""


@pytest.fixture
def write(tmp_path):
    def make(text: str) -> Path:
        place = tmp_path / "t.csv"
        place.write_text(text)
        return place

    return make


def table(states, classes=None, **columns):
    states = np.asarray(states, np.float32)
    classes = classes or tuple("abcdefgh"[: states.shape[1]])
    rows = np.arange(2, len(states) + 2)
    ids = [f"i{r}" for r in rows]
    frame = pd.DataFrame(
        {"row": rows, "id": ids, "name": ids, "image": ids, "patient": [f"p{r}" for r in rows], "split": None}
    )
    return Table(frame.assign(**columns), classes, states, source="t.csv", patient_rule="column patient")


def same(found, expected):
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("policy", "third"),
    [("ignore", NAN), ("zeros", 0), ("0", 0), (0, 0), ("ones", 1), (1, 1), (0.7, 0.7), ("0.7", 0.7), ("soft", 0.7)],
)
def test_each_policy_on_the_four_kinds_of_cell(policy, third):
    made = make_targets(CELLS, ("a",), TableConfig(uncertain=policy))
    np.testing.assert_allclose(made.middle()[:, 0], [1, 0, third, NAN], rtol=1e-6)


def test_soft_at_its_ends_is_zeros_and_ones():
    for end, word in ((0.0, "zeros"), (1.0, "ones")):
        soft = make_targets(CELLS, ("a",), TableConfig(uncertain=(end, end))).middle()
        same(soft, make_targets(CELLS, ("a",), TableConfig(uncertain=word)).middle())


def test_policies_of_single_classes():
    """The PCAM authors' choice: ones for Edema and Atelectasis, zeros for the others, blank 0."""
    names = ("Atelectasis", "Cardiomegaly", "Edema")
    policy = TableConfig(
        uncertain="0", uncertain_for={"Edema": "1", "Atelectasis": 1}, blank="0", blank_for={"Edema": "ignore"}
    )
    made = make_targets(np.repeat(CELLS, 3, axis=1), names, policy)
    same(made.middle(), [[1, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, NAN]])


@pytest.mark.parametrize("option", ["uncertain_for", "blank_for"])
def test_a_policy_of_a_class_that_is_not_there_suggests_the_near_one(option):
    policy = TableConfig(**{option: {"Edma": "0"}})
    with pytest.raises(OptionError, match=rf"class in --{option.replace('_', '-')} 'Edma'. Did you mean 'Edema'\?"):
        targets_of(table(CELLS, ("Edema",)), policy)
    with pytest.raises(OptionError, match="Did you mean 'Edema'"):
        check_table(table(CELLS, ("Edema",)), files=False, policy=policy)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"uncertain": "maybe"}, "use ignore, 0"),
        ({"uncertain": 1.5}, "lies between 0 and 1, not at 1.5"),
        ({"uncertain": [0.5, 1.2]}, r"inside \[0, 1\]"),
        ({"uncertain": [0.8, 0.6]}, r"\[low, high\]"),
        ({"uncertain_for": {"a": "[-0.1, 0.5]"}}, "uncertain_for.a: an interval"),
        ({"uncertain": True}, "use ignore"),
        ({"uncertain": "[0.5, 0.7"}, "use ignore"),
        ({"uncertain": "[0.5, high]"}, "use ignore"),
        ({"uncertain": float("nan")}, "lies between 0 and 1"),
        ({"blank": "1"}, "a blank becomes ignore or 0"),
        ({"blank_for": {"a": 0.5}}, "a blank becomes ignore or 0"),
    ],
)
def test_a_wrong_policy_is_a_sentence(options, said):
    with pytest.raises(OptionError, match=said):
        make_config(**options)


def test_policies_come_back_from_a_file():
    config = make_config(uncertain="soft", uncertain_for={"a": "[0.1, 0.2]", "b": 0.3, "c": "ones"}, blank_for={"a": 0})
    assert config.table.uncertain == (0.55, 0.85)
    assert config.table.uncertain_for == {"a": (0.1, 0.2), "b": 0.3, "c": "1"}
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_soft_targets_are_drawn_anew_each_epoch_and_only_there():
    states = np.repeat(CELLS, 2, axis=1)
    made = targets_of(table(np.tile(states, (500, 1))), TableConfig(uncertain="soft"), seed=3)
    rows = list(range(2000))
    first, again, second = made.at(0, rows), made.at(0, rows), made.at(1, rows)
    np.testing.assert_array_equal(first, again)
    soft = first[2::4]
    assert soft.min() >= 0.55
    assert soft.max() <= 0.85
    assert abs(soft.mean() - 0.7) < 0.01
    assert abs(soft.std() - 0.3 / np.sqrt(12)) < 0.01  # uniform
    assert (soft[:, 0] != soft[:, 1]).all()  # each class draws its own
    assert (second[2::4] != soft).all()
    keep = np.ones(2000, bool)
    keep[2::4] = False
    np.testing.assert_array_equal(first[keep], made.middle()[keep])
    np.testing.assert_allclose(made.middle()[2::4], 0.7, rtol=1e-6)
    np.testing.assert_array_equal(made.at(5, [1998]), made.at(5, rows)[1998:1999])  # the same in any batch
    other = Targets(made.low, made.high, seed=4)
    assert (other.at(0, rows)[2::4] != soft).all()


# ---- no finding ----------------------------------------------------------------------------------------------------

CHEXPERT = """image,No Finding,Edema,Support Devices,patient
a,1,,,1
b,,1,,2
c,1,-1,,3
d,,,1,4
e,0,0,0,5
"""


@pytest.mark.parametrize("classes", [None, ["Edema", "Support Devices"]], ids=["class", "column"])
def test_no_finding_makes_blanks_negative_but_not_of_devices(write, classes):
    read = read_table(write(CHEXPERT), classes=classes)
    made = targets_of(read, TableConfig(no_finding="No Finding"))
    k = read.classes.index("Edema")
    same(made.middle()[:, k], [0, 1, NAN, NAN, 0])  # row c is uncertain, not blank
    same(made.middle()[:, k + 1], [NAN, NAN, NAN, 1, 0])


def test_no_finding_is_said_and_its_slips_are_errors(write):
    read = read_table(write(CHEXPERT), classes=["Edema", "Support Devices"])
    rows = policy_table(read, TableConfig(no_finding="No Finding", uncertain="ones")).set_index("class")
    assert rows.loc["Edema"].tolist() == [1, 1, 1, "1", 2, "0 in 1 rows (No Finding), otherwise ignored"]
    assert rows.loc["Support Devices"].tolist() == [1, 1, 0, "1", 3, "ignored"]
    with pytest.raises(OptionError, match="column of --no-finding 'No Findings'. Did you mean 'No Finding'"):
        targets_of(read, TableConfig(no_finding="No Findings"))
    both = read_table(write(CHEXPERT), negative=["No Finding"])
    with pytest.raises(OptionError, match="named by --negative as well"):
        targets_of(both, TableConfig(no_finding="No Finding"))


def test_check_prints_the_policy():
    text = check_table(
        table(np.repeat(CELLS, 2, axis=1)), files=False, policy=TableConfig(uncertain_for={"b": "soft"})
    ).text()
    lines = [line.split() for line in text.splitlines()]
    at = lines.index(["class", "uncertain", "become", "blank", "become"])
    assert lines[at + 1] == ["a", "1", "ignored", "1", "ignored"]
    assert lines[at + 2] == ["b", "1", "0.55", "to", "0.85", "1", "ignored"]
    clean = check_table(table([[1, 0], [0, 1], [1, 0], [0, 1]]), files=False).text()
    assert "blank labels" not in clean


# ---- tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "ordinal"])
def test_exclusive_rows_are_one_hot_or_unknown(task):
    read = table([[1, 0, 0], [0, 0, 1], [NAN, NAN, NAN], [1, NAN, NAN], [0, NAN, 0], [-1, 0, 0]])
    made = targets_of(read, TableConfig(), task).middle()
    unknown = [NAN] * 3
    same(made, [[1, 0, 0], [0, 0, 1], unknown, [1, 0, 0], unknown, unknown])


def test_rows_that_are_not_one_class_are_named():
    with pytest.raises(
        TableError, match=r"t.csv row 3 has 'a' and 'b' \(1 more like it\), but --task multiclass needs exactly"
    ):
        targets_of(table([[1, 0], [1, 1], [1, 1]]), TableConfig(), "multiclass")
    with pytest.raises(TableError, match="row 3 has a soft label.*--uncertain ignore"):
        targets_of(table([[1, 0], [-1, 0]]), TableConfig(uncertain=0.5), "multiclass")
    with pytest.raises(TableError, match="row 2 has none of the classes"):
        targets_of(table([[0, 0]]), TableConfig(), "multiclass")


def test_a_healthy_label_has_to_be_a_class_of_its_own(write):
    cells = "image,label,patient\na,mass,1\nb,cyst,2\nc,healthy,3\n"
    read = read_table(write(cells), negative=["healthy"])
    with pytest.raises(
        TableError, match="row 4 has none of the classes.*Leave --negative out: 'healthy' then is a class"
    ):
        check_task(read, TableConfig(negative=("healthy",)), "multiclass")
    read = read_table(write("image,label,patient\na,mass,1\nc,healthy,3\n"), negative=["healthy"])
    with pytest.raises(TableError, match="needs two classes or more, but only 'mass'.*Leave --negative out"):
        check_task(read, TableConfig(negative=("healthy",)), "multiclass")
    read = read_table(write(cells))
    check_task(read, TableConfig(), "multiclass")
    assert read.classes == ("cyst", "healthy", "mass")


def test_grades_of_one_column_in_their_order(write):
    read = read_table(write("image,level,patient\na,2,1\nb,0,2\nc,,3\nd,10,4\ne,1,5\n"), columns={"label": "level"})
    assert read.classes == ("0", "1", "2", "10")
    with pytest.raises(TableError, match="the grades 0, 1, 2, 10 have a gap"):
        check_task(read, TableConfig(), "ordinal")
    config = TableConfig(columns={"label": "level"}, classes=("0", "1", "2"))
    read = read_table(write("image,level,patient\na,2.0,1\nb,0.0,2\nc,,3\ne,1.0,5\n"), config=config)
    check_task(read, config, "ordinal")
    same(targets_of(read, config, "ordinal").middle(), [[0, 0, 1], [1, 0, 0], [NAN] * 3, [0, 1, 0]])


def test_a_grade_out_of_the_declared_range_names_its_row(write):
    config = TableConfig(columns={"label": "level"}, classes=tuple("01234"))
    read = read_table(write("image,level,patient\na,2,1\nb,7,2\n"), config=config)
    assert [problem.message for problem in read.problems] == [
        "t.csv row 3: label '7' is not declared. Declared: 0, 1, 2, 3, 4. Correct the cell or add it to --classes."
    ]
    assert not check_table(read, files=False, policy=config).ok


@pytest.mark.parametrize(
    ("cells", "said"),
    [("mild\nb,severe", "'mild' \\(row 2\\) is no grade"), ("-1\nb,0\nc,1", "'-1' \\(row 2\\) is no grade")],
)
def test_grades_without_an_order_must_be_declared(write, cells, said):
    place = write(f"image,label\na,{cells}\n")
    with pytest.raises(TableError, match=f"{said}.*lowest to the highest with --classes"):
        check_task(read_table(place), TableConfig(), "ordinal")


def test_declared_grades_keep_their_order(write):
    config = TableConfig(classes=("none", "mild", "severe"))
    read = read_table(write("image,label\na,mild\nb,severe\nc,none\n"), config=config)
    check_task(read, config, "ordinal")
    assert read.classes == ("none", "mild", "severe")


@pytest.mark.parametrize(
    "options",
    [
        {"task": "multiclass", "calibration": "platt"},
        {"task": "ordinal", "calibration": "isotonic"},
        {"task": "multiclass", "select": "kappa"},
        {"select": "kappa"},
        {"task": "ordinal", "loss": "aucpr"},
    ],
)
def test_options_that_do_not_go_together(options):
    from lesioncam.measurement.calibrate import check_scores

    with pytest.raises(LesioncamError, match="--task"):
        check_scores(make_config(**options))


# ---- what can be learnt under a policy -------------------------------------------------------------------------------


def sides(policy, states):
    from lesioncam.verbs.prepare import prepare

    split = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    return prepare(table(np.array(states * 2, np.float32)[:, None], split=split), make_config(**policy), files=False)


def test_a_class_that_only_a_policy_gives_a_side_can_be_learnt():
    """Marked where it is present and blank elsewhere, or never surer than uncertain."""
    sides({"blank": "0"}, [1, NAN, 1, NAN])
    sides({"uncertain": "ones"}, [-1, 0, -1, 0])
    for policy, states in (({}, [1, NAN, 1, NAN]), ({"uncertain": "zeros"}, [-1, 0, -1, 0])):
        with pytest.raises(TableError, match="'a'.*nothing to (tell it from|learn)"):
            sides(policy, states)


def test_a_grade_that_training_never_sees_is_an_error():
    from lesioncam.verbs.prepare import prepare

    grades = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 2, 0, 1, 2]]
    split = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    made = table(grades, ("0", "1", "2"), split=split)
    with pytest.raises(TableError, match="split 'train': no image is positive for '2'"):
        prepare(made, make_config(task="ordinal"), files=False)
