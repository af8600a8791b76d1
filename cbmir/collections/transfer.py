"""A collection copied from one store to another, vectors and payload, without embedding again.

What is there already is left alone, and nothing is deleted but what would double: an interrupted copy is finished by
the same call. An image that one side has under a spelling of its path that an earlier version kept, and the other under
the normal form, is one image: the copy ends with the normal form.
"""

import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cbmir.collections.refusals import Refusal, whole
from cbmir.collections.transfer_spellings import Aim, path_of, usual_id, usually_spelt
from cbmir.errors import StoreError
from cbmir.fingerprint import EncoderCard
from cbmir.schema import EmbeddedBatch, StoredPoint
from cbmir.store.collection import Collection, Progress
from cbmir.store.sources import check_dicom, pass_on
from cbmir.store.store import Store
from cbmir.units import counted

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

    def metadata(self) -> Mapping[str, Any]:
        """What it remembers of itself besides its points."""

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
        kept: Images that were the same already, or were there under their path's normal form.
        moved: Points of the copy under another spelling of a path that was written now; they are removed.
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
    moved: int = 0
    refused: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        """A line for people."""
        moved = f"; moved from another spelling of the path: {self.moved:,}" if self.moved else ""
        others = f"; only there: {self.others:,} more" if self.others else ""
        refused = f" + refused {len(self.refused):,}" if self.refused else ""
        return (
            f"{self.collection}: read {self.read:,} = written {self.written:,} + same already {self.kept:,}{refused}; "
            f"{self.checked:,} read back and compared{moved}{others}"
        )


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
        KeyFileError, CollectionError: DICOM of both was read in different ways.
        StoreError: a side refused, or the copy isn't the same: images are missing or differ.
    """
    target.card.require(source.card, f"collection {target.name}")
    check_dicom(source.metadata(), target)
    read = written = 0
    refused: list[Refusal] = []
    removed: set[str] = set()
    elsewhere: dict[str, str] = {}
    ids: list[NDArray[np.bytes_]] = []
    odd: set[str] = set()
    total = source.count()
    chosen = set(np.random.default_rng(seed).permutation(total)[:SAMPLE].tolist())
    sample: list[StoredPoint] = []
    aim = Aim.of(target)
    with tqdm(total=total, desc=f"copy {source.name}", unit="image", leave=False, disable=None) as bar:
        for points, copied in _in_streams(target.streams, usually_spelt(source.scroll(vectors=True, batch=BATCH)), aim):
            written += copied.written
            refused += copied.refused
            removed |= copied.removed
            elsewhere |= copied.elsewhere
            odd |= copied.odd
            sample += [point for number, point in enumerate(points, start=read) if number in chosen]
            ids.append(np.array([point.id.encode() for point in points], "S36"))
            read += len(points)
            bar.update(len(points))
    target.flush()
    pass_on(source.metadata(), target)
    target.finish(progress)
    gone = elsewhere.keys() | (removed & odd)
    lost = {item.id for item in refused}
    others = target.count() - (read - len(gone) - len(lost) + _missing(set(elsewhere.values()), ids))
    if others < 0:
        raise StoreError(
            f"{target.name} has {counted(-others, 'image')} less than {source.name} of {read:,}; copy again"
        )
    sample = [point for point in sample if point.id not in gone and point.id not in lost]
    _compare(sample, target)
    report = (target.name, target.card.fingerprint, read, written, read - written - len(refused))
    return TransferReport(*report, others, len(sample), len(removed), tuple(refused))


def is_unused_version(store: Store, name: str) -> bool:
    """Whether nobody searches a collection yet: a version of a server, ``NAME__vN``, to which no alias leads."""
    if "://" not in store.location or not re.search(r"__v\d+$", name):
        return False
    from cbmir.store.server import ServerStore

    return isinstance(store, ServerStore) and name not in store.aliases().values()


def put_off_index(collection: Collection, *, wanted: bool) -> None:
    """Build no graph until the collection is finished: many writes at once are quicker so.

    Args:
        collection: To be filled.
        wanted: Whether the user has asked for it; else a key that may not is no error.

    Raises:
        StoreError: the key may not, and it was asked for.
    """
    from cbmir.store.retry import refused

    try:
        collection.defer_index()
    except StoreError as error:
        if wanted or not refused(error.__cause__):
            raise


@dataclass(frozen=True, slots=True)
class _Copied:
    """What became of some points.

    Attributes:
        written: How many were written.
        odd: Ids of those whose path is absolute or isn't in normal form.
        elsewhere: Of these, those that are there under another spelling, and so were not written; its id by theirs.
        removed: Ids of points of the copy that were removed, for they are of the same images under other spellings.
        refused: Points that no engine can keep.
    """

    written: int = 0
    odd: frozenset[str] = frozenset()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    refused: tuple[Refusal, ...] = ()


def _in_streams(
    streams: int, pages: Iterator[list[StoredPoint]], aim: Aim
) -> Iterator[tuple[list[StoredPoint], _Copied]]:
    """Copy pages, several at a time; gives each, in order, with what became of its points."""
    failed = threading.Event()

    def copied(points: list[StoredPoint]) -> _Copied:
        if failed.is_set():
            return _Copied()  # the copy has failed: pages that wait are not tried any more
        try:
            return _copied(points, aim)
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


def _copied(points: Sequence[StoredPoint], aim: Aim) -> _Copied:
    """Write those points that the target lacks or has otherwise."""
    target = aim.target
    usual = {point.id: usual_id(point) for point in points}
    ids = list(dict.fromkeys([*usual, *usual.values()]))
    there = {point.id: point for point in target.get(ids, vectors=True)}
    absolute = [point for point in points if path_of(point).startswith("/")]
    elsewhere = {id: other for id, other in usual.items() if id != other and other in there}
    elsewhere |= aim.named_below([point for point in absolute if point.id not in there])
    due = [
        point
        for point in points
        if point.id not in elsewhere and (point.id not in there or not _same(point, there[point.id]))
    ]
    refused: list[Refusal] = []
    due, records = whole(due, refused)
    if due:
        vectors = np.stack([point.vector for point in due if point.vector is not None])
        target.upsert(EmbeddedBatch(tuple(records), vectors, target.card.fingerprint))
    removed = frozenset(old for point in points for old in aim.doubled_by(point)) | (elsewhere.keys() & there.keys())
    if removed:
        target.delete(list(removed))
    odd = frozenset(id for id, other in usual.items() if id != other) | {point.id for point in absolute}
    return _Copied(len(due), odd, elsewhere, removed, tuple(refused))


def _missing(wanted: set[str], ids: Sequence[NDArray[np.bytes_]]) -> int:
    """How many ids are not among others, which come in parts."""
    left = np.array([id.encode() for id in sorted(wanted)], "S36")
    for part in ids if len(left) else ():
        left = left[~np.isin(left, part)]
    return len(left)


def _compare(sample: Sequence[StoredPoint], target: Collection) -> None:
    there = {point.id: point for point in target.get([point.id for point in sample], vectors=True)}
    wrong = [point.id for point in sample if point.id not in there or not _same(point, there[point.id])]
    if wrong:
        raise StoreError(
            f"read back from {target.name} and not as written: {len(wrong):,} of {counted(len(sample), 'image')}, "
            f"such as {wrong[0]}"
        )


def _same(one: StoredPoint, other: StoredPoint) -> bool:
    if one.vector is None or other.vector is None or one.payload != other.payload:
        return False
    return bool(np.allclose(one.vector, other.vector, rtol=0.0, atol=_SAME))
