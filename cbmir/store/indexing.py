"""The HNSW graph of a directory's collection, built in a process of its own."""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from cbmir.errors import StoreError
from cbmir.safepath import environment

_POLL_S = 0.05
_PART = 4096
_PARTS = 16
"""What is kept of the child's stderr: its last 64 kB, however much it writes."""


def index_in_child(folder: Path, waiting: Callable[[float], object] | None) -> None:
    """Build the graph of a closed collection; the engine would hold the GIL of this process all the time.

    Args:
        folder: Of the collection.
        waiting: Called now and then with the seconds since the start.

    Raises:
        StoreError: the child failed.
    """
    command = [sys.executable, "-P", "-m", "cbmir.store.optimize", str(folder), str(os.getpid())]
    started = time.monotonic()
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, **environment()}
    ) as child:
        said: deque[bytes] = deque(maxlen=_PARTS)
        assert child.stderr is not None
        reader = threading.Thread(target=_drain, args=(child.stderr, said), daemon=True)
        reader.start()
        try:
            while child.poll() is None:
                time.sleep(_POLL_S)
                if waiting:
                    waiting(time.monotonic() - started)
        except BaseException:
            child.kill()
            raise
        finally:
            child.wait()
            reader.join()
    if child.returncode:
        lines = b"".join(said).decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"it ended with {child.returncode}"
        raise StoreError(f"indexing {folder} failed, nothing is lost: {reason}")


def _drain(pipe: IO[bytes], kept: deque[bytes]) -> None:
    """Read all that comes, so that the writer never waits for a reader."""
    while part := os.read(pipe.fileno(), _PART):
        kept.append(part)
