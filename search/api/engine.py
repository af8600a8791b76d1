"""What a process that holds the collections does. It runs in the main thread, where limits of time hold for uploads."""

import io
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from PIL import Image

from cbmir.errors import EncoderError, FilterError, FingerprintError, ImageError
from cbmir.filters import Condition, Where, check_countable, resolve
from cbmir.media import HEAD_BYTES, Asset, Region, prepare, thumbnail
from cbmir.media.filekind import recognised
from cbmir.options import opened
from cbmir.schema import StoredPoint
from cbmir.search.answer import Answer
from cbmir.search.api.asked import Asked, Counted, Part, Plan, Record, Scope, Served
from cbmir.search.api.errors import HiddenError, ServiceError
from cbmir.search.query import ImageQuery, Single, StoredQuery, TextQuery, WeightedQuery
from cbmir.search.searcher import Searcher
from cbmir.search.shelf import Shelf

THUMBNAIL_BYTES = 10_000
"""A thumbnail is compressed until it has no more."""

LARGE_PX = 2048
"""Longest side of an image that is shown large."""

_NOBODY = str(uuid.UUID(int=0))
_GZIP = b"\x1f\x8b"


class Engine:
    """Holds the collections of a plan, with their encoders loaded.

    Raises:
        StoreError: the store can't be opened.
        CollectionError: it has no collection, or not one of those that are wanted.
        SourceError: the folder of the stored images isn't there.
    """

    def __init__(self, plan: Plan) -> None:
        self._searchers: dict[str, Searcher] = {}
        self._shelves: dict[str, Shelf] = {}
        with ExitStack() as stack:
            store = stack.enter_context(opened(plan.location))
            for name in plan.collections or tuple(store.names()) or (store.only(),):
                collection = stack.enter_context(store.open(name))
                self._searchers[name] = Searcher(collection, encoder=plan.settings)
                self._shelves[name] = Shelf(collection, plan.root)
            self.served = [self._warm(name, searcher) for name, searcher in self._searchers.items()]
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let go of the collections."""
        self._stack.close()

    def ping(self) -> None:
        """Ask each collection for an image that isn't there.

        Raises:
            StoreError: one doesn't answer.
        """
        for searcher in self._searchers.values():
            searcher.collection.get([_NOBODY], fields=False)

    def count(self, scope: Scope) -> int:
        """How many images of a collection somebody may see, as counted within the last minute."""
        return self._searchers[scope.collection].collection.counted(self._seen(scope))

    def search(self, scope: Scope, asked: Asked) -> Answer:
        """The answer to a query.

        Raises:
            HiddenError: a stored image among its parts isn't there, or may not be seen.
            ImageError, QueryError, FilterError, EncoderError: it can't be asked.
        """
        searcher, seen = self._searchers[scope.collection], self._seen(scope)
        self._check_seen(scope, [part.id for part in asked.parts if part.id is not None])
        how = replace(asked.how, where=(*_conditions(asked.how.where), *seen))
        region = Region(*asked.box) if asked.box else None
        parts = [(_single(part, region), part.weight) for part in asked.parts]
        if len(parts) > 1:
            (answer,) = searcher.ask(WeightedQuery(tuple(parts), asked.mix), how)
        elif isinstance(parts[0][0], ImageQuery):
            (answer,) = searcher.images([Asset.of(parts[0][0].image)], how, region)
            if answer.reason is not None:
                raise ImageError(answer.reason)
        else:
            (answer,) = searcher.ask(parts[0][0], how)
        return replace(answer, stored=None, file=None)

    def facets(self, scope: Scope, where: Where, fields: Sequence[str], limit: int) -> Counted:
        """How many images that satisfy a filter have which values.

        Args:
            scope: Which images are counted.
            where: The filter, not resolved.
            fields: Keyword fields.
            limit: Values a field at most.

        Raises:
            FilterError: a field can't be counted, or a value of the filter isn't stored.
        """
        collection, seen = self._searchers[scope.collection].collection, self._seen(scope)
        where = resolve(where, collection)
        found, more = {}, set()
        for field in fields:
            check_countable(field, collection)
            others = tuple(condition for condition in where if condition.field != field)
            values = list(collection.facet(field, (*others, *seen), limit=limit + 1).items())
            found[field] = dict(values[:limit])
            if len(values) > limit:
                more.add(field)
        return Counted(collection.counted((*where, *seen)), found, frozenset(more))

    def record(self, scope: Scope, id: str, vector: bool = False) -> Record:
        """A stored image.

        Raises:
            HiddenError: it isn't there, or may not be seen.
        """
        point = self._point(scope, id, vector)
        numbers = None if point.vector is None else tuple(map(float, point.vector))
        return Record(point.id, dict(point.payload), numbers)

    def draw(self, scope: Scope, id: str, large: bool) -> bytes:
        """A stored image as JPEG: a thumbnail, or large.

        Raises:
            HiddenError: it isn't there, or may not be seen.
            ServiceError: its file can't be found or decoded.
        """
        point = self._point(scope, id)
        try:
            picture = self._shelves[scope.collection].draw(point.payload)
        except ImageError as error:
            raise ServiceError(404, f"the image can't be shown: {_without_place(error)}") from error
        return _large(picture) if large else _small(picture)

    def preview(self, collection: str, data: bytes) -> tuple[bytes, tuple[int, int]]:
        """An uploaded image as JPEG, and the width and height that a region of it refers to.

        Raises:
            ImageError: it can't be decoded.
        """
        asset = self._searchers[collection].dicom.as_gallery(_uploaded(data))
        picture = self._shelves[collection].render(asset)
        return _large(picture), picture.size

    def _warm(self, name: str, searcher: Searcher) -> Served:
        """Load the encoder and use it once, where it can be run here."""
        card = searcher.collection.card
        try:
            encoder = searcher.encoder
        except (EncoderError, FingerprintError) as error:
            return Served(name, card.name, card.fingerprint, card.dim, None, False, str(error))
        takes = encoder.preprocessing.kind
        try:
            encoder.embed_text(["chest"])
            texts = True
        except EncoderError:
            texts = False
        if takes == "image":
            grey = Asset.of(Image.linear_gradient("L"))
            encoder.embed(prepare(grey, encoder.preprocessing, card.name).pixels[None])
        return Served(name, card.name, card.fingerprint, card.dim, takes, texts)

    def _seen(self, scope: Scope) -> Where:
        """The conditions of a scope with values as they are stored.

        Raises:
            ServiceError: they name what isn't stored: then nothing is shown, rather than everything.
        """
        try:
            return resolve(scope.where, self._searchers[scope.collection].collection)
        except FilterError as error:
            raise ServiceError(403, "the filter of this key meets no image of the collection") from error

    def _point(self, scope: Scope, id: str, vector: bool = False) -> StoredPoint:
        self._check_seen(scope, [id])
        collection = self._searchers[scope.collection].collection
        (point,) = collection.get([id], vectors=vector) or (None,)
        if point is None:
            raise HiddenError
        return point

    def _check_seen(self, scope: Scope, ids: Sequence[str]) -> None:
        """Refuse ids of which one isn't stored, or may not be seen."""
        if not ids:
            return
        wanted = Condition("id", "=", tuple(sorted(set(ids))))
        collection = self._searchers[scope.collection].collection
        if collection.count((wanted, *self._seen(scope))) != len(set(ids)):
            raise HiddenError


def _single(part: Part, region: Region | None) -> Single:
    if part.data is not None:
        return ImageQuery(_uploaded(part.data), region)
    return StoredQuery(part.id) if part.id is not None else TextQuery(part.text or "")


def _uploaded(data: bytes) -> Asset:
    """An asset of uploaded bytes.

    Raises:
        ServiceError: they are no kind of file that can be read.
    """
    if not data.startswith(_GZIP) and recognised(data[:HEAD_BYTES]) is None:
        raise ServiceError(415, "the upload is no kind of image that cbmir reads, such as PNG, JPEG or TIFF")
    return Asset(data)


def _conditions(where: object) -> Where:
    return tuple(item for item in where if isinstance(item, Condition)) if isinstance(where, tuple) else ()


def _without_place(error: ImageError) -> str:
    """The reason without a path that it may name."""
    text = str(error)
    return text if "/" not in text and "\\" not in text else "its file can't be read"


def _small(picture: Image.Image) -> bytes:
    small = thumbnail(picture)
    data = b""
    for quality in (82, 70, 58, 45, 30):
        data = _jpeg(small, quality)
        if len(data) <= THUMBNAIL_BYTES:
            break
    return data


def _large(picture: Image.Image) -> bytes:
    shown = picture.copy()
    shown.thumbnail((LARGE_PX, LARGE_PX))
    return _jpeg(shown, 92)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    plain = Image.frombytes(picture.mode, picture.size, picture.tobytes())  # without what the file said of itself
    plain.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
