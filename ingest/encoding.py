"""The encoder as a stage: it goes on with one batch while the one before is written and the next one collected."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cbmir.encoders import Encoder
from cbmir.schema import ImageRecord, Vectors

AT_ONCE = 2
"""Batches that are encoded at the same time."""

Item = tuple[ImageRecord, NDArray[Any]]


class Encoding:
    """Encodes batches in the order they come, two at a time.

    Attributes:
        encode_s: Seconds in which the encoder was at work, so far.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encode_s = 0.0
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(AT_ONCE, "encode")
        self._waiting: deque[tuple[list[ImageRecord], Future[tuple[Vectors, float, float]]]] = deque()
        self._until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what is not encoded yet."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def waiting(self) -> int:
        """Images put and not taken."""
        return sum(len(records) for records, _ in self._waiting)

    def put(self, items: Sequence[Item]) -> None:
        """Hand over a batch of preprocessed images."""
        pixels = np.stack([pixels for _, pixels in items])
        self._waiting.append(([record for record, _ in items], self._threads.submit(self._embed, pixels)))

    def take(self, leave: int = AT_ONCE) -> Iterator[tuple[list[ImageRecord], Vectors]]:
        """Encoded batches, in order, until no more than `leave` are waiting.

        Raises:
            EncoderError: a batch could not be encoded.
        """
        while len(self._waiting) > leave:
            records, future = self._waiting.popleft()
            vectors, started, ended = future.result()
            self.encode_s += max(0.0, ended - max(started, self._until))
            self._until = max(ended, self._until)
            yield records, vectors

    def _embed(self, pixels: NDArray[Any]) -> tuple[Vectors, float, float]:
        started = time.perf_counter()
        vectors = self._encoder.embed(pixels)
        return vectors, started, time.perf_counter()
