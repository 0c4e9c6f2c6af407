"""lesioncam: from a table of image-level labels to heat maps, boxes, lesion masks, honest numbers and a report.

Public names load their module when first used, so `import lesioncam` is instant and loads no torch.
For research; not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lesioncam.config import (
        AcamPool,
        AttentionPool,
        AvgPool,
        BackboneConfig,
        ExpPool,
        HeadConfig,
        LinearPool,
        LsePool,
        MaxPool,
        NoisyOrPool,
        PcamPool,
        RunConfig,
        TableConfig,
        TopqPool,
    )
    from lesioncam.data.check import check_table
    from lesioncam.data.preprocess import Preprocess
    from lesioncam.data.sources import index_source
    from lesioncam.data.split import split_table
    from lesioncam.data.table import Table, read_table, write_table
    from lesioncam.errors import LesioncamError
    from lesioncam.explanation.explain import explain
    from lesioncam.geometry import Geometry
    from lesioncam.models.checkpoint import load_classifier as load
    from lesioncam.pipeline.adopt import adopt
    from lesioncam.pipeline.case import analyse
    from lesioncam.pipeline.explainer import Explainer
    from lesioncam.pipeline.recipe import load_recipe
    from lesioncam.pipeline.steps import demo, evaluate, evaluate_maps, predict, report, run, train
    from lesioncam.pipeline.sweep import sweep
    from lesioncam.reporting.comparison import compare_runs as compare
    from lesioncam.types import CaseResult, ClassifierOutput, Heatmap, Heatmaps, Segmentation

_HOMES = {
    "AcamPool": "lesioncam.config",
    "AttentionPool": "lesioncam.config",
    "AvgPool": "lesioncam.config",
    "BackboneConfig": "lesioncam.config",
    "CaseResult": "lesioncam.types",
    "ClassifierOutput": "lesioncam.types",
    "ExpPool": "lesioncam.config",
    "Explainer": "lesioncam.pipeline.explainer",
    "Geometry": "lesioncam.geometry",
    "HeadConfig": "lesioncam.config",
    "Heatmap": "lesioncam.types",
    "Heatmaps": "lesioncam.types",
    "LesioncamError": "lesioncam.errors",
    "LinearPool": "lesioncam.config",
    "LsePool": "lesioncam.config",
    "MaxPool": "lesioncam.config",
    "NoisyOrPool": "lesioncam.config",
    "PcamPool": "lesioncam.config",
    "Preprocess": "lesioncam.data.preprocess",
    "RunConfig": "lesioncam.config",
    "Segmentation": "lesioncam.types",
    "Table": "lesioncam.data.table",
    "TableConfig": "lesioncam.config",
    "TopqPool": "lesioncam.config",
    "adopt": "lesioncam.pipeline.adopt",
    "analyse": "lesioncam.pipeline.case",
    "check_table": "lesioncam.data.check",
    "compare": "lesioncam.reporting.comparison:compare_runs",
    "demo": "lesioncam.pipeline.steps",
    "evaluate": "lesioncam.pipeline.steps",
    "evaluate_maps": "lesioncam.pipeline.steps",
    "explain": "lesioncam.explanation.explain",
    "index_source": "lesioncam.data.sources",
    "load": "lesioncam.models.checkpoint:load_classifier",
    "load_recipe": "lesioncam.pipeline.recipe",
    "predict": "lesioncam.pipeline.steps",
    "read_table": "lesioncam.data.table",
    "report": "lesioncam.pipeline.steps",
    "run": "lesioncam.pipeline.steps",
    "split_table": "lesioncam.data.split",
    "sweep": "lesioncam.pipeline.sweep",
    "train": "lesioncam.pipeline.steps",
    "write_table": "lesioncam.data.table",
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
