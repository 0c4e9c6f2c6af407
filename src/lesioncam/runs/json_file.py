"""What a JSON file of a run folder holds, as a type: written and read by the same class."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lesioncam.errors import RunError
from lesioncam.files import read_json, write_json

T = TypeVar("T")


class JsonFile(BaseModel):
    """Base of everything that is one JSON file; keys of a newer version are passed over.

    Example:
        >>> import tempfile
        >>> class Note(JsonFile):
        ...     text: str = ""
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Note(text="x").write(Path(folder) / "note.json")
        ...     Note.read(Path(folder) / "note.json")
        Note(text='x')
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read it.

        Raises:
            RunError: naming the file, if it is missing or damaged.
        """
        return read_as(TypeAdapter(cls), path)

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def read_as(kind: TypeAdapter[T], path: Path) -> T:
    """Read a JSON file as something else than a :class:`JsonFile`.

    Raises:
        RunError: naming the file, if it is missing or damaged.
    """
    content = read_json(path)
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: ValidationError) -> RunError:
    """One sentence for a file that is readable as JSON and holds something else."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    what = f"{where}: {first['msg']}" if where else first["msg"]
    return RunError(f"{path} is damaged ({what}); restore it or run again with --overwrite.")
