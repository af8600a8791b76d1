"""Vectors that exist: from HDF5 files and the tables of their images to a collection."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.ingest.interrupt import Interrupt
from cbmir.ingest.moves import Moves
from cbmir.ingest.pipeline import as_stored
from cbmir.ingest.report import Failure, IngestReport
from cbmir.ingest.sources import Source, SourceImage
from cbmir.paths import PathPrefixes
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, is_unit, normalise
from cbmir.store import Collection
from cbmir.vectorfile import EmbeddingsFile, open_embeddings

BATCH = 512
_SAME = 1e-6
"""Vectors no further apart in any place are the same: an engine may scale to unit length once more."""
_TRIED = 100
"""Vectors that are looked at to learn their length."""

_Pair = tuple[SourceImage, Vectors]


class EmbeddingsFiles:
    """Several embeddings files as one.

    Attributes:
        files: Open.
        used: Vectors that were asked for and found.

    Args:
        paths: Of the files.
        prefixes: Beginnings of paths that are replaced in keys, as in the tables.
    """

    def __init__(self, paths: Sequence[Path], prefixes: PathPrefixes | None = None) -> None:
        self.files: list[EmbeddingsFile] = []
        self.used = 0
        try:
            for path in paths:
                self.files.append(open_embeddings(path, prefixes))
        except SourceError:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Vectors in all files."""
        return sum(file.count for file in self.files)

    def card(self, name: str, images: Iterator[SourceImage]) -> EncoderCard:
        """The encoder of all files; for files that don't say, of the length that most of the first vectors have.

        Args:
            name: What the user calls the encoder.
            images: Tried in turn until enough of them have a vector.

        Raises:
            SourceError: the files come from different encoders, the name is another's, or no image has a vector.
        """
        cards = {file.card.fingerprint: file.card for file in self.files if file.card}
        if len(cards) > 1 or (cards and any(file.card is None for file in self.files)):
            raise SourceError(
                "the embeddings files were made by different encoders; ingest each into its own collection"
            )
        for card in cards.values():
            if card.name != name:
                raise SourceError(f"the embeddings were made by {card.name}, not by {name}")
            return card
        lengths = Counter(islice(self._lengths(images), _TRIED))
        if not lengths:
            raise SourceError("no row of the table has a vector in the embeddings files")
        return external_card(name, lengths.most_common(1)[0][0])

    def vector(self, image: SourceImage, dim: int) -> Vectors:
        """The vector of an image, of unit length.

        Raises:
            SourceError: there is none, or it isn't a finite vector of this length.
        """
        try:
            found = self._find(image)
        except SourceError:
            self.used += 1  # it is there, and damaged
            raise
        if found is None:
            raise SourceError("has no vector in the embeddings")
        self.used += 1
        vector = _usable(found)
        if vector is None or len(vector) != dim:
            raise SourceError(
                f"its vector has shape {np.shape(found)} and type {np.asarray(found).dtype}, not ({dim},) float"
            )
        with np.errstate(over="ignore"):
            row: Vectors = vector[np.newaxis].astype(np.float32)
            row = row if is_unit(row)[0] else normalise(vector[np.newaxis])
        if not is_unit(row)[0]:
            raise SourceError("its vector is zero, not finite or out of range")
        unit: Vectors = row[0]
        return unit

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lengths(self, images: Iterator[SourceImage]) -> Iterator[int]:
        for image in images:
            with suppress(SourceError):  # counted when its turn comes
                vector = _usable(self._find(image))
                if vector is not None:
                    yield len(vector)

    def _find(self, image: SourceImage) -> Any:
        path = image.asset.path
        others = (*image.former_keys, *([] if path is None else [str(path.absolute())]))
        found = (file.find(image.record, others) for file in self.files)
        return next((vector for vector in found if vector is not None), None)


def ingest_embeddings(sources: Sequence[Source], files: EmbeddingsFiles, collection: Collection) -> IngestReport:
    """Fill a collection from vectors that exist, a row of a table each.

    Args:
        sources: Tables; a row without a vector is a failure.
        files: Vectors; those that no row names are counted.
        collection: Of the encoder of the files.

    Raises:
        StoreError: the store refused; what was stored before stays.
    """
    report = IngestReport(collection.name, collection.card.name, collection.card.fingerprint)
    started = time.perf_counter()
    write_s = 0.0
    ids: set[str] = set()
    moves = Moves(collection)
    items = (item for source in sources for item in source)
    with Interrupt() as interrupt:
        while not interrupt.asked and (part := list(islice(items, BATCH))):
            batch = _with_vectors(part, files, collection.card.dim, ids, report, moves)
            writing = time.perf_counter()
            if batch:
                _store(batch, collection, report, moves)
            write_s += time.perf_counter() - writing
        report.interrupted = interrupt.asked
    moves.finish()
    report.moved = moves.count
    collection.flush()
    report.without_row = 0 if report.interrupted else max(files.count - files.used, 0)
    total_s = time.perf_counter() - started
    report.seconds = {"read": total_s - write_s, "write": write_s, "total": total_s}
    return report


def _with_vectors(
    items: Sequence[SourceImage | Failure],
    files: EmbeddingsFiles,
    dim: int,
    ids: set[str],
    report: IngestReport,
    moves: Moves,
) -> list[_Pair]:
    batch = []
    for item in items:
        report.read += 1
        if isinstance(item, Failure):
            report.failures.append(item)
            continue
        record = item.record
        try:
            if record.id in ids:
                moves.remove_later(record.id, item.former_ids)
                raise SourceError("came before in this source: one image has one row")
            ids.add(record.id)
            batch.append((item, files.vector(item, dim)))
        except SourceError as error:
            report.failures.append(Failure(record.filepath, record.dataset, str(error)))
    return batch


def _store(batch: Sequence[_Pair], collection: Collection, report: IngestReport, moves: Moves) -> None:
    """Write what isn't stored already; what an ingest of images knows of the file stays with its vector."""
    due: list[tuple[ImageRecord, Vectors]] = []
    former: list[str] = []
    for (image, vector), known in zip(batch, moves.known([image for image, _ in batch], vectors=True), strict=True):
        record, stored = image.record, known.stored
        former += known.former
        if stored is None or stored.vector is None or not np.allclose(stored.vector, vector, rtol=0.0, atol=_SAME):
            due.append((record, vector))
            report.stored += 1
            continue
        report.skipped += 1
        whole = as_stored(record, stored)
        moved = stored.id != record.id
        if moved or whole.payload() != stored.payload:
            due.append((whole, stored.vector))
            report.updated += not moved
    if due:
        records, vectors = zip(*due, strict=True)
        collection.upsert(EmbeddedBatch(records, np.stack(vectors), collection.card.fingerprint))
    moves.remove(former)


def _usable(found: Any) -> NDArray[Any] | None:
    if found is None or np.ndim(found) != 1 or np.asarray(found).dtype.kind != "f" or not len(found):
        return None
    return np.asarray(found, dtype=np.float64)


def images_of(sources: Sequence[Source]) -> Iterator[SourceImage]:
    """The images of some sources, failures left out."""
    return (item for source in sources for item in source if isinstance(item, SourceImage))
