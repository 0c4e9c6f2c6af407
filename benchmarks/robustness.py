"""What map makers do where medical users stand: against a closed form, and what they leave behind."""

from __future__ import annotations

import ctypes
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor, nn

from benchmarks.peers import MAKERS, OURS, SCALED, Maps, hushed, present, unit, versions

LAYER = "features.3"
FINE, COARSE, SCALED_LIMIT = 1e-5, 2e-2, 1e-2
THREADS, CALLS, CYCLES, LEAST_MB = 8, 20, 200, 5.0


class Toy(nn.Module):
    """Convolution, ReLU, convolution, ReLU, mean, linear: Grad-CAM is relu(w_k . f) / P at the last ReLU."""

    def __init__(self, axes: int = 2, *, inplace: bool = False) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
        first = conv(1, 8, 3, padding=1)
        second = conv(8, 16, 3, padding=1, stride=2)
        self.features = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(inplace=inplace))
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(2).mean(2))


def toy(axes: int = 2, *, inplace: bool = False, kind: torch.dtype = torch.float32) -> Toy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Toy(axes, inplace=inplace).eval().to(kind)


def pictures(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(kind)


def closed_form(model: Toy, images: Tensor, classes: list[int]) -> Tensor:
    """relu(w_k . f) / P in float32, ``(N, *s)``."""
    with torch.no_grad():
        features = model.float().features(images.float())
        maps = torch.einsum("nc,nc...->n...", model.head.weight[classes], features)
    return maps.relu() / features[0, 0].numel()


@dataclass(frozen=True)
class Case:
    """A setting of the toy network: how it is made and called, and how exact a map has to be."""

    name: str
    make: Callable[[], Toy] = toy
    shape: tuple[int, ...] = (3, 1, 40, 56)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    kind: torch.dtype = torch.float32
    limit: float = FINE


def frozen() -> Toy:
    return toy().requires_grad_(requires_grad=False)


CASES = (
    Case("2D, batch 3, 40 x 56"),
    Case("3D, batch 2, 12 x 20 x 28", partial(toy, 3), (2, 1, 12, 20, 28)),
    Case("frozen parameters", frozen),
    Case("in-place ReLU as the layer", partial(toy, inplace=True)),
    Case("under `no_grad`", around=torch.no_grad),
    Case("under `inference_mode`", around=torch.inference_mode),
    Case("bf16 autocast", around=partial(torch.autocast, "cpu", torch.bfloat16), limit=COARSE),
    Case("bf16 model", partial(toy, kind=torch.bfloat16), kind=torch.bfloat16, limit=COARSE),
)


def judged(found: Tensor, truth: Tensor, size: tuple[int, ...], name: str, limit: float) -> str:
    """``ok`` or ``wrong`` and the largest error over the largest true value."""
    if name == SCALED:
        truth, limit = unit(truth, size), max(limit, SCALED_LIMIT)
    if found.shape != truth.shape:
        return f"**wrong**, shape {tuple(found.shape)}"
    error = float((found.float() - truth).abs().max() / truth.abs().max())
    return f"ok, {error:.0e}" if error <= limit else f"**wrong**, {error:.2g}"


def cell(run: Callable[[], str]) -> str:
    """What came of it; an exception by its class."""
    try:
        with hushed():
            return run()
    except Exception as error:  # noqa: BLE001  whatever a library raises is the result
        return f"**{type(error).__name__}**"


def in_case(case: Case, name: str, maker: Maps) -> str:
    model, classes = case.make(), [0, 2, 1][: case.shape[0]]
    with case.around():
        images = pictures(*case.shape, kind=case.kind)
        found = maker(model, LAYER, images, classes)
    with torch.inference_mode():  # the images may be of that kind
        found, truth = found.clone(), closed_form(case.make(), images, classes)
    return judged(found, truth, case.shape[2:], name, case.limit)


def in_densenet(name: str, maker: Maps) -> str:
    """The ReLU behind ``features`` is a function in place; the truth is of the features the classifier sees."""
    from torchvision.models import densenet121

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = densenet121(num_classes=14).eval()
    images = pictures(2, 3, 96, 128)
    with torch.no_grad():
        features = model.features(images).relu()
        maps = torch.einsum("kc,nchw->nkhw", model.classifier.weight, features).relu() / features[0, 0].numel()
    k = int(maps.amax((0, 2, 3)).argmax())
    truth, layer = maps[:, k], None if name == OURS else "features"
    found = maker(model, layer, images, [k, k])  # type: ignore[arg-type]
    return judged(found, truth, (96, 128), name, FINE)


def in_threads(name: str, _: Maps) -> str:
    """In a process of its own, since threads that write the gradients of one model can end it."""
    command = [sys.executable, "-m", "benchmarks.robustness", name]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() if done.returncode >= 0 else f"**process died, {signal.Signals(-done.returncode).name}**"


def threads(maker: Maps) -> str:
    """Threads on one shared model, every result against that of one thread alone."""
    model = toy()
    images = [pictures(2, 1, 40, 56) * (1 + k) for k in range(THREADS)]
    classes = [[k % 5, (k + 1) % 5] for k in range(THREADS)]
    expected = [maker(toy(), LAYER, *each) for each in zip(images, classes, strict=True)]
    right, start = [0] * THREADS, threading.Barrier(THREADS)

    def work(k: int) -> None:
        start.wait()
        for _ in range(CALLS):
            with suppress(Exception):
                found = maker(model, LAYER, images[k], classes[k])
                right[k] += found.shape == expected[k].shape and torch.allclose(found, expected[k], 1e-4, 1e-8)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    words = f"{sum(right)} of {THREADS * CALLS} right"
    return f"ok, {words}" if sum(right) == THREADS * CALLS else f"**wrong**, {words}"


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def touched_grad(_: str, maker: Maps) -> str:
    """Gradients of a training step that was under way."""
    model, images = toy(), pictures(2, 1, 40, 56)
    model(images).square().sum().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    maker(model, LAYER, images, [1, 1])
    after = [p.grad for p in model.parameters()]
    kept = all(new is not None and torch.equal(old, new) for old, new in zip(before, after, strict=True))
    return "ok, untouched" if kept else "**changed**"


def lost_flags(_: str, maker: Maps) -> str:
    """A model in training of which one part is frozen in evaluation."""
    model = toy().train()
    model.features[0].eval()
    before = [module.training for module in model.modules()]
    maker(model, LAYER, pictures(2, 1, 40, 56), [1, 1])
    return "ok, kept" if before == [module.training for module in model.modules()] else "**lost**"


def left_hooks(_: str, maker: Maps) -> str:
    model = toy()
    for _ in range(3):
        maker(model, LAYER, pictures(2, 1, 40, 56), [1, 1])
    gc.collect()
    left = hooks_of(model) / 3
    return "ok, 0" if left == 0 else f"**{left:.0f}**"


def grown_memory(_: str, maker: Maps) -> str:
    from torchvision.models import resnet18

    model, images = resnet18(num_classes=5).eval(), pictures(1, 3, 64, 64)
    for _ in range(3):
        maker(model, "layer4", images, [1])
    before = resident()
    for _ in range(CYCLES):
        maker(model, "layer4", images, [1])
    grown = max(0.0, (resident() - before) / 2**20)
    return f"ok, {grown:.0f} MiB" if grown < LEAST_MB else f"**{grown:.0f} MiB**"


def resident() -> int:
    gc.collect()
    with suppress(OSError, AttributeError):  # free memory goes back to the system where that can be asked for
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


MAPS: dict[str, Callable[[str, Maps], str]] = {
    **{case.name: partial(in_case, case) for case in CASES},
    "DenseNet-121 (functional ReLU), one class": in_densenet,
    f"{THREADS} threads on one shared model": in_threads,
}
TRACES: dict[str, Callable[[str, Maps], str]] = {
    "`.grad` of a step under way": touched_grad,
    "training flags, mixed": lost_flags,
    "hooks left per construction": left_hooks,
    f"memory grown by {CYCLES} constructions (ResNet-18)": grown_memory,
}


def line(what: str, cells: list[str]) -> str:
    return f"| {what} | {' | '.join(cells)} |\n"


def run() -> str:
    title = "## Robustness of map makers\n\n"
    if not present():
        return title + "The libraries to compare with are not installed (`pip install lesioncam[peers]`).\n"
    known = versions()
    rows = {
        what: [cell(partial(check, *each)) for each in MAKERS.items()] for what, check in {**MAPS, **TRACES}.items()
    }
    passed = [sum(rows[what][k].startswith("ok") for what in rows) for k in range(len(MAKERS))]
    ours_fine = all(cells[-1].startswith("ok") for cells in rows.values())
    names = [f"{name} {known[name]}" if name in known else name for name in MAKERS]
    return (
        f"{title}Grad-CAM of a network with a closed form (convolution, ReLU, convolution, ReLU, mean, linear; truth "
        "relu(w . f) / P), **another class for each image** of a batch unless it says otherwise. Error: largest over "
        f"the largest true value; {FINE:g} is allowed, {COARSE:g} in bf16. pytorch-grad-cam gives no raw maps: "
        f"the truth is enlarged linearly and scaled like its maps, and {SCALED_LIMIT:g} is allowed. Bold: fails. "
        "MONAI has batches right when all images share one class. In torchvision's DenseNet the peers are "
        "given `features`, the nearest module; the classifier sees what a functional ReLU behind it gives.\n\n"
        + line("", names)
        + "|"
        + "---|" * (len(MAKERS) + 1)
        + "\n"
        + "".join(line(what, cells) for what, cells in rows.items())
        + line("passed", [f"{count} of {len(rows)}" for count in passed])
        + f"\nEvery case of ours must be ok: {'kept' if ours_fine else '**missed**'}.\n"
    )


if __name__ == "__main__":
    print(cell(partial(threads, MAKERS[sys.argv[1]])) if sys.argv[1:] else run())
