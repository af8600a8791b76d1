"""A table of image records: CSV, Parquet or Excel, in any layout that `ingest.tables` can tell.

Columns named as payload fields, or by an alias, fill them. Columns of findings, and those whose name has a slash
(``XR/chest/Pneumonia``), are labels and hold 0 or 1. A column ``labels`` holds texts or lists. Any other goes to
``extra``.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cbmir.errors import RecordError
from ingest.sources.base import Failure, SourceImage, SourceOptions, located, make_record, printable, tally_of
from ingest.tables.columns import EXTRA, LABEL
from ingest.tables.labels import UNCERTAIN, flag_of, label_name
from ingest.tables.reading import Reading, reading_of
from ingest.tables.rows import SUFFIXES, BrokenRow, TableFile
from ingest.tables.survey import survey
from ingest.tables.values import json_of, text_of

FORM = f"a table ({', '.join(SUFFIXES)})"
_OFF = ("0", 0, "", None)


def accepts(path: Path) -> bool:
    """Whether the path looks like a table."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def read(path: Path, options: SourceOptions) -> "TableSource":
    """Open a table and read it once, to see what its columns are.

    Raises:
        SourceError: it can't be read, has no column of file paths, a column twice or two for one field, or quotes that
            swallow rows.
    """
    return TableSource(path, options)


class _Known(dict[str, str | None]):
    """Values by cell as it stands in the file, made from the values by text as they are asked for.

    Args:
        values: By text.
    """

    def __init__(self, values: Mapping[str, str | None]) -> None:
        self._values = values

    def of(self, cell: Any) -> str | None:
        """The value of a cell, None where it is missing or can't be read."""
        return self[cell] if isinstance(cell, str) else self._values.get(text_of(cell))

    def __missing__(self, cell: str) -> str | None:
        self[cell] = value = self._values.get(text_of(cell))
        return value


class TableSource:
    """The rows of one table.

    Attributes:
        root: Folder that file paths are relative to.
        total: Rows.
        ignored: Always empty.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._name = printable(path.name)
        self._options = options
        self.root = options.root or path.parent
        self.ignored: Mapping[str, int] = {}
        self._file = TableFile(path)
        self._plan = survey(self._file, options.table)
        self.total: int | None = self._plan.rows + self._plan.broken
        names = self._file.names
        self._spellings = options.table.values.get("modality")
        self._path = self._plan.places("filepath")[0]
        self._dataset = self._plan.places("dataset")
        self._flags = [(place, label_name(names[place])) for place in self._plan.places(LABEL)]
        self._extras = [(place, unicodedata.normalize("NFC", names[place])) for place in self._plan.places(EXTRA)]
        self._fields = [(self._plan.places(role)[0], role, _Known(vs)) for role, vs in self._plan.values.items()]

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All rows, in order."""
        for number, row in enumerate(self._file, start=1):
            place = f"{self._name} row {number}"
            yield Failure(row.first, place, row.reason) if isinstance(row, BrokenRow) else self._item(row, place)

    def reading(self) -> Reading:
        """How the table is read; reads all of it once more to count what comes of it."""
        return reading_of(self._plan, self._name, tally_of(self), self._options.table)

    def _item(self, cells: Sequence[Any], place: str) -> SourceImage | Failure:
        filepath = text_of(cells[self._path])
        try:
            if not filepath:
                raise RecordError("has no filepath")
            given = dict(self._options.constants)
            given.update({role: value for at, role, values in self._fields if (value := values.of(cells[at]))})
            extra = {name: value for at, name in self._extras if (value := json_of(cells[at])) is not None}
            labels = [label for at, splitter in self._plan.splitters.items() for label in splitter(cells[at])]
            labels += self._one_hot(cells, extra)
            key, path = self._found(filepath)
            record = make_record(key, self._dataset_of(cells), labels, given, extra, self._spellings)
        except RecordError as error:
            return Failure(filepath, place, str(error))
        return SourceImage(record, path)

    def _dataset_of(self, cells: Sequence[Any]) -> str:
        said = unicodedata.normalize("NFC", text_of(cells[self._dataset[0]])) if self._dataset else ""
        return said or self._options.dataset or self._name.partition(".")[0]

    def _one_hot(self, cells: Sequence[Any], extra: dict[str, Any]) -> list[str]:
        """The label columns that hold 1; what is uncertain goes where the user wants it."""
        labels, unsure = [], []
        for place, name in self._flags:
            if cells[place] in _OFF:  # nearly all of them, and a table may have hundreds of these columns
                continue
            flag = flag_of(text_of(cells[place]))
            if flag is None:
                raise RecordError(f"label {name} is {text_of(cells[place])!r}, not 0, 1, -1, yes, no or blank")
            if flag == "1" or (flag == UNCERTAIN and self._options.table.uncertain == "positive"):
                labels.append(name)
            elif flag == UNCERTAIN and self._options.table.uncertain == "omit":
                unsure.append(name)
        if unsure:
            extra["uncertain"] = unsure
        return labels

    def _found(self, filepath: str) -> tuple[str, Path]:
        """Key and file of an image.

        Absolute paths below the root are made relative, so that moving the data changes no id.
        """
        path = Path(filepath)
        if path.is_absolute() and path.is_relative_to(self.root.absolute()):
            filepath = path.relative_to(self.root.absolute()).as_posix()
        filepath = located(self.root, filepath)
        return filepath, self.root / filepath
