"""A volume in NIfTI, such as a CT series, as it was measured."""

import gzip
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.media.files import MAX_VOLUME_BYTES, check_file
from cbmir.media.volume import Volume

MAX_VOXELS = 1_000_000_000
"""Larger volumes are refused by their header: as float32 they take over 4 GB in each worker. A whole body in slices of
1 mm, 512 x 512 x 2,000, has half as many."""

_MM = {"meter": 1000.0, "micron": 0.001}  # NIfTI's other units of length
_HEADER_BYTES = 540  # of NIfTI-2, the longer one


def read_volume(path: Path) -> Volume:
    """A NIfTI volume, turned so that its axes run to the right, to the front and to the head.

    An oblique volume is turned by the nearest quarter turns only, as nibabel and MONAI do.

    Raises:
        ImageError: the file is missing, unreadable or damaged, is no NIfTI, holds something else than one volume, says
            no spacing or orientation, or has over `MAX_VOXELS` voxels.
    """
    check_file(path, MAX_VOLUME_BYTES)
    try:
        with path.open("rb") as file:
            return _nifti(gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("is too large for the memory of this machine") from error
    except Exception as error:  # nibabel, zlib and numpy raise whatever they like on damaged data
        raise ImageError(f"can't be read: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


def _nifti(stream: gzip.GzipFile | IO[bytes]) -> Volume:
    import nibabel as untyped  # half of it has types

    nibabel: Any = untyped
    head = stream.read(_HEADER_BYTES)
    stream.seek(0)
    formats = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    found = next((item for item in formats if item.header_class.may_contain_header(head)), None)
    if found is None:
        raise ImageError("is no NIfTI volume")
    image = nibabel.squeeze_image(found.from_stream(stream))
    _check(image.shape, image.get_data_dtype(), image.affine)
    image = nibabel.as_closest_canonical(image)
    values = np.ascontiguousarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    stream.read(1)  # at the end of a compressed file this compares its checksum
    if not np.isfinite(values).all():
        raise ImageError("has voxels that are not finite")
    unit = _MM.get(image.header.get_xyzt_units()[0], 1.0)
    x, y, z = (float(size) * unit for size in nibabel.affines.voxel_sizes(image.affine))
    return Volume(values, (x, y, z))


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], affine: NDArray[np.float64]) -> None:
    if len(shape) > 3:
        raise ImageError(f"holds {math.prod(shape[3:])} volumes; save each as a file of its own")
    if len(shape) < 3 or min(shape) < 2:
        raise ImageError(f"is no volume: it has {' x '.join(map(str, shape))} voxels")
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(f"is too large: {' x '.join(map(str, shape))} voxels, {MAX_VOXELS:,} at most")
    if dtype.kind not in "iuf":
        raise ImageError("has colours or complex numbers instead of values")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ImageError("says no spacing or orientation")
