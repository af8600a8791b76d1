"""The audit log: a line of JSON for each request that shows something or is refused."""

import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cbmir.errors import CbmirError
from cbmir.search.api.errors import AwayError


class Audit:
    """Appends to a file that only its user can read; without a file nothing is kept.

    Raises:
        CbmirError: the file can't be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                raise CbmirError(f"can't write the audit log {path}: {error.strerror}") from error

    def note(self, who: str, action: str, status: int, collection: str = "", ids: Sequence[str] = ()) -> None:
        """Write a line before the answer is sent: what can't be noted isn't shown.

        Args:
            who: Name of the key.
            action: What was done, such as ``search``.
            status: HTTP status of the answer.
            collection: That was asked.
            ids: Of the stored images that the answer shows.

        Raises:
            AwayError: the line can't be written.
        """
        if self._file is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "who": who, "action": action, "status": status, "collection": collection}
        line = json.dumps({**entry, "ids": list(ids)}, ensure_ascii=False).encode() + b"\n"
        try:
            with self._lock:
                if os.write(self._file, line) != len(line):
                    raise AwayError("the audit log can't be written", 30)
        except OSError as error:
            raise AwayError("the audit log can't be written", 30) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
