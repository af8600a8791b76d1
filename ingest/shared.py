"""Memory that worker processes leave pixels in for this one; through a pipe they would be copied several times."""

import math
import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedPixels:
    """Slots of pixels; handed to a process that is being started, it is the same memory there.

    It has no name and isn't part of `/dev/shm`, which is small in containers; it is gone with the last who has it.
    """

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Room for so many slots of one shape; memory is taken as it is written to."""
        file = _nameless()
        file.truncate(slots * math.prod(shape) * np.dtype(dtype).itemsize)
        self._map(file, (slots, *shape), dtype)

    def __getitem__(self, slot: int) -> NDArray[Any]:
        """The pixels in a slot, to be written or read."""
        pixels: NDArray[Any] = self._slots[slot]
        return pixels

    def __reduce__(self) -> Any:
        return _attached, (DupFd(self._file.fileno()), self._slots.shape, self._slots.dtype.str)

    def _map(self, file: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._file = file
        self._slots = np.frombuffer(mmap.mmap(file.fileno(), 0), dtype).reshape(shape)


def _attached(handle: Any, shape: tuple[int, ...], dtype: str) -> SharedPixels:
    shared = SharedPixels.__new__(SharedPixels)
    shared._map(os.fdopen(handle.detach(), "r+b", buffering=0), shape, dtype)
    return shared


def _nameless() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # Linux
        return os.fdopen(os.memfd_create("pixels"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
