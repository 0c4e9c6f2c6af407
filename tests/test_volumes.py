"""Volumes through everything: check, training, thresholds, measurement, report, prediction in the file's own voxels."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from lesioncam.cli import main
from lesioncam.data.io.image import read_picture
from lesioncam.data.io.nifti import read_grid
from lesioncam.data.table.check import check_table, require_axes
from lesioncam.data.table.table import read_table
from lesioncam.errors import TableError
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.exam import open_exam
from lesioncam.inference.look import look
from lesioncam.measurement.truth import read_boxes
from lesioncam.models.checkpoint import load_classifier
from lesioncam.options.run import RunConfig, make_config

SHAPE = {"RAS": (26, 33, 15), "LPI": (26, 33, 15), "ASR": (33, 15, 26)}
ORIENTED = {
    "RAS": np.diag([2.0, 1.6, 3.5, 1.0]),
    "LPI": np.diag([-2.0, -1.6, -3.5, 1.0]),
    "ASR": np.array([[0, 0, 2.0, 0], [1.6, 0, 0, 0], [0, 3.5, 0, 0], [0, 0, 0, 1.0]]),
}
WORDS = ["--size", "48", "--backbone", "monai:resnet10,widen_factor=0.25,stage=2", "--pooling", "topq,fraction=0.05"]
WORDS += ["--epochs", "20", "--batch", "4", "--precision", "fp32", "--threads", "1", "--draws", "50"]
WORDS += ["--learning-rate", "0.005", "--rotation", "5", "--no-crop"]


def look_once(model, image, **asked):
    """The result of one image, and its raw maps on the image's own grid."""
    [seen] = look(ClassifierSubject(model), [open_exam(image)], **asked)
    return seen.result, seen.evidence


def ellipsoid(shape: tuple[int, ...], centre, radii) -> np.ndarray:
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1


def draw(rng: np.random.Generator, codes: str, *, sick: bool) -> tuple[np.ndarray, np.ndarray]:
    """A head with a bright skull in the file's own voxels, with or without a bright ball of 7 mm radius."""
    shape, mm = SHAPE[codes], np.linalg.norm(ORIENTED[codes][:3, :3], axis=0)
    head = ellipsoid(shape, [(n - 1) / 2 for n in shape], [0.48 * n for n in shape])
    brain = ellipsoid(shape, [(n - 1) / 2 for n in shape], [0.4 * n for n in shape])
    voxels = np.where(head, rng.normal(800, 40, shape), rng.normal(20, 5, shape))
    voxels[brain] = rng.normal(300, 25, int(brain.sum()))
    centre = [n * rng.uniform(0.3, 0.65) for n in shape]
    ball = ellipsoid(shape, centre, 7 / mm) & brain & sick
    voxels[ball] += 300
    return voxels.astype(np.int16), ball


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 volumes of 36 patients, stored in three ways, half of them with a ball; masks as real numbers."""
    folder = tmp_path_factory.mktemp("volumes")
    rng, rows = np.random.default_rng(0), []
    for i in range(36):
        codes, sick = ("RAS", "LPI", "ASR")[i % 3], bool((i // 3) % 2)
        voxels, ball = draw(rng, codes, sick=sick)
        nib.Nifti1Image(voxels, ORIENTED[codes]).to_filename(folder / f"p{i:02d}.nii.gz")
        split = "train" if i < 24 else "val" if i < 30 else "test"
        row = {"image": f"p{i:02d}.nii.gz", "patient": f"P{i:02d}", "ball": int(sick), "split": split, "mask:ball": ""}
        if sick and split != "train":
            nib.Nifti1Image(ball.astype(np.float64) * 3, ORIENTED[codes]).to_filename(folder / f"m{i:02d}.nii.gz")
            row["mask:ball"] = f"m{i:02d}.nii.gz"
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "volumes.csv", index=False)
    return folder / "volumes.csv"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "v"
    assert main(["run", str(table), "-o", str(out), *WORDS]) == 0
    return out


def test_a_run_on_volumes_learns_where_the_ball_is(run, table):
    cases = pd.read_csv(run / "evaluate" / "val" / "cases.csv")
    own = cases[cases["method"] == "cam"].set_index("label")
    assert own.loc[1, "logit"].min() > own.loc[0, "logit"].max()
    assert own["dice"].mean() > 0.15  # what it learns in seconds differs from processor to processor
    assert {"cam", "mean_mask", "brightness_map", "few_shot", "resolution_ceiling"} <= set(cases["method"])
    ceiling = cases[(cases["method"] == "resolution_ceiling") & (cases["has_mask"] == 1)]
    assert (ceiling["dice"] > 0.6).all()


@pytest.mark.slow
def test_the_hottest_voxel_lies_near_the_ball(run, table):
    """Slow, though it is quick: another processor learns other weights in so few steps."""
    cases = pd.read_csv(run / "evaluate" / "val" / "cases.csv")
    own = cases[cases["method"] == "cam"].set_index("label")
    assert own["dice"].mean() > 0.25  # cells of 9 mm, balls of 14 mm
    for _, row in own.loc[[1]].iterrows():
        _, *hottest = json.loads(row["peaks"])[0]
        mask = (
            np.asarray(read_picture(str(table.parent / row["image"].replace("p", "m", 1)) + ".nii.gz").pixels)[..., 0]
            > 0
        )
        away = (np.array(hottest) - np.argwhere(mask).mean(axis=0)) * (3.5, 1.6, 2.0)
        assert np.linalg.norm(away) < 13  # mm: a cell and a half, in a head of 50


def test_boxes_have_six_numbers_inside_the_volume(run):
    cases = pd.read_csv(run / "evaluate" / "val" / "cases.csv")
    boxes = [box for cell in cases[cases["method"] == "cam"]["boxes"] for box in json.loads(cell)]
    assert boxes
    for x0, y0, z0, x1, y1, z1 in boxes:
        assert 0 <= x0 < x1 <= 26
        assert 0 <= y0 < y1 <= 33
        assert 0 <= z0 < z1 <= 15


def test_the_report_shows_a_slice_and_says_which(run):
    gallery = pd.read_csv(run / "evaluate" / "val" / "gallery.csv")
    assert gallery["reason"].str.contains(r"slice [ijk]=\d+ \((?:largest|highest)").all()
    page = (run / "report.html").read_text()
    assert "largest lesion" in page
    sick = gallery[gallery["reason"].str.contains("largest lesion")].iloc[0]
    arrays = np.load(run / "evaluate" / "val" / "arrays" / sick["file"])
    assert arrays["image"].shape == arrays["truth"].shape[1:] == arrays["masks"].shape[1:] == (33, 26)
    record = next(r for r in read_table(run / "table.csv").records() if r.id == sick["image"])
    (mask,) = record.masks["ball"]
    drawn = read_picture(mask).pixels[..., 0] > 0
    axis, place = arrays["slice"]
    assert axis == 0  # 3.5 mm thick: as it was cut
    assert place == drawn.sum(axis=(1, 2)).argmax()
    assert np.array_equal(arrays["truth"][0], drawn[place])


def test_test_can_be_measured_with_everything(run):
    assert main(["evaluate", str(run), "--split", "test", "--metrics", "all"]) == 0
    metrics = pd.read_csv(run / "evaluate" / "test" / "metrics.csv")
    surface = metrics[(metrics["metric"] == "assd") & (metrics["method"] == "cam")]["value"].iloc[0]
    assert 0 <= surface < 40  # mm: the spacing is known
    assert (run / "evaluate" / "test" / "shortcut.json").is_file()


@pytest.fixture(scope="module")
def predicted(run: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    sick = pd.read_csv(table).query("split == 'test' and ball == 1")["image"]
    files = [str(table.parent / name) for name in sick]
    words = ["--write", "maps", "masks", "overlay", "boxes", "crops"]
    assert main(["predict", str(run), *files, "-o", str(out), *words]) == 0
    return out


def test_predictions_lie_on_the_grid_of_the_file(predicted, table):
    """The hottest voxel of a map, read by nibabel alone, lies within a cell and a half of the ball that was drawn."""
    rows = pd.read_csv(predicted / "predictions.csv")
    assert len(rows) >= 3
    for name in rows["image"]:
        file, drawn = nib.load(name), nib.load(str(table.parent / Path(name).name.replace("p", "m", 1)))
        found = nib.load(predicted / "maps" / f"{Path(name).name[:3]}_ball.nii.gz")
        assert found.shape == file.shape
        assert np.allclose(found.affine, file.affine)
        hottest = np.unravel_index(np.asarray(found.dataobj).argmax(), found.shape)
        ball = np.argwhere(np.asarray(drawn.dataobj) > 0).mean(axis=0)
        assert np.linalg.norm(file.affine[:3, :3] @ (hottest - ball)) < 13  # mm
        mask = nib.load(predicted / "masks" / f"{Path(name).name[:3]}_ball.nii.gz")
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


def test_predicted_boxes_frame_the_predicted_mask_in_the_file(predicted):
    rows = pd.read_csv(predicted / "predictions.csv")
    framed = 0
    for _, row in rows.iterrows():
        mask = np.asarray(nib.load(predicted / "masks" / f"{Path(row['image']).name[:3]}_ball.nii.gz").dataobj) > 0
        boxes = json.loads(row["boxes"])
        covered = np.zeros_like(mask)
        for i0, j0, k0, i1, j1, k1 in boxes:
            covered[i0:i1, j0:j1, k0:k1] = True
            assert mask[i0:i1, j0:j1, k0:k1].any()
        assert not (mask & ~covered).any()
        assert int(row["area"]) == mask.sum()
        framed += len(boxes)
        if mask.any():
            axis, number = row["slice"].split("=")
            counts = mask.sum(axis=tuple(a for a in range(3) if a != "ijk".index(axis)))
            assert counts[int(number)] == counts.max()
    assert framed


def test_overlays_and_crops_are_pictures_of_slices(predicted):
    overlays = sorted((predicted / "overlays").glob("*.png"))
    assert overlays
    for path in overlays:
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
    crops = pd.read_csv(predicted / "crops.csv")
    assert all(len(json.loads(box)) == 6 for box in crops["box"])


def test_an_array_is_a_volume_for_a_model_of_volumes(run, table):
    model = load_classifier(run)
    volume = read_picture(table.parent / "p03.nii.gz")
    by_file, evidence = look_once(model, volume)
    assert by_file.heatmap.geometry.spacing == pytest.approx((3.5, 1.6, 2.0))
    assert evidence.shape == (1, 15, 33, 26)
    assert model.card.origin is not None
    assert len(model.card.origin) == 3
    by_array, _ = look_once(model, volume.pixels[..., 0])  # no spacing: other proportions, but no error
    assert by_array.segmentation.masks.shape == (1, 15, 33, 26)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "smoothgrad"])
def test_other_maps_of_volumes(run, table, method):
    model = load_classifier(run)
    found, evidence = look_once(model, str(table.parent / "p03.nii.gz"), method=method)
    assert evidence.shape == (1, 15, 33, 26)
    assert np.isfinite(evidence).all()
    assert found.heatmap.method == method


def test_maps_that_were_written_are_measured_as_those_that_were_not(run, table, tmp_path):
    """Out to NIfTI and in again as another tool's maps: the same Dice to the last digit."""
    files = pd.read_csv(table).query("split != 'train'")["image"]
    words = ["-o", str(tmp_path / "out"), "--write", "maps"]
    assert main(["predict", str(run), *(str(table.parent / name) for name in files), *words]) == 0
    words = ["-o", str(tmp_path / "again"), "--split", "val"]
    assert main(["evaluate", str(tmp_path / "out" / "maps"), str(table), *words]) == 0
    own, again = (pd.read_csv(root / "evaluate" / "val" / "cases.csv") for root in (run, tmp_path / "again"))
    own, again = own[own["method"] == "cam"], again[again["method"] == "maps"]
    assert again["dice"].to_numpy() == pytest.approx(own["dice"].to_numpy(), abs=1e-6, nan_ok=True)
    assert again["pointing"].tolist() == pytest.approx(own["pointing"].tolist(), nan_ok=True)


# ---- before a run ------------------------------------------------------------------------------------------------


def test_check_names_sizes_and_spacings(table):
    found = check_table(read_table(table))
    assert found.ok
    text = found.text()
    assert "Volume sizes (slices x height x width): 15 x 33 x 26 (36)" in text
    assert "Spacing of volumes (mm, in the same order): 3.5 x 1.6 x 2 (36)" in text
    assert "Image sizes" not in text
    assert "int16 grey (36)" in text


def test_volumes_for_a_backbone_of_images_are_an_error(table, toy, tmp_path, capsys):
    assert main(["run", str(table), "-o", str(tmp_path / "a")]) == 2
    assert "36 of 36 rows are volumes (15 x 33 x 26, for instance), but the backbone takes images" in (
        capsys.readouterr().err
    )
    words = ["--columns", "image=file", "--backbone", "monai:resnet10"]
    assert main(["run", str(toy), "-o", str(tmp_path / "b"), *words]) == 2
    assert "but the backbone takes volumes" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    with pytest.raises(TableError, match="make a table of slices"):
        require_axes(check_table(read_table(table), duplicates=False), 2)


def test_what_is_wrong_with_volumes_is_found(table, tmp_path):
    affine = ORIENTED["RAS"].copy()
    rng = np.random.default_rng(1)
    for name in ("a", "b", "c", "d"):
        voxels, _ = draw(rng, "RAS", sick=name in "ab")
        nib.Nifti1Image(voxels, affine).to_filename(tmp_path / f"{name}.nii")
    affine[0, 3] += 40.0
    nib.Nifti1Image(np.ones(SHAPE["RAS"]), affine).to_filename(tmp_path / "ma.nii")
    rows = {
        "image": ["a.nii", "b.nii", "c.nii", "d.nii", "gone.nii.gz"],
        "patient": list("abcde"),
        "ball": [1, 1, 0, 0, 0],
        "mask:ball": ["ma.nii", "", "", "", ""],
        "boxes": ["", '[{"class": "ball", "box": [3, 3, 3, 9, 9, 40]}]', "", "", ""],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    text = check_table(read_table(tmp_path / "t.csv")).text()
    assert "the mask ma.nii lies up to 25.0 voxels away" in text  # 40 mm in voxels of 1.6 mm, the smallest side
    assert "box [3, 3, 3, 9, 9, 40] of 'ball' lies outside the volume of 26 x 33 x 15 (i x j x k)" in text
    assert "gone.nii.gz is missing" in text


def test_copies_of_a_volume_are_near_duplicates(table, tmp_path):
    """By the middle slice: the same volume under another name, noisier, in another split."""
    frame = pd.read_csv(table)[["image", "patient", "ball", "split"]]
    frame["image"] = [str(table.parent / name) for name in frame["image"]]
    image = nib.load(frame["image"][1])
    big = ndimage.zoom(np.asarray(image.dataobj, dtype=np.float32), 3, order=1)
    nib.Nifti1Image(big, image.affine).to_filename(tmp_path / "one.nii.gz")
    noise = np.random.default_rng(0).normal(0, 2, big.shape)
    nib.Nifti1Image((big + noise).astype(np.float32), image.affine).to_filename(tmp_path / "two.nii.gz")
    frame.loc[1, "image"], frame.loc[34, "image"] = str(tmp_path / "one.nii.gz"), str(tmp_path / "two.nii.gz")
    frame.to_csv(tmp_path / "t.csv", index=False)
    problems = [p for p in check_table(read_table(tmp_path / "t.csv")).problems if p.kind == "near-duplicate"]
    assert len(problems) == 1
    assert "two.nii.gz" in problems[0].message


def test_boxes_of_a_table_are_in_the_voxels_of_the_file(tmp_path):
    """One block, in a file whose axes are turned: the box the user counts in the file frames the mask in the array."""
    mask = np.zeros(SHAPE["ASR"], np.uint8)
    mask[4:9, 2:5, 10:21] = 1
    nib.Nifti1Image(mask, ORIENTED["ASR"]).to_filename(tmp_path / "m.nii")
    box = '[{"class": "ball", "box": [4, 2, 10, 9, 5, 21]}]'
    pd.DataFrame({"image": ["m.nii"], "ball": [1], "boxes": [box]}).to_csv(tmp_path / "t.csv", index=False)
    (record,) = read_table(tmp_path / "t.csv", patient_from="none").records()
    (found,) = read_boxes(record)
    x0, y0, z0, x1, y1, z1 = map(int, found.box)
    array = read_grid(tmp_path / "m.nii").from_file(mask)
    assert array[z0:z1, y0:y1, x0:x1].all()
    assert array.sum() == (x1 - x0) * (y1 - y0) * (z1 - z0)


def test_a_folder_of_volumes_makes_a_table(table, tmp_path):
    for name, place in (("p03", "sick/p03"), ("p00", "well/p00")):
        (tmp_path / place).parent.mkdir()
        (tmp_path / f"{place}.nii.gz").write_bytes((table.parent / f"{name}.nii.gz").read_bytes())
    (tmp_path / "sick" / "p03_mask.nii.gz").write_bytes((table.parent / "m27.nii.gz").read_bytes())
    assert main(["index", str(tmp_path), "-o", str(tmp_path / "t.csv")]) == 0
    frame = pd.read_csv(tmp_path / "t.csv").fillna("")
    assert frame["label"].tolist() == ["sick", "well"]
    assert frame["image"].str.endswith(("p03.nii.gz", "p00.nii.gz")).all()
    assert [Path(cell).name for cell in frame["mask"]] == ["p03_mask.nii.gz", ""]


def test_figures_of_clear_are_for_images(run, tmp_path, capsys):
    assert main(["figures", str(run), "-o", str(tmp_path)]) == 2
    assert "is a run on volumes; the figures of CLEAR are pictures" in capsys.readouterr().err


def test_three_sides_are_an_option_and_come_back():
    config = make_config(size=(16, 32, 48), backbone="monai:resnet10")
    assert config.preprocess.sides(3) == (16, 32, 48)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.slow
def test_the_phantom_in_3d_goes_through_everything(tmp_path):
    from lesioncam.data.phantom import Phantom, write_volumes

    labels = write_volumes(tmp_path / "data", Phantom(patients=20), spacing_mm=4.0)
    words = ["--size", "48", "--backbone", "monai:resnet10,widen_factor=0.25,stage=3", "--epochs", "3", "--batch", "4"]
    assert main(["run", str(labels), "-o", str(tmp_path / "v"), *words, "--threads", "1", "--draws", "50"]) == 0
    assert main(["evaluate", str(tmp_path / "v"), "--split", "test", "--metrics", "all", "--sanity"]) == 0
    assert "slice k=" in (tmp_path / "v" / "report.html").read_text()


# ---- real volumes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask", "size", "spacing"),
    [
        (
            "brats2013/brats_2013_pat0003_1/Flair_subtrMeanDivStd.nii.gz",
            "brats2013/brats_2013_pat0003_1/OTMultiClass.nii.gz",
            (155, 240, 240),
            (1, 1, 1),
        ),
        (
            "ms_lesions/patient07/FLAIR_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz",
            "ms_lesions/patient07/GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz",
            (182, 218, 182),
            (1, 1, 1),
        ),
    ],
    ids=["brats", "ms"],
)
def test_real_volumes_are_read_and_go_through_a_network(run, real_data, tmp_path, image, mask, size, spacing):
    if not (real_data / image).is_file():
        pytest.skip(f"{image.split('/')[0]} is not at hand")
    frame = {"image": [str(real_data / image)], "patient": ["p"], "ball": [1], "mask:ball": [str(real_data / mask)]}
    pd.DataFrame(frame).to_csv(tmp_path / "t.csv", index=False)
    found = check_table(read_table(tmp_path / "t.csv"))
    assert list(found.sizes) == [size]
    assert list(found.spacings) == [spacing]
    assert not [p for p in found.problems if "mask" in p.kind or "image" in p.kind]
    out = tmp_path / "out"
    assert main(["predict", str(run), str(real_data / image), "-o", str(out), "--write", "masks", "overlay"]) == 0
    made = nib.load(next((out / "masks").glob("*.nii.gz")))
    assert made.shape == nib.load(real_data / image).shape
    assert np.allclose(made.affine, nib.load(real_data / image).affine)
