"""The files of stored images, to be looked at: found below a folder that is given, or where ingest read them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from cbmir.dicomcard import settings_of
from cbmir.errors import ImageError, SourceError
from cbmir.filters import Condition, Where
from cbmir.media import Asset, stored_asset
from cbmir.media.dicom_places import asset_of
from cbmir.paths import is_uri
from cbmir.root import Root
from cbmir.schema import split_keyed
from cbmir.store import Collection

LOOKED_FOR = 20
"""Images of a data set whose files are looked for before the work starts."""
_DATASETS = 50
_REMEDY = "give --root FOLDER, the folder of the stored images, or --allow-missing to go on without them"


class Shelf:
    """Draws the images of one collection.

    Attributes:
        root: Folder that was given; it is looked into first.

    Raises:
        SourceError: it is no folder.
    """

    def __init__(self, collection: Collection, root: Path | None = None) -> None:
        if root is not None and not root.is_dir():
            raise SourceError(f"--root {root} is not a folder that is there")
        self.root = root
        self._collection = collection
        self._window_hu = collection.card.window_hu
        self._dicom = settings_of(collection)

    def check(self, where: Where = ()) -> None:
        """Look for a few files of each data set, before anything long is done.

        Args:
            where: Narrows the images that will be shown; resolved.

        Raises:
            SourceError: of a data set no folder is known, or none of the files is there.
        """
        for dataset in list(self._collection.facet("dataset", where))[:_DATASETS]:
            mine = (*where, Condition("dataset", "=", (dataset,)))
            pages = self._collection.scroll(mine, fields=["filepath", "dataset"], batch=LOOKED_FOR)
            payloads = [point.payload for point in next(pages, [])]
            try:
                assets = [self.asset(payload) for payload in payloads]
            except ImageError as error:
                raise SourceError(f"an image of data set {dataset} {error}") from error
            if any(map(_is_file, assets)):
                continue
            folders = self._folders(dataset)
            if not folders and not all(asset.path and asset.path.is_absolute() for asset in assets):
                raise SourceError(f"the collection doesn't know where the images of data set {dataset} are: {_REMEDY}")
            if folders and not any(folder.is_dir() for folder in folders):
                raise SourceError(
                    f"the images of data set {dataset} were read from {folders[0]}, which is not there now: {_REMEDY}"
                )
            looked = f"none of {len(payloads)} images" if len(payloads) > 1 else "the only image"
            raise SourceError(f"{looked} of data set {dataset} is there; the first would be {assets[0]}: {_REMEDY}")

    def asset(self, payload: Mapping[str, Any]) -> Asset:
        """An image where it is, or should be.

        Raises:
            ImageError: it is of DICOM, and nobody on this machine knows where its file is.
        """
        filepath = str(payload.get("filepath", ""))
        if split_keyed(filepath):
            return asset_of(filepath, self._dicom)
        folders = self._folders(str(payload.get("dataset", "")))
        places = [_below(folder, filepath) for folder in folders] or [Asset(filepath)]
        return next((place for place in places if _is_file(place)), places[0])

    def draw(self, payload: Mapping[str, Any]) -> Image.Image:
        """An 8-bit image: as it was decoded, or the middle axial slice of a volume.

        Raises:
            ImageError: the file is missing, can't be decoded, or is not the one that was stored.
        """
        asset = self.asset(payload)
        stored = payload.get("sha256")
        if stored and asset.sha256 != stored:
            raise ImageError("is another file than the one that was stored")
        return self.render(asset)

    def render(self, asset: Asset) -> Image.Image:
        """An asset that is not stored, drawn as the stored ones are.

        Raises:
            ImageError: it is missing, or can't be decoded.
        """
        return asset.render(self._window_hu)

    def _folders(self, dataset: str) -> list[Path]:
        remembered = [Path(text) for text in self._collection.roots.get(dataset, ())]
        return [self.root, *remembered] if self.root else remembered


def refuse_missing(missing: Mapping[str, str]) -> None:
    """The error for images that can't be drawn.

    Args:
        missing: Reasons by file.

    Raises:
        ImageError: there are some.
    """
    for file, reason in missing.items():
        more = f", and {len(missing) - 1:,} more can't be drawn" if len(missing) > 1 else ""
        raise ImageError(f"{file} can't be drawn: {reason}{more}; {_REMEDY}")


@lru_cache
def _root(folder: Path) -> Root:
    return Root(folder)


def _below(folder: Path, filepath: str) -> Asset:
    try:
        return stored_asset(_root(folder), filepath)
    except ImageError:  # a URI, or a path that leads out of the folder: no such file is opened
        inside = is_uri(filepath) and ".." not in filepath.split("/")
        return Asset(folder / (filepath if inside else quote(filepath, safe="")))


def _is_file(asset: Asset) -> bool:
    try:
        return asset.path is not None and asset.path.is_file()
    except (OSError, ValueError):  # too long, or no text
        return False
