"""The named semaphores of worker processes: marked as those of this process, and removed if a killed one left its own.

Python's resource tracker removes them when a run ends or is killed, but not when it is killed with the run, as with a
container or a whole session. On Linux they are files in ``/dev/shm``, which only a restart empties.
"""

import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")  # noqa: S108  nothing is made there by name
_NAME = re.compile(r"sem\.cbmir-(?P<space>\d+)-(?P<pid>\d+)-(?P<started>\d+)-\w+")


@contextmanager
def marked() -> Iterator[None]:
    """Semaphores made meanwhile have a name that says which process made them; on Linux only."""
    config = getattr(multiprocessing.current_process(), "_config", None)
    if sys.platform != "linux" or not isinstance(config, dict) or "semprefix" not in config:
        yield
        return
    before = config["semprefix"]
    with suppress(OSError):  # without /proc they keep Python's names
        config["semprefix"] = f"/cbmir-{_space()}-{os.getpid()}-{_started(os.getpid())}"
    try:
        yield
    finally:
        config["semprefix"] = before


def remove_left(folder: Path = _FOLDER) -> int:
    """Remove the semaphores of processes that are gone; how many.

    Only those with our mark count that belong to this user and were made where the same process ids hold: another
    container may share the folder, whose processes can't be seen from here.
    """
    removed = 0
    with suppress(OSError):  # there is no such folder, or no /proc
        space = _space()
        for path in folder.glob("sem.cbmir-*"):
            match = _NAME.fullmatch(path.name)
            if match is None or match["space"] != space or path.lstat().st_uid != os.geteuid():
                continue
            if not _lives(int(match["pid"]), match["started"]):
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _lives(pid: int, started: str) -> bool:
    try:
        return _started(pid) == started
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine did."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[19]


def _space() -> str:
    """The number of the space in which process ids are unique."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)
