"""``DIR/<collection>/files.json``: by which the engine's files are known again, from an index to the next write.

The engine opens a collection without a word where a file is damaged in many places. Nothing of the files changes while
a collection is only read, so a checksum of each finds every such damage. The first write removes the list.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cbmir.wholefile import atomic_write

NAME = "files.json"
CHEAP_BYTES = 2_000_000_000
"""Of all files, up to which they are read without being asked for: some seconds."""

_BLOCK = 1 << 16
_EMPTY = bytes(_BLOCK)


def write_seals(folder: Path) -> None:
    """List the files of a closed collection, with size and checksum; the write-ahead log is none of them.

    Raises:
        OSError: a file can't be read, or the list not be written.
    """
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, _digest(path)] for path in _files(folder)}
    atomic_write(folder / NAME, json.dumps({"format": 1, "files": files}, indent=0) + "\n")


def remove_seals(folder: Path) -> None:
    """Forget the list, because the files are going to change."""
    (folder / NAME).unlink(missing_ok=True)


def damages(folder: Path, *, full: bool) -> list[str]:
    """Files of a collection that aren't as they were when it was indexed; nothing where there is no list.

    Args:
        folder: Of the collection; nobody writes to it meanwhile.
        full: Read all files, also where they are more than `CHEAP_BYTES`; else only their sizes are compared then.
    """
    try:
        sealed = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        seals = {str(name): (int(size), str(digest)) for name, (size, digest) in sealed.items()}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{NAME} is damaged: {error!r}"]
    read = full or sum(size for size, _ in seals.values()) <= CHEAP_BYTES
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    found = [f"{name} wasn't there" for name in sorted(there.keys() - seals.keys())]
    for name, (size, digest) in seals.items():
        try:
            if name not in there:
                found.append(f"{name} is missing")
            elif there[name].stat().st_size != size:
                found.append(f"{name} has {there[name].stat().st_size:,} bytes, not {size:,}")
            elif read and _digest(there[name]) != digest:
                found.append(f"{name} holds something else")
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
    return found


def sentence(flaws: Sequence[str], name: str) -> str:
    """What `damages` has found of a collection, with the remedy."""
    more = f", and {len(flaws) - 1:,} more" if len(flaws) > 1 else ""
    remedy = f"restore a backup, or cbmir collections salvage {name} NEW"
    return f"its files aren't as they were when it was indexed: {flaws[0]}{more}; {remedy}"


def _files(folder: Path) -> Iterator[Path]:
    shard = folder / "shard"
    for path in sorted(shard.rglob("*")):
        if path.is_file() and path.relative_to(shard).parts[0] != "wal":
            yield path


def _digest(path: Path) -> str:
    """Of the blocks that hold something, each after its place: most of a small collection's files is empty."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if block != _EMPTY:
                digest.update(f"{file.tell()}:".encode())
                digest.update(block)
    return digest.hexdigest()
