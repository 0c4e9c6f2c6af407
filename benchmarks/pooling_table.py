"""`python -m benchmarks.pooling_table`: writes the table of docs/poolings.md, what poolings do to a small lesion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lesioncam.functional.attention import Attention, acam_pool, attention_pool
from lesioncam.functional.pooling import POOLINGS

PAGE = Path(__file__).parents[1] / "docs" / "poolings.md"
BEGIN, END = "<!-- table: python -m benchmarks.pooling_table -->\n", "<!-- end of table -->\n"
LESION = 4.0
SCENES = ((16, -4.0), (16, -2.0), (32, -4.0), (32, -2.0))
"""Cells along each side, and the logit of the background."""

Pool = Callable[[Tensor], Tensor]


def option(kind: str, **options: float) -> Pool:
    return lambda maps: POOLINGS[kind](maps, **options)


def lesion_seen(maps: Tensor) -> Tensor:
    """Features that tell the lesion from everything else."""
    return (maps == LESION).to(maps.dtype)


def attended(strength: float) -> Pool:
    one = torch.ones(1, 1, dtype=torch.float64)
    return lambda maps: attention_pool(maps, lesion_seen(maps), Attention(50 * one, strength * one))


def along_axes(strength: float) -> Pool:
    weight = strength * torch.ones(2, 1, dtype=torch.float64)
    return lambda maps: acam_pool(maps, lesion_seen(maps), weight)


ROWS: dict[str, Pool] = {
    "`avg`": option("avg"),
    "`lse`, sharpness 10": option("lse", sharpness=10.0),
    "`lse`, sharpness 1": option("lse", sharpness=1.0),
    "`exp`": option("exp"),
    "`linear`": option("linear"),
    "`topq`, fraction 0.02": option("topq", fraction=0.02),
    "`pcam`, temperature 1 (paper)": option("pcam", temperature=1.0),
    "`pcam`, temperature 0.5": option("pcam", temperature=0.5),
    "`pcam`, temperature 0.25": option("pcam", temperature=0.25),
    "`max`": option("max"),
    "`noisy_or`": option("noisy_or"),
    "`attention`, before it has learnt": attended(0.0),
    "`attention`, all on the lesion": attended(1e3),
    "`acam`, before it has learnt": along_axes(0.0),
    "`acam`, all on the lesion's row and column": along_axes(1e5),
}


def scene(side: int, background: float, *, lesion: bool = True) -> Tensor:
    maps = torch.full((1, 1, side, side), background, dtype=torch.float64)
    if lesion:
        maps[..., side // 2, side // 3] = LESION
    return maps


def share_of_gradient(pool: Pool, maps: Tensor) -> float:
    """How much of all that the image logit asks of the map goes to the lesion."""
    maps = maps.clone().requires_grad_()
    asked = torch.autograd.grad(pool(maps).sum(), maps)[0].abs().detach()
    return float(asked[maps.detach() == LESION].sum() / asked.sum())


def cells(pool: Pool) -> list[str]:
    found = [float(pool(scene(*each)).sigmoid()) for each in SCENES]
    healthy = [float(pool(scene(*each, lesion=False)).sigmoid()) for each in SCENES[:1]]
    return [f"{value:.3f}" for value in (*found, *healthy, share_of_gradient(pool, scene(*SCENES[0])))]


def row(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |\n"


def table() -> str:
    heads = [f"{side} x {side}, {background:g}" for side, background in SCENES]
    more = [f"no lesion, {heads[0]}", f"gradient at the lesion, {heads[0]}"]
    text = row(["pooling", *heads, *more]) + "|" + "---|" * (1 + len(heads) + len(more)) + "\n"
    return text + "".join(row([name, *cells(pool)]) for name, pool in ROWS.items())


def written(page: str) -> str:
    """The table as it stands in the page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


if __name__ == "__main__":
    before = PAGE.read_text()
    head, tail = before.partition(BEGIN)[0], before.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")
