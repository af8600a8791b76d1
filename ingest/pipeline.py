"""Images on their way: source -> check against the store -> loader -> encoder -> writer."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cbmir.device import cores
from cbmir.dicomcard import claim
from cbmir.encoders import Encoder
from cbmir.encoders.needed import recognise
from cbmir.ingest.encoding import AT_ONCE, Encoding, Item
from cbmir.ingest.interrupt import Interrupt
from cbmir.ingest.loader import Loader, chunk_size
from cbmir.ingest.loading import Loaded, Wanted
from cbmir.ingest.moves import Known, Moves
from cbmir.ingest.report import Failure, IngestReport
from cbmir.ingest.shard import Shard
from cbmir.ingest.sources import Source, SourceImage
from cbmir.ingest.sources.dicom import DicomSource
from cbmir.ingest.thumbnails.place import MODE, Place, is_ours, remove
from cbmir.ingest.writer import Writer
from cbmir.media import DECODER
from cbmir.media.dicom_settings import DicomSettings
from cbmir.schema import EmbeddedBatch, ImageRecord, Payload, StoredPoint, Vectors
from cbmir.store import Collection

MIN_BATCH = {"image": 64, "volume": 1}
"""Images or volumes encoded and written together at least, unless no more come."""

Seen = Callable[[int, str], object]
"""Told how many more items of the source are done with, and the stage that the others have waited for so far."""


@dataclass(frozen=True, slots=True)
class _Task:
    image: SourceImage
    known: Known
    thumbnail: Path | None = None
    thumbnail_mode: int = MODE

    @property
    def wanted(self) -> Wanted:
        old = self.known.stored.payload if self.known.stored else {}
        shown = old.get("thumbnail_url") == self.image.record.thumbnail_url
        return Wanted(self.image.asset, old.get("sha256"), self.thumbnail, shown, _decoder(old), self.thumbnail_mode)


def ingest_images(
    source: Source,
    encoder: Encoder,
    collection: Collection,
    workers: int | None = None,
    seen: Seen | None = None,
    place: Place | None = None,
) -> IngestReport:
    """Embed the images of a source into a collection.

    Images whose id, file hash and encoder fingerprint are stored already are not decoded; where only their payload
    changed, it is brought up to date. Those that an earlier decoder read otherwise are embedded again. Those that an
    earlier version stored under another spelling of their path move to their id. Ctrl-C finishes the images in hand.

    With a place, images whose source names no thumbnail get one there, written before the image is stored; those that
    are stored already get it where it or its URL is missing or the URL is another.

    Args:
        source: Where the images come from.
        encoder: Must have the fingerprint of the collection.
        collection: Open; indexing is left to its `finish`.
        workers: Decoding processes; one a core unless given.
        seen: Called as items are done.
        place: Where thumbnails go; without it none are made.

    Raises:
        FingerprintError: the collection belongs to another encoder.
        KeyFileError, CollectionError: the collection holds DICOM that was read otherwise.
        StoreError: the store refused; what was stored before stays.
        ThumbnailError: a thumbnail can't be written; what was stored before stays.
        WorkerError: the decoding processes can't be started.
    """
    recognise(collection, encoder)
    settings = _dicom_settings(source)
    if settings is not None:
        claim(collection, settings)
    run = _Run(source, encoder, collection, workers or cores(), place)
    run.go(seen or (lambda _count, _stage: None))
    if settings is not None:
        claim(collection, settings)  # of a collection that was made meanwhile
    return run.report


def as_stored(record: ImageRecord, stored: StoredPoint) -> ImageRecord:
    """An image record with what an earlier run learnt from the pixel file, and a thumbnail that was set since.

    A thumbnail that was made under a former id of the image is none of the new one's.
    """
    payload, shown = stored.payload, stored.payload.get("thumbnail_url")
    if isinstance(shown, str) and stored.id != record.id and is_ours(shown, stored.id):
        shown = None
    known: dict[str, Any] = {name: payload.get(name) for name in ("sha256", "decoder", "width", "height", "depth")}
    kind = payload.get("kind") or record.kind
    return replace(record, **known, kind=kind, thumbnail_url=record.thumbnail_url or shown)


def _dicom_settings(source: Source) -> DicomSettings | None:
    whole = source.source if isinstance(source, Shard) else source
    return whole.settings if isinstance(whole, DicomSource) else None


def _decoder(payload: Mapping[str, Any]) -> int:
    """Version of the decoder that read a stored image; the first stored none."""
    version = payload.get("decoder")
    return version if isinstance(version, int) else 1


def _is_same(stored: StoredPoint | None, loaded: Loaded) -> bool:
    """Whether a file is stored as it is now; that is known only after decoding where its hash found the point."""
    if stored is None or stored.payload.get("sha256") != loaded.sha256:
        return False
    return _decoder(stored.payload) >= DECODER


class _Run:
    def __init__(
        self, source: Source, encoder: Encoder, collection: Collection, workers: int, place: Place | None
    ) -> None:
        self._fingerprint = collection.card.fingerprint  # the encoder's own may be another, where a library has changed
        self.report = IngestReport(
            collection.name, encoder.card.name, self._fingerprint, encoder.running_on, ignored=source.ignored
        )
        self._source = source
        self._encoder = encoder
        self._collection = collection
        self._workers = workers
        self._place = place
        self._chunk = chunk_size(encoder.preprocessing)
        self._step = encoder.batch_size * -(-MIN_BATCH[encoder.preprocessing.kind] // encoder.batch_size)
        self._ids: set[str] = set()
        self._datasets: set[str] = set()
        self._buffer: list[Item] = []
        self._changes: dict[str, Payload] = {}
        self._moves = Moves(collection)
        self._loading = 0
        self._source_s = 0.0

    def go(self, seen: Seen) -> None:
        started = time.perf_counter()
        how, name = self._encoder.preprocessing, self._encoder.card.name
        with Interrupt() as interrupt, Loader(how, self._workers, name) as loader:
            with Writer(self._collection) as writer, Encoding(self._encoder) as encoding:
                done = 0
                for loaded in loader.load(self._wanted(interrupt)):
                    self._loading -= len(loaded)
                    self._take_all(loaded)
                    self._moves.flush()
                    if self._changes:
                        self._collection.set_payloads(self._changes)
                        self._changes = {}
                    while len(self._buffer) >= self._step:
                        encoding.put(self._buffer[: self._step])
                        del self._buffer[: self._step]
                        self._write(encoding.take(), writer)
                    finished = self.report.read - self._loading - len(self._buffer) - encoding.waiting
                    self._time(started, loader, encoding, writer)
                    seen(finished - done, self.report.bottleneck)
                    done = finished
                for part in self._rest():
                    encoding.put(part)
                self._write(encoding.take(leave=0), writer)
                self._time(started, loader, encoding, writer)
                seen(self.report.read - done, self.report.bottleneck)
            self.report.interrupted = interrupt.asked
        self._moves.finish()
        self._collection.flush()
        if self._source.root is not None:
            self._collection.remember(self._source.root, sorted(self._datasets))
        self.report.stored, self.report.moved = writer.stored, self._moves.count
        self.report.running_on = self._encoder.running_on  # the precision may have been settled on the first images
        self._time(started, loader, encoding, writer)

    def _rest(self) -> list[list[Item]]:
        """The last images, shared out among as many batches as are encoded at once."""
        steps = -(-len(self._buffer) // self._encoder.batch_size)
        size = self._encoder.batch_size * max(1, -(-steps // AT_ONCE))
        return [self._buffer[start : start + size] for start in range(0, len(self._buffer), size)]

    def _time(self, started: float, loader: Loader, encoding: Encoding, writer: Writer) -> None:
        self.report.seconds = {
            "source": self._source_s,
            "decode": loader.decode_s / self._workers,
            "encode": encoding.encode_s,
            "write": writer.write_s,
            "total": time.perf_counter() - started,
        }

    def _wanted(self, interrupt: Interrupt) -> Iterator[list[tuple[_Task, Wanted]]]:
        """Chunks for the loader."""
        items = iter(self._source)
        while not interrupt.asked:
            started = time.perf_counter()
            chunk = list(islice(items, self._chunk))
            new = self._check(chunk)
            self._source_s += time.perf_counter() - started
            if not chunk:
                return
            if new:
                self._loading += len(new)
                yield [(task, task.wanted) for task in new]

    def _check(self, items: list[SourceImage | Failure]) -> list[_Task]:
        images = []
        for item in items:
            self.report.read += 1
            if isinstance(item, Failure):
                self.report.failures.append(item)
            elif item.record.id in self._ids:
                self._fail(item.record, "came before in this source: one image has one row")
                self._moves.remove_later(item.record.id, item.former_ids)
            else:
                self._ids.add(item.record.id)
                images.append(item)
        known = self._moves.known(images)
        return [self._task(item, stored) for item, stored in zip(images, known, strict=True)]

    def _task(self, image: SourceImage, known: Known) -> _Task:
        record, place = image.record, self._place
        if place is None or record.thumbnail_url is not None:
            return _Task(image, known)
        shown = replace(record, thumbnail_url=place.url(record.id))
        return _Task(replace(image, record=shown), known, place.path(record.id), place.mode)

    def _take_all(self, both: list[tuple[_Task, Loaded]]) -> None:
        new = [(task.image.record, item.sha256) for task, item in both if not task.known.stored and item.sha256]
        former = self._moves.by_hash(new)
        for task, item in both:
            self._take(replace(task, known=former.get(task.image.record.id, task.known)), item)

    def _take(self, task: _Task, loaded: Loaded) -> None:
        record = task.image.record
        if loaded.reason is not None:
            self._fail(record, loaded.reason)
        elif loaded.pixels is None or _is_same(task.known.stored, loaded):
            self._skip(record, task.known, loaded.drawn)
        else:
            size: dict[str, Any] = {"width": loaded.width, "height": loaded.height, "depth": loaded.depth}
            kind = loaded.kind or record.kind
            sized = replace(record, sha256=loaded.sha256, decoder=DECODER, kind=kind, **size)
            self.report.decoded_again += loaded.again
            self.report.notes.update(loaded.notes)
            self._datasets.add(record.dataset)
            self._buffer.append((sized, loaded.pixels))
            self._moves.remove_later(record.id, task.known.former)

    def _skip(self, record: ImageRecord, stored: Known, drawn: bool) -> None:
        self.report.skipped += 1
        self._datasets.add(record.dataset)
        old = dict(stored.stored.payload) if stored.stored else {}
        whole = as_stored(record, stored.stored) if stored.stored else record
        known = replace(whole, decoder=max(_decoder(old), DECODER))
        if stored.stored and stored.stored.id != record.id:
            self._moves.move(known, stored)
            return
        self._moves.remove_later(record.id, stored.former)
        new = known.payload()
        self.report.updated += drawn or new != old
        if new == old:
            return
        if old.keys() <= new.keys():
            changed: Payload = {name: value for name, value in new.items() if old.get(name) != value}
            self._changes[record.id] = changed
            return
        for point in self._collection.get([record.id], vectors=True):  # a field is gone: only a whole point drops it
            if point.vector is not None:
                batch = EmbeddedBatch((known,), point.vector[np.newaxis], self._collection.card.fingerprint)
                self._collection.upsert(batch)

    def _write(self, encoded: Iterable[tuple[list[ImageRecord], Vectors]], writer: Writer) -> None:
        for records, vectors in encoded:
            good = np.atleast_1d(np.isfinite(vectors).all(axis=1))
            for record, fine in zip(records, good, strict=True):
                if not fine:
                    self._fail(record, "the encoder gives no vector for it (an even picture, or values out of range)")
                    if self._place is not None and record.thumbnail_url == self._place.url(record.id):
                        remove(self._place.path(record.id))
            if good.any():
                fine_records = tuple(record for record, fine in zip(records, good, strict=True) if fine)
                writer.put(EmbeddedBatch(fine_records, vectors[good], self._fingerprint))

    def _fail(self, record: ImageRecord, reason: str) -> None:
        self.report.failures.append(Failure(record.filepath, record.dataset, reason))
