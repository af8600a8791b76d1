"""Threads that upsert while the encoder goes on, behind a bounded queue."""

import queue
import threading
import time
from typing import Self

from cbmir.schema import EmbeddedBatch
from cbmir.store import Collection

_WAITING_BATCHES = 4


class Writer:
    """Upserts batches in as many threads as the collection takes at once; of one id there must be one batch.

    Attributes:
        stored: Images written so far.
    """

    def __init__(self, collection: Collection) -> None:
        self.stored = 0
        self._collection = collection
        self._queue: queue.Queue[EmbeddedBatch | None] = queue.Queue(_WAITING_BATCHES)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._busy_s = 0.0
        self._threads = [
            threading.Thread(target=self._work, name="writer", daemon=True) for _ in range(collection.streams)
        ]

    @property
    def write_s(self) -> float:
        """Seconds a thread has spent in the store so far, the mean of all."""
        return self._busy_s / len(self._threads)

    def put(self, batch: EmbeddedBatch) -> None:
        """Hand over a batch; waits while the queue is full.

        Raises:
            CbmirError: an earlier batch could not be written.
        """
        self._raise()
        self._queue.put(batch)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written; an error of the store comes out here."""
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is not None:
                continue  # drain, so that `put` never blocks for ever
            started = time.perf_counter()
            error: BaseException | None = None
            try:
                self._collection.upsert(batch)
            except BaseException as failed:
                error = failed
            with self._lock:
                self._error = self._error or error
                self.stored += len(batch.records) if error is None else 0
                self._busy_s += time.perf_counter() - started
