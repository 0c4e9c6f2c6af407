"""lesioncam: from a table of image-level labels to heat maps, boxes, lesion masks, honest numbers and a report.

Public names load their module when first used, so `import lesioncam` is instant and loads no torch.
For research; not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lesioncam.data.preprocess import Preprocess
    from lesioncam.data.sources import index_source
    from lesioncam.data.table.check import check_table
    from lesioncam.data.table.split import split_table
    from lesioncam.data.table.table import Table, read_table, write_table
    from lesioncam.errors import LesioncamError
    from lesioncam.explanation.explain import explain
    from lesioncam.geometry import Geometry
    from lesioncam.inference.explainer import Explainer
    from lesioncam.inference.look import analyse
    from lesioncam.models.checkpoint import load_classifier as load
    from lesioncam.options.data import TableConfig
    from lesioncam.options.networks import BackboneConfig, HeadConfig
    from lesioncam.options.poolings import (
        AcamPool,
        AttentionPool,
        AvgPool,
        ExpPool,
        LinearPool,
        LsePool,
        MaxPool,
        NoisyOrPool,
        PcamPool,
        TopqPool,
    )
    from lesioncam.options.recipes import load_recipe
    from lesioncam.options.run import RunConfig
    from lesioncam.reporting.comparison.comparison import compare_runs as compare
    from lesioncam.types import CaseResult, ClassifierOutput, Heatmap, Heatmaps, Segmentation
    from lesioncam.verbs.adopt import adopt
    from lesioncam.verbs.demo import demo
    from lesioncam.verbs.evaluate import evaluate
    from lesioncam.verbs.evaluate_maps import evaluate_maps
    from lesioncam.verbs.predict import predict
    from lesioncam.verbs.report import report
    from lesioncam.verbs.run import run
    from lesioncam.verbs.sweep import sweep
    from lesioncam.verbs.train import train

_HOMES = {
    "AcamPool": "lesioncam.options.poolings",
    "AttentionPool": "lesioncam.options.poolings",
    "AvgPool": "lesioncam.options.poolings",
    "BackboneConfig": "lesioncam.options.networks",
    "CaseResult": "lesioncam.types",
    "ClassifierOutput": "lesioncam.types",
    "ExpPool": "lesioncam.options.poolings",
    "Explainer": "lesioncam.inference.explainer",
    "Geometry": "lesioncam.geometry",
    "HeadConfig": "lesioncam.options.networks",
    "Heatmap": "lesioncam.types",
    "Heatmaps": "lesioncam.types",
    "LesioncamError": "lesioncam.errors",
    "LinearPool": "lesioncam.options.poolings",
    "LsePool": "lesioncam.options.poolings",
    "MaxPool": "lesioncam.options.poolings",
    "NoisyOrPool": "lesioncam.options.poolings",
    "PcamPool": "lesioncam.options.poolings",
    "Preprocess": "lesioncam.data.preprocess",
    "RunConfig": "lesioncam.options.run",
    "Segmentation": "lesioncam.types",
    "Table": "lesioncam.data.table.table",
    "TableConfig": "lesioncam.options.data",
    "TopqPool": "lesioncam.options.poolings",
    "adopt": "lesioncam.verbs.adopt",
    "analyse": "lesioncam.inference.look",
    "check_table": "lesioncam.data.table.check",
    "compare": "lesioncam.reporting.comparison.comparison:compare_runs",
    "demo": "lesioncam.verbs.demo",
    "evaluate": "lesioncam.verbs.evaluate",
    "evaluate_maps": "lesioncam.verbs.evaluate_maps",
    "explain": "lesioncam.explanation.explain",
    "index_source": "lesioncam.data.sources",
    "load": "lesioncam.models.checkpoint:load_classifier",
    "load_recipe": "lesioncam.options.recipes",
    "predict": "lesioncam.verbs.predict",
    "read_table": "lesioncam.data.table.table",
    "report": "lesioncam.verbs.report",
    "run": "lesioncam.verbs.run",
    "split_table": "lesioncam.data.table.split",
    "sweep": "lesioncam.verbs.sweep",
    "train": "lesioncam.verbs.train",
    "write_table": "lesioncam.data.table.table",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lesioncam' has no attribute {name!r}")
    home, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(home), attribute or name)


def __dir__() -> list[str]:
    return list(__all__)
