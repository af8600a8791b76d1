"""What an ingest run did, for people and for programs."""

import csv
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbmir.errors import SourceError
from cbmir.formulas import harmless
from cbmir.ingest.tables.reading import Reading
from cbmir.media import NOTES, Note, noted, passed_over
from cbmir.units import counted, rate

SHOWN = 3
"""Failures that are shown; all are in the file of failures."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that was not stored.

    Attributes:
        filepath: As the source names it.
        place: Where it stands, such as ``table.csv row 17``.
        reason: One line for people.
    """

    filepath: str
    place: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", " ".join(self.reason.split()))  # names of files may hold line breaks


@dataclass(slots=True, repr=False)
class IngestReport:
    """Counts and seconds of one run; read = stored + skipped + failed.

    Attributes:
        collection: Where the images went.
        encoder: Name of the encoder.
        fingerprint: Of the encoder.
        running_on: Device and precision; empty where nothing was encoded.
        read: Items the source gave.
        stored: Images written, new or changed.
        skipped: Images known already, by id, file hash and fingerprint.
        updated: Of the skipped, those whose payload or thumbnail was brought up to date.
        moved: Points that an earlier version stored under another spelling of the path: their images have the id of the
            path's normal form now.
        decoded_again: Images whose file was known, but read otherwise by an earlier decoder, and so embedded again.
        notes: How many images were turned by their EXIF, inverted, or the first of several frames.
        failures: Images that were not stored, each with its reason.
        ignored: Files of a folder without an image suffix, by suffix or as DICOM.
        without_row: Vectors of an embeddings file that no row of a table names.
        seconds: By stage; the stages overlap, ``decode`` is the mean over the workers, ``total`` is the clock.
        interrupted: Whether the run was stopped before the source was read.
        readings: How each table or folder was read.
    """

    collection: str
    encoder: str
    fingerprint: str
    running_on: str = ""
    read: int = 0
    stored: int = 0
    skipped: int = 0
    updated: int = 0
    moved: int = 0
    decoded_again: int = 0
    notes: Counter[Note] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    ignored: Mapping[str, int] = field(default_factory=dict)
    without_row: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    readings: tuple[Reading, ...] = ()

    @property
    def failed(self) -> int:
        """How many images were not stored."""
        return len(self.failures)

    @property
    def bottleneck(self) -> str:
        """The busiest stage: the others waited for it."""
        stages = {name: value for name, value in self.seconds.items() if name not in ("total", "index")}
        return max(stages, key=lambda name: stages[name]) if stages else ""

    @property
    def images_per_s(self) -> float:
        """Images read a second, the final indexing left out."""
        return self.read / self.working_s if self.working_s > 0 else 0.0

    @property
    def working_s(self) -> float:
        """Seconds by the clock, the final indexing left out."""
        return self.seconds.get("total", 0.0) - self.seconds.get("index", 0.0)

    def timed(self, stage: str, work: Callable[[], None]) -> None:
        """Do some last work and add its seconds to the report."""
        started = time.perf_counter()
        work()
        self.seconds[stage] = time.perf_counter() - started
        self.seconds["total"] = self.seconds.get("total", 0.0) + self.seconds[stage]

    def __repr__(self) -> str:
        shown = [f"failed: {item.filepath or item.place}: {item.reason}" for item in self.failures[:SHOWN]]
        more = [f"and {self.failed - SHOWN:,} more in `failures`"] if self.failed > SHOWN else []
        return "\n".join([*self.lines(), *shown, *more])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "collection": self.collection,
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "running_on": self.running_on,
            "read": self.read,
            "stored": self.stored,
            "skipped": self.skipped,
            "updated": self.updated,
            "moved": self.moved,
            "decoded_again": self.decoded_again,
            "notes": {name: self.notes[name] for name in NOTES},
            "failed": self.failed,
            "without_row": self.without_row,
            "ignored": dict(self.ignored),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "bottleneck": self.bottleneck,
            "images_per_s": round(self.images_per_s, 2),
            "interrupted": self.interrupted,
            "reading": [reading.as_json() for reading in self.readings],
            "failures": [{"filepath": f.filepath, "place": f.place, "reason": f.reason} for f in self.failures],
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.collection}: read {self.read:,} = stored {self.stored:,} + skipped {self.skipped:,} "
            f"+ failed {self.failed:,}" + (f" ({self.updated:,} of the skipped updated)" if self.updated else "")
        ]
        if self.moved:
            lines.append(
                f"moved {counted(self.moved, 'point')} of an earlier cbmir, which kept the spelling of paths: "
                "each image has the id of its path's normal form now"
            )
        if self.decoded_again:
            lines.append(
                f"embedded again, as an earlier cbmir read them otherwise: {counted(self.decoded_again, 'known file')}"
            )
        lines += noted(self.notes)
        if self.without_row:
            lines.append(f"left out, without a row in a table: {counted(self.without_row, 'vector')}")
        said = {note for reading in self.readings for note in reading.notes}
        lines += [line for line in passed_over(self.ignored) if line not in said]
        if self.stored and self.running_on:
            lines.append(f"{self.encoder} ran on {self.running_on}")
        stages = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items() if name != "total")
        speed = rate(self.read, self.working_s, "image")
        lines.append(
            ", ".join(
                filter(
                    None,
                    (
                        f"{stages}; {self.seconds.get('total', 0.0):.1f} s in all",
                        speed,
                        f"bottleneck: {self.bottleneck}",
                    ),
                )
            )
        )
        return lines


def write_failures(failures: list[Failure], path: Path) -> None:
    """Write a CSV of the images that were not stored, with place and reason.

    Raises:
        SourceError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(("filepath", "place", "reason"))
            writer.writerows(harmless((item.filepath, item.place, item.reason)) for item in failures)
    except OSError as error:
        raise SourceError(f"can't write the failures to {path}: {error.strerror}") from error
