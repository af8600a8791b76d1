"""Memory that worker processes leave pixels in for this one; through a pipe they would be copied several times."""

import math
import mmap
import os
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedPixels:
    """Slots of pixels; handed to a process that is being started, it is the same memory there.

    It has no name and isn't part of `/dev/shm`, which is small in containers; it is gone with the last who has it.
    """

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Room for so many slots of one shape; memory is taken as it is written to."""
        descriptor = _nameless()
        os.ftruncate(descriptor, slots * math.prod(shape) * np.dtype(dtype).itemsize)
        self._map(descriptor, (slots, *shape), dtype)

    def __getitem__(self, slot: int) -> NDArray[Any]:
        """The pixels in a slot, to be written or read."""
        pixels: NDArray[Any] = self._slots[slot]
        return pixels

    def __reduce__(self) -> Any:
        return _attached, (DupFd(self._descriptor), self._slots.shape, self._slots.dtype.str)

    def _map(self, descriptor: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._slots = np.frombuffer(mmap.mmap(descriptor, 0), dtype).reshape(shape)


def _attached(handle: Any, shape: tuple[int, ...], dtype: str) -> SharedPixels:
    shared = SharedPixels.__new__(SharedPixels)
    shared._map(handle.detach(), shape, dtype)
    return shared


def _nameless() -> int:
    if hasattr(os, "memfd_create"):  # Linux
        return os.memfd_create("pixels")
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    return descriptor
