import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from lesioncam.data.io.image import read_picture
from lesioncam.data.table.duplicates import (
    Pair,
    Prints,
    collect_prints,
    duplicate_groups,
    find_duplicates,
    load_prints,
    match_prints,
    save_prints,
)
from lesioncam.data.table.table import read_table
from lesioncam.errors import RunError
from lesioncam.functional.prints import image_print


def draw(seed, shape=(140, 120)):
    rng = np.random.default_rng(seed)
    field = sum(gaussian_filter(rng.normal(size=shape), sigma) * sigma for sigma in (1.5, 3, 6, 12))
    return np.interp(field, (field.min(), field.max()), (30, 240)).astype(np.uint8)


@pytest.fixture(scope="module")
def prints():
    """0 to 5 are different; 6 is 0 mirrored, 7 is 1 darker, 8 is 1 cut, 9 shows nothing."""
    images = [draw(seed) for seed in range(6)]
    images += [images[0][:, ::-1], (images[1] * 0.7).astype(np.uint8), images[1][8:, 5:], np.zeros((50, 50))]
    return Prints.of([f"i{k}" for k in range(10)], [image_print(image) for image in images])


def places(pairs):
    return [(pair.first, pair.second, pair.kind) for pair in pairs]


EXPECTED = [(0, 6, "mirror"), (1, 7, "copy"), (1, 8, "copy"), (7, 8, "copy")]


def test_all_pairs_and_those_across_groups(prints):
    found = find_duplicates(prints)
    assert places(found) == EXPECTED
    assert all(0.9 < pair.correlation <= 1 for pair in found)
    groups = ["train", "train", "val", None, None, None, "train", "test", None, "test"]
    assert places(find_duplicates(prints, groups)) == [(1, 7, "copy")]
    groups[6], groups[8] = "test", "val"
    assert places(find_duplicates(prints, groups)) == EXPECTED
    assert find_duplicates(prints, [None] * 10) == []
    assert find_duplicates(prints.take([])) == []
    assert find_duplicates(prints.take([9, 9])) == []
    assert find_duplicates(prints, correlation=1.01) == []


def test_two_stores(prints):
    train, test = prints.take(np.arange(10) < 6), prints.take([8, 6, 9])
    assert places(match_prints(train, test)) == [(0, 1, "mirror"), (1, 0, "copy")]
    assert places(match_prints(test, train)) == [(0, 1, "copy"), (1, 0, "mirror")]
    assert match_prints(train, prints.take([])) == []


def test_the_radius_shrinks_to_the_budget(prints):
    assert set(places(find_duplicates(prints, radius=64, budget=90))) == set(EXPECTED)
    few = find_duplicates(prints, radius=64, budget=2)
    assert len(few) <= 2
    assert set(places(few)) < set(EXPECTED)


def test_groups_by_union():
    pairs = [Pair(4, 1, "copy", 1.0), Pair(2, 5, "mirror", 0.9), Pair(5, 4, "copy", 0.95)]
    assert duplicate_groups(pairs, 6).tolist() == [0, 1, 1, 2, 1, 1]
    assert duplicate_groups([], 3).tolist() == [0, 1, 2]


def test_collecting_from_files(tmp_path, prints):
    for k in range(3):
        Image.fromarray(draw(k)).save(tmp_path / f"{k}.png")
    (tmp_path / "3.png").write_bytes(b"nothing")
    (tmp_path / "t.csv").write_text("image,label,id\n" + "".join(f"{k}.png,x,i{k}\n" for k in range(5)))
    seen = []
    found = collect_prints(read_table(tmp_path / "t.csv"), progress=lambda *state: seen.append(state))
    assert found.names == ("i0", "i1", "i2", "i3", "i4")
    assert found.usable().tolist() == [True, True, True, False, False]
    np.testing.assert_array_equal(found.thumbs[:3], prints.thumbs[:3])
    np.testing.assert_array_equal(found.hashes[:3], prints.hashes[:3])
    assert found.sides.tolist()[3:] == [0, 0]
    assert seen == [(5, 5)]


def test_the_store_reads_back_equal(tmp_path, prints):
    path = save_prints(prints, tmp_path / "log" / "prints.npz")
    again = load_prints(path)
    assert again.names == prints.names
    for name in ("hashes", "thumbs", "sides"):
        np.testing.assert_array_equal(getattr(again, name), getattr(prints, name))
        assert getattr(again, name).dtype == getattr(prints, name).dtype
    assert find_duplicates(again) == find_duplicates(prints)
    assert len(load_prints(save_prints(prints.take([]), path))) == 0


def test_stores_that_are_none(tmp_path, prints):
    with pytest.raises(RunError, match="is missing; collect the prints again"):
        load_prints(tmp_path / "no.npz")
    path = save_prints(prints, tmp_path / "p.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="holds no prints"):
        load_prints(path)
    for content in (b"", b"words"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="holds no prints"):
            load_prints(path)
    np.savez(path, names=np.array([{}], dtype=object))
    with pytest.raises(RunError, match="holds no prints"):
        load_prints(path)
    for change in ({"version": 99}, {"hashes": prints.hashes[:3]}, {"thumbs": prints.thumbs.astype(float)}):
        stored = {"version": 1, "names": np.array(prints.names), "hashes": prints.hashes, "thumbs": prints.thumbs}
        np.savez(path, **{**stored, "sides": prints.sides, **change})
        with pytest.raises(RunError, match="another version"):
            load_prints(path)


def test_small_pictures_need_more_than_likeness():
    """Thirty pixels hold little detail: strokes of a like shape are not copies, the very same picture is."""
    rng = np.random.default_rng(0)
    stroke = np.zeros((30, 30))
    stroke[6:24, 12:17] = 200
    other = stroke + gaussian_filter(rng.normal(size=(30, 30)), 1.5) * 40
    pictures = Prints.of("abc", [image_print(image) for image in (stroke, other, stroke[:, ::-1] * 0.5)])
    assert [pair[:2] for pair in find_duplicates(pictures)] == [(0, 2)]


def test_tiny_pictures_are_copies_only_if_they_are_the_same():
    """Digits of 28 pixels are all alike to the hashes: only sameness says something, and it is quick."""
    rng = np.random.default_rng(0)
    digits = [np.pad(rng.integers(0, 2, (20, 20), dtype=np.uint8) * 255, 4) for _ in range(300)]
    digits += [digits[7].copy(), np.ascontiguousarray(digits[9][:, ::-1]), digits[7] // 5]
    nearly = digits[3].copy()
    nearly[10, 10] ^= 255
    prints = Prints.of([str(i) for i in range(304)], [image_print(image) for image in (*digits, nearly)])
    same = [(7, 300, "copy"), (7, 302, "copy"), (9, 301, "mirror"), (300, 302, "copy")]
    assert [pair[:3] for pair in find_duplicates(prints)] == same
    first, second = prints.take(np.arange(300)), prints.take(np.arange(300, 304))
    assert [pair[:3] for pair in match_prints(first, second)] == [(7, 0, "copy"), (7, 2, "copy"), (9, 1, "mirror")]
    assert find_duplicates(prints, ["train"] * 301 + ["test"] * 3) != []


def test_a_tiny_copy_of_a_large_picture_is_still_found():
    large = gaussian_filter(np.random.default_rng(0).normal(size=(62, 62)), 4)
    small = large.reshape(31, 2, 31, 2).mean((1, 3))
    prints = Prints.of("abc", [image_print(image) for image in (large, draw(1), small)])
    assert prints.sides.tolist() == [62, 120, 31]
    assert [pair[:3] for pair in find_duplicates(prints)] == [(0, 2, "copy")]
    assert [pair[:3] for pair in match_prints(prints.take([2]), prints.take([1, 0]))] == [(0, 1, "copy")]


# ---- real images -------------------------------------------------------------------------------------------------


def real_prints(files):
    return Prints.of([str(file) for file in files], [image_print(read_picture(file).pixels) for file in files])


def test_neighbouring_slices_are_no_copies(real_data):
    folder = real_data / "figshare_brain" / "images"
    files = [folder / f"{index}.jpg" for index in range(1000, 1120)]
    prints = real_prints([file for file in files if file.exists()])
    assert len(prints) > 90
    near = find_duplicates(prints, correlation=0.7)
    assert len(near) > 20  # the hashes do see them
    assert find_duplicates(prints) == []


def test_planted_copies_are_found(real_data):
    folder, rng = real_data / "figshare_brain" / "images", np.random.default_rng(0)
    images = [
        read_picture(folder / f"{index}.jpg").pixels
        for index in range(600, 1400, 20)
        if (folder / f"{index}.jpg").exists()
    ]
    changed = []
    for k, image in enumerate(images):
        height, width = image.shape
        y, x = rng.integers(0, height // 10 + 1), rng.integers(0, width // 10 + 1)
        cut = image[y : y + round(0.92 * height), x : x + round(0.92 * width)]
        changed.append(
            [image[:, ::-1], cut, np.clip(image * 1.2 + 10, 0, 255).astype(np.uint8), image[::2, ::2]][k % 4]
        )
    first = Prints.of(range(len(images)), [image_print(image) for image in images])
    second = Prints.of(range(len(images)), [image_print(image) for image in changed])
    found = match_prints(first, second)
    assert all(pair.first == pair.second for pair in found)
    assert len(found) >= 0.95 * len(images)
    assert {pair.first % 4 for pair in found if pair.kind == "mirror"} == {0}


def test_known_copies_of_the_fundus_set(real_data):
    folders = [
        real_data / "idrid" / name / "1. Original Images" / "a. Training Set"
        for name in ("A. Segmentation", "B. Disease Grading")
    ]
    first = real_prints([folders[0] / f"IDRiD_{k:02d}.jpg" for k in (1, 2, 3, 10)])
    second = real_prints([folders[1] / f"IDRiD_{k:03d}.jpg" for k in (102, 366, 369, 224, 1, 2, 3)])
    assert places(match_prints(first, second)) == [(k, k, "copy") for k in range(4)]


def test_table_to_pairs(real_data):
    folder = real_data / "br35h"
    frame = pd.read_csv(folder / "labels.csv")
    frame = frame[
        frame["image"].isin(["no_tumour/3104.jpg", "no_tumour/3646.jpg", "tumour/y161.jpg", "tumour/y224.jpg"])
    ]
    table = read_table(folder / "labels.csv")
    rows = np.isin(table.frame["name"], frame["image"])
    pairs = find_duplicates(collect_prints(table.take(rows)))
    assert [pair.kind for pair in pairs] == ["mirror", "mirror"]
    assert all(pair.correlation > 0.99 for pair in pairs)
