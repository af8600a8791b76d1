"""HDF5 files of vectors: our own, columnar; and the published layout, one HDF5 dataset an image under its file path."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import h5py
import numpy as np

from cbmir.errors import SourceError, one_line
from cbmir.fingerprint import EncoderCard
from cbmir.hdf5 import open_plain
from cbmir.limits import Limits
from cbmir.paths import PathPrefixes, normal_path
from cbmir.schema import ImageRecord, StoredPoint, Vectors, point_id
from cbmir.store import Collection
from cbmir.units import counted
from cbmir.wholefile import replacing

FORMAT = "cbmir-embeddings"
VERSION = 1
MAX_DIM = 65_536
"""Length of a vector above which it is none."""
_RATIO = 1032
"""The most bytes that one byte of a packed file can stand for."""
_WIDEST = 16  # bytes of a number
_DAMAGES = (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError)


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

    def find(self, record: ImageRecord, others: Sequence[str] = ()) -> Any:
        """The vector of an image as it stands in the file, None where there is none.

        Args:
            record: The image.
            others: Other spellings of its path, such as earlier versions stored, or as its table has it.

        Raises:
            SourceError: the file is damaged there.
        """

    def close(self) -> None:
        """Close the file."""


class ColumnarFile:
    """Our own layout: ``id`` (n,), ``filepath`` (n,), ``dataset`` (n,), ``vector`` (n, dim), rows by rising id.

    Attributes:
        path: The file.
        card: The encoder that made the vectors.
        count: Rows.
        ids: (n,) point ids in ASCII, by which vectors are looked up.

    Raises:
        SourceError: the file is damaged, or of a later version.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        try:
            if file.attrs["version"] != VERSION:
                raise ValueError(f"it has version {file.attrs['version']}, this cbmir reads {VERSION}")
            card = EncoderCard.from_json(json.loads(file.attrs["encoder"]))
            if not 0 < card.dim <= MAX_DIM:
                raise ValueError(f"its vectors have {card.dim} dimensions, {MAX_DIM:,} at most")
            if card.fingerprint != file.attrs["fingerprint"]:
                raise ValueError("its encoder doesn't have the fingerprint that stands beside it")
            self.card: EncoderCard | None = card
            ids, self._vectors = _column(file, "id", "S"), _column(file, "vector", "f")
            _check_size(path, ids)
            self.count = len(ids)
            if self._vectors.shape != (self.count, card.dim):
                raise ValueError("its columns don't fit together")
            self.ids = ids[:]
            if np.any(self.ids[:-1] >= self.ids[1:]):
                raise ValueError("its rows are not by rising id")
        except _DAMAGES as error:
            file.close()
            raise SourceError(f"{path} is a damaged embeddings file: {one_line(error)}") from error
        self._file = file

    def find(self, record: ImageRecord, others: Sequence[str] = ()) -> Any:
        """The vector of an image by its id, or by those that other spellings of its path have."""
        place = self._place(record.id)
        if place is None:
            place = self._renamed.get(record.id)
        for key in others if place is None else ():
            place = self._place(point_id(record.dataset, key)) if place is None else place
        if place is None:
            return None
        try:
            return self._vectors[place]
        except (OSError, RuntimeError) as error:
            raise SourceError(f"can't be read from {self.path.name}: {error}") from error

    def _place(self, id: str) -> int | None:
        place = int(np.searchsorted(self.ids, id.encode()))
        return place if place < self.count and self.ids[place] == id.encode() else None

    @cached_property
    def _renamed(self) -> dict[str, int]:
        """Rows by the ids that their paths have in normal form, of those whose own is another: of an earlier version.

        Raises:
            SourceError: the file is damaged there.
        """
        try:
            columns = [self._file[name] for name in ("filepath", "dataset")]
            if any(column.shape != self.ids.shape for column in columns):
                raise ValueError("its columns don't fit together")
            with Limits.read("table").held(f"{self.path} "):
                names = [column.asstr()[:] for column in columns]
        except _DAMAGES as error:
            raise SourceError(f"can't be read from {self.path.name}: {error}") from error
        rows = enumerate(zip(*names, strict=True))
        return {
            point_id(dataset, usual): place for place, (path, dataset) in rows if (usual := normal_path(path)) != path
        }

    def rows(self, start: int, stop: int) -> Vectors:
        """(stop - start, dim) vectors in the order of the file.

        Raises:
            SourceError: the file is damaged there.
        """
        try:
            return np.asarray(self._vectors[start:stop], dtype=np.float32)
        except (OSError, RuntimeError) as error:
            raise SourceError(f"can't read the vectors of {self.path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PerImageFile:
    """The published layout: one float dataset (dim,) an image, its key the file path, whose slashes make groups."""

    def __init__(self, path: Path, file: h5py.File, count: int, prefixes: PathPrefixes | None = None) -> None:
        self.path = path
        self.card: EncoderCard | None = None
        self.count = count
        self._file = file
        self._prefixes = prefixes or PathPrefixes()
        self._renamed: dict[str, str] = {}
        try:
            file.visititems(self._learn)
        except _DAMAGES as error:
            file.close()
            raise SourceError(f"{path} is a damaged HDF5 file: {error}") from error

    def find(self, record: ImageRecord, others: Sequence[str] = ()) -> Any:
        """The vector of an image by its file path, in any spelling."""
        try:
            for written in (record.filepath, *others):
                for key in (written, self._renamed.get(normal_path(written))):
                    if key and "\0" not in key and (item := self._file.get(key)) is not None:
                        return _vector(item)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise SourceError(f"can't be read from {self.path.name}: {error}") from error
        return None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _learn(self, key: str, item: Any) -> None:
        usual = normal_path(self._prefixes.replaced(key))
        if isinstance(item, h5py.Dataset) and usual != key:
            self._renamed[usual] = key


def _vector(item: Any) -> Any:
    if not isinstance(item, h5py.Dataset):
        return None
    if item.shape is None or len(item.shape) != 1 or len(item) > MAX_DIM:  # not read, it may be of any size
        raise SourceError(f"its vector has shape {item.shape}, not (dim,)")
    if item.nbytes > MAX_DIM * _WIDEST:
        raise SourceError(f"its vector holds {item.dtype}, not numbers")
    return item[()]


def _check_size(path: Path, column: h5py.Dataset) -> None:
    """Refuse a column that says it has more bytes than the file can hold, before it is read.

    Raises:
        ValueError: it does.
    """
    if column.nbytes > _RATIO * path.stat().st_size:
        raise ValueError(f"it has {counted(len(column), 'row')} by its header, more than its bytes can hold")


def open_embeddings(path: Path, prefixes: PathPrefixes | None = None) -> EmbeddingsFile:
    """Open an embeddings file of either layout.

    Args:
        path: Of the file.
        prefixes: Beginnings of paths that are replaced, in keys that are paths.

    Raises:
        SourceError: it is missing, no HDF5, damaged, refers to other files, or goes beyond a limit of tables.
    """
    with Limits.read("table").held(f"{path} "):
        file, count = open_plain(path)
        try:
            ours = file.attrs.get("format") == FORMAT
        except _DAMAGES as error:
            file.close()
            raise SourceError(f"{path} is a damaged HDF5 file: {error}") from error
        return ColumnarFile(path, file) if ours is True else PerImageFile(path, file, count, prefixes)


class VectorWriter:
    """A new file of our layout, filled by rising id.

    Args:
        path: Replaced if it exists; not whole before `close`.
        card: The encoder that made the vectors.

    What goes wrong comes out as the `OSError`, `RuntimeError` or `ValueError` that h5py raises.
    """

    def __init__(self, path: Path, card: EncoderCard) -> None:
        path.unlink(missing_ok=True)
        self._file = h5py.File(path, "x")  # a link that somebody has put there is not followed
        self._count = 0
        text = h5py.string_dtype()
        self._file.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "encoder": json.dumps(card.as_json()),
                "fingerprint": card.fingerprint,
            }
        )
        self._file.create_dataset("id", (0,), "S36", maxshape=(None,), chunks=(4096,), fletcher32=True)
        self._file.create_dataset("filepath", (0,), text, maxshape=(None,), chunks=(4096,))
        self._file.create_dataset("dataset", (0,), text, maxshape=(None,), chunks=(4096,))
        self._file.create_dataset(
            "vector", (0, card.dim), "f4", maxshape=(None, card.dim), chunks=(256, card.dim), fletcher32=True
        )

    def append(self, points: Sequence[StoredPoint]) -> None:
        """Add points with their vectors, data sets and file paths."""
        columns: dict[str, Any] = {
            "id": [point.id.encode() for point in points],
            "filepath": [point.payload["filepath"] for point in points],
            "dataset": [point.payload["dataset"] for point in points],
            "vector": np.stack([point.vector for point in points if point.vector is not None]),
        }
        for name, values in columns.items():
            self._file[name].resize(self._count + len(points), axis=0)
            self._file[name][self._count :] = values
        self._count += len(points)

    def close(self) -> None:
        """Write all to disk."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, VectorWriter(partial, collection.card) as writer:
            for points in collection.scroll(fields=("filepath", "dataset"), vectors=True):
                writer.append(points)
                count += len(points)
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"can't write the embeddings {path}: {one_line(error)}") from error
    return count


def _column(file: h5py.File, name: str, kind: str) -> h5py.Dataset:
    column = file[name]
    if not isinstance(column, h5py.Dataset) or column.dtype.kind != kind:
        raise ValueError(f"its {name} is no column of the right type")
    return column
