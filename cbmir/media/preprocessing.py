"""From an image to the pixels an encoder takes, as torchvision does it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbmir.errors import ImageError
from cbmir.media.raster import MAX_PIXELS
from cbmir.schema import RecordKind

Pixels = NDArray[np.uint8]
Resize = Literal["shortest", "squash", "pad", "square"]
Crop = Literal["round", "floor"]
Scaling = Literal["fixed", "minmax"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to a picture before the network, as data.

    Attributes:
        input_px: Height and width the network takes.
        resize: ``shortest`` scales the short side to `resize_px` and crops the centre; ``squash`` scales to `input_px`;
            ``pad`` scales the long side and leaves the right or the bottom empty: zero after normalisation; ``square``
            lays the picture in the middle of a black square, then scales that to `input_px`.
        resize_px: Length of the short side after scaling, or the least side of the ``square`` before; else unused.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, all with anti-aliasing but the first.
        mean: Subtracted from each channel after scaling to 0..1.
        std: Divides each channel after that.
        channels: 3 for RGB, 1 for grey.
        crop: Which way half of an odd margin goes: ``round`` as torchvision, ``floor`` as transformers.
        scaling: To 0..1 by ``fixed`` 255, or by each picture's own ``minmax``.
    """

    input_px: tuple[int, int]
    resize: Resize
    resize_px: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    crop: Crop = "round"
    scaling: Scaling = "fixed"
    kind: ClassVar[RecordKind] = "image"
    dtype: ClassVar[np.dtype[np.uint8]] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels that `preprocess` gives: with ``pad`` one channel more."""
        return (*self.input_px, self.channels + (self.resize == "pad"))

    @property
    def white(self) -> float:
        """The value that is 1 before mean and std."""
        return 255.0 if self.scaling == "fixed" else 1.0

    def as_json(self) -> Mapping[str, Any]:
        """The form that goes into an encoder's fingerprint; a later field is in it only where it isn't the default."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        later = {"crop": "round", "scaling": "fixed"}
        return {name: value for name, value in data.items() if later.get(name) != value}


def preprocess(picture: Image.Image, how: Preprocessing) -> Pixels:
    """Resize and crop a picture the way an encoder wants it.

    Equal, pixel for pixel, to torchvision's Resize and CenterCrop on a PIL picture. Scaling by mean and std is left to
    the encoder, which does it on its device.

    Args:
        picture: 8-bit RGB.
        how: The encoder's preprocessing.

    Returns:
        Pixels of `how.shape`; with ``pad`` the last channel is 255 where the picture is and 0 beside it.

    Raises:
        ImageError: scaled by its short side, the picture would have over `MAX_PIXELS` pixels.
    """
    height, width = how.input_px
    resample = _RESAMPLING[how.interpolation]
    if how.channels == 1:
        picture = picture.convert("L")
    if how.resize == "pad":
        return _padded(_resized(picture, _longest(picture.size, max(how.input_px)), resample), how)
    if how.resize == "square":
        picture = _squared(picture, how.resize_px)
    if how.resize in ("squash", "square"):
        picture = _resized(picture, (width, height), resample)
    else:
        picture = _resized(picture, _shortest(picture.size, how.resize_px), resample)
        left, top = _margin(picture.width - width, how.crop), _margin(picture.height - height, how.crop)
        picture = picture.crop((left, top, left + width, top + height))  # beyond the edge: black, as both pad
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels.reshape(how.shape)


def _padded(picture: Image.Image, how: Preprocessing) -> Pixels:
    pixels = np.zeros(how.shape, np.uint8)
    pixels[: picture.height, : picture.width, :-1] = np.asarray(picture).reshape(picture.height, picture.width, -1)
    pixels[: picture.height, : picture.width, -1] = 255
    return pixels


def _squared(picture: Image.Image, least_px: int) -> Image.Image:
    side = max(*picture.size, least_px)
    if side * side > MAX_PIXELS:
        raise ImageError(f"is too large: {picture.width} x {picture.height} pixels, {side} x {side} when squared")
    square = Image.new(picture.mode, (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _resized(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"is too thin: {picture.width} x {picture.height} pixels, {size[0]} x {size[1]} when scaled")
    return picture if picture.size == size else picture.resize(size, resample)


def _margin(spare_px: int, crop: Crop) -> int:
    """Half of what is over or missing, by torchvision's two ways to halve an odd number, or by transformers' way."""
    if crop == "floor":
        return spare_px // 2
    return round(spare_px / 2.0) if spare_px >= 0 else -(-spare_px // 2)


def _shortest(size: tuple[int, int], target_px: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return target_px, int(target_px * height / width)
    return int(target_px * width / height), target_px


def _longest(size: tuple[int, int], target_px: int) -> tuple[int, int]:
    """Half pixels go up, as in Segment Anything's ResizeLongestSide."""
    scale = target_px / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
