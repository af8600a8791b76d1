"""Memory that worker processes leave pixels in for this one; through a pipe they would be copied several times."""

import math
import mmap
import os
import tempfile
import weakref
from contextlib import suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cbmir.errors import WorkerError
from cbmir.units import size as size_of


class SharedPixels:
    """Slots of pixels; handed to a process that is being started, it is the same memory there.

    It has no name and isn't part of `/dev/shm`, which is small in containers; it is gone with the last who has it.
    """

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Room for so many slots of one shape, all of it taken now: a page that is missing later ends the process.

        Raises:
            WorkerError: there isn't as much memory.
        """
        size = slots * math.prod(shape) * np.dtype(dtype).itemsize
        room = available_bytes()
        if room is not None and size > room:
            raise _too_large(size, f"{size_of(room)} are free")
        try:
            descriptor = _nameless()
            try:
                _allocate(descriptor, size)
                self._map(descriptor, (slots, *shape), dtype)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _too_large(size, error.strerror or str(error)) from error

    def __getitem__(self, slot: int) -> NDArray[Any]:
        """The pixels in a slot, to be written or read."""
        pixels: NDArray[Any] = self._slots[slot]
        return pixels

    def __reduce__(self) -> Any:
        return _attached, (DupFd(self._descriptor), self._slots.shape, self._slots.dtype.str)

    def _map(self, descriptor: int, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._slots = np.frombuffer(mmap.mmap(descriptor, 0), dtype).reshape(shape)
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


def available_bytes(proc: Path = Path("/proc"), control: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that can be had now, by the machine and by the limit of a container; None where the system doesn't tell.

    Args:
        proc: Where Linux tells of the machine.
        control: Where it tells of the container.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError, KeyError):
        limit, used = (int((control / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        stat = dict(line.split() for line in (control / "memory.stat").read_text(encoding="ascii").splitlines())
        found.append(limit - used + int(stat["inactive_file"]))  # cached files make way
    return min(found, default=None)


def _too_large(size: int, why: str) -> WorkerError:
    return WorkerError(
        f"the decoding processes need {size_of(size)} of memory for their pixels, and can't have it: {why}; "
        "give fewer --workers"
    )


def _allocate(descriptor: int, size: int) -> None:
    """Take the space now.

    Raises:
        OSError: there isn't as much.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        os.posix_fallocate(descriptor, 0, size)
        return
    part = bytes(1 << 20)
    for start in range(0, size, len(part)):
        os.pwrite(descriptor, part[: size - start], start)


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
