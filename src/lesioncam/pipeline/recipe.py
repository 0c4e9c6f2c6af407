"""Options from a YAML file."""

from __future__ import annotations

from pathlib import Path

import yaml

from lesioncam.config import RunConfig, validated
from lesioncam.errors import OptionError

__all__ = ["load_config"]


def load_config(path: str | Path) -> RunConfig:
    """Read options from a YAML file (a run's ``config.yaml``, or your own).

    Raises:
        OptionError: for a slip in it, named.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise OptionError(f"{path} cannot be read as YAML: {error}.") from error
    return validated(RunConfig, content or {}, str(path))
