"""Fixed inputs that every encoder is measured with: eight images, one volume, four texts.

They are made by arithmetic of whole numbers alone. No random generator, no function of a library and no rounding of
floating-point numbers is in them, so they are the same in every version of Python and NumPy, on every processor. A
test holds their hashes. Whoever changes them counts `cbmir.probevectors.VERSION` up.

The images have texture everywhere, from one pixel to a quarter of the image, so that another crop, another window or
another network gives other vectors. Their sizes have odd margins, and are larger and smaller than what networks take.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import EncoderError
from cbmir.probevectors import ProbeVectors
from cbmir.schema import Vectors, normalise

if TYPE_CHECKING:
    from PIL import Image

    from cbmir.media import OwnPreprocessing, Preprocessing, Volume, VolumePreprocessing

    How: TypeAlias = Preprocessing | VolumePreprocessing | OwnPreprocessing

TEXTS = (
    "chest X-ray with pneumonia of the right lower lobe",
    "axial CT of the abdomen, normal liver",
    "MRI of the brain: tumour of 12 mm in the left frontal lobe, T2/FLAIR bright",
    "Röntgenaufnahme des Thorax p.a., ohne Befund",
)

_SIZES_PX = ((512, 512), (640, 480), (479, 641), (333, 401), (401, 257), (224, 225), (831, 613), (97, 131))
"""Width and height."""
_VOXELS = (110, 96, 70)
_SPACING_MM = (0.9, 1.1, 2.5)


def images() -> "Iterator[Image.Image]":
    """The probe images, 8-bit RGB: noise of several scales, gratings and rings, in grey and in colour."""
    from PIL import Image

    for number, (width, height) in enumerate(_SIZES_PX):
        grey = number % 2 == 0
        channels = [_channel(number, channel, height, width) for channel in range(1 if grey else 3)]
        yield Image.fromarray(np.stack(channels * (3 if grey else 1), axis=2).astype(np.uint8))


def volume() -> "Volume":
    """The probe volume: an ellipsoid of textured tissue from -1,000 to 2,000 HU in air."""
    from cbmir.media import Volume

    values = (3 * _noise(4, 1, _VOXELS) + _noise(0, 2, _VOXELS)) * 3000 // 1020 - 1000
    offsets = ((2 * np.arange(size) + 1 - size) * 1000 // size for size in _VOXELS)
    x, y, z = np.meshgrid(*offsets, indexing="ij", sparse=True)
    inside = x * x + y * y + z * z < 900_000
    return Volume(np.where(inside, values, -1024).astype(np.float32), _SPACING_MM)


def probe_vectors(
    how: "How", embed: Callable[[NDArray[Any]], Vectors], load_text: Callable[[], Any] | None = None
) -> ProbeVectors:
    """The vectors of the probes, measured once they are asked for.

    Args:
        how: The encoder's preprocessing.
        embed: From preprocessed pixels or voxels to vectors, in float32 whatever the encoder runs in otherwise.
        load_text: Loads its text tower, which is let go of afterwards.
    """

    def texts() -> Vectors | None:
        try:
            return normalise(load_text()(TEXTS)) if load_text else None
        except EncoderError:
            return None  # its tokenizer or its weights are not here, which matters once a text comes

    return ProbeVectors(lambda: embed(preprocessed(how)), texts)


def preprocessed(how: "How") -> NDArray[Any]:
    """The probe images, or the probe volume, after an encoder's preprocessing: (n, *how.shape)."""
    from cbmir.media import OwnPreprocessing, VolumePreprocessing, preprocess, preprocess_volume

    if isinstance(how, VolumePreprocessing):
        return preprocess_volume(volume(), how)[np.newaxis]
    if isinstance(how, OwnPreprocessing):
        inputs: Sequence[Any] = [volume()] if how.kind == "volume" else list(images())
        return np.stack([how.apply(item) for item in inputs])
    return np.stack([preprocess(image, how) for image in images()])


def _channel(number: int, channel: int, height: int, width: int) -> NDArray[np.int32]:
    """(height, width) values of 0 to 255."""
    noise = sum(
        weight * _noise(shift, 8 * channel + number, (height, width))
        for shift, weight in ((7, 3), (5, 2), (3, 2), (0, 1))
    )
    y, x = np.meshgrid(np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32), indexing="ij", sparse=True)
    places = ((3 * x + 2 * y, 26), ((x * x + y * y) >> 6, 61), (x - y, 9), (y + 0 * x, 40))
    place, period = places[(number + channel) % len(places)]
    mixed = (noise // 4 + _wave(place, period)) // 3
    if number == 2:
        return 96 + mixed // 4  # low contrast
    if number == 4:
        return np.clip(3 * mixed - 256, 0, 255)  # black and white in places
    return np.clip(2 * mixed - 80, 0, 255)


def _wave(place: NDArray[np.int32], period: int) -> NDArray[np.int32]:
    """A triangle wave of 0 to 255."""
    phase = place % (2 * period)
    return np.minimum(phase, 2 * period - phase) * 255 // period


def _noise(shift: int, seed: int, shape: Sequence[int]) -> NDArray[np.int32]:
    """Values of 0 to 255, drawn on a lattice of 2**shift and linear between its points."""
    values = _hashed(seed, [(size >> shift) + 2 for size in shape])
    side = 1 << shift
    for axis, size in enumerate(shape):
        place = np.arange(size)
        lower = place >> shift
        if not shift:
            values = np.take(values, lower, axis)
            continue
        weight = (
            (place & (side - 1)).astype(np.int32).reshape([-1 if item == axis else 1 for item in range(len(shape))])
        )
        values = np.take(values, lower, axis) * (side - weight) + np.take(values, lower + 1, axis) * weight >> shift
    return values


def _hashed(seed: int, shape: Sequence[int]) -> NDArray[np.int32]:
    """A byte that looks random for each place: products of unsigned 32-bit numbers, which wrap the same everywhere."""
    mixed = np.full(shape, (seed + 1) * 2654435761 % 2**32, np.uint32)
    for axis, size in enumerate(shape):
        place = np.arange(size, dtype=np.uint32).reshape([-1 if item == axis else 1 for item in range(len(shape))])
        mixed = (mixed ^ place * np.uint32(73856093)) * np.uint32(2246822507)
        mixed ^= mixed >> np.uint32(15)
    return (mixed >> np.uint32(11) & np.uint32(255)).astype(np.int32)
