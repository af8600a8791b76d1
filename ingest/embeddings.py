"""HDF5 files of vectors: our own, columnar; and the published layout, one HDF5 dataset an image under its file path."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import h5py
import numpy as np

from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, Vectors, is_unit, normalise
from cbmir.store import Collection
from ingest.report import IngestReport
from ingest.sources import Failure, Source, SourceImage

FORMAT = "cbmir-embeddings"
BATCH = 512


class EmbeddingsFile(Protocol):
    """Vectors by image, over both layouts.

    Attributes:
        path: The file.
        card: The encoder that made the vectors, None where the file doesn't say.
        count: Vectors in the file.
    """

    path: Path
    card: EncoderCard | None
    count: int

    def find(self, record: ImageRecord) -> Any:
        """The vector of an image as it stands in the file, None where there is none."""

    def close(self) -> None:
        """Close the file."""


class ColumnarFile:
    """Our own layout: ``id`` (n,), ``filepath`` (n,), ``dataset`` (n,), ``vector`` (n, dim), rows by rising id.

    Vectors are looked up by point id.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        try:
            self.card: EncoderCard | None = EncoderCard.from_json(json.loads(file.attrs["encoder"]))
            self._ids = np.asarray(file["id"][:])
            self._vectors = file["vector"]
            self.count = len(self._ids)
            if self._vectors.shape != (self.count, self.card.dim) or np.any(self._ids[:-1] >= self._ids[1:]):
                raise ValueError("its columns don't fit together")
        except (KeyError, ValueError, TypeError, OSError) as error:
            file.close()
            raise SourceError(f"{path} is a damaged embeddings file: {error}") from error
        self._file = file

    def find(self, record: ImageRecord) -> Any:
        """The vector of an image by its id."""
        id = record.id.encode()
        place = int(np.searchsorted(self._ids, id))
        if place == self.count or self._ids[place] != id:
            return None
        return self._vectors[place]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PerImageFile:
    """The published layout: one float dataset (dim,) an image, its key the file path, whose slashes make groups."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.card: EncoderCard | None = None
        self._file = file
        self.count = 0
        try:
            file.visititems(self._tally)
        except (RuntimeError, OSError, ValueError) as error:
            file.close()
            raise SourceError(f"{path} is a damaged HDF5 file: {error}") from error

    def find(self, record: ImageRecord) -> Any:
        """The vector of an image by its file path."""
        try:
            item = self._file.get(record.filepath)
            return item[()] if isinstance(item, h5py.Dataset) else None
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"can't be read from {self.path.name}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _tally(self, _: str, item: Any) -> None:
        self.count += isinstance(item, h5py.Dataset)


def open_embeddings(path: Path) -> EmbeddingsFile:
    """Open an embeddings file of either layout.

    Raises:
        SourceError: it is missing, no HDF5, or damaged.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"can't read {path} as HDF5: {' '.join(str(error).split())}") from error
    if file.attrs.get("format") == FORMAT:
        return ColumnarFile(path, file)
    return PerImageFile(path, file)


def write_embeddings(collection: Collection, path: Path) -> int:
    """Write all vectors of a collection to a file of our layout, in one go: the file is whole or not there.

    Args:
        collection: Open.
        path: Replaced if it exists.

    Returns:
        Vectors written.

    Raises:
        SourceError: the file can't be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            count = _write_columns(collection, file)
        partial.replace(path)
    except OSError as error:
        raise SourceError(f"can't write the embeddings {path}: {error}") from error
    return count


def _write_columns(collection: Collection, file: h5py.File) -> int:
    card, text = collection.card, h5py.string_dtype()
    file.attrs.update(
        {"format": FORMAT, "version": 1, "encoder": json.dumps(card.as_json()), "fingerprint": card.fingerprint}
    )
    file.create_dataset("id", (0,), "S36", maxshape=(None,), chunks=(4096,))
    file.create_dataset("filepath", (0,), text, maxshape=(None,), chunks=(4096,))
    file.create_dataset("dataset", (0,), text, maxshape=(None,), chunks=(4096,))
    file.create_dataset("vector", (0, card.dim), "f4", maxshape=(None, card.dim), chunks=(256, card.dim))
    count = 0
    for points in collection.scroll(fields=("filepath", "dataset"), vectors=True):
        columns: dict[str, Any] = {
            "id": [point.id.encode() for point in points],
            "filepath": [point.payload["filepath"] for point in points],
            "dataset": [point.payload["dataset"] for point in points],
            "vector": np.stack([point.vector for point in points if point.vector is not None]),
        }
        for name, values in columns.items():
            file[name].resize(count + len(points), axis=0)
            file[name][count:] = values
        count += len(points)
    return count


class EmbeddingsFiles:
    """Several embeddings files as one.

    Attributes:
        files: Open.
        used: Vectors that were asked for and found.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files: list[EmbeddingsFile] = []
        self.used = 0
        try:
            for path in paths:
                self.files.append(open_embeddings(path))
        except SourceError:
            self.close()
            raise

    @property
    def count(self) -> int:
        """Vectors in all files."""
        return sum(file.count for file in self.files)

    def card(self, name: str, records: Iterator[ImageRecord]) -> EncoderCard:
        """The encoder of all files; for files that don't say, of the length of the first vector a record has.

        Args:
            name: What the user calls the encoder.
            records: Tried in turn until one has a vector.

        Raises:
            SourceError: the files come from different encoders, the name is another's, or no record has a vector.
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
        for record in records:
            vector = _usable(self._find(record))
            if vector is not None:
                return external_card(name, len(vector))
        raise SourceError("no row of the table has a vector in the embeddings files")

    def vector(self, record: ImageRecord, dim: int) -> Vectors:
        """The vector of an image, of unit length.

        Raises:
            SourceError: there is none, or it isn't a finite vector of this length.
        """
        found = self._find(record)
        if found is None:
            raise SourceError("has no vector in the embeddings")
        self.used += 1
        vector = _usable(found)
        if vector is None or len(vector) != dim:
            raise SourceError(
                f"its vector has shape {np.shape(found)} and type {np.asarray(found).dtype}, not ({dim},) float"
            )
        unit = vector if is_unit(vector[np.newaxis])[0] else normalise(vector[np.newaxis])[0]
        if not np.isfinite(unit).all():
            raise SourceError("its vector is zero or not finite")
        return unit

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find(self, record: ImageRecord) -> Any:
        return next((vector for file in self.files if (vector := file.find(record)) is not None), None)


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
    batch: list[tuple[ImageRecord, Vectors]] = []
    for item in (item for source in sources for item in source):
        report.read += 1
        if isinstance(item, Failure):
            report.failures.append(item)
            continue
        record = item.record
        try:
            if record.id in ids:
                raise SourceError("came before in this source: one image has one row")
            ids.add(record.id)
            batch.append((record, files.vector(record, collection.card.dim)))
        except SourceError as error:
            report.failures.append(Failure(record.filepath, record.dataset, str(error)))
        if len(batch) == BATCH:
            write_s += _store(batch, collection)
            report.stored += len(batch)
            batch = []
    write_s += _store(batch, collection)
    report.stored += len(batch)
    collection.flush()
    report.without_row = max(files.count - files.used, 0)
    total_s = time.perf_counter() - started
    report.seconds = {"read": total_s - write_s, "write": write_s, "total": total_s}
    return report


def _store(batch: list[tuple[ImageRecord, Vectors]], collection: Collection) -> float:
    """Write a batch; returns the seconds it took."""
    if not batch:
        return 0.0
    started = time.perf_counter()
    records, vectors = zip(*batch, strict=True)
    collection.upsert(EmbeddedBatch(records, np.stack(vectors), collection.card.fingerprint))
    return time.perf_counter() - started


def _usable(found: Any) -> Vectors | None:
    if found is None or np.ndim(found) != 1 or np.asarray(found).dtype.kind != "f" or not len(found):
        return None
    return np.asarray(found, dtype=np.float32)


def records(sources: Sequence[Source]) -> Iterator[ImageRecord]:
    """The image records of some sources, failures left out."""
    return (item.record for source in sources for item in source if isinstance(item, SourceImage))
