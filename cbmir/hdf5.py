"""HDF5 files from others, opened only if all their data are in the file itself.

HDF5 can point elsewhere: links to other files, vectors in other files (external storage, virtual data sets), parts of a
file by a driver, and filters that are loaded as programs. A file that does so is refused before anything of it is read.
So is one whose groups are nested so deep, or whose pieces are so large, that reading it would never end.
"""

import math
from pathlib import Path
from typing import Any

import h5py

from cbmir.errors import SourceError, one_line

_FILTERS = (
    *(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SZIP),
    *(h5py.h5z.FILTER_NBIT, h5py.h5z.FILTER_SCALEOFFSET, h5py.h5z.FILTER_LZF),
)
"""That HDF5 and h5py have within them; any other is a program that HDF5 looks for and loads."""
MAX_DEPTH = 64
"""Groups within each other; in the published layout they are the folders of a file path."""
MAX_PIECE = 1 << 28
"""Bytes of one value, and of one chunk, which is unpacked as a whole; our own chunks have 67 MB at most."""


def open_plain(path: Path) -> tuple[h5py.File, int]:
    """Open a file that refers to no other one.

    Returns:
        The file, and how many data sets it holds.

    Raises:
        SourceError: it is missing, no HDF5 or damaged; what it holds lies elsewhere, is nested deeper than `MAX_DEPTH`,
            or is stored in pieces of over `MAX_PIECE`.
    """
    try:
        file = h5py.File(path, "r", driver="sec2")  # named: else the environment or the file may choose another
    except OSError as error:
        raise SourceError(f"can't read {path} as HDF5: {one_line(error)}") from error
    try:
        return file, _checked(path, file)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        file.close()
        raise SourceError(f"{path} is a damaged HDF5 file: {one_line(error)}") from error
    except BaseException:
        file.close()
        raise


def _checked(path: Path, file: h5py.File) -> int:
    """The number of data sets; groups are entered one by one, for HDF5's own way takes a stack as deep as they are."""
    count = 0
    seen = {_address(file.id)}
    waiting = [(file.id, "", 1)]
    while waiting:
        group, above, depth = waiting.pop()
        links: list[tuple[bytes, int]] = []
        group.links.iterate(lambda name, info, links=links: links.append((name, info.type)), info=True)
        for name, kind in links:
            place = f"{above}{_text(name)}"
            if kind not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
                raise SourceError(f"{path} is refused: {place} is a link out of the file")
            if kind == h5py.h5l.TYPE_SOFT:  # leaves the file only through a link of another kind
                continue
            info = h5py.h5o.get_info(group, name)
            if info.type == h5py.h5o.TYPE_GROUP and (info.fileno, info.addr) not in seen:
                if depth >= MAX_DEPTH:
                    raise SourceError(f"{path} is refused: its groups are nested deeper than {MAX_DEPTH} levels")
                seen.add((info.fileno, info.addr))
                waiting.append((h5py.h5g.open(group, name), f"{place}/", depth + 1))
            elif info.type == h5py.h5o.TYPE_DATASET:
                count += 1
                if flaw := _flaw(h5py.h5d.open(group, name)):
                    raise SourceError(f"{path} is refused: {place} {flaw}")
    return count


def _address(group: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(group)
    return info.fileno, info.addr


def _flaw(dataset: Any) -> str | None:
    """What is wrong with how a data set is stored; None if its values are in the file and in pieces of usual size."""
    how = dataset.get_create_plist()
    piece = dataset.get_type().get_size()
    if how.get_layout() == h5py.h5d.CHUNKED:
        piece *= math.prod(how.get_chunk())
    if piece > MAX_PIECE:
        return f"is stored in pieces of {piece:,} bytes, {MAX_PIECE:,} at most"
    if how.get_external_count():
        return "keeps its values in another file"
    if how.get_layout() == h5py.h5d.VIRTUAL:
        return "is a virtual data set, made of parts of other files"
    filters = [how.get_filter(number)[0] for number in range(how.get_nfilters())]
    plugged = [str(code) for code in filters if code not in _FILTERS]
    if plugged:
        return f"is packed with filter {', '.join(plugged)}, a plug-in; pack it with gzip or lzf, or not at all"
    return None


def _text(name: bytes) -> str:
    return " ".join(name.decode("utf-8", "backslashreplace").split())[:200]
