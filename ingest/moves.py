"""Images that an earlier version stored under another spelling of their path: they move to their id, and none doubles.

Where a source's path isn't in normal form, the ids that earlier versions made of it are looked up besides its own.
Otherwise the hash of a new file finds the point. The new point is written before the old one is removed: after a crash
the next run finds both, and removes the old one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cbmir.filters import Condition
from cbmir.ingest.sources import SourceImage
from cbmir.paths import normal_path
from cbmir.schema import EmbeddedBatch, ImageRecord, StoredPoint
from cbmir.store import Collection

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Known:
    """What a collection holds of an image.

    Attributes:
        stored: Its point, under its own id or a former one; None where there is none.
        former: Former ids that are stored.
    """

    stored: StoredPoint | None = None
    former: tuple[str, ...] = ()


class Moves:
    """The moves of one run.

    Attributes:
        count: Points under former ids that are gone.
    """

    def __init__(self, collection: Collection) -> None:
        self.count = 0
        self._collection = collection
        self._new = not collection.count()
        self._ready: list[tuple[ImageRecord, Known]] = []
        self._later: list[tuple[str, Sequence[str]]] = []

    def known(self, images: Sequence[SourceImage], *, vectors: bool = False) -> list[Known]:
        """What is stored of some images, in their order, from one look-up."""
        former = [image.former_ids for image in images]
        ids = dict.fromkeys([*(image.record.id for image in images), *(id for ids in former for id in ids)])
        points = {point.id: point for point in self._collection.get(list(ids), vectors=vectors)} if ids else {}
        return [_known(image.record, ids, points) for image, ids in zip(images, former, strict=True)]

    def by_hash(self, files: Sequence[tuple[ImageRecord, str]]) -> dict[str, Known]:
        """Of images that aren't stored, those whose file is, under another spelling of the path; by the image's id.

        Args:
            files: New images, each with the SHA-256 of its file.
        """
        if self._new or not files:
            return {}
        same = (Condition("sha256", "=", tuple({hash for _, hash in files})),)
        page = next(iter(self._collection.scroll(same)), [])  # one: an empty image may be stored often
        return {
            record.id: Known(point, (point.id,))
            for record, hash in files
            for point in page
            if point.payload.get("sha256") == hash and _is_spelling(point, record)
        }

    def move(self, record: ImageRecord, known: Known) -> None:
        """Give an image its own id with the next `flush`: vector as it is stored, payload of the record."""
        self._ready.append((record, known))

    def remove_later(self, id: str, former: Sequence[str]) -> None:
        """Remove points by former ids with `finish`, if a point with this id is stored then."""
        if former:
            self._later.append((id, former))

    def flush(self) -> None:
        """Do the moves that are waiting."""
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        sources = [known.stored.id for _, known in ready if known.stored]
        found = {point.id: point.vector for point in self._collection.get(sources, vectors=True)}
        moved = [
            (record, vector, known.former)
            for record, known in ready
            if known.stored and (vector := found.get(known.stored.id)) is not None
        ]
        if moved:
            records, vectors, former = zip(*moved, strict=True)
            self._collection.upsert(EmbeddedBatch(records, np.stack(vectors), self._collection.card.fingerprint))
            self.remove([id for ids in former for id in ids])

    def remove(self, ids: Sequence[str]) -> None:
        """Remove points by former ids, whose images are stored under their own."""
        if ids:
            self._collection.delete(ids)
            self.count += len(ids)

    def finish(self) -> None:
        """Remove what waits for images that have been written meanwhile."""
        for start in range(0, len(self._later), _BATCH):
            part = self._later[start : start + _BATCH]
            stored = {point.id for point in self._collection.get([id for id, _ in part], fields=False)}
            old = dict.fromkeys(id for new, ids in part if new in stored for id in ids)
            self.remove([point.id for point in self._collection.get(list(old), fields=False)] if old else [])
        self._later = []


def _is_spelling(point: StoredPoint, record: ImageRecord) -> bool:
    """Whether the path of a point is another spelling of an image's, or an absolute path that ends in it."""
    path = str(point.payload.get("filepath", ""))
    usual = normal_path(path)
    spelt = usual == record.filepath != path or (usual.startswith("/") and usual.endswith(f"/{record.filepath}"))
    return spelt and point.id != record.id and point.payload.get("dataset") == record.dataset


def _known(record: ImageRecord, former: Sequence[str], points: dict[str, StoredPoint]) -> Known:
    old = [points[id] for id in former if id in points and points[id].payload.get("dataset") == record.dataset]
    stored = points.get(record.id) or next(iter(old), None)
    return Known(stored, tuple(point.id for point in old))
