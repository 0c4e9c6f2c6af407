"""``lesioncam compare``: finished runs side by side, as a page, as tables for a paper, and as figures."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lesioncam.errors import OptionError, RunError
from lesioncam.evaluation.compare import COMPARED
from lesioncam.files import write_csv, write_text
from lesioncam.reporting.comparison.compared_run import read_compared, split_of
from lesioncam.reporting.comparison.latex import latex_table
from lesioncam.reporting.comparison.page import comparison_page
from lesioncam.reporting.comparison.result import ComparisonResult, compare_all
from lesioncam.reporting.figures.comparison_figures import difference_plots, value_plots
from lesioncam.reporting.figures.plot import save_plots
from lesioncam.reporting.page import program_version
from lesioncam.reporting.words.methods_text import Described, Protocol, bibliography, methods_text

PAGE = "comparison.html"


def compare_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    split: str | None = None,
    seed: int = 0,
    draws: int = 2000,
    overwrite: bool = False,
) -> Path:
    """Compare finished runs on the images they share, and write a folder with everything, whole or not at all.

    In it: ``comparison.html`` (one file, no network), ``comparison.csv``, ``differences.csv``, ``comparison.tex``,
    ``methods.txt``, ``references.bib`` and ``figures/`` as SVG and PNG. Absolute paths appear nowhere.

    Args:
        folders: two or more run folders, those of another tool's maps included.
        out: the folder to write.
        split: ``test`` or ``val``; by default test where all runs were evaluated on it, otherwise val.
        seed: of the bootstrap over patients, which is the same for all runs.
        draws: of the bootstrap.
        overwrite: replace an earlier comparison; anything else in the way stays.

    Returns:
        The path of the page.

    Raises:
        OptionError: for fewer than two runs, one named twice, or too few draws.
        RunError: for a folder that is no run, a split that is missing, runs without a common image, or a folder in the
            way.
        LesioncamError: if the runs disagree about the truth.
    """
    if draws < 1:
        raise OptionError(f"{draws} draws were asked for, expected at least 1; 2000 is usual.")
    _expect_free(out, folders, overwrite=overwrite)
    runs = read_compared(folders, split_of(folders, split))
    result = compare_all(runs, seed, draws)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        _write(result, partial)
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out / PAGE


def _expect_free(out: Path, folders: Sequence[Path], *, overwrite: bool) -> None:
    place = out.resolve()
    if any(place == folder.resolve() or place in folder.resolve().parents for folder in folders):
        raise RunError(f"{out} holds a run that is compared; give a folder of its own for the comparison.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / PAGE).is_file():
        raise RunError(f"{out} exists and holds no earlier comparison; give another folder, nothing was touched.")
    if not overwrite:
        raise RunError(f"{out} holds an earlier comparison; use --overwrite to replace it, or give another folder.")


# ---- files -------------------------------------------------------------------------------------------------------


def _write(result: ComparisonResult, out: Path) -> None:
    values, gaps = value_plots(result.rows), difference_plots(result.gaps)
    text, names = _methods(result), list(dict.fromkeys(result.estimates["run"]))
    write_csv(out / "comparison.csv", _whole_numbers(result.estimates))
    write_csv(out / "differences.csv", _whole_numbers(result.differences))
    write_text(out / "comparison.tex", latex_table(result.rows, names, _caption(result)))
    write_text(out / "methods.txt", text)
    write_text(out / "references.bib", bibliography(text))
    save_plots([*values, *gaps], out / "figures")
    write_text(out / PAGE, comparison_page(result, values, gaps, text))


def _whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts and ranks without a decimal point, also where some are missing."""
    return frame.assign(
        **{name: frame[name].astype("Int64") for name in ("n", "rank_first", "rank_last", "tie") if name in frame}
    )


def _methods(result: ComparisonResult) -> str:
    defined = {one.metric for one in result.rows}
    protocol = Protocol(
        split=result.split,
        images=len(result.common.images) if result.common else len(result.runs[0].images),
        patients=result.patients,
        metrics=[metric for metric in COMPARED if metric in defined],
        draws=result.draws,
        seed=result.seed,
        version=program_version(),
        exclusive=result.is_arg_max,
        paired=result.common is not None,
        repeated=any(one.kind.startswith("rep") for one in result.agreements),
    )
    runs = [Described(run.name, {} if run.foreign else run.config, run.summary, run.foreign) for run in result.runs]
    return methods_text(runs, protocol)


def _caption(result: ComparisonResult) -> str:
    where = {"test": "test", "val": "validation (thresholds were chosen here, optimistic)"}[result.split]
    if result.common is None:
        unit = "images" if result.patients is None else "patients"
        return f"Folds of one configuration, each on its own {where} images; 95 % intervals over {unit}."
    people = result.patients
    behind, drawn = ("", "images") if people is None else (f" of {people} patients", "patients")
    return (
        f"Mean of classes on {len(result.common.images)} {where} images{behind}, with 95 % intervals "
        f"({result.draws} bootstrap draws of {drawn}). Bold: no other is better beyond chance; runs that share a "
        "letter tie (simultaneous paired intervals). Arrow: the lower, the better."
    )
