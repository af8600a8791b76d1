"""``python -m cbmir.store.optimize FOLDER PARENT_PID``: build one collection's HNSW graph in a process of its own."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from cbmir.errors import StoreError
from cbmir.store.shard import optimize

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """On Linux: end this process when the one that started it ends, so that a killed ingest leaves no lock behind."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked for this is gone")


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    try:
        optimize(Path(sys.argv[1]))
    except StoreError as error:
        sys.exit(str(error))
