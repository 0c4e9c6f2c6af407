"""``lesioncam train``: a model without thresholds; and what training would take."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lesioncam.data.table.table import Table
from lesioncam.errors import OptionError
from lesioncam.evaluation.protocol import key_mark
from lesioncam.measurement.guard import table_roles
from lesioncam.measurement.part import digests_of
from lesioncam.models.backbone import measure_origin
from lesioncam.models.checkpoint import save_classifier
from lesioncam.options.poolings import CustomPool, name_of
from lesioncam.options.run import RunConfig, make_config
from lesioncam.options.variation import OwnPool
from lesioncam.runs.card import ClassifierCard, TrainingRecord
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.training.fit import Fitted, Plan, fit, plan
from lesioncam.types import Chosen
from lesioncam.verbs.begin import is_trained, path_of, refuse_existing, remember_source, resumed, set_state, start
from lesioncam.verbs.prepare import Prepared, check_network, prepare
from lesioncam.verbs.result import Run

logger = logging.getLogger(__name__)


def train(
    table: Table | Prepared | str | Path | None,
    out: str | Path,
    *,
    config: RunConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: object,
) -> Run:
    """Train only: a model without thresholds.

    Raises:
        LesioncamError: as :func:`run`.
    """
    own, options = split_own_pool(options)
    folder = RunFolder(Path(out))
    if resume:
        config, ready = resumed(folder, config, options)
        if is_trained(folder):
            logger.info("%s is trained already.", folder.root)
            return Run(folder.root)
    else:
        config = make_config(config, **options)
        ready = _begin(folder, table, config, own, overwrite=overwrite)
    set_state(folder, "running", "train")
    fitted = fit(ready, config, folder, resume=resume, own_pool=own, progress=progress)
    save_classifier(folder, fitted.network, _card(fitted, ready, config, run_key(folder)))
    set_state(folder, "interrupted" if fitted.interrupted else "running", "train")
    return Run(folder.root, fitted.interrupted)


def _begin(
    folder: RunFolder,
    table: Table | Prepared | str | Path | None,
    config: RunConfig,
    own: OwnPool | None,
    *,
    overwrite: bool,
) -> Table:
    """Everything is checked before the folder is begun."""
    refuse_existing(folder, overwrite=overwrite)
    if table is None:
        raise OptionError("no table was given; name one, or use --resume to go on with a run's own.")
    ready, found = prepare(table, config)
    check_network(config, own)
    start(folder, config, ready, overwrite=overwrite, found=found)
    remember_source(folder, table=None if isinstance(table, Prepared) else path_of(table))
    return ready


def _card(fitted: Fitted, table: Table, config: RunConfig, key: bytes) -> ClassifierCard:
    """What was trained, on whom, and what was chosen on whom meanwhile."""
    met = {name: frozenset(digests_of(table.split(name), key)) for name in ("train", "val")}
    seconds, images = round(fitted.seconds, 1), len(table.split("train"))
    return ClassifierCard(
        classes=table.classes,
        config=config,
        exclusive=table.exclusive or config.softmax,
        chosen=(Chosen("checkpoint", f"epoch {fitted.best_epoch}", met["val"]),),
        trained_on=met["train"],
        roles=table_roles(table),
        key_mark=key_mark(key),
        origin=measure_origin(fitted.network.backbone, config.preprocess.channels),
        training=TrainingRecord(fitted.best_epoch, fitted.epochs, seconds, images, fitted.interrupted),
    )


def plan_run(table: Table | str | Path, *, config: RunConfig | None = None, **options: object) -> Plan:
    """What a run would take on this machine; nothing is written."""
    own, options = split_own_pool(options)
    settled = make_config(config, **options)
    return plan(prepare(table, settled)[0], settled, own_pool=own)


def split_own_pool(options: Mapping[str, object]) -> tuple[OwnPool | None, dict[str, object]]:
    """The user's own callable apart from the options, which keep its name; None where a pooling of ours was named."""
    pooling = options.get("pooling")
    if callable(pooling):
        return cast("OwnPool", pooling), {**options, "pooling": CustomPool(name=name_of(pooling))}
    return None, dict(options)
