"""HDF5 files from others, opened only if all their data are in the file itself.

HDF5 can point elsewhere: links to other files, vectors in other files (external storage, virtual data sets), parts of a
file by a driver, and filters that are loaded as programs. A file that does so is refused before anything of it is read.
"""

from pathlib import Path
from typing import Any

import h5py

from cbmir.errors import SourceError

_FILTERS = (
    *(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SZIP),
    *(h5py.h5z.FILTER_NBIT, h5py.h5z.FILTER_SCALEOFFSET, h5py.h5z.FILTER_LZF),
)
"""That HDF5 and h5py have within them; any other is a program that HDF5 looks for and loads."""


def open_plain(path: Path) -> tuple[h5py.File, int]:
    """Open a file that refers to no other one.

    Returns:
        The file, and how many data sets it holds.

    Raises:
        SourceError: it is missing, no HDF5, damaged, or what it holds lies elsewhere.
    """
    try:
        file = h5py.File(path, "r", driver="sec2")  # named: else the environment or the file may choose another
    except OSError as error:
        raise SourceError(f"can't read {path} as HDF5: {' '.join(str(error).split())}") from error
    try:
        return file, _checked(path, file)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        file.close()
        raise SourceError(f"{path} is a damaged HDF5 file: {' '.join(str(error).split())}") from error
    except BaseException:
        file.close()
        raise


def _checked(path: Path, file: h5py.File) -> int:
    count = 0

    def leads_out(name: bytes, info: Any) -> str | None:
        kept = info.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return None if kept else f"{_text(name)} is a link out of the file"

    def lies_elsewhere(name: bytes, info: Any) -> str | None:
        nonlocal count
        if info.type != h5py.h5o.TYPE_DATASET:
            return None
        count += 1
        flaw = _flaw(h5py.h5d.open(file.id, name).get_create_plist())
        return flaw and f"{_text(name)} {flaw}"

    # links before objects: a soft link can leave the file only through one of another kind
    flaw = file.id.links.visit(leads_out, info=True) or h5py.h5o.visit(file.id, lies_elsewhere, info=True)
    if flaw:
        raise SourceError(f"{path} is refused: {flaw}")
    return count


def _flaw(how: Any) -> str | None:
    """What is wrong with how a data set is stored; None if its values are in the file."""
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
