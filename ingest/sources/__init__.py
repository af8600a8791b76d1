"""Sources of image records: each module here that has `accepts` and `read` is one."""

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from cbmir.errors import SourceError
from cbmir.ingest.sources.base import ReadSource, Source, SourceImage, SourceOptions
from cbmir.ingest.tables.columns import GIVEN_FIELDS
from cbmir.media import HEAD_BYTES, remedy

__all__ = ["GIVEN_FIELDS", "ReadSource", "Source", "SourceImage", "SourceOptions", "open_source"]


class _Reader(Protocol):
    FORM: str

    def accepts(self, path: Path, options: SourceOptions) -> bool: ...

    def read(self, path: Path, options: SourceOptions) -> ReadSource: ...


def open_source(path: Path, options: SourceOptions | None = None) -> ReadSource:
    """The source of image records at a path.

    Raises:
        SourceError: there is nothing, or nothing that any source reads.
    """
    readers = _readers()
    options = options or SourceOptions()
    try:
        path.stat()
        for reader in readers:
            if reader.accepts(path, options):
                return reader.read(path, options)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(f"no source {path}") from error
    except OSError as error:  # too long, a loop of links, not allowed
        raise SourceError(f"can't read the source {path}: {error.strerror}") from error
    if text := remedy(path, _head(path)):
        raise SourceError(f"{path} {text}; then ingest the folder of what it wrote")
    raise SourceError(f"can't ingest {path}; a source is {' or '.join(reader.FORM for reader in readers)}")


def _head(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _readers() -> list[_Reader]:
    modules = [importlib.import_module(f"{__name__}.{item.name}") for item in pkgutil.iter_modules(__path__)]
    return [cast("_Reader", module) for module in modules if hasattr(module, "accepts")]
