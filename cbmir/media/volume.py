"""A volume, and from it to the voxels an encoder takes: for ingest and for queries."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import ImageError
from cbmir.media.window import windowed
from cbmir.schema import RecordKind

MAX_VOXELS = 1_000_000_000
"""Larger volumes are refused by their header: as float32 they take over 4 GB in each worker. A whole body in slices of
1 mm, 512 x 512 x 2,000, has half as many."""

MAX_AXIS = 32_767
"""More voxels along an axis than NIfTI-1 can count are refused: weights of resampling grow with an axis."""

Voxels = NDArray[np.float16]
Fit = Literal["squash", "crop"]


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as it was measured.

    Attributes:
        values: (x, y, z) float32 in the units of the file, HU for a CT; x runs to the patient's right, y to the front,
            z to the head.
        spacing_mm: Distance of the centres of neighbouring voxels along x, y and z.
    """

    values: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumePreprocessing:
    """What happens to a volume before the network, as data; steps that are None are left out.

    The order is: foreground, spacing or squash, window, pad and crop.

    Attributes:
        input_voxels: What the network takes along x (to the right), y (to the front) and z (to the head).
        window_hu: Becomes 0 to 1; what lies outside is clipped.
        fit: ``squash`` averages over boxes to `input_voxels` whatever the proportions; ``crop`` takes the centre,
            filled up with 0 after the window where the volume is smaller.
        spacing_mm: Resampled to this by linear interpolation before a ``crop``.
        foreground_hu: Crop first to the box of what is above.
    """

    input_voxels: tuple[int, int, int]
    window_hu: tuple[float, float]
    fit: Fit
    spacing_mm: tuple[float, float, float] | None = None
    foreground_hu: float | None = None
    kind: ClassVar[RecordKind] = "volume"
    dtype: ClassVar[np.dtype[np.float16]] = np.dtype(np.float16)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the voxels that `preprocess_volume` gives."""
        return self.input_voxels

    def as_json(self) -> Mapping[str, Any]:
        """The form that goes into an encoder's fingerprint."""
        data = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"kind": self.kind, "axes": "RAS", **data}


def check_grid(shape: tuple[int, ...], dtype: np.dtype[Any], affine: NDArray[np.float64], room: int) -> None:
    """Refuse what is no single volume of values, before its voxels are read.

    Args:
        shape: Voxels along each axis, as the header says.
        dtype: Of the values.
        affine: (4, 4) voxels to mm.
        room: Bytes that the file can give at most, unpacked.

    Raises:
        ImageError: it is not, or its voxels take more bytes than that.
    """
    if len(shape) > 3:
        raise ImageError(
            f"holds {math.prod(shape[3:])} volumes; save each as a file of its own, for example with fslsplit or "
            "nibabel.four_to_three"
        )
    if len(shape) < 3 or min(shape) < 2:
        raise ImageError(f"is no volume: it has {' x '.join(map(str, shape))} voxels")
    if math.prod(shape) > MAX_VOXELS:
        raise ImageError(f"is too large: {' x '.join(map(str, shape))} voxels, {MAX_VOXELS:,} at most")
    if max(shape) > MAX_AXIS:
        raise ImageError(f"is too long: {' x '.join(map(str, shape))} voxels, {MAX_AXIS:,} at most along an axis")
    if dtype.kind not in "iuf":
        raise ImageError("has colours or complex numbers instead of values")
    if math.prod(shape) * dtype.itemsize > room:
        raise ImageError(
            f"has a header of {' x '.join(map(str, shape))} voxels, {math.prod(shape) * dtype.itemsize:,} bytes; the "
            f"file can hold no more than {room:,}, or the limit is lower (--image-bytes)"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ImageError("says no spacing or orientation")


def oriented(image: Any, unit_mm: float = 1.0) -> Volume:
    """The volume of a nibabel image of three axes, turned so that they run to the right, to the front and to the head.

    Args:
        image: With an affine in `unit_mm`.
        unit_mm: Length of its unit.

    Raises:
        ImageError: a value is not finite.
    """
    import nibabel as untyped  # half of it has types

    nibabel: Any = untyped
    turned = nibabel.as_closest_canonical(image)
    values = np.ascontiguousarray(turned.get_fdata(dtype=np.float32, caching="unchanged"))
    if not np.isfinite(values).all():
        raise ImageError("has voxels that are not finite")
    x, y, z = (float(size) * unit_mm for size in nibabel.affines.voxel_sizes(turned.affine))
    return Volume(values, (x, y, z))


def preprocess_volume(volume: Volume, how: VolumePreprocessing) -> Voxels:
    """Crop, resample and window a volume the way an encoder wants it.

    ``squash`` is torch's ``interpolate(mode="area")``, ``spacing_mm`` with ``crop`` is MONAI's Spacing, SpatialPad and
    CenterSpatialCrop. Both resample one axis after the other with a matrix of weights each.

    Returns:
        (x, y, z) of `how.input_voxels`, 0 to 1. float16 is within 0.0003 of float32, .3 HU in a window of 1,200 HU; 8
        bits would be within 2.4 HU.

    Raises:
        ImageError: the volume is the same everywhere within the window.
    """
    values, margins = volume.values, []
    if how.foreground_hu is not None:
        values = _foreground(values, how.foreground_hu)
    for axis, target in enumerate(how.input_voxels):
        size = values.shape[axis]
        if how.fit == "squash":
            weights, margin = _area(size, target), (0, 0)
        else:
            step = how.spacing_mm[axis] / volume.spacing_mm[axis] if how.spacing_mm else 1.0
            weights, margin = _linear(size, step, target)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
        margins.append(margin)
    low, high = how.window_hu
    scaled = windowed(values, low, high)
    if scaled.min() == scaled.max():
        raise ImageError(f"is even within the window {low:g} to {high:g} HU")
    return np.pad(scaled.astype(np.float16), margins)


def _foreground(values: NDArray[np.float32], above: float) -> NDArray[np.float32]:
    """The smallest box around everything above a value; all of it where nothing is."""
    mask = values > above
    box = []
    for others in ((1, 2), (0, 2), (0, 1)):
        places = np.flatnonzero(mask.any(axis=others))
        box.append(slice(places[0], places[-1] + 1) if len(places) else slice(None))
    return values[tuple(box)]


def _area(size: int, target: int) -> NDArray[np.float32]:
    """(target, size) weights: each new voxel is the mean of the old ones it touches, edges counted in full."""
    places = np.arange(target)
    first, after = places * size // target, -(-(places + 1) * size // target)
    old = np.arange(size)
    inside = (old >= first[:, None]) & (old < after[:, None])
    return (inside / (after - first)[:, None]).astype(np.float32)


def _linear(size: int, step: float, target: int) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Weights of linear interpolation at every `step` old voxels from the first on, the middle `target` of them.

    Returns:
        (up to target, size) weights, and how many voxels are missing before and behind.
    """
    count = int(np.round((size - 1) / step + 1.0))
    first = max(count // 2 - target // 2, 0)
    places = np.clip(np.arange(first, min(first + target, count)) * step, 0, size - 1)
    below = np.floor(places).astype(int)
    weights = np.zeros((len(places), size), np.float32)
    rows = np.arange(len(places))
    weights[rows, below] = 1 - (places - below)
    weights[rows, np.minimum(below + 1, size - 1)] += (places - below).astype(np.float32)
    missing = max(target - count, 0)
    return weights, (missing // 2, missing - missing // 2)
