"""Backup of a collection in a directory: its closed folder as one tar.gz file."""

import tarfile
from pathlib import Path

from cbmir.collections.backup.manifest import Manifest, now
from cbmir.collections.seals import seal_of
from cbmir.errors import SourceError
from cbmir.store.edge import ENGINE, EdgeCollection, EdgeStore

TAR = "collection.tar.gz"
_LOCK = "lock"


def pack(collection: EdgeCollection, folder: Path) -> Manifest:
    """Write an open collection to ``collection.tar.gz``, closed and held against others meanwhile.

    It is packed because of the holes: the engine makes files of 32 MiB for a handful of images.

    Raises:
        OSError: the file can't be written.
        StoreError: the engine refused.
    """
    points = collection.info().points
    partial = folder / f"{TAR}.partial"
    try:
        with collection.at_rest(), tarfile.open(partial, "w:gz", compresslevel=1) as tar:
            for path in sorted(collection.folder.rglob("*")):
                if path.is_file() and path != collection.folder / _LOCK:
                    tar.add(path, path.relative_to(collection.folder).as_posix())
        seal = seal_of(partial)
        partial.replace(folder / TAR)
    finally:
        partial.unlink(missing_ok=True)
    return Manifest("directory", ENGINE, collection.name, (), collection.card, points, {TAR: seal}, now())


def unpack(folder: Path, manifest: Manifest, store: EdgeStore, name: str) -> EdgeCollection:
    """Make a collection of a checked backup.

    Raises:
        SourceError: the tar file holds something else than plain files within the collection.
        CollectionError: the collection exists already, or another version of the engine wrote the backup.
    """

    def fill(made: Path) -> None:
        try:
            with tarfile.open(folder / TAR) as tar:
                tar.extractall(made, filter=_plain_files)  # noqa: S202  the filter lets plain files below it through only
        except tarfile.TarError as error:
            raise SourceError(f"{folder / TAR} can't be unpacked: {error}") from error

    if TAR not in manifest.files:
        raise SourceError(f"{folder} is damaged: its list of files doesn't tell of {TAR}")
    return store.adopt(name, fill)


def _plain_files(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    if not member.isfile():
        raise tarfile.SpecialFileError(member)
    return tarfile.data_filter(member, path)
