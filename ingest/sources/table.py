"""A table of image records: CSV, Parquet or Excel, in any layout that `cbmir.ingest.tables` can tell.

Columns named as payload fields, or by an alias, fill them. Columns of findings, and those whose name has a slash
(``XR/chest/Pneumonia``), are labels and hold 0 or 1. A column ``labels`` holds texts or lists. Any other goes to
``extra``.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cbmir.errors import RecordError, SourceError
from cbmir.ingest.report import Failure
from cbmir.ingest.sources.base import SourceImage, SourceOptions, make_record
from cbmir.ingest.sources.counting import LOOKED_FOR, Counting
from cbmir.ingest.tables.columns import EXTRA, LABEL
from cbmir.ingest.tables.labels import UNCERTAIN, flag_of, label_name
from cbmir.ingest.tables.reading import Reading, reading_of
from cbmir.ingest.tables.rows import SUFFIXES, BrokenRow, TableFile
from cbmir.ingest.tables.survey import survey
from cbmir.ingest.tables.values import json_of, text_of
from cbmir.media import LINKS_TO_FILES, Asset, frame_key, split_key
from cbmir.paths import common_parent, printable
from cbmir.root import LinkError, OutsideError

FORM = f"a table ({', '.join(SUFFIXES)})"
_KEPT = 50_000
"""Rows of a table whose records are kept in memory: about 1 kB each."""
_OFF = ("0", 0, "", None)


def accepts(path: Path, _options: SourceOptions | None = None) -> bool:
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
        ignored: Rows that lead over a symbolic link, where those are passed over; counted anew by each iteration.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._name = printable(path.name)
        self._options = options
        self._root = options.root_of(path.parent)
        self.root = self._root.folder
        self._outside = 0
        self._items: list[SourceImage | Failure] | None = None
        self._ignored: Counter[str] = Counter()
        self.ignored: Mapping[str, int] = self._ignored
        self._file = TableFile(path)
        self._plan = survey(self._file, options.table)
        self.total: int | None = self._plan.rows + self._plan.broken
        if not self.total:
            raise SourceError(f"table {path} has a header and no row")
        names = self._file.names
        self._spellings = options.table.values.get("modality")
        self._path = self._plan.places("filepath")[0]
        self._dataset = self._plan.places("dataset")
        self._flags = [(place, label_name(names[place])) for place in self._plan.places(LABEL)]
        self._extras = [(place, unicodedata.normalize("NFC", names[place])) for place in self._plan.places(EXTRA)]
        self._fields = [(self._plan.places(role)[0], role, _Known(vs)) for role, vs in self._plan.values.items()]

    def __iter__(self) -> Iterator[SourceImage | Failure]:
        """All rows, in order; those that lead over symbolic links are left out where links are passed over."""
        return iter(self._items) if self._items is not None else self._read()

    def _read(self) -> Iterator[SourceImage | Failure]:
        self._outside = 0
        self._ignored.clear()
        for number, row in enumerate(self._file, start=1):
            place = f"{self._name} row {number}"
            item = Failure(row.first, place, row.reason) if isinstance(row, BrokenRow) else self._item(row, place)
            if item is not None:
                yield item

    def reading(self) -> Reading:
        """How the table is read; reads all of it once more to count what comes of it, and keeps the records of a few.

        Raises:
            SourceError: all paths are absolute and lie outside of the root, or reading it goes beyond a limit.
        """
        every = 0 if self._options.uris else max(1, (self.total or 0) // LOOKED_FOR)
        counting = Counting((self._spellings or {}).values(), every)
        with self._file.held():
            if self.total and self.total <= _KEPT:
                self._items = list(self)  # what follows would read the table and make the records once more
            tally = counting.of(self)
        reading = reading_of(self._plan, self._name, tally, self._options.table, counting.about_ids())
        if not self._outside:
            return reading
        many = "absolute path lies" if self._outside == 1 else "absolute paths lie"
        text = f"{self._outside:,} {many} {self._elsewhere}, or --path-prefix OLD=NEW"
        if not tally.images and self._outside == tally.failed:
            raise SourceError(f"{self._name}: {text}")
        return replace(reading, warnings=(*reading.warnings, text))

    def _item(self, cells: Sequence[Any], place: str) -> SourceImage | Failure | None:
        filepath = text_of(cells[self._path])
        try:
            if not filepath:
                raise RecordError("has no filepath")
            given = dict(self._options.constants)
            given.update({role: value for at, role, values in self._fields if (value := values.of(cells[at]))})
            extra = {name: value for at, name in self._extras if (value := json_of(cells[at])) is not None}
            labels = [label for at, splitter in self._plan.splitters.items() for label in splitter(cells[at])]
            labels += self._one_hot(cells, extra)
            file, frame = split_key(filepath)
            found = self._root.place(file)
            key = found.key if frame is None else frame_key(found.key, frame)
            record = make_record(key, self._dataset_of(cells), labels, given, extra, self._spellings)
        except LinkError:
            self._ignored[LINKS_TO_FILES] += 1
            return None
        except OutsideError as error:
            absolute = self._root.absolute(filepath) is not None
            self._outside += absolute
            return Failure(filepath, place, f"lies {self._elsewhere}" if absolute else str(error))
        except RecordError as error:
            return Failure(filepath, place, str(error))
        return SourceImage(record, Asset(found.path, frame=frame), found.former if frame is None else ())

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

    @cached_property
    def _elsewhere(self) -> str:
        """What to do about absolute paths outside of the root; reads the table once more."""
        rows = TableFile(self._file.path)  # the other one is being read
        cells = (row[self._path] for row in rows if not isinstance(row, BrokenRow))
        paths = (path for cell in cells if (path := self._root.absolute(text_of(cell))) is not None)
        return f"outside of the root {self._root.name}: give --root {common_parent(paths)}"
