"""Files and bytes to pixels: what is in them, what an encoder takes of them, and how they are shown to people."""

from cbmir.media.asset import Asset, HoldsPixels, Prepared, prepare, render
from cbmir.media.files import MAX_BYTES, file_sha256, read, sha256
from cbmir.media.kinds import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    LINKS_TO_FILES,
    LINKS_TO_FOLDERS,
    VOLUME_SUFFIXES,
    advice,
    is_hidden,
    is_image,
    is_volume,
    kind_of,
    passed_over,
    passed_over_as,
    remedy,
    without_hidden,
)
from cbmir.media.own import OwnPreprocessing
from cbmir.media.preprocessing import Pixels, Preprocessing, Resize, preprocess
from cbmir.media.raster import DECODER, MAX_PIXELS, NOTES, Note, changed_since, decode, decode_noted, noted
from cbmir.media.thumbnail import LONGEST_PX, slice_thumbnail, thumbnail
from cbmir.media.volume import Volume, VolumePreprocessing, Voxels, preprocess_volume
from cbmir.media.volumefile import read_volume

__all__ = [
    "DECODER",
    "HEAD_BYTES",
    "IMAGE_SUFFIXES",
    "LINKS_TO_FILES",
    "LINKS_TO_FOLDERS",
    "LONGEST_PX",
    "MAX_BYTES",
    "MAX_PIXELS",
    "NOTES",
    "VOLUME_SUFFIXES",
    "Asset",
    "HoldsPixels",
    "Note",
    "OwnPreprocessing",
    "Pixels",
    "Prepared",
    "Preprocessing",
    "Resize",
    "Volume",
    "VolumePreprocessing",
    "Voxels",
    "advice",
    "changed_since",
    "decode",
    "decode_noted",
    "file_sha256",
    "is_hidden",
    "is_image",
    "is_volume",
    "kind_of",
    "noted",
    "passed_over",
    "passed_over_as",
    "prepare",
    "preprocess",
    "preprocess_volume",
    "read",
    "read_volume",
    "remedy",
    "render",
    "sha256",
    "slice_thumbnail",
    "thumbnail",
    "without_hidden",
]
