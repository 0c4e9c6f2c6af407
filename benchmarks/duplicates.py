"""Near-identical images: planted copies found, neighbouring slices left alone, and 100,000 hashes matched."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncam.data.io.image import read_picture
from lesioncam.data.table.duplicates import Prints, find_duplicates, match_prints, one_thread_each
from lesioncam.functional.prints import SIDE, WINDOWS, image_print

REAL = Path(__file__).parents[2] / "shared" / "data"
STORED, PLANTED, MINUTES = 100_000, 1_000, 5.0
RECALL, SHARE = 0.95, 0.001

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def cut(image: np.ndarray, rng: np.random.Generator, least: float = 0.0) -> np.ndarray:
    """Up to a tenth of the height and of the width gone, at random places."""
    kept = [round(n * (1 - rng.uniform(least, 0.1))) for n in image.shape[:2]]
    y, x = (rng.integers(n - k + 1) for n, k in zip(image.shape, kept, strict=False))
    return image[y : y + kept[0], x : x + kept[1]]


def light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast times .8 or 1.2, brightness 25 of 255 up or down, clipped."""
    changed = (image.astype(np.float32) - 128) * rng.choice([0.8, 1.2]) + 128 + rng.choice([-25, 25])
    return np.clip(changed, 0, 255).astype(np.uint8)


def half(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    return np.asarray(Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.BILINEAR))


def framed(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    return np.pad(image, [(height // 10,) * 2, (width // 10,) * 2, (0, 0)][: image.ndim])


def everything(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for change in (cut, light, half, jpeg):
        image = change(image, rng)
    return image[:, ::-1]


CHANGES: dict[str, Change] = {
    "mirror": lambda image, _: image[:, ::-1],
    "JPEG 70": jpeg,
    "crop to 10 %": cut,
    "crop of 10 %": partial(cut, least=0.1),
    "light": light,
    "half size": half,
    "frame of 10 %": framed,
    "all but frame": everything,
}
GOALS = ("mirror", "JPEG 70", "crop to 10 %", "light", "half size")


def prints_of(images: list[np.ndarray]) -> Prints:
    return Prints.of([str(k) for k in range(len(images))], [image_print(image) for image in images])


def recall(images: list[np.ndarray], change: Change) -> float:
    """Share of the changed copies that are matched to their own image."""
    rng = np.random.default_rng(1)
    copies = prints_of([change(image, rng) for image in images])
    return len({p.first for p in match_prints(prints_of(images), copies) if p.first == p.second}) / len(images)


def files() -> dict[str, list[Path]]:
    slices = sorted((REAL / "figshare_brain" / "images").glob("*.jpg"), key=lambda path: int(path.stem))
    return {
        "br35h": sorted((REAL / "br35h").glob("*/*.jpg")),
        "figshare_brain": slices,
        "idrid": sorted((REAL / "idrid" / "B. Disease Grading").rglob("*.jpg")),
        "idrid A": sorted((REAL / "idrid" / "A. Segmentation" / "1. Original Images").rglob("*.jpg")),
    }


def collect(paths: list[Path]) -> Prints:
    with ThreadPoolExecutor(2) as pool, one_thread_each():
        return Prints.of(
            [path.stem for path in paths], [*pool.map(lambda path: image_print(read_picture(path).pixels), paths)]
        )


def planted_rows(found: dict[str, list[Path]]) -> list[str]:
    rng, rows = np.random.default_rng(0), []
    for name, count in (("br35h", 300), ("figshare_brain", 300), ("idrid", 150)):
        places = np.sort(rng.choice(len(found[name]), count, replace=False))
        images = [read_picture(found[name][place]).pixels for place in places]
        shares = {change: recall(images, CHANGES[change]) for change in CHANGES}
        verdict = "kept" if min(shares[change] for change in GOALS) >= RECALL else "**missed**"
        cells = " | ".join(f"{share:.3f}" for share in shares.values())
        rows.append(f"| {name} | {count} | {cells} | {verdict} |")
    return rows


def real_rows(found: dict[str, list[Path]]) -> list[str]:
    rows = []
    for name in ("br35h", "figshare_brain", "idrid A"):
        paths = found[name] + (found["idrid"] if name == "idrid A" else [])
        start = time.perf_counter()
        prints = collect(paths)
        decoded = time.perf_counter()
        groups = [path in set(found[name]) for path in paths] if name == "idrid A" else None
        pairs = find_duplicates(prints, groups)
        matched = time.perf_counter()
        mirrors = sum(pair.kind == "mirror" for pair in pairs)
        images = len({place for pair in pairs for place in pair[:2]})
        text = f"{len(pairs):,} pairs ({mirrors:,} mirrored) of {images:,} images"
        if name == "figshare_brain":
            near = sum(abs(int(prints.names[p.first]) - int(prints.names[p.second])) == 1 for p in pairs)
            numbers = {int(path.stem) for path in paths}
            all_near = sum(number + 1 in numbers for number in numbers)
            verdict = "kept" if near <= SHARE * all_near else "**missed**"
            text += f"; {near} of {all_near:,} neighbouring slices (limit 1 in {1 / SHARE:,.0f}: {verdict})"
        label = "idrid, A (masks) against B (graded)" if name == "idrid A" else name
        rows.append(f"| {label} | {len(paths):,} | {decoded - start:.1f} s | {matched - decoded:.1f} s | {text} |")
    return rows


def synthetic() -> str:
    """Random prints, a thousand of them copies with up to 6 bits changed, half of them mirrored."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (STORED, len(WINDOWS)), dtype=np.uint64)
    thumbs = rng.integers(0, 256, (STORED, SIDE, SIDE), dtype=np.uint8)
    originals = [image_print(rng.integers(0, 256, (80, 80), dtype=np.uint8)) for _ in range(PLANTED)]
    ends = rng.permutation(STORED)[: 2 * PLANTED].reshape(2, -1)
    for k, (first, second) in enumerate(ends.T.tolist()):
        copy = image_print(originals[k].thumb[:, ::-1] if k % 2 else originals[k].thumb)
        flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, 6, dtype=np.uint64))
        hashes[first], thumbs[first] = originals[k].hashes, originals[k].thumb
        hashes[second], thumbs[second] = copy.hashes ^ flips, copy.thumb
    prints = Prints(tuple(map(str, range(STORED))), hashes, thumbs, np.full(STORED, 512, np.int32))
    start = time.perf_counter()
    pairs = find_duplicates(prints)
    taken = (time.perf_counter() - start) / 60
    right = {tuple(sorted(pair)) for pair in ends.T.tolist()}
    hits = sum(pair[:2] in right for pair in pairs)
    verdict = "kept" if taken < MINUTES and hits >= RECALL * PLANTED else "**missed**"
    return (
        f"{STORED:,} stored prints matched with each other ({PLANTED:,} planted pairs, made up, seed 0): "
        f"{taken:.1f} min, {hits:,} planted pairs found, {len(pairs) - hits} others "
        f"(limit {MINUTES:g} min: {verdict}).\n"
    )


def run() -> str:
    head = "## Near-identical images\n\n" + synthetic()
    if not REAL.is_dir():
        return head + "\nReal images are not at hand.\n"
    found = files()
    planted = "\n".join(planted_rows(found))
    real = "\n".join(real_rows(found))
    names = " | ".join(CHANGES)
    return (
        f"{head}\nPlanted copies, share found (limit {RECALL:g} for {', '.join(GOALS)}; `light` is contrast times .8 "
        "or 1.2 and brightness 25 of 255 up or down):\n\n"
        f"| | images | {names} | |\n|{'---|' * (len(CHANGES) + 3)}\n{planted}\n\n"
        "What is there of itself (decoding apart):\n\n"
        f"| | images | decoding | matching | found |\n|---|---|---|---|---|\n{real}\n"
    )
