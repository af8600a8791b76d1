"""From an asset to the input of an encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.media.asset import Asset
from cbmir.media.filekind import Note
from cbmir.media.own import OwnPreprocessing
from cbmir.media.preprocessing import Preprocessing, preprocess
from cbmir.media.region import Region
from cbmir.media.volume import VolumePreprocessing, preprocess_volume
from cbmir.schema import RecordKind


@dataclass(frozen=True, slots=True)
class Prepared:
    """What an encoder takes of one image or volume.

    Attributes:
        pixels: `Pixels` or `Voxels`, of the shape that the preprocessing says.
        sha256: See `Asset.sha256`.
        kind: ``image`` or ``volume``.
        width: Of the image or of a volume's axial slices, in pixels.
        height: Of the same, in pixels.
        depth: Axial slices of a volume; None for an image.
        notes: What was done in decoding, see `Decoded`.
    """

    pixels: NDArray[Any]
    sha256: str
    kind: RecordKind
    width: int
    height: int
    depth: int | None = None
    notes: tuple[Note, ...] = ()


def prepare(
    asset: Asset | str | Path | bytes,
    how: Preprocessing | VolumePreprocessing | OwnPreprocessing,
    encoder: str = "the encoder",
    region: Region | None = None,
) -> Prepared:
    """Turn an asset into what an encoder takes.

    Args:
        asset: What to read; give an `Asset` to look at its hash first, or to draw it too.
        how: The encoder's preprocessing.
        encoder: Name of the encoder, for messages.
        region: The part of an image to take, with its context; None for all of it.

    Raises:
        ImageError: the asset can't be read or decoded, goes beyond a limit, is an image where a volume is needed or
            the reverse, or hasn't the region.
    """
    asset = asset if isinstance(asset, Asset) else Asset(asset)
    content: Any = asset.content(how.kind, encoder)
    with asset.held():
        if region is not None:
            if how.kind != "image":
                raise ImageError("is a volume, which has no region x,y,width,height; give a slice of it as an image")
            content = region.of(content)
        if isinstance(how, OwnPreprocessing):
            pixels = how.apply(content)
        elif isinstance(how, VolumePreprocessing):
            pixels = preprocess_volume(content, how)
        else:
            pixels = preprocess(content, how)
    width, height, *depth = asset.size
    return Prepared(pixels, asset.sha256, how.kind, width, height, depth[0] if depth else None, asset.notes)
