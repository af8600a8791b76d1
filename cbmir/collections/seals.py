"""By which files are known again: size and SHA-256."""

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cbmir.errors import SourceError

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Seal:
    """By which a file is known again.

    Attributes:
        sha256: Hexadecimal.
        bytes: Its size.
    """

    sha256: str
    bytes: int


def seals_in(data: Mapping[str, Any]) -> dict[str, Seal]:
    """The seals in a manifest, by the names of the files beside it.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it holds something else, or a name that leads elsewhere.
    """
    for name in data:
        if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
            raise ValueError(f"{name!r} is no file name")
    return {name: Seal(str(seal["sha256"]), int(seal["bytes"])) for name, seal in data.items()}


def seal_of(path: Path) -> Seal:
    """The checksum and size of a file.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    size = path.stat().st_size
    bar = tqdm(total=size, desc=f"checksum of {path.name}", unit="B", unit_scale=True, leave=False, disable=None)
    with bar, path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return Seal(digest.hexdigest(), size)


def broken(folder: Path, seals: Mapping[str, Seal]) -> list[str]:
    """What is wrong with the files of a folder, a line a file; nothing where all are as they were sealed."""
    found = (_flaw(folder / name, seal) for name, seal in seals.items())
    return [flaw for flaw in found if flaw]


def verify(folder: Path, seals: Mapping[str, Seal]) -> None:
    """Compare the files of a folder with their seals.

    Raises:
        SourceError: one is missing or isn't as it was.
    """
    for flaw in broken(folder, seals):
        raise SourceError(flaw)


def _flaw(path: Path, seal: Seal) -> str | None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is no plain file: a link may lead out of the folder"
        size = status.st_size
        found = seal_of(path) if size == seal.bytes else None
    except OSError as error:
        return f"can't read {path}: {error.strerror}"
    if found is None:
        return f"{path} isn't as it was written: it has {size:,} bytes, not {seal.bytes:,}"
    if found != seal:
        return f"{path} isn't as it was written: its SHA-256 is {found.sha256}, not {seal.sha256}"
    return None
