"""What made a run: versions, command, seed, hardware; no user, host or absolute path."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lesioncam import __version__
from lesioncam.files import write_json
from lesioncam.runs.folder import RunFolder
from lesioncam.types import Provenance

__all__ = ["collect", "write_provenance"]

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scipy", "pandas", "scikit-image", "pydantic")


def collect(seed: int, table_digest: str) -> Provenance:
    """Gather it.

    Example:
        >>> collect(0, "abc").seed
        0
    """
    return Provenance(
        version=__version__,
        command=_command(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        hardware=_hardware(),
        packages={name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        table_digest=table_digest,
    )


def write_provenance(folder: RunFolder, provenance: Provenance) -> None:
    """Write it beside the run."""
    write_json(folder.provenance, asdict(provenance))


def _command() -> str:
    """What was typed, absolute paths cut to their last part."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


def _hardware() -> str:
    import psutil
    import torch

    memory = round(psutil.virtual_memory().total / 2**30)
    found = f"{os.cpu_count()} CPU cores ({platform.machine()}), {memory} GiB memory, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        found += f", {torch.cuda.get_device_name()}"
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
