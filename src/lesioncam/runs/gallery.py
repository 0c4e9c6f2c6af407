"""``gallery.csv``: which images a report shows, and why; their pictures lie in ``arrays/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lesioncam.errors import RunError
from lesioncam.files import write_csv

_COLUMNS = {"image": "image", "label": "class", "group": "group", "reason": "reason", "file": "file"}


class Shown(NamedTuple):
    """One picture of the gallery.

    Attributes:
        image: its id.
        label: the class that is shown.
        group: why: ``missed``, ``false_alarm``, ``worst``, ``median``, ``best`` or ``healthy``.
        reason: the same in a sentence; of a volume also which slice.
        file: name of its arrays.
    """

    image: str
    label: str
    group: str
    reason: str = ""
    file: str = ""


def write_gallery(path: Path, rows: Sequence[Shown]) -> Path:
    """Write it, whole or not at all."""
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).rename(columns=_COLUMNS)
    return write_csv(path, frame)


def read_gallery(path: Path) -> list[Shown]:
    """Read what `write_gallery` wrote; nothing is shown where there is no file.

    Raises:
        RunError: if it is broken.
    """
    if not path.is_file():
        return []
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        return [Shown(*row) for row in frame[list(_COLUMNS.values())].itertuples(index=False, name=None)]
    except pd.errors.EmptyDataError:
        return []
    except (KeyError, ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}); run `lesioncam evaluate` again.") from error
