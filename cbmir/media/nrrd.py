"""Volumes in NRRD, as 3D Slicer and ITK write them."""

import io
import math
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.limits import Limits
from cbmir.media.filekind import register
from cbmir.media.volume import Volume, check_grid, oriented
from cbmir.media.volumefile import volume_kind
from cbmir.unpacking import inflated

_TO_RAS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_PACKED = {**dict.fromkeys(("gzip", "gz"), "gzip"), **dict.fromkeys(("bzip2", "bz2"), "bzip2")}
_WIDEST = 8  # bytes of a value
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001}


def read_nrrd(stream: IO[bytes], room: int, limits: Limits) -> Volume:
    """A volume of NRRD, from the start of a stream.

    Args:
        stream: Without the compression of the whole file, if it has one.
        room: Bytes that it can give at most.
        limits: Of bytes, for voxels that are packed within the file.

    Raises:
        ImageError: it is no single volume of values, its voxels are in another file, it says no spacing or orientation,
            or its header tells of more bytes than there can be.
    """
    import nrrd
    from nibabel.spatialimages import SpatialImage

    header: Any = nrrd.read_header(stream)
    if "data file" in header or "datafile" in header:
        raise ImageError("has its voxels in another file: save both as one .nrrd, for example with 3D Slicer")
    sizes = tuple(int(size) for size in header["sizes"])
    if len(sizes) > 3:
        raise ImageError(
            f"has {len(sizes)} axes ({' x '.join(map(str, sizes))}), so it holds several volumes or channels; save "
            "each as a file of its own, for example with 3D Slicer"
        )
    affine = _affine(header)
    packed = _PACKED.get(header.get("encoding"))
    most = limits.bytes if packed else room
    check_grid(sizes, np.dtype(np.uint8), affine, most)  # the type is known to what reads it
    lines, skipped = (
        int(header.get(name, header.get(name.replace(" ", ""), 0))) for name in ("line skip", "byte skip")
    )
    if max(lines, skipped) > room or lines < 0:
        raise ImageError(f"is damaged: its header skips {max(lines, skipped):,} lines or bytes")
    if packed:
        for _ in range(lines):
            stream.readline()
        data = inflated(stream, packed, min(most, math.prod(sizes) * _WIDEST + max(skipped, 0)))
        stream = io.BytesIO(data[skipped:] if skipped > 0 else data)
        header = {**_without_skips(header), "encoding": "raw"}
    values = nrrd.read_data(header, stream, index_order="F")
    if packed and stream.read(1):
        raise ImageError(f"is damaged: it holds more than {' x '.join(map(str, sizes))} voxels")
    check_grid(values.shape, values.dtype, affine, limits.bytes)
    return oriented(SpatialImage(values.astype(np.float32), affine))


def _without_skips(header: Any) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name.replace(" ", "") not in ("lineskip", "byteskip")}


def _affine(header: Any) -> NDArray[np.float64]:
    """Voxels to mm to the right, the front and the head, but for the origin."""
    space = str(header.get("space", "")).lower()
    directions = np.asarray(header.get("space directions", np.nan), np.float64)
    if space not in _TO_RAS or directions.shape != (3, 3):
        raise ImageError(
            f"says no orientation (its space is {space or 'not given'}), so left and right aren't known: save it with "
            "one of right-anterior-superior, left-anterior-superior and left-posterior-superior"
        )
    units = [str(unit).strip('"') for unit in header.get("space units", ("mm",) * 3)]
    unknown = [unit for unit in units if unit not in _MM]
    if unknown or len(units) != 3:
        raise ImageError(f"has space units {', '.join(units)}; known are three of {', '.join(_MM)}")
    affine = np.eye(4)
    scale = np.array(_TO_RAS[space]) * np.array([_MM[unit] for unit in units])
    affine[:3, :3] = directions.T * scale[:, None]
    return affine


def _is_nrrd(head: bytes) -> bool:
    return head.startswith(b"NRRD")


register(volume_kind("NRRD", (".nrrd",), _is_nrrd, read_nrrd))
