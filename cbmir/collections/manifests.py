"""The JSON file that says what the files beside it are; it is written last, and without it they are nothing whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbmir import __version__
from cbmir.errors import SourceError
from cbmir.textfile import NOT_READ, read_text


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
        partial = folder / f"{self.name}.partial"
        partial.unlink(missing_ok=True)  # and "x": a link that somebody has put there is not followed
        with partial.open("x", encoding="utf-8") as file:
            file.write(json.dumps({**head, **data}, indent=2, ensure_ascii=False) + "\n")
        partial.replace(folder / self.name)

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
