"""The folders of a directory store: who holds one, and how one goes without ever being seen by half.

A collection that is being made has the name ``.NAME.RANDOM.new``, one that is being deleted ``.NAME.RANDOM.gone``.
"""

import fcntl
import re
import shutil
import uuid
from pathlib import Path
from typing import IO

from cbmir.errors import StoreError, StoreLockedError

_LOCK = "lock"
_RANDOM = 8
"""Signs that `tempfile` puts in the name of a folder."""
_REMAINS = re.compile(rf"\.(?P<name>.+)\.[^.]{{{_RANDOM}}}\.(?P<kind>new|gone)")


def held(folder: Path) -> IO[bytes]:
    """The lock of a collection; closing it, or the end of this process, lets others in."""
    try:
        lock = (folder / _LOCK).open("ab")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreLockedError(f"{folder} is in use by another process; wait for it or stop it") from error
    except OSError as error:
        raise StoreError(f"can't open {folder}: {error}") from error
    return lock


def put_aside(folder: Path) -> Path:
    """Take a collection out of sight in one step; its new place.

    Raises:
        OSError: it can't be renamed.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:_RANDOM]}.gone")
    return folder.rename(aside)


def delete_folder(folder: Path) -> None:
    """Delete a folder, its lock last; what another process deletes at the same time is no error.

    Raises:
        OSError: something can't be deleted.
    """
    while folder.exists():
        try:
            for item in folder.iterdir():
                if item.is_dir() and not item.is_symlink():
                    shutil.rmtree(item)
                elif item.name != _LOCK:
                    item.unlink()
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue


def all_remains(store: Path) -> list[tuple[Path, str, str]]:
    """What no process is at any more: folder, name of the collection, and what was being done to it."""
    doing = {"new": "made", "gone": "deleted"}
    found = []
    for folder in sorted(store.glob(".*")):
        match = _REMAINS.fullmatch(folder.name)
        if match and folder.is_dir() and not _is_held(folder):
            found.append((folder, match["name"], doing[match["kind"]]))
    return found


def remains(store: Path, name: str) -> list[Path]:
    """The same of one collection."""
    return [folder for folder, of, _ in all_remains(store) if of == name]


def _is_held(folder: Path) -> bool:
    try:
        held(folder).close()
    except StoreError:  # it is held, it is gone by now, or it is another user's
        return True
    return False
