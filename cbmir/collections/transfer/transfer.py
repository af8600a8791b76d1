"""A collection copied from one store to another, vectors and payload, without embedding again.

Nothing is deleted, and what is there already is left alone: an interrupted copy is finished by the same call.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tqdm import tqdm

from cbmir.collections.refusals import Refusal, whole
from cbmir.errors import StoreError
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, StoredPoint
from cbmir.store.base import Collection, Progress

BATCH = 256
SAMPLE = 200
"""Images of the copy that are read back at the end."""

_SAME = 1e-5  # a component of a vector that another engine has normalised again


class Original(Protocol):
    """What can be copied: a collection, or what was made of one.

    Attributes:
        name: For messages.
        card: The encoder that made its vectors.
    """

    name: str
    card: EncoderCard

    def count(self) -> int:
        """How many points it has."""

    def scroll(self, *, vectors: bool, batch: int) -> Iterator[list[StoredPoint]]:
        """All points with their whole payload, in lists of `batch`."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What a copy did.

    Attributes:
        collection: Name of the copy.
        fingerprint: Of the encoder of both.
        read: Images of the original.
        written: Images that were missing or different.
        kept: Images that were the same already.
        others: Images that only the copy has.
        checked: Images of the copy that were read back and compared with the original.
        refused: Images that were not written because an engine can't keep them, and why.
    """

    collection: str
    fingerprint: str
    read: int
    written: int
    kept: int
    others: int
    checked: int
    refused: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        """A line for people."""
        others = f"; {self.others:,} more are only there" if self.others else ""
        refused = f" + refused {len(self.refused):,}" if self.refused else ""
        return (
            f"{self.collection}: read {self.read:,} = written {self.written:,} + same already {self.kept:,}{refused}; "
            f"{self.checked:,} read back and compared{others}"
        )


@dataclass(slots=True)
class _Copied:
    """What became of some points: how many were written, and which were refused."""

    written: int = 0
    refused: list[Refusal] = field(default_factory=list)


def transfer(
    source: Original, target: Collection, progress: Progress | None = None, *, seed: int = 0
) -> TransferReport:
    """Copy all images of a collection into another of the same encoder, index them, and compare both.

    Args:
        source: The original.
        target: The copy.
        progress: Told about the index of the copy.
        seed: Of the sample that is compared.

    Raises:
        FingerprintError: the collections are of different encoders.
        StoreError: a side refused, or the copy isn't the same: images are missing or differ.
    """
    target.card.require(source.card, f"collection {target.name}")
    read, done = 0, _Copied()
    total = source.count()
    chosen = set(np.random.default_rng(seed).permutation(total)[:SAMPLE].tolist())
    sample: list[StoredPoint] = []
    with tqdm(total=total, desc=f"copy {source.name}", unit="image", leave=False, disable=None) as bar:
        for points, copied in _in_streams(target.streams, source.scroll(vectors=True, batch=BATCH), target):
            done.written += copied.written
            done.refused += copied.refused
            lost = {item.id for item in copied.refused}
            sample += [
                point for number, point in enumerate(points, start=read) if number in chosen and point.id not in lost
            ]
            read += len(points)
            bar.update(len(points))
    target.flush()
    target.finish(progress)
    same = read - done.written - len(done.refused)
    others = target.count() - read + len(done.refused)
    if others < 0:
        raise StoreError(f"{target.name} has {-others:,} images less than {source.name} of {read:,}; copy again")
    _compare(sample, target)
    return TransferReport(
        *(target.name, target.card.fingerprint, read, done.written, same, others, len(sample)), tuple(done.refused)
    )


def _in_streams(
    streams: int, pages: Iterator[list[StoredPoint]], target: Collection
) -> Iterator[tuple[list[StoredPoint], _Copied]]:
    """Copy pages, several at a time; gives each, in order, with what became of its points."""
    failed = threading.Event()

    def copied(points: list[StoredPoint]) -> _Copied:
        if failed.is_set():
            return _Copied()  # the copy has failed: pages that wait are not tried any more
        try:
            return _copied(points, target)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(streams, "copy") as pool:
        waiting: deque[tuple[list[StoredPoint], Future[_Copied]]] = deque()
        for points in pages:
            waiting.append((points, pool.submit(copied, points)))
            if len(waiting) > streams:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _copied(points: Sequence[StoredPoint], target: Collection) -> _Copied:
    """Write those points that the target lacks or has otherwise."""
    there = {point.id: point for point in target.get([point.id for point in points], vectors=True)}
    due = [point for point in points if point.id not in there or not _same(point, there[point.id])]
    done = _Copied()
    due, records = whole(due, done.refused)
    if due:
        vectors = np.stack([point.vector for point in due if point.vector is not None])
        target.upsert(EmbeddedBatch(tuple(records), vectors, target.card.fingerprint))
        done.written = len(due)
    return done


def _compare(sample: Sequence[StoredPoint], target: Collection) -> None:
    there = {point.id: point for point in target.get([point.id for point in sample], vectors=True)}
    wrong = [point.id for point in sample if point.id not in there or not _same(point, there[point.id])]
    if wrong:
        raise StoreError(
            f"{len(wrong):,} of {len(sample):,} images read back differ in {target.name}, such as {wrong[0]}"
        )


def _same(one: StoredPoint, other: StoredPoint) -> bool:
    if one.vector is None or other.vector is None or one.payload != other.payload:
        return False
    return bool(np.allclose(one.vector, other.vector, rtol=0.0, atol=_SAME))
