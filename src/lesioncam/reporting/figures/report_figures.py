"""Plots of the report: learning curves, ROC, reliability, the method beside its controls, subgroups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lesioncam.evaluation.metric import title_of
from lesioncam.reporting.figures.forest import MOST_LINES, Forest, Kind, Mark, forest_plot
from lesioncam.reporting.figures.plot import COLOURS, MUTED, STYLES, Plot, make_plot
from lesioncam.reporting.figures.reliability import Reliability, reliability
from lesioncam.reporting.report.read import Evaluation
from lesioncam.reporting.words.words import Estimate, class_name, estimate, method_name, number

CLASSES_PER_PLOT = 6
Curve = tuple[np.ndarray, np.ndarray]


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
    lines: list[tuple[str, Mark | None]] = []
    said = []
    for column, part in rows.groupby("column", sort=False):
        lines.append((str(column), None))
        said.append(str(column))
        counts = part["said"] if "said" in part else [""] * len(part)
        for group, value, low, high, n, shown in zip(
            *(part[name] for name in ("group", "value", "low", "high", "n")), counts, strict=True
        ):
            words = str(shown or int(n)).partition(" images")[0]
            lines.append((f"{group} (n {words})", Mark(value, (low, high), number(value))))
            said.append(f"{group}: {number(value)}")
    name = title_of(metric)
    forest = Forest(f"{name} with 95 % interval", lines)
    return forest_plot(f"subgroups-{evaluation.split}-{metric}", forest, f"{name}. {'; '.join(said)}", width=3.0)


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
    if len(lines) > MOST_LINES:
        lines = list(_control_lines(evaluation, task, metric, (evaluation.mean,)))
    if not any(one is not None and one.known for _, _, one in lines):
        return None
    forest = Forest(
        f"{title_of(metric)} with 95 % interval",
        [(_tick(label, method), _mark(evaluation, method, one)) for label, method, one in lines],
    )
    said = [f"{label}, {method_name(m)}: {one.text} {one.interval}".rstrip() for label, m, one in lines if one]
    return forest_plot(f"controls-{evaluation.split}-{metric}", forest, "; ".join(said))


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


def _mark(evaluation: Evaluation, method: str, one: Estimate | None) -> Mark | None:
    if one is None:
        return None
    kind: Kind = "own" if method == evaluation.method else "control" if method in evaluation.controls else "bound"
    return Mark(one.value, (one.low, one.high), number(one.value) if one.known else one.text, kind)


def _tick(label: str, method: str) -> str:
    return method_name(method).removesuffix(" on validation masks") if method else class_name(label)


def _numbered(curves: Mapping[str, Curve], classes: Sequence[str]) -> Iterator[tuple[int, str, Curve]]:
    return ((i, label, curves[label]) for i, label in enumerate(classes) if label in curves)


def _curves(evaluation: Evaluation, classes: Sequence[str], kind: str, axes: tuple[str, str]) -> Mapping[str, Curve]:
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


def _alt(evaluation: Evaluation, what: str, curves: Mapping[str, Curve], metric: str) -> str:
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
