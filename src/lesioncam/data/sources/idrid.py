"""IDRiD, fundus photographs of diabetic retinopathy, in the published tree.

Two sources come of it. *idrid* is part B: 516 images with a grade of retinopathy from 0 to 4 (the label) and a risk of
macular edema from 0 to 2 (a column of its own).

*idrid-lesions* is part A: 81 images, which lesions each shows, and a mask for each lesion. A mask file that is missing
means that the lesion is absent.

The folder may be that of the whole tree or of the part. Published training images are train, or val where the published
test images are there too: then the last fifth of every grade (of part A: of all) is val, whatever the seed. Where there
are no test images, the table has no split, and ``lesioncam split`` makes one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lesioncam.data.sources.base import NO_PATIENT, SourceInfo, last_share, not_found
from lesioncam.data.table.cells import read_cells
from lesioncam.data.table.labels import natural_key
from lesioncam.errors import TableError

VAL_SHARE = 0.2
"""The end of the published training images that becomes val."""

LESIONS = {
    "microaneurysms": ("1. Microaneurysms", "MA"),
    "haemorrhages": ("2. Haemorrhages", "HE"),
    "hard exudates": ("3. Hard Exudates", "EX"),
    "soft exudates": ("4. Soft Exudates", "SE"),
    "optic disc": ("5. Optic Disc", "OD"),
}
"""Class -> folder of its masks and the end of their names."""

_COPIES = (
    "60 of the 81 images of part A are near copies of images of part B: take them out of training before measuring"
)
_CITATION = (
    "Porwal et al. (2018): Indian Diabetic Retinopathy Image Dataset (IDRiD). Data 3(3), 25. "
    "https://doi.org/10.3390/data3030025"
)

INFO = SourceInfo(
    name="idrid",
    licence="CC BY 4.0",
    citation=_CITATION,
    counts="516 images, grades 0 to 4: 134/20/136/74/49 in the 413 for training, 34/5/32/19/13 in the 103 for test; "
    "510 differ by hash",
    traps=(
        "a header of the labels ends in a blank, and nine columns are empty",
        "training and test images have the same file names: a name alone is no id",
        _COPIES,
        "grades are ordered: a kappa with quadratic weights says more than accuracy",
        "patients are not known",
    ),
)

LESIONS_INFO = SourceInfo(
    name="idrid-lesions",
    licence="CC BY 4.0",
    citation=_CITATION,
    counts="81 images (54 for training, 27 for test): microaneurysms in 81, haemorrhages 80, hard exudates 81, "
    "soft exudates 40, optic disc 81",
    traps=(
        _COPIES,
        "hardly an image is without each lesion: labels alone teach soft exudates at most, the set is for measuring",
        "lesions are a few pixels wide: keep the resolution",
        "a missing mask file means that the lesion is absent; one mask is stored as RGBA",
        "the optic disc is anatomy and no lesion",
    ),
)

_PARTS = {"a. Training Set": "train", "b. Testing Set": "test"}
_IMAGES = "1. Original Images"
_GRADES, _MASKS = "2. Groundtruths", "2. All Segmentation Groundtruths"
_NAME, _GRADE, _EDEMA = "Image name", "Retinopathy grade", "Risk of macular edema"


def table(root: Path) -> pd.DataFrame:
    """Make a table of part B, disease grading.

    Args:
        root: the published tree, or its folder ``B. Disease Grading``.

    Returns:
        Columns ``image``, ``label`` (``0`` to ``4``), ``macular_edema_risk`` (``0`` to ``2``), ``split`` where the
        published test images are there, and a blank ``patient (none)``.

    Raises:
        TableError: if it is not that tree, an image is missing, or a grade is none of the five.
    """
    home = _home(root, _GRADES, INFO.name)
    rows = [row for part in _PARTS for row in _graded(home, part)]
    if not rows:
        raise not_found(INFO.name, root, *(f"'{_csv(home, part).relative_to(root)}'" for part in _PARTS))
    return _framed(rows, by="label")


def lesion_table(root: Path) -> pd.DataFrame:
    """Make a table of part A, segmentation.

    Args:
        root: the published tree, or its folder ``A. Segmentation``.

    Returns:
        Columns ``image``, ``class:<lesion>`` (1 where a mask is there) and ``mask:<lesion>`` for the five of
        :data:`LESIONS`, ``split`` where the published test images are there, and a blank ``patient (none)``.

    Raises:
        TableError: if it is not that tree.
    """
    home = _home(root, _MASKS, LESIONS_INFO.name)
    rows = [row for part in _PARTS for row in _drawn(home, part)]
    if not rows:
        raise not_found(LESIONS_INFO.name, root, *(f"'{_IMAGES}/{part}/*.jpg'" for part in _PARTS))
    return _framed(rows, by="")


def _home(root: Path, truths: str, name: str) -> Path:
    """The folder of one part: it has the original images and that part's truths."""
    for place in (root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))):
        if (place / _IMAGES).is_dir() and (place / truths).is_dir():
            return place
    raise not_found(name, root, f"'{_IMAGES}' and '{truths}' in one folder, as published")


def _csv(home: Path, part: str) -> Path:
    kind = part.split()[1]
    return home / _GRADES / f"{part[0]}. IDRiD_Disease Grading_{kind} Labels.csv"


def _graded(home: Path, part: str) -> Iterator[dict[str, str]]:
    labels = _csv(home, part)
    if not labels.is_file():
        return
    cells = read_cells(labels)  # strips headers and drops the nameless columns
    for name in (_NAME, _GRADE, _EDEMA):
        if name not in cells:
            raise TableError(f"{labels} has no column {name!r}; found: {', '.join(map(repr, cells))}.")
    for row, name, grade, edema in cells[[_NAME, _GRADE, _EDEMA]].itertuples(name=None):
        image = home / _IMAGES / part / f"{name}.jpg"
        if not image.is_file():
            raise TableError(f"{labels} row {row} names {name!r}, but {image} is not there; copy the set again.")
        if grade not in {"0", "1", "2", "3", "4"}:
            raise TableError(f"{labels} row {row}: grade {grade!r} is none of 0 to 4.")
        yield {"image": image.as_posix(), "label": grade, "macular_edema_risk": edema, "split": _PARTS[part]}


def _drawn(home: Path, part: str) -> Iterator[dict[str, str]]:
    images = sorted((home / _IMAGES / part).glob("*.jpg"), key=lambda path: natural_key(path.name))
    masks_of = home / _MASKS / part
    if images and (gone := [folder for folder, _ in LESIONS.values() if not (masks_of / folder).is_dir()]):
        raise TableError(f"{masks_of} has no folder {gone[0]!r}; without it every image would count as free of it.")
    for image in images:
        files = {name: masks_of / folder / f"{image.stem}_{end}.tif" for name, (folder, end) in LESIONS.items()}
        there = {name: path.as_posix() if path.is_file() else "" for name, path in files.items()}
        classes = {f"class:{name}": "1" if path else "0" for name, path in there.items()}
        masks = {f"mask:{name}": path for name, path in there.items()}
        yield {"image": image.as_posix(), **classes, **masks, "split": _PARTS[part]}


def _framed(rows: list[dict[str, str]], by: str) -> pd.DataFrame:
    """The rows as a table; val is cut off the end of train (of each value of the column ``by``)."""
    frame = pd.DataFrame(rows, dtype=object)
    if (frame["split"] == "train").all():
        frame = frame.drop(columns="split")
    else:
        train = frame[frame["split"] == "train"]
        groups = train.groupby(by).groups.values() if by else [train.index]
        for rows_of_one in groups:
            frame.loc[rows_of_one[last_share(len(rows_of_one), VAL_SHARE)], "split"] = "val"
    return frame.assign(**{NO_PATIENT: ""})
