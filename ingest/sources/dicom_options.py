"""How a source of DICOM is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cbmir.errors import KeyFileError, SourceError
from cbmir.ingest.sources.dicom_kinds import OPTIONAL
from cbmir.keyfile import Key, default_place, make_key, read_key
from cbmir.media.dicom_places import known_checks
from cbmir.media.dicom_regions import Rules
from cbmir.media.dicom_settings import DicomSettings
from cbmir.smalltable import read_small_table

Take = Literal["auto", "dicom", "pictures"]
FRAMES = ("all", "key")


@dataclass(frozen=True, slots=True)
class DicomOptions:
    """How a source of DICOM is read.

    Attributes:
        window: Of the images, see `DicomSettings`.
        key_file: Where the key is; the usual place unless given.
        frames: Of files with several images: ``all``, ``key`` (the one that the header names, else the middle one) or a
            number n for every n-th.
        include: Of `OPTIONAL`, what is taken although it is passed over otherwise.
        derived: Whether slices that were computed of others are taken.
        rules: Words for regions, before those of the table.
        aliases: Patient ids that were merged, and what each is now.
        labels: Table of labels and splits, joined on an identifier; None without.
        labels_by: On which, see `cbmir.ingest.privacy.labels`; the narrowest that the table has unless given.
        take: What of a folder is taken: DICOM where there is any, or one of both.
        dry: Whether nothing is to be written, not even a key.

    Raises:
        SourceError: there is no such window, frames or kind.
    """

    window: str = "auto"
    key_file: Path | None = None
    frames: str = "all"
    include: frozenset[str] = frozenset()
    derived: bool = True
    rules: Rules = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    labels: Path | None = None
    labels_by: str | None = None
    take: Take = "auto"
    dry: bool = False

    def __post_init__(self) -> None:
        DicomSettings(self.window)
        if self.frames not in FRAMES and not (self.frames.isdigit() and 0 < int(self.frames) < 10**6):
            raise SourceError(f"no frames {self.frames!r}: give all, key, or a number n for every n-th frame")
        if unknown := self.include - OPTIONAL.keys():
            raise SourceError(f"can't include {', '.join(sorted(unknown))}; there are {', '.join(OPTIONAL)}")

    def wanted(self, count: int, key_frame: int | None) -> range:
        """Numbers of the frames to take, from 1.

        Args:
            count: Frames of the file.
            key_frame: The one that stands for all by its header.
        """
        if self.frames == "key":
            number = key_frame if key_frame is not None and 1 <= key_frame <= count else (count + 1) // 2
            return range(number, number + 1)
        return range(1, count + 1, 1 if self.frames == "all" else int(self.frames))


def settings_of(options: DicomOptions) -> tuple[DicomSettings, str]:
    """How files are read, with the key; where there is none yet, it is made.

    Returns:
        The settings, and what to tell the user of a key that was made; empty where it was there.

    Raises:
        KeyFileError: the key can't be read or made, or is lost: files of this machine were ingested with one.
    """
    place = options.key_file or default_place()
    key = read_key(place)
    if key is not None:
        return DicomSettings(options.window, key, options.rules), ""
    if known := known_checks():
        raise KeyFileError(
            f"there is no key file {place}, and DICOM of this machine was ingested with the key of check value "
            f"{' or '.join(known)}: restore it from your copy, or name it with --dicom-key FILE. To begin anew with "
            "another key, which makes other ids, move the files dicom-places-*.sqlite away first"
        )
    if options.dry:
        return DicomSettings(options.window, Key(b"\0" * 32), options.rules), f"the key {place} would be made"
    key = make_key(place)
    return DicomSettings(options.window, key, options.rules), (
        f"made the key of DICOM identifiers {place} (check value {key.check}). Keep a copy of it in a safe place: "
        "without it the same patients get other ids, and cbmir refuses to add to this collection"
    )


def read_aliases(path: Path) -> dict[str, str]:
    """Patient ids that were merged: a CSV with the columns ``old`` and ``new``.

    Raises:
        SourceError: the file can't be read, lacks a column or a value, merges an id into two, or goes in a circle.
    """
    pairs: dict[str, str] = {}
    for number, row in enumerate(read_small_table(path, ("old", "new"), "patient ids"), 1):
        if not (row["old"] and row["new"]):
            raise SourceError(f"{path} row {number}: an old or a new patient id is missing")
        if pairs.setdefault(row["old"], row["new"]) != row["new"]:
            raise SourceError(f"{path} row {number}: its old patient id was merged into another one before")
    found = {}
    for old in pairs:
        new, steps = pairs[old], 0
        while new in pairs and pairs[new] != new:
            new, steps = pairs[new], steps + 1
            if steps > len(pairs):
                raise SourceError(f"{path}: patient ids lead in a circle")
        found[old] = new
    return found
