"""The JSON file that says what the files beside it are; it is written last, and without it they are nothing whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from cbmir import __version__
from cbmir.collections.seals import Seal, seals_in
from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard
from cbmir.textfile import NOT_READ, read_text
from cbmir.wholefile import replacing


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of manifest.

    Attributes:
        name: Of the file.
        format: What the file calls itself.
        version: The only one that is read.
        thing: What the folder is then.
        command: That writes it.
    """

    name: str
    format: str
    version: int
    thing: str
    command: str

    def write(self, folder: Path, data: Mapping[str, Any]) -> None:
        """Write the file, in one step.

        Raises:
            OSError: it can't be written.
        """
        head = {"format": self.format, "version": self.version, "created_by": f"cbmir {__version__}"}
        text = json.dumps({**head, **data}, indent=2, ensure_ascii=False) + "\n"
        with replacing(folder / self.name) as partial:
            partial.write_text(text, encoding="utf-8")

    def read(self, folder: Path) -> dict[str, Any]:
        """What the file says.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path = folder / self.name
        try:
            data = json.loads(read_text(path))
        except FileNotFoundError as error:
            raise SourceError(f"{folder} is no {self.thing}: it has no {self.name}, which is written last") from error
        except NOT_READ as error:
            raise SourceError(f"can't read {path}: {error}") from error
        if not isinstance(data, dict) or data.get("format") != self.format:
            raise SourceError(f"{path} was not written by `{self.command}`")
        if data.get("version") != self.version:
            raise SourceError(
                f"{path} has version {data.get('version')}, this cbmir reads {self.version}: update cbmir"
            )
        return data


BACKUP = Form("backup.json", "cbmir-backup", 1, "backup", "cbmir collections snapshot")
EXPORT = Form("collection.json", "cbmir-export", 1, "export", "cbmir collections export")

Kind = Literal["directory", "server"]


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """What a backup holds.

    Attributes:
        kind: Of the store it was taken from, which is the kind it can be put back into.
        engine: What wrote the files, with its version.
        collection: The collection's own name.
        aliases: That lead to it, on a server.
        card: Its encoder.
        points: Images.
        files: The files beside it, by name; of a server one a node, in the order the nodes were named.
        created: In UTC, ISO 8601.
    """

    kind: Kind
    engine: str
    collection: str
    aliases: tuple[str, ...]
    card: EncoderCard
    points: int
    files: Mapping[str, Seal]
    created: str

    def write(self, folder: Path) -> None:
        """Write the file, in one step."""
        data = {
            "created": self.created,
            "kind": self.kind,
            "engine": self.engine,
            "collection": self.collection,
            "aliases": list(self.aliases),
            "encoder": self.card.as_json(),
            "fingerprint": self.card.fingerprint,
            "points": self.points,
            "files": {name: asdict(seal) for name, seal in self.files.items()},
        }
        BACKUP.write(folder, data)

    @classmethod
    def read(cls, folder: Path) -> "BackupManifest":
        """The manifest of a backup.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path, data = folder / BACKUP.name, BACKUP.read(folder)
        try:
            made = cls(
                data["kind"],
                str(data["engine"]),
                str(data["collection"]),
                tuple(map(str, data["aliases"])),
                EncoderCard.from_json(data["encoder"]),
                int(data["points"]),
                seals_in(data["files"]),
                str(data["created"]),
            )
        except NOT_READ as error:
            raise SourceError(f"{path} is damaged ({error!r})") from error
        if made.kind not in get_args(Kind) or made.card.fingerprint != data.get("fingerprint") or not made.files:
            raise SourceError(f"{path} is damaged: its parts don't fit together")
        return made


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What an export holds.

    Attributes:
        collection: Name of the collection that was exported.
        card: Its encoder.
        count: Images in the export.
        filter: The conditions that chose them; none for all images.
        files: The files beside it, by name.
        metadata: What the collection remembers of its sources; empty in an export of an earlier version.
    """

    collection: str
    card: EncoderCard
    count: int
    filter: Sequence[str]
    files: Mapping[str, Seal]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the file, in one step."""
        data = {
            "collection": self.collection,
            "encoder": self.card.as_json(),
            "fingerprint": self.card.fingerprint,
            "count": self.count,
            "filter": list(self.filter),
            "metadata": {**self.metadata, **self.card.notes()},
            "files": {name: asdict(seal) for name, seal in self.files.items()},
        }
        EXPORT.write(folder, data)

    @classmethod
    def read(cls, folder: Path) -> "ExportManifest":
        """The manifest of an export.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path, data = folder / EXPORT.name, EXPORT.read(folder)
        try:
            known = dict(data.get("metadata") or {})
            card = EncoderCard.from_json(data["encoder"]).noted(known)
            files = seals_in(data["files"])
            made = cls(str(data["collection"]), card, int(data["count"]), list(data["filter"]), files, known)
        except NOT_READ as error:
            raise SourceError(f"{path} is damaged ({error!r})") from error
        if card.fingerprint != data.get("fingerprint"):
            raise SourceError(f"{path} is damaged: its encoder doesn't have the fingerprint that stands beside it")
        return made


def now() -> str:
    """This second in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
