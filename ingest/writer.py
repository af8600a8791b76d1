"""A thread that upserts while the encoder goes on, behind a bounded queue."""

import queue
import threading
import time
from typing import Self

from cbmir.schema import EmbeddedBatch
from cbmir.store import Collection

_WAITING_BATCHES = 4


class Writer:
    """Upserts batches in the order they come.

    Attributes:
        stored: Images written so far.
        write_s: Seconds spent in the store so far.
    """

    def __init__(self, collection: Collection) -> None:
        self.stored = 0
        self.write_s = 0.0
        self._collection = collection
        self._queue: queue.Queue[EmbeddedBatch | None] = queue.Queue(_WAITING_BATCHES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def put(self, batch: EmbeddedBatch) -> None:
        """Hand over a batch; waits while the queue is full.

        Raises:
            CbmirError: an earlier batch could not be written.
        """
        self._raise()
        self._queue.put(batch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written; an error of the store comes out here."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is not None:
                continue  # drain, so that `put` never blocks for ever
            started = time.perf_counter()
            try:
                self._collection.upsert(batch)
                self.stored += len(batch.records)
            except BaseException as error:
                self._error = error
            self.write_s += time.perf_counter() - started
