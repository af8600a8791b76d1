"""The files of a data set on disk, from one walk: asking for 300,000 files one by one takes longer."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from cbmir.errors import SourceError, one_line
from cbmir.limits import Limits
from cbmir.media import is_hidden


@dataclass(frozen=True)
class Tree:
    """A folder and all files below it that aren't hidden or made by an operating system.

    Attributes:
        folder: Where the data set lies, or a folder above it.
        files: Paths relative to the folder, with ``/``.
    """

    folder: Path
    files: frozenset[str]

    @classmethod
    def walk(cls, folder: Path) -> Self:
        """List a folder; linked folders are followed, each once.

        Raises:
            SourceError: it, or a folder below it, can't be listed.
        """
        try:
            return cls(folder, frozenset(_files(str(folder), "", {os.path.realpath(folder)})))
        except OSError as error:
            raise SourceError(f"can't list {error.filename}: {error.strerror}") from error

    def find(self, *names: str, beside: str | None = None) -> str:
        """The path of a list, by its file name or that with ``.gz``; the one nearest the top.

        Args:
            names: Names the publishers gave it; the first that is there counts.
            beside: Path of another list that must lie in the same folder.

        Raises:
            SourceError: there is none, or one each in several folders.
        """
        found = self.search(*names, beside=beside)
        if found is None:
            where = f"in {self.folder / _parent(beside)}" if beside is not None else f"below {self.folder}"
            raise SourceError(f"no {' or '.join(names)} (or with .gz) {where}")
        return found

    def search(self, *names: str, beside: str | None = None) -> str | None:
        """As `find`, None where there is none."""
        wanted = [name + ending for name in names for ending in ("", ".gz")]
        here = [path for path in self.files if path.endswith(tuple(wanted)) and _name(path) in wanted]
        if beside is not None:
            here = [path for path in here if _parent(path) == _parent(beside)]
        if not here:
            return None
        top = min(path.count("/") for path in here)
        nearest = sorted((path for path in here if path.count("/") == top), key=lambda path: wanted.index(_name(path)))
        folders = sorted({_parent(path) for path in nearest})
        if len(folders) > 1:
            raise SourceError(f"{_name(nearest[0])} lies in {' and in '.join(folders)} of {self.folder}; give one")
        return nearest[0]

    def read(self, path: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
        """A list as texts, blanks as empty ones.

        Args:
            path: Relative to the folder.
            columns: Those that must be there.
            optional: Those that may be.

        Raises:
            SourceError: it can't be read, lacks a column, or goes beyond a limit.
        """
        file = self.folder / path
        try:
            with Limits.read("table").held(f"table {file} "):
                there = list(pd.read_csv(file, nrows=0, encoding="utf-8-sig").columns)
                wanted = [name for name in there if name in columns or name in optional]
                frame = pd.read_csv(
                    file, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig", usecols=wanted
                )
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise SourceError(f"can't read {file}: {one_line(error)}") from error
        missing = [name for name in columns if name not in there]
        if missing:
            raise SourceError(f"{file} has no column {', '.join(missing)}; its columns are {', '.join(there)}")
        return frame.fillna("")

    def lines(self, path: str) -> list[str]:
        """The lines of a text list that aren't blank, as `read_lines`."""
        return read_lines(self.folder / path)

    def locate(self, listed: Iterable[str], beside: str) -> list[str | None]:
        """The files of listed paths, relative to the folder; None where there is none.

        Lists name files from the folder that holds the data set, whose name users change: a file is also found without
        the first part of its path.

        Args:
            listed: Paths as the list names them.
            beside: The list; its folder is tried before the top.
        """
        starts = tuple(dict.fromkeys((_start(beside), "")))

        def one(path: str) -> str | None:
            forms = (start + form for form in (path, path.partition("/")[2]) for start in starts)
            return next((form for form in forms if form in self.files), None)

        return [one(path) for path in listed]

    def by_name(self, beside: str, suffix: str) -> dict[str, str]:
        """The files below the folder of a list, by file name.

        Raises:
            SourceError: two have the same name.
        """
        start = _start(beside)
        found: dict[str, str] = {}
        for path in self.files:
            if path.endswith(suffix) and path.startswith(start):
                other = found.setdefault(_name(path), path)
                if other != path:
                    first, second = sorted((other, path))
                    raise SourceError(f"{self.folder} holds {first} and {second}: which is meant? Move one set away")
        return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that aren't blank, without the space around them.

    Raises:
        SourceError: it can't be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"can't read {path}: {one_line(error)}") from error


def _files(folder: str, start: str, followed: set[str]) -> Iterator[str]:
    """All files below a folder but hidden ones; `followed` holds the targets of links, so that a loop of links ends."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):  # copies in a waste bin, thumbnails of a NAS
                continue
            if not entry.is_dir():
                yield start + entry.name
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target in followed:
                    continue
                followed.add(target)
            yield from _files(entry.path, f"{start}{entry.name}/", followed)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _start(path: str) -> str:
    """The folder of a path as the start of others: empty at the top, else ending in ``/``."""
    return path[: len(path) - len(_name(path))]
