r"""A folder of images: one sub-folder a class, or any layout joined with a file of labels.

The rules, in full:

* A sub-folder is a class, and every image anywhere below it is of that class.
* Sub-folders named train, val (valid, validation) and test are splits when there are no others beside them; the classes
  are then the folders inside.
* A folder named ``masks`` (mask, groundtruth, segmentation, annotations, ...) anywhere is no class. A mask belongs to
  the image with the same path once that folder is taken out (``a/masks/1.png`` to ``a/1.jpg``), or else to the only
  image of the same stem (``masks/1.png`` to ``tumour/1.jpg``).
* ``1_mask.png``, ``1_mask_2.png`` beside ``1.png`` are its masks, to be united.
* Images outside any class get a blank label. Hidden files and folders are passed over.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from lesioncam.data.io.image import IMAGE_SUFFIXES
from lesioncam.data.io.nifti import stem_of
from lesioncam.data.sources.base import SourceInfo
from lesioncam.data.table.cells import read_cells
from lesioncam.data.table.labels import natural_key
from lesioncam.errors import TableError

logger = logging.getLogger(__name__)

INFO = SourceInfo(
    name="folder",
    licence="your own",
    citation="none",
    counts="what is there",
    traps=(
        "folders carry no patients: check asks for --patient-from",
        "two classes from two collections teach the collection, not the disease",
    ),
)

_MASK_FOLDERS = {"mask", "masks", "groundtruth", "groundtruths", "ground_truth", "segmentation", "segmentations"}
_MASK_FOLDERS |= {"annotation", "annotations", "label_masks", "labels"}
_MASK_NAME = re.compile(r"(.+)_mask(?:_\d+)?")
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_SPLIT_NAMES |= {"test": "test", "testing": "test"}


@dataclass
class _Tree:
    """Images by their path from the root without suffix, and masks by the key of the image they should belong to."""

    root: Path
    images: dict[str, PurePosixPath] = field(default_factory=dict)
    masks: dict[str, list[PurePosixPath]] = field(default_factory=lambda: defaultdict(list))

    def place(self, path: PurePosixPath) -> str:
        return (self.root / path).as_posix()


def table(root: Path) -> pd.DataFrame:
    """Make a table of a folder with one sub-folder a class.

    Args:
        root: the folder; the rules stand at the top of this file.

    Returns:
        Columns ``image, label``, and ``split`` and ``mask`` where there are any.

    Raises:
        TableError: if there are no images or no class folders.
    """
    tree = _walk(root)
    tops = {path.parts[0] for path in tree.images.values() if len(path.parts) > 1}
    if not tops:
        raise TableError(
            f"{root} has {_count(list(tree.images))} but no sub-folder per class; make one, "
            "or join a file of labels with --labels FILE --on COLUMN."
        )
    splits = all(top.lower() in _SPLIT_NAMES for top in tops)
    level = 1 if splits else 0
    paths = list(tree.images.values())
    columns = {
        "image": [tree.place(path) for path in paths],
        "label": [path.parts[level] if len(path.parts) > level + 1 else "" for path in paths],
    }
    if splits:
        columns["split"] = [_SPLIT_NAMES.get(path.parts[0].lower(), "") for path in paths]
    if blank := [path.as_posix() for path, label in zip(paths, columns["label"], strict=True) if not label]:
        logger.warning("%s in no class folder; written with a blank label: %s", _count(blank), _some(blank))
    return _with_masks(pd.DataFrame(columns, dtype=object), tree)


def join(root: Path, labels: Path, on: str) -> pd.DataFrame:
    """Make a table of a folder of images and a file of labels that name them.

    Args:
        root: folder of images, searched in all sub-folders.
        labels: CSV or Parquet.
        on: its column with the image's path below the root, file name, or name without suffix.

    Returns:
        ``image``, the columns of the file, and ``mask`` where there are any. Images without labels stay, with blank
        cells, and are listed in a warning; so are rows without an image, which are left out.

    Raises:
        TableError: if the column is missing, a key stands for two images or on two rows, or nothing matches.
    """
    cells = _key_cells(labels, on)
    tree = _walk(root)
    names = _names(tree)
    matched = {key: names[key] for key in cells[on] if key in names}
    for key, paths in matched.items():
        if len(paths) > 1:
            raise TableError(
                f"{labels.name}: {key!r} stands for {len(paths)} images, {_some(map(str, paths))}; use paths."
            )
    if not matched:
        seen, wanted = next(iter(tree.images.values())).name, cells[on].iloc[0]
        raise TableError(f"{labels.name} column {on!r} names none of the images in {root} ({wanted!r}, {seen!r}, ...).")
    chosen = cells[cells[on].isin(list(matched))]
    images = [matched[key][0] for key in chosen[on]]
    rest = [path for path in tree.images.values() if path not in set(images)]
    _tell_unmatched(labels, cells.loc[~cells[on].isin(list(matched)), on], rest)
    frame = chosen.drop(columns="image", errors="ignore").reindex([*chosen.index, *range(-len(rest), 0)], fill_value="")
    frame.insert(0, "image", [tree.place(path) for path in [*images, *rest]])
    return _with_masks(frame.reset_index(drop=True), tree)


def _key_cells(labels: Path, on: str) -> pd.DataFrame:
    cells = read_cells(labels)
    if on not in cells:
        raise TableError(f"{labels.name} has no column {on!r} to join on; found: {', '.join(map(repr, cells))}.")
    if "image" in cells and on != "image":
        raise TableError(f"{labels.name} has a column 'image' itself; join on it (--on image) or rename it.")
    cells = cells[cells[on] != ""]
    twice = cells[cells[on].duplicated(keep=False)]
    if len(twice):
        rows = ", ".join(map(str, twice.index[twice[on] == twice[on].iloc[0]]))
        raise TableError(f"{labels.name} has {twice[on].iloc[0]!r} in rows {rows}; keep one row per image.")
    return cells


def _names(tree: _Tree) -> Mapping[str, list[PurePosixPath]]:
    """Everything a key may call an image: its path, its file name, its stem."""
    names: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in tree.images.values():
        for name in dict.fromkeys([path.as_posix(), _bare(path).as_posix(), path.name, _bare(path).name]):
            names[name].append(path)
    return names


def _tell_unmatched(labels: Path, keys: pd.Series, rest: list[PurePosixPath]) -> None:
    if len(keys):
        rows = [f"row {row} {key!r}" for row, key in keys.items()]
        logger.warning("%s: %d rows have no image and are left out: %s", labels.name, len(rows), _some(rows))
    if rest:
        found = _some(path.as_posix() for path in rest)
        logger.warning("%s names no label for %s; written with blank cells: %s", labels.name, _count(rest), found)


def _walk(root: Path) -> _Tree:
    if not root.is_dir():
        raise TableError(f"{root} is not a folder.")
    tree = _Tree(root)
    found = [path.relative_to(root) for path in root.rglob("*") if path.name.lower().endswith(IMAGE_SUFFIXES)]
    visible = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    asides: list[PurePosixPath] = []
    for path in map(PurePosixPath, sorted(visible, key=natural_key)):
        inside = [part.lower() in _MASK_FOLDERS for part in path.parts[:-1]]
        if any(inside):
            kept = [part for part, mask in zip(path.parts, [*inside, False], strict=True) if not mask]
            tree.masks[_bare(PurePosixPath(*kept)).as_posix()].append(path)
        elif _MASK_NAME.fullmatch(_bare(path).name):
            asides.append(path)
        else:
            _add_image(tree, path)
    _sort_asides(tree, asides)
    if not tree.images:
        raise TableError(f"{root} holds no images; looked for {', '.join(IMAGE_SUFFIXES)} in all sub-folders.")
    return tree


def _bare(path: PurePosixPath) -> PurePosixPath:
    """A path without its suffix, which may be ``.nii.gz``."""
    return path.with_name(stem_of(path.name))


def _add_image(tree: _Tree, path: PurePosixPath) -> None:
    key = _bare(path).as_posix()
    tree.images[path.as_posix() if key in tree.images else key] = path


def _sort_asides(tree: _Tree, asides: list[PurePosixPath]) -> None:
    """``x_mask.png`` is a mask where ``x`` is an image, otherwise an image."""
    for path in asides:
        match = _MASK_NAME.fullmatch(_bare(path).name)
        key = path.with_name(match.group(1)).as_posix() if match else ""
        if key in tree.images:
            tree.masks[key].append(path)
        else:
            _add_image(tree, path)


def _with_masks(frame: pd.DataFrame, tree: _Tree) -> pd.DataFrame:
    """Add the column ``mask`` where masks were found; those that belong to no image are listed in a warning."""
    if not tree.masks:
        return frame
    stems: dict[str, list[str]] = defaultdict(list)
    for key in tree.images:
        stems[PurePosixPath(key).name].append(key)
    owners: dict[str, list[PurePosixPath]] = defaultdict(list)
    lost = []
    for key, files in tree.masks.items():
        alike = stems.get(key, [])
        owner = key if key in tree.images else alike[0] if len(alike) == 1 else None
        if owner is None:
            lost += [path.as_posix() for path in files]
        else:
            owners[tree.place(tree.images[owner])] += files
    if lost:
        logger.warning("%s of no image, or of several, left out: %s", _count(lost, "mask"), _some(lost))
    if not owners:
        return frame
    cells = ["|".join(tree.place(path) for path in owners.get(image, ())) for image in frame["image"]]
    return frame.assign(mask=pd.Series(cells, dtype=object))


def _count(things: list[str] | list[PurePosixPath], noun: str = "image") -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _some(names: Iterable[str], most: int = 20) -> str:
    shown = list(names)
    more = f", ... and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
