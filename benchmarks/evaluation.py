"""A whole evaluation of another tool's maps: 1,000 images of 1024 x 1024, 14 classes, maps of 32 x 32 (made up)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

CLASSES = [f"finding {i}" for i in range(14)]
SIDE, GRID = 1024, 32
IMAGES, PAIRS, TUNING = 1000, 1200, 100
LIMITS = {"default": 300.0, "all": 900.0}


def make(folder: Path, images: int, pairs: int, tuning: int) -> Path:
    """Images, maps, masks and a table: patients have four images, every second one has no finding."""
    rng = np.random.default_rng(0)
    rows, left = [], pairs
    rr, cc = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    for name in ("images", "maps", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(images + tuning):
        test = i < images
        sick = i % 2 == 0 or not test
        count = 0 if not sick else (-(-left // max(1, (images - i + 1) // 2)) if test else 2)
        found = rng.choice(len(CLASSES), min(count, len(CLASSES)), replace=False) if count else np.zeros(0, int)
        left -= len(found) if test else 0
        raw = ndimage.gaussian_filter(rng.normal(0, 3, (len(CLASSES), GRID, GRID)), (0, 1.5, 1.5)) - 3
        image = (90 + 60 * np.cos(rr / 300) * np.sin(cc / 250 + i)).astype(np.uint8)
        row = {
            "image": f"images/{i}.png",
            "patient": f"{'test' if test else 'val'}{i // 4}",
            "split": "test" if test else "val",
        }
        for k, label in enumerate(CLASSES):
            row[f"class:{label}"] = int(k in found)
            row[f"mask:{label}"] = ""
        for k in found:
            centre, radius = rng.uniform(150, 874, 2), rng.uniform(20, 140)
            mask = (rr - centre[0]) ** 2 + (cc - centre[1]) ** 2 < radius**2
            image[mask] += 40
            row[f"mask:{CLASSES[k]}"] = f"masks/{i}_{k}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / row[f"mask:{CLASSES[k]}"])
            cell = (centre / (SIDE / GRID)).astype(int)
            raw[k][tuple(slice(c - 2, c + 3) for c in cell)] += 5
        # a picture of its own for every image, so that none is a copy of another
        grain = ndimage.zoom(rng.normal(0, 18, (64, 64)), SIDE / 64, order=1)
        Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8)).save(folder / row["image"], compress_level=1)
        np.save(folder / "maps" / f"{i}.npy", raw.astype(np.float32))
        rows.append(row)
    table = folder / "table.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


CHILD = """
import json, resource, sys, time
from lesioncam import evaluate, evaluate_maps
from lesioncam.options.run import make_config
maps, table, out, metrics = sys.argv[1:]
took = [time.perf_counter()]
evaluate_maps(maps, table, out, "val", config=make_config(draws=1000))
took.append(time.perf_counter())
evaluate(out, "test", metrics=metrics)
took.append(time.perf_counter())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"choose": took[1] - took[0], "measure": took[2] - took[1], "peak": peak}))
"""


def child(folder: Path, table: Path, metrics: str) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(folder / "maps"), str(table), str(folder / f"out_{metrics}"), metrics]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def run(images: int = IMAGES, pairs: int = PAIRS, kinds: tuple[str, ...] = ("default", "all")) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        few = child(small, make(small, images // 4, pairs // 4, TUNING), "default")
        table = make(large, images, pairs, TUNING)
        for kind in kinds:
            start = time.perf_counter()
            seen = child(large, table, kind)
            total = time.perf_counter() - start
            verdict = "kept" if seen["measure"] < LIMITS[kind] else "**missed**"
            rows.append(
                f"| {kind} | {seen['choose']:.0f} s | {seen['measure']:.0f} s | {total:.0f} s | {seen['peak']:.2f} GiB "
                f"| under {LIMITS[kind]:g} s | {verdict} |"
            )
    return (
        f"## Another tool's maps: {images:,} images of {SIDE} x {SIDE}, {len(CLASSES)} maps of {GRID} x {GRID} each, "
        f"{pairs:,} pairs with a mask, {TUNING} validation images (made up, seed 0)\n\n"
        "| metrics | check, thresholds, val | test, controls included | together | peak memory | limit for test | |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        f"Peak memory with a quarter of the images: {few['peak']:.2f} GiB.\n"
    )
