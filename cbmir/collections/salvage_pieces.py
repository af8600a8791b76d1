"""A copy of a damaged collection, and the points that the engine or we can still read of it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from cbmir.errors import StoreDamagedError, StoreError, StoreLockedError
from cbmir.safepath import environment
from cbmir.schema import StoredPoint
from cbmir.store.wal import Log, read_log

BATCH = 256
CRASHES = 20
"""Times that the engine may end its process on one shard before the rest of it is given up."""
_CHUNK = 1 << 22

Take = Callable[[StoredPoint], None]
"""Called with each point that was read."""


@dataclass(slots=True)
class Found:
    """What was read of a collection.

    Attributes:
        ids: Of the points that were read or that the log says are deleted.
        lost: What can't be read, a line each.
        unreadable: Points that are there and can't be read, and why.
    """

    ids: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


@contextmanager
def copied(folder: Path, beside: Path, name: str) -> Iterator[Path]:
    """A copy of the shard of a collection, removed afterwards; the original is held, and never written to.

    Args:
        folder: Of the collection.
        beside: Where the copy goes.
        name: Of the new collection, in the name of the copy.

    Raises:
        StoreLockedError: another process holds the collection.
        StoreError: the folder has no shard, or it can't be copied.
    """
    if not (folder / "shard").is_dir():
        raise StoreDamagedError(f"{folder} is no collection in a directory: it has no folder shard")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        with _held(folder), tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".salvage", dir=beside) as made:
            for path in sorted((folder / "shard").rglob("*")):
                to = Path(made) / path.relative_to(folder)
                if path.is_dir() and not path.is_symlink():
                    to.mkdir(parents=True, exist_ok=True)
                elif path.is_file() and not path.is_symlink():
                    to.parent.mkdir(parents=True, exist_ok=True)
                    _copy_with_holes(path, to)
            yield Path(made) / "shard"
    except OSError as error:
        raise StoreError(f"can't copy {folder}: {error}") from error


def read_pieces(shard: Path, dim: int, take: Take) -> Found:
    """Read the copy of a shard: whole; else without its log, which we read ourselves; else segment by segment.

    What the log says is compared also where the engine opens the shard: it may have lost points without a word.

    Args:
        shard: The copy, which is changed.
        dim: Length of its vectors.
        take: Called once a point.
    """
    found, log = Found(), read_log(shard / "wal")
    if _read(shard, dim, take, found) is None:
        _take_log(log, take, found)
        return found
    _take_log(log, take, found)
    found.lost += log.unread
    shutil.rmtree(shard / "wal", ignore_errors=True)
    with_changes = _changed(log, take)
    if _read(shard, dim, with_changes, found) is not None:
        _read_segments(shard, dim, with_changes, found)
    return found


def _take_log(log: Log, take: Take, found: Found) -> None:
    for id, held in log.points.items():
        if id not in found.ids:
            found.ids.add(id)
            if held is not None:
                take(StoredPoint(id, held[0], np.asarray(held[1], dtype=np.float32)))


def _changed(log: Log, take: Take) -> Take:
    """Apply what the log has set of a point that only a segment holds."""

    def taken(point: StoredPoint) -> None:
        take(StoredPoint(point.id, {**point.payload, **log.changes.get(point.id, {})}, point.vector))

    return taken


def _read_segments(shard: Path, dim: int, take: Take, found: Found) -> None:
    """Open the segments one at a time, so that a broken one costs no other."""
    aside = shard.parent / "segments"
    (shard / "segments").rename(aside)
    for segment in sorted(aside.iterdir()):
        (shard / "segments").mkdir()
        segment.rename(shard / "segments" / segment.name)
        failed = _read(shard, dim, take, found)
        if failed is not None:
            found.lost.append(f"segment {segment.name}, whose number of images isn't known: {failed}")
        shutil.rmtree(shard / "segments")
        shutil.rmtree(shard / "wal", ignore_errors=True)


def _read(shard: Path, dim: int, take: Take, found: Found) -> str | None:
    """Let the engine read a shard in a process of its own; why it can't, None where it has read all points."""
    out, skipped = shard.parent / "out.jsonl", shard.parent / "skipped"
    batch = BATCH
    for _ in range(CRASHES):
        skipped.write_text("\n".join((*found.ids, *found.unreadable)), encoding="utf-8")
        out.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "cbmir.store.rescue"]
        arguments = [shard, out, skipped, dim, batch, os.getpid()]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            capture_output=True, text=True, env={**os.environ, **environment()}, check=False,
        )  # fmt: skip
        tried = _taken(out, take, found) if out.exists() else []
        if done.returncode == 0:
            return None
        if done.returncode > 0 or not tried:  # it said why; or it ended before it came to a point
            return done.stderr.strip() or f"the engine ended with signal {-done.returncode}"
        if batch == 1:
            found.unreadable.update(dict.fromkeys(tried, f"the engine ended with signal {-done.returncode}"))
        batch = 1  # find the one
    return f"the engine ended {CRASHES} times while it read this"


def _taken(out: Path, take: Take, found: Found) -> list[str]:
    """Take what a process has written; the points at which it ended."""
    tried: list[str] = []
    with out.open(encoding="utf-8") as lines:
        for line in lines:
            with suppress(ValueError):  # the last line may be cut off
                item = json.loads(line)
                if "try" in item:
                    tried = item["try"]
                elif "lost" in item:
                    found.unreadable[item["id"]] = item["lost"]
                else:
                    found.ids.add(item["id"])
                    vector = item["vector"]
                    numbers = np.asarray(vector, dtype=np.float32) if isinstance(vector, list) else None
                    take(StoredPoint(item["id"], item["payload"], numbers))
    return [id for id in tried if id not in found.ids and id not in found.unreadable]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep others out of a collection; nothing is made or changed, not even its lock."""
    try:
        lock: IO[bytes] = (folder / "lock").open("rb")
    except FileNotFoundError:
        yield  # its lock is lost too
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreLockedError(f"{folder} is in use by another process; wait for it or stop it") from error
        yield


def _copy_with_holes(source: Path, to: Path) -> None:
    """Copy a file without what is empty of it: the engine makes files of 32 MiB for a handful of images."""
    with source.open("rb") as origin, to.open("xb") as copy:
        while chunk := origin.read(_CHUNK):
            if chunk.count(0) == len(chunk):
                copy.seek(len(chunk), os.SEEK_CUR)
            else:
                copy.write(chunk)
        copy.truncate(origin.tell())
