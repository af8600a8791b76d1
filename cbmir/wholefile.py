"""Files that are whole or not there, whenever the program is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file in one step: who reads it meanwhile, or after a crash, finds the old one or the new one.

    Several processes may write the same file; the last one wins.

    Args:
        path: In a folder that exists.
        content: Bytes, or a text that is written in UTF-8.

    Raises:
        OSError: it can't be written.
    """
    with _replacing(path, path.with_name(f".{path.name}.{os.getpid()}.part")) as part, part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside a file for new content, which takes the place of the file at the end; after an error it is gone.

    It is ``NAME.partial``, so that what a killed run has left there is replaced by the next one. For one writer.

    Raises:
        OSError: the file can't be replaced.
    """
    with _replacing(path, path.with_name(f"{path.name}.partial")) as partial:
        yield partial


@contextmanager
def _replacing(path: Path, partial: Path) -> Iterator[Path]:
    partial.unlink(missing_ok=True)  # it may be a link that came with the folder from elsewhere, which isn't followed
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
