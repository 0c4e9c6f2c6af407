"""What made a run: versions, command, seed, hardware; no user, host or absolute path."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from lesioncam import __version__
from lesioncam.runs.json_file import JsonFile

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scipy", "pandas", "scikit-image", "pydantic")


class Provenance(JsonFile):
    """What made a result: no user, host or absolute path in it; what is not known is empty."""

    version: str = ""
    command: str = ""
    created: str = ""
    """UTC, ISO 8601."""
    seed: int | None = None
    hardware: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    table_digest: str = ""


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
