"""NIH ChestX-ray14: the official tables, and images anywhere below the folder.

*Official*: ``Data_Entry_2017*.csv`` (or ``.csv.gz``) somewhere below the folder, and where they are there
``BBox_List_2017.csv``, ``train_val_list.txt`` and ``test_list.txt``. Images are found by their published name in any
sub-folder; rows without an image are left out and counted. With the lists, ``test_list.txt`` is test and of the rest
every tenth patient number (those that end in 0) is val; without them the table has no split.

*Boxes alone*: a ``*_boxes.csv`` in the folder or beside it (``image, class, x0, y0, x1, y1, finding_labels``), which
names images of the folder in their own pixels. A finding with a box counts as present, whatever the report says.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lesioncam.data.io.image import IMAGE_SUFFIXES, image_info
from lesioncam.data.sources.base import SourceInfo, not_found
from lesioncam.data.table.cells import read_cells
from lesioncam.errors import TableError

logger = logging.getLogger(__name__)

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
"""The 14 findings; the first eight have boxes."""

NO_FINDING = "No Finding"
"""Excludes the rest."""

FRAME = 1024.0
"""Side of the published images, pixels, in which the boxes are measured."""

INFO = SourceInfo(
    name="nih-cxr",
    licence="NIH Clinical Center: free to use with citation",
    citation="Wang et al. (2017): ChestX-ray8. CVPR 2017",
    counts="112120 frontal images of 30805 patients, 14 findings, 60361 images with none; 984 boxes on 880 images of "
    "726 patients",
    traps=(
        "many images per patient, who must stay in one split: use the official lists, not a random split",
        "labels were mined from reports and are wrong at times",
        "numbers of a random split are higher than those of the official one; do not compare across",
        "all images with boxes are in the official test list: they leave none to choose a threshold on",
        "the table of boxes spells Infiltrate for Infiltration, and its header has more cells than its rows",
        "boxes are measured on 1024 x 1024 pixels: on smaller copies of the images they are scaled here",
        "chest tubes show many a pneumothorax: a shortcut",
        "headers hold commas, older tables have ages such as 058Y, some images are RGBA",
    ),
)

_INDEX, _LABELS, _PATIENT = "Image Index", "Finding Labels", "Patient ID"
_MORE = {"Patient Age": "age", "Patient Gender": "sex", "Follow-up #": "follow_up"}
_SLIPS = {"Infiltrate": "Infiltration"}
_BOXES = ("image", "class", "x0", "y0", "x1", "y1")
_NUMBER = re.compile(r"(\d{8})_\d{3}")  # patient and follow-up


def table(root: Path) -> pd.DataFrame:
    """Make a table of either layout.

    Args:
        root: folder with the official tables and the images, or with images and a ``*_boxes.csv``.

    Returns:
        Columns ``image, class:<finding>`` (those that occur) and ``patient``; of the official layout also
        ``negative:No Finding, view, age, sex, follow_up``, with the lists ``split``; ``boxes`` where there are any.

    Raises:
        TableError: if the tables or all images are missing, or a label is none of the fourteen.
    """
    if entries := _below(root, "Data_Entry_2017*.csv*"):
        return _official(root, entries)
    nearby = sorted([*root.glob("*_boxes.csv"), *root.parent.glob(f"{root.resolve().name}_boxes.csv")])
    if nearby:
        return _boxed(root, nearby[0])
    raise not_found(INFO.name, root, "Data_Entry_2017*.csv or .csv.gz (in any sub-folder)", "*_boxes.csv")


# ---- the official tables -----------------------------------------------------------------------------------------


def _official(root: Path, entries: Path) -> pd.DataFrame:
    cells = _entries(entries)
    images = _images(root, set(cells[_INDEX]))
    here = cells[_INDEX].isin(list(images))
    if not here.any():
        raise TableError(
            f"{root} has {entries.name}, but none of its images; looked for {cells[_INDEX].iloc[0]} and the others in "
            "all sub-folders."
        )
    if gone := int((~here).sum()):
        logger.warning(
            "%s: %d of %d rows have no image below %s and are left out.", entries.name, gone, len(cells), root
        )
    cells = cells[here]
    frame = pd.DataFrame({"image": [images[name] for name in cells[_INDEX]]}, dtype=object)
    frame = pd.concat([frame, _labels(entries, cells)], axis=1).assign(patient=cells[_PATIENT].to_numpy())
    if "View Position" in cells:
        frame["view"] = cells["View Position"].to_numpy()
    for theirs, ours in _MORE.items():
        if theirs in cells:
            frame[ours] = (_ages(cells[theirs]) if ours == "age" else cells[theirs]).to_numpy()
    split = _splits(root, cells)
    boxes = _scaled(_box_list(root), cells[_INDEX], images)
    return frame.assign(**({"split": split} if split else {}), **({"boxes": boxes} if any(boxes) else {}))


def _entries(path: Path) -> pd.DataFrame:
    """The rows; unquoted commas in two headers make four columns of them, which fit the cells."""
    cells = read_cells(path)
    for name in (_INDEX, _LABELS, _PATIENT):
        if name not in cells:
            raise TableError(f"{path} has no column {name!r}; found: {', '.join(map(repr, cells))}.")
    return cells


def _labels(path: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """A column per finding that occurs, 1 or 0, and one for rows without any."""
    codes, values = pd.factorize(cells[_LABELS])
    found = [{part.strip() for part in str(value).split("|")} for value in values]
    for code, labels in enumerate(found):
        if strange := labels - {*FINDINGS, NO_FINDING}:
            row = cells.index[int(np.argmax(codes == code))]
            raise TableError(f"{path} row {row}: label {min(strange)!r} is none of the 14 findings or {NO_FINDING!r}.")
    columns = {
        f"{'negative' if name == NO_FINDING else 'class'}:{name}": np.array([str(int(name in s)) for s in found])[codes]
        for name in (*FINDINGS, NO_FINDING)
        if any(name in labels for labels in found)
    }
    if absent := [name for name in FINDINGS if f"class:{name}" not in columns]:
        logger.warning("No image here shows %s; left out of the classes.", ", ".join(absent))
    return pd.DataFrame(columns, dtype=object)


def _ages(cells: pd.Series) -> pd.Series:
    """Whole years: ``058Y`` is 58; blank where it is no age (months, days, 150 and more)."""
    years = cells.str.extract(r"^0*(\d+)Y?$", expand=False)
    return years.where(pd.to_numeric(years, errors="coerce") < 150, "")


def _splits(root: Path, cells: pd.DataFrame) -> list[str]:
    """By the official lists, else nothing."""
    lists = {name: _below(root, f"{name}_list.txt") for name in ("train_val", "test")}
    if not all(lists.values()):
        return []
    names = {name: set(path.read_text().split()) for name, path in lists.items() if path is not None}
    held = cells[_PATIENT].str.endswith("0")
    split = np.where(held, "val", "train").astype(object)
    split[~cells[_INDEX].isin(list(names["train_val"])).to_numpy()] = ""
    split[cells[_INDEX].isin(list(names["test"])).to_numpy()] = "test"
    if outside := int((split == "").sum()):
        logger.warning("%d images are in neither official list; written with a blank split.", outside)
    return [str(name) for name in split]


# ---- boxes -------------------------------------------------------------------------------------------------------


def _box_list(root: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Boxes ``(x0, y0, x1, y1)`` by image from BBox_List_2017, read by position: its header fits nothing."""
    import csv
    import gzip

    place = _below(root, "BBox_List_2017*.csv*")
    found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
    if place is None:
        return found
    opener = gzip.open if place.suffix == ".gz" else open
    with opener(place, "rt", encoding="utf-8-sig", newline="") as handle:
        for number, row in enumerate(csv.reader(handle), 1):
            if number == 1 or not any(row):
                continue
            name, label, box = _box(place, number, row)
            found.setdefault(name, []).append((label, box))
    return found


def _box(place: Path, number: int, row: list[str]) -> tuple[str, str, tuple[float, ...]]:
    try:
        name, label, x, y, width, height = row[0], row[1], *map(float, row[2:6])
    except (IndexError, ValueError) as error:
        raise TableError(f"{place} row {number} is {row}; expected image, finding, x, y, width, height.") from error
    label = _spelt(label)
    if label not in FINDINGS:
        raise TableError(f"{place} row {number}: {label!r} is none of the 14 findings.")
    return name.strip(), label, (x, y, x + width, y + height)


def _spelt(label: str) -> str:
    return _SLIPS.get(label.strip(), label.strip())


def _scaled(
    boxes: Mapping[str, list[tuple[str, tuple[float, ...]]]], names: Iterable[str], images: Mapping[str, str]
) -> list[str]:
    """Cells of boxes in each image's own pixels; published ones are 1024 x 1024."""
    cells = []
    for name in names:
        if name not in boxes:
            cells.append("")
            continue
        info = image_info(images[name])
        down, right = (side / FRAME for side in info.size)
        cells.append(_json((label, np.multiply(box, [right, down] * 2)) for label, box in boxes[name]))
    return cells


def _json(boxes: Iterable[tuple[str, Iterable[float]]]) -> str:
    return json.dumps([{"class": label, "box": [round(float(v), 3) for v in box]} for label, box in boxes])


def _boxed(root: Path, place: Path) -> pd.DataFrame:
    """Images of a folder that a table of boxes names, several rows an image; a finding with a box is present."""
    cells = read_cells(place)
    if missing := [name for name in (*_BOXES, "finding_labels") if name not in cells]:
        raise TableError(f"{place} has no column {missing[0]!r}; found: {', '.join(map(repr, cells))}.")
    images = _images(root, set(cells["image"]))
    groups = {name: rows for name, rows in cells.groupby("image", sort=False) if name in images}
    if not groups:
        raise TableError(f"{place} names none of the images below {root} ({cells['image'].iloc[0]!r}, ...).")
    if gone := cells["image"].nunique() - len(groups):
        logger.warning("%s: %d images are not below %s and are left out.", place.name, gone, root)
    findings = ["|".join([rows["finding_labels"].iloc[0], *map(_spelt, rows["class"])]) for rows in groups.values()]
    labels = _labels(place, pd.DataFrame({_LABELS: [cell.strip("|") for cell in findings]}))
    frame = pd.DataFrame({"image": [images[str(name)] for name in groups]}, dtype=object)
    frame = pd.concat([frame, labels], axis=1)
    frame["patient"] = [_patient(place, str(name)) for name in groups]
    frame["boxes"] = [
        _json((_spelt(row[0]), map(float, row[1:])) for row in rows[list(_BOXES[1:])].to_numpy())
        for rows in groups.values()
    ]
    return frame


def _patient(place: Path, name: str) -> str:
    match = _NUMBER.match(name)
    if match is None:
        raise TableError(f"{place}: {name!r} does not begin with a patient's number, as in 00000001_000.")
    return str(int(match.group(1)))


# ---- files -------------------------------------------------------------------------------------------------------


def _below(root: Path, pattern: str) -> Path | None:
    found = sorted(root.rglob(pattern))
    return found[0] if found else None


def _images(root: Path, wanted: set[str]) -> dict[str, str]:
    """Images by file name. A name found twice is an error: which one is meant?"""
    places: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.name not in wanted or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.name in places:
            raise TableError(f"{root} has {path.name} twice, {places[path.name]} and {path}; name the folder you mean.")
        places[path.name] = path.as_posix()
    return places
