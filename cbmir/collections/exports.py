"""A collection as three files that anybody can read, and back.

``vectors.h5`` holds ids and vectors (`cbmir.vectorfile`), ``records.parquet`` the payloads in the same order, and
``collection.json`` says what they are. An export is whole once that is there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from cbmir.collections.manifests import EXPORT, ExportManifest
from cbmir.collections.recordfile import SCHEMA, RecordFile, RecordWriter
from cbmir.collections.refusals import Refusal, whole
from cbmir.collections.seals import seal_of, verify
from cbmir.errors import SourceError, one_line
from cbmir.filters import Where, resolve
from cbmir.schema import StoredPoint
from cbmir.store.collection import SCROLL_BATCH, Collection
from cbmir.store.sources import remembered
from cbmir.units import counted
from cbmir.vectorfile import ColumnarFile, VectorWriter, open_embeddings

VECTORS = "vectors.h5"
RECORDS = "records.parquet"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        collection: Name of the collection.
        fingerprint: Of its encoder.
        folder: Where the files are.
        count: Images written.
        bytes: Size of the files.
        left_out: Payload fields that cbmir doesn't know, and how many images have them; they are in no file.
        refused: Images that are in no file because no engine could keep them again, and why.
    """

    collection: str
    fingerprint: str
    folder: str
    count: int
    bytes: int
    left_out: Mapping[str, int]
    refused: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        """A line for people."""
        fields = ", ".join(f"{name} of {count:,}" for name, count in self.left_out.items())
        left_out = f"; left out, fields that cbmir doesn't know: {fields}" if fields else ""
        refused = f"; refused {counted(len(self.refused), 'image')}" if self.refused else ""
        written = f"{counted(self.count, 'image')} in {self.folder}, {self.bytes:,} bytes"
        return f"{self.collection}: {written}{left_out}{refused}"


def export(collection: Collection, folder: Path, where: Where = ()) -> ExportReport:
    """Write a collection, or a part of it, to files.

    An earlier export there is replaced once the new one is complete.

    Args:
        collection: Open.
        folder: Made if it is missing.
        where: Which images; all unless given.

    Raises:
        FilterError: the filter names a value that doesn't exist.
        SourceError: the files can't be written, or the folder holds something else.
        StoreError: the store refused, or the id of a point is none of ours.
    """
    if (folder / EXPORT.name).exists():
        _replaceable(folder)
    chosen = [f"{item.field}{item.op}{'|'.join(map(str, item.values))}" for item in where]
    where = resolve(where, collection)
    partial = {name: folder / f"{name}.partial" for name in (VECTORS, RECORDS)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        count, left_out, refused = _write(collection, where, partial)
        seals = {name: seal_of(path) for name, path in partial.items()}
        (folder / EXPORT.name).unlink(missing_ok=True)
        for name, path in partial.items():
            path.replace(folder / name)
        known = remembered(collection.metadata())
        ExportManifest(collection.name, collection.card, count, chosen, seals, known).write(folder)
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"can't write the export {folder}: {one_line(error)}") from error
    finally:
        for path in partial.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
    size = sum(seal.bytes for seal in seals.values())
    return ExportReport(collection.name, collection.card.fingerprint, str(folder), count, size, left_out, refused)


class Export:
    """An export, open for reading; `transfer` copies it into a collection.

    Attributes:
        name: Name of the collection that was exported.
        card: Its encoder.

    Raises:
        SourceError: a file is missing, isn't as it was written, is of a later version, or doesn't fit the others.
    """

    def __init__(self, folder: Path) -> None:
        read = ExportManifest.read(folder)
        if missing := {VECTORS, RECORDS} - read.files.keys():
            raise SourceError(f"{folder / EXPORT.name} is damaged: it doesn't tell of {', '.join(sorted(missing))}")
        verify(folder, read.files)
        self.name = read.collection
        self.card = read.card
        self._folder = folder
        self._metadata = read.metadata
        self._vectors = _columnar(folder / VECTORS)
        try:
            self._records = RecordFile(folder / RECORDS)
        except SourceError:
            self._vectors.close()
            raise
        try:
            self._check(read)
        except SourceError:
            self.close()
            raise

    def metadata(self) -> Mapping[str, Any]:
        """What the collection remembered of itself."""
        return self._metadata

    def count(self) -> int:
        """Images in the export."""
        return self._vectors.count

    def scroll(self, *, vectors: bool = True, batch: int = SCROLL_BATCH) -> Iterator[list[StoredPoint]]:
        """All points by rising id, in lists of `batch` at most.

        Raises:
            SourceError: a file is damaged there.
        """
        start = 0
        for rows in self._records.payloads(batch):
            stop = start + len(rows)
            found = self._vectors.rows(start, stop) if vectors else [None] * len(rows)
            yield [StoredPoint(id, payload, vector) for (id, payload), vector in zip(rows, found, strict=True)]
            start = stop

    def close(self) -> None:
        """Close the files."""
        self._vectors.close()
        self._records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, read: ExportManifest) -> None:
        if self._vectors.card != read.card:
            raise SourceError(f"the encoder of {self._folder / VECTORS} is another than that of {EXPORT.name}")
        counts = (read.count, self._vectors.count, self._records.count)
        if len(set(counts)) > 1:
            raise SourceError(
                f"the files of {self._folder} don't fit together: {EXPORT.name} tells of {counts[0]:,} images, "
                f"{VECTORS} has {counts[1]:,}, {RECORDS} {counts[2]:,}"
            )
        start = 0
        for ids in self._records.ids():
            wrong = np.flatnonzero(ids != self._vectors.ids[start : start + len(ids)])
            if wrong.size:
                raise SourceError(
                    f"the files of {self._folder} don't fit together: row {start + wrong[0] + 1} of {RECORDS} has the "
                    f"id {ids[wrong[0]].decode()}, of {VECTORS} {self._vectors.ids[start + wrong[0]].decode()}"
                )
            start += len(ids)


def _replaceable(folder: Path) -> None:
    """Refuse a folder with a ``collection.json`` of something else, such as a collection of a store."""
    try:
        ExportManifest.read(folder)
    except SourceError as error:
        raise SourceError(f"{error}; choose another folder for the export") from error


def _write(
    collection: Collection, where: Where, paths: Mapping[str, Path]
) -> tuple[int, dict[str, int], tuple[Refusal, ...]]:
    """Write both files in one pass over the collection, so that they hold the same images."""
    count = 0
    left_out: Counter[str] = Counter()
    refused: list[Refusal] = []
    bar = tqdm(total=collection.count(where), desc=f"export {collection.name}", unit="image", leave=False, disable=None)
    with bar, VectorWriter(paths[VECTORS], collection.card) as vectors, RecordWriter(paths[RECORDS]) as records:
        for points in collection.scroll(where, vectors=True):
            bar.update(len(points))
            points, _ = whole(points, refused)
            for point in points:
                left_out.update(point.payload.keys() - SCHEMA.names)
            if points:
                vectors.append(points)
                records.append(points)
            count += len(points)
    return count, dict(left_out), tuple(refused)


def _columnar(path: Path) -> ColumnarFile:
    file = open_embeddings(path)
    if not isinstance(file, ColumnarFile):
        file.close()
        raise SourceError(f"{path} is an HDF5 file of another layout, not of an export")
    return file
