"""The verbs: each reads what it needs, does one thing and leaves whole files behind."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lesioncam.data.table.check import CheckReport, check_table, require, require_axes
from lesioncam.data.table.split import split_table
from lesioncam.data.table.table import Table, read_table
from lesioncam.data.table.targets import check_task, targets_of
from lesioncam.errors import OptionError, RunError, TableError
from lesioncam.evaluation.protocol import key_mark
from lesioncam.export.predictions import Prediction, write_predictions
from lesioncam.inference.ensemble import gather
from lesioncam.inference.stream import Way, results_of
from lesioncam.inference.views import Views
from lesioncam.lookup import find
from lesioncam.measurement.calibrate import calibrate, check_scores
from lesioncam.measurement.guard import table_roles
from lesioncam.measurement.measure import measure
from lesioncam.measurement.options import MeasureOptions
from lesioncam.measurement.part import digests_of
from lesioncam.models.backbone import measure_origin
from lesioncam.models.checkpoint import TrainedClassifier, load_classifier, save_classifier
from lesioncam.options.poolings import CustomPool, name_of
from lesioncam.options.recipes import load_run_config
from lesioncam.options.run import RunConfig, make_config
from lesioncam.options.variation import OwnPool
from lesioncam.progress import bars
from lesioncam.reporting.report.html import write_report
from lesioncam.runs.card import ClassifierCard, ModelCard, TrainingRecord
from lesioncam.runs.folder import RunFolder, run_key
from lesioncam.runs.table import run_table
from lesioncam.training.fit import Plan, fit, plan
from lesioncam.types import SPLITS, CaseResult, Chosen
from lesioncam.verbs.adopt_maps import adopt_maps
from lesioncam.verbs.begin import path_of, refuse_existing, remember_source, set_state, start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run folder and what is in it.

    Attributes:
        folder: where it lies.
        interrupted: whether training was stopped by the user; the best weights so far are kept.
    """

    folder: Path
    interrupted: bool = False

    @property
    def report(self) -> Path:
        """The HTML report."""
        return RunFolder(self.folder).report

    def metrics(self, split: str = "val") -> pd.DataFrame:
        """The tidy table of numbers of one split.

        Raises:
            RunError: if that split was not evaluated yet.
        """
        path = RunFolder(self.folder).evaluation(split) / "metrics.csv"
        if not path.is_file():
            raise RunError(f"{path} is missing; run `lesioncam evaluate {self.folder} --split {split}` first.")
        return pd.read_csv(path)

    def classifier(self, pooling: OwnPool | None = None) -> TrainedClassifier:
        """The trained classifier."""
        return load_classifier(self.folder, pooling=pooling)


class Prepared(NamedTuple):
    """A table that was checked and has a split, and what the check found (its perceptual prints among it)."""

    table: Table
    found: CheckReport


def prepare(table: Table | Prepared | str | Path, config: RunConfig, *, files: bool = True) -> Prepared:
    """Read where need be, check everything, and split by patient where the table has no split.

    What was checked already is only asked whether it can be learnt from.

    Returns:
        The table with a split, and what the check found (its perceptual prints among it).

    Raises:
        TableError: listing all that is wrong, with row numbers; near-identical images in two splits are wrong.
    """
    ready, found = table if isinstance(table, Prepared) else checked(table, config, files=files)
    require_axes(found, config.backbone.axes)
    for name in ("train", "val"):
        if not len(ready.split(name)):
            raise TableError(
                f"{ready.source}: no image is in split {name!r}; training needs train and val. Use `lesioncam split`."
            )
    _require_two_sides(ready, config)
    return Prepared(ready, found)


def checked(
    table: Table | str | Path, config: RunConfig, *, files: bool = True, learns: bool = True
) -> tuple[Table, CheckReport]:
    """Read, check, and split where there is no split: patients and near-identical images stay together.

    Args:
        table: a table, or a file with one.
        config: how the table is read, and the fractions of a split.
        files: open the images too.
        learns: something is to be trained on it.

    Raises:
        TableError: listing all that is wrong.
    """
    if not isinstance(table, Table):
        table = read_table(table, config=config.table)
    found = check_table(table, files=files, duplicates=files, policy=config.table)
    require(found, learns=learns)
    check_task(table, config.table, config.task)
    if not any(len(table.split(name)) for name in SPLITS):
        table = split_table(table, config.table.fractions, seed=config.seed, pairs=found.pairs)
    return table, found


def run(
    table: Table | Prepared | str | Path | None,
    out: str | Path,
    *,
    config: RunConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Check, train, choose thresholds, evaluate on val, report.

    Args:
        table: a table, or a file with one; None with ``resume``; or what :func:`prepare` gave, to check it only once.
        out: the run folder to make.
        config: all options; see ``options`` for single ones.
        resume: go on where an earlier run in ``out`` stopped; its own table and options are used.
        overwrite: replace an earlier run in ``out``.
        progress: show bars with the time left.
        **options: single options by name (``size=256, pooling="lse,sharpness=6"``); ``pooling`` may be your callable
            ``f(class_maps) -> logits``.

    Returns:
        The finished run.

    Raises:
        LesioncamError: for bad input; a folder that exists without ``resume`` or ``overwrite``.
    """
    trained = train(table, out, config=config, resume=resume, overwrite=overwrite, progress=progress, **options)
    pooling = options.get("pooling")
    own = pooling if callable(pooling) else None
    folder = RunFolder(trained.folder)
    set_state(folder, "running", "calibrate")
    shown = bars(wanted=progress)
    calibrate(folder, pooling=own, progress=shown)
    if trained.interrupted:
        set_state(folder, "interrupted", "train")
        return trained
    set_state(folder, "running", "evaluate")
    measure(folder, "val", MeasureOptions(pooling=own), progress=shown)
    set_state(folder, "done", "report")
    write_report(folder.root)
    return trained


def train(
    table: Table | Prepared | str | Path | None,
    out: str | Path,
    *,
    config: RunConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Train only: a model without thresholds.

    Raises:
        LesioncamError: as :func:`run`.
    """
    own, options = _split_own_pool(options)
    folder = RunFolder(Path(out))
    if resume:
        config, ready = _resumed(folder, config, options)
        if _is_trained(folder):
            logger.info("%s is trained already.", folder.root)
            return Run(folder.root)
    else:
        config = make_config(config, **options)
        refuse_existing(folder, overwrite=overwrite)
        if table is None:
            raise OptionError("no table was given; name one, or use --resume to go on with a run's own.")
        given = None if isinstance(table, Prepared) else path_of(table)
        ready, found = prepare(table, config)
        _check_network(config, own)
        start(folder, config, ready, overwrite=overwrite, found=found)
        remember_source(folder, table=given)
    set_state(folder, "running", "train")
    fitted = fit(ready, config, folder, resume=resume, own_pool=own, progress=progress)
    origin = measure_origin(fitted.network.backbone, config.preprocess.channels)
    key = run_key(folder)
    met = {name: frozenset(digests_of(ready.split(name), key)) for name in ("train", "val")}
    card = ClassifierCard(
        classes=ready.classes,
        config=config,
        exclusive=ready.exclusive or config.softmax,
        chosen=(Chosen("checkpoint", f"epoch {fitted.best_epoch}", met["val"]),),
        trained_on=met["train"],
        roles=table_roles(ready),
        key_mark=key_mark(key),
        origin=origin,
        training=TrainingRecord(
            fitted.best_epoch, fitted.epochs, round(fitted.seconds, 1), len(ready.split("train")), fitted.interrupted
        ),
    )
    save_classifier(folder, fitted.network, card)
    set_state(folder, "interrupted" if fitted.interrupted else "running", "train")
    return Run(folder.root, fitted.interrupted)


def evaluate(
    run: str | Path | Run,
    split: str = "val",
    *,
    progress: bool = False,
    **asked: Any,
) -> pd.DataFrame:
    """Measure a run on one split and rebuild its report; looking at test is counted.

    Args:
        run: the run, or its folder.
        split: ``val`` or ``test``.
        progress: show a bar.
        asked: fields of :class:`lesioncam.measurement.options.MeasureOptions`: ``threshold`` (``val``, ``default`` or a
            probability), ``metrics`` (``default`` or ``all``), ``by`` (columns of the table), ``leaks`` (``refuse`` or
            ``drop``), ``bound`` (folder of a supervised model's maps), ``pooling`` (your own callable).

    Returns:
        The tidy table of ``metrics.csv``.

    Raises:
        RunError: if the folder is no run, or has no thresholds.
    """
    folder = RunFolder(run.folder if isinstance(run, Run) else Path(run))
    if not folder.is_run():
        raise RunError(f"{folder.root} is no run folder (state.json is missing); give one that `lesioncam run` wrote.")
    if split not in ("val", "test"):
        raise OptionError(f"Unknown split {split!r}. Available: val, test.")
    measure(folder, split, MeasureOptions(**asked), progress=bars(wanted=progress))
    write_report(folder.root)
    return Run(folder.root).metrics(split)


def evaluate_maps(
    maps: str | Path,
    table: Table | str | Path,
    out: str | Path,
    split: str = "val",
    *,
    name: str | None = None,
    config: RunConfig | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **asked: Any,
) -> pd.DataFrame:
    """Measure the maps of another tool by the same protocol: thresholds from val, controls, intervals, report.

    Args:
        maps: a folder of maps, one per image and class (see `lesioncam.measurement.foreign`).
        table: with a split; its val images need maps too where thresholds are to be chosen.
        out: the folder to make; evaluating again into it goes on with what was chosen.
        split: ``val`` or ``test``.
        name: what to call the method; by default the folder's name.
        config: how the table is read; seed and draws of the intervals.
        overwrite: replace an earlier folder.
        progress: show bars.
        **asked: as :func:`evaluate`.

    Returns:
        The tidy table of ``metrics.csv``.

    Raises:
        LesioncamError: if there is no map, no split, or an image would play two roles.
    """
    folder = RunFolder(Path(out))
    shown = bars(wanted=progress)
    if not (folder.maps.is_file() and not overwrite):
        refuse_existing(folder, overwrite=overwrite)
        settled = config or RunConfig()
        ready, found = checked(table, settled, learns=False)
        start(folder, settled, ready, overwrite=overwrite, found=found)
        remember_source(folder, table=path_of(table), maps=Path(maps))
        adopt_maps(folder, Path(maps), name or Path(maps).resolve().name, shown)
    measure(folder, split, MeasureOptions(**asked), progress=shown)
    set_state(folder, "done", "report")
    write_report(folder.root)
    return Run(folder.root).metrics(split)


def recalibrate(
    run: str | Path | Run, *, pooling: OwnPool | None = None, progress: bool = False, **options: Any
) -> ModelCard:
    """Choose scales, operating points and thresholds of a finished run anew, on validation.

    Args:
        run: the run, or its folder.
        pooling: your own callable, where the run was trained with one.
        progress: show a bar.
        **options: ``calibration``, ``map_calibration``, ``operating_point``, ``threshold``; the others stay.

    Returns:
        The model's card, with what was chosen.

    Raises:
        OptionError: for another option.
    """
    known = ("calibration", "map_calibration", "operating_point", "threshold")
    for name in options:
        find(name, dict.fromkeys(known), "option of calibrate")
    folder = RunFolder(run.folder if isinstance(run, Run) else Path(run))
    card = load_classifier(folder.root, pooling=pooling).card
    settled = make_config(card.config, **options)
    check_scores(settled)
    folder.update_card(config=settled, calibration=None, image_calibration=None)
    return calibrate(folder, pooling=pooling, progress=bars(wanted=progress)).card


def report(run: str | Path | Run, *, share: bool = False) -> Path:
    """Rebuild the HTML report from the run folder alone; ``share`` writes the version to give away."""
    return write_report(run.folder if isinstance(run, Run) else Path(run), share=share)


def predict(
    classifier: TrainedClassifier | str | Path | Run | Sequence[TrainedClassifier | str | Path | Run],
    inputs: Iterable[str | Path | np.ndarray],
    out: str | Path | None = None,
    *,
    write: Sequence[str] = ("maps", "boxes", "masks", "overlay"),
    threshold: str | float = "val",
    map: str | None = None,  # noqa: A002 (the option's name everywhere)
    classes: Sequence[str] = (),
    views: Views = "none",
    progress: bool = False,
    overwrite: bool = False,
) -> list[CaseResult]:
    """Maps, boxes and masks of new images; no labels needed.

    Args:
        classifier: from :func:`lesioncam.load`, or a run folder; several are an ensemble (see
            `lesioncam.inference.ensemble`): the mean of their probabilities, thresholds called ``ensemble``.
        inputs: files (``file#index`` for one of several) or decoded images.
        out: write ``predictions.csv`` and what ``write`` asks for into this folder; None writes nothing.
        write: any of ``maps``, ``boxes``, ``masks``, ``overlay``, ``crops``.
        threshold: ``val``, ``default`` (.5) or a probability, for the maps.
        map: map method; None is the run's own. What the run chose on validation holds for its own method only: maps of
            another are shown on, and cut at .5 of, their own range.
        classes: which classes are drawn; empty draws all.
        views: ``none``, ``flip`` (the image and its mirror) or ``ten-crop``, averaged as an ensemble is; mirrored views
            are a trap where a finding has a side.
        progress: show a bar.
        overwrite: replace an earlier prediction in ``out``.

    Returns:
        One result per image that could be read; with ``out``, images that could not are listed in ``failed.csv``.

    Raises:
        LesioncamError: if an image cannot be read and there is no ``out`` to list it in, or none can be read at all.
    """
    model = gather(classifier, views=views)
    images = list(inputs)
    if not images:
        raise OptionError("no image was given; name files, for instance slices/*.png.")
    if out is not None:
        asked = Prediction(Path(out), tuple(write), threshold, overwrite, map, tuple(classes))
        return write_predictions(model, images, asked, bars(wanted=progress))
    looked = results_of(Way(model.simplest(), threshold, map), images)
    return list(bars(wanted=progress)(looked, len(images), "predict"))


def plan_run(table: Table | str | Path, *, config: RunConfig | None = None, **options: Any) -> Plan:
    """What a run would take on this machine; nothing is written."""
    own, options = _split_own_pool(options)
    settled = make_config(config, **options)
    return plan(prepare(table, settled)[0], settled, own_pool=own)


def demo(out: str | Path, *, seed: int = 0, overwrite: bool = False, progress: bool = False) -> Run:
    """The whole road on the built-in phantom: make it, train, evaluate on val and test, report.

    Args:
        out: the run folder; the phantom's images lie in its ``data`` folder.
        seed: of phantom and training.
        overwrite: replace an earlier demo in ``out``.
        progress: show bars.
    """
    from lesioncam.data.phantom import Phantom, write_phantom

    folder = RunFolder(Path(out))
    refuse_existing(folder, overwrite=overwrite)
    if folder.root.exists():
        shutil.rmtree(folder.root)
    set_state(folder, "running", "phantom")
    labels = write_phantom(folder.root / "data", Phantom(seed=seed))
    done = run(labels, folder.root, config=demo_config(seed), overwrite=True, progress=progress)
    evaluate(done, "test", progress=progress)
    return done


def demo_config(seed: int = 0) -> RunConfig:
    """What the demo trains with: chosen on the phantom's validation split, for two cores and three minutes."""
    return make_config(seed=seed, pooling="topq,fraction=0.05", epochs=45, patience=15, rotation=15.0, scale=0.12)


# ---- parts -------------------------------------------------------------------------------------------------------


def _split_own_pool(options: dict[str, Any]) -> tuple[OwnPool | None, dict[str, Any]]:
    pooling = options.get("pooling")
    if callable(pooling):
        return pooling, {**options, "pooling": CustomPool(name=name_of(pooling))}
    return None, options


def _require_two_sides(table: Table, config: RunConfig) -> None:
    """A class that training never sees on both sides cannot be learnt."""
    labels = targets_of(table.split("train"), config.table, config.task).middle()
    for name, column in zip(table.classes, labels.T, strict=True):
        if not (column > 0).any() or not (column < 1).any():
            side = "positive" if not (column > 0).any() else "negative"
            raise TableError(
                f"{table.source}: class {name!r} has no {side} image in split 'train', so it cannot be learnt. "
                f"Add some, leave the class out with --classes, or name what is no lesion with --negative."
            )


def _check_network(config: RunConfig, own: OwnPool | None) -> None:
    """Try what may be missing before anything is written: a name, a stride, a weights file, TensorBoard."""
    from lesioncam.models.classifier import build_classifier

    check_scores(config)
    build_classifier(config, 1, own_pool=own)
    if config.tensorboard and find_spec("tensorboard") is None:
        raise RunError(
            "TensorBoard is not installed; pip install 'lesioncam[tensorboard]', or leave --tensorboard out."
        )


def _resumed(folder: RunFolder, config: RunConfig | None, options: dict[str, Any]) -> tuple[RunConfig, Table]:
    if not folder.is_run():
        raise RunError(f"{folder.root} is no run folder, so there is nothing to resume; start it without --resume.")
    kept, removed = load_run_config(folder.config)
    if removed and not _is_trained(folder):
        raise RunError(
            f"{folder.root} was begun with {' and '.join(removed)}, which this version no longer has, so its training "
            "cannot go on as it began; start it anew with --overwrite, or finish it with the version that began it."
        )
    asked = make_config(config or kept, **options) if options or config else kept
    if asked != kept:
        raise RunError(f"{folder.root} was started with other options; resume it without options, or use --overwrite.")
    return kept, run_table(folder)


def _is_trained(folder: RunFolder) -> bool:
    """Whether training came to its own end."""
    return folder.read_state().done or (folder.model.is_file() and not folder.read_training().interrupted)
