"""DICOM queries: read as the images of the collection were, and known by patient and study though not stored."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cbmir.dicomcard import CARD, settings_from, why_no_key
from cbmir.errors import CollectionError, KeyFileError
from cbmir.schema import StoredPoint
from cbmir.store import Collection
from cbmir.store.fused import FusedCollection
from cbmir.store.sources import check_dicom

if TYPE_CHECKING:
    from cbmir.media import Asset


class DicomQueries:
    """How the DICOM queries of one collection are read.

    Raises:
        KeyFileError: the key file can't be read, or collections that are asked as one have several keys.
        CollectionError: collections that are asked as one hold DICOM that was read in different ways.
    """

    def __init__(self, collection: Collection) -> None:
        for part in collection.parts if isinstance(collection, FusedCollection) else ():
            check_dicom(collection.metadata(), part)  # one query is read once for all of them
        card = collection.metadata().get(CARD)
        self._card: Mapping[str, Any] | None = card if isinstance(card, Mapping) else None
        self._settings = settings_from(card)
        self._collection = collection.name

    def use_window(self, window: str, *, force: bool = False) -> str | None:
        """Read DICOM queries with a window of their own.

        Args:
            window: See `cbmir.media.dicom_settings.WINDOWS`.
            force: Do it although the images of the collection have another one.

        Returns:
            What to say beside the hits, where the windows differ; None where they are the same.

        Raises:
            SourceError: there is no such window.
            CollectionError: the collection has another one, or its images are not of DICOM, and `force` isn't given.
        """
        from cbmir.media.dicom_settings import DicomSettings

        wanted = DicomSettings(window)
        theirs = self._settings.window if self._settings else None
        if theirs == wanted.window:
            return None
        said = f"the window {theirs}" if theirs else "no DICOM"
        if not force:
            raise CollectionError(
                f"collection {self._collection} holds {said}, and the query would have the window {wanted.window}: "
                "leave --window out, or give --force too"
            )
        self._settings = replace(self._settings or wanted, window=wanted.window)
        return f"DICOM queries have the window {wanted.window}; the collection holds {said}: scores are not comparable"

    def as_gallery(self, image: "Asset") -> "Asset":
        """A query that is read as the images of the collection were."""
        return image if self._settings is None or image.settings is not None else image.read_as(self._settings)

    def people(self, image: "Asset") -> list[StoredPoint]:
        """Patient and study of a DICOM query as the collection knows them, in a point without an id; often none.

        Raises:
            ImageError: the file can't be read.
        """
        if self._settings is None or self._settings.key is None or image.settings is None or not image.has_source:
            return []
        from cbmir.media.dicom import identity

        who = identity(image)
        both = {"patient_id": who.patient, "study_id": who.study}
        known = {name: value for name, value in both.items() if value}
        return [StoredPoint("", known)] if known else []

    def check_key(self) -> None:
        """Refuse to leave out copies of a query where the key that tells them isn't at hand.

        Raises:
            KeyFileError: it isn't.
        """
        if self._card and (self._settings is None or self._settings.key is None):
            raise KeyFileError(f"copies of a DICOM query can't be left out: {why_no_key(self._card)}")
