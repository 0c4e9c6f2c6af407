"""Every threshold at once against a loop over thresholds: equal results, and how much sooner (made up, seed 0)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from lesioncam.functional.boxes import box_iou
from lesioncam.functional.segmentation import dice_at_thresholds
from lesioncam.functional.sweep import box_sweep

CELLS, SIDE, STEPS, FLOOR, REPEATS = 32, 1024, 1001, 15.0, 5


def enlarged(seed: int) -> np.ndarray:
    """A class map of 32 x 32 cells on the image's own grid, scaled to [0, 1]."""
    cells = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(CELLS, CELLS)), 1.5)
    small = torch.from_numpy(cells.astype(np.float32))[None, None]
    wide = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0].numpy()
    return np.asarray((wide - wide.min()) / (wide.max() - wide.min()))


def dice_loop(scores: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    out, total = np.empty(len(thresholds)), np.count_nonzero(truth)
    for i, t in enumerate(thresholds):
        predicted = scores >= t
        out[i] = 2 * np.count_nonzero(predicted & truth) / (np.count_nonzero(predicted) + total)
    return out


def box_loop(scores: np.ndarray, thresholds: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest, best = np.zeros((2, len(thresholds)))
    for i, t in enumerate(thresholds):
        labels, count = ndimage.label(scores >= t, np.ones((3, 3)))
        if count:
            places = ndimage.find_objects(labels)
            boxes = [[x.start, y.start, x.stop, y.stop] for y, x in places]
            fit = box_iou(boxes, truth).max(axis=1)
            largest[i], best[i] = fit[np.bincount(labels.ravel())[1:].argmax()], fit.max()
    return largest, best


def timed(compute: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The shortest of a few runs: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = compute()
        times.append(time.perf_counter() - begun)
    return min(times), result


def line(what: str, fast: Callable[[], Any], slow: Callable[[], Any]) -> str:
    (quick, found), (plain, expected) = timed(fast, REPEATS), timed(slow, 1)
    for one, other in zip(np.atleast_2d(found), np.atleast_2d(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    verdict = "kept" if plain / quick >= FLOOR else "**missed**"
    return f"| {what} | {plain * 1e3:.0f} ms | {quick * 1e3:.1f} ms | {plain / quick:.0f} | {verdict} |\n"


def run() -> str:
    scores, thresholds = enlarged(0), np.linspace(0, 1, STEPS)
    noise = np.random.default_rng(0).random((SIDE // 4, SIDE // 4)).astype(np.float32)
    boxes = np.array([[300, 400, 420, 500], [700, 100, 800, 180]])
    truth = np.zeros((SIDE, SIDE), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        truth[y0:y1, x0:x1] = True
    return (
        f"## All {STEPS} thresholds of a map, {SIDE} x {SIDE} from {CELLS} x {CELLS} cells (made up, seed 0)\n\n"
        f"Equal results are asserted. At least {FLOOR:g} times as fast was asked for.\n\n"
        "| what | loop over thresholds | all at once | ratio | |\n|---|---|---|---|---|\n"
        + line(
            "Dice",
            lambda: dice_at_thresholds(scores, truth, thresholds),
            lambda: dice_loop(scores, truth, thresholds),
        )
        + line(
            "boxes: largest and best region",
            lambda: box_sweep(scores, thresholds, boxes),
            lambda: box_loop(scores, thresholds, boxes),
        )
        + line(
            f"boxes of pure noise, {SIDE // 4} x {SIDE // 4}",
            lambda: box_sweep(noise, thresholds, boxes / 4),
            lambda: box_loop(noise, thresholds, boxes / 4),
        )
    )


if __name__ == "__main__":
    print(run())
