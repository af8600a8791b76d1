"""``collection.json`` of an export: what the files beside it are, and their checksums. It is written last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cbmir import __version__
from cbmir.collections.seals import Seal
from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard

NAME = "collection.json"
FORMAT = "cbmir-export"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export holds.

    Attributes:
        collection: Name of the collection that was exported.
        card: Its encoder.
        count: Images in the export.
        filter: The conditions that chose them; none for all images.
        files: The files beside it, by name.
    """

    collection: str
    card: EncoderCard
    count: int
    filter: Sequence[str]
    files: Mapping[str, Seal]

    def write(self, folder: Path) -> None:
        """Write the file, in one step."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "created_by": f"cbmir {__version__}",
            "collection": self.collection,
            "encoder": self.card.as_json(),
            "fingerprint": self.card.fingerprint,
            "count": self.count,
            "filter": list(self.filter),
            "files": {name: asdict(seal) for name, seal in self.files.items()},
        }
        partial = folder / f"{NAME}.partial"
        partial.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(folder / NAME)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of an export.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path = folder / NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SourceError(f"{folder} is no export: it has no {NAME}, which is written last") from error
        except (OSError, ValueError) as error:
            raise SourceError(f"can't read {path}: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise SourceError(f"{path} was not written by `cbmir collections export`")
        if data.get("version") != VERSION:
            raise SourceError(f"{path} has version {data.get('version')}, this cbmir reads {VERSION}: update cbmir")
        try:
            card = EncoderCard.from_json(data["encoder"])
            files = {name: Seal(str(seal["sha256"]), int(seal["bytes"])) for name, seal in data["files"].items()}
            made = cls(str(data["collection"]), card, int(data["count"]), list(data["filter"]), files)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(f"{path} is damaged ({error!r})") from error
        if card.fingerprint != data.get("fingerprint"):
            raise SourceError(f"{path} is damaged: its encoder doesn't have the fingerprint that stands beside it")
        return made
