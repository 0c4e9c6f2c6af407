"""The cells of a CSV or Parquet file as stripped text, with the row numbers of a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lesioncam.errors import TableError


def read_cells(path: Path) -> pd.DataFrame:
    """All cells of a CSV or Parquet file as stripped text; the index is the row number of a spreadsheet.

    Raises:
        TableError: if the file cannot be read or has no rows.
    """
    return _strip(_read_raw(path), path.name)


def _read_raw(path: Path) -> pd.DataFrame:
    if path.is_dir():
        raise TableError(f"{path} is a folder; make a table of it with `lesioncam index {path} -o labels.csv`.")
    if not path.is_file():
        raise TableError(f"{path} does not exist; give a CSV or Parquet table of labels.")
    kind = "".join(path.suffixes).lower()
    if kind.endswith((".parquet", ".pq")):
        return _read_parquet(path)
    if kind.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")):
        return _read_csv(path)
    raise TableError(f"{path.name} is no table this reads; save it as .csv, .csv.gz or .parquet.")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        raw = pd.read_csv(
            path,
            header=None,
            dtype=str,
            sep=_separator(path),
            encoding="utf-8-sig",
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,
            compression="gzip" if path.suffix.lower() == ".gz" else None,
        ).fillna("")
    except pd.errors.EmptyDataError as error:
        raise TableError(f"{path.name} has no rows; it needs a header and one row per image.") from error
    except pd.errors.ParserError as error:
        raise TableError(f"{path.name} cannot be split into columns ({_last_sentence(error)}). {_QUOTE}") from error
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise TableError(f"{path.name} cannot be read ({_last_sentence(error)}); save it as 'CSV UTF-8'.") from error
    raw.columns = pd.Index(raw.iloc[0].astype(str))
    raw.index = pd.RangeIndex(1, len(raw) + 1)
    return raw.iloc[1:]


_QUOTE = 'Put cells that hold the separator into "quotes".'


def _separator(path: Path) -> str:
    """The commonest of comma, semicolon and tab in the header."""
    import gzip

    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as handle:
        header = handle.readline()
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _last_sentence(error: Exception) -> str:
    return str(error).strip().rsplit("error: ", 1)[-1].rstrip(".")


def _read_parquet(path: Path) -> pd.DataFrame:
    from pyarrow.lib import ArrowException

    try:
        raw = pd.read_parquet(path)
    except (ArrowException, OSError) as error:
        raise TableError(f"{path.name} is not readable as Parquet ({error}); write it again.") from error
    raw = pd.DataFrame({str(name): _as_text(raw.iloc[:, i]) for i, name in enumerate(raw.columns)})
    raw.index = pd.RangeIndex(2, len(raw) + 2)
    return raw


def _as_text(column: pd.Series[Any]) -> pd.Series[str]:
    """Cells as a CSV would hold them: whole floats without a point, booleans as 1 and 0, missing as blank."""
    values = column.astype(object).where(column.notna().to_numpy(), "")
    if pd.api.types.is_bool_dtype(column.dtype):
        return values.map(lambda cell: "" if isinstance(cell, str) else str(int(cell)))
    if pd.api.types.is_float_dtype(column.dtype):
        return values.map(lambda cell: str(cell).removesuffix(".0"))
    return values.map(str)


def _strip(raw: pd.DataFrame, source: str) -> pd.DataFrame:
    """Headers and cells without outer blanks; nameless empty columns and wholly blank rows go, row numbers stay."""
    names = [str(name).strip() for name in raw.columns]
    cells = [raw.iloc[:, i].str.strip() for i in range(len(names))]
    kept = {i: name for i, name in enumerate(names) if name or bool((cells[i] != "").any())}
    labels = {i: name or f"unnamed {i + 1}" for i, name in kept.items()}
    twice = sorted({name for name in labels.values() if list(labels.values()).count(name) > 1})
    if twice:
        raise TableError(f"{source} has the column {twice[0]!r} twice; give each column its own name.")
    clean = pd.DataFrame({name: cells[i] for i, name in labels.items()}, index=raw.index)
    clean = clean[(clean != "").any(axis=1)] if labels else clean
    if clean.empty:
        raise TableError(f"{source} has no rows; it needs a header and one row per image.")
    return clean
