"""The images of a collection for another encoder: taken from the stored payloads, beside the collection in use."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cbmir.collections.versions import begin, versions
from cbmir.dicomcard import CARD, settings_of
from cbmir.errors import CbmirError, CollectionError, ImageError
from cbmir.fingerprint import EncoderCard
from cbmir.ingest.report import Failure, IngestReport
from cbmir.ingest.sources import SourceImage
from cbmir.media import Asset, stored_asset
from cbmir.paths import is_uri
from cbmir.root import Root
from cbmir.schema import StoredPoint, record_of
from cbmir.store import Collection, Layout, Store
from cbmir.store.sources import check_dicom
from cbmir.units import counted


class StoredSource:
    """The images of a collection by rising id, with all that is stored of them.

    Attributes:
        root: Folder of the images.
        total: How many there are.
        ignored: Always empty.
    """

    def __init__(self, collection: Collection, root: Path) -> None:
        self.total: int | None = collection.count()
        self.ignored: Mapping[str, int] = {}
        self._collection = collection
        self.root = root
        self._root = Root(root)
        self._dicom = settings_of(collection)

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All images; a point that is none, or a URI without a file below the root, is a failure."""
        for points in self._collection.scroll():
            yield from map(self._item, points)

    def _item(self, point: StoredPoint) -> SourceImage | Failure:
        place = f"collection {self._collection.name}"
        try:
            record = record_of(point)
        except CbmirError as error:
            return Failure(str(point.payload.get("filepath", point.id)), place, str(error))
        if is_uri(record.filepath):
            path = self._root.folder / record.filepath
            if not os.path.isfile(path):  # noqa: PTH113  as no file counts a path that is too long, too
                return Failure(record.filepath, place, f"is a URI without a file below {self._root.folder}")
            return SourceImage(record, Asset(path))
        try:
            return SourceImage(record, stored_asset(self._root, record.filepath, self._dicom))
        except ImageError as error:
            return Failure(record.filepath, place, str(error))


def check_target(store: Store, name: str, new_name: str | None) -> None:
    """Refuse what can't be done, before an encoder is built.

    Raises:
        CollectionError: the collection has no versions and no other name is given, or the name is its own.
    """
    if new_name is None:
        try:
            versions(store, name)
        except CollectionError as error:
            raise CollectionError(f"{error}: give --as NAME") from error
    elif new_name == name:
        raise CollectionError(f"{name} can't be embedded into itself; give --as another name")


def open_target(store: Store, old: Collection, card: EncoderCard, new_name: str | None, layout: Layout) -> Collection:
    """Open what is to be filled: the collection of another name, or the version that comes next.

    What an earlier run has begun for the same encoder is taken up.

    Raises:
        CollectionError: no other name is given, and the collection is of this encoder already or has no versions.
        FingerprintError: the collection of the other name holds the vectors of another encoder.
    """
    if new_name is not None:
        return _with_dicom(old, store.open_or_create(new_name, card, layout))
    if old.card.fingerprint == card.fingerprint:
        raise CollectionError(
            f"{old.name} holds vectors of {card.name} (fingerprint {card.fingerprint}) already; "
            "to make them again, give --as NAME"
        )
    return _with_dicom(old, store.open(begin(store, old.name, card, layout, resume=True)))


def hindrance(old: Collection, new: Collection, report: IngestReport) -> str | None:
    """Why readers of the old collection would miss something in the new one, in words; None where nothing is missing.

    Args:
        old: In use.
        new: Filled from it.
        report: Of that.
    """
    if report.failed:
        return f"{report.failed:,} of {counted(report.read, 'image')} failed"
    others = new.count() - report.stored - report.skipped
    if others > 0:
        return f"no longer in {old.name}: {counted(others, 'image')} of {new.name}"
    if others < 0 or old.count() != report.read:
        return f"{old.name} has changed meanwhile; run the same command again"
    return None


def _with_dicom(old: Collection, new: Collection) -> Collection:
    """The new collection, which remembers how DICOM is read before the first image is in it."""
    if card := old.metadata().get(CARD):
        try:
            check_dicom(old.metadata(), new)
        except CbmirError:
            new.close()
            raise
        new.set_metadata({CARD: card})
    return new
