"""Volumes that nibabel reads: NIfTI, such as a CT series, and FreeSurfer's MGH."""

import struct
from typing import IO, Any

import numpy as np

from cbmir.errors import ImageError
from cbmir.limits import Limits
from cbmir.media.filekind import HEAD_BYTES, register
from cbmir.media.volume import Volume, check_grid, oriented
from cbmir.media.volumefile import volume_kind

_MM = {"meter": 1000.0, "micron": 0.001}  # NIfTI's other units of length
_AFTER = 1 << 20  # bytes of tags that may follow the voxels of MGH
_NO_DIRECTION = "so left and right aren't known: set it from the source, for example convert the DICOM with dcm2niix"


def read_nifti(stream: IO[bytes], room: int, limits: Limits) -> Volume:
    """A volume of NIfTI-1 or NIfTI-2, from the start of a stream, which can give `room` bytes at most.

    Raises:
        ImageError: it is no single volume of values, or says no spacing or orientation.
    """
    import nibabel as untyped  # half of it has types

    nibabel: Any = untyped
    kind = nibabel.Nifti1Image if _is_nifti1(stream.read(HEAD_BYTES)) else nibabel.Nifti2Image
    stream.seek(0)
    image = nibabel.squeeze_image(kind.from_stream(stream))
    check_grid(image.shape, image.get_data_dtype(), image.affine, room)
    if not (int(image.header["qform_code"]) or int(image.header["sform_code"])):
        raise ImageError(f"says no orientation (qform_code and sform_code are 0), {_NO_DIRECTION}")
    volume = oriented(image, _MM.get(image.header.get_xyzt_units()[0], 1.0))
    stream.read(1)  # at the end of a compressed file this compares its checksum
    return volume


def read_mgh(stream: IO[bytes], room: int, limits: Limits) -> Volume:
    """A volume of FreeSurfer's MGH, from the start of a stream, which can give `room` bytes at most.

    Raises:
        ImageError: it is no single volume of values, or says no spacing or orientation.
    """
    import nibabel as untyped

    nibabel: Any = untyped
    (is_directed,) = struct.unpack(">h", stream.read(30)[28:])
    stream.seek(0)
    image = nibabel.MGHImage.from_stream(stream)
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    check_grid(shape, image.get_data_dtype(), image.affine, room)
    if not is_directed:
        raise ImageError(f"says no orientation (goodRASFlag is 0), {_NO_DIRECTION}")
    values = np.asanyarray(image.dataobj).reshape(shape)
    stream.read(_AFTER)  # at the end of a compressed file this compares its checksum
    return oriented(nibabel.spatialimages.SpatialImage(values, image.affine))


def _is_nifti1(head: bytes) -> bool:
    return head[344:348] == b"n+1\0"


def _is_nifti(head: bytes) -> bool:
    return _is_nifti1(head) or head[4:8] == b"n+2\0"


def _is_mgh(head: bytes) -> bool:
    return head.startswith(b"\0\0\0\1")


def _lacks_orientation(head: bytes) -> bool:
    """Whether neither qform nor sform is given, which is refused since version 2 of the decoder."""
    return _is_nifti(head) and not any(head[252:256] if _is_nifti1(head) else head[344:352])


register(volume_kind("NIfTI", (".nii", ".nii.gz"), _is_nifti, read_nifti, _lacks_orientation))
register(volume_kind("MGH", (".mgh", ".mgz"), _is_mgh, read_mgh))
