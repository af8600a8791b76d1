"""A volume from a file of any format, told by its first bytes: names are often wrong about compression."""

import gzip
import io
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from cbmir.errors import ImageError
from cbmir.media.files import MAX_VOLUME_BYTES, check_file
from cbmir.media.kinds import HEAD_BYTES, remedy, volume_format
from cbmir.media.nifti import read_mgh, read_nifti
from cbmir.media.nrrd import read_nrrd
from cbmir.media.volume import Volume


def read_volume(source: Path | bytes) -> Volume:
    """A volume of NIfTI, MGH or NRRD, turned so that its axes run to the right, to the front and to the head.

    An oblique volume is turned by the nearest quarter turns only, as nibabel and MONAI do.

    Args:
        source: A file, or all its bytes; compressed by gzip or not, whatever its name.

    Raises:
        ImageError: the file is missing, unreadable or damaged, is no volume, holds something else than one volume, says
            no spacing or orientation, or has over `MAX_VOXELS` voxels.
    """
    if isinstance(source, Path):
        check_file(source, MAX_VOLUME_BYTES)
    name = source if isinstance(source, Path) else ""
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            return _read(_decompressed(file), name)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("is too large for the memory of this machine") from error
    except Exception as error:  # nibabel, pynrrd, zlib and numpy raise whatever they like on damaged data
        raise ImageError(f"can't be read: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


def lacks_orientation(path: Path) -> bool:
    """Whether a file is NIfTI without orientation, which is refused since version 2 of the decoder."""
    with suppress(OSError, EOFError, zlib.error), path.open("rb") as file:
        head = _decompressed(file).read(HEAD_BYTES)
        codes = {"NIfTI-1": head[252:256], "NIfTI-2": head[344:352]}.get(volume_format(head) or "")  # qform, sform
        return codes is not None and not any(codes)
    return False


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    is_compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_compressed else file


def _read(stream: IO[bytes], name: str | Path) -> Volume:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    form = volume_format(head)
    if form == "NRRD":
        return read_nrrd(stream)
    if form == "MGH":
        return read_mgh(stream)
    if form in ("NIfTI-1", "NIfTI-2"):
        return read_nifti(stream, form)
    raise ImageError(remedy(name, head) or "is no NIfTI volume, nor one of MGH or NRRD")
