"""Another tool's maps: every format and name form, and what goes wrong."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from lesioncam.errors import GeometryError, RunError, TableError
from lesioncam.inference.look import look
from lesioncam.measurement.foreign import ForeignMaps, ForeignSubject, foreign_scale
from lesioncam.options.run import RunConfig
from lesioncam.picture import Picture
from lesioncam.runs.card import ClassifierCard
from lesioncam.types import Calibration, Exam, Record, Threshold, Validation

CLASSES = ("mass", "ring")
NATIVE = (40, 60)  # rows, columns


def hot(row, column, shape=(20, 30), top=0.9):
    one = np.full(shape, 0.1, np.float32)
    one[row, column] = top
    return one


def record(name="slices/a"):
    return Record(name, (f"{name}.png",), 2, (1.0, 0.0))


@pytest.fixture
def maps(tmp_path):
    return ForeignMaps(tmp_path, CLASSES)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


@pytest.mark.parametrize(
    "form",
    ["slices/a.mass.npy", "slices/a_mass.npy", "slices/a/mass.npy", "mass/slices/a.npy", "a.mass.npy", "mass/a.npy"],
)
def test_every_name_form_is_found(maps, form):
    save(maps.root / form, hot(3, 4))
    first, second = maps.read("slices/a", NATIVE)
    np.testing.assert_array_equal(first, hot(3, 4))
    assert second is None
    assert maps.missing == {("slices/a", "ring")}


def test_a_bare_name_that_two_images_share_belongs_to_neither(maps):
    save(maps.root / "x" / "a.mass.npy", hot(3, 4))
    save(maps.root / "y" / "a.mass.npy", hot(5, 6))
    assert maps.read("slices/a", NATIVE) == [None, None]
    assert maps.read("x/a", NATIVE)[0][3, 4] == np.float32(0.9)


def test_every_format_keeps_its_place(maps):
    np.savez(maps.root / "npz.mass.npz", raw=hot(3, 20)[None])
    save(maps.root / "npy.mass.npy", hot(3, 20).astype(np.float64))
    nib.save(nib.Nifti1Image(hot(3, 20).T[..., None], np.eye(4)), maps.root / "nii.mass.nii.gz")  # x first
    Image.fromarray((hot(3, 20) * 255).round().astype(np.uint8)).save(maps.root / "png.mass.png")
    Image.fromarray((hot(3, 20) * 65535).round().astype(np.uint16)).save(maps.root / "deep.mass.png")
    for name in ("npz", "npy", "nii", "png", "deep"):
        one = maps.read(name, NATIVE)[0]
        assert np.unravel_index(one.argmax(), one.shape) == (3, 20), name
        np.testing.assert_allclose(one, hot(3, 20), atol=0.003, err_msg=name)


def test_all_classes_in_one_file(maps):
    stack = np.stack([hot(1, 2), hot(7, 8)])
    save(maps.root / "slices" / "a.npy", stack)
    np.savez(maps.root / "b.npz", ring=hot(7, 8), mass=hot(1, 2))
    np.savez(maps.root / "c.npz", raw=stack[::-1], classes=np.array(["ring", "mass"]), logits=np.zeros(2))
    for name in ("slices/a", "b", "c"):
        first, second = maps.read(name, NATIVE)
        assert (first[1, 2], second[7, 8]) == (np.float32(0.9), np.float32(0.9)), name
    save(maps.root / "d.npy", stack[:, :, :, None])
    with pytest.raises(RunError, match="one map for each of mass, ring"):
        ForeignMaps(maps.root, CLASSES).read("d", NATIVE)


def test_a_map_on_its_side_is_refused(maps):
    save(maps.root / "a.mass.npy", hot(3, 4).T)
    with pytest.raises(GeometryError, match="lies on its side"):
        maps.read("a", NATIVE)
    save(maps.root / "b.mass.npy", hot(3, 4, shape=(16, 16)))  # another size and a square grid are nothing unusual
    assert ForeignMaps(maps.root, CLASSES).read("b", NATIVE)[0].shape == (16, 16)


def test_damaged_files_are_named(maps):
    (maps.root / "a.mass.npz").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(RunError, match=r"a\.mass\.npz cannot be read as a map"):
        maps.read("a", NATIVE)
    np.save(maps.root / "b.mass.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match=r"b\.mass\.npy cannot be read"):  # nothing is unpickled
        ForeignMaps(maps.root, CLASSES).read("b", NATIVE)


def test_values_that_are_not_finite_are_cold_and_counted(maps):
    one = hot(3, 4)
    one[0, 0], one[5, 5] = np.nan, np.inf
    save(maps.root / "a.mass.npy", one)
    save(maps.root / "a.ring.npy", np.full((20, 30), np.nan))
    first, second = maps.read("a", NATIVE)
    assert (first[0, 0], first[5, 5], first[3, 4]) == (np.float32(0.1), np.float32(0.1), np.float32(0.9))
    assert second is None
    assert maps.broken == {("a", "mass"), ("a", "ring")}


def subject(maps, **changes):
    line = ((0.0, 1.0), (0.0, 1.0))
    scale = Calibration((1.0, 1.0), (0.0, 0.0), "val", (line, line))
    given = {"calibration": scale, "thresholds": (Threshold(0.5, "val"),) * 2} | changes
    return ForeignSubject(maps, ClassifierCard(CLASSES, RunConfig(), **given), "theirs")


def result_of(subject, pixels):
    [seen] = look(subject, [Exam("a", "a.png", (Picture(pixels),))])
    return seen.result


def test_a_missing_map_is_as_cold_as_can_be(maps):
    save(maps.root / "a.mass.npy", hot(3, 4))
    theirs = subject(maps)
    result = result_of(theirs, np.zeros(NATIVE, np.uint8))
    assert result.heatmap.method == "theirs"
    assert result.segmentation.mask("mass").any()
    assert not result.segmentation.mask("ring").any()
    assert result.heatmap.probability()[1].max() < 1e-6
    assert theirs.gaps() == (1, 0)
    assert np.isnan(result.logits).all()


def test_a_map_lands_on_the_image_by_half_pixel_centres(maps):
    save(maps.root / "a.mass.npy", hot(3, 4))
    result = result_of(subject(maps), np.zeros((*NATIVE, 3), np.uint8))
    native = result.heatmap.native()[0]
    assert native.shape == NATIVE
    rows, columns = np.nonzero(native > 0.5)
    assert (rows.mean(), columns.mean()) == (3 * 2 + 0.5, 4 * 2 + 0.5)


def test_scores_beside_the_maps(maps):
    save(maps.root / "a.mass.npy", hot(3, 4))
    (maps.root / "scores.csv").write_text("image,class,score\na,mass,0.75\na,ring,0.5\n")
    result = result_of(subject(maps), np.zeros(NATIVE, np.uint8))
    np.testing.assert_allclose(result.probabilities, [0.75, 0.5], atol=1e-6)
    wide = ForeignMaps(maps.root, CLASSES)
    (maps.root / "scores.csv").write_text("image,mass,ring\nb,3.5,-2\na,0.75,0.5\n")
    np.testing.assert_allclose(result_of(subject(wide), np.zeros(NATIVE)).logits, [0.75, 0.5])
    bad = ForeignMaps(maps.root, CLASSES)
    (maps.root / "scores.csv").write_text("file,p\na,1\n")
    with pytest.raises(TableError, match="expected image and mass, ring"):
        result_of(subject(bad), np.zeros(NATIVE))


def test_the_scale_is_one_for_all_maps_and_only_rises(maps):
    Image.fromarray(np.zeros(NATIVE, np.uint8)).save(maps.root / "image.png")
    save(maps.root / "v.mass.npy", hot(3, 4) * 1000 - 300)
    save(maps.root / "v.ring.npy", hot(3, 4))
    who = Validation(("v",), ("p",), ("val",))
    row = Record("v", (str(maps.root / "image.png"),), 2, (1.0, 0.0))
    scale = foreign_scale(maps, [row], who)
    assert scale.tuned_on == {"p"}
    values = np.linspace(-300, 700, 50, dtype=np.float32)
    p = scale.probability(np.stack([values, values]))
    assert (np.diff(p[0]) >= 0).all()
    assert p[0, 0] < 0.01
    assert p[0, -1] > 0.99
    (maps.root / "v.mass.npy").unlink()
    save(maps.root / "v.mass.npy", hot(5, 4))
    kept = foreign_scale(ForeignMaps(maps.root, CLASSES), [row], who)
    np.testing.assert_allclose(kept.probability(np.float32([[0.1, 0.9], [0.2, 0.3]])), [[0.1, 0.9], [0.2, 0.3]])


def test_no_map_at_all(maps):
    with pytest.raises(RunError, match="holds no map"):
        maps.read("slices/a", NATIVE)


def test_another_content_is_another_configuration(maps):
    save(maps.root / "a.mass.npy", hot(3, 4))
    before = ForeignMaps(maps.root, CLASSES).digest
    assert before == ForeignMaps(maps.root, CLASSES).digest
    save(maps.root / "a.mass.npy", hot(3, 5))
    assert before != ForeignMaps(maps.root, CLASSES).digest
