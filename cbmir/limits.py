"""What one image, one volume or one table may take: time, bytes that come out of it, and memory.

Sizes that a file declares are compared with these limits before it is unpacked. Beneath that the operating system holds
what a file makes of itself while it is read: a timer ends it, and memory beyond the limit is refused.
"""

import math
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from cbmir.errors import CbmirError, ImageError, SourceError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

Of = Literal["image", "table"]

IMAGE_SECONDS, TABLE_SECONDS = 600.0, 3600.0
MAX_BYTES = 8_000_000_000
"""A volume of `MAX_VOXELS` values of 8 bytes has as many. A table of so much text has some 50 million rows."""
MAX_MEMORY = 16_000_000_000
_OF_MACHINE = 0.75
"""Part of the machine's memory beyond which none is given to one file."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DATA = 5
"""Place of data and stack in /proc/self/statm, in pages."""


_ERRORS: dict[Of, type[CbmirError]] = {"image": ImageError, "table": SourceError}


class _TimeUp(BaseException):
    """No `Exception`, for decoders catch those and go on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may take.

    Attributes:
        of: What it is; names the options in messages.
        seconds: Of computing, by all threads of this process; waiting for a disk or for other programs doesn't count.
        bytes: That may come out of it when it is unpacked.
        memory_bytes: That may be taken for it besides what the process has.
    """

    of: Of
    seconds: float
    bytes: int
    memory_bytes: int

    @classmethod
    def read(cls, of: Of) -> "Limits":
        """The limits that the options of the command set, or environment variables; otherwise the defaults.

        Raises:
            CbmirError: a variable holds something else.
        """
        default = IMAGE_SECONDS if of == "image" else TABLE_SECONDS
        seconds, size, memory = (os.environ.get(variable(of, what)) for what in ("seconds", "bytes", "memory"))
        return cls(
            of,
            seconds_of(seconds) if seconds else default,
            bytes_of(size) if size else MAX_BYTES,
            bytes_of(memory) if memory else min(MAX_MEMORY, int(_OF_MACHINE * _machine_bytes())),
        )

    def check_bytes(self, size: int, what: str = "") -> None:
        """Refuse what would become too large, by what it declares or has given so far.

        Args:
            size: Bytes.
            what: For the message, such as ``table a.csv``, with a space behind.

        Raises:
            ImageError, SourceError: it would, by `of`.
        """
        if size > self.bytes:
            raise self._error(
                f"{what}is too large: it unpacks to {size:,} bytes or more, {self.bytes:,} at most (--{self.of}-bytes)"
            )

    @contextmanager
    def held(self, what: str = "", *, kills: bool = False) -> Iterator[None]:
        """Let what is done meanwhile take no more time and memory than this.

        Time is held in the main thread only, memory on Linux only. What is no Python is interrupted when it returns.

        Args:
            what: For the message, such as ``table a.csv``, with a space behind.
            kills: Whether the system may end this process where it doesn't return at half of the time more; for
                processes that only decode.

        Raises:
            ImageError, SourceError: a limit was hit, by `of`.
        """
        try:
            with self._held_memory(), self._held_time(kills):
                yield
        except _TimeUp as error:
            raise self._error(f"{what}{self.late}") from error
        except MemoryError as error:
            raise self._error(
                f"{what}is too large for the memory of this machine, or for the limit of {self.memory_bytes:,} bytes "
                f"(--{self.of}-memory)"
            ) from error

    @property
    def _error(self) -> type[CbmirError]:
        return _ERRORS[self.of]

    @property
    def late(self) -> str:
        """What is said where it took too long."""
        return f"takes over {self.seconds:g} s of computing, the limit (--{self.of}-seconds)"

    @contextmanager
    def _held_time(self, kills: bool) -> Iterator[None]:
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return
        running = True

        def stop(_: int, __: FrameType | None) -> None:
            if running:
                raise _TimeUp

        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, self.seconds, min(self.seconds, 1.0))  # again, where one was swallowed
        killed = _kill_after(self.seconds * 1.5) if kills else None
        try:
            yield
        finally:
            running = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            if killed is not None:
                resource.setrlimit(resource.RLIMIT_CPU, killed)

    @contextmanager
    def _held_memory(self) -> Iterator[None]:
        used = _data_bytes()
        if used is None:
            yield
            return
        before = resource.getrlimit(resource.RLIMIT_DATA)
        given = [limit for limit in before if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([used + self.memory_bytes, *given]), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def variable(of: Of, what: str) -> str:
    """The environment variable of a limit.

    Args:
        of: What is limited.
        what: ``seconds``, ``bytes`` or ``memory``.
    """
    return f"CBMIR_{of}_{what}".upper()


def seconds_of(text: str) -> float:
    """A time limit.

    Raises:
        CbmirError: it is no number above 0.
    """
    with suppress(ValueError):
        if 0 < (seconds := float(text)) <= 1e8:
            return seconds
    raise CbmirError(f"{text!r} is no limit of time: give seconds, such as 600")


def bytes_of(text: str) -> int:
    """A limit of size, such as ``16G`` or ``500 MB``.

    Raises:
        CbmirError: it is no size above 0.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 0 < size < 2**62:
        raise CbmirError(f"{text!r} is no limit of size: give bytes, such as 500M or 16G")
    return size


def _kill_after(seconds: float) -> tuple[int, int]:
    """Let the system end this process after more seconds of computing, without a core file, which would hold pixels.

    Returns:
        The limit before.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    before = resource.getrlimit(resource.RLIMIT_CPU)
    given = [limit for limit in before if limit != resource.RLIM_INFINITY]
    end = math.ceil(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (min([end, *given]), before[1]))
    return before


def _data_bytes() -> int | None:
    """Memory of this process that isn't shared; None where the system doesn't limit it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[_DATA])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


def _machine_bytes() -> int:
    """Memory of the machine; no bound where it isn't known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62
