"""A volume from a file of any format, told by its first bytes: names are often wrong about compression."""

import io
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

from cbmir.errors import ImageError, one_line
from cbmir.limits import Limits
from cbmir.media.files import MAX_VOLUME_BYTES, check_file
from cbmir.media.kinds import HEAD_BYTES, remedy, volume_format
from cbmir.media.nifti import read_mgh, read_nifti
from cbmir.media.nrrd import read_nrrd
from cbmir.media.volume import Volume
from cbmir.unpacking import unpacked


def read_volume(source: Path | bytes, limits: Limits | None = None) -> Volume:
    """A volume of NIfTI, MGH or NRRD, turned so that its axes run to the right, to the front and to the head.

    An oblique volume is turned by the nearest quarter turns only, as nibabel and MONAI do.

    Args:
        source: A file, or all its bytes; compressed by gzip or not, whatever its name.
        limits: What it may take; those of the environment unless given.

    Raises:
        ImageError: the file is missing, unreadable or damaged, is no volume, holds something else than one volume, says
            no spacing or orientation, has over `MAX_VOXELS` voxels, or goes beyond a limit.
    """
    if isinstance(source, Path):
        check_file(source, MAX_VOLUME_BYTES)
    name = source if isinstance(source, Path) else ""
    limits = limits or Limits.read("image")
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            return _read(*unpacked(file, limits), name, limits)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # nibabel, pynrrd, zlib and numpy raise whatever they like on damaged data
        raise ImageError(f"can't be read: {one_line(error)}") from error


def lacks_orientation(path: Path) -> bool:
    """Whether a file is NIfTI without orientation, which is refused since version 2 of the decoder."""
    with suppress(OSError, EOFError, zlib.error), path.open("rb") as file:
        head = unpacked(file, Limits.read("image"))[0].read(HEAD_BYTES)
        codes = {"NIfTI-1": head[252:256], "NIfTI-2": head[344:352]}.get(volume_format(head) or "")  # qform, sform
        return codes is not None and not any(codes)
    return False


def _read(stream: IO[bytes], room: int, name: str | Path, limits: Limits) -> Volume:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    form = volume_format(head)
    if form == "NRRD":
        return read_nrrd(stream, room, limits)
    if form == "MGH":
        return read_mgh(stream, room)
    if form in ("NIfTI-1", "NIfTI-2"):
        return read_nifti(stream, form, room)
    raise ImageError(remedy(name, head) or "is no NIfTI volume, nor one of MGH or NRRD")
