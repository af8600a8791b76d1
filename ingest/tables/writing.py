"""Tables as CSV files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from cbmir.errors import SourceError, one_line
from cbmir.wholefile import replacing

SUFFIXES = (".csv", ".csv.gz")
ONLY_WHERE_NEEDED = pa_csv.WriteOptions(quoting_style="needed")


def check_suffix(path: Path) -> None:
    """Refuse a table of another format before the work is done.

    Raises:
        SourceError: the path ends in none of `SUFFIXES`.
    """
    if not path.name.endswith(SUFFIXES):
        raise SourceError(f"can't write a table {path}; its name must end in {' or '.join(SUFFIXES)}")


@contextmanager
def written(path: Path) -> Iterator[pa.NativeFile]:
    """A stream whose bytes become the file when all went well; an existing file is replaced then.

    Raises:
        SourceError: the file can't be written, or a text is no Unicode.
    """
    compression = "gzip" if path.suffix == ".gz" else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, pa.output_stream(partial, compression=compression) as stream:
            yield stream
    except (OSError, UnicodeEncodeError, pa.ArrowException) as error:
        raise SourceError(f"can't write the table {path}: {one_line(error)}") from error
