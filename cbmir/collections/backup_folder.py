"""A folder while a backup is written to it: what an interrupted run has left is known for ours, and replaced."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbmir.collections.manifests import BACKUP
from cbmir.errors import SourceError

MARK = "backup.unfinished"
"""It is there from the first moment until the manifest is."""

_OURS = re.compile(rf"(collection\.tar\.gz|node-\d+\.snapshot)(\.partial)?|{re.escape(BACKUP.name)}\.partial")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Take an empty folder, or one that an interrupted run has left, and hold it against other runs.

    Raises:
        SourceError: the folder holds something else, a whole backup, or what another run is writing right now.
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = _is_begun(folder)
    _check(folder, begun)
    with os.fdopen(os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceError(f"another run is writing a backup to {folder}; wait for it or stop it") from error
        for name in _check(folder, begun):  # again: another run may have ended meanwhile
            (folder / name).unlink()
        mark.truncate()
        json.dump({"format": BACKUP.format, "unfinished": True}, mark)
        mark.flush()
        try:
            yield
        except BaseException:
            for item in list(folder.iterdir()):
                if _OURS.fullmatch(item.name):
                    item.unlink()
            raise
        finally:
            (folder / MARK).unlink()


def _check(folder: Path, begun: bool) -> list[str]:
    """What an interrupted run has left in a folder that holds nothing else."""
    names = sorted(item.name for item in folder.iterdir() if item.name != MARK)
    foreign = [name for name in names if not (begun and _OURS.fullmatch(name))]
    if foreign:
        raise SourceError(f"{folder} isn't empty, it holds {foreign[0]}; a backup is never written over anything")
    return names


def _is_begun(folder: Path) -> bool:
    """Whether the mark is there and ours; a run may have been killed before it wrote a letter."""
    path = folder / MARK
    if path.is_symlink() or not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return not text or f'"format": "{BACKUP.format}"' in text
