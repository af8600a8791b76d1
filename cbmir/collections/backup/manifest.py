"""``backup.json``: what a backup holds, of what, and the seals of its files. It is written last."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from cbmir.collections.manifests import Form
from cbmir.collections.seals import Seal, seals_in
from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard
from cbmir.textfile import NOT_READ

FORM = Form("backup.json", "cbmir-backup", 1, "backup", "cbmir collections snapshot")
NAME = FORM.name

Kind = Literal["directory", "server"]


@dataclass(frozen=True, slots=True)
class Manifest:
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
        FORM.write(folder, data)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a backup.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path, data = folder / NAME, FORM.read(folder)
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


def now() -> str:
    """This second in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
