"""Volumes in files: what all their kinds share."""

from collections.abc import Callable
from functools import partial
from typing import IO

from cbmir.errors import ImageError, one_line
from cbmir.limits import Limits
from cbmir.media.filekind import HEAD_BYTES, Decoded, DecodeOptions, FileKind, file_kinds
from cbmir.media.remedies import remedy
from cbmir.media.volume import Volume

MAX_BYTES = 8_000_000_000
"""Larger volume files are refused before they are read: a voxel takes 8 bytes at most, see `MAX_VOXELS`."""

Read = Callable[[IO[bytes], int, Limits], Volume]
"""From the start of a stream, which can give so many bytes at most, to a volume that is turned so that its axes run to
the right, to the front and to the head.

An oblique volume is turned by the nearest quarter turns only, as nibabel and MONAI do. It raises `ImageError` where the
file holds something else than one volume, says no spacing or orientation, has over `MAX_VOXELS` voxels, or goes beyond
a limit. Whatever else it raises becomes one."""


def volume_kind(
    name: str,
    suffixes: tuple[str, ...],
    recognises: Callable[[bytes], bool],
    read: Read,
    changed_since: Callable[[bytes], bool] | None = None,
) -> FileKind:
    """A kind of file that holds one volume.

    Args:
        name: For people.
        suffixes: Endings of names.
        recognises: Whether a file is of the kind, by its first `HEAD_BYTES`.
        read: Reads it.
        changed_since: Whether the decoder before version 2 read it otherwise, by the same bytes; none unless given.
    """
    return FileKind(
        name=name,
        holds="volume",
        suffixes=suffixes,
        recognises=recognises,
        decode=partial(_decoded, recognises, read),
        changed_since=partial(_changed_since, changed_since),
        most_bytes=MAX_BYTES,
        streamed=True,
    )


def _decoded(recognises: Callable[[bytes], bool], read: Read, file: IO[bytes], options: DecodeOptions) -> Decoded:
    try:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if not recognises(head):
            first, *others, last = (kind.name for kind in file_kinds() if kind.holds == "volume")
            unknown = f"is no {first} volume, nor one of {', '.join(others)} or {last}"
            raise ImageError(remedy(options.name, head) or unknown)
        return Decoded(read(file, options.room, options.limits))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # nibabel, pynrrd, zlib and numpy raise whatever they like on damaged data
        raise ImageError(f"can't be read: {one_line(error)}") from error


def _changed_since(changed: Callable[[bytes], bool] | None, file: IO[bytes], decoder: int) -> bool:
    if changed is None or decoder >= 2:
        return False
    try:
        return changed(file.read(HEAD_BYTES))
    except Exception:  # damaged: that it can't be read is said when it is decoded
        return False
