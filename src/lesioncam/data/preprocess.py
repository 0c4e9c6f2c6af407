"""One object takes a decoded image to the network's input and knows the way back.

Our own networks see a letter-box (`Preprocess`), those of others mostly timm's resize-then-centre-crop (`ResizeCrop`);
whatever is called with a `Picture` and returns a `Sample` can stand in their place (`Prepares`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from PIL import Image

from lesioncam.errors import ImageError, ModelError
from lesioncam.functional.body import body_mask
from lesioncam.geometry import Geometry
from lesioncam.options.base import validated
from lesioncam.options.data import PreprocessConfig, ResizeCropConfig
from lesioncam.picture import Picture, as_picture, by_x, channels_first
from lesioncam.types import Sample

if TYPE_CHECKING:
    from torch import nn


_GREY = np.array([0.2125, 0.7154, 0.0721])  # luminance of linear RGB, ITU-R BT.709
_MARGIN = 0.02  # of the side, round a foreground crop
_SMALLEST = 0.2  # of the image; a smaller "foreground" is a bright spot, not a body
_AROUND = 0.02  # of the longest side, what a masked body is widened by
_DARK, _BRIGHT = 0.5, 99.5  # percentiles that become 0 and 1


class Prepares(Protocol):
    """Anything that prepares images: one decoded image to a `Sample`."""

    def __call__(self, image: Picture, /) -> Sample:
        """Prepare one decoded image."""
        ...


OwnPrepare = Callable[[np.ndarray, str], Sample]
"""A user's own way: pixels ``(H, W)``, ``(H, W, C)`` or ``(D, H, W, C)`` and a name for errors to a `Sample`."""


def prepares(own: Prepares | OwnPrepare) -> Prepares:
    """Ours as it is; a user's own callable, which knows arrays, as one that takes pictures."""
    if isinstance(own, Preprocess | ResizeCrop):
        return own
    call = cast("OwnPrepare", own)
    return lambda picture: call(picture.pixels, picture.source)


@dataclass(frozen=True)
class Preprocess:
    """Normalise, cut to the foreground (an option), letter-box.

    A volume keeps the proportions of the body: voxels that are no cubes in the file are cubes in the input.

    Attributes:
        config: options.
        axes: 2 refuses volumes, 3 refuses images; None takes both.

    Example:
        >>> image = np.zeros((40, 20), np.uint8)
        >>> image[10:30, 5:15] = 200
        >>> sample = Preprocess(PreprocessConfig(size=32))(image)
        >>> sample.image.shape, sample.geometry.native, sample.geometry.crop
        ((1, 32, 32), (40, 20), ((9, 31), (5, 15)))
    """

    config: PreprocessConfig = field(default_factory=PreprocessConfig)
    axes: int | None = None

    @classmethod
    def from_timm(cls, model: nn.Module, **changes: object) -> ResizeCrop:
        """The preprocessing a timm model was trained with, and its inverse.

        Args:
            model: made by ``timm.create_model``; compiled, DDP and Lightning wrappers are looked through.
            changes: fields of :class:`lesioncam.options.data.ResizeCropConfig`, for instance ``crop_pct=1.0``;
                ``size`` may be one number.

        Returns:
            Resize, then centre crop, as timm does it: same pixels for 8-bit images.

        Raises:
            ModelError: if the model carries no timm configuration.
            OptionError: for a change that does not exist.

        Example:
            >>> import timm
            >>> prepare = Preprocess.from_timm(timm.create_model("resnet10t"))
            >>> sample = prepare(np.arange(7500, dtype=np.float32).reshape(75, 100))
            >>> prepare.config.crop_pct, sample.image.shape, sample.geometry.crop
            (0.875, (3, 176, 176), ((4, 70), (17, 83)))
        """
        return ResizeCrop(_timm_config(model, changes))

    def __call__(self, image: Picture | np.ndarray, name: str = "image") -> Sample:
        """Prepare one decoded image.

        Args:
            image: a picture, or an array ``(H, W)``, ``(H, W, C)`` or ``(D, H, W, C)``, any depth; where only volumes
                are taken, also ``(D, H, W)``.
            name: of an array, for errors.

        Raises:
            ImageError: if it is constant, not finite, a volume where images are expected (or the reverse), or has a
                number of channels that cannot be used.
        """
        picture, options = as_expected(as_picture(image, name), self.axes), self.config
        planes = to_planes(picture, options.channels)
        geometry = _letterbox(picture, foreground_box(planes[0], options.foreground) if options.crop else None, options)
        scaled = _scaled(planes, geometry, picture, options)
        fill = float(scaled.min()) if options.padding is None else options.padding
        valid = geometry.valid()
        if options.air != "keep":
            scaled, shown = _without_air(scaled, planes[0], fill, geometry)
            valid = valid & shown if options.air == "padding" else valid
        return Sample(_standardised(_to_input(scaled, geometry, fill), options), valid, geometry)


def as_expected(picture: Picture, axes: int | None) -> Picture:
    """A picture of the expected kind.

    Args:
        picture: an image or a volume; where volumes are expected, also ``(D, H, W)``.
        axes: 2 for images, 3 for volumes, None for both.

    Raises:
        ImageError: for the other kind.

    Example:
        >>> as_expected(Picture(np.zeros((4, 5, 6, 1)), source="a.nii.gz"), 2)
        Traceback (most recent call last):
        lesioncam.errors.ImageError: a.nii.gz is a volume (4 x 5 x 6), but this model takes images; ...
    """
    if axes == 3 and picture.pixels.ndim in (3, 4):
        return picture.as_volume()
    if axes is None or picture.is_volume == (axes == 3):
        return picture
    if axes == 2:
        told = "a volume ({}), but this model takes images; use a model of volumes (--backbone monai:resnet10)"
    else:
        told = "an image ({}), but this model takes volumes; use a model of images (--backbone resnet18)"
    raise ImageError(f"{picture.source} is {told.format(by_x(picture.size))}.")


def _letterbox(picture: Picture, crop: tuple[tuple[int, int], ...] | None, options: PreprocessConfig) -> Geometry:
    size, grid = options.sides(len(picture.size)), picture.grid
    if grid is None:
        return Geometry.letterbox(picture.size, size, crop=crop, centred=options.centred)
    pitch, affine = grid.spacing, grid.array_affine
    return Geometry.letterbox(
        picture.size, size, crop=crop, centred=options.centred, spacing=pitch, affine=affine, aspect=pitch
    )


def _scaled(planes: np.ndarray, geometry: Geometry, picture: Picture, options: PreprocessConfig) -> np.ndarray:
    """Planes ``(C, *S)`` on one scale, which follows from what lies inside the crop."""
    inside = planes[(slice(None), *(slice(a, b) for a, b in geometry.crop))]
    low, high = _window(inside, picture, options.normalise)
    clipped = np.clip(planes, low, high) if options.normalise == "percentile" else planes
    return _filtered(_normal(clipped, inside, (low, high), options.normalise), options)


def _to_input(planes: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
    import torch

    return geometry.to_input(torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None], fill)[0].numpy()


def _without_air(
    scaled: np.ndarray, plane: np.ndarray, fill: float, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Planes whose air is ``fill``, and where the input shows body; as they are where there is no air."""
    body = body_mask(plane, plane.ndim, widened=_AROUND)
    if body is None:
        return scaled, np.ones(geometry.input, dtype=bool)
    shown = _to_input(body[None], geometry, 0.0)[0] >= 0.5
    return np.where(body, scaled, np.float32(fill)), shown


@dataclass(frozen=True)
class ResizeCrop:
    """timm's evaluation transform: resize the whole image, take the middle, normalise with fixed numbers.

    8-bit images are resized as 8-bit images, so the result is timm's own. Images of any other depth are first brought
    to [0, 255] by their 0.5 and 99.5 percentiles, which is what a person would have exported, and resized as floats.

    Example:
        >>> sample = ResizeCrop(ResizeCropConfig(size=(32, 48), crop_pct=1.0))(np.eye(60, dtype=np.uint8))
        >>> sample.image.shape, sample.geometry.crop
        ((3, 32, 48), ((10, 50), (0, 60)))
    """

    config: ResizeCropConfig = field(default_factory=ResizeCropConfig)

    def __call__(self, image: Picture | np.ndarray, name: str = "image") -> Sample:
        """Prepare one decoded image.

        Args:
            image: a picture, or an array ``(H, W)`` or ``(H, W, C)``, any depth.
            name: of an array, for errors.

        Raises:
            ImageError: if it is a volume, not finite, or has a number of channels that cannot be used.
        """
        options, picture = self.config, as_picture(image, name)
        if picture.pixels.ndim not in (2, 3):
            raise ImageError(
                f"{picture.source} is {picture.pixels.shape}; expected (H, W) or (H, W, C). A volume needs its own way."
            )
        planes = _eight_bit(picture, to_planes(picture, options.channels))
        geometry = Geometry.resize_crop(
            planes.shape[1:], options.size, crop_pct=options.crop_pct, mode=options.crop_mode
        )
        prepared = [
            (_place(_resample(plane, geometry.scaled, options.interpolation), geometry, self._filling(c)) / 255 - m) / s
            for c, (plane, m, s) in enumerate(zip(planes, *self._numbers(len(planes)), strict=True))
        ]
        return Sample(np.stack(prepared), geometry.valid(), geometry)

    def _numbers(self, channels: int) -> tuple[tuple[np.float32, ...], tuple[np.float32, ...]]:
        """Mean and spread of each channel; their means where a network takes another number of channels."""
        return _adapted(self.config.mean, channels), _adapted(self.config.std, channels)

    def _filling(self, channel: int) -> int:
        """What stands beside the image: the mean colour where borders are asked for, otherwise black."""
        if self.config.crop_mode != "border":
            return 0
        return round(255 * float(_adapted(self.config.mean, self.config.channels)[channel]))


def _timm_config(model: nn.Module, changes: Mapping[str, object]) -> ResizeCropConfig:
    bare = model
    for wrapper in ("_orig_mod", "module", "_orig_mod"):
        bare = getattr(bare, wrapper, bare)
    carrier = next((part for part in bare.modules() if isinstance(getattr(part, "pretrained_cfg", None), dict)), None)
    if carrier is None:
        raise ModelError(
            f"{type(bare).__name__} carries no timm configuration (pretrained_cfg); say how its images are prepared: "
            "lesioncam.data.preprocess.ResizeCrop(ResizeCropConfig(size=(224, 224), mean=..., std=...)), or a callable "
            "of your own."
        )
    from timm.data import resolve_model_data_config

    found = resolve_model_data_config(carrier)
    fields = {name: found[name] for name in ("crop_pct", "crop_mode", "interpolation", "mean", "std")}
    fields |= {"size": _input_size(carrier, found["input_size"][-2:]), "channels": _input_channels(carrier)}
    if isinstance(changes.get("size"), int):
        changes = {**changes, "size": (changes["size"],) * 2}
    return validated(ResizeCropConfig, {**fields, **changes}, "preprocessing")


def _input_size(model: nn.Module, resolved: tuple[int, int]) -> tuple[int, int]:
    """What a network with fixed patches was built for, which its configuration does not say."""
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return tuple(built) if built is not None and len(built) == 2 else tuple(resolved)  # type: ignore[return-value]


def _input_channels(model: nn.Module) -> int:
    """Input channels of the first convolution; its configuration speaks of 3 whatever it was built with."""
    own = getattr(model, "in_chans", None)
    parts = (getattr(part, "in_channels", None) for part in model.modules())
    return next((channels for channels in (own, *parts) if isinstance(channels, int)), 3)


def _adapted(numbers: tuple[float, ...], channels: int) -> tuple[np.float32, ...]:
    own = numbers if len(numbers) == channels else (float(np.mean(numbers)),) * channels
    return tuple(np.float32(number) for number in own)


def _eight_bit(picture: Picture, planes: np.ndarray) -> np.ndarray:
    """Planes in [0, 255]: as bytes where the image is of bytes, otherwise windowed floats."""
    if picture.pixels.dtype == np.uint8:
        return np.rint(planes).astype(np.uint8)
    low, high = (float(v) for v in np.percentile(planes, (_DARK, _BRIGHT)))
    if high <= low:
        low, high = float(planes.min()), float(planes.max())
    return np.clip((planes - low) * np.float32(255 / max(high - low, 1e-12)), 0, 255).astype(np.float32)


def _resample(plane: np.ndarray, size: tuple[int, ...], how: str) -> np.ndarray:
    """A plane (uint8 or float32) at another size, antialiased where it shrinks, by Pillow as timm does it."""
    if plane.shape == size:
        return plane
    height, width = size
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling[how.upper()]))


def _place(plane: np.ndarray, geometry: Geometry, filling: int) -> np.ndarray:
    """The scaled plane ``(*scaled)`` laid into the input, what stands over cut off, ``(*input)`` float32."""
    out = np.full(geometry.input, filling, dtype=np.float32)
    there, here = [], []
    for offset, scaled, size in zip(geometry.offset, geometry.scaled, geometry.input, strict=True):
        there.append(slice(max(0, offset), min(size, offset + scaled)))
        here.append(slice(max(0, -offset), min(scaled, size - offset)))
    out[tuple(there)] = plane[tuple(here)]
    return out


def to_planes(picture: Picture, channels: int) -> np.ndarray:
    """Channels first, float32, with the number of channels the network takes: grey is copied, colour is weighed.

    Raises:
        ImageError: if it cannot be done without inventing or dropping information.

    Example:
        >>> to_planes(Picture(np.full((2, 2), 10, np.uint8)), 3).shape
        (3, 2, 2)
    """
    name, planes = picture.source, channels_first(picture.pixels.astype(np.float32, copy=False), len(picture.size))
    if not np.isfinite(planes).all():
        bad = int((~np.isfinite(planes)).sum())
        raise ImageError(
            f"{name} has {bad} pixels that are NaN or infinite; every pixel must be a number. Repair the file."
        )
    if len(planes) == channels:
        return planes
    if len(planes) == 1:
        return np.repeat(planes, channels, axis=0)
    if len(planes) == 3 and channels == 1:
        return np.tensordot(_GREY.astype(np.float32), planes, axes=1)[None]
    raise ImageError(f"{name} has {len(planes)} channels, the network takes {channels}; set channels={len(planes)}.")


def foreground_box(plane: np.ndarray, rule: Literal["largest", "body"] = "largest") -> tuple[tuple[int, int], ...]:
    """Half-open ``(start, stop)`` per axis round the foreground, with a small margin.

    The whole image where that box covers less than a fifth of it (then it is a bright spot and not a body), or where
    there is no air round a body.

    Args:
        plane: ``(*S)``, two or three axes.
        rule: ``largest`` is the largest component above Otsu's threshold; where a dark skull parts the brain from the
            scalp, that is the brain alone. ``body`` is :func:`lesioncam.functional.body.body_mask`.

    Example:
        >>> plane = np.zeros((100, 50))
        >>> plane[20:80, 10:40] = 1.0
        >>> foreground_box(plane), foreground_box(plane, "body")
        (((18, 82), (9, 41)), ((18, 82), (9, 41)))
    """
    from scipy import ndimage

    whole = tuple((0, n) for n in plane.shape)
    found = body_mask(plane, plane.ndim) if rule == "body" else _largest(plane)
    if found is None:
        return whole
    region = ndimage.find_objects(found.astype(np.uint8))[0]
    margins = [round(_MARGIN * n) for n in plane.shape]
    box = tuple(
        (max(0, axis.start - m), min(n, axis.stop + m)) for axis, m, n in zip(region, margins, plane.shape, strict=True)
    )
    area = np.prod([stop - start for start, stop in box])
    return box if area >= _SMALLEST * plane.size else whole


def _largest(plane: np.ndarray) -> np.ndarray | None:
    """The largest component above Otsu's threshold; None of a flat image."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if plane.min() == plane.max():
        return None
    labels, _ = ndimage.label(plane > threshold_otsu(plane), structure=np.ones((3,) * plane.ndim))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def display_image(image: np.ndarray) -> np.ndarray:
    """An 8-bit picture of a decoded image for people, ``(H, W)`` or ``(H, W, 3)``: 0.5 to 99.5 % of its values.

    Of a volume a stack of grey pictures ``(D, H, W)``, all on one scale: its first channel.
    """
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        pixels = pixels[..., 0]
    low, high = np.percentile(pixels, (_DARK, _BRIGHT))
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max()) or 1.0
    return np.asarray(np.clip((pixels - low) / max(high - low, 1e-12), 0, 1) * 255 + 0.5).astype(np.uint8)


def _window(pixels: np.ndarray, picture: Picture, how: str) -> tuple[float, float]:
    if pixels.min() == pixels.max():
        raise ImageError(
            f"{picture.source} is one flat value ({pixels.min():g}); there is nothing to see. Remove it from the table."
        )
    if how == "range":
        dtype = picture.pixels.dtype
        if not np.issubdtype(dtype, np.integer):
            raise ImageError(
                f"{picture.source} holds {dtype} values, which have no full range; use normalise=percentile or zscore."
            )
        limits = np.iinfo(dtype)
        return float(limits.min), float(limits.max)
    low, high = (float(v) for v in np.percentile(pixels, (_DARK, _BRIGHT)))
    return (low, high) if high > low else (float(pixels.min()), float(pixels.max()))


def _normal(planes: np.ndarray, inside: np.ndarray, window: tuple[float, float], how: str) -> np.ndarray:
    """The window becomes [0, 1]: the dark end is 0, the very value convolutions pad with, so that no border shows.

    With air at another value the zero padding of every layer is a bright frame, and networks learn to write there.
    """
    if how == "zscore":
        return np.asarray((planes - inside.mean()) / inside.std())
    low, high = window
    return np.asarray((planes - low) / (high - low))


def _filtered(planes: np.ndarray, options: PreprocessConfig) -> np.ndarray:
    """Equalised, then blurred, where asked for; channels apart."""
    if options.equalise:
        planes = np.stack([_ranks(plane) for plane in planes])
    if options.blur:
        from scipy.ndimage import gaussian_filter

        planes = np.stack([gaussian_filter(plane, options.blur) for plane in planes])
    return planes


def _ranks(plane: np.ndarray) -> np.ndarray:
    """Each value becomes the share of values up to it: histogram equalisation without bins."""
    _, which, counts = np.unique(plane, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) / plane.size)[which].reshape(plane.shape))


def _standardised(planes: np.ndarray, options: PreprocessConfig) -> np.ndarray:
    """Each channel less its mean, divided by its standard deviation, where these are given."""
    if not options.mean and not options.std:
        return planes
    along = (-1, *(1,) * (planes.ndim - 1))
    mean = np.asarray(options.mean or (0,), np.float32).reshape(along)
    return np.asarray((planes - mean) / np.asarray(options.std or (1,), np.float32).reshape(along))
