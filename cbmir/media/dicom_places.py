"""Where the DICOM files of this machine are, by the keyed hashes that collections know them by.

It is a file of this user alone, outside of every store, see decision record 0024: a collection that is copied or pushed
takes no path along. Without it the images of a collection are found and compared as before, but not drawn.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cbmir.errors import ImageError, KeyFileError
from cbmir.keyfile import Key
from cbmir.media.asset import Asset
from cbmir.media.dicom_settings import DicomSettings
from cbmir.media.locations import LocalFile, Location, ZipMember
from cbmir.permissions import private
from cbmir.schema import split_keyed

VARIABLE = "CBMIR_DICOM_PLACES"
_TABLE = "create table if not exists place (hash text, path text, member text, primary key (hash, path, member))"


def folder() -> Path:
    """Where the files of places are: the folder that `CBMIR_DICOM_PLACES` names, or one in the user's state."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "cbmir"


def known_checks() -> list[str]:
    """Check values of the keys that files on this machine were ingested with."""
    return sorted(path.stem.removeprefix("dicom-places-") for path in folder().glob("dicom-places-*.sqlite"))


class Places:
    """The places of files by one key.

    Attributes:
        path: The file they are in.
    """

    def __init__(self, key: Key) -> None:
        self.path = folder() / f"dicom-places-{key.check}.sqlite"

    def add(self, found: Iterable[tuple[str, Location]]) -> None:
        """Remember where files are, by their hash.

        Raises:
            KeyFileError: the file can't be written.
        """
        rows = [
            (hash, str(place.path.absolute()), place.member if isinstance(place, ZipMember) else "")
            for hash, place in found
            if isinstance(place, LocalFile | ZipMember)
        ]
        try:
            with private():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self._opened() as database:
                    database.execute(_TABLE)
                    database.executemany("insert or replace into place values (?, ?, ?)", map(_bytes, rows))
        except (OSError, sqlite3.Error) as error:
            raise KeyFileError(f"can't write where DICOM files are to {self.path}: {error}") from error

    def find(self, hash: str) -> list[Location]:
        """Where a file was, those that are there still first.

        Raises:
            KeyFileError: the file can't be read.
        """
        if not self.path.is_file():
            return []
        try:
            with self._opened() as database:
                rows = database.execute("select path, member from place where hash = ?", (hash,)).fetchall()
        except sqlite3.Error as error:
            raise KeyFileError(f"can't read where DICOM files are from {self.path}: {error}") from error
        named = [(Path(os.fsdecode(path)), member) for path, member in rows]
        named.sort(key=lambda place: not place[0].is_file())
        return [ZipMember(path, os.fsdecode(member)) if member else LocalFile(path) for path, member in named]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            yield database


def asset_of(filepath: str, settings: DicomSettings | None) -> Asset:
    """The asset of a stored frame of DICOM.

    Args:
        filepath: As it is stored.
        settings: Of the collection; None or without a key where it isn't at hand.

    Raises:
        ImageError: nobody on this machine knows where its file is.
    """
    named = split_keyed(filepath)
    assert named is not None
    if settings is None or settings.key is None:
        raise ImageError("is a DICOM image, and the key of its collection isn't at hand: its file can't be found")
    found = Places(settings.key).find(named[0])
    if not found:
        raise ImageError(
            "is a DICOM image whose file this machine doesn't know: ingest its folder here with the same key"
        )
    return Asset(found[0], frame=named[1], settings=settings)


def _bytes(row: tuple[str, str, str]) -> tuple[str, bytes, bytes]:
    """Paths may be no Unicode."""
    return row[0], os.fsencode(row[1]), os.fsencode(row[2])
