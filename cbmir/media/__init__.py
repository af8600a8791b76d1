"""Files and bytes to pixels: what is in them, what an encoder takes of them, and how they are shown to people."""

from cbmir.media.asset import Asset, Prepared, prepare, render
from cbmir.media.files import MAX_BYTES, file_sha256, read, sha256
from cbmir.media.kinds import IMAGE_SUFFIXES, VOLUME_SUFFIXES, is_image, is_volume, kind_of
from cbmir.media.nifti import read_volume
from cbmir.media.preprocessing import Pixels, Preprocessing, Resize, preprocess
from cbmir.media.raster import MAX_PIXELS, decode
from cbmir.media.thumbnail import LONGEST_PX, slice_thumbnail, thumbnail
from cbmir.media.volume import Volume, VolumePreprocessing, Voxels, preprocess_volume

__all__ = [
    "IMAGE_SUFFIXES",
    "LONGEST_PX",
    "MAX_BYTES",
    "MAX_PIXELS",
    "VOLUME_SUFFIXES",
    "Asset",
    "Pixels",
    "Prepared",
    "Preprocessing",
    "Resize",
    "Volume",
    "VolumePreprocessing",
    "Voxels",
    "decode",
    "file_sha256",
    "is_image",
    "is_volume",
    "kind_of",
    "prepare",
    "preprocess",
    "preprocess_volume",
    "read",
    "read_volume",
    "render",
    "sha256",
    "slice_thumbnail",
    "thumbnail",
]
