"""A damaged collection of a directory read as far as it goes, into a new collection."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmir.collections.refusals import Refusal, whole
from cbmir.collections.salvage_pieces import Found, copied, read_pieces
from cbmir.errors import CollectionError, StoreDamagedError
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, StoredPoint, is_unit
from cbmir.store import Collection, Store
from cbmir.store.collection import Progress
from cbmir.store.edge import EdgeStore
from cbmir.units import counted

BATCH = 512
_UNREADABLE = "can't be read: "


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What was taken out of a damaged collection.

    Attributes:
        collection: The new one.
        fingerprint: Of its encoder.
        source: Folder of the damaged one, which is as it was.
        written: Images that the new one holds.
        refused: Images that were found and can't be kept, and why.
        lost: Parts of the damaged one that can't be read, a line each; how many images they held isn't known.
    """

    collection: str
    fingerprint: str
    source: str
    written: int
    refused: tuple[Refusal, ...]
    lost: tuple[str, ...]

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"{self.collection}: {counted(self.written, 'image')} taken from {self.source}; "
            f"{counted(len(self.refused), 'image')} found and not kept, {counted(len(self.lost), 'part')} unreadable"
        )


def salvage(
    folder: Path, store: Store, name: str, card: EncoderCard, progress: Progress | None = None
) -> SalvageReport:
    """Read what can be read of a damaged collection, and make a new one of it; nothing is written to the damaged one.

    Args:
        folder: Of the damaged collection.
        store: Where the new one goes.
        name: Of the new one.
        card: Of the encoder.
        progress: Told about the index of the new one.

    Raises:
        CollectionError: the new one exists already.
        StoreLockedError: another process holds the damaged one.
        StoreError: not one image can be read; no collection is made then.
    """
    if name in store.names():
        raise CollectionError(f"{name} exists already in {store.location}; choose another name for what is salvaged")
    beside = store.path if isinstance(store, EdgeStore) else Path(tempfile.gettempdir())
    if isinstance(store, EdgeStore):
        _clean(store.path, name)
    with copied(folder, beside, name) as shard, store.create(name, card) as made:
        try:
            filling = _Filling(made)
            found = read_pieces(shard, card.dim, filling.take)
            filling.write()
            made.flush()
            if not made.count():
                said = "; ".join(found.lost[:3]) or "it holds none"
                raise StoreDamagedError(f"not one image of {folder} can be read: {said}")
            made.finish(progress)
        except BaseException:
            made.close()
            store.drop(name)
            raise
        written = made.count()
    refused = (*filling.refused, *_refusals(found))
    return SalvageReport(name, card.fingerprint, str(folder), written, refused, tuple(found.lost))


class _Filling:
    """Writes points in batches; those that aren't whole are counted."""

    def __init__(self, collection: Collection) -> None:
        self.refused: list[Refusal] = []
        self._collection = collection
        self._waiting: list[StoredPoint] = []

    def take(self, point: StoredPoint) -> None:
        self._waiting.append(point)
        if len(self._waiting) >= BATCH:
            self.write()

    def write(self) -> None:
        points, self._waiting = self._waiting, []
        card = self._collection.card
        good = []
        for point in points:
            vector = point.vector
            if vector is not None and (vector.shape != (card.dim,) or not is_unit(vector[np.newaxis])[0]):
                path = str(point.payload.get("filepath", ""))
                self.refused.append(Refusal(point.id, path, "its vector is damaged: it isn't of unit length"))
            else:
                good.append(point)
        good, records = whole(good, self.refused, foreign=True)
        if good:
            vectors = np.stack([point.vector for point in good if point.vector is not None])
            self._collection.upsert(EmbeddedBatch(tuple(records), vectors, card.fingerprint))


def _refusals(found: Found) -> list[Refusal]:
    return [Refusal(id, "", f"{_UNREADABLE}{why}") for id, why in found.unreadable.items() if id not in found.ids]


def _clean(store: Path, name: str) -> None:
    """Delete the copies that killed runs have left."""
    for left in store.glob(f".{name}.{'?' * 8}.salvage"):
        shutil.rmtree(left, ignore_errors=True)
