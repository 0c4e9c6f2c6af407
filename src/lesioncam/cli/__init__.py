"""The command line: one short function per verb, heavy imports inside, so that help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lesioncam.options.verbs import VERBS

_HELP = """usage: lesioncam VERB ...      lesioncam VERB --help

From a table of image-level labels to a classifier, heat maps, boxes, lesion masks, honest numbers and a report.
For research; not a medical device.

{verbs}

  --version   print the version

  lesioncam demo -o runs/demo
  lesioncam index figshare-brain:DIR -o brain.csv
  lesioncam check brain.csv
  lesioncam run brain.csv -o runs/brain
  lesioncam sweep brain.csv --vary pooling=avg,lse,pcam --vary seed=0,1,2 -o runs/pooling
  lesioncam evaluate runs/brain --split test
  lesioncam evaluate maps_of_another_tool/ brain.csv -o runs/theirs
  lesioncam compare runs/brain runs/theirs -o comparison/
  lesioncam predict runs/brain slices/*.png -o out/ --write maps boxes masks overlay
  lesioncam predict runs/a runs/b slices/*.png -o out/ --views flip
  lesioncam predict runs/brain slice.png -o out/ --map layercam --class glioma --write maps overlay crops
  lesioncam figures runs/brain -o figures/
  lesioncam adopt timm:resnet50 brain.csv --weights model.safetensors -o runs/mine
"""

_HOMES = {
    "tables": ("index", "check", "split"),
    "training": ("demo", "run", "train", "sweep", "calibrate", "adopt"),
    "measuring": ("evaluate", "compare", "report", "figures", "info"),
    "predicting": ("predict",),
}
"""Where each verb's options and function stand."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items())
        print(_HELP.format(verbs=lines))
        return 0
    if words[0] == "--version":
        from lesioncam import __version__

        print(f"lesioncam {__version__}")
        return 0
    return _run(words[0], words[1:])


def _run(verb: str, words: list[str]) -> int:
    from lesioncam.errors import LesioncamError
    from lesioncam.lookup import find

    try:
        find(verb, VERBS, "verb")
        home = next(home for home, own in _HOMES.items() if verb in own)
        return int(getattr(import_module(f"lesioncam.cli.{home}"), verb)(words) or 0)
    except LesioncamError as error:
        print(f"lesioncam {verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader went away (`| head`); nobody is left to be told
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 141
    except OSError as error:
        if (sentence := _disk(error)) is None:
            raise
        print(f"lesioncam {verb}: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "the same command" if verb == "sweep" else "--resume"
        print(f"\nlesioncam {verb}: stopped; what was finished is kept. Go on with {again}.", file=sys.stderr)
        return 130


def _disk(error: OSError) -> str | None:
    """A sentence for what the disk refuses; None for anything else."""
    import errno

    where = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({where}); nothing half-written was left. Free some space, then go on with --resume."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where} may not be written ({error.strerror}); choose another -o or change its permissions."
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return f"{where}: {error.strerror}."
    return None
