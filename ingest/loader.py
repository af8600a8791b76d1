"""Worker processes that read, hash, decode and preprocess images or volumes, in order and a bounded number at a time.

Workers are forked from a process that has imported this module, once for all loaders: this process has the engine's
files and locks, and threads. The main module, which may be a user's script, is not imported.
"""

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from numpy.typing import NDArray

from cbmir.errors import ImageError, WorkerError
from cbmir.ingest.semaphores import marked, remove_left
from cbmir.ingest.shared import SharedPixels
from cbmir.ingest.thumbnails.place import MODE, is_there, write
from cbmir.limits import Limits
from cbmir.media import (
    DECODER,
    Asset,
    FileKind,
    Note,
    OwnPreprocessing,
    Preprocessing,
    VolumePreprocessing,
    expected_kind,
    file_kinds,
    prepare,
    register,
)
from cbmir.safepath import as_here
from cbmir.schema import RecordKind

T = TypeVar("T")

CHUNK = {"image": 16, "volume": 1}
"""Images or volumes a task at most: a volume for a network has 16 MB, and a file can take a worker some GB."""

_CHUNK_BYTES = 8 << 20  # of pixels
_CHUNKS_IN_FLIGHT = 3  # a worker
_ENDED = "ended the process that decoded it (out of memory, or a crash of the decoder)"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a worker does where thumbnails are all that is wanted, and nothing for an encoder.

    Attributes:
        window_hu: Of volumes, black to white; None for the range of each slice.
    """

    window_hu: tuple[float, float] | None = None


ForEncoder = Preprocessing | VolumePreprocessing | OwnPreprocessing
"""What is made of each file for an encoder."""

How = ForEncoder | Drawing
"""What is made of each file."""


def chunk_size(how: ForEncoder) -> int:
    """Images or volumes a task: fewer of pictures that are large for the network."""
    return max(1, min(CHUNK[how.kind], _CHUNK_BYTES // (math.prod(how.shape) * how.dtype.itemsize)))


@dataclass(frozen=True, slots=True)
class Wanted:
    """An asset to load.

    Attributes:
        asset: The image or volume, not read yet.
        known_sha256: Hash under which it is stored already; a file that still has it isn't decoded.
        thumbnail: Where a thumbnail is to be; None for none.
        shown: Whether the stored image has that thumbnail; then a known file gets it only where it isn't there.
        known_decoder: Version of the decoder that read the stored image; a known file that reads otherwise now is
            decoded again.
        thumbnail_mode: Rights of the thumbnail's file.
    """

    asset: Asset
    known_sha256: str | None
    thumbnail: Path | None = None
    shown: bool = False
    known_decoder: int = DECODER
    thumbnail_mode: int = MODE

    def due(self, known: bool) -> Path | None:
        """Where to write a thumbnail now, once it is clear whether the file is as it was stored."""
        if self.thumbnail is None or (known and self.shown and is_there(self.thumbnail)):
            return None
        return self.thumbnail


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one asset.

    Attributes:
        sha256: See `Asset.sha256`; empty where it couldn't be read.
        kind: What it is, where it was decoded for the encoder; None otherwise.
        width: Of the picture or of a volume's axial slices, in pixels.
        height: Of the same, in pixels.
        depth: Axial slices of a volume; None for a picture.
        pixels: `Pixels` or `Voxels` for the encoder; None where the image is known or unusable.
        reason: Why it is unusable, None otherwise.
        drawn: Whether its thumbnail was written.
        again: Whether the file is as it was stored, and pixels are given because the decoder has changed since.
        notes: What was done in decoding that people may want to know.
    """

    sha256: str = ""
    kind: RecordKind | None = None
    width: int = 0
    height: int = 0
    depth: int | None = None
    pixels: NDArray[Any] | None = None
    reason: str | None = None
    drawn: bool = False
    again: bool = False
    notes: tuple[Note, ...] = ()


def load_image(
    wanted: Wanted, how: How, limits: Limits | None = None, *, encoder: str = "the encoder", kills: bool = False
) -> Loaded:
    """Read, hash, and, unless it is known, decode and preprocess one image or volume; never raises for a bad one.

    Its thumbnail is written where one is due. With a `Drawing` that is all, and a file that isn't as it was stored is
    a bad one.

    Args:
        wanted: The asset.
        how: What is made of it.
        limits: What that may take; those of the environment unless given.
        encoder: Name of the encoder, for messages.
        kills: Whether the system may end this process where decoding doesn't end in time.

    Raises:
        ThumbnailError: the thumbnail can't be written, which isn't the image's fault.
    """
    asset = wanted.asset.within(limits, kills=kills)
    try:
        return _draw(wanted, how, asset) if isinstance(how, Drawing) else _load(wanted, how, asset, encoder)
    except ImageError as error:
        return Loaded(reason=str(error))
    except MemoryError:
        return Loaded(reason="is too large for the memory of this machine")


def _load(wanted: Wanted, how: ForEncoder, asset: Asset, encoder: str) -> Loaded:
    if expected_kind(asset.location.name) != how.kind:
        asset.check_kind(how.kind, encoder)  # before the whole of it is read
    same = asset.sha256 == wanted.known_sha256
    known = same and not asset.changed_since(wanted.known_decoder)
    due = wanted.due(known)
    if known and due is None:
        return Loaded(asset.sha256)
    prepared = None if known else prepare(asset, how, encoder)
    if due is not None:
        window_hu = how.window_hu if isinstance(how, VolumePreprocessing) else None
        write(asset.thumbnail(window_hu), due, wanted.thumbnail_mode)
    if prepared is None:
        return Loaded(asset.sha256, drawn=True)
    return Loaded(
        asset.sha256,
        prepared.kind,
        prepared.width,
        prepared.height,
        prepared.depth,
        pixels=prepared.pixels,
        drawn=due is not None,
        again=same,
        notes=prepared.notes,
    )


def _draw(wanted: Wanted, how: Drawing, asset: Asset) -> Loaded:
    due = wanted.due(known=True)
    if due is None:
        return Loaded()
    if wanted.known_sha256 not in (None, asset.sha256):
        return Loaded(asset.sha256, reason="has changed since it was embedded: run `cbmir ingest images` again")
    write(asset.thumbnail(how.window_hu), due, wanted.thumbnail_mode)
    return Loaded(asset.sha256, drawn=True)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Files of one task, their pixels left in a slot."""

    loaded: list[Loaded]
    slot: int
    filled: int
    cpu_s: float


class Loader:
    """A pool of worker processes.

    Attributes:
        decode_s: Core-seconds the workers spent on images so far.

    Args:
        how: What is made of each asset.
        workers: Processes.
        encoder: Name of the encoder, for messages.
    """

    def __init__(self, how: How, workers: int, encoder: str = "the encoder") -> None:
        self._how = how
        self._encoder = encoder
        self._workers = workers
        self._limits = Limits.read("image")
        self._pixels: SharedPixels | None = None
        self.decode_s = 0.0
        self._start()

    def load(self, chunks: Iterable[Sequence[tuple[T, Wanted]]]) -> Iterator[list[tuple[T, Loaded]]]:
        """What became of each asset, chunk by chunk in the order they came.

        Args:
            chunks: At most `chunk_size` assets each. Beside an asset stands what it is loaded for, which comes back
                with what became of it.

        Raises:
            ThumbnailError: a thumbnail can't be written.
            WorkerError: after a worker died, no other can be started.
        """
        waiting: deque[tuple[Sequence[tuple[T, Wanted]], Future[_Chunk]]] = deque()
        source = iter(chunks)
        while True:
            while self._free and (chunk := next(source, None)) is not None:
                waiting.append((chunk, self._submit(chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            try:
                done = self._unpack(future.result())
            except BrokenProcessPool:
                done = self._one_by_one(chunk)
                waiting = deque((later, self._submit(later)) for later, _ in waiting)
            yield [(task, loaded) for (task, _), loaded in zip(chunk, done, strict=True)]

    def close(self) -> None:
        """Stop the workers; work in flight is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Start all workers with Ctrl-C blocked, from their first instruction on: it is for the parent.

        Raises:
            WorkerError: they end at once.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        remove_left()
        self._free = list(range(self._workers * _CHUNKS_IN_FLIGHT))
        if not isinstance(self._how, Drawing):
            self._pixels = SharedPixels(len(self._free), (chunk_size(self._how), *self._how.shape), self._how.dtype)
        try:
            with _starting(), marked():
                begun_with = (_Work(self._how, self._encoder, self._limits, _packed_kinds()), self._pixels)
                self._pool = ProcessPoolExecutor(self._workers, context, _begin, begun_with)
                for started in [self._pool.submit(int) for _ in range(self._workers)]:
                    started.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "the processes that decode images end as soon as they start: see what they said above"
            ) from error

    def _submit(self, chunk: Sequence[tuple[Any, Wanted]]) -> Future[_Chunk]:
        assets = [wanted for _, wanted in chunk]
        try:
            with _starting():  # the pool may have left a worker to be started later
                return self._pool.submit(_load_chunk, assets, self._free.pop())
        except BrokenProcessPool as error:  # a worker died since; `load` sees to it
            broken: Future[_Chunk] = Future()
            broken.set_exception(error)
            return broken

    def _one_by_one(self, chunk: Sequence[tuple[Any, Wanted]]) -> list[Loaded]:
        """After a worker died, find the image that killed it; the others of its chunk are loaded."""
        done = []
        self._start()
        for item in chunk:
            workers = multiprocessing.active_children()
            try:
                done += self._unpack(self._submit([item]).result())
            except BrokenProcessPool:
                self._pool.shutdown()  # until then the pool reads the exit codes too, and each can be read once
                codes = {worker.exitcode for worker in workers}
                self._start()
                late = -signal.SIGXCPU in codes
                done.append(Loaded(reason=self._limits.late if late else _ENDED))
        return done

    def _unpack(self, chunk: _Chunk) -> list[Loaded]:
        """Take the pixels out of their slot, which is free after that."""
        self.decode_s += chunk.cpu_s
        self._free.append(chunk.slot)
        if not chunk.filled:
            return chunk.loaded
        assert self._pixels is not None
        rows = iter(self._pixels[chunk.slot][: chunk.filled].copy())
        return [item if item.reason or not item.width else replace(item, pixels=next(rows)) for item in chunk.loaded]


@contextmanager
def _starting() -> Iterator[None]:
    """While workers start: they don't take Ctrl-C, find our modules, and don't import the user's script."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with as_here():
            yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a worker process needs to know."""

    how: How
    encoder: str
    limits: Limits
    kinds: bytes


def _packed_kinds() -> bytes:
    """All kinds of files that this process knows, for a worker.

    Raises:
        WorkerError: functions of one are not at the top level of a module that can be imported.
    """
    packed = []
    for kind in file_kinds():
        try:
            packed.append(pickle.dumps(kind))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise WorkerError(
                f"files of kind {kind.name} can't be decoded in other processes: its functions must be at the top "
                f"level of a module, and not in the program that was started ({error})"
            ) from error
    return pickle.dumps(packed)


_work: _Work
_pixels: SharedPixels | None
"""Of a worker process."""


def _begin(work: _Work, pixels: SharedPixels | None) -> None:
    """Begin as a worker, and end when the process that started it does, however that ended."""
    global _work, _pixels
    _work, _pixels = work, pixels
    for packed in pickle.loads(work.kinds):  # noqa: S301  made by this program
        kind: FileKind = pickle.loads(packed)  # noqa: S301
        register(kind)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await, args=(parent,), daemon=True).start()


def _load_chunk(chunk: list[Wanted], slot: int) -> _Chunk:
    started = time.process_time()
    filled = 0
    loaded = []
    for wanted in chunk:
        item = load_image(wanted, _work.how, _work.limits, encoder=_work.encoder, kills=True)
        if item.pixels is not None:
            assert _pixels is not None
            _pixels[slot][filled] = item.pixels
            filled += 1
        loaded.append(replace(item, pixels=None))
    return _Chunk(loaded, slot, filled, time.process_time() - started)


def _await(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
