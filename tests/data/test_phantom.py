"""The phantom: what it promises about files, geometry and seeds, and that it is neither trivial nor hopeless."""

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from lesioncam.data.phantom import Phantom, draw_slice, draw_volume, patient, write_phantom, write_volumes
from lesioncam.data.phantom.anatomy import template_head as head
from lesioncam.data.phantom.draw import plane_points as plane
from lesioncam.types import SPLITS

THREE = ("mass", "ring", "infiltration")
SMALL = Phantom(patients=9, slices=2, size=(64, 56), classes=THREE)


def dice(predicted, truth):
    """Per image, ``(N,)``."""
    return 2 * (predicted & truth).sum((1, 2)) / np.maximum(predicted.sum((1, 2)) + truth.sum((1, 2)), 1)


def auroc(scores, labels):
    positives = labels.sum()
    return (rankdata(scores)[labels].sum() - positives * (positives + 1) / 2) / (positives * (~labels).sum())


def draw_split(phantom, split):
    """Images ``(N, H, W)`` and masks ``(N, K, H, W)`` of a split."""
    patients = [p for p in (patient(phantom, n) for n in range(phantom.patients)) if p.split == split]
    drawn = [draw_slice(phantom, p, z) for p in patients for z in p.slices]
    return np.stack([image for image, _ in drawn]), np.stack([[m[c] for c in phantom.classes] for _, m in drawn])


@pytest.fixture(scope="module")
def test_split():
    return draw_split(Phantom(), "test")


# --- difficulty ------------------------------------------------------------------------------------------------------


def views(images):
    """The slices as they are, and each divided by its own 99th percentile."""
    images = images.astype(np.float32)
    return {"raw": images, "scaled": images / np.percentile(images, 99, axis=(1, 2), keepdims=True)}


def truths(masks):
    return [masks.any(1), *np.moveaxis(masks, 1, 0)]


@pytest.mark.parametrize("view", ["raw", "scaled"])
def test_no_brightness_threshold_finds_the_lesions(test_split, view):
    images, masks = views(test_split[0])[view], test_split[1]
    for truth in truths(masks):
        sick = truth.any((1, 2))
        best = max(dice(images[sick] > t, truth[sick]).mean() for t in np.quantile(images, np.linspace(0.5, 0.999, 80)))
        assert best < 0.20  # even with the threshold chosen on the test split itself


@pytest.mark.parametrize("view", ["raw", "scaled"])
def test_the_brightest_pixel_does_not_tell_sick_from_healthy(test_split, view):
    images, masks = views(test_split[0])[view], test_split[1]
    for truth in truths(masks):
        score = auroc(images.max((1, 2)), truth.any((1, 2)))
        assert 0.30 < score < 0.70


@pytest.mark.slow
def test_a_unet_trained_on_the_masks_for_three_minutes_finds_them(test_split):
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("monai.networks.nets")
    functional = torch.nn.functional
    images, masks = draw_split(Phantom(), "train")

    def prepare(slices):
        return torch.from_numpy(views(slices)["scaled"]).clamp(0, 1.5)[:, None]

    x, m = prepare(images), torch.from_numpy(masks).float()
    steps, rng = 1500, np.random.default_rng(0)  # less than three minutes on two threads
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.UNet(2, 1, 2, channels=(16, 32, 64, 128), strides=(2, 2, 2))
    optimiser = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows, gain = rng.integers(len(x), size=16), float(rng.uniform(0.8, 1.2))
        shift = rng.integers(-8, 9, size=2).tolist()
        flip = [axis for axis in (-2, -1) if rng.random() < 0.5]
        image, truth = (a[rows].roll(shift, (-2, -1)).flip(flip) for a in (x, m))
        logits = net(gain * image)
        p = logits.sigmoid()
        overlap = (2 * (p * truth).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)
        loss = functional.binary_cross_entropy_with_logits(logits, truth) + 1 - overlap.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(chunk) for chunk in prepare(test_split[0]).split(32)]).numpy() > 0
    present = test_split[1].any((2, 3))
    assert dice(found[present], test_split[1][present]).mean() > 0.75


# --- seeds, splits, anatomy ------------------------------------------------------------------------------------------


def test_equal_settings_give_equal_slices_and_another_seed_does_not():
    z = patient(SMALL, 1).slices[0]
    (a, masks_a), (b, masks_b) = (draw_slice(SMALL, patient(SMALL, 1), z) for _ in range(2))
    assert (a == b).all()
    assert all((masks_a[c] == masks_b[c]).all() for c in THREE)
    other = replace(SMALL, seed=1)
    assert (draw_slice(other, patient(other, 1), z)[0] != a).mean() > 0.9


def test_the_order_of_drawing_does_not_matter():
    first = draw_slice(SMALL, patient(SMALL, 3), 10.0)[0]
    draw_slice(SMALL, patient(SMALL, 2), 0.0)
    np.random.default_rng(0).random(7)
    assert (draw_slice(SMALL, patient(SMALL, 3), 10.0)[0] == first).all()


def test_no_two_patients_share_a_warp():
    phantom = Phantom(patients=60)
    shifts = {tuple(patient(phantom, n).warp(np.zeros((1, 3), np.float32))[0].tolist()) for n in range(60)}
    assert len(shifts) == 60


def test_splits_have_their_shares_and_a_third_is_healthy_in_each():
    everyone = [patient(Phantom(), n) for n in range(Phantom().patients)]
    for split, share in zip(SPLITS, Phantom().fractions, strict=True):
        members = [p for p in everyone if p.split == split]
        assert len(members) == pytest.approx(share * len(everyone), abs=1)
        assert sum(not p.lesions for p in members) == pytest.approx(len(members) / 3, abs=1)
        for kind in Phantom().classes:
            assert sum(p.lesions[0].kind == kind for p in members if p.lesions) == pytest.approx(
                len(members) / 3, abs=1
            )


def test_every_split_has_a_patient_however_lopsided_the_fractions():
    phantom = Phantom(patients=3, fractions=(0.98, 0.01, 0.01))
    assert sorted(patient(phantom, n).split for n in range(3)) == sorted(SPLITS)


def test_lesions_lie_inside_the_brain_and_only_in_sick_patients():
    for number in range(SMALL.patients):
        someone = patient(SMALL, number)
        for lesion in someone.lesions:
            assert head().distance(someone.warp(lesion.centre[None]))[0] < 0
        kinds = {lesion.kind for lesion in someone.lesions}
        for z in (-10.0, 10.0, 30.0):
            points = plane(SMALL.size, SMALL.spacing_mm, z)
            for name, mask in draw_slice(SMALL, someone, z)[1].items():
                assert (head().distance(someone.warp(points[mask])) < 0).all()
                assert name in kinds or not mask.any()


def test_masks_show_what_was_planted():
    """Inside its mask a mass is brighter than the swelling around it."""
    phantom = Phantom(patients=30)
    for someone in (patient(phantom, n) for n in range(30)):
        for lesion in someone.lesions:
            image, masks = draw_slice(phantom, someone, float(lesion.centre[2]))
            mask = masks[lesion.kind]
            assert mask.any()
            if lesion.kind == "mass":
                y, x = np.nonzero(mask)
                near = np.zeros_like(mask)
                near[max(y.min() - 3, 0) : y.max() + 4, max(x.min() - 3, 0) : x.max() + 4] = True
                assert np.median(image[mask]) > np.median(image[near & ~mask])


def test_written_slices_show_a_lesion_well_or_not_at_all():
    phantom = Phantom(patients=18)
    least = 150 / phantom.spacing_mm**2  # pixels
    for someone in (patient(phantom, n) for n in range(18)):
        assert len(set(someone.slices)) == phantom.slices
        areas = [draw_slice(phantom, someone, z)[1][k].sum() for z in someone.slices for k in phantom.classes]
        assert all(area == 0 or area > least for area in areas)
        assert 0 in areas
        assert (max(areas) > 0) == bool(someone.lesions)


# --- files -----------------------------------------------------------------------------------------------------------


def rows_of(path: Path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_what_was_drawn_and_masks_agree_with_labels(tmp_path):
    rows = rows_of(write_phantom(tmp_path, SMALL))
    assert list(rows[0]) == ["image", "patient", "split", *THREE, *(f"mask:{c}" for c in THREE)]
    assert len(rows) == SMALL.patients * SMALL.slices
    for row in rows:
        someone = patient(SMALL, int(row["patient"][1:]))
        image, masks = draw_slice(SMALL, someone, someone.slices[int(row["image"][-6:-4])])
        stored = np.asarray(Image.open(tmp_path / row["image"]))
        assert stored.dtype == np.uint16
        assert (stored == image).all()
        assert row["split"] == someone.split
        for name in THREE:
            assert (row[name] == "1") == masks[name].any() == bool(row[f"mask:{name}"])
            if row[f"mask:{name}"]:
                assert (np.asarray(Image.open(tmp_path / row[f"mask:{name}"])) == masks[name] * 255).all()
    assert len(list((tmp_path / "masks").iterdir())) == sum(bool(row[f"mask:{c}"]) for row in rows for c in THREE)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    phantom = replace(SMALL, patients=3)
    for name in "ab":
        write_phantom(tmp_path / name, phantom)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) >= 7
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


# --- volumes ---------------------------------------------------------------------------------------------------------


def sick_patient(phantom):
    return next(p for p in (patient(phantom, n) for n in range(phantom.patients)) if len(p.lesions) == 1)


def test_a_volume_is_the_stack_of_its_slices():
    """Where a voxel of the volume and a pixel of a slice are the same place in the world, they say the same."""
    someone = sick_patient(SMALL)
    kind, spacing = someone.lesions[0].kind, 4.0
    _, masks, affine = draw_volume(SMALL, someone, spacing)
    voxels = np.argwhere(masks[kind])
    depth = int(np.median(voxels[:, 0]))
    z = float((affine @ [depth, 0, 0, 1])[2])
    cut = draw_slice(SMALL, someone, z)[1][kind]
    side = SMALL.spacing_mm
    middle_of_slice = (np.argwhere(cut).mean(0) - (np.array(SMALL.size) - 1) / 2) * -side + (-18.0, 0.0)  # y, x in mm
    world = affine @ [depth, *voxels[voxels[:, 0] == depth][:, 1:].mean(0), 1]
    assert world[[1, 0]] == pytest.approx(middle_of_slice, abs=1.0)
    assert masks[kind][depth].sum() * spacing**2 == pytest.approx(cut.sum() * side**2, rel=0.2)


def test_the_lesion_lies_where_its_recipe_says():
    someone = sick_patient(SMALL)
    lesion = someone.lesions[0]
    _, masks, affine = draw_volume(SMALL, someone, 4.0)
    centre = affine[:3, :3] @ np.argwhere(masks[lesion.kind]).mean(0) + affine[:3, 3]
    assert np.linalg.norm(centre - lesion.centre) < 0.6 * lesion.radius  # bumps and the brain's edge may pull it aside
    voxel = np.linalg.inv(affine) @ [*lesion.centre, 1]
    assert masks[lesion.kind][tuple(np.rint(voxel[:3]).astype(int))]


def test_nifti_files_lead_to_the_same_world(tmp_path):
    phantom = replace(SMALL, patients=3)
    rows = rows_of(write_volumes(tmp_path, phantom, spacing_mm=6.0))
    assert [row["patient"] for row in rows] == ["P0000", "P0001", "P0002"]
    for number, row in enumerate(rows):
        volume, masks, affine = draw_volume(phantom, patient(phantom, number), 6.0)
        file = nib.load(tmp_path / row["image"])
        assert nib.aff2axcodes(file.affine) == ("R", "A", "S")
        assert file.header.get_zooms() == (6.0, 6.0, 6.0)
        place = np.array([10, 20, 5])
        there = np.linalg.inv(file.affine) @ affine @ [*place, 1]
        assert np.asarray(file.dataobj)[tuple(np.rint(there[:3]).astype(int))] == volume[tuple(place)]
        for name in THREE:
            assert (row[name] == "1") == masks[name].any() == bool(row[f"mask:{name}"])
            if row[name] == "1":
                mask = nib.load(tmp_path / row[f"mask:{name}"])
                assert np.asarray(mask.dataobj).sum() == masks[name].sum()
                assert np.allclose(mask.affine, file.affine)


# --- bad settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patients": 2}, "at least 3"),
        ({"slices": 0}, "1 to 12"),
        ({"slices": 13}, "1 to 12"),
        ({"size": (31, 64)}, "at least 32"),
        ({"seed": -1}, "negative"),
        ({"classes": ()}, "different names"),
        ({"classes": ("mass", "mass")}, "different names"),
        ({"classes": ("tumour",)}, "different names"),
        ({"fractions": (0.5, 0.5, 0.5)}, "sum 1"),
        ({"fractions": (1.0, 0.0, 0.0)}, "positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Phantom(**settings)


def test_a_patient_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 8"):
        patient(SMALL, 9)


def test_a_volume_of_absurd_voxels_is_refused():
    with pytest.raises(ValueError, match=r"between 0\.5 and 8"):
        draw_volume(SMALL, patient(SMALL, 0), spacing_mm=0.1)
