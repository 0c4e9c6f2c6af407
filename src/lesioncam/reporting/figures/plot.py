"""How plots are drawn and saved: inline SVG coloured by the page (so that dark mode works), files for a paper."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesioncam.files import write_bytes, write_text

INK, MUTED, RULE, PAPER = "#1a1f24", "#5a636b", "#d4d9dd", "#fefefe"
THEME = {PAPER: "var(--paper)", INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", "#0072b2": "var(--blue)"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5558f", "#b07900", "#3f95c9")
"""Okabe and Ito, a little darker where white paper needs it."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
DPI = 200
STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lesioncam",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
}


@dataclass(frozen=True)
class Plot:
    """An inline SVG, its natural width in CSS pixels, and the words for those who do not see it.

    ``key`` is its name, ``file`` the SVG as it stands in a file, ``figure`` what was drawn, to be saved as PNG too.
    """

    svg: str
    alt: str
    width: float
    key: str
    file: str
    figure: Figure


def save_plots(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write every plot as SVG and PNG (200 dpi), the same bytes for the same numbers; older plots there go.

    Args:
        plots: with different keys.
        folder: is made if need be and holds nothing else.
    """
    found = []
    for plot in plots:
        found.append(write_text(folder / f"{plot.key}.svg", plot.file))
        stream = BytesIO()
        _save(plot.figure, stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        found.append(write_bytes(folder / f"{plot.key}.png", stream.getvalue()))
    for old in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if old not in found:
            old.unlink()
    return found


def make_plot(key: str, size: tuple[float, float], draw: Callable[[Axes], None], alt: str) -> Plot:
    """Draw once, and save as SVG for the page."""
    stream = StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        draw(figure.add_subplot())
    _save(figure, stream, format="svg", transparent=True, metadata=NO_METADATA)
    svg = _inline(stream.getvalue(), key)
    width = float(svg.split('"')[1].split()[2]) * 4 / 3
    return Plot(svg, alt, width, key, stream.getvalue().replace(PAPER, "#ffffff"), figure)


def _save(figure: Figure, stream: IO[bytes] | IO[str], **options: Any) -> None:
    with rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser sets the text, in its own fonts; matplotlib's lack of a Chinese one does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure.savefig(stream, bbox_inches="tight", pad_inches=0.05, **options)


NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def _inline(svg: str, key: str) -> str:
    """Cut the XML header, make ids unique within the page and let the page's theme colour the drawing."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{key}-", body)
    body = re.sub(
        r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', body
    )
    body = re.sub(r"\s*\n\s*", "\n", body.replace("xlink:href", "href"))
    for colour, name in THEME.items():
        body = body.replace(colour, name)
    return body
