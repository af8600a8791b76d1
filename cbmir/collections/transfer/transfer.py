"""A collection copied from one store to another, vectors and payload, without embedding again.

Nothing is deleted, and what is there already is left alone: an interrupted copy is finished by the same call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from cbmir.errors import StoreError
from cbmir.schema import EmbeddedBatch, ImageRecord, StoredPoint
from cbmir.store.base import Collection, Progress

BATCH = 256
SAMPLE = 200
"""Images that are read back from both sides at the end."""

_SAME = 1e-5  # a component of a vector that another engine has normalised again


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
        checked: Images that were read back from both sides and compared.
    """

    collection: str
    fingerprint: str
    read: int
    written: int
    kept: int
    others: int
    checked: int

    def __str__(self) -> str:
        """A line for people."""
        others = f"; {self.others:,} more are only there" if self.others else ""
        return (
            f"{self.collection}: read {self.read:,} = written {self.written:,} + same already {self.kept:,}; "
            f"{self.checked:,} read back and compared{others}"
        )


def transfer(
    source: Collection, target: Collection, progress: Progress | None = None, *, seed: int = 0
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
    read = written = 0
    ids: list[str] = []
    with tqdm(total=source.count(), desc=f"copy {source.name}", unit="image", leave=False, disable=None) as bar:
        for points in source.scroll(vectors=True, batch=BATCH):
            written += _copied(points, target)
            read += len(points)
            ids += [point.id for point in points]
            bar.update(len(points))
    target.flush()
    target.finish(progress)
    others = target.count() - read
    if others < 0:
        raise StoreError(f"{target.name} has {-others:,} images less than {source.name} of {read:,}; copy again")
    numbers = np.random.default_rng(seed).permutation(read)[:SAMPLE]
    checked = _compared([ids[number] for number in numbers], source, target)
    return TransferReport(target.name, target.card.fingerprint, read, written, read - written, others, checked)


def _copied(points: Sequence[StoredPoint], target: Collection) -> int:
    """Write those points that the target lacks or has otherwise; tells how many."""
    there = {point.id: point for point in target.get([point.id for point in points], vectors=True)}
    due = [point for point in points if point.id not in there or not _same(point, there[point.id])]
    if due:
        records = tuple(ImageRecord.from_payload(point.payload) for point in due)
        if strange := [point.id for point, record in zip(due, records, strict=True) if record.id != point.id]:
            raise StoreError(f"point {strange[0]} has another id than its data set and file path give; it isn't ours")
        vectors = np.stack([point.vector for point in due if point.vector is not None])
        target.upsert(EmbeddedBatch(records, vectors, target.card.fingerprint))
    return len(due)


def _compared(ids: Sequence[str], source: Collection, target: Collection) -> int:
    ours = {point.id: point for point in source.get(ids, vectors=True)}
    theirs = {point.id: point for point in target.get(ids, vectors=True)}
    wrong = [id for id in ids if id not in theirs or not _same(ours[id], theirs[id])]
    if wrong:
        raise StoreError(f"{len(wrong):,} of {len(ids):,} images read back differ in {target.name}, such as {wrong[0]}")
    return len(ids)


def _same(one: StoredPoint, other: StoredPoint) -> bool:
    if one.vector is None or other.vector is None or one.payload != other.payload:
        return False
    return bool(np.allclose(one.vector, other.vector, rtol=0.0, atol=_SAME))
