"""A network of somebody else as the classifier of a run: tried, calibrated on validation, then treated as our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from torch import nn

from lesioncam.data.preprocess import Preprocess
from lesioncam.data.table.table import Table
from lesioncam.errors import ModelError
from lesioncam.evaluation.protocol import key_mark
from lesioncam.explanation.explain import MAP_METHODS
from lesioncam.files import write_text
from lesioncam.inference.classifier import ClassifierSubject
from lesioncam.inference.explainer import Explainer
from lesioncam.inference.self_test import SelfTest
from lesioncam.lookup import find
from lesioncam.measurement.calibrate import calibrate, check_scores
from lesioncam.measurement.guard import table_roles
from lesioncam.models.adopted import TIMM, build_adopted, trust
from lesioncam.models.checkpoint import TrainedClassifier, save_classifier
from lesioncam.models.weights import fill, read_weights
from lesioncam.options.base import validated
from lesioncam.options.data import ResizeCropConfig
from lesioncam.options.networks import AdoptConfig, BackboneConfig
from lesioncam.options.run import MapMethod, RunConfig, make_config
from lesioncam.progress import bars
from lesioncam.runs.card import AdoptedCard
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.verbs.begin import path_of, refuse_existing, remember_source, set_state, start
from lesioncam.verbs.prepare import checked
from lesioncam.verbs.result import Run

_TRIED = 4


@dataclass(frozen=True)
class Adopted:
    """A run folder made of somebody's network, and how the network did in its self-test."""

    run: Run
    test: SelfTest


def adopt(
    model: str,
    table: Table | str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    map: MapMethod | None = None,  # noqa: A002 (the option's name everywhere)
    layer: str | None = None,
    options: Mapping[str, object] | None = None,
    prepare: Mapping[str, object] | None = None,
    config: RunConfig | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Adopted:
    """Take in a network: load, try, choose thresholds and calibration on val; then evaluate and predict as for our own.

    Args:
        model: ``timm:NAME``, or ``module:function`` of your own that returns a ``torch.nn.Module``.
        table: with validation images, or to be split; classes in the order of the network's scores.
        out: the run folder to make.
        weights: safetensors, or a state dict of torch; a function of your own may bring its own.
        map: map method; None takes ``cam`` where the network ends in pooling and a linear layer, else ``gradcam``.
        layer: where maps are taken, a dotted name; None finds it.
        options: keyword arguments of the function that makes the network.
        prepare: how images are prepared (:class:`lesioncam.options.data.ResizeCropConfig`), where it is not what timm
            says.
        config: how the table is read, what is chosen on val and how, seed and draws.
        overwrite: replace an earlier run.
        progress: show bars.

    Returns:
        The run and the self-test.

    Raises:
        ModelError: if weights do not fit, or the network does not give one score per class, or fails its self-test.
        LesioncamError: for a bad table or folder.
    """
    folder, settled = RunFolder(Path(out)), config or RunConfig()
    check_scores(settled)
    if map is not None:
        find(map, MAP_METHODS, "map method")
    refuse_existing(folder, overwrite=overwrite)
    ready, found = checked(table, settled, learns=False)
    named = AdoptConfig(model=model, options=dict(options or {}), layer=layer)
    network = _network(named, weights, ready)
    named = named.model_copy(update={"prepare": _prepare(network, prepare or {})})
    classifier, test = _tried(network, named, settled, map, ready)
    start(folder, classifier.card.config, ready, overwrite=overwrite, found=found)
    remember_source(folder, table=path_of(table))
    _write_config(folder, classifier.card.config)
    card = replace(classifier.card, roles=table_roles(ready), key_mark=key_mark(run_key(folder)))
    save_classifier(folder, network, card)
    trust(folder.root, named)
    calibrate(folder, ClassifierSubject(classifier).with_card(card), progress=bars(wanted=progress))
    set_state(folder, "done", "adopt")
    return Adopted(Run(folder.root), test)


# ---- parts -------------------------------------------------------------------------------------------------------


def _network(named: AdoptConfig, weights: str | Path | None, table: Table) -> nn.Module:
    kind = named.model.partition(":")[0]
    if kind == TIMM and weights is None:
        raise ModelError(f"{named.model} needs its weights: --weights model.safetensors (random ones explain nothing).")
    tensors = None if weights is None else read_weights(weights)
    network = build_adopted(named, len(table.classes))
    if tensors is not None:
        fill(network, tensors, table.classes, Path(str(weights)).name)
    return network.requires_grad_(requires_grad=False)


def _prepare(network: nn.Module, changes: Mapping[str, object]) -> ResizeCropConfig:
    """What timm says where the network knows it, with what the user says on top."""
    own = dict(changes)
    if isinstance(own.get("size"), int):
        own["size"] = (own["size"],) * 2
    try:
        return Preprocess.from_timm(network, **own).config
    except ModelError:
        return validated(ResizeCropConfig, own, "--prepare")


def _tried(
    network: nn.Module, named: AdoptConfig, config: RunConfig, method: MapMethod | None, table: Table
) -> tuple[TrainedClassifier, SelfTest]:
    """The self-test on images of the table; it also says which method and where cells look."""
    images = [record.image for record in table.records()[:_TRIED]]
    bare = TrainedClassifier(network, _card(named, config, table))
    asked = method or "gradcam"
    test = Explainer(bare, method=asked).self_test(images)
    if method is None and test.identity is not None and named.layer is None:
        asked = "cam"
        test = Explainer(bare, method=asked).self_test(images)
    if not test.ok:
        raise ModelError(f"{named.model} fails its self-test:\n{test}")
    origin = None if test.cells is None else test.cells.origin
    card = replace(_card(named, config.model_copy(update={"map": asked}), table), origin=origin)
    return TrainedClassifier(network, card).eval(), test


def _card(named: AdoptConfig, config: RunConfig, table: Table) -> AdoptedCard:
    name = named.model.removeprefix(f"{TIMM}:")
    made = make_config(
        config, backbone=BackboneConfig(name=name), size=max(named.prepare.size), channels=named.prepare.channels
    )
    return AdoptedCard(table.classes, made, table.exclusive, adopted=named)


def _write_config(folder: RunFolder, config: RunConfig) -> None:
    """Options without those of a training that did not happen here: the report states what stands in this file."""
    content = config.model_dump(mode="json")
    write_text(folder.config, yaml.safe_dump({key: content[key] for key in _KEPT}, sort_keys=False))


_KEPT = ("table", "task", "map", "threshold", "operating_point", "calibration", "map_calibration", "seed", "draws")
