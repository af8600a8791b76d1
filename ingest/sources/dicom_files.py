"""DICOM files at a path, found by their content: in a folder, in a zip archive, by an index of a disc, or one file."""

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cbmir.errors import ImageError, SourceError
from cbmir.ingest.sources.dicom_kinds import reason
from cbmir.ingest.sources.listing import Listing
from cbmir.limits import Limits
from cbmir.media.dicom_header import is_dicom, items, read_header, texts
from cbmir.media.filekind import HEAD_BYTES, named
from cbmir.media.locations import LocalFile, Location, ZipMember
from cbmir.media.remedies import is_hidden, passed_over_as
from cbmir.paths import printable

PICTURES = "pictures and volumes beside DICOM"
"""What other files that could be read are counted as: their names would be stored, and may name patients."""


_TEXTS = (
    ".txt",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".html",
    ".htm",
    ".md",
    ".pdf",
    ".yaml",
    ".yml",
    ".npy",
    ".h5",
    ".gz",
)


@dataclass(slots=True)
class DicomFiles:
    """The DICOM files at a path.

    Attributes:
        places: Where each is, in order.
        ignored: Other files, counted.
        unlisted: Folders that can't be listed.
        missing: Files that an index of a disc names and that aren't there.
    """

    places: list[Location] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: int = 0
    missing: int = 0


def holds_dicom(path: Path) -> bool:
    """Whether a path is DICOM, an archive with some, or a folder with some.

    Of a folder only files are opened whose names are those of DICOM or of nothing that is known: a data set may have a
    million pictures, and as many texts.
    """
    if path.is_dir():
        return any(_begins_as_dicom(file) for file in _likely(path))
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):
        return any(True for _ in _members(path, Counter()))
    return _begins_as_dicom(path)


def find(path: Path, *, links: bool) -> DicomFiles:
    """All DICOM files at a path.

    Raises:
        SourceError: it can't be read.
    """
    found = DicomFiles()
    if path.is_dir():
        listing = Listing(path, _passed, links=links)
        found.places += [LocalFile(path / name) for name in listing.paths]
        found.ignored.update(listing.ignored)
        found.unlisted = len(listing.errors)
    elif zipfile.is_zipfile(path):
        found.places += _members(path, found.ignored)
    elif (index := _index(path)) is not None:
        found.places, found.missing = index
    else:
        found.places.append(LocalFile(path))
    return found


def _likely(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in sorted(files):
            kind = named(name)
            if is_hidden(name) or name.lower().endswith(_TEXTS):
                continue
            if kind is None or kind.has_source:
                yield Path(place, name)


def _passed(path: Path) -> str | None:
    if _begins_as_dicom(path):
        return None
    kind = named(path.name)
    if kind is not None and not kind.has_source:
        return PICTURES
    return f"{path.suffix.lower()} that is no DICOM" if kind is not None else printable(passed_over_as(path))


def _begins_as_dicom(path: Path) -> bool:
    try:
        if not path.is_file():  # to open a pipe would block
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def _members(path: Path, ignored: Counter[str]) -> Iterator[ZipMember]:
    """The DICOM files of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                parts = PurePosixPath(info.filename).parts
                if info.is_dir() or any(is_hidden(part) for part in parts):
                    continue
                if info.flag_bits & 1:
                    raise SourceError("the archive is encrypted: unpack it first")
                with archive.open(info) as file:
                    head = file.read(HEAD_BYTES)
                if is_dicom(head):
                    yield ZipMember(path, info.filename)
                else:
                    kind = named(parts[-1]) if parts else None
                    suffix = PurePosixPath(info.filename).suffix.lower()
                    ignored[PICTURES if kind and not kind.has_source else printable(suffix or "no suffix")] += 1
    except SourceError:
        raise
    except Exception as error:  # a damaged archive raises whatever it likes
        raise SourceError(f"can't read the archive ({type(error).__name__}): unpack it first") from None


def _index(path: Path) -> tuple[list[Location], int] | None:
    """The files that an index of a disc names, and how many of them are missing; None for any other file."""
    limits = Limits.read("image")
    try:
        with path.open("rb") as file:
            header = read_header(file, limits)
    except (ImageError, OSError):
        return None  # that it can't be read is said of the file itself
    if reason(header) != "indexes of discs (DICOMDIR)":
        return None
    found: list[Location] = []
    missing = 0
    for record in items(header.dataset, "DirectoryRecordSequence"):
        parts = [part for part in texts(record, "ReferencedFileID") if part]
        if not parts or any(part in (".", "..") or "/" in part for part in parts):
            continue
        file_path = _spelt(path.parent, parts)
        if file_path is None:
            missing += 1
        else:
            found.append(LocalFile(file_path))
    return list(dict.fromkeys(found)), missing


def _spelt(folder: Path, parts: list[str]) -> Path | None:
    """A file of a disc: names on discs are in upper case, copies of them often are not, or end in ``.`` or ``;1``."""
    for part in parts:
        direct = folder / part
        if direct.exists():
            folder = direct
            continue
        try:
            names = {entry.name.casefold().removesuffix(";1").removesuffix("."): entry for entry in folder.iterdir()}
        except OSError:
            return None
        entry = names.get(part.casefold())
        if entry is None:
            return None
        folder = entry
    return folder if folder.is_file() else None
