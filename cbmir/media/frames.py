"""Files that hold several images: each is an asset, and its key in a collection is that of the file and its number."""

import re
from pathlib import Path

from cbmir.media.asset import Asset
from cbmir.media.dicom_places import asset_of
from cbmir.media.dicom_settings import DicomSettings
from cbmir.media.filekind import named
from cbmir.media.locations import LocalFile, ZipMember
from cbmir.root import Root
from cbmir.schema import split_keyed

_KEY = re.compile(r"(.+)#([1-9][0-9]{0,8})", re.DOTALL)


def frame_key(file: str, frame: int) -> str:
    """The key of one of several images in a file: ``series/1.xyz#3``.

    Args:
        file: Key of the file.
        frame: From 1.
    """
    return f"{file}#{frame}"


def split_key(key: str) -> tuple[str, int | None]:
    """The key of a file and the number of an image in it, None for the file as a whole.

    Only names of a kind of file that has frames are taken apart: ``a#1.png`` and ``a.png#1`` are names of files.
    """
    found = _KEY.fullmatch(key) if "#" in key else None
    kind = named(found[1]) if found else None
    return (found[1], int(found[2])) if found and kind is not None and kind.frames else (key, None)


def stored_asset(root: Root, filepath: str, dicom: DicomSettings | None = None) -> Asset:
    """The asset of a stored image, below the folder that its path is relative to.

    Args:
        root: That folder.
        filepath: As it is stored.
        dicom: How the DICOM of the collection is read; its files are found by the key.

    Raises:
        ImageError: the path leads out of the folder, or is no path; or nobody knows where a file of DICOM is.
    """
    if split_keyed(filepath):
        return asset_of(filepath, dicom)
    file, frame = split_key(filepath)
    return Asset(root.file(file), frame=frame)


def file_of(root: Root, filepath: str, dicom: DicomSettings | None = None) -> Path:
    """The file of a stored image, whether it is there or not.

    Raises:
        ImageError: see `stored_asset`.
    """
    if split_keyed(filepath):
        path = asset_of(filepath, dicom).location
        return path.path if isinstance(path, LocalFile | ZipMember) else root.folder
    return root.file(split_key(filepath)[0])
