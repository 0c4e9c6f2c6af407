"""Heat maps against plain passes of the network and against other libraries: time, equal results, memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lesioncam as lc
from benchmarks import peers
from benchmarks.peers import OURS, SCALED
from lesioncam.explanation.perturbation import Rise, rise

CLASSES, BATCH, SIDE = 14, 2, 256
ROUNDS, SHORT_ROUNDS = 7, 15
ALIKE = 1e-4
CELLS, RISE_MASKS = 7, 128
BUDGETS = (
    ("scorecam", 1, 448, 128),
    ("scorecam", 1, 448, 256),
    ("rise", 1, 448, 128),
    ("rise", 1, 448, 256),
    ("clear", 4, 224, 64),
    ("clear", 4, 224, 256),
)
LAYERS = {
    "features": "last feature map",
    "features.transition3": "input of the last stage",
    "features.transition2": "earlier layer",
}

Run = Callable[[], Any]
clock = time.perf_counter


def alternate(runs: Mapping[str, Run], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each: one after the other, round after round, every second round backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for turn in range(rounds):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Times of one thread say the same on any number of cores."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def random_net(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with random weights in which something happens: batch norms know the images they see."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make()
        with torch.no_grad():
            net.train()(torch.rand(4, 3, 128, 128))
    return net.eval()


def pictures(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def line(what: str, took: float, base: str, reference: float, limit: float) -> str:
    ratio = took / reference
    verdict = "kept" if ratio <= limit else "**missed**"
    return f"| {what} | {took:.0f} ms | {base} | {reference:.0f} ms | {ratio:.2f} | {limit:g} | {verdict} |\n"


TABLE = "| what | median | against | median | ratio | limit | |\n|---|---|---|---|---|---|---|\n"


# ---- class maps of a DenseNet ------------------------------------------------------------------------------------


def densenet() -> nn.Module:
    from torchvision.models import densenet121

    return random_net(lambda: densenet121(num_classes=CLASSES))


def forward(net: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return net(images)


def ours_all(net: nn.Module, layer: str, images: Tensor, _: int = CLASSES) -> Tensor:
    """The functional ReLU behind ``features`` hides the last feature map; left alone, explain finds it."""
    return lc.explain(net, images, "gradcam", None if layer == "features" else layer).raw.relu()


EVERY = {
    "torchcam": peers.torchcam_all,
    **{name: peers.one_by_one(peers.MAKERS[name]) for name in ("captum", "pytorch-grad-cam", "MONAI")},
    OURS: ours_all,
}


def alike(found: Tensor, expected: Tensor, name: str) -> None:
    """Equal maps, or equal up to the scaling that a library insists on."""
    if name == SCALED:
        expected, allowed = peers.unit(expected.flatten(0, 1), found.shape[-2:]), 1e-2
        found = found.flatten(0, 1)
        lit = expected.flatten(1).amax(1) > 0
        found, expected = found[lit], expected[lit]
    else:
        allowed = ALIKE
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= allowed:
        raise AssertionError(f"{name} and ours differ by {error:.2g}, which is more than {allowed:g}")


def same_layer(layer: str) -> tuple[str, ...]:
    """Who sees the same activations: behind the functional ReLU only torchcam does."""
    return ("torchcam",) if layer == "features" else tuple(name for name in EVERY if name != OURS)


def cam_rows(net: nn.Module, images: Tensor) -> str:
    from lesioncam.models.classifier import build_classifier
    from lesioncam.options.run import make_config

    config = make_config(backbone="densenet121,stride=32", preprocess={"channels": 3})
    own = build_classifier(config, CLASSES).eval()
    took = alternate(
        {
            "forward": partial(forward, net, images),
            "cam": lambda: lc.explain(net, images, "cam"),
            "own forward": partial(forward, own.backbone, images),
            "own": lambda: lc.explain(own, images, "cam"),
        },
        SHORT_ROUNDS,
    )
    base = "one forward pass"
    return line(f"CAM, {CLASSES} labels, torchvision's network", took["cam"], base, took["forward"], 1.10) + line(
        f"CAM, {CLASSES} labels, our classifier", took["own"], "forward pass of its backbone", took["own forward"], 1.10
    )


def gradcam_rows(net: nn.Module, images: Tensor) -> str:
    took = alternate(
        {
            "forward": partial(forward, net, images),
            "last": partial(ours_all, net, "features", images),
            "stage": partial(ours_all, net, "features.transition3", images),
        }
    )
    rows = (("last", "last feature map", 1.3), ("stage", "input of the last stage", 4.0))
    return "".join(
        line(f"Grad-CAM, {CLASSES} labels, {place}", took[key], "one forward pass", took["forward"], limit)
        for key, place, limit in rows
    )


def one_label_rows(net: nn.Module, images: Tensor) -> str:
    """One label for all images, against whichever library is fastest."""
    text = ""
    for layer, place in LAYERS.items():
        label = [int(ours_all(net, layer, images).amax((0, 2, 3)).argmax())] * BATCH  # one whose map is not all zero
        makers = {**peers.MAKERS, OURS: peers.ours}
        runs = {name: partial(makers[name], net, layer, images, label) for name in makers}
        if layer == "features":  # module hooks of MONAI do not stand the ReLU in place
            runs = {OURS: partial(peers.ours, net, None, images, label)} | {
                name: runs[name] for name in runs if name not in (OURS, "MONAI")
            }
        for name in same_layer(layer):
            alike(runs[name]()[:, None], runs[OURS]()[:, None], name)
        took = alternate(runs, SHORT_ROUNDS)
        best = min((name for name in took if name != OURS), key=took.__getitem__)
        text += line(f"Grad-CAM, one label, {place}", took[OURS], best, took[best], 1.05)
    return text


def all_label_table(net: nn.Module, images: Tensor) -> str:
    """All labels in every library; only torchcam keeps a forward pass for more than one label."""
    head = f"| all {CLASSES} labels, ms | {' | '.join(EVERY)} | ours over the fastest but torchcam | limit | |\n"
    text = head + "|---" * (len(EVERY) + 4) + "|\n"
    for layer, place in LAYERS.items():
        runs = {name: partial(make, net, layer, images, CLASSES) for name, make in EVERY.items()}
        if layer == "features":
            del runs["MONAI"]
        expected = runs[OURS]()
        for name in same_layer(layer):
            alike(runs[name](), expected, name)
        took = alternate(runs)
        slow = min(took[name] for name in took if name not in ("torchcam", OURS))
        cells = [f"{took[name]:.0f}" if name in took else "RuntimeError" for name in EVERY]
        ratio = took[OURS] / slow
        verdict = "kept" if ratio <= 0.5 else "**missed**"
        text += f"| {place} | {' | '.join(cells)} | {ratio:.2f} | 0.5 | {verdict} |\n"
    return text


# ---- masked passes -----------------------------------------------------------------------------------------------


def resnet(classes: int = 5) -> nn.Module:
    from torchvision.models import resnet18

    return random_net(lambda: resnet18(num_classes=classes))


def masked_passes(net: nn.Module, masked: Tensor, batch: int) -> Tensor:
    with torch.inference_mode():
        return torch.cat([net(part) for part in masked.split(batch)])


def best_batch(net: nn.Module, masked: Tensor) -> int:
    """The batch size in which bare passes are fastest on this machine."""
    took = alternate({str(size): partial(masked_passes, net, masked, size) for size in (2, 4, 8, 16, 32)}, 3)
    return int(min(took, key=took.__getitem__))


def scorecam_rows(net: nn.Module, image: Tensor, batch: int) -> str:
    layer, label, count = "layer1", [2], 64
    masked = image * torch.rand(count, 1, 1, 1)
    took = alternate(
        {
            "passes": partial(masked_passes, net, masked, batch),
            OURS: partial(lc.explain, net, image, "scorecam", layer, label),
            "torchcam": partial(peers.torchcam_score, net, layer, image, label),
            "pytorch-grad-cam": partial(peers.grad_cam_score, net, layer, image, label),
        }
    )
    best, what = min(("torchcam", "pytorch-grad-cam"), key=took.__getitem__), f"Score-CAM, {count} channels"
    return line(what, took[OURS], f"{count} masked passes", took["passes"], 1.1) + line(
        what, took[OURS], best, took[best], 1.0
    )


def scorecam_agrees(net: nn.Module) -> float:
    """Against torchcam on images whose side is the grid's times an odd number.

    There a pixel lies on the centre of every cell, so it makes no difference whether a channel is scaled before it is
    enlarged (torchcam) or after (the paper, ours), and the masks are equal.
    """
    image, label = pictures(1, 93), [2]
    found = lc.explain(net, image, "scorecam", "layer4", label).raw[:, 0].relu()
    expected = peers.torchcam_score(net, "layer4", image, label)
    alike(found[:, None], expected[:, None], "torchcam")
    return float((found - expected).abs().max() / expected.max())


def plain_rise(net: nn.Module, image: Tensor, masks: Callable[[int], Tensor], count: int, batch: int) -> Tensor:
    """RISE of all classes as anyone would write it: masks, passes, and their weighted sum, batch by batch."""
    total = torch.zeros(())
    with torch.inference_mode():
        for start in range(0, count, batch):
            part = masks(start)[:batch]
            total = total + torch.einsum("mk,mchw->khw", net(image * part), part)
    return total / (0.5 * count)


def drawn_masks(_: int, batch: int, side: int) -> Tensor:
    """Masks as the paper makes them: a coarse grid enlarged beyond the image, and cut at a random place."""
    cell = -(-side // CELLS)
    coarse = (torch.rand(batch, 1, CELLS + 1, CELLS + 1) < 0.5).float()
    wide = nn.functional.interpolate(coarse, (side + cell, side + cell), mode="bilinear")
    shifts = torch.randint(cell, (batch, 2)).tolist()
    return torch.stack([mask[:, y : y + side, x : x + side] for mask, (y, x) in zip(wide, shifts, strict=True)])


def rise_rows(net: nn.Module, image: Tensor, batch: int) -> str:
    count, side = RISE_MASKS, image.shape[-1]
    ready = our_masks(image, count)
    run = partial(lc.explain, net, image, "rise", masks=count)
    alike(run().raw, plain_rise(net, image, lambda start: ready[start:], count, batch)[None], "a plain loop")
    took = alternate(
        {
            "passes": partial(masked_passes, net, image * ready, batch),
            "loop": partial(plain_rise, net, image, partial(drawn_masks, batch=batch, side=side), count, batch),
            OURS: run,
        }
    )
    what = f"RISE, {count} masks"
    return line(what, took[OURS], f"{count} masked passes", took["passes"], 1.1) + line(
        what, took[OURS], "a plain loop", took["loop"], 1.0
    )


def our_masks(image: Tensor, count: int) -> Tensor:
    """The masks of RISE, seen through a score that hands them out."""
    seen: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        seen.append(images[:, :1].clone())
        return images.flatten(1).sum(1, keepdim=True)

    rise(score, torch.ones_like(image), None, Rise(masks=count, cells=CELLS))
    return torch.cat(seen)


CHILD = """
import ctypes, json, sys, threading, time
import torch
import lesioncam as lc
from torchvision.models import resnet18
method, (count, side, memory) = sys.argv[1], map(int, sys.argv[2:])
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
net, image = resnet18(num_classes=5).eval(), torch.rand(count, 3, side, side)
options = {"rise": {"masks": 32}, "scorecam": {"layer": "layer1"}, "clear": {}}[method]
lc.explain(net, image[..., :32, :32], method, **options)
ctypes.CDLL("libc.so.6").malloc_trim(0)
start, most, over = resident(), 0, False
def watch():
    global most
    while not over:
        most = max(most, resident())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
lc.explain(net, image, method, memory=memory, **options)
over = True
thread.join()
print(json.dumps(max(0, most - start)))
"""


def memory_table() -> str:
    if not sys.platform.startswith("linux"):
        return "Memory was not measured: it is read from /proc.\n"
    text = "| memory, ResNet-18 | budget | grew by | |\n|---|---|---|---|\n"
    for method, count, side, budget in BUDGETS:
        command = [sys.executable, "-c", CHILD, method, *map(str, (count, side, budget << 20))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        grown = json.loads(done.stdout) / 2**20
        verdict = "kept" if grown <= budget else "**missed**"
        what = f"{method}, {count} image{'s' * (count > 1)} of {side} x {side}"
        text += f"| {what} | {budget} MiB | {grown:.0f} MiB | {verdict} |\n"
    return text


# ---- CLEAR -------------------------------------------------------------------------------------------------------


def clear_row(net: nn.Module, image: Tensor) -> str:
    """Back to the input alone: no weight gets a gradient, the forward pass before it is not counted."""
    frozen = resnet().requires_grad_(requires_grad=False)
    leaf = image.clone().requires_grad_()
    scores = frozen(leaf)

    def backward() -> None:
        for k in range(scores.shape[1]):
            torch.autograd.grad(scores[:, k].sum(), leaf, retain_graph=True)

    took = alternate({"backward": backward, OURS: lambda: lc.explain(net, image, "clear")}, SHORT_ROUNDS)
    base = "5 backward passes to the input"
    return line("CLEAR, 5 classes, ResNet-18 at 224", took[OURS], base, took["backward"], 1.5)


def run() -> str:
    title = "## Heat maps: time and memory\n\n"
    if not peers.present():
        return title + "The libraries to compare with are not installed (`pip install lesioncam[peers]`).\n"
    with peers.hushed(), one_thread():
        net, images = densenet(), pictures(BATCH, SIDE)
        few = cam_rows(net, images) + gradcam_rows(net, images) + one_label_rows(net, images)
        every = all_label_table(net, images)
        small, image = resnet(), pictures(1, 224)
        batch = best_batch(small, image.expand(32, -1, -1, -1))
        masked = scorecam_rows(small, image, batch) + rise_rows(small, image, batch) + clear_row(small, image)
        error = scorecam_agrees(small)
        memory = memory_table()
    return (
        f"{title}Medians of {ROUNDS} alternating rounds ({SHORT_ROUNDS} for CAM, one label and CLEAR), one thread, "
        f"random weights; masked passes in batches of {batch}, the fastest size. "
        f"DenseNet-121, {CLASSES} labels, batch {BATCH}, {SIDE} x {SIDE}; ResNet-18, 5 classes, one image, 224 x 224. "
        "Where a library sees the same activations equal maps are asserted (pytorch-grad-cam's after scaling): at the "
        "last feature map of torchvision's DenseNet, behind a functional ReLU, that is torchcam alone, and MONAI's "
        "hooks fail.\n\n"
        f"{TABLE}{few}\n{every}\n{TABLE}{masked}\n"
        f"Score-CAM equals torchcam's where their masks are equal (93 x 93, 512 channels): {error:.0e}.\n\n{memory}"
    )


if __name__ == "__main__":
    print(run())
