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
from types import ModuleType
from typing import Any, Self, TypeVar

from cbmir.errors import WorkerError
from cbmir.ingest.loading import Drawing, ForEncoder, How, Loaded, Wanted, load_image
from cbmir.ingest.semaphores import marked, remove_left
from cbmir.ingest.shared import SharedPixels
from cbmir.limits import Limits
from cbmir.media import (
    FileKind,
    file_kinds,
    register,
)
from cbmir.safepath import as_here

T = TypeVar("T")

CHUNK = {"image": 16, "volume": 1}
"""Images or volumes a task at most: a volume for a network has 16 MB, and a file can take a worker some GB."""

_CHUNK_BYTES = 8 << 20  # of pixels
_CHUNKS_IN_FLIGHT = 3  # a worker
_ENDED = "ended the process that decoded it (out of memory, or a crash of the decoder)"


def chunk_size(how: ForEncoder) -> int:
    """Images or volumes a task: fewer of pictures that are large for the network."""
    return max(1, min(CHUNK[how.kind], _CHUNK_BYTES // (math.prod(how.shape) * how.dtype.itemsize)))


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
