"""Errors a user can act on: each says what was found, what was expected and what to do."""

from __future__ import annotations


class LesioncamError(ValueError):
    """Base of all errors that are the input's fault, not the program's; exit code 2 on the command line."""


class TableError(LesioncamError):
    """Something is wrong with a table of labels; the message lists every finding with its row."""


class ImageError(LesioncamError):
    """An image or mask file cannot be used."""


class GeometryError(LesioncamError):
    """Two grids that must agree do not."""


class OptionError(LesioncamError):
    """An option has a value it cannot have."""


class RunError(LesioncamError):
    """A run folder is missing, unfinished, in the way, or lacks what was asked of it."""


class ModelError(LesioncamError):
    """A network cannot be built or loaded as asked."""
