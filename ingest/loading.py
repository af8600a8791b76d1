"""What becomes of one file: it is hashed and, unless it is known, decoded, preprocessed and drawn as a thumbnail."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.ingest.thumbnails.place import MODE, is_there, write
from cbmir.limits import Limits
from cbmir.media import (
    DECODER,
    Asset,
    Note,
    OwnPreprocessing,
    Preprocessing,
    VolumePreprocessing,
    expected_kind,
    prepare,
)
from cbmir.media.remedies import AS_DICOM
from cbmir.schema import RecordKind


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a worker does where thumbnails are all that is wanted, and nothing for an encoder.

    Attributes:
        window_hu: Of volumes, black to white; None for the range of each slice.
    """

    window_hu: tuple[float, float] | None = None


ForEncoder = Preprocessing | VolumePreprocessing | OwnPreprocessing
"""What is made of each file for an encoder."""

How = ForEncoder | Drawing
"""What is made of each file."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An asset to load.

    Attributes:
        asset: The image or volume, not read yet.
        known_sha256: Hash under which it is stored already; a file that still has it isn't decoded.
        thumbnail: Where a thumbnail is to be; None for none.
        shown: Whether the stored image has that thumbnail; then a known file gets it only where it isn't there.
        known_decoder: Version of the decoder that read the stored image; a known file that reads otherwise now is
            decoded again.
        thumbnail_mode: Rights of the thumbnail's file.
    """

    asset: Asset
    known_sha256: str | None
    thumbnail: Path | None = None
    shown: bool = False
    known_decoder: int = DECODER
    thumbnail_mode: int = MODE

    def due(self, known: bool) -> Path | None:
        """Where to write a thumbnail now, once it is clear whether the file is as it was stored."""
        if self.thumbnail is None or (known and self.shown and is_there(self.thumbnail)):
            return None
        return self.thumbnail


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one asset.

    Attributes:
        sha256: See `Asset.sha256`; empty where it couldn't be read.
        kind: What it is, where it was decoded for the encoder; None otherwise.
        width: Of the picture or of a volume's axial slices, in pixels.
        height: Of the same, in pixels.
        depth: Axial slices of a volume; None for a picture.
        pixels: `Pixels` or `Voxels` for the encoder; None where the image is known or unusable.
        reason: Why it is unusable, None otherwise.
        drawn: Whether its thumbnail was written.
        again: Whether the file is as it was stored, and pixels are given because the decoder has changed since.
        notes: What was done in decoding that people may want to know.
    """

    sha256: str = ""
    kind: RecordKind | None = None
    width: int = 0
    height: int = 0
    depth: int | None = None
    pixels: NDArray[Any] | None = None
    reason: str | None = None
    drawn: bool = False
    again: bool = False
    notes: tuple[Note, ...] = ()


def load_image(
    wanted: Wanted, how: How, limits: Limits | None = None, *, encoder: str = "the encoder", kills: bool = False
) -> Loaded:
    """Read, hash, and, unless it is known, decode and preprocess one image or volume; never raises for a bad one.

    Its thumbnail is written where one is due. With a `Drawing` that is all, and a file that isn't as it was stored is
    a bad one.

    Args:
        wanted: The asset.
        how: What is made of it.
        limits: What that may take; those of the environment unless given.
        encoder: Name of the encoder, for messages.
        kills: Whether the system may end this process where decoding doesn't end in time.

    Raises:
        ThumbnailError: the thumbnail can't be written, which isn't the image's fault.
    """
    asset = wanted.asset.within(limits, kills=kills)
    try:
        return _draw(wanted, how, asset) if isinstance(how, Drawing) else _load(wanted, how, asset, encoder)
    except ImageError as error:
        return Loaded(reason=str(error))
    except MemoryError:
        return Loaded(reason="is too large for the memory of this machine")


def _load(wanted: Wanted, how: ForEncoder, asset: Asset, encoder: str) -> Loaded:
    if expected_kind(asset.location.name) != how.kind:
        asset.check_kind(how.kind, encoder)  # before the whole of it is read
    same = asset.sha256 == wanted.known_sha256
    if asset.settings is None and asset.has_source:
        raise ImageError(AS_DICOM)
    known = same and not asset.changed_since(wanted.known_decoder)
    due = wanted.due(known)
    if known and due is None:
        return Loaded(asset.sha256)
    prepared = None if known else prepare(asset, how, encoder)
    if due is not None:
        window_hu = how.window_hu if isinstance(how, VolumePreprocessing) else None
        write(asset.thumbnail(window_hu), due, wanted.thumbnail_mode)
    if prepared is None:
        return Loaded(asset.sha256, drawn=True)
    return Loaded(
        asset.sha256,
        prepared.kind,
        prepared.width,
        prepared.height,
        prepared.depth,
        pixels=prepared.pixels,
        drawn=due is not None,
        again=same,
        notes=prepared.notes,
    )


def _draw(wanted: Wanted, how: Drawing, asset: Asset) -> Loaded:
    due = wanted.due(known=True)
    if due is None:
        return Loaded()
    if wanted.known_sha256 not in (None, asset.sha256):
        return Loaded(asset.sha256, reason="has changed since it was embedded: run `cbmir ingest images` again")
    write(asset.thumbnail(how.window_hu), due, wanted.thumbnail_mode)
    return Loaded(asset.sha256, drawn=True)
