"""``collection.json`` of an export: what the files beside it are, and their checksums. It is written last."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cbmir.collections.manifests import Form
from cbmir.collections.seals import Seal, seals_in
from cbmir.errors import SourceError
from cbmir.fingerprint import EncoderCard
from cbmir.textfile import NOT_READ

FORM = Form("collection.json", "cbmir-export", 1, "export", "cbmir collections export")
NAME = FORM.name


@dataclass(frozen=True, slots=True)
class Manifest:
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
        FORM.write(folder, data)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of an export.

        Raises:
            SourceError: it is missing, damaged, of something else, or of a later version.
        """
        path, data = folder / NAME, FORM.read(folder)
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
