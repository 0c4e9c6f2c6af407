"""The verb on new images: predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from lesioncam.cli.parse import parse
from lesioncam.cli.terminal import Device, ModelThreshold, Out, log_to_terminal, on_terminal, read_threshold
from lesioncam.options.run import MapMethod


@dataclass(frozen=True)
class PredictArgs:
    """Maps, boxes and masks of new images, in their own pixels; no labels needed."""

    run: Positional[Path]
    """The run folder; the arguments after it that are run folders too join it in an ensemble: mean of probabilities."""
    inputs: Positional[tuple[str, ...]]
    """Images, or folders of images."""
    out: Out
    """The folder to write."""
    write: tuple[Literal["maps", "boxes", "masks", "overlay", "crops"], ...] = ("maps", "boxes", "masks", "overlay")
    """What to write beside predictions.csv."""
    map: Annotated[MapMethod | None, arg(metavar="METHOD")] = None
    """Map method, by default the run's own; thresholds hold for that one, maps of another are cut at half their range.
    One of cam, gradcam, gradcam_pp, hirescam, xgradcam, layercam, eigencam, scorecam, occlusion, rise,
    integrated_gradients, smoothgrad, clear."""
    classes: Annotated[tuple[str, ...], arg(name="class", metavar="NAME")] = ()
    """Draw these classes only."""
    threshold: ModelThreshold = "val"
    """Map thresholds: chosen on val, default (.5), or a probability; of an ensemble, the mean of the members'."""
    views: Literal["none", "flip", "ten-crop"] = "none"
    """Look more than once and average: flip adds the left-right mirror; ten-crop takes four corners and the centre,
    each mirrored too. A trap where a finding has a side: a mirrored heart is not the same heart."""
    device: Device = "auto"
    """Where networks work; auto takes a GPU where there is one."""
    overwrite: bool = False
    """Replace an earlier prediction."""


def predict(words: Sequence[str]) -> int:
    """`lesioncam predict`."""
    args = parse(PredictArgs, "predict", words)
    log_to_terminal()
    from lesioncam.verbs.predict import predict as look

    members, given = _members(args.run, args.inputs)
    inputs = [image for one in given for image in _images(one)]
    results = look(
        members,
        inputs,
        args.out,
        write=args.write,
        threshold=read_threshold(args.threshold),
        map=args.map,
        classes=args.classes,
        views=args.views,
        device=args.device,
        progress=on_terminal(),
        overwrite=args.overwrite,
    )
    failed = len(inputs) - len(results)
    note = f"; {failed} could not be used, see {args.out / 'failed.csv'}" if failed else ""
    who = f" by {len(members)} runs" if len(members) > 1 else ""
    print(f"{len(results)} images{who}: {args.out / 'predictions.csv'}{note}")
    return 0


def _members(first: Path, others: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Runs and images of `predict`: the leading arguments that are run folders are runs."""
    from lesioncam.errors import OptionError
    from lesioncam.runs.folder import RunFolder

    rest = list(others)
    members = [first]
    while rest and RunFolder(Path(rest[0])).is_run():
        members.append(Path(rest.pop(0)))
    if late := [one for one in rest if RunFolder(Path(one)).is_run()]:
        raise OptionError(f"{late[0]} is a run folder behind an image; name runs first, then images.")
    if not rest:
        raise OptionError("no image was given; name images behind the run folders, for instance slices/*.png.")
    return members, rest


def _images(given: str) -> list[str]:
    """A file as it is; of a folder, every image in it."""
    from lesioncam.data.io.image import IMAGE_SUFFIXES
    from lesioncam.errors import OptionError

    folder = Path(given)
    if not folder.is_dir():
        return [given]
    found = sorted(str(path) for path in folder.iterdir() if path.name.lower().endswith(tuple(IMAGE_SUFFIXES)))
    if not found:
        raise OptionError(f"{given} holds no image; readable are {', '.join(IMAGE_SUFFIXES)}.")
    return found
