"""Plots of the report: inline SVG coloured by the page (so that dark mode works), and files for a paper."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lesioncam.evaluation.metric import title_of
from lesioncam.files import write_bytes, write_text
from lesioncam.reporting.figures.reliability import Reliability, reliability
from lesioncam.reporting.report.read import Evaluation
from lesioncam.reporting.words.words import Estimate, estimate, method_name, number

__all__ = [
    "Plot",
    "cascade_plots",
    "control_plots",
    "curve_plots",
    "history_plots",
    "make_plot",
    "reliability_plots",
    "save_plots",
    "subgroup_plots",
]

INK, MUTED, RULE, PAPER = "#1a1f24", "#5a636b", "#d4d9dd", "#fefefe"
THEME = {PAPER: "var(--paper)", INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", "#0072b2": "var(--blue)"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5558f", "#b07900", "#3f95c9")
"""Okabe and Ito, a little darker where white paper needs it."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
CLASSES_PER_PLOT = 6
LINES_PER_PLOT = 60
"""A longer control plot shows the mean of the classes only."""
DPI = 200
STYLE: dict[str, Any] = {
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

    ``key`` is its name, ``file`` the SVG as it stands in a file, ``size`` and ``draw`` what it takes to draw it again.
    """

    svg: str
    alt: str
    width: float
    key: str
    file: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]


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
        _save(plot.size, plot.draw, stream, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        found.append(write_bytes(folder / f"{plot.key}.png", stream.getvalue()))
    for old in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if old not in found:
            old.unlink()
    return found


def history_plots(history: pd.DataFrame, best: int | None) -> list[Plot]:
    """Learning curves: losses, and the validation AUROC where it was recorded."""
    if history.empty or "epoch" not in history:
        return []
    table = history.apply(pd.to_numeric, errors="coerce")
    wanted = [
        ("Loss", {"train_loss": "training", "val_loss": "validation"}),
        ("AUROC on validation", {"val_auroc": "validation"}),
        ("Kappa on validation", {"val_kappa": "validation"}),
    ]
    plots = [_history_plot(table, best, title, columns) for title, columns in wanted]
    return [plot for plot in plots if plot is not None]


def cascade_plots(evaluation: Evaluation) -> list[Plot]:
    """How like the maps stay to what they were while layer after layer loses what it learnt."""
    steps = () if evaluation.summary.sanity is None else evaluation.summary.sanity.cascade
    known = [(step.randomised, step.similarity) for step in steps if step.similarity is not None]
    if len(known) < 2:
        return []
    depth, likeness = zip(*known, strict=True)

    def draw(axes: Axes) -> None:
        axes.plot(depth, likeness, color=COLOURS[0], marker="o", markersize=4)
        axes.axhline(0, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set(xlabel="layers with random weights, from the output down", ylabel="rank correlation with the maps")
        axes.set(ylim=(min(-0.2, *likeness) - 0.05, 1.05), title="Randomised layer by layer")
        axes.grid()

    said = f"From {number(likeness[0], 2)} to {number(likeness[-1], 2)} after {depth[-1]} layers."
    return [make_plot(f"cascade-{evaluation.split}", (3.7, 2.6), draw, f"Likeness of maps under randomisation. {said}")]


def curve_plots(evaluation: Evaluation) -> list[Plot]:
    """ROC and precision-recall curves, up to six classes in one plot."""
    plots = []
    for start in range(0, len(evaluation.classes), CLASSES_PER_PLOT):
        group = evaluation.classes[start : start + CLASSES_PER_PLOT]
        plots += [plot for plot in (_roc(evaluation, group), _precision_recall(evaluation, group)) if plot is not None]
    return plots


def control_plots(evaluation: Evaluation) -> list[Plot]:
    """The method beside its controls, value and interval, one plot for each measure of place."""
    wanted = [("segmentation", "dice"), ("localisation", "pointing_game"), ("localisation", "box_hit_rate")]
    plots = [_control_plot(evaluation, task, metric) for task, metric in wanted]
    return [plot for plot in plots if plot is not None]


def reliability_plots(evaluation: Evaluation, least: int = 1) -> list[Plot]:
    """How often a finding is there when the score says so, up to six classes in one plot.

    Args:
        evaluation: of one split.
        least: images in a bin at least; more of them make fewer bins.
    """
    plots = []
    for start in range(0, len(evaluation.classes), CLASSES_PER_PLOT):
        group = evaluation.classes[start : start + CLASSES_PER_PLOT]
        found = {label: reliability(evaluation.cases, label, least) for label in group}
        known = {label: one for label, one in found.items() if one is not None}
        if known:
            plots.append(_reliability(evaluation, group, known))
    return plots


def subgroup_plots(evaluation: Evaluation) -> list[Plot]:
    """AUROC, Dice and pointing game of every group of every column, with intervals, for the mean of classes."""
    rows = evaluation.subgroups
    if rows.empty:
        return []
    rows = rows[(rows["class"] == evaluation.mean) & (rows["method"] == evaluation.method) & rows["value"].notna()]
    wanted = [("classification", "auroc"), ("segmentation", "dice"), ("localisation", "pointing_game")]
    parts = [rows[(rows["task"] == task) & (rows["metric"] == metric)] for task, metric in wanted]
    return [_subgroups(evaluation, metric, part) for (_, metric), part in zip(wanted, parts, strict=True) if len(part)]


def _reliability(evaluation: Evaluation, group: Sequence[str], found: dict[str, Reliability]) -> Plot:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", label="perfectly calibrated")
        for i, label in enumerate(group):
            if label in found:
                one = found[label]
                axes.plot(one.predicted, one.observed, linestyle=STYLES[i], color=COLOURS[i], marker="o", markersize=4,
                          label=f" {label}: {_errors(evaluation, label, one)}")  # fmt: skip
        axes.set(
            title="Reliability, with calibration error", xlabel="mean probability", ylabel="share with the finding"
        )
        _square(axes)

    said = "; ".join(f"{label}: {_errors(evaluation, label, one)}" for label, one in found.items())
    return make_plot(_key("reliability", evaluation, group), (3.7, 4.2), draw, f"Reliability plot. {said}.")


def _errors(evaluation: Evaluation, label: str, one: Reliability) -> str:
    """ECE and Brier score as metrics.csv has them, otherwise of the bins that are drawn."""
    found = [estimate(evaluation, "classification", metric, label) for metric in ("ece", "brier")]
    pairs = zip(("ECE", "Brier"), found, (one.ece, one.brier), strict=True)
    return ", ".join(f"{name} {number(own if row is None else row.value)}" for name, row, own in pairs)


def _subgroups(evaluation: Evaluation, metric: str, rows: pd.DataFrame) -> Plot:
    lines: list[tuple[str, dict[Any, Any] | None]] = []
    for column, part in rows.groupby("column", sort=False):
        lines += [(str(column), None), *((str(row["group"]), row) for row in part.to_dict("records"))]

    def draw(axes: Axes) -> None:
        for y, (_, row) in enumerate(lines):
            if row is not None:
                one = Estimate(metric, row["value"], row["low"], row["high"], 0, 0, "")
                _draw_estimate(axes, y, one, "own")
        axes.set(xlim=(0, 1), ylim=(len(lines) - 0.4, -0.6), title=f"{title_of(metric)} with 95 % interval")
        axes.set_yticks(range(len(lines)), [_group_tick(name, row) for name, row in lines])
        axes.tick_params(axis="y", length=0)
        for tick, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("normal" if row is not None else "bold")
        axes.grid(axis="x")
        axes.set_axisbelow(True)

    said = [f"{name}: {number(row['value'])}" if row is not None else name for name, row in lines]
    size = (3.0, 0.75 + 0.2 * len(lines))
    return make_plot(f"subgroups-{evaluation.split}-{metric}", size, draw, f"{title_of(metric)}. {'; '.join(said)}")


def _group_tick(name: str, row: dict[Any, Any] | None) -> str:
    if row is None:
        return name
    return f"{name} (n {str(row.get('said') or int(row['n'])).partition(' images')[0]})"


def _history_plot(table: pd.DataFrame, best: int | None, title: str, columns: dict[str, str]) -> Plot | None:
    shown = {name: label for name, label in columns.items() if name in table and table[name].notna().any()}
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for i, (name, label) in enumerate(shown.items()):
            marker = "o" if len(table) < 3 else ""
            axes.plot(table["epoch"], table[name], STYLES[i], color=COLOURS[i], label=label, marker=marker)
        if best is not None:
            axes.axvline(best, color=MUTED, linewidth=0.8, linestyle=":", label=f"kept: epoch {best}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend()

    ends = "; ".join(f"{label} {number(table[name].dropna().iloc[-1])} at the end" for name, label in shown.items())
    kept = "" if best is None else f" Epoch {best} was kept."
    return make_plot(
        f"history-{next(iter(shown))}", (3.7, 2.6), draw, f"{title} over {len(table)} epochs: {ends}.{kept}"
    )


def _roc(evaluation: Evaluation, classes: Sequence[str]) -> Plot | None:
    curves = _curves(evaluation, classes, "roc", ("fpr", "tpr"))
    if not curves:
        return None
    points = {label: _operating_point(evaluation, label) for label in curves}

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", label="chance")
        for i, label, (x, y) in _numbered(curves, classes):
            axes.plot(x, y, linestyle=STYLES[i], color=COLOURS[i], label=_labelled(evaluation, label, "auroc"))
            axes.plot(*points[label], "o", color=COLOURS[i], markersize=5)
        _name_missing(axes, evaluation, [label for label in classes if label not in curves], "auroc")
        axes.set(title="ROC, with area under the curve", xlabel="1 − specificity", ylabel="sensitivity")
        _square(axes)

    return make_plot(
        _key("roc", evaluation, classes), (3.7, 4.2), draw, _alt(evaluation, "ROC curves", curves, "auroc")
    )


def _precision_recall(evaluation: Evaluation, classes: Sequence[str]) -> Plot | None:
    curves = _curves(evaluation, classes, "pr", ("recall", "precision"))
    if not curves:
        return None
    shares = {label: _prevalence(evaluation, label) for label in classes}

    def draw(axes: Axes) -> None:
        for i, label, (x, y) in _numbered(curves, classes):
            axes.plot(
                x, y, linestyle=STYLES[i], color=COLOURS[i], label=_labelled(evaluation, label, "average_precision")
            )
            axes.axhline(shares[label], color=COLOURS[i], linewidth=0.7, linestyle=":")
        axes.plot([], [], color=MUTED, linewidth=0.8, linestyle=":", label="chance: share of positives")
        _name_missing(axes, evaluation, [label for label in classes if label not in curves], "average_precision")
        axes.set(title="Precision and recall, with average precision", xlabel="recall", ylabel="precision")
        _square(axes)

    alt = _alt(evaluation, "Precision-recall curves", curves, "average_precision")
    return make_plot(_key("pr", evaluation, classes), (3.7, 4.2), draw, alt)


def _control_plot(evaluation: Evaluation, task: str, metric: str) -> Plot | None:
    lines = list(_control_lines(evaluation, task, metric, (*evaluation.classes, "macro")))
    if len(lines) > LINES_PER_PLOT:
        lines = list(_control_lines(evaluation, task, metric, (evaluation.mean,)))
    if not any(one is not None and one.known for _, _, one in lines):
        return None

    def draw(axes: Axes) -> None:
        for y, (_, method, one) in enumerate(lines):
            if one is not None:
                _draw_estimate(axes, y, one, _kind(evaluation, method))
        axes.set(xlim=(0, 1), ylim=(len(lines) - 0.4, -0.6), title=f"{title_of(metric)} with 95 % interval")
        axes.set_yticks(range(len(lines)), [_tick(label, method) for label, method, _ in lines])
        axes.tick_params(axis="y", length=0)
        for tick, (_, method, _) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("normal" if method else "bold")
        axes.grid(axis="x")
        axes.set_axisbelow(True)

    said = [f"{label}, {method_name(m)}: {one.text} {one.interval}".rstrip() for label, m, one in lines if m and one]
    size = (3.4, 0.75 + 0.2 * len(lines))
    return make_plot(f"controls-{evaluation.split}-{metric}", size, draw, "; ".join(said))


def _control_lines(
    evaluation: Evaluation, task: str, metric: str, labels: Sequence[str]
) -> Iterator[tuple[str, str, Estimate | None]]:
    """Rows from top to bottom: a heading for each class, then the method, its controls, and what is possible."""
    methods = (evaluation.method, *evaluation.controls, *evaluation.bounds)
    for label in labels:
        if label == "macro" and len(evaluation.classes) == 1:
            continue
        found = [(m, one) for m in methods if (one := estimate(evaluation, task, metric, label, m)) is not None]
        if found:
            yield label, "", None
            yield from ((label, method, one) for method, one in found)


def _kind(evaluation: Evaluation, method: str) -> str:
    return "own" if method == evaluation.method else "control" if method in evaluation.controls else "bound"


def _tick(label: str, method: str) -> str:
    return method_name(method).removesuffix(" on validation masks") if method else _heading(label)


def _heading(label: str) -> str:
    return "Mean of classes" if label == "macro" else label


def _draw_estimate(axes: Axes, y: float, one: Estimate, kind: str) -> None:
    """The method as a blue dot, a control as a grey square, a bound as a hollow diamond."""
    if not one.known:
        axes.text(0.02, y, one.text, va="center", color=MUTED, fontsize=8)
        return
    colour = COLOURS[0] if kind == "own" else MUTED
    marker, size = {"own": ("o", 6.0), "control": ("s", 4.0), "bound": ("D", 5.0)}[kind]
    if one.interval:
        axes.plot([one.low, one.high], [y, y], color=colour, linewidth=2.2 if kind == "own" else 1.2,
                  linestyle=":" if kind == "bound" else "-", solid_capstyle="butt")  # fmt: skip
    axes.plot([one.value], [y], marker, color=colour, markersize=size, clip_on=False,
              markerfacecolor=PAPER if kind == "bound" else colour)  # fmt: skip
    axes.text(1.04, y, number(one.value), va="center", transform=axes.get_yaxis_transform(), clip_on=False)


def _numbered(curves: dict[str, Any], classes: Sequence[str]) -> Iterator[tuple[int, str, Any]]:
    return ((i, label, curves[label]) for i, label in enumerate(classes) if label in curves)


def _curves(evaluation: Evaluation, classes: Sequence[str], kind: str, axes: tuple[str, str]) -> dict[str, Any]:
    found = {}
    for label in classes:
        x, y = (np.asarray(evaluation.curves.get(f"{kind}/{label}/{axis}", []), dtype=float) for axis in axes)
        if len(x) and np.isfinite(x).all() and np.isfinite(y).all():
            found[label] = _thin(x, y)
    return found


def _thin(x: np.ndarray, y: np.ndarray, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return x[keep], y[keep]


def _labelled(evaluation: Evaluation, label: str, metric: str) -> str:
    one = estimate(evaluation, "classification", metric, label)
    said = "" if one is None else f": {one.text}" + (f" ({one.interval})" if one.interval else "")
    return f" {label}{said}"  # matplotlib keeps names that begin with "_" out of a legend


def _name_missing(axes: Axes, evaluation: Evaluation, labels: Sequence[str], metric: str) -> None:
    """A class without a curve keeps its line in the legend, so that nobody has to look for it."""
    for label in labels:
        axes.plot([], [], color="none", label=_labelled(evaluation, label, metric))


def _alt(evaluation: Evaluation, what: str, curves: dict[str, Any], metric: str) -> str:
    said = "; ".join(_labelled(evaluation, label, metric) for label in curves)
    return f"{what}. {title_of(metric)} with 95 % interval: {said}."


def _operating_point(evaluation: Evaluation, label: str) -> tuple[list[float], list[float]]:
    """Share of negatives and of positives that are called, counted in cases.csv; nothing where one is undefined."""
    rows = evaluation.cases[evaluation.cases["class"] == label]
    called = rows["positive"].isin(["1", "True", "true"])
    shares = [float(called[rows["label"] == state].mean()) for state in (0.0, 1.0)]
    return ([shares[0]], [shares[1]]) if np.isfinite(shares).all() else ([], [])


def _prevalence(evaluation: Evaluation, label: str) -> float:
    labels = evaluation.cases["label"][evaluation.cases["class"] == label]
    known = labels[labels.isin([0.0, 1.0])]
    return float(known.mean()) if len(known) else 0.0


def _square(axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid()
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), borderaxespad=0, handlelength=2.6)


def _key(kind: str, evaluation: Evaluation, classes: Sequence[str]) -> str:
    return f"{kind}-{evaluation.split}-{evaluation.classes.index(classes[0])}"


def make_plot(key: str, size: tuple[float, float], draw: Callable[[Axes], None], alt: str) -> Plot:
    """Draw once as SVG (in the page) and keep how to draw it again as PNG."""
    stream = StringIO()
    _save(size, draw, stream, format="svg", transparent=True, metadata=NO_METADATA)
    svg = _inline(stream.getvalue(), key)
    width = float(svg.split('"')[1].split()[2]) * 4 / 3
    return Plot(svg, alt, width, key, stream.getvalue().replace(PAPER, "#ffffff"), size, draw)


def _save(size: tuple[float, float], draw: Callable[[Axes], None], stream: Any, **options: Any) -> None:
    with rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser sets the text, in its own fonts; matplotlib's lack of a Chinese one does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=size)
        draw(figure.add_subplot())
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
