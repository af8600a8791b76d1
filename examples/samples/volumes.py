"""Volumes from NIfTI files, Siemens mosaics and InVesalius projects, all in one orientation."""

import math
import plistlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray

from examples.samples.errors import SourceError
from examples.samples.pixels import Picture, apply_window, robust_window, to_isotropic
from examples.samples.source import Band, Reader, Source

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True, slots=True)
class Volume:
    """A scan in RAS+ order.

    Attributes:
        values: (x, y, z) with x growing to the patient's right, y to the front, z to the head.
        spacing_mm: Distance between voxels along x, y, z.
    """

    values: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Cut:
    """One slice of a volume as a picture.

    Attributes:
        picture: (rows, columns), square pixels, radiological convention.
        band: The band it belongs to.
        index: Its place along the band's axis.
    """

    picture: Picture
    band: Band
    index: int


def read_volume(source: Source, path: Path) -> Volume:
    """Read a volume and turn it to RAS+.

    Of a 4D file the first volume is taken: for diffusion that is the one without weighting.

    Raises:
        SourceError: The file is missing, unreadable, or not a volume.
    """
    readers = {Reader.NIFTI: _nifti, Reader.MOSAIC: _mosaic, Reader.INVESALIUS: _invesalius}
    try:
        return readers[source.reader](source, path)
    except (OSError, KeyError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise SourceError(f"{source.slug}: cannot read {source.path} of {source.package.name}: {error}") from error


def cuts(volume: Volume, source: Source) -> Iterator[Cut]:
    """The slices that a source's bands ask for, in order.

    Every slice of one volume shares one window: the source's, or the volume's robust percentiles.
    """
    window = source.window or robust_window(volume.values)
    for band in source.bands:
        for index in evenly_spaced(band.first, band.last, band.most):
            picture = apply_window(slice_of(volume, band.plane, index), window)
            across, along = (volume.spacing_mm[axis] for axis in range(3) if axis != _AXES[band.plane])
            yield Cut(to_isotropic(picture, row_mm=along, column_mm=across), band, index)


def slice_of(volume: Volume, plane: str, index: int) -> NDArray[np.float32]:
    """One slice as radiologists look at it.

    Head or front on top; on axial and coronal slices the patient's right is on the viewer's left, on sagittal ones the
    patient faces left. In RAS+ all three are the same two flips.

    Returns:
        (rows, columns) values.
    """
    # Not np.take: along a strided axis it copies the whole volume for each slice.
    values: NDArray[np.float32] = np.moveaxis(volume.values, _AXES[plane], 0)[index]
    return values.T[::-1, ::-1]


def evenly_spaced(first: int, last: int, most: int) -> list[int]:
    """At most `most` different whole numbers from `first` to `last`, both included."""
    wanted = min(most, last - first + 1)
    if wanted == 1:
        return [(first + last) // 2]
    return [first + (step * (last - first)) // (wanted - 1) for step in range(wanted)]


def _nifti(source: Source, path: Path) -> Volume:
    image = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]  # nibabel has no hint
    values = np.asarray(image.dataobj, dtype=np.float32)
    while values.ndim > 3:
        values = values[..., 0]
    x_mm, y_mm, z_mm = (float(size) for size in image.header.get_zooms()[:3])
    return Volume(values, (x_mm, y_mm, z_mm))


def _mosaic(source: Source, path: Path) -> Volume:
    """Siemens scanners store the slices of one EPI volume as square tiles of a single picture, feet first."""
    dataset = pydicom.dcmread(path)
    sheet = dataset.pixel_array.astype(np.float32)
    across = math.isqrt(source.tiles - 1) + 1
    rows, columns = sheet.shape[0] // across, sheet.shape[1] // across
    tiles = sheet.reshape(across, rows, across, columns).swapaxes(1, 2).reshape(-1, rows, columns)[: source.tiles]
    row_mm, column_mm = (float(size) for size in dataset.PixelSpacing)
    # A DICOM axial picture has the right of the patient on the left and the front on top: LPS. Two flips make it RAS.
    return Volume(tiles.transpose(2, 1, 0)[::-1, ::-1], (column_mm, row_mm, float(dataset.SliceThickness)))


def _invesalius(source: Source, path: Path) -> Volume:
    """An InVesalius 3 project: a tar of property lists and the raw int16 matrix, feet first, back first."""
    with tarfile.open(path) as project:
        members = {Path(member.name).name: member for member in project.getmembers()}
        described, matrix = (project.extractfile(members[name]) for name in ("main.plist", "matrix.dat"))
        if described is None or matrix is None:
            raise ValueError("main.plist or matrix.dat is not a plain file")
        facts = plistlib.loads(described.read())
        stored = np.frombuffer(matrix.read(), dtype="<i2").reshape(facts["matrix"]["shape"])
    x_mm, y_mm, z_mm = (float(size) for size in facts["spacing"])
    return Volume(stored.transpose(2, 1, 0)[::-1].astype(np.float32), (x_mm, y_mm, z_mm))
