"""Text tables as programs and spreadsheets write them: encoding, separator, and quotes that can't be trusted.

A quote that is opened and never closed makes a reader take all rows up to the next quote for one cell. Such a table is
refused here with the number of the line. Whatever is not refused is counted, a line each.
"""

import csv
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, AnyStr

from cbmir.errors import SourceError
from cbmir.limits import Limits
from cbmir.unpacking import LimitedGzip

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
MAX_LINE = 16_000_000
"""Characters of one line; 50,000 columns of 300 characters have as many."""
_HEAD_BYTES = 1 << 16
_SEPARATORS = (",", ";", "\t", "|")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_FILES = frozenset(
    (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".nii", ".gz")
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text table is written.

    Attributes:
        encoding: By Python's name.
        separator: Between cells.
        hint: Whether the first line is Excel's ``sep=;`` and no row.
    """

    encoding: str
    separator: str
    hint: bool

    @property
    def words(self) -> str:
        """For people."""
        encoding = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252, as it is not UTF-8"}
        name = encoding.get(self.encoding, self.encoding.upper())
        return f"{name}, separated by {'tabs' if self.separator == chr(9) else self.separator}"


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it stands in the file.

    Attributes:
        number: Of its first line, from 1.
        cells: Empty where it can't be read.
        reason: Why it can't be read, else empty.
    """

    number: int
    cells: list[str]
    reason: str = ""


def sniff(path: Path, limits: Limits) -> Dialect:
    """Find out how a table is written, from its first lines; whether it is UTF-8, from all of them.

    Raises:
        SourceError: it has more bytes than the limit, or a line of over `MAX_LINE`.
        OSError, EOFError, zlib.error: it can't be read.
    """
    with _binary(path, limits) as file:
        head = file.read(_HEAD_BYTES)
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    encoding = marked or _without_mark(path, head, limits)
    text = head.decode("utf-8" if encoding == "utf-8-sig" else encoding, "replace").lstrip("\ufeff")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    hint = re.fullmatch(r'"?sep=(.)"?', lines[0].strip(" \r\n")) if lines else None
    if hint:
        return Dialect(encoding, hint[1], hint=True)
    first = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    usual = "\t" if ".tsv" in path.name.lower() else ","
    best = max(_SEPARATORS, key=lambda sign: (first.count(sign), sign == usual))
    return Dialect(encoding, best if first.count(best) else usual, hint=False)


def lines_of(path: Path, dialect: Dialect, limits: Limits) -> Iterator[Line]:
    """The header and the rows of a text table; empty lines are passed over.

    Raises:
        SourceError: a quote swallows rows, a line has over `MAX_LINE` characters, or all have more bytes than the
            limit.
        OSError, EOFError, UnicodeError, zlib.error: it breaks off.
    """
    with (
        _binary(path, limits) as binary,
        io.TextIOWrapper(binary, dialect.encoding, errors="surrogateescape", newline="") as file,
    ):
        yield from _Reader(path, dialect).lines(_bounded(path, file))


class _Reader:
    def __init__(self, path: Path, dialect: Dialect) -> None:
        self._path = path
        self._separator = dialect.separator
        self._hint = dialect.hint
        self._taken: list[str] = []
        self._width = 0
        self._seen = 0

    def lines(self, file: Iterable[str]) -> Iterator[Line]:
        reader = csv.reader(self._remembered(file), delimiter=self._separator, strict=True)
        if self._hint:
            next(reader, None)
        while True:
            self._taken.clear()
            start = self._seen + 1
            try:
                cells, reason = next(reader), ""
                "".join(cells).encode()
            except StopIteration:
                return
            except csv.Error as error:
                if len(self._taken) > 1:
                    raise self._refusal(start, str(error)) from error
                cells, reason = [], f"can't be read: {error}, in line {start}"
            except UnicodeEncodeError:
                cells, reason = [], "is not UTF-8 text"
            if len(self._taken) > 1 and self._swallowed(cells):
                raise self._refusal(start, "the lines after it look like rows of their own")
            if cells or reason:
                self._width = self._width or len(cells)
                yield Line(start, cells, reason)

    def _remembered(self, file: Iterable[str]) -> Iterator[str]:
        for line in file:
            self._seen += 1
            self._taken.append(line)
            yield line

    def _swallowed(self, cells: list[str]) -> bool:
        """Whether a row of several lines is more than one: its first line and a later one are full rows by themselves.

        A full row has as many cells as the header, one of them a file name. A text of several lines in quotes passes,
        even one full of separators, because its row names one file only. Where nothing ends as file names do, the
        number of cells alone decides.
        """
        if not self._width:
            return False  # the header
        first, *others = (self._naive(line) for line in self._taken)
        endings = {_suffix(piece) for piece in first} - {""}
        files = endings | _FILES
        named = any(re.search(r"\.[A-Za-z][A-Za-z0-9]{1,5}$", text) for text in (*cells, *first))

        def full(pieces: list[str]) -> bool:
            return len(pieces) >= self._width and (not named or any(_suffix(piece) in files for piece in pieces))

        return full(first) and any(map(full, others))

    def _naive(self, line: str) -> list[str]:
        return [piece.replace('"', "").strip() for piece in line.split(self._separator)]

    def _refusal(self, start: int, why: str) -> SourceError:
        return SourceError(
            f"table {self._path}: the quote that is opened in line {start} takes {len(self._taken):,} lines for one "
            f"row ({why}); close it, remove it, or double it inside a quoted cell"
        )


def _suffix(text: str) -> str:
    found = re.search(r"[^\s.](\.[A-Za-z][A-Za-z0-9]{1,5})$", text)
    return found[1].lower() if found else ""


@contextmanager
def _binary(path: Path, limits: Limits) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        packed = path.suffix.lower() == ".gz"
        yield LimitedGzip(file, limits, f"table {path} ") if packed else file  # type: ignore[misc]  # reads


def _bounded(path: Path, file: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines of a file.

    Raises:
        SourceError: one has over `MAX_LINE` characters or bytes.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise SourceError(f"table {path}: line {number:,} is longer than {MAX_LINE:,} characters, the limit")
        yield line


def _without_mark(path: Path, head: bytes, limits: Limits) -> str:
    """The encoding of a table without a byte order mark: UTF-16 by its zeros, Windows-1252 where nothing is UTF-8."""
    sample = head[:1000]
    if sample.count(0) > len(sample) // 4:
        return "utf-16-le" if sample[1::2].count(0) >= sample[::2].count(0) else "utf-16-be"
    good = bad = 0
    western = True
    with suppress(OSError, EOFError, zlib.error), _binary(path, limits) as file:  # reading it will say so
        for line in _bounded(path, file):
            if line.isascii():
                continue
            try:
                line.decode()
                good += 1
            except UnicodeDecodeError:
                bad += 1
                western = western and not any(byte in line for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D))
    if bad and not good:
        return "cp1252" if western else "latin-1"
    return "utf-8-sig"
