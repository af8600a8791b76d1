"""What was counted lately in one open collection, so that a batch of queries counts once."""

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

KEPT_S = 60.0
_KEPT = 1024

T = TypeVar("T")


class Counts:
    """Keeps counts for a minute, since other processes may write; what is written here is counted anew at once."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._writes = 0

    def lately(self, key: Hashable, count: Callable[[], T]) -> T:
        """A count of the last minute, or a new one.

        Args:
            key: What is counted.
            count: Counts it.
        """
        now, writes = time.monotonic(), self._writes
        kept = self._kept.get(key)
        if kept is not None and now - kept[0] <= KEPT_S:
            return kept[1]  # type: ignore[no-any-return]  # of one type under one key
        found = count()
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        if writes == self._writes:  # else another thread has written meanwhile
            self._kept[key] = (now, found)
        return found

    def forget(self) -> None:
        """Count everything anew: something was written, or may have been."""
        self._writes += 1
        self._kept.clear()
