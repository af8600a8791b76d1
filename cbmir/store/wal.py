"""The write-ahead log of the embedded engine, read without the engine, where that can't read it.

A log is files ``closed-N`` and then ``open-N``: a head of 8 bytes, then entries of 8 bytes of length, CBOR, padding to
4 bytes less than a multiple of 8, and a checksum. The checksum depends on the engine and isn't compared: whoever uses
the points checks their ids and vectors.
"""

import re
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbmir.schema import Payload
from cbmir.store.cbor import decode

_HEAD = 8
_LENGTH = struct.Struct("<Q")
_NAME = re.compile(r"(closed|open)-(\d+)")


@dataclass(slots=True)
class Log:
    """What a log says of points; it holds the last writes, some of which are in the segments too.

    Attributes:
        points: Payload and vector of what was written last, None of what was deleted, by id.
        changes: Payload fields that were set of points that the log doesn't hold, by id.
        unread: What can't be read, a line each.
    """

    points: dict[str, tuple[Payload, list[float]] | None] = field(default_factory=dict)
    changes: dict[str, Payload] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def read_log(folder: Path) -> Log:
    """Read all that can be read of a log; a folder that isn't there holds nothing."""
    log = Log()
    for path in _files(folder):
        try:
            data = path.read_bytes()
        except OSError as error:
            log.unread.append(f"{path.name} of the log: {error.strerror}")
            continue
        for number, entry in enumerate(_entries(path.name, data, log), start=1):
            try:
                _apply(decode(entry), log)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.unread.append(f"entry {number} in {path.name} of the log: {error}")
    return log


def _files(folder: Path) -> list[Path]:
    found = [(match, path) for path in folder.glob("*-*") if (match := _NAME.fullmatch(path.name)) and path.is_file()]
    return [path for match, path in sorted(found, key=lambda item: (item[0][1], int(item[0][2])))]


def _entries(name: str, data: bytes, log: Log) -> Iterator[bytes]:
    if data[:3] != b"wal":
        log.unread.append(f"{name} of the log is none")
        return
    at = _HEAD
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        start = at + _LENGTH.size
        if not length:
            return
        if start + length > len(data):
            log.unread.append(f"{name} of the log breaks off after {at:,} bytes")
            return
        yield data[start : start + length]
        at = start + length + (4 - length % 8) % 8 + 4


def _apply(operation: Mapping[str, Any], log: Log) -> None:
    ((kind, what),) = operation.items()
    if kind == "upsert_points":
        for point in what["points"]:
            log.points[_id(point["id"])] = (dict(point["payload"] or {}), point["vector"])
            log.changes.pop(_id(point["id"]), None)
    elif kind == "delete_points":
        for id in what["ids"]:
            log.points[_id(id)] = None
    elif kind == "set_payload" and what.get("key") is None and what.get("points"):
        for id in what["points"]:
            held = log.points.get(_id(id))
            (held[0] if held else log.changes.setdefault(_id(id), {})).update(what["payload"])
    elif kind != "create_index":
        raise ValueError(f"the operation {kind}")


def _id(id: Any) -> str:
    return str(uuid.UUID(bytes=id) if isinstance(id, bytes) else uuid.UUID(id))
