"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from lesioncam.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def write_with(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary neighbour of ``path``, then move it into place in one step.

    Args:
        path: final place; its folder is made if need be.
        write: called with the temporary path (same suffix), must create that file.

    Raises:
        OSError: whatever ``write`` raises, for instance on a full disk; nothing is left behind then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_with(Path(folder) / "a.txt", lambda p: p.write_text("x")).read_text()
        'x'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes whole or not at all."""
    return write_with(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, content: str) -> Path:
    """Write UTF-8 text whole or not at all."""
    return write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> Path:
    """Write JSON (no NaN: readers of other languages refuse it) whole or not at all."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: if it is missing or broken.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; is {path.parent} a finished run folder?") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not readable as JSON ({error}); restore it or run again with --overwrite."
        ) from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write named arrays, compressed (``.npz``), whole or not at all."""
    import numpy as np

    return write_with(path, lambda partial: np.savez_compressed(partial, **arrays))  # type: ignore[arg-type]


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a table, the same bytes on every system, whole or not at all."""
    return write_with(path, lambda partial: frame.to_csv(partial, index=False, lineterminator="\n"))


def read_arrays(
    path: Path, needed: Sequence[str] = (), *, what: str = "arrays", remedy: str = "evaluate again"
) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote; nothing in the file is executed.

    Args:
        path: the file.
        needed: names that it must hold.
        what: it should hold, for the error.
        remedy: what to do, for the error.

    Raises:
        RunError: if it is missing, broken, or lacks a name.
    """
    import numpy as np

    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        if missing := [name for name in needed if name not in arrays]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, EOFError, ValueError, AttributeError, BadZipFile) as error:
        raise RunError(f"{path} cannot be read as {what} ({error}); {remedy}.") from error
    return arrays
