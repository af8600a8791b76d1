"""A thing that pixels come from, and what is made of it: the input of an encoder, or an image for people."""

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cbmir.errors import ImageError
from cbmir.limits import Limits
from cbmir.media.files import file_sha256, read, sha256
from cbmir.media.kinds import HEAD_BYTES, kind_of, kind_of_bytes
from cbmir.media.own import OwnPreprocessing
from cbmir.media.preprocessing import Preprocessing, preprocess
from cbmir.media.raster import DECODER, Decoded, Note, changed_since, decode_noted
from cbmir.media.thumbnail import slice_thumbnail
from cbmir.media.volume import Volume, VolumePreprocessing, preprocess_volume
from cbmir.media.volumefile import lacks_orientation, read_volume
from cbmir.schema import RecordKind

HoldsPixels = Path | str | bytes | Image.Image | NDArray[Any]
"""What `Asset.of` takes."""

_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that PNG keeps as they are."""


class Asset:
    """A file or its bytes; it is read, hashed and decoded when that is first asked for, and once.

    Attributes:
        kind: ``image`` or ``volume``: of a file by its name, of bytes by their first.
        limits: What decoding it may take.

    Every property raises `ImageError` where the file can't be read or decoded, or goes beyond a limit.

    Args:
        source: The file or its bytes.
        limits: Those of the environment unless given.
        kills: Whether the system may end this process where decoding doesn't end in time; for those that only decode.
    """

    def __init__(self, source: str | Path | bytes, limits: Limits | None = None, *, kills: bool = False) -> None:
        self._source = source if isinstance(source, bytes) else Path(source)
        self._kills = kills
        self.limits = limits or Limits.read("image")
        self.kind: RecordKind = kind_of_bytes(source[:HEAD_BYTES]) if isinstance(source, bytes) else kind_of(source)

    @classmethod
    def of(cls, pixels: "HoldsPixels | Asset") -> "Asset":
        """An asset of whatever pixels are in.

        Args:
            pixels: A path, a file's bytes, a Pillow image, or an array of shape (height, width), or (height, width, 3
                or 4) with 8 bits a channel. A Pillow image and an array are read as a file of their pixels would be.

        Raises:
            ImageError: an array has another shape or type.
        """
        if isinstance(pixels, Asset):
            return pixels
        if isinstance(pixels, str | Path | bytes):
            return cls(pixels)
        image = pixels if isinstance(pixels, Image.Image) else _image_of(np.asarray(pixels))
        file = io.BytesIO()
        try:
            image.save(file, "PNG" if image.mode in _AS_PNG else "TIFF", exif=image.info.get("exif", b""))
        except (OSError, ValueError) as error:
            raise ImageError(f"is a Pillow image of mode {image.mode}, which can't be used: {error}") from error
        return cls(file.getvalue())

    @property
    def name(self) -> str:
        """Name of the file; that of bytes is ``image`` or ``volume``."""
        return self._source.name if isinstance(self._source, Path) else self.kind

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file's bytes; a volume, which may be large, is not held in memory for it."""
        if isinstance(self._source, Path) and self.kind == "volume":
            return file_sha256(self._source)
        return sha256(self._data)

    @property
    def image(self) -> Image.Image:
        """The decoded 8-bit RGB image."""
        return self._decoded.image

    @cached_property
    def volume(self) -> Volume:
        """The volume as it was measured."""
        with self.held():
            return read_volume(self._source, self.limits)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done to an image in decoding that people may want to know, see `Decoded`."""
        return self._decoded.notes if self.kind == "image" else ()

    def changed_since(self, decoder: int) -> bool:
        """Whether an earlier decoder, by its version `DECODER`, gave other pixels; none is decoded to tell."""
        if decoder >= DECODER:
            return False
        with self.held():
            if isinstance(self._source, Path) and self.kind == "volume":
                return lacks_orientation(self._source)
            return self.kind == "image" and changed_since(self._data, decoder)

    def held(self) -> AbstractContextManager[None]:
        """A context that takes no more time and memory than one decode may."""
        return self.limits.held(kills=self._kills)

    @cached_property
    def _decoded(self) -> Decoded:
        data = self._data
        with self.held():
            return decode_noted(data, self.name if isinstance(self._source, Path) else "", self.limits)

    @cached_property
    def _data(self) -> bytes:
        return read(self._source) if isinstance(self._source, Path) else self._source


def _image_of(array: NDArray[Any]) -> Image.Image:
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    try:
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        raise ImageError(
            f"is an array of shape {array.shape} and type {array.dtype}: give (height, width) of 8 or 16 bits or of "
            "floats, or (height, width, 3) of 8 bits"
        ) from error


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an encoder takes of one image or volume.

    Attributes:
        pixels: `Pixels` or `Voxels`, of the shape that the preprocessing says.
        sha256: Of the file.
        width: Of the image or of a volume's axial slices, in pixels.
        height: Of the same, in pixels.
        depth: Axial slices of a volume; None for an image.
        notes: What was done in decoding, see `Decoded`.
    """

    pixels: NDArray[Any]
    sha256: str
    width: int
    height: int
    depth: int | None = None
    notes: tuple[Note, ...] = ()


def prepare(
    asset: Asset | str | Path | bytes,
    how: Preprocessing | VolumePreprocessing | OwnPreprocessing,
    encoder: str = "the encoder",
) -> Prepared:
    """Turn a file, or its bytes, into what an encoder takes.

    Args:
        asset: What to read; give an `Asset` to look at its hash first, or to draw it too.
        how: The encoder's preprocessing.
        encoder: Name of the encoder, for messages.

    Raises:
        ImageError: the file can't be read or decoded, goes beyond a limit, or is an image where a volume is needed or
            the reverse.
    """
    asset = asset if isinstance(asset, Asset) else Asset(asset)
    if asset.kind != how.kind:
        from cbmir.encoders.registry import not_taken  # imports this module

        raise ImageError(not_taken(asset.kind, encoder))
    if asset.kind == "volume":
        width, height, depth = asset.volume.values.shape
        return Prepared(_for_network(asset, asset.volume, how), asset.sha256, width, height, depth)
    size = asset.image.size
    return Prepared(_for_network(asset, asset.image, how), asset.sha256, *size, notes=asset.notes)


def _for_network(
    asset: Asset, source: Any, how: Preprocessing | VolumePreprocessing | OwnPreprocessing
) -> NDArray[Any]:
    with asset.held():
        if isinstance(how, OwnPreprocessing):
            return how.apply(source)
        return preprocess_volume(source, how) if isinstance(how, VolumePreprocessing) else preprocess(source, how)


def render(asset: Asset | str | Path | bytes, window_hu: tuple[float, float] | None = None) -> Image.Image:
    """An 8-bit image for people: an image as it was decoded, or the middle axial slice of a volume.

    Args:
        asset: What to show.
        window_hu: Of a volume, black to white; None for the range of the slice.

    Raises:
        ImageError: the file can't be read or decoded, or goes beyond a limit.
    """
    asset = asset if isinstance(asset, Asset) else Asset(asset)
    if asset.kind == "image":
        return asset.image
    volume = asset.volume
    with asset.held():
        return slice_thumbnail(volume, window_hu)
