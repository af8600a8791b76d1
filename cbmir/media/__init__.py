"""Assets to pixels: what is in them, what an encoder takes of them, and how they are shown to people."""

import importlib
import pkgutil

from cbmir.media.asset import Asset, HoldsPixels
from cbmir.media.filekind import (
    DECODER,
    HEAD_BYTES,
    NOTES,
    Decoded,
    DecodeOptions,
    FileKind,
    Note,
    expected_kind,
    file_kinds,
    is_readable,
    noted,
    register,
    suffixes,
    unregister,
)
from cbmir.media.frames import file_of, frame_key, split_key, stored_asset
from cbmir.media.locations import Location, sha256
from cbmir.media.own import OwnPreprocessing
from cbmir.media.prepared import Prepared, prepare
from cbmir.media.preprocessing import Pixels, Preprocessing, Resize, preprocess
from cbmir.media.raster import MAX_PIXELS, changed_since, decode, decode_noted
from cbmir.media.region import Region
from cbmir.media.remedies import (
    LINKS_TO_FILES,
    LINKS_TO_FOLDERS,
    advice,
    is_hidden,
    passed_over,
    passed_over_as,
    remedy,
    without_hidden,
)
from cbmir.media.thumbnail import LONGEST_PX, slice_thumbnail, thumbnail
from cbmir.media.volume import Volume, VolumePreprocessing, Voxels, preprocess_volume

for _module in pkgutil.iter_modules(__path__):  # each kind of file registers itself
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DECODER",
    "HEAD_BYTES",
    "LINKS_TO_FILES",
    "LINKS_TO_FOLDERS",
    "LONGEST_PX",
    "MAX_PIXELS",
    "NOTES",
    "Asset",
    "DecodeOptions",
    "Decoded",
    "FileKind",
    "HoldsPixels",
    "Location",
    "Note",
    "OwnPreprocessing",
    "Pixels",
    "Prepared",
    "Preprocessing",
    "Region",
    "Resize",
    "Volume",
    "VolumePreprocessing",
    "Voxels",
    "advice",
    "changed_since",
    "decode",
    "decode_noted",
    "expected_kind",
    "file_kinds",
    "file_of",
    "frame_key",
    "is_hidden",
    "is_readable",
    "noted",
    "passed_over",
    "passed_over_as",
    "prepare",
    "preprocess",
    "preprocess_volume",
    "register",
    "remedy",
    "sha256",
    "slice_thumbnail",
    "split_key",
    "stored_asset",
    "suffixes",
    "thumbnail",
    "unregister",
    "without_hidden",
]
