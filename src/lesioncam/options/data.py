"""Data: how a table is read, what becomes of uncertain and blank labels, how images are prepared and augmented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from lesioncam.errors import OptionError
from lesioncam.options.base import Config, read_yaml
from lesioncam.options.removed import pass_over_removed

SOFT = (0.55, 0.85)
"""What the policy ``soft`` draws from, where no interval is given (Pham et al. 2019)."""


_WORDS = {"zero": "0", "zeros": "0", "one": "1", "ones": "1", "0": "0", "1": "1", "ignore": "ignore"}


def _policy_word(value: object) -> object:
    """``zeros``, ``ones``, ``soft``, 0.7 or ``[0.55, 0.85]``, in the form that is kept."""
    import yaml

    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS or word == "soft":
            return SOFT if word == "soft" else _WORDS[word]
        try:
            value = read_yaml(word)
        except yaml.YAMLError:
            value = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= 1:
            raise ValueError(f"a soft label lies between 0 and 1, not at {value:g}")
        return str(int(value)) if value in (0, 1) else float(value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        if not 0 <= value[0] <= value[1] <= 1:
            raise ValueError(f"an interval of soft labels is [low, high] inside [0, 1], not {list(value)}")
        return tuple(map(float, value))
    raise ValueError("use ignore, 0 (zeros), 1 (ones), soft, a number between 0 and 1, or an interval [0.55, 0.85]")


def _blank_word(value: object) -> str:
    word = _WORDS.get(str(value).strip().lower().removesuffix(".0"))
    if word not in {"ignore", "0"}:
        raise ValueError("a blank becomes ignore or 0")
    return word


UncertainPolicy = Annotated[Literal["ignore", "0", "1"] | float | tuple[float, float], BeforeValidator(_policy_word)]


BlankPolicy = Annotated[Literal["ignore", "0"], BeforeValidator(_blank_word)]


class TableConfig(Config):
    """How a table of labels is read."""

    images: Path | None = None
    """Folder the image paths start from; by default the table's own folder."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Your names for our columns: image=file label=dx patient=PID ..."""
    classes: tuple[str, ...] | None = None
    """The findings, declared: any other label is an error. By default all labels found."""
    negative: tuple[str, ...] = ()
    """Names of labels that are no lesion ("No Finding", "healthy")."""
    patient_from: str | None = None
    """Who is who, without a patient column: a regular expression with one group, blocks:N, or none."""
    uncertain: UncertainPolicy = "ignore"
    """What -1 becomes: ignore, 0 (zeros), 1 (ones), a soft label such as 0.7, or soft: drawn anew each epoch from an
    interval, [0.55, 0.85]."""
    uncertain_for: dict[str, UncertainPolicy] = Field(default_factory=dict)
    """The same for single classes: Edema=1 Cardiomegaly=0 Atelectasis=[0.55,0.85]."""
    blank: BlankPolicy = "ignore"
    """What a blank cell becomes: ignore (unknown) or 0."""
    blank_for: dict[str, BlankPolicy] = Field(default_factory=dict)
    """The same for single classes: Edema=0."""
    no_finding: str | None = None
    """A class or column whose 1 makes the blanks of its row negative, but for Support Devices ("No Finding")."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of patients in train, val and test where the table has no split."""


class PreprocessConfig(Config):
    """From a decoded image to the network's input."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt, PositiveInt] = 128
    """Side of the square or cubic network input, pixels; of volumes also three sides: slices, rows, columns."""
    channels: PositiveInt = 1
    """Input channels: 1 grey, 3 colour."""
    normalise: Literal["percentile", "zscore", "range"] = "percentile"
    """percentile: 0.5 to 99.5 % of the image to [0, 1]; zscore: mean 0, sd 1; range: the file's full bit depth."""
    crop: bool = True
    """Cut to the foreground first: air carries scanner noise that betrays the source."""
    foreground: Literal["largest", "body"] = "largest"
    """largest: the largest bright component, which may be a brain without its scalp; body: all that is no air, filled,
    stray marks left out."""
    air: Literal["keep", "dark", "padding"] = "keep"
    """What is not the body (as of foreground=body, slightly widened). dark: becomes as dark as the padding, so that
    neither noise nor marks can be read; padding: it also counts as padding, so that poolings leave it out."""
    centred: bool = True
    """Padding on both sides; otherwise at the right and bottom only."""
    padding: float | None = None
    """Value of the padding on the normalised scale, before mean and std; by default the image's darkest."""
    equalise: bool = False
    """Equalise the histogram of the whole image; its values become their ranks in [0, 1]."""
    blur: NonNegativeFloat = 0.0
    """Standard deviation of a Gaussian, pixels of the file; 0 blurs nothing."""
    mean: tuple[float, ...] = ()
    """Taken off each channel at the end, on the scale [0, 1]: one number, or one per channel; () takes off nothing."""
    std: tuple[PositiveFloat, ...] = ()
    """Each channel is divided by it, after mean."""

    @model_validator(mode="after")
    def _fits(self) -> PreprocessConfig:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in {0, 1, self.channels}:
                raise ValueError(f"{name} needs one number, or one for each of {self.channels} channels")
        if self.normalise == "zscore" and (self.equalise or self.mean or self.std):
            raise ValueError("equalise, mean and std work on the scale [0, 1]; use normalise=percentile or range")
        return self

    def sides(self, axes: int) -> tuple[int, ...]:
        """The network input's sides for images (2 axes) or volumes (3).

        Raises:
            OptionError: for three sides where images are asked for.

        Example:
            >>> PreprocessConfig(size=64).sides(3), PreprocessConfig(size=(32, 64, 64)).sides(3)
            ((64, 64, 64), (32, 64, 64))
        """
        if isinstance(self.size, int):
            return (self.size,) * axes
        if len(self.size) != axes:
            raise OptionError(f"size {self.size} has three sides, for volumes; images take one number, the side.")
        return self.size


class ResizeCropConfig(Config):
    """From a decoded image to the input of a network of somebody else: timm's evaluation transform."""

    size: tuple[PositiveInt, PositiveInt] = (224, 224)
    """Height and width of the network input, pixels."""
    channels: PositiveInt = 3
    """Input channels."""
    crop_pct: PositiveFloat = 0.875
    """Share of the scaled image's side that the input shows; 1 cuts nothing off a square image."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """center: cut the longer side; squash: forget the proportions; border: pad the shorter side."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    """How pixels are resized."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Taken off each channel, after [0, 1]."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Each channel is divided by it."""


class AugmentConfig(Config):
    """Random changes of a training image; ranges are symmetric."""

    rotation: NonNegativeFloat = 180.0
    """Degrees, either way. 180: a place of the frame is then no place of the body, so that evidence cannot be parked
    there (docs/localisation.md); 15 where the orientation is the finding."""
    shift: NonNegativeFloat = 0.06
    """Largest move, as a share of the side."""
    scale: NonNegativeFloat = 0.25
    """Largest change of size: at 0.25 up to 1.25 times as large, or as small."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance of a left-right mirror; 0 where laterality is the finding."""
    contrast: NonNegativeFloat = 0.2
    """Relative gain above the darkest value."""
    brightness: NonNegativeFloat = 0.0
    """Added, in units of the normalised image; off, since grey air makes the padded border visible."""
    gamma: NonNegativeFloat = 0.2
    """Relative, on the image's own range."""
    noise: NonNegativeFloat = 0.0
    """Largest standard deviation, in units of the normalised image; off for the same reason."""
    outside: float | None = None
    """What is moved in from outside the image, in units of the normalised image; by default its lowest value."""
    cutout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest side of a random box, as a share of the image's, that is painted over with the body's mean."""

    @model_validator(mode="before")
    @classmethod
    def _passes_over_removed(cls, values: object) -> object:
        return pass_over_removed("augment", values)
