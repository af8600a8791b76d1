"""Compressed frames by imagecodecs, as a plugin of pydicom's decoders; pydicom does the rest, such as the colours.

imagecodecs and the libraries in it have permissive licences, see decision record 0023.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

NAME = "imagecodecs"
_JPEG12 = "1.2.840.10008.1.2.4.51"  # those of 8 bits are Pillow's, which leaves the colours to pydicom
_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_HTJ2K = tuple(f"1.2.840.10008.1.2.4.20{number}" for number in (1, 2, 3))
_NEEDED = ("numpy", "imagecodecs>=2024.6")
DECODER_DEPENDENCIES = dict.fromkeys((_JPEG12, *_LOSSLESS, *_JPEG_LS, *_JPEG_2000, *_HTJ2K), _NEEDED)
"""What pydicom asks a plugin for."""


def is_available(_syntax: str) -> bool:
    """Whether imagecodecs is there; pydicom asks."""
    from cbmir.extras import is_installed

    return is_installed("imagecodecs")


def use_in(decoder: Any, syntax: str) -> None:
    """Add the plugin to a decoder of pydicom, once."""
    if syntax in DECODER_DEPENDENCIES and NAME not in (*decoder.available_plugins, *decoder.missing_dependencies):
        decoder.add_plugin(NAME, (__name__, "_decode_frame"))


def _decode_frame(source: bytes, runner: "DecodeRunner") -> bytes:
    """The samples of one frame, pixel after pixel."""
    import imagecodecs

    syntax = str(runner.transfer_syntax)
    if syntax == _JPEG12:
        frame = imagecodecs.jpeg_decode(source)
    elif syntax in _LOSSLESS:
        frame = imagecodecs.ljpeg_decode(source) if runner.samples_per_pixel == 1 else imagecodecs.jpeg_decode(source)
    elif syntax in _JPEG_LS:
        frame = imagecodecs.jpegls_decode(source)
    elif syntax in _HTJ2K:
        frame = imagecodecs.htj2k_decode(source)
    else:
        frame = imagecodecs.jpeg2k_decode(source)
    if frame.size != runner.rows * runner.columns * runner.samples_per_pixel:
        raise ValueError("the frame has another size than the header says")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * frame.dtype.itemsize)
    return np.ascontiguousarray(frame).tobytes()
