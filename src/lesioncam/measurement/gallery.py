"""The pictures of a report: the images that a rule picks, once more, with their pixels; of volumes one slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from lesioncam.data.preprocess import display_image
from lesioncam.evaluation.gallery import pick_gallery
from lesioncam.functional.slices import Slice, picture, shown_slice
from lesioncam.measurement.part import Part, Seen
from lesioncam.runs.arrays import CaseArrays, CasePicture
from lesioncam.runs.folder import RunFolder
from lesioncam.runs.gallery import Shown, write_gallery


def write_pictures(folder: RunFolder, part: Part, cases: pd.DataFrame, threshold: str | float) -> None:
    """Pick and keep what a report needs to draw without images and model: ``gallery.csv`` and arrays with pictures.

    Args:
        folder: the run.
        part: the split that was measured.
        cases: as `read_cases` returns it.
        threshold: of the masks.
    """
    split = str(part.table.frame["split"].iloc[0])
    rows = [Shown(*row) for row in pick_gallery(cases).astype(str).itertuples(index=False, name=None)]
    labels = {row.image: row.label for row in rows}
    wanted = [i for i, name in enumerate(part.table.frame["id"]) if name in labels]

    def keep(seen: Seen) -> tuple[str, str]:
        drawn = _picture(seen, labels[seen.result.id])
        CaseArrays.of(seen.result, drawn).write(folder.arrays(split, seen.result.id))
        return seen.result.id, "" if drawn.slice is None else _named(seen, drawn.slice)

    cuts = dict(replace(part, table=part.table.take(wanted)).each(threshold, keep))
    named = [
        row._replace(
            reason="; ".join(filter(None, [row.reason, cuts.get(row.image, "")])),
            file=folder.arrays(split, row.image).name,
        )
        for row in rows
    ]
    write_gallery(folder.evaluation(split) / "gallery.csv", named)


def _picture(seen: Seen, label: str) -> CasePicture:
    """What is drawn of an image: the map of one class, masks and truth of all."""
    result, truth = seen.result, seen.truth
    blank = np.zeros(result.heatmap.geometry.native, dtype=bool)
    whole = CasePicture(
        image=display_image(seen.picture.pixels),
        shown=(label,),
        probability=_one_map(seen, label),
        masks=result.segmentation.masks,
        truth=np.stack([truth.masks.get(name, blank) for name in result.classes]),
        truth_known=np.array(
            [name in truth.masks or label == 0 for name, label in zip(result.classes, truth.labels, strict=True)]
        ),
    )
    return whole if seen.evidence.ndim < 4 else _cut(seen, whole, result.classes.index(label))


def _cut(seen: Seen, whole: CasePicture, k: int) -> CasePicture:
    """One slice of a volume."""
    spacing = seen.result.heatmap.geometry.spacing
    cut = shown_slice(seen.evidence[k], whole.masks[k], whole.truth[k], spacing)
    return replace(
        whole,
        slice=cut,
        image=picture(whole.image, cut),
        probability=picture(whole.probability, cut),
        masks=picture(whole.masks, cut),
        truth=picture(whole.truth, cut),
    )


def _named(seen: Seen, cut: Slice) -> str:
    """A slice by the name that the file gives it."""
    grid = seen.picture.as_volume().grid
    return f"slice {grid.slice_name(cut.axis, cut.place) if grid else cut.place} ({cut.why})"


def _one_map(seen: Seen, label: str) -> np.ndarray:
    """The probability map of the class that is shown, ``(1, *native)`` in half precision."""
    k = seen.result.classes.index(label)
    scale = seen.result.heatmap.scale.of_class(k)
    return scale.probability(seen.evidence[k : k + 1]).astype(np.float16)
