"""A thing that pixels come from, and what is made of it: the input of an encoder, or an image for people."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from cbmir.errors import ImageError
from cbmir.media.files import file_sha256, read, sha256
from cbmir.media.kinds import kind_of
from cbmir.media.nifti import read_volume
from cbmir.media.preprocessing import Preprocessing, preprocess
from cbmir.media.raster import decode
from cbmir.media.thumbnail import slice_thumbnail
from cbmir.media.volume import Volume, VolumePreprocessing, preprocess_volume
from cbmir.schema import RecordKind

_A = {"image": "an image", "volume": "a volume"}


class Asset:
    """A file or its bytes; it is read, hashed and decoded when that is first asked for, and once.

    Attributes:
        kind: ``image`` or ``volume``: of a file by its name; bytes are an image.

    Every property raises `ImageError` where the file can't be read or decoded.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        self._path = None if isinstance(source, bytes) else Path(source)
        self._given = source if isinstance(source, bytes) else b""
        self.kind: RecordKind = kind_of(self._path) if self._path else "image"

    @cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file's bytes; a volume, which may be large, is not held in memory for it."""
        if self._path and self.kind == "volume":
            return file_sha256(self._path)
        return sha256(self._data)

    @cached_property
    def image(self) -> Image.Image:
        """The decoded 8-bit RGB image."""
        return decode(self._data)

    @cached_property
    def volume(self) -> Volume:
        """The volume as it was measured."""
        if self._path is None:
            raise ImageError("is no file: volumes are read from files")
        return read_volume(self._path)

    @cached_property
    def _data(self) -> bytes:
        return read(self._path) if self._path else self._given


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an encoder takes of one image or volume.

    Attributes:
        pixels: `Pixels` or `Voxels`, of the shape that the preprocessing says.
        sha256: Of the file.
        width: Of the image or of a volume's axial slices, in pixels.
        height: Of the same, in pixels.
        depth: Axial slices of a volume; None for an image.
    """

    pixels: NDArray[Any]
    sha256: str
    width: int
    height: int
    depth: int | None = None


def prepare(
    asset: Asset | str | Path | bytes, how: Preprocessing | VolumePreprocessing, encoder: str = "the encoder"
) -> Prepared:
    """Turn a file, or its bytes, into what an encoder takes.

    Args:
        asset: What to read; give an `Asset` to look at its hash first, or to draw it too.
        how: The encoder's preprocessing.
        encoder: Name of the encoder, for messages.

    Raises:
        ImageError: the file can't be read or decoded, or is an image where a volume is needed or the reverse.
    """
    asset = asset if isinstance(asset, Asset) else Asset(asset)
    if asset.kind != how.kind:
        raise ImageError(f"is {_A[asset.kind]}; {encoder} takes {how.kind}s")
    if isinstance(how, VolumePreprocessing):
        width, height, depth = asset.volume.values.shape
        return Prepared(preprocess_volume(asset.volume, how), asset.sha256, width, height, depth)
    return Prepared(preprocess(asset.image, how), asset.sha256, *asset.image.size)


def render(asset: Asset | str | Path | bytes, window_hu: tuple[float, float] | None = None) -> Image.Image:
    """An 8-bit image for people: an image as it was decoded, or the middle axial slice of a volume.

    Args:
        asset: What to show.
        window_hu: Of a volume, black to white; None for the range of the slice.

    Raises:
        ImageError: the file can't be read or decoded.
    """
    asset = asset if isinstance(asset, Asset) else Asset(asset)
    return slice_thumbnail(asset.volume, window_hu) if asset.kind == "volume" else asset.image
