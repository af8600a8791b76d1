"""What several files of tests build, read and wait for."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cbmir.fingerprint import external_card
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import Collection, Store, open_store

_BLOCK = 1 << 16


def put(store: Store, name: str, records: Sequence[ImageRecord], vectors: np.ndarray) -> Collection:
    """A new collection of these images, open; their vectors are scaled to unit length, their encoder has its name."""
    card = external_card(name, vectors.shape[1])
    collection = store.create(name, card)
    collection.upsert(EmbeddedBatch(tuple(records), normalise(vectors.astype(np.float32)), card.fingerprint))
    return collection


def contents(collection: Collection) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Every point of a collection: id -> (payload, vector)."""
    points = (point for page in collection.scroll(vectors=True) for point in page)
    return {point.id: (dict(point.payload), point.vector.tobytes()) for point in points}


def contents_of(store: str | Path, name: str, key: str | None = None) -> dict[str, tuple[dict[str, Any], bytes]]:
    """As `contents`, of a collection that is not open."""
    with open_store(store, key) as opened, opened.open(name) as collection:
        return contents(collection)


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder such as a directory store: what was never written to its files takes no space there either.

    A collection of a few images has 264 MB by its files' sizes and 1 MB of data.
    """
    return Path(shutil.copytree(folder, to, copy_function=_copy, dirs_exist_ok=True))


def data_of(path: Path) -> dict[int, bytes]:
    """What was written to a file, by the place where it stands; all else are zeros."""
    parts: dict[int, bytes] = {}
    with path.open("rb") as file:
        end, size = 0, os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # nothing but a hole is left
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts[start] = os.pread(file.fileno(), end - start, start)
    return parts


def _copy(source: str, to: str) -> str:
    with Path(to).open("wb") as new:
        new.truncate(Path(source).stat().st_size)
        for start, data in data_of(Path(source)).items():
            for place in range(0, len(data), _BLOCK):
                block = data[place : place + _BLOCK]
                if block.count(0) < len(block):
                    os.pwrite(new.fileno(), block, start + place)
    shutil.copystat(source, to)
    return to


def until(condition: Callable[[], object], timeout_s: float = 300.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)
